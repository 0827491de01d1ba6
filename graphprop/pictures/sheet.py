"""Sheets of pictures: rows of cells, each a picture or a map with text around it.

Everything is placed in inches, and text is measured and wrapped before a size is chosen, so that
nothing overlaps however long a name is. The colors of maps are those of `graphprop explain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.errors import InputError
from graphprop.pictures.files import DPI
from graphprop.pictures.heatmap import limit_of, seismic
from graphprop.pictures.lettering import height_of, width_of, wrapped

CELL = 1.45
"""The width of a cell, in inches; at the resolution of `files.DPI` the 224 pixels of a usual input
are drawn nearly one to one."""
LABEL = 1.25
"""The width of what stands beside a row, in inches."""
TALLEST = 3.0
"""How many times higher than a cell is wide its picture gets; taller ones are narrower."""
GAP, MARGIN, BAR = 0.08, 0.12, 0.06
NARROWEST = 2.0
"""The width of a page, in inches: less would break every title."""
TITLE, HEAD, SMALL = 10.0, 8.0, 7.0
"""Sizes of letters, in points."""
CELLS = 400
"""The most cells of a sheet: what is larger can't be looked at, and takes gigabytes to draw."""
INK, FRAME, GROUND, OUTLINE = "#282828", "#969696", "#dcdcdc", "#30d030"
"""Colors of letters, of frames, of what can't be drawn, and around objects: none is a map's."""

Colors = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """The scale of a map: colors from its beginning to its end, and what stands below them."""

    colors: Colors
    labels: tuple[str, str, str]


@dataclass(frozen=True)
class Cell:
    """A picture with text around it; without a picture, text alone.

    Attributes
    ----------
    picture
        ``[H, W, 3]``.
    head, caption
        What stands above and below.
    note
        What stands in the middle.
    outline
        ``[H, W]``: drawn around, over the picture.
    bar
        The scale, drawn between the picture and the caption.
    """

    picture: Colors | None = None
    head: str = ""
    caption: str = ""
    note: str = ""
    outline: Bools | None = field(default=None, repr=False)
    bar: Bar | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Row:
    """Cells beside each other, and what stands to the left of them."""

    label: str
    cells: Sequence[Cell]


def map_cell(values: Floats, head: str = "", caption: str = "", limit: float | None = None) -> Cell:
    """Draw a map ``[H, W]``; what makes it blank or flat is said in it.

    Parameters
    ----------
    values
        Relevance, summed over channels.
    head, caption
        The text around it; where the scale ends is added to the caption.
    limit
        Where the scale ends; by default at the map's own largest magnitude.
    """
    bad = int((~np.isfinite(values)).sum())
    if bad:
        ground = np.full((*values.shape, 3), int(GROUND[1:3], 16), dtype=np.uint8)
        return Cell(ground, head, caption, f"{bad} of {values.size} entries NaN or infinite")
    own = limit_of(values)
    limit = own if limit is None else limit
    note = ""
    if values.min() == values.max():
        note = "zero everywhere" if own == 0 else f"constant: {values.flat[0]:.3g} everywhere"
    colors = seismic(np.clip(values / limit, -1, 1) if limit > 0 else np.zeros(values.shape))
    ends = f"\u00b1{limit:.2g}" if limit > 0 else ""
    return Cell(colors, head, "\n".join(filter(None, (ends, caption))), note)


def draw(
    rows: Sequence[Row],
    title: str,
    footer: str = "",
    *,
    subtitle: str = "",
    cell: float = CELL,
    label: float = LABEL,
) -> Any:
    """Draw rows of cells as a figure of matplotlib.

    Parameters
    ----------
    rows
        From the top; their cells begin at the left.
    title, subtitle, footer
        Above and below everything.
    cell, label
        The width of a cell, and of what stands beside a row, in inches.

    Raises
    ------
    InputError
        If there are too many cells.
    """
    from matplotlib.figure import Figure

    columns = max(len(row.cells) for row in rows)
    if len(rows) * columns > CELLS:
        raise InputError(
            f"the figure would have {len(rows)} rows of {columns} cells, and {CELLS} cells is the "
            "most: draw fewer pictures or methods at a time"
        )
    width = snapped(max(2 * MARGIN + label + columns * (cell + GAP), NARROWEST))
    titles = wrapped(title, width - 2 * MARGIN, TITLE)
    below = wrapped(subtitle, width - 2 * MARGIN, HEAD)
    feet = wrapped(footer, width - 2 * MARGIN, SMALL)
    laid = [Laid.of(row, cell, label) for row in rows]
    top = MARGIN + height_of(len(titles), TITLE)
    start = top + height_of(len(below), HEAD) + GAP
    height = snapped(
        start
        + MARGIN
        + sum(one.height for one in laid)
        + (GAP + height_of(len(feet), SMALL) if feet else 0)
    )
    page = Page(Figure(figsize=(width, height), dpi=DPI), width, height)
    page.write(titles, MARGIN, MARGIN, TITLE)
    page.write(below, MARGIN, top, HEAD)
    top = start
    for one in laid:
        one.draw(page, top)
        top += one.height
    page.write(feet, MARGIN, top + GAP, SMALL)
    return page.figure


