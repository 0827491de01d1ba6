"""Which layers a rule is for: what `assign_rules` asks before a layer gets it.

A rule on a layer of another kind would end in a tensor of the wrong shape, or, worse, in a map of
the right shape that means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from graphprop.ops import BatchNorm, Linear, LinearTranspose, Trait


def never(operator: Any) -> bool:
    """Whether an operator is of no kind at all; functions here have names, to be pickled."""
    return False


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
    refuses: Callable[[Any], bool] = never


def owns(rule: str, operator: Any) -> bool:
    """Whether an operator without weights has a rule of itself."""
    return not operator.weighted and bool(operator.relevance == rule)


def whose_own_is(rule: str, what: str) -> Fits:
    """The layers without weights that have the rule of themselves."""
    return Fits(what, partial(owns, rule))


def weighted(operator: Any) -> bool:
    """Whether an operator has weights."""
    return bool(operator.weighted)


def windowed(operator: Any) -> bool:
    """Whether an operator has weights, or takes means over windows."""
    return weighted(operator) or hasattr(operator, "mean")


def is_a(kinds: Any, operator: Any) -> bool:
    """Whether an operator is one of some kinds."""
    return isinstance(operator, kinds)


def has(trait: Trait, operator: Any) -> bool:
    """Whether an operator has a trait."""
    return bool(operator.has(trait))


WEIGHTED = Fits("layers with weights", weighted)
WINDOWED = Fits(
    "convolutions and poolings", windowed, refuses=partial(is_a, (Linear, LinearTranspose))
)
RECTIFIERS = Fits(
    "rectifiers that clip at zero (relu, relu6, clamp and hardtanh with a minimum of 0)",
    partial(has, Trait.RECTIFIER),
)
BATCH_NORMS = Fits("batch norms", partial(is_a, BatchNorm))
NORMS = Fits("norms", partial(has, Trait.NORM))
MAXIMA = whose_own_is("winner", "maxima: max pools, and the larger of two values")
AVERAGES = whose_own_is("proportional", "averages, sums along axes, and resizing")
SUMS = whose_own_is("share", "sums and differences of two values")
PRODUCTS = whose_own_is("signal", "products and quotients of two values")
REARRANGEMENTS = whose_own_is(
    "rearrange", "rearrangements: reshapes, slices, concatenation, padding"
)
MAPS = Fits("the map that a method makes, not for layers", never)
