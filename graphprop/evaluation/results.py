"""What an evaluation found: rows with intervals, values by case, curves, what has no value."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.evaluation.registry import Metric

VERSION = 1
"""The version of the JSON: raised when a field changes its meaning or goes."""
RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval then vary by about a fiftieth of its length."""
BLOCK = 2**22
"""Entries drawn at a time, so that memory stays bounded however many cases there are."""


def bootstrap(
    values: Sequence[float],
    seed: int,
    pictures: Sequence[str] | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean, over resamples of the pictures.

    Parameters
    ----------
    values
        One number a case.
    seed
        Of the resamples. As many pictures are resampled in the same way, whatever their values are,
        so that rows over the same pictures are compared on the same resamples.
    pictures
        What the picture of each case is called. The cases of one picture are drawn together: they
        are no independent samples. Cases without a name are pictures of their own, as all are by
        default.
    level
        The probability that the interval holds.

    Returns
    -------
    tuple
        The lower and the upper end. Of a single picture both are the mean.
    """
    names = [name or index for index, name in enumerate(pictures or [""] * len(values))]
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    groups = np.array([number[name] for name in names])
    sums = np.bincount(groups, np.asarray(values, dtype=np.float64))
    counts = np.bincount(groups)
    random = np.random.default_rng([seed, len(counts)])
    means: list[NDArray[np.float64]] = []
    rows = max(1, min(RESAMPLES, BLOCK // len(counts)))
    for start in range(0, RESAMPLES, rows):
        chosen = random.integers(0, len(counts), (min(rows, RESAMPLES - start), len(counts)))
        means.append(sums[chosen].sum(1) / counts[chosen].sum(1))
    outside = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(means), [outside, 100 - outside])
    return float(low), float(high)


@dataclass
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    rows
        ``explainer, metric, mean, low, high, n, higher_is_better`` of each pair that has a value,
        in the order of the explainers.
    cases
        ``case, name, target, fraction, explainer, metric, value`` of each value; ``fraction`` is
        the share of the picture that the object covers, None without a mask.
    skipped
        ``explainer, metric, n, reason`` of cases without a value.
    curves
        Explainer and metric to the mean curve ``(x, y)``, of metrics that record one.
    """

    rows: list[dict[str, Any]]
    cases: list[dict[str, Any]] = field(default_factory=list, repr=False)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = field(
        default_factory=dict, repr=False
    )

    @property
    def explainers(self) -> list[str]:
        """The explainers with a row, in order."""
        return list(dict.fromkeys(row["explainer"] for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """The metrics with a row, in order."""
        return list(dict.fromkeys(row["metric"] for row in self.rows))

    def row(self, explainer: str, metric: str) -> dict[str, Any]:
        """The row of a pair.

        Raises
        ------
        KeyError
            If there is none.
        """
        for row in self.rows:
            if (row["explainer"], row["metric"]) == (explainer, metric):
                return row
        raise KeyError(f"there is no row for {explainer!r} and {metric!r}")

    def best(self, metric: str) -> set[str]:
        """The explainers with the best mean, the baselines among them."""
        rows = [row for row in self.rows if row["metric"] == metric]
        if not rows:
            return set()
        means = [row["mean"] if row["higher_is_better"] else -row["mean"] for row in rows]
        largest = max(means)
        return {row["explainer"] for row, mean in zip(rows, means, strict=True) if mean == largest}

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {"version": VERSION, "rows": self.rows, "skipped": self.skipped}

    def as_csv(self) -> str:
        """The rows as CSV."""
        return csv_of(
            ("explainer", "metric", "mean", "low", "high", "n", "higher_is_better"), self.rows
        )

    def write(self, folder: Path) -> list[Path]:
        """Write ``evaluation.json``, ``evaluation.csv`` and ``cases.csv``; returns the files."""
        columns = ("case", "name", "target", "fraction", "explainer", "metric", "value")
        curves = [
            {"explainer": explainer, "metric": metric, "x": x, "y": y}
            for (explainer, metric), (x, y) in self.curves.items()
        ]
        contents = {
            "evaluation.json": json.dumps({**self.as_dict(), "curves": curves}, indent=2) + "\n",
            "evaluation.csv": self.as_csv(),
            "cases.csv": csv_of(columns, self.cases),
        }
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, text in contents.items():
            path = folder / name
            temporary = folder / f".{name}.writing"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
            written.append(path)
        return written


def csv_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@dataclass
class Tally:
    """The values of explainers by metric, as they come in.

    Attributes
    ----------
    metrics
        What is computed.
    values, pictures, reasons
        By explainer and metric: the values in the order of the cases; what their pictures are
        called; how many cases have none, by reason.
    sums
        By explainer and metric: the sum of the curves seen so far, and how many there were, by
        their x.
    """

    metrics: Sequence[Metric]
    cases: list[dict[str, Any]] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    pictures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    sums: dict[tuple[str, str], dict[tuple[float, ...], tuple[NDArray[np.float64], int]]] = field(
        default_factory=dict
    )

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the values of a case by one explainer: what is also written to a file."""
        explainer = record["explainer"]
        shared = {key: record[key] for key in ("case", "name", "target", "fraction")}
        for label, value in record["values"].items():
            self.values.setdefault((explainer, label), []).append(value)
            self.pictures.setdefault((explainer, label), []).append(record["name"])
            self.cases.append({**shared, "explainer": explainer, "metric": label, "value": value})
        for label, reason in record["reasons"].items():
            counts = self.reasons.setdefault((explainer, label), {})
            counts[reason] = counts.get(reason, 0) + 1
        for label, (x, y) in record["curves"].items():
            by_axis = self.sums.setdefault((explainer, label), {})
            before, count = by_axis.get(tuple(x), (np.zeros(len(x)), 0))
            by_axis[tuple(x)] = (before + np.asarray(y), count + 1)

    def result(self, explainers: Sequence[str], seed: int) -> Evaluation:
        """Means with intervals, in the order of the explainers and metrics."""
        rows, skipped, curves = [], [], {}
        for explainer in explainers:
            for metric in self.metrics:
                key = (explainer, metric.label)
                values = self.values.get(key, [])
                if values:
                    low, high = bootstrap(values, seed, self.pictures[key])
                    rows.append(
                        {
                            "explainer": explainer,
                            "metric": metric.label,
                            "mean": float(np.mean(values)),
                            "low": low,
                            "high": high,
                            "n": len(values),
                            "higher_is_better": metric.higher_is_better,
                        }
                    )
                for reason, count in self.reasons.get(key, {}).items():
                    skipped.append(
                        {
                            "explainer": explainer,
                            "metric": metric.label,
                            "n": count,
                            "reason": reason,
                        }
                    )
                by_axis = self.sums.get(key)
                if by_axis:  # pictures of several sizes have several axes: the most frequent one
                    axis, (total, count) = max(by_axis.items(), key=lambda item: item[1][1])
                    curves[key] = (list(axis), [float(v) for v in total / count])
        return Evaluation(rows, self.cases, skipped, curves)
