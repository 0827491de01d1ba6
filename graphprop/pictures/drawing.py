"""Explanations as a figure: the picture, and beside it its maps, by class or by method.

Rows are pictures; beside each other stand the classes of one method, or several methods. Each map
has its scale below it, so that a part that is cut out says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from graphprop.pictures.explanation import Explanation, shortened
from graphprop.pictures.files import DPI
from graphprop.pictures.heatmap import enlargement, limit_of
from graphprop.pictures.sheet import GROUND, LABEL, Bar, Cell, Row, draw
from graphprop.pictures.style import Style, blended, enlarged, fitted

ACROSS = 6
"""Panels beside each other; more go below."""
FEW, MIDDLE = 3, 160
"""Up to so many panels, they are enlarged as a single one is; more, to so many pixels."""
SIGNS = "Relevance summed over channels: red positive, blue negative, white zero."
OTHER_COLORS = "Relevance summed over channels."
STEPS = 256
"""Colors of a scale."""


def figure_of(found: Sequence[Explanation], style: Style) -> Any:
    """Draw explanations as a figure of matplotlib: a row for each picture and class or picture."""
    methods = list(dict.fromkeys(one.method for one in found))
    pictures = [list(group) for _, group in groupby(found, key=lambda one: one.index)]
    several = len(methods) > 1
    ranks = len({one.rank for one in found}) if several else 1
    most = max(len(group) for group in pictures) // ranks + 1
    width = width_of_panels(found[0], min(most, ACROSS), style)
    labeled = len(pictures) > 1 or ranks > 1
    rows: list[Row] = []
    for group in pictures:
        for part in lines_of(group, several):
            first = not (rows and several)
            cells = [
                panel_of(one, style, width, head=head_of(one, several, first), several=several)
                for one in part
            ]
            label = label_of(part[0], len(pictures) > 1, several) if labeled else ""
            beside = input_of(part[0], "input" if first else "", width)
            for start in range(0, len(cells), ACROSS - 1):
                rows.append(Row(label, [beside, *cells[start : start + ACROSS - 1]]))
                label, beside = "", Cell()  # what follows stands below the maps
    title, subtitle = titles_of(found, methods, len(pictures))
    return draw(
        rows,
        title,
        " ".join([SIGNS if style.cmap == "seismic" else OTHER_COLORS, *style.notes()]),
        subtitle=subtitle,
        cell=width / DPI,
        label=LABEL if labeled else 0.0,
    )


def lines_of(group: Sequence[Explanation], several: bool) -> list[list[Explanation]]:
    """The maps of a picture by line: of several methods a line for each class."""
    if not several:
        return [list(group)]
    ranks = sorted({one.rank for one in group})
    return [[one for one in group if one.rank == rank] for rank in ranks]


def width_of_panels(one: Explanation, beside: int, style: Style) -> int:
    """The width of each panel, in pixels."""
    if style.size is not None:
        return style.size
    factor = enlargement(one.shown.size)
    if beside > FEW:
        factor = max(1, -(-MIDDLE // max(one.shown.size)))
    return one.shown.width * factor


def head_of(one: Explanation, several: bool, first: bool) -> str:
    """What stands above a map: its method, or its class."""
    if several:
        return one.method if first else ""
    return one.question


def label_of(one: Explanation, named: bool, several: bool) -> str:
    """What stands beside a row."""
    lines = [one.name] if named else []
    return "\n".join([*lines, one.question, one.score] if several else lines)


def titles_of(
    found: Sequence[Explanation], methods: Sequence[str], pictures: int
) -> tuple[str, str]:
    """What stands above everything: of one picture its name, and by what it is explained."""
    one = found[0]
    model = shortened(one.model, 60)
    if len(methods) == 1:
        by = f"{methods[0]} of {model}" if model else methods[0]
        return (one.name, by) if pictures == 1 else (by, f"{pictures} pictures")
    by = f"{len(methods)} methods" + (f", {model}" if model else "")
    if pictures > 1:
        return by, f"{pictures} pictures"
    alike = len({(other.target, other.versus) for other in found}) == 1
    return one.name, f"{one.question} ({one.score}): {by}" if alike else by


def input_of(one: Explanation, head: str, width: int) -> Cell:
    """The picture."""
    colors = np.asarray(one.shown.convert("RGB"))
    return Cell(fitted(colors, width), head, "central slice" if one.relevance.ndim == 4 else "")


def panel_of(one: Explanation, style: Style, width: int, *, head: str, several: bool) -> Cell:
    """A map, over its scale; what makes it blank is said in it."""
    values = one.map
    size = (one.shown.height, one.shown.width)
    caption = [] if several else [one.score]
    if values.shape != size:
        caption.append(f"a map of {values.shape[0]} \u00d7 {values.shape[1]}, enlarged")
    bad = int((~np.isfinite(one.relevance)).sum())
    note = ""
    if bad or not np.isfinite(limit_of(values)):
        note = f"{bad or 'sums'} of {one.relevance.size} entries NaN or infinite"
    elif not values.any():
        note = "zero everywhere"
    if note:
        ground = np.full((*size, 3), int(GROUND[1:3], 16), dtype=np.uint8)
        return Cell(ground, head, "\n".join(caption), note)
    prepared = style.prepared(values, size[1])
    scale = style.scale(prepared, one.limit)
    colors = scale.colors(enlarged(prepared, size))
    if style.overlay:
        colors = blended(one.shown, colors, style.alpha)
    bar = Bar(scale.colors(np.linspace(scale.low, scale.high, STEPS)), scale.labels)
    return Cell(fitted(colors, width), head, "\n".join(caption), bar=bar)


def raw_of(one: Explanation, style: Style) -> Any:
    """The map alone, ``[H, W, 3]``: a pixel an entry."""
    prepared = style.prepared(one.map, one.shown.width)
    return style.scale(prepared, one.limit).colors(prepared)


def set_limits(found: Sequence[Explanation], style: Style) -> None:
    """Give each map the limit of its scale."""
    for one in found:
        finite = bool(np.isfinite(one.relevance).all())
        prepared = style.prepared(one.map, one.shown.width) if finite else one.map
        one.limit = style.limit(prepared)
    if style.shared_scale:
        drawable = [one for one in found if np.isfinite(one.limit) and one.limit > 0]
        largest = max((one.limit for one in drawable), default=0.0)
        for one in drawable:
            one.limit = largest
