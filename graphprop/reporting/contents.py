"""What a manifest records of a compiled directory, as the tables of a report show it.

Fields that an older graphprop did not write are left out, and the page says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprop.artifact.conservation import is_off
from graphprop.artifact.schema import Json
from graphprop.drawing.text import times

KINDS = {
    "bias": "biases",
    "norm": "norms",
    "zero_denominators": "zero denominators",
    "stabilizer": "stabilizers",
    "outside": "padding and constants",
    "scaled": "factors",
}
"""What takes relevance, or adds it; `norm` is the bias of a layer that normalizes."""

COMPILE_AGAIN = "graphprop did not record this when it compiled the directory: compile it again"
MEAN = "the map is a mean over samples, which is not followed from layer to layer"


@dataclass(frozen=True)
class Station:
    """A layer on the way of relevance.

    Attributes
    ----------
    label, operator, rule
        The layer; empty where it isn't known.
    arrives
        The sum of relevance of its result.
    lost
        What did not go on, by `KINDS`; below zero where relevance was added.
    left
        What of the start is left behind the layer, on all ways together; None without accounts.
    note
        Why there is no account.
    """

    label: str
    operator: str = ""
    rule: str = ""
    arrives: float | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    left: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Way:
    """How relevance goes from the output to the input, on one sample.

    Attributes
    ----------
    sample
        Which.
    start, end
        The sum of relevance there.
    stations
        From the output back.
    whole
        Whether every layer has an account.
    missing
        What isn't shown, and why.
    """

    sample: str
    start: float
    end: float
    stations: list[Station]
    whole: bool
    missing: str | None = None

    @property
    def totals(self) -> dict[str, float]:
        """What each kind took in all."""
        return {
            kind: sum(one.lost.get(kind, 0.0) for one in self.stations)
            for kind in KINDS
            if any(one.lost.get(kind) for one in self.stations)
        }

    @property
    def off(self) -> bool:
        """Whether much less, or much more, arrives than relevance starts with."""
        return is_off(self.start, self.end)


def way_of(manifest: Json) -> Way | None:
    """The way of relevance that a check recorded; None where it recorded none."""
    found = (manifest["check"] or {}).get("ledger") or {}
    if not found.get("start") or not found.get("input") or not found.get("samples"):
        return None
    start, end = number(found["start"][0]), number(found["input"][0])
    if start is None or end is None:
        return None
    accounts = found.get("accounts")
    sample = found["samples"][0]
    if accounts:
        stations = accounted(accounts, start)
        whole = not any(one.note for one in stations)
        missing = None
    else:
        sums = [(row["label"], row["relevance"]) for row in found.get("layers", ())]
        stations = [Station(label, arrives=number(s[0])) for label, s in sums if s]
        whole, averaged = False, not sums
        missing = MEAN if averaged else f"what took relevance: {COMPILE_AGAIN}"
    return Way(sample, start, end, stations, whole, missing)


def accounted(accounts: Sequence[Json], start: float) -> list[Station]:
    """The accounts, with what is left of the start behind each layer."""
    whole = not any(one.get("note") for one in accounts)
    left, found = start, []
    for one in accounts:
        norm = one.get("operator", "").endswith("norm")
        lost: dict[str, float] = {}
        for kind, value in one["lost"].items():
            name = "norm" if kind == "bias" and norm else kind
            if name in KINDS and value:
                lost[name] = float(value)
        left -= sum(lost.values())
        found.append(
            Station(
                one["label"],
                one.get("operator", ""),
                one.get("rule", ""),
                number(one.get("came_in")),
                lost,
                left if whole else None,
                one.get("note"),
            )
        )
    return found


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Point:
    """What the backends make of a stage: see `graphprop.checking.rounding`."""

    name: str
    kind: str
    float32: float | None
    allowed: float | None
    errors: Mapping[str, float | None]


def points_of(manifest: Json) -> tuple[str, list[Point]] | None:
    """The sample that was followed, and its stages; None where none are recorded."""
    stages = (manifest["check"] or {}).get("stages")
    if not stages:
        return None
    return stages["sample"], [
        Point(
            (row["label"] or "input") + (f" ({row['flow']})" if row["flow"] else ""),
            row["kind"],
            row["float32"],
            row["allowed"],
            row["errors"],
        )
        for row in stages["rows"]
    ]


def stages_missing(manifest: Json) -> str:
    """Why there are no errors from stage to stage."""
    check = manifest["check"]
    if not check:
        return "nothing was checked when it was compiled"
    if "stages" not in check:
        return COMPILE_AGAIN
    if check.get("overflow"):
        return "the reference itself gives no numbers"
    return f"{MEAN}, or the network is too large for it"


def facts_of(manifest: Json) -> list[tuple[str, str]]:
    """What was compiled, in short."""
    source = manifest.get("source") or {}
    shapes = " and ".join(times(shape) for shape in manifest["input_shapes"])
    rows = [
        ("model", manifest["model"]),
        ("source", source.get("name") or ""),
        ("method", manifest["method"]),
        ("parameters", ", ".join(f"{k}={v}" for k, v in manifest["parameters"].items())),
        ("rules of the user", ", ".join(f"{k}={v}" for k, v in manifest.get("rules", {}).items())),
        ("input", shapes),
        ("output", f"{times(manifest['logits_shape'])} (classes: {manifest['classes']})"),
        ("map", times(manifest["relevance_shape"])),
        ("layers", counted(manifest["layers"])),
        ("graphprop", manifest["graphprop"]),
        ("torch", manifest.get("torch", "")),
        ("hash of the manifest", manifest.get("sha256", "")),
    ]
    return [(name, str(value)) for name, value in rows if value]


def counted(layers: Sequence[Json]) -> str:
    """How many layers there are, and by which rules."""
    rules: dict[str, int] = {}
    for layer in layers:
        if layer.get("role"):
            name = (layer["rule"] or "no relevance").partition("(")[0]
            rules[name] = rules.get(name, 0) + 1
    weighted = ", ".join(f"{count} {name}" for name, count in rules.items())
    return f"{len(layers)}, of which with weights: {weighted or 'none'}"


def status_of(manifest: Json) -> str:
    """``"passed"``, ``"failed"`` or ``"not checked"``."""
    check = manifest["check"]
    if not check:
        return "not checked"
    return str(check.get("status") or ("passed" if check["passed"] else "failed"))
