"""Rules of layer-wise relevance propagation for layers with weights.

Each is the formula of methods.md, section 1, in its words. A bias is a ``"sink"`` (it stays in the
denominator and swallows its share) or ``"ignored"``. With ``stabilizer`` s > 0 a denominator c
becomes ``stab(c)``, else the division is exact and 0 where c is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphprop.errors import MethodError
from graphprop.ops import (
    Linear,
    Numbers,
    divide_or_zero,
    keep_where,
    largest,
    negative,
    ones,
    ones_like,
    positive,
    smallest,
    stabilize,
)
from graphprop.ops.linear import LinearTranspose
from graphprop.rules.registry import Layer, one_of, rule


def quotient(r: Any, c: Any, stabilizer: float) -> Any:
    """``r / stab(c)``, or ``r (/) c`` where there is no stabilizer."""
    return r / stabilize(c, stabilizer) if stabilizer else divide_or_zero(r, c)


def with_bias(layer: Layer, z: Any, bias: str, part: Any = None) -> Any:
    """A pre-activation with the bias (or a part of it) where it is a sink."""
    one_of("bias", bias)
    if bias == "ignored" or layer.bias is None:
        return z
    return layer.plus_bias(z, layer.bias if part is None else part(layer.bias))


@rule
def z(layer: Layer, x: Any, r: Any, *, bias: str = "sink", stabilizer: float = 0.0) -> Any:
    """Basic rule: ``J(x, w, r)``, contributions over pre-activation (Bach et al. 2015, eq. 56)."""
    y = with_bias(layer, layer.op(x, layer.weight), bias)
    return x * layer.opT(layer.weight, quotient(r, y, stabilizer))


@rule
def epsilon(layer: Layer, x: Any, r: Any, *, epsilon: float = 1e-6, bias: str = "sink") -> Any:
    """Epsilon rule: ``x * opT(w, r / stab(z))`` (Bach et al. 2015, eq. 58)."""
    if epsilon <= 0:
        raise MethodError(f"epsilon must be positive, not {epsilon}")
    y = with_bias(layer, layer.op(x, layer.weight), bias)
    return x * layer.opT(layer.weight, r / stabilize(y, epsilon))


def excitatory(layer: Layer, x: Any, r: Any, bias: str, stabilizer: float) -> Any:
    """``JP(r)``: relevance by the shares of P = op(x+, w+) + op(x-, w-), one denominator."""
    above, below = positive(x), negative(x)
    w_above, w_below = positive(layer.weight), negative(layer.weight)
    p = with_bias(layer, layer.op(above, w_above) + layer.op(below, w_below), bias, positive)
    q = quotient(r, layer.named("excitatory", p), stabilizer)
    return above * layer.opT(w_above, q) + below * layer.opT(w_below, q)


def inhibitory(layer: Layer, x: Any, r: Any, bias: str, stabilizer: float) -> Any:
    """``JN(r)``: relevance by the shares of N = op(x+, w-) + op(x-, w+), one denominator.

    Shares do not change with the sign of the weights, so -N is computed: it is known not to be
    negative, and needs no sign to be stabilized.
    """
    above, below = positive(x), negative(x)
    v_above, v_below = -negative(layer.weight), -positive(layer.weight)
    n = layer.op(above, v_above) + layer.op(below, v_below)
    n = with_bias(layer, n, bias, lambda b: -negative(b))
    q = quotient(r, layer.named("inhibitory", n), stabilizer)
    return above * layer.opT(v_above, q) + below * layer.opT(v_below, q)


@rule
def alpha_beta(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    bias: str = "sink",
    stabilizer: float = 0.0,
) -> Any:
    """Alpha-beta rule: ``alpha * JP(r) - beta * JN(r)`` (Bach et al. 2015, eq. 60).

    Where alpha - beta is 1, the sum is conserved; elsewhere it is multiplied by alpha - beta.
    """
    if alpha < 0 or beta < 0:
        raise MethodError(f"alpha and beta must not be negative, not {alpha:g} and {beta:g}")
    excited = excitatory(layer, x, r * alpha, bias, stabilizer)
    return excited - inhibitory(layer, x, r * beta, bias, stabilizer) if beta else excited


@rule
def z_plus(layer: Layer, x: Any, r: Any, *, bias: str = "sink", stabilizer: float = 0.0) -> Any:
    """Z-plus rule: alpha-beta with alpha 1 and beta 0 (Montavon et al. 2017, eq. 14)."""
    return excitatory(layer, x, r, bias, stabilizer)


@rule
def gamma(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    gamma: float = 0.25,
    bias: str = "sink",
    stabilizer: float = 0.0,
) -> Any:
    """Gamma rule, generalized to inputs and outputs of both signs (Montavon et al. 2019, 10.2.3).

    Where y > 0, weights w + g w+ act on x+ and w + g w- on x-; where y < 0 the other way round.
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
        q = quotient(keep_where(y, comparison, r), c, stabilizer)
        relevance += above * layer.opT(on_above, q) + below * layer.opT(on_below, q)
    return relevance


@rule
def flat(layer: Layer, x: Any, r: Any, *, stabilizer: float = 0.0) -> Any:
    """Flat rule: ``J(1, 1, r)``, an equal share for every connected input (Bach et al. 2016)."""
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


@rule
def w_square(layer: Layer, x: Any, r: Any, *, stabilizer: float = 0.0) -> Any:
    """W-square rule: ``J(1, w^2, r)`` (Montavon et al. 2017, eq. 12)."""
    image, weight = ones(layer.weight, (1, *x.shape[1:])), layer.weight * layer.weight
    return layer.opT(weight, quotient(r, layer.op(image, weight), stabilizer))


@rule
def zB(
    layer: Layer,
    x: Any,
    r: Any,
    *,
    low: Any = "per_sample",
    high: Any = "per_sample",
    stabilizer: float = 0.0,
) -> Any:
    """Box rule for bounded inputs: zB (Montavon et al. 2017, eq. 15).

    The bounds are numbers, one number per channel, or ``"per_sample"``: the smallest and largest
    entry of each sample. The bias cancels. With ``w = w+ + w-``, each ``x w - l w+ - h w-`` is
    computed as ``(x - l) w+ + (x - h) w-``: both terms are positive between the bounds, so that
    nothing cancels and the zero of a constant image is exact.
    """
    c, carry = box(layer, x, low, high)
    return carry(quotient(r, c, stabilizer))


def box(layer: Layer, x: Any, low: Any, high: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The denominator of zB, and what carries a quotient over it back to x."""
    w_above, w_below = positive(layer.weight), negative(layer.weight)
    above = x - box_limit(layer, x, low, smallest)
    below = x - box_limit(layer, x, high, largest)

    def carry(q: Any) -> Any:
        return above * layer.opT(w_above, q) + below * layer.opT(w_below, q)

    return layer.op(above, w_above) + layer.op(below, w_below), carry


def box_limit(layer: Layer, x: Any, given: Any, per_sample: Any) -> Any:
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
