"""What an evaluation found: rows with intervals, values by case, curves, what has no value."""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphprop.evaluation.moments import Moments
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


Pair: TypeAlias = tuple[str, str]
"""An explainer and a metric."""


class Facts(NamedTuple):
    """What is known of a case: its picture, its class, the share that the object covers."""

    name: str
    target: int
    fraction: float | None


@dataclass
class Values:
    """The values of a metric by case, as numbers without objects: there can be millions."""

    cases: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))

    def add(self, case: int, number: float) -> None:
        """Append a value."""
        self.cases.append(case)
        self.numbers.append(number)


@dataclass
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    rows
        ``explainer, metric, mean, low, high, n, higher_is_better`` of each pair that has a value,
        in the order of the explainers.
    skipped
        ``explainer, metric, n, reason`` of cases without a value.
    curves
        Explainer and metric to the mean curve ``(x, y)``, of metrics that record one.
    errors
        To the standard error of each point of that, over the cases; 0 of a single case.
    values
        Explainer and metric to the values of all cases.
    facts
        The number of a case to what is known of it.
    """

    rows: list[dict[str, Any]]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[Pair, tuple[list[float], list[float]]] = field(default_factory=dict, repr=False)
    errors: dict[Pair, list[float]] = field(default_factory=dict, repr=False)
    values: dict[Pair, Values] = field(default_factory=dict, repr=False)
    facts: dict[int, Facts] = field(default_factory=dict, repr=False)

    @property
    def cases(self) -> Iterator[dict[str, Any]]:
        """``case, name, target, fraction, explainer, metric, value`` of each value.

        ``fraction`` is the share of the picture that the object covers, None without a mask.
        """
        for (explainer, metric), values in self.values.items():
            for case, value in zip(values.cases, values.numbers, strict=True):
                yield {
                    "case": case,
                    **self.facts[case]._asdict(),
                    "explainer": explainer,
                    "metric": metric,
                    "value": value,
                }

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
            {
                "explainer": explainer,
                "metric": metric,
                "x": x,
                "y": y,
                "error": self.errors.get((explainer, metric)),
            }
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


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
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
    values, facts
        As in `Evaluation`.
    reasons
        How many cases have no value, by reason.
    sums
        Mean and deviation of the curves seen so far, by their x.
    """

    metrics: Sequence[Metric]
    values: dict[Pair, Values] = field(default_factory=dict)
    facts: dict[int, Facts] = field(default_factory=dict)
    reasons: dict[Pair, dict[str, int]] = field(default_factory=dict)
    sums: dict[Pair, dict[tuple[float, ...], Moments]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the values of a case by one explainer: what is also written to a file."""
        explainer, case = record["explainer"], record["case"]
        self.facts[case] = Facts(record["name"], record["target"], record["fraction"])
        for label, value in record["values"].items():
            self.values.setdefault((explainer, label), Values()).add(case, value)
        for label, reason in record["reasons"].items():
            counts = self.reasons.setdefault((explainer, label), {})
            counts[reason] = counts.get(reason, 0) + 1
        for label, (x, y) in record["curves"].items():
            by_axis = self.sums.setdefault((explainer, label), {})
            by_axis.setdefault(tuple(x), Moments.of(len(x))).add(y)

    def result(self, explainers: Sequence[str], seed: int) -> Evaluation:
        """Means with intervals, in the order of the explainers and metrics."""
        found = Evaluation([], facts=self.facts)
        for explainer in explainers:
            for metric in self.metrics:
                key = (explainer, metric.label)
                if key in self.values:
                    found.values[key] = self.values[key]
                    found.rows.append(self.row(explainer, metric, seed))
                for reason, count in self.reasons.get(key, {}).items():
                    found.skipped.append(
                        {
                            "explainer": explainer,
                            "metric": metric.label,
                            "n": count,
                            "reason": reason,
                        }
                    )
                by_axis = self.sums.get(key)
                if by_axis:  # pictures of several sizes have several axes: the most frequent one
                    axis, moments = max(by_axis.items(), key=lambda item: item[1].count)
                    found.curves[key] = (list(axis), moments.mean.tolist())
                    found.errors[key] = moments.error.tolist()
        return found

    def row(self, explainer: str, metric: Metric, seed: int) -> dict[str, Any]:
        """The mean of a pair, with its interval."""
        values = self.values[explainer, metric.label]
        names = [self.facts[case].name for case in values.cases]
        low, high = bootstrap(values.numbers, seed, names)
        return {
            "explainer": explainer,
            "metric": metric.label,
            "mean": float(np.mean(values.numbers)),
            "low": low,
            "high": high,
            "n": len(values.numbers),
            "higher_is_better": metric.higher_is_better,
        }
