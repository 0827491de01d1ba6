"""Which method to use for what: ranks over metrics and networks, and the cost beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evidence import plan as plans
from evidence.plan import Plan
from evidence.results import Results, ranks
from graphprop.builtin import DEFAULT_METHOD

SHOWN = 8
"""Methods of a purpose that are shown; the default method is added where it isn't one of them."""


@dataclass(frozen=True)
class Purpose:
    """What a method is used for, and which metrics tell how well it does.

    Attributes
    ----------
    key, title, text
        What it is called, and what it means.
    metrics
        Ranks by these count alike.
    cost
        The most forward passes that an explanation may take, or None.
    """

    key: str
    title: str
    text: str
    metrics: tuple[str, ...]
    cost: float | None = None


LOCALIZE = ("pointing_game", "mu_w", "mean_average_precision", "rank_accuracy")
FAITHFUL = ("morf", "deletion", "insertion", "morf_insertion", "aopc", "occlusion_agreement")
CHEAP = 4.0

PURPOSES = (
    Purpose(
        "localize",
        "To localize: where is what the class was named for?",
        "Relevance lies on the object, at the resolution of the picture.",
        LOCALIZE,
    ),
    Purpose(
        "debug",
        "To debug: which pixels does the prediction depend on?",
        "Removing or inserting the most relevant pixels moves the prediction.",
        FAITHFUL,
    ),
    Purpose(
        "compare",
        "To compare classes: what spoke for this one and not for that one?",
        "Maps of two classes differ, and each lies on its own object among others.",
        ("class_sensitivity", "pointing_game(cases=difficult)"),
    ),
    Purpose(
        "ship",
        "To ship at the lowest cost",
        f"The same as for localizing and debugging, of methods that take at most {CHEAP:g} forward "
        "passes.",
        (*LOCALIZE, *FAITHFUL),
        CHEAP,
    ),
)


def costs(results: Results, networks: list[str]) -> dict[str, float]:
    """Forward passes of an explanation, the median over networks and seeds."""
    found: dict[str, list[float]] = {}
    for network in networks:
        for run in results.runs[network]:
            for name, cost in run["costs"].items():
                found.setdefault(name, []).append(cost)
    return {name: float(np.median(values)) for name, values in found.items()}


def recommendations(results: Results, plan: Plan) -> dict[str, Any]:
    """What ``graphprop methods --recommend`` prints, as JSON holds it."""
    networks = [n for n in plans.SHAPES if n in results.networks] or results.networks
    cost = costs(results, networks)
    found = {}
    for purpose in PURPOSES:
        metrics = [m for m in purpose.metrics if all(results.set_of(n, m) for n in networks)]
        by_metric = [ranks(results, networks, m, plan.methods) for m in metrics]
        names = [
            name
            for name in plan.methods
            if name in cost and all(name in ranked for ranked in by_metric)
        ]
        mean = {name: float(np.mean([ranked[name] for ranked in by_metric])) for name in names}
        ordered = sorted(names, key=lambda name: mean[name])
        allowed = [n for n in ordered if purpose.cost is None or cost[n] <= purpose.cost]
        shown = allowed[:SHOWN]
        if DEFAULT_METHOD in ordered and DEFAULT_METHOD not in shown:
            shown.append(DEFAULT_METHOD)
        found[purpose.key] = {
            "title": purpose.title,
            "metrics": metrics,
            "compared": len(allowed),
            "methods": [
                {
                    "method": name,
                    "place": allowed.index(name) + 1 if name in allowed else None,
                    "rank": round(mean[name], 3),
                    "cost": round(cost[name], 1),
                    "means": {m: mean_of(results, networks, name, m) for m in metrics},
                }
                for name in shown
            ],
        }
    seeds = sorted({run["seed"] for network in networks for run in results.runs[network]})
    return {"networks": networks, "seeds": seeds, "purposes": found}


def mean_of(results: Results, networks: list[str], name: str, metric: str) -> float:
    """The mean of a metric over networks."""
    means = [one.mean for n in networks if (one := results.mean(n, name, metric)) is not None]
    return float(f"{np.mean(means):.4g}")
