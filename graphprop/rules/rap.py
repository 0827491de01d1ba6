"""Relative attributing propagation: RAP, and RAP-BN with its two flows.

The formulas are those of methods.md, sections 2 and 3. Every sum runs over one sample.
"""

from __future__ import annotations

from math import prod
from typing import Any

from graphprop.errors import MethodError
from graphprop.ops import (
    Linear,
    LinearTranspose,
    Reshape,
    absolute,
    divide_or_zero,
    keep_where,
    ones_like,
    positive,
    total,
)
from graphprop.rules.lrp import box
from graphprop.rules.registry import Layer, one_of, rule


def count_of(c: Any) -> Any:
    """How many entries of each sample are not zero."""
    return total(keep_where(c, "!=", ones_like(c)))


@rule
def rap_start(layer: Layer, x: Any, r: Any) -> Any:
    """RAP at the logit layer: ``f |z_i| / sum |z_i|``, bias left out (Nam et al. 2020, eqs. 5-6).

    Where something follows the logit layer: ``r_i = sum_j (z_ij / z_j) R_j``, and of it
    ``|r_i| sum(r) / sum|r|``.
    """
    w = layer.weight
    if layer.final:
        a, v = absolute(x), absolute(w)
        return a * layer.opT(v, divide_or_zero(r, layer.op(a, v)))
    plain = x * layer.opT(w, divide_or_zero(r, layer.op(x, w)))
    size = absolute(plain)
    return size * divide_or_zero(total(plain), total(size))


@rule
def rap(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    negative: str = "both",
    active: str = "input",
    nu: str = "inhibitory",
) -> Any:
    """RAP below the logit layer: influence normalized, then shifted (Nam et al. 2020, eqs. 7-9).

    ``Rbar = JP(R) + JN(nu)`` with ``nu = R |N| / (P + |N|)``, or (``nu="printed"``: the numerator
    that the paper prints) ``nu = R``; the surplus ``sum Rbar - sum R`` is taken off evenly from the
    active inputs: those that are not zero, or (``active="support"``) where Rbar is not. With
    ``negative="inhibitory"`` a convolution's first term is ``JP(R+) + JN(R-)``, as in the authors'
    code; dense layers stay as they are, there too.
    """
    one_of("negative", negative)
    one_of("active", active)
    one_of("nu", nu)
    above, below = positive(x), negative_part(x)
    w_above, w_below = positive(layer.weight), negative_part(layer.weight)
    p = layer.named("excitatory", layer.op(above, w_above) + layer.op(below, w_below))
    n = layer.named("inhibitory", layer.op(above, w_below) + layer.op(below, w_above))
    # nu / |N|, which is R / (P + |N|) or R / |N|: where N is zero, so is every share of it
    first, q_n = r, divide_or_zero(r, p + n if nu == "inhibitory" else n)
    if negative == "inhibitory" and not isinstance(layer.operator, Linear | LinearTranspose):
        first, q_n = positive(r), q_n - divide_or_zero(negative_part(r), n)
    q_p = divide_or_zero(first, p)
    from_above = layer.opT(w_above, q_p) + layer.opT(w_below, q_n)
    from_below = layer.opT(w_below, q_p) + layer.opT(w_above, q_n)
    spread = above * from_above + below * from_below
    chosen = x if active == "input" else spread
    surplus = total(spread) - total(r)
    shift = layer.named("shift", divide_or_zero(surplus, count_of(chosen)))
    return keep_where(chosen, "!=", spread - shift)


def negative_part(x: Any) -> Any:
    """``|x-|``: how far x lies below zero."""
    return positive(-x)


@rule
def rap_bn_start(layer: Layer, x: Any, r: Any) -> Any:
    """RAP-BN at the logit layer: ``(z+ / sum z+ - z- / sum z-) f``, the seed of both flows.

    It sums to zero where contributions of both signs exist, else to f or -f.
    """
    above, below = positive(x), negative_part(x)
    w_above, w_below = positive(layer.weight), negative_part(layer.weight)
    p = layer.op(above, w_above) + layer.op(below, w_below)
    n = layer.op(above, w_below) + layer.op(below, w_above)
    q_p, q_n = divide_or_zero(r, p), divide_or_zero(r, n)
    from_above = layer.opT(w_above, q_p) - layer.opT(w_below, q_n)
    from_below = layer.opT(w_below, q_p) - layer.opT(w_above, q_n)
    return above * from_above + below * from_below


