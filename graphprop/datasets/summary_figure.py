"""The drawing of a summary: a mean map for each class, and the distributions of two numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprop.artifact.atomic import replacing
from graphprop.errors import OutputError

if TYPE_CHECKING:
    from graphprop.datasets.summary import Summary

COLUMNS = 6
FORMATS = (".png", ".svg", ".pdf")
LONGEST_NAME = 24
"""Characters of a class's name above its map."""
BARS = 40


def draw(summary: Summary, file: Path) -> None:
    """Draw a summary.

    Raises
    ------
    OutputError
        If the file's name has no ending of a drawing.
    """
    if file.suffix.lower() not in FORMATS:
        raise OutputError(f"a drawing is a .png, .svg or .pdf, and {file} is none")
    from matplotlib.figure import Figure

    mapped = [one for one in summary.classes if one.mean_map is not None]
    lines = math.ceil(len(mapped) / COLUMNS)
    figure = Figure(figsize=(12, 2.4 * lines + 3.4), dpi=120, layout="constrained")
    heights = [2.4 * lines, 3.4] if lines else [3.4]
    *above, lower = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(
        f"{summary.method}: {summary.pictures} pictures, {summary.failed} failed", fontsize=11
    )
    for upper in above:
        axes = upper.subplots(lines, COLUMNS, squeeze=False)
        for place in axes.flat:
            place.set_axis_off()
        for place, one in zip(axes.flat, mapped, strict=False):
            mean = np.asarray(one.mean_map)
            limit = float(np.abs(mean).max()) or 1.0
            place.imshow(mean, cmap="seismic", vmin=-limit, vmax=limit)
            place.set_title(f"{label(one.target, one.name)}\n{one.pictures} maps", fontsize=8)
    left, right = lower.subplots(1, 2)
    histogram(left, summary.values["sums"], "sum of relevance")
    if "swallowed" in summary.values:
        histogram(
            right, summary.values["swallowed"], f"share of {summary.swallowed_is} that is swallowed"
        )
    else:
        right.set_axis_off()
    with replacing(file) as temporary:
        figure.savefig(temporary, metadata=undated(file))


def histogram(axes: Any, values: Any, title: str) -> None:
    """Draw a distribution, without the largest and smallest hundredth of it."""
    if not len(values):
        axes.set_axis_off()
        return
    low, high = np.quantile(values, [0.01, 0.99])
    axes.hist(values, bins=BARS, range=(low, high) if low < high else None, color="#4c72b0")
    axes.set_xlabel(title, fontsize=9)
    axes.set_ylabel("maps", fontsize=9)
    axes.tick_params(labelsize=8)


def label(target: int, name: str | None) -> str:
    """A class by its number and its name."""
    if name is None:
        return f"class {target}"
    text = "".join(c if c.isprintable() else " " for c in name).replace("$", r"\$")
    return f"{target}, {text if len(text) <= LONGEST_NAME else f'{text[: LONGEST_NAME - 3]}...'}"


def undated(file: Path) -> dict[str, None]:
    """What keeps the time out of a file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(file.suffix.lower(), {})
