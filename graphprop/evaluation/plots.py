"""Plots of an evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from graphprop.evaluation.occlusion import Occlusion
from graphprop.evaluation.results import Evaluation

BINS = 100
"""Bins of object sizes from 0 to the picture, as in Kohlbrenner et al. 2020."""
DPI = 120
COLUMNS = 4
AXES = {
    "lerf": ("share of pixels removed", "accuracy"),
    "morf": ("share of pixels removed", "accuracy"),
    "deletion": ("share of pixels removed", "score"),
    "randomisation": ("layers without their weights", "similarity"),
    "remove_positive": ("share of pixels removed", "accuracy"),
    "remove_negative": ("share of pixels removed", "accuracy"),
    "insertion": ("share of pixels inserted", "score"),
    "morf_insertion": ("share of pixels inserted", "score"),
    "aopc": ("share of patches removed", "score"),
}
WIDTH = 1.96
"""Standard errors from the mean to the ends of a normal distribution's 95 % interval."""
STYLES = ("-", "--", ":", "-.")
REMOVED = ("share of pixels removed", "value")


def write_plots(found: Evaluation, folder: Path, occluded: Occlusion | None = None) -> list[Path]:
    """Write all plots that the results allow; returns the files.

    ``metrics.png``: means with intervals; ``curve-METRIC.png``: the curves of the metrics that have
    one; ``mu-by-size.png``: inside-total relevance over the size of objects; ``occlusion.png``.
    """
    figures = {"metrics": metrics_figure(found)} if found.rows else {}
    for metric in dict.fromkeys(metric for _, metric in found.curves):
        name = re.sub(r"[^A-Za-z0-9_.=-]+", "_", metric).strip("_")
        figures[f"curve-{name}"] = curve_figure(found, metric)
    if "mu" in found.metrics:
        figures["mu-by-size"] = size_figure(found)
    if occluded is not None:
        figures["occlusion"] = occlusion_figure(occluded)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI, metadata={"Software": "graphprop"})
        written.append(path)
    return written


def figure_of(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure with axes ``[rows, columns]``; no window is opened."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def metrics_figure(found: Evaluation) -> Any:
    """Means with intervals, a panel for each metric."""
    names, metrics = found.explainers, found.metrics
    columns = min(COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = figure_of(rows, columns, (3.6, 0.9 + 0.24 * len(names)))
    for place, metric in zip(axes.flat, metrics, strict=False):
        own = [row for row in found.rows if row["metric"] == metric]
        heights = [len(names) - 1 - names.index(row["explainer"]) for row in own]
        means = np.array([row["mean"] for row in own])
        # a percentile interval need not hold the mean where the cases are few
        below = np.maximum(means - [row["low"] for row in own], 0)
        above = np.maximum([row["high"] for row in own] - means, 0)
        place.errorbar(means, heights, xerr=[below, above], fmt="o", capsize=2, markersize=4)
        place.set_yticks(range(len(names)), reversed(names), fontsize=7)
        place.tick_params(axis="x", labelsize=7)
        better = "higher" if own[0]["higher_is_better"] else "lower"
        place.set_title(f"{metric} ({better} is better)", fontsize=8)
        place.grid(axis="x", alpha=0.3)
    for place in list(axes.flat)[len(metrics) :]:
        place.set_axis_off()
    return figure


def curve_figure(found: Evaluation, metric: str) -> Any:
    """The mean curves of a metric."""
    figure, axes = figure_of(1, 1, (6, 4))
    draw_curves(axes[0, 0], found, metric)
    axes[0, 0].legend(fontsize=7)
    return figure


def draw_curves(place: Any, found: Evaluation, metric: str) -> None:
    """Draw the mean curves of a metric, each in a band: its 95 % interval over the cases."""
    across, up = axes_of(metric)
    for (explainer, name), (x, y) in found.curves.items():
        if name != metric:
            continue
        style = style_of(found.explainers.index(explainer))
        place.plot(x, y, label=explainer, marker="." if len(x) < 30 else None, **style)
        error = WIDTH * np.array(found.errors.get((explainer, name)) or [0.0] * len(y))
        if error.any():
            low, high = np.array(y) - error, np.array(y) + error
            if up != "logit" and min(y) >= 0 and max(y) <= 1:  # no share of pictures is larger
                low, high = low.clip(0, 1), high.clip(0, 1)
            place.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    place.set(xlabel=across, ylabel=up, title=metric)
    place.grid(alpha=0.3)


def axes_of(metric: str) -> tuple[str, str]:
    """What stands at the axes of a metric's curve: its parameters may name another value."""
    across, up = AXES.get(metric.partition("(")[0], REMOVED)
    given = re.search(r"\bvalue=(\w+)", metric)
    return across, given.group(1) if given else up


def style_of(index: int) -> dict[str, Any]:
    """Color and dashes of a line; ten colors are told apart, and come again in dashes."""
    return {"color": f"C{index % 10}", "linestyle": STYLES[index // 10 % len(STYLES)]}


def binned(
    pairs: list[tuple[float, float]],
) -> tuple[list[float], list[float], list[float]]:
    """Means of values over bins of the first number, which lies in [0, 1]; empty bins are left out.

    Returns the centers of the bins, and the means and standard deviations in them.
    """
    numbers = np.array([min(int(size * BINS), BINS - 1) for size, _ in pairs])
    values = np.array([value for _, value in pairs])
    present = np.unique(numbers)
    within = [values[numbers == number] for number in present]
    return (
        [float(number + 0.5) / BINS for number in present],
        [float(one.mean()) for one in within],
        [float(one.std()) for one in within],
    )


def size_figure(found: Evaluation) -> Any:
    """Mu over the size of the object, in bins; the diagonal is what chance gives."""
    figure, axes = figure_of(1, 1, (6, 4))
    draw_sizes(axes[0, 0], found)
    axes[0, 0].legend(fontsize=7)
    return figure


def draw_sizes(place: Any, found: Evaluation) -> None:
    """Draw mu over the size of the object."""
    place.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle=":", label="chance")
    for index, explainer in enumerate(found.explainers):
        values = found.values.get((explainer, "mu"))
        if values is None:
            continue
        sizes = [found.facts[case].fraction or 0.0 for case in values.cases]
        pairs = list(zip(sizes, values.numbers, strict=True))
        x, y, _ = binned(pairs)
        place.plot(x, y, marker=".", linewidth=1, label=explainer, **style_of(index))
    place.set(xlabel="share of the picture that the object covers", ylabel="mu")
    place.grid(alpha=0.3)


def occlusion_figure(occluded: Occlusion) -> Any:
    """How far the logit falls without object and context, over the size of the object."""
    figure, axes = figure_of(1, 1, (6, 4))
    draw_occlusion(axes[0, 0], occluded)
    return figure


def draw_occlusion(place: Any, occluded: Occlusion) -> None:
    """Draw the fall of the logit over the size of the object: means, in a band of a deviation."""
    for index, part in enumerate(("object", "context")):
        pairs = [(case["fraction"], case[part]) for case in occluded.cases]
        x, y, deviation = binned(pairs)
        low, high = np.array(y) - deviation, np.array(y) + deviation
        place.fill_between(x, low, high, color=f"C{index}", alpha=0.15, linewidth=0)
        place.plot(x, y, marker=".", linewidth=1, label=f"{part} hidden", color=f"C{index}")
    place.set(xlabel="share of the picture that the object covers", ylabel="fall of the logit")
    place.grid(alpha=0.3)
    place.legend(fontsize=7)
