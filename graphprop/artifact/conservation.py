"""What a manifest records of relevance that is lost on its way, and what follows for one map.

The record of a method that is meant to conserve relevance has what relevance starts as (``start``),
at how many places of the logits (``places``), and, where a check found that much of it is lost, a
``cause`` and a ``remedy``: see `graphprop.checking.conservation`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.artifact.schema import Json

LEAST, MOST = 0.5, 2.0
"""How much of what relevance starts with must arrive, and may, before there is a warning: rules of
the field lose some percent to biases and stabilizers, by more than half a map is about those."""


def is_off(start: float | None, arrived: float | None) -> bool:
    """Whether less than half, or more than twice, of what relevance starts with arrives."""
    if start is None or arrived is None or not start:
        return False
    part = arrived / start
    return not LEAST <= part <= MOST and math.isfinite(part)


def verdict(start: float, arrived: float) -> str:
    """What becomes of relevance, in numbers."""
    if abs(arrived) > MOST * abs(start):
        what = "explodes"
    elif abs(arrived) < LEAST * abs(start):
        what = "vanishes"
    else:
        what = "changes its sign"
    return f"relevance {what}: it starts with {start:.4g}, and {arrived:.4g} arrive at the input"


def reasons(record: Json) -> str:
    """Where relevance went, and what to do about it."""
    return "".join(f" {text}" for text in (record["cause"], record["remedy"]) if text)


def of_map(
    manifest: Json, logits: NDArray[Any], target: int, relevance: NDArray[Any]
) -> str | None:
    """A warning about one map, in one sentence or two; None if all arrived.

    Parameters
    ----------
    logits
        ``[classes]``; those of a network with an output for each place, summed over them.
    relevance
        The map.
    """
    record = manifest.get("conservation")
    if not record:
        return None
    start = float(logits[target] if record["start"] == "logit" else record["places"])
    arrived = float(relevance.astype(np.float64).sum())
    return f"{verdict(start, arrived)}.{reasons(record)}" if is_off(start, arrived) else None