@dataclass(frozen=True)
class Page:
    """A figure on which things are placed in inches, from its upper left corner."""

    figure: Any
    width: float
    height: float

    def write(
        self,
        lines: Sequence[str],
        left: float,
        top: float,
        size: float,
        align: str = "left",
        ground: str = "none",
    ) -> None:
        """Write lines of text; letters that stand for mathematics elsewhere are just letters."""
        for number, line in enumerate(lines):
            self.figure.text(
                left / self.width,
                1 - (top + height_of(number, size)) / self.height,
                line,
                size=size,
                color=INK,
                ha=align,
                va="top",
                parse_math=False,
                # above the pictures, whose colors may be dark
                zorder=10,
                bbox={"facecolor": ground, "edgecolor": "none", "pad": 1.5},
            )

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes without ticks, in a thin frame; whole pixels, so that entries are alike."""
        left, top, width, height = (snapped(length) for length in (left, top, width, height))
        bottom = self.height - top - height
        place = self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )
        place.set_xticks([])
        place.set_yticks([])
        for side in place.spines.values():
            side.set(color=FRAME, linewidth=0.6)
        return place

    def bar(self, bar: Bar, left: float, top: float, width: float) -> None:
        """A scale; where it is too narrow for three numbers, its middle has none, or one stands."""
        place = self.axes(left, top, width, BAR)
        place.imshow(bar.colors[None], aspect="auto", interpolation="nearest")
        low, middle, high = bar.labels
        below = top + BAR + 0.02
        first, second, third = (width_of(text, SMALL) for text in bar.labels)
        if first + third + GAP > width:
            ends = f"\u00b1{high.removeprefix('+')}" if low[1:] == high[1:] else f"to {high}"
            self.write([ends], left, below, SMALL)
            return
        if first + second + third + 2 * GAP <= width:
            self.write([middle], left + width / 2, below, SMALL, "center")
        self.write([low], left, below, SMALL)
        self.write([high], left + width, below, SMALL, "right")


@dataclass(frozen=True)
class Laid:
    """A row with its text wrapped, so that its height is known."""

    row: Row
    cell: float
    beside: float
    label: list[str]
    heads: list[list[str]]
    captions: list[list[str]]
    body: float

    @classmethod
    def of(cls, row: Row, cell: float, beside: float) -> Laid:
        """Wrap the texts of a row; all its pictures are as high as the highest."""
        ratios = [
            c.picture.shape[0] / c.picture.shape[1] for c in row.cells if c.picture is not None
        ]
        # what stands beside a row ends before its pictures begin
        width = beside - GAP
        label = [line for part in row.label.split("\n") for line in wrapped(part, width, HEAD)]
        return cls(
            row,
            cell,
            beside,
            label if beside else [],
            [wrapped(one.head, cell, HEAD) for one in row.cells],
            [wrapped(one.caption, cell, SMALL) for one in row.cells],
            max(cell * min(max(ratios, default=1.0), TALLEST), height_of(len(label), HEAD)),
        )

    @property
    def bars(self) -> float:
        """The height of the scales, with what stands below them."""
        has = any(cell.bar is not None for cell in self.row.cells)
        return 0.6 * GAP + BAR + height_of(1, SMALL) if has else 0.0

    @property
    def head(self) -> float:
        """The height of the heads."""
        return height_of(max(map(len, self.heads), default=0), HEAD)

    @property
    def height(self) -> float:
        """The height of everything, and of the space below."""
        captions = max(map(len, self.captions), default=0)
        return self.head + self.body + self.bars + height_of(captions, SMALL) + 1.5 * GAP

    def draw(self, page: Page, top: float) -> None:
        """Draw the row."""
        middle = top + self.head
        page.write(self.label, MARGIN, middle, HEAD)
        for number, (cell, head, caption) in enumerate(
            zip(self.row.cells, self.heads, self.captions, strict=True)
        ):
            left = MARGIN + self.beside + number * (self.cell + GAP)
            # short heads stand just above their picture
            page.write(head, left, middle - height_of(len(head), HEAD), HEAD)
            high = wide = self.cell
            if cell.picture is not None:
                ratio = cell.picture.shape[0] / cell.picture.shape[1]
                high = self.cell * min(ratio, TALLEST)
                wide = high / ratio
                show(page.axes(left, middle, wide, high), cell)
            if cell.bar is not None:
                page.bar(cell.bar, left, middle + high + 0.6 * GAP, wide)
            page.write(caption, left, middle + high + self.bars + 0.04, SMALL)
            note = wrapped(cell.note, self.cell - 2 * GAP, SMALL)
            start = middle + (high - height_of(len(note), SMALL)) / 2
            page.write(note, left + self.cell / 2, start, SMALL, "center", "white")


def snapped(length: float) -> float:
    """A length as a whole number of pixels."""
    return round(length * DPI) / DPI


def show(place: Any, cell: Cell) -> None:
    """Draw the picture of a cell, an entry a square, and the outline of its object."""
    place.imshow(cell.picture, aspect="auto", interpolation="nearest")
    if cell.outline is not None and cell.outline.any() and not cell.outline.all():
        # a frame of nothing, so that an object at the edge has a line there, too
        padded = np.pad(cell.outline, 1).astype(float)
        height, width = padded.shape
        axes = np.arange(width) - 1.0, np.arange(height) - 1.0
        place.contour(*axes, padded, levels=[0.5], colors=[OUTLINE], linewidths=0.8)
        place.set(xlim=(-0.5, width - 2.5), ylim=(height - 2.5, -0.5))
