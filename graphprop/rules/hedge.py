"""Gradient hedging: docs/methods.md, section 4. Every sum runs over one sample.

Below the layer where it begins, relevance comes with a budget tau: what the positive and the
negative entries of a layer's relevance are normalized to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from graphprop.errors import MethodError
from graphprop.ops import (
    Expand,
    Linear,
    LinearTranspose,
    Subtract,
    absolute,
    divide_or_zero,
    keep_where,
    mask,
    negative,
    positive,
    total,
)
from graphprop.ops.arrange import arranged_as, channels_first
from graphprop.rules import fits
from graphprop.rules.gradient import mean_over_places
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.registry import rule

TERMS = "CAUS"
"""The terms of the rule: contributions, active units, unactivated units, shift."""

LEAST = 1e-9
"""What an average pool adds to its inputs, so that none is zero; far below any activation."""


@rule(fits=fits.MAPS)
def hedge_start(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The initial map: ``G / |sum G|`` with ``G = x * mean_hw(dy/dx)``.

    Where sum G is 0, the denominator is sum |G|; where that is 0, too, the map is.

    References
    ----------
    Nam and Lee, eq. 5; docs/methods.md, section 4.
    """
    arranged = channels_first(r, layer.layout)
    mean = mean_over_places(arranged)
    if arranged is not r:
        mean = arranged_as(Expand(tuple(arranged.shape))(mean), layer.layout, tuple(x.shape))
    g = x * mean
    size = absolute(total(g))
    return divide_or_zero(g, size + keep_where(size, "==", total(absolute(g))))


@rule(fits=fits.WEIGHTED)
def hedge(
    layer: Layer, x: Tensor, r: Tensor, *, gamma: float = 1.0, terms: str | Sequence[str] = TERMS
) -> Tensor:
    """Hedging at a layer with weights, bias ignored: the sum of four terms.

    ``J(x+, |w|, gamma P + N) + J(alpha, |w|, P) + J(beta, |w|, N) - alpha tau / sum alpha`` with
    ``P = tau R+ / sum R+``, ``N = -tau R- / sum R-``, ``alpha = [x > 0]`` and ``beta = [x <= 0]``.
    A layer that looks at one place at a time has gamma 1 and no shift.

    Printed eq. 6 normalizes to ``sum |G|`` rather than tau, eq. 8 has x for x+, and eq. 12 shifts
    all units: each breaks the total ``(gamma - 2) tau`` that the paper claims.

    Parameters
    ----------
    gamma
        The weight of P in the first term, from 1 to 2.
    terms
        Which of the four are added up: C (contributions), A (active inputs), U (unactivated inputs)
        and S (shift), as in the paper's ablation (table 2).

    References
    ----------
    Nam and Lee, eqs. 6-13; docs/methods.md, section 4.
    """
    if not 1 <= gamma <= 2:
        raise MethodError(f"gamma lies between 1 and 2, not {gamma:g}")
    chosen = chosen_terms(terms)
    if layer.budget is None:
        raise MethodError(
            "it normalizes relevance to a budget, and the method keeps none here: use another rule "
            "for this layer, or the method 'hedge', which gives it to every layer below its layer L"
        )
    tau, w = layer.budget, absolute(layer.weight)
    above, below = positive(r), negative(r)
    p = layer.named("plus", above * divide_or_zero(tau, total(above)))
    n = layer.named("minus", below * divide_or_zero(tau, total(-below)))
    active = layer.named("active", mask(x, ">"))
    idle = layer.named("idle", mask(x, "<="))
    pointwise = is_pointwise(layer)
    found = []
    if "C" in chosen:
        first = (p if pointwise else gamma * p) + n
        found.append(proportional_to(layer, positive(x), w, first))
    if "A" in chosen:
        found.append(proportional_to(layer, active, w, p))
    if "U" in chosen:
        found.append(proportional_to(layer, idle, w, n))
    if "S" in chosen and not pointwise:
        shift = layer.named("shift", divide_or_zero(tau, total(active)))
        found.append(-active * shift)
    return reduce(add, found) if found else x * 0.0


def chosen_terms(terms: str | Sequence[str]) -> frozenset[str]:
    """Read which terms are added up: ``"CAS"``, ``"C,A,S"`` or a sequence of letters."""
    parts = terms if isinstance(terms, list | tuple) else (terms,)
    letters = [letter for part in parts for letter in str(part) if letter not in ", "]
    if not letters or not set(letters) <= set(TERMS):
        raise MethodError(
            f"terms names some of C, A, U and S, such as {TERMS!r} or 'C,A', not {terms!r}"
        )
    return frozenset(letters)


def proportional_to(layer: Layer, a: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """``J(a, v, r)``."""
    return a * layer.opT(v, divide_or_zero(r, layer.op(a, v)))


def is_pointwise(layer: Layer) -> bool:
    """Whether a layer looks at one place at a time: dense, or every kernel size 1."""
    if isinstance(layer.operator, Linear | LinearTranspose):
        return True
    return all(length == 1 for length in layer.weight.shape[2:])


@rule(fits=fits.SUMS)
def hedge_share(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Residual add: ``x+ / sum x+`` of r to each branch, an even split where no x is positive.

    References
    ----------
    docs/methods.md, section 4; the authors' code discards the skip branch, which is not followed.
    """
    if len(layer.signal) == 1:
        return (r,)
    branches = [positive(x[index]) for index in layer.signal]
    if isinstance(layer.operator, Subtract):
        branches[1] = positive(-x[1])
    whole = reduce(add, branches)
    even = r * (mask(whole, "==") * (1.0 / len(branches)))
    q = divide_or_zero(r, whole)
    return tuple(branch * q + even for branch in branches)


@rule(fits=fits.AVERAGES)
def hedge_average(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Averages, sums and resizing: in proportion to ``max(x, 0) + 1e-9``.

    References
    ----------
    docs/methods.md, section 4.
    """
    a = positive(x) + LEAST
    return a * layer.opT(None, divide_or_zero(r, layer.op(a)))
