"""Rules of layer-wise relevance propagation for layers with weights: docs/methods.md, section 1.

The notation (``op``, ``opT``, ``J``, ``JP``, ``JN``, ``stab``) is that of section 0 there. A bias
that is a ``"sink"`` takes its share of the relevance; one that is ``"ignored"`` takes nothing. With
``stabilizer`` s > 0 a denominator c becomes ``stab(c)``; with 0 the division is exact, and 0 where
c is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from graphprop.errors import MethodError
from graphprop.ops import (
    Linear,
    Numbers,
    divide_or_zero,
    largest,
    mask,
    negative,
    ones,
    ones_like,
    positive,
    smallest,
    stabilize,
)
from graphprop.ops.linear import LinearTranspose
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.parameters import one_of
from graphprop.rules.registry import rule

Bound: TypeAlias = Any
"""A bound of zB: ``"per_sample"``, a number, a number per channel, or a tensor of these."""


def quotient(r: Tensor, c: Tensor, stabilizer: float) -> Tensor:
    """``r / stab(c)``, or ``r (/) c`` where there is no stabilizer."""
    return r / stabilize(c, stabilizer) if stabilizer else divide_or_zero(r, c)


def with_bias(
    layer: Layer, z: Tensor, bias: str, part: Callable[..., Tensor] | None = None
) -> Tensor:
    """A pre-activation with the bias, or ``part`` of it, where the bias is a sink."""
    one_of("bias", bias)
    if bias == "ignored" or layer.bias is None:
        return z
    return layer.plus_bias(z, layer.bias if part is None else part(layer.bias))


@rule(fits=fits.WEIGHTED)
def z(layer: Layer, x: Tensor, r: Tensor, *, bias: str = "sink", stabilizer: float = 0.0) -> Tensor:
    """Basic rule: each input gets its share of the pre-activation, ``J(x, w, r)``.

    Parameters
    ----------
    bias
        ``"sink"``: it stays in the denominator; ``"ignored"``: it is left out.
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Bach et al. 2015, eq. 56; docs/methods.md, section 1.
    """
    y = with_bias(layer, layer.op(x, layer.weight), bias)
    return x * layer.opT(layer.weight, quotient(r, y, stabilizer))


@rule(fits=fits.WEIGHTED)
def epsilon(
    layer: Layer, x: Tensor, r: Tensor, *, epsilon: float = 1e-6, bias: str = "sink"
) -> Tensor:
    """Epsilon rule: the basic rule with a stabilized denominator, ``x * opT(w, r / stab(z))``.

    Parameters
    ----------
    epsilon
        What is added to the size of the denominator, above zero.
    bias
        ``"sink"``: it stays in the denominator; ``"ignored"``: it is left out.

    References
    ----------
    Bach et al. 2015, eq. 58; docs/methods.md, section 1.
    """
    if epsilon <= 0:
        raise MethodError(f"epsilon must be positive, not {epsilon}")
    y = with_bias(layer, layer.op(x, layer.weight), bias)
    return x * layer.opT(layer.weight, r / stabilize(y, epsilon))


def excitatory(layer: Layer, x: Tensor, r: Tensor, bias: str, stabilizer: float) -> Tensor:
    """``JP(r)``: relevance by the shares of ``P = op(x+, w+) + op(x-, w-)``, one denominator."""
    above, below = positive(x), negative(x)
    w_above, w_below = positive(layer.weight), negative(layer.weight)
    p = with_bias(layer, layer.op(above, w_above) + layer.op(below, w_below), bias, positive)
    q = quotient(r, layer.named("excitatory", p), stabilizer)
    return above * layer.opT(w_above, q) + below * layer.opT(w_below, q)


def inhibitory(layer: Layer, x: Tensor, r: Tensor, bias: str, stabilizer: float) -> Tensor:
    """``JN(r)``: relevance by the shares of ``N = op(x+, w-) + op(x-, w+)``, one denominator.

    Shares do not change with the sign of the weights, so -N is computed: it is known not to be
    negative, and needs no sign to be stabilized.
    """
    above, below = positive(x), negative(x)
    v_above, v_below = -negative(layer.weight), -positive(layer.weight)
    n = layer.op(above, v_above) + layer.op(below, v_below)
    n = with_bias(layer, n, bias, lambda b: -negative(b))
    q = quotient(r, layer.named("inhibitory", n), stabilizer)
    return above * layer.opT(v_above, q) + below * layer.opT(v_below, q)


@rule(fits=fits.WEIGHTED)
def alpha_beta(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    bias: str = "sink",
    stabilizer: float = 0.0,
) -> Tensor:
    """Alpha-beta rule: what excites and what inhibits apart, ``alpha * JP(r) - beta * JN(r)``.

    Where alpha - beta is 1, the sum is conserved; elsewhere it is multiplied by alpha - beta.

    Parameters
    ----------
    alpha, beta
        The weights of the excitatory and the inhibitory part, neither of them negative.
    bias
        ``"sink"``: it stays in the denominator; ``"ignored"``: it is left out.
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Bach et al. 2015, eq. 60; docs/methods.md, section 1.
    """
    if alpha < 0 or beta < 0:
        raise MethodError(f"alpha and beta must not be negative, not {alpha:g} and {beta:g}")
    excited = excitatory(layer, x, r * alpha, bias, stabilizer)
    return excited - inhibitory(layer, x, r * beta, bias, stabilizer) if beta else excited


@rule(fits=fits.WEIGHTED)
def z_plus(
    layer: Layer, x: Tensor, r: Tensor, *, bias: str = "sink", stabilizer: float = 0.0
) -> Tensor:
    """Z-plus rule: alpha-beta with alpha 1 and beta 0, ``JP(r)``.

    Parameters
    ----------
    bias
        ``"sink"``: it stays in the denominator; ``"ignored"``: it is left out.
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Montavon et al. 2017, eq. 14; docs/methods.md, section 1.
    """
    return excitatory(layer, x, r, bias, stabilizer)


@rule(fits=fits.WEIGHTED)
def gamma(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    gamma: float = 0.25,
    bias: str = "sink",
    stabilizer: float = 0.0,
) -> Tensor:
    """Gamma rule: contributions of the result's sign count 1 + gamma times.

    Generalized to inputs and results of both signs: where ``y > 0``, weights ``w + gamma w+`` act
    on x+ and ``w + gamma w-`` on x-; where ``y < 0`` the other way round.

    Parameters
    ----------
    gamma
        How much more they count; not negative.
    bias
        ``"sink"``: it stays in the denominator; ``"ignored"``: it is left out.
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Montavon et al. 2019, section 10.2.3; docs/methods.md, section 1.
    """
    if gamma < 0:
        raise MethodError(f"gamma must not be negative, not {gamma}")
    weight, above, below = layer.weight, positive(x), negative(x)
    raised, lowered = weight + gamma * positive(weight), weight + gamma * negative(weight)
    y = with_bias(layer, layer.op(x, weight), bias)
    relevance = 0.0
    for comparison, part, on_above, on_below in (
        (">", positive, raised, lowered),
        ("<", negative, lowered, raised),
    ):
        favored = layer.op(above, on_above) + layer.op(below, on_below)
        c = with_bias(layer, favored, bias, lambda b, part=part: b + gamma * part(b))
        q = quotient(r * mask(y, comparison), c, stabilizer)
        relevance += above * layer.opT(on_above, q) + below * layer.opT(on_below, q)
    return relevance


@rule(fits=fits.WINDOWED)
def flat(layer: Layer, x: Tensor, r: Tensor, *, stabilizer: float = 0.0) -> Tensor:
    """Flat rule: an equal share for every connected input, ``J(1, 1, r)``.

    Parameters
    ----------
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Bach et al. 2016; docs/methods.md, section 1.
    """
    if not layer.operator.weighted:
        return layer.operator.mean().even(layer.shapes[0])(r)
    if isinstance(layer.operator, Linear | LinearTranspose):
        raise MethodError(
            f"the flat rule means nothing on the dense layer {layer.label!r}, where every input "
            "is connected to every output: choose another rule or role for it"
        )
    image, weight = ones(layer.weight, (1, *x.shape[1:])), ones_like(layer.weight)
    count = layer.named("count", layer.op(image, weight))
    return layer.opT(weight, quotient(r, count, stabilizer))


@rule(fits=fits.WEIGHTED)
def w_square(layer: Layer, x: Tensor, r: Tensor, *, stabilizer: float = 0.0) -> Tensor:
    """W-square rule: shares by the squared weights, whatever the input, ``J(1, w^2, r)``.

    Parameters
    ----------
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Montavon et al. 2017, eq. 12; docs/methods.md, section 1.
    """
    image, weight = ones(layer.weight, (1, *x.shape[1:])), layer.weight * layer.weight
    return layer.opT(weight, quotient(r, layer.op(image, weight), stabilizer))


@rule(fits=fits.WEIGHTED)
def zB(
    layer: Layer,
    x: Tensor,
    r: Tensor,
    *,
    low: Bound = "per_sample",
    high: Bound = "per_sample",
    stabilizer: float = 0.0,
) -> Tensor:
    """Box rule zB: shares of ``x w - low w+ - high w-``, for an input between two bounds.

    The bias cancels. With ``w = w+ + w-``, each ``x w - low w+ - high w-`` is computed as
    ``(x - low) w+ + (x - high) w-``: both terms are positive between the bounds, so that nothing
    cancels and the zero of a constant image is exact.

    Parameters
    ----------
    low, high
        Numbers, a number per channel, or ``"per_sample"``: the smallest and the largest entry of
        each sample.
    stabilizer
        What is added to the size of a denominator; with 0 the division is exact.

    References
    ----------
    Montavon et al. 2017, eq. 15; docs/methods.md, section 1.
    """
    c, carry = box(layer, x, low, high)
    return carry(quotient(r, c, stabilizer))


def box(
    layer: Layer, x: Tensor, low: Bound, high: Bound
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The denominator of zB, and what carries a quotient over it back to x."""
    w_above, w_below = positive(layer.weight), negative(layer.weight)
    above = x - box_limit(layer, x, low, smallest)
    below = x - box_limit(layer, x, high, largest)

    def carry(q: Tensor) -> Tensor:
        return above * layer.opT(w_above, q) + below * layer.opT(w_below, q)

    return layer.op(above, w_above) + layer.op(below, w_below), carry


def box_limit(
    layer: Layer, x: Tensor, given: Bound, per_sample: Callable[[Tensor], Tensor]
) -> Tensor | float:
    """A bound of zB, as what is subtracted from x."""
    if isinstance(given, str):
        if given != "per_sample":
            raise MethodError(
                f"a bound of zB is a number, a number per channel or 'per_sample', not {given!r}"
            )
        return per_sample(x)
    if hasattr(given, "tolist"):  # a tensor, such as one per channel with axes of length 1
        given = given.squeeze().tolist()
    if isinstance(given, int | float):
        return float(given)
    if any(isinstance(number, list | tuple) for number in given):
        raise MethodError(
            f"a bound of zB at {layer.label!r} is the same at all places of a channel: give a "
            "number per channel, of a tensor its smallest (or, for 'high', largest) entries"
        )
    axis = getattr(layer.operator, "channel_axis", 1) % len(x.shape)
    if len(given) != x.shape[axis]:
        raise MethodError(
            f"{layer.label!r} reads {x.shape[axis]} channels, but the bound has {len(given)} "
            "numbers"
        )
    shape = tuple(-1 if i == axis else 1 for i in range(len(x.shape)))
    return Numbers(tuple(map(float, given)), shape)(layer.weight)