@rule
def compensate(layer: Layer, x: Any, r: Any, *, kappa: float = 1.0, units: str = "active") -> Any:
    """RAP-BN at a batch norm: S = BN(z) - z, centered over the active units, taken off evenly.

    ``R <- R - kappa (S - mean_A S) / (c h w)`` on ``A = { R != 0 }``, or (``units="all"``) on all
    units, with the mean over all of them. Both keep the total.
    """
    one_of("units", units)
    count = prod(x.shape[1:])
    s = layer.named("compensation", layer.operator(x, *layer.constants) - x, shared=True)
    if units == "all":
        whole = (s - total(s) * (1.0 / count)) * (1.0 / count)
        return taken_off(r, layer.named("centered_compensation", whole, shared=True), kappa)
    mean = divide_or_zero(total(keep_where(r, "!=", s)), count_of(r))
    share = layer.named("centered_compensation", (s - mean) * (1.0 / count))
    return keep_where(r, "!=", taken_off(r, share, kappa))


@rule
def rap_bn(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    kappa: float = 1.0,
    inversion_sign: float = -1.0,
    lost: str = "spread",
) -> Any:
    """RAP-BN at a hidden layer: bias compensation, then JP (normal flow) or JN (inversed).

    The inversed flow is multiplied by ``inversion_sign``. What a zero denominator would not hand on
    is spread evenly over the active inputs, or (``lost="drop"``) dropped.
    """
    if inversion_sign not in (1, -1):
        raise MethodError(f"inversion_sign is 1 or -1, not {inversion_sign:g}")
    compensated = without_bias(layer, r, kappa)
    above, below = positive(x), negative_part(x)
    w_above, w_below = positive(layer.weight), negative_part(layer.weight)
    if kappa < 0:
        # JN is JP with the halves of the weights exchanged; what is lost bears the sign, too
        w_above, w_below, compensated = w_below, w_above, compensated * inversion_sign
    c = layer.op(above, w_above) + layer.op(below, w_below)
    q = divide_or_zero(compensated, layer.named("excitatory" if kappa > 0 else "inhibitory", c))
    carried = above * layer.opT(w_above, q) + below * layer.opT(w_below, q)
    return carried + recovered(x, c, compensated, lost)


@rule
def rap_bn_input(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    kappa: float = 1.0,
    inversion_sign: float = -1.0,
    lost: str = "spread",
    input: str = "zB",
    low: Any = "per_sample",
    high: Any = "per_sample",
) -> Any:
    """RAP-BN at an input layer: bias compensation, then zB.

    With ``input="flow"`` the rule of hidden layers is carried down to the pixels.
    """
    one_of("input", input)
    if input == "flow":
        return rap_bn(layer, x, r, kappa=kappa, inversion_sign=inversion_sign, lost=lost)
    compensated = without_bias(layer, r, kappa)
    c, carry = box(layer, x, low, high)
    carried = carry(divide_or_zero(compensated, c))
    return carried + recovered(x, c, compensated, lost)


def without_bias(layer: Layer, r: Any, kappa: float) -> Any:
    """Relevance less the compensation of the bias: ``(b_c - mean b) / (h w)`` on every unit."""
    if layer.bias is None:
        return r
    rank = len(r.shape)
    axis = layer.operator.channel_axis % rank
    places = prod(r.shape[1:]) // r.shape[axis]
    shape = tuple(-1 if i == axis else 1 for i in range(rank))
    b = Reshape(shape)(layer.bias)
    centered = b - total(b) * (1.0 / r.shape[axis])
    share = layer.named("bias_compensation", centered * (1.0 / places), shared=True)
    return taken_off(r, share, kappa)


def taken_off(r: Any, share: Any, kappa: float) -> Any:
    """``R - kappa * share``: the normal flow loses its share, the inversed one gains it."""
    return r - share if kappa > 0 else r + share


def recovered(x: Any, c: Any, r: Any, lost: str) -> Any:
    """What zero denominators took, spread evenly over the active inputs, or dropped."""
    one_of("lost", lost)
    if lost == "drop":
        return 0.0
    active = keep_where(x, "!=", ones_like(x))
    return active * divide_or_zero(total(keep_where(c, "==", r)), total(active))
