"""The tables of an evaluation in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from graphprop.errors import InputError
from graphprop.evaluation.results import Evaluation
from graphprop.evaluation.saved import read_evaluation
from graphprop.reporting.charts import curves_chart
from graphprop.reporting.contents import number

FILE = "evaluation.json"


@dataclass(frozen=True)
class Cell:
    """The mean of an explainer by a metric, with its interval."""

    mean: float
    low: float
    high: float
    cases: int
    best: bool


@dataclass(frozen=True)
class Table:
    """An evaluation as it is shown.

    Attributes
    ----------
    name
        The folder's.
    metrics
        Each with whether more is better.
    rows
        Explainer -> a cell for each metric, None where it has no value.
    skipped
        What has no value, and why.
    charts
        Curves, by metric.
    """

    name: str
    metrics: dict[str, bool]
    rows: dict[str, list[Cell | None]]
    skipped: Sequence[Mapping[str, Any]]
    charts: list[tuple[str, Markup]]


def is_evaluation(path: Path) -> bool:
    """Whether a path is a folder that ``graphprop evaluate -o`` wrote."""
    return (path / FILE).is_file() and not (path / "manifest.json").exists()


def table_of(folder: Path, salt: str) -> Table:
    """Read an evaluation.

    Raises
    ------
    InputError
        If it can't be read, or holds something else.
    """
    found, _ = read_evaluation(folder)
    try:
        return shown(folder, found, salt)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{folder / FILE} can't be read as graphprop writes it: {error!r}"
        ) from error


def shown(folder: Path, found: Evaluation, salt: str) -> Table:
    """An evaluation as it is shown."""
    metrics = {str(row["metric"]): bool(row["higher_is_better"]) for row in found.rows}
    rows: dict[str, list[Cell | None]] = {str(name): [] for name in found.explainers}
    cells = {}
    for row in found.rows:
        mean, low, high = (number(row[key]) for key in ("mean", "low", "high"))
        if mean is None or low is None or high is None:
            continue
        best = row["explainer"] in found.best(row["metric"])
        cells[row["explainer"], row["metric"]] = Cell(mean, low, high, int(row["n"]), best)
    for name, line in rows.items():
        line += [cells.get((name, metric)) for metric in metrics]
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for (explainer, metric), (x, y) in found.curves.items():
        line_x, line_y = ([float(value) for value in values] for values in (x, y))
        if len(line_x) != len(line_y):
            raise ValueError(f"the curve of {explainer} has {len(line_x)} places")
        curves.setdefault(str(metric), {})[str(explainer)] = line_x, line_y
    skipped = [
        {key: one[key] for key in ("explainer", "metric", "n", "reason")} for one in found.skipped
    ]
    charts = [
        (metric, curves_chart(lines, metric, f"{salt}-{place}", list(rows)))
        for place, (metric, lines) in enumerate(curves.items())
    ]
    return Table(folder.resolve().name, metrics, rows, skipped, charts)
