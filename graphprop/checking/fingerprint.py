"""A fingerprint of what an explainer computes: enough to notice later that it was altered.

Of each sample's logits and relevance the norm and the product with a fixed random vector are kept,
and of each layer's result and relevance that product, all in float64. They are rounded to a
thousandth of what float32 can tell apart, so that the same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphprop.artifact.schema import Json
from graphprop.checking.arbiter import CEILING, Truth
from graphprop.checking.probes import FLAT
from graphprop.checking.report import Comparison, known
from graphprop.checking.runner import SEED, measure
from graphprop.checking.stages import Stage

FINEST, COARSEST = 1e-10, 1e-4
"""Bounds of what numbers are rounded to, relative to their scale."""

PREPROCESSING = "the manifest's preprocessing is not that of the compile"

KINDS = ("relevance", "logits")


def grain(e32: float) -> float:
    """What numbers are rounded to, relative to their scale, where float32 is off by ``e32``."""
    return min(max(e32 * 1e-3, FINEST), COARSEST) if math.isfinite(e32) else COARSEST


def tolerance(name: str, e32: float) -> float:
    """How far float64 may be off from what was recorded: ten grains, and some for other CPUs.

    Where entries of a flat input are equal, rounding chooses among them in float64, too: if that
    shows in float32, nothing is known of float64 on another CPU.
    """
    if name.partition(" ")[0] in FLAT and not e32 <= CEILING:
        return math.inf
    return max(1e-8, 10 * grain(e32))


def rounded(value: float, scale: float, e32: float) -> float:
    """A number without the digits that are noise, ``scale`` being what it was summed up from."""
    size = scale * grain(e32)
    if not 0 < size < math.inf:
        return value + 0.0
    return round(value, -math.floor(math.log10(size))) + 0.0


def fingerprint(truth: Truth, stages: Sequence[Stage]) -> dict[str, Any]:
    """What a manifest records of an explainer's values."""
    off = {"result": truth.float32["logits"], "relevance": truth.float32["relevance"]}
    content: dict[str, Any] = {
        "seed": SEED,
        "rows": [truth.samples.name(row) for row in range(len(truth.samples))],
        "targets": truth.samples.target.tolist(),
        "float32": {key: [known(e) for e in values] for key, values in truth.float32.items()},
        "input": products(measure(truth.samples.x), [0.0] * len(truth.samples)),
        "result": {},
        "relevance": {},
    }
    for name, value, kind in (
        ("logits", truth.logits, "result"),
        ("input_relevance", truth.relevance, "relevance"),
    ):
        measures = measure(value)
        norms = [rounded(m[2], m[2], e) for m, e in zip(measures.tolist(), off[kind], strict=True)]
        content[name] = {"norm": norms, "product": products(measures, off[kind])}
    for index, stage in enumerate(stages):
        if index in truth.measures and stage.label is not None:
            content[stage.kind][stage.key] = products(truth.measures[index], off[stage.kind])
    return content


def products(measures: torch.Tensor, off: Sequence[float]) -> list[float]:
    """The product of each sample with the fixed vector, rounded."""
    rows = measures.tolist()
    return [rounded(m[3], m[2], e) for m, e in zip(rows, off, strict=True)]


def recorded_rows(recorded: Json, truth: Truth) -> list[tuple[int, int]]:
    """The rows that were recorded and are explained now: as which row of each."""
    now = {truth.samples.name(row): row for row in range(len(truth.samples))}
    return [(now[name], i) for i, name in enumerate(recorded["rows"]) if name in now]


def deviations(recorded: Json, truth: Truth) -> dict[int, Comparison]:
    """How far each row that was recorded is off now, and how far it may be."""
    found = {}
    logits, relevance = measure(truth.logits).tolist(), measure(truth.relevance).tolist()
    for row, i in recorded_rows(recorded, truth):
        name = truth.samples.name(row)
        off = [
            deviation(measures[row], recorded[key]["norm"][i], recorded[key]["product"][i])
            for key, measures in (("input_relevance", relevance), ("logits", logits))
        ]
        allowed = [tolerance(name, recorded_error(recorded, i, k)) for k in KINDS]
        off = [e if math.isfinite(a) else 0.0 for e, a in zip(off, allowed, strict=True)]
        limits = [min(a, COARSEST) if math.isinf(a) else a for a in allowed]
        found[row] = Comparison(off[0], limits[0], off[1], limits[1])
    return found


def deviation(measures: Sequence[float], norm: float | None, product: float) -> float:
    """How far one value is off from what was recorded of it."""
    scale = (measures[2] if norm is None else norm) or 1.0
    parts = [abs(measures[3] - product) / scale]
    if norm is not None:
        parts.append(abs(measures[2] - norm) / scale)
    return max(part if math.isfinite(part) else math.inf for part in parts)


def recorded_error(recorded: Json, i: int, kind: str = "relevance") -> float:
    """The error of float32 when the fingerprint was taken."""
    error = recorded["float32"][kind][i]
    return math.inf if error is None else float(error)


def other_inputs(recorded: Json, truth: Truth) -> list[str]:
    """The rows whose inputs are not those that were explained when it was recorded."""
    measures = measure(truth.samples.x).tolist()
    return [
        truth.samples.name(row)
        for row, i in recorded_rows(recorded, truth)
        if not deviation(measures[row], None, recorded["input"][i]) <= 1e-8
    ]


def same_noise(recorded: Json, truth: Truth) -> bool:
    """Whether the seed still gives the noise that was explained when it was recorded."""
    return "noise" not in {name.partition(" ")[0] for name in other_inputs(recorded, truth)}


def first_deviation(
    recorded: Json,
    truth: Truth,
    stages: Sequence[Stage],
    allow: Callable[[str, float], float] = tolerance,
) -> tuple[Stage, float, float] | None:
    """The first stage that is off from what was recorded, by how much, and by how much it may."""
    for index, stage in enumerate(stages):
        known_products = recorded[stage.kind].get(stage.key)
        if stage.label is None or known_products is None or index not in truth.measures:
            continue
        measures = truth.measures[index].tolist()
        for row, i in recorded_rows(recorded, truth):
            kind = "relevance" if stage.kind == "relevance" else "logits"
            allowed = allow(truth.samples.name(row), recorded_error(recorded, i, kind))
            error = deviation(measures[row], None, known_products[i])
            if error > allowed:
                return stage, error, allowed
    return None
