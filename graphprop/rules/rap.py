"""Relative attributing propagation: RAP, and RAP-BN with its two flows.

The formulas are those of docs/methods.md, sections 2 and 3, which says what was chosen where the
papers' text, equations and code differ. Every sum runs over one sample.
"""

from __future__ import annotations

from math import prod

from graphprop.errors import MethodError
from graphprop.ops import (
    Linear,
    LinearTranspose,
    Reshape,
    absolute,
    divide_or_zero,
    mask,
    negative,
    positive,
    total,
)
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.lrp import Bound, box
from graphprop.rules.parameters import one_of
from graphprop.rules.registry import rule


@rule(fits=fits.WEIGHTED)
def rap_start(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """RAP at the logit layer: shares by the size of contributions, ``f |z_i| / sum |z_i|``.

    The bias is left out. Where a pool or a reshape follows the logit layer:
    ``r_i = sum_j (z_ij / z_j) R_j``, and of it ``|r_i| sum(r) / sum|r|``.

    References
    ----------
    Nam et al. 2020, eqs. 5-6; docs/methods.md, section 2.
    """
    w = layer.weight
    if layer.final:
        a, v = absolute(x), absolute(w)
        return a * layer.opT(v, divide_or_zero(r, layer.op(a, v)))
    plain = x * layer.opT(w, divide_or_zero(r, layer.op(x, w)))
    size = absolute(plain)
    return size * divide_or_zero(total(plain), total(size))


@rule(fits=fits.WEIGHTED)
def rap(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    negative: str = "both",
    active: str = "input",
    nu: str = "inhibitory",
) -> Tensor:
    """RAP below the logit layer: influence normalized, then shifted, bias ignored.

    ``Rbar = JP(R) + JN(nu)`` with ``nu = R |N| / (P + |N|)``; the surplus ``sum Rbar - sum R`` is
    taken off evenly from the active inputs. JN divides nu by N, which leaves ``R / (N - P)``, and
    N - P is ``z - 2 P``, z being what the layer computes: so N itself is not needed.

    Parameters
    ----------
    negative
        ``"both"``, as above, or ``"inhibitory"``: at a convolution the first term is
        ``JP(R+) + JN(R-)``, as in the authors' code, which leaves dense layers as they are.
    active
        The active inputs: ``"input"``, those that are not zero, or ``"support"``, those where Rbar
        is not.
    nu
        ``"inhibitory"``, as above, or ``"printed"``: ``nu = R``, by the numerator that the paper
        prints.

    References
    ----------
    Nam et al. 2020, eqs. 7-9; docs/methods.md, section 2.
    """
    one_of("negative", negative)
    one_of("active", active)
    one_of("nu", nu)
    above, below = positive(x), negative_part(x)
    w_above, w_below = positive(layer.weight), negative_part(layer.weight)
    p = layer.named("excitatory", layer.op(above, w_above) + layer.op(below, w_below))
    # dropped where nothing reads it
    n = layer.named("inhibitory", layer.op(above, w_below) + layer.op(below, w_above))
    difference = layer.named("difference", layer.op(x, layer.weight) - p * 2.0)
    # nu / N, which is R / (N - P) or R / N: where N is zero, so is every share of it
    first, q_n = r, divide_or_zero(r, difference if nu == "inhibitory" else n)
    if negative == "inhibitory" and not isinstance(layer.operator, Linear | LinearTranspose):
        first, q_n = positive(r), q_n + divide_or_zero(negative_part(r), n)
    q_p = divide_or_zero(first, p)
    from_above = layer.named("back_excitatory", layer.opT(w_above, q_p))
    from_above += layer.named("back_inhibitory", layer.opT(w_below, q_n))
    from_below = layer.opT(w_below, q_p) + layer.opT(w_above, q_n)
    spread = layer.named("spread", above * from_above + below * from_below)
    # spread is zero where x is
    mine = layer.named("active", mask(x if active == "input" else spread, "!="))
    surplus = layer.named("received", total(spread)) - layer.named("given", total(r))
    shift = layer.named("shift", divide_or_zero(surplus, layer.named("count", total(mine))))
    return spread - mine * shift


def negative_part(x: Tensor) -> Tensor:
    """``x- = min(x, 0)``."""
    return negative(x)


@rule(fits=fits.WEIGHTED)
def rap_bn_start(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """RAP-BN at the logit layer: ``(z+ / sum z+ - z- / sum z-) f``, where both flows start.

    It sums to zero where contributions of both signs exist, else to f or -f.

    References
    ----------
    Nam et al. 2019; docs/methods.md, section 3.
    """
    above, below = positive(x), negative_part(x)
    w_above, w_below = positive(layer.weight), negative_part(layer.weight)
    p = layer.op(above, w_above) + layer.op(below, w_below)
    n = layer.op(above, w_below) + layer.op(below, w_above)
    q_p, q_n = divide_or_zero(r, p), divide_or_zero(r, n)
    from_above = layer.opT(w_above, q_p) - layer.opT(w_below, q_n)
    from_below = layer.opT(w_below, q_p) - layer.opT(w_above, q_n)
    return above * from_above + below * from_below


@rule(fits=fits.BATCH_NORMS)
def compensate(
    layer: Layer, x: Tensor, r: Tensor, *, kappa: float = 1.0, units: str = "active"
) -> Tensor:
    """RAP-BN at a batch norm: ``S = BN(z) - z``, centered over the active units, is taken off.

    ``R <- R - kappa (S - mean_A S) / (c h w)`` on the active units A. The total is kept.

    Parameters
    ----------
    kappa
        1 in the normal flow, -1 in the inversed one.
    units
        ``"active"``: ``A = { R != 0 }``. ``"all"``: A is all units, and the mean is over them.

    References
    ----------
    Nam et al. 2019; docs/methods.md, section 3.
    """
    one_of("units", units)
    count = prod(x.shape[1:])
    s = layer.named("compensation", layer.operator(x, *layer.constants) - x, shared=True)
    if units == "all":
        whole = (s - total(s) * (1.0 / count)) * (1.0 / count)
        return taken_off(r, layer.named("centered_compensation", whole, shared=True), kappa)
    mine = mask(r, "!=")
    mean = divide_or_zero(total(s * mine), total(mine))
    share = layer.named("centered_compensation", (s - mean) * (1.0 / count))
    return taken_off(r, share * mine, kappa)


@rule(fits=fits.WEIGHTED)
def rap_bn(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    kappa: float = 1.0,
    inversion_sign: float = -1.0,
    lost: str = "spread",
) -> Tensor:
    """RAP-BN at a hidden layer: bias compensation, then JP (normal flow) or JN (inversed flow).

    Parameters
    ----------
    kappa
        1 in the normal flow, -1 in the inversed one.
    inversion_sign
        1 or -1: what JN is multiplied by.
    lost
        What becomes of relevance whose denominator is zero: ``"spread"``, evenly over the active
        inputs, or ``"drop"``.

    References
    ----------
    Nam et al. 2019, eqs. 7-8; docs/methods.md, section 3.
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


@rule(fits=fits.WEIGHTED)
def rap_bn_input(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    kappa: float = 1.0,
    inversion_sign: float = -1.0,
    lost: str = "spread",
    input: str = "zB",
    low: Bound = "per_sample",
    high: Bound = "per_sample",
) -> Tensor:
    """RAP-BN at an input layer: bias compensation, then zB in each flow.

    Parameters
    ----------
    kappa, inversion_sign, lost
        See `rap_bn`.
    input
        ``"zB"``, or ``"flow"``: the rule of hidden layers down to the pixels.
    low, high
        The bounds of zB, see `graphprop.rules.lrp.zB`.

    References
    ----------
    The authors' code; docs/methods.md, section 3.
    """
    one_of("input", input)
    if input == "flow":
        return rap_bn(layer, x, r, kappa=kappa, inversion_sign=inversion_sign, lost=lost)
    compensated = without_bias(layer, r, kappa)
    c, carry = box(layer, x, low, high)
    carried = carry(divide_or_zero(compensated, c))
    return carried + recovered(x, c, compensated, lost)


def without_bias(layer: Layer, r: Tensor, kappa: float) -> Tensor:
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


def taken_off(r: Tensor, share: Tensor, kappa: float) -> Tensor:
    """``R - kappa * share``: the normal flow loses its share, the inversed one gains it."""
    return r - share if kappa > 0 else r + share


def recovered(x: Tensor, c: Tensor, r: Tensor, lost: str) -> Tensor:
    """What zero denominators took, spread evenly over the active inputs, or dropped."""
    one_of("lost", lost)
    if lost == "drop":
        return 0.0
    active = mask(x, "!=")
    return active * divide_or_zero(total(r * mask(c, "==")), total(active))
