"""Results of all networks and seeds: means with intervals, and differences case by case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from evidence.plan import SHAPES, base
from graphprop.evaluation import find_metric
from graphprop.evaluation.results import bootstrap

BOOTSTRAP_SEED = 0


class Interval(NamedTuple):
    """A mean with its 95 % interval, and the mean of each seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    n: int


class Column(NamedTuple):
    """The values of an explainer by a metric: one number a case, over all seeds."""

    values: np.ndarray
    pictures: list[str]
    seeds: np.ndarray


def interval_of(column: Column) -> Interval:
    """Mean and interval over pictures, of all seeds together."""
    low, high = bootstrap(column.values.tolist(), BOOTSTRAP_SEED, column.pictures)
    means = tuple(
        float(column.values[column.seeds == seed].mean()) for seed in np.unique(column.seeds)
    )
    return Interval(float(column.values.mean()), low, high, means, len(column.values))


@dataclass
class Results:
    """What was measured.

    Attributes
    ----------
    runs
        Network to the contents of its seeds.
    """

    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, content: dict[str, Any]) -> None:
        """Take the results of a network and seed; labels of metrics become those of tables."""
        for part in content["sets"].values():
            for by_metric in part["values"].values():
                for label in list(by_metric):
                    by_metric[base(label)] = by_metric.pop(label)
            for kind in ("curves", "errors"):
                by_text = part.get(kind, {})
                part[kind] = {}
                for key, value in by_text.items():
                    explainer, _, label = key.partition("|")
                    part[kind][explainer, base(label)] = value
        self.runs.setdefault(content["network"], []).append(content)

    @property
    def networks(self) -> list[str]:
        """The networks that were measured."""
        return list(self.runs)

    def set_of(self, network: str, metric: str) -> str | None:
        """Which set of pictures a metric was computed on."""
        for name in ("maps", "few"):
            by_metric = self.runs[network][0]["sets"][name]["values"]
            if any(metric in found for found in by_metric.values()):
                return name
        return None

    def explainers(self, network: str, which: str = "maps") -> list[str]:
        """The explainers of a set, in order."""
        names = (run["sets"][which]["values"] for run in self.runs[network])
        return list(dict.fromkeys(name for found in names for name in found))

    def column(
        self,
        network: str,
        explainer: str,
        metric: str,
        which: str | None = None,
        only: str = "",
    ) -> Column | None:
        """The values of an explainer by a metric; None where there are none.

        ``only`` is a split of the generated pictures; of other networks all cases are used.
        """
        if network not in SHAPES:
            only = ""
        which = which or self.set_of(network, metric)
        values, pictures, seeds = [], [], []
        for run in self.runs[network]:
            part = run["sets"].get(which)
            row = None if part is None else part["values"].get(explainer, {}).get(metric)
            if part is None or row is None:
                continue
            for number, fact in zip(row, part["facts"], strict=True):
                if number is not None and fact[0].startswith(only):
                    values.append(number)
                    pictures.append(f"{run['seed']}/{fact[0]}")
                    seeds.append(run["seed"])
        if not values:
            return None
        return Column(np.array(values), pictures, np.array(seeds))

    def mean(self, network: str, explainer: str, metric: str) -> Interval | None:
        """Mean and interval of an explainer by a metric."""
        column = self.column(network, explainer, metric)
        return None if column is None else interval_of(column)

    def difference(
        self,
        network: str,
        one: str,
        other: str,
        metric: str,
        which: str | None = None,
        only: str = "",
    ) -> Interval | None:
        """How much better the first of two explainers is, over the same cases.

        Positive where it is better, whichever way the metric points.
        """
        first, second = (self.column(network, n, metric, which, only) for n in (one, other))
        if first is None or second is None or first.pictures != second.pictures:
            return None
        sign = 1 if higher_is_better(metric) else -1
        return interval_of(first._replace(values=sign * (first.values - second.values)))

    def fractions(self, network: str, which: str) -> np.ndarray:
        """The share of the picture that each case's object covers."""
        facts = (fact for run in self.runs[network] for fact in run["sets"][which]["facts"])
        return np.array([fact[2] for fact in facts], dtype=float)

    def special(self, network: str, *keys: str) -> Column | None:
        """Numbers by case that no metric computes, such as ``signs`` and ``parts``."""
        values, pictures, seeds = [], [], []
        for run in self.runs[network]:
            found: Any = run
            for key in keys:
                found = found.get(key, {}) if isinstance(found, dict) else {}
            facts = run["sets"]["maps"]["facts"]
            for place, number in enumerate(found or []):
                values.append(number)
                name = facts[place][0] if len(found) == len(facts) else str(place)
                pictures.append(f"{run['seed']}/{name}")
                seeds.append(run["seed"])
        return Column(np.array(values), pictures, np.array(seeds)) if values else None


def higher_is_better(metric: str) -> bool:
    """Which way a metric points."""
    return find_metric(metric.partition("(")[0]).higher_is_better


def ranks(
    results: Results, networks: Iterable[str], metric: str, explainers: Iterable[str]
) -> dict[str, float]:
    """The mean rank of explainers by a metric over networks, 1 for the best."""
    found: dict[str, list[float]] = {}
    for network in networks:
        means = {}
        for name in explainers:
            row = results.mean(network, name, metric)
            if row is not None:
                means[name] = row.mean if higher_is_better(metric) else -row.mean
        for name, value in means.items():
            better = sum(other > value for other in means.values())
            same = sum(other == value for other in means.values())
            # as a share of the methods that are compared, so that networks count alike
            found.setdefault(name, []).append((better + (same - 1) / 2) / max(1, len(means) - 1))
    return {name: float(np.mean(values)) for name, values in found.items()}
