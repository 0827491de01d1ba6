"""Which layers a rule is for: what `assign_rules` asks before a layer gets it.

A rule on a layer of another kind would end in a tensor of the wrong shape, or, worse, in a map of
the right shape that means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphprop.ops import BatchNorm, Linear, LinearTranspose, Trait


@dataclass(frozen=True)
class Fits:
    """The kind of layer that a rule is for.

    Attributes
    ----------
    what
        Its name, in the plural, for messages.
    test
        Whether an operator is of the kind.
    refuses
        Whether the rule itself refuses an operator of the kind, and says why.
    """

    what: str
    test: Callable[[Any], bool]
    refuses: Callable[[Any], bool] = lambda operator: False


def whose_own_is(rule: str, what: str) -> Fits:
    """The layers without weights that have the rule of themselves."""
    return Fits(what, lambda operator: not operator.weighted and operator.relevance == rule)


WEIGHTED = Fits("layers with weights", lambda operator: operator.weighted)
WINDOWED = Fits(
    "convolutions and poolings",
    lambda operator: operator.weighted or hasattr(operator, "mean"),
    refuses=lambda operator: isinstance(operator, Linear | LinearTranspose),
)
RECTIFIERS = Fits(
    "rectifiers that clip at zero (relu, relu6, clamp and hardtanh with a minimum of 0)",
    lambda operator: operator.has(Trait.RECTIFIER),
)
BATCH_NORMS = Fits("batch norms", lambda operator: isinstance(operator, BatchNorm))
NORMS = Fits("norms", lambda operator: operator.has(Trait.NORM))
MAXIMA = whose_own_is("winner", "maxima: max pools, and the larger of two values")
AVERAGES = whose_own_is("proportional", "averages, sums along axes, and resizing")
SUMS = whose_own_is("share", "sums and differences of two values")
PRODUCTS = whose_own_is("signal", "products and quotients of two values")
REARRANGEMENTS = whose_own_is(
    "rearrange", "rearrangements: reshapes, slices, concatenation, padding"
)
MAPS = Fits("the map that a method makes, not for layers", lambda operator: False)
