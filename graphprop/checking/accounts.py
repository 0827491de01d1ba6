"""The ledger as a manifest records it: per layer, what came in, went out, and was lost to what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphprop.artifact.schema import Json
from graphprop.checking.fingerprint import rounded
from graphprop.checking.ledger import LedgerEntry, ledger
from graphprop.checking.losses import LOSSES
from graphprop.explainer import Compiled

SEVEN_DIGITS = 1e-4
"""The error of float32 to which `graphprop.checking.fingerprint.rounded` keeps seven digits, which
are enough for people, and the same on every CPU."""


def accounts_of(
    compiled: Compiled,
    sums: Json,
    inputs: Mapping[str, torch.Tensor],
    target: torch.Tensor,
) -> list[dict[str, Any]]:
    """The account of each layer, from the output back, for one sample.

    Parameters
    ----------
    compiled
        What a compile resulted in.
    sums
        The ledger of a report, whose first sample this is.
    inputs, target
        The sample, ``[1, ...]``.
    """
    known = {row["label"]: row["relevance"][0] for row in sums["layers"]}
    entries = ledger(compiled, tuple(inputs.values()), target)
    return [recorded(entry, known.get(entry.label)) for entry in entries]


def recorded(entry: LedgerEntry, came_in: float | None) -> dict[str, Any]:
    """One account as JSON holds it: numbers for one sample, null where there is no account.

    ``came_in`` is what the report has already.
    """
    scale = (entry.moved or tuple(map(abs, entry.came_in)))[0]

    def number(values: tuple[float, ...]) -> float | None:
        if not values or not torch.tensor(values).isfinite().all():
            return None
        return rounded(values[0], scale, SEVEN_DIGITS)

    return {
        "label": entry.label,
        "operator": entry.operator,
        "rule": entry.rule,
        "came_in": number(entry.came_in) if came_in is None else came_in,
        "went_out": number(entry.went_out),
        "lost": {name: number(getattr(entry, name)) for name in LOSSES},
        "note": entry.note or None,
    }
