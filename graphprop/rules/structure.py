"""How relevance goes through layers without weights: the table of methods.md, section 0."""

from __future__ import annotations

from typing import Any

from graphprop.ops import (
    Add,
    Cat,
    Extremum,
    Subtract,
    Unpool,
    Where,
    absolute,
    divide_or_zero,
    keep_where,
    stabilize,
)
from graphprop.rules.lrp import quotient
from graphprop.rules.registry import Layer, one_of, rule


@rule("pass")
def pass_through(layer: Layer, x: Any, r: Any) -> Any:
    """Relevance passes unchanged: elementwise non-linearities, norms, unmerged batch norms.

    Norms pass as in AttnLRP (Achtibat et al. 2024, Prop. 3.4), which conserves relevance.
    """
    return r


@rule
def rearrange(layer: Layer, x: Any, r: Any) -> Any:
    """The adjoint rearrangement: reshapes, slices, concatenation, padding, choice by a mask."""
    if isinstance(layer.operator, Cat):
        parts = [layer.operator.part(index, layer.shapes) for index in layer.signal]
        return tuple(part(r) for part in parts)
    if isinstance(layer.operator, Where | Unpool):
        chosen = layer.operator.gradient(r, layer.operands, layer.shapes)
        return tuple(chosen[index] for index in layer.signal)
    return layer.opT(None, r)


@rule
def winner(layer: Layer, x: Any, r: Any) -> Any:
    """All relevance to the largest entry of each window, the first one on ties.

    The same of two values; where one of them is a constant, they are a non-linearity of the other.
    """
    if isinstance(layer.operator, Extremum):
        if len(layer.signal) == 1:
            return (r,)
        return layer.operator.gradient(r, layer.operands, layer.shapes)
    return layer.operator.gradient(r, (x,), (x.shape,))[0]


@rule
def proportional(layer: Layer, x: Any, r: Any, *, stabilizer: float = 0.0) -> Any:
    """Shares of a fixed linear map: ``J(x, w, r)`` for averages, sums and resizing.

    Where the result is zero, relevance is spread evenly over the in-image cells; with a
    stabilizer, nothing is.
    """
    y = layer.op(x)
    if stabilizer:
        return x * layer.opT(None, r / stabilize(y, stabilizer))
    spread = layer.operator.even(layer.shapes[0])(keep_where(y, "==", r))
    return x * layer.opT(None, divide_or_zero(r, y)) + spread


@rule
def share(
    layer: Layer, x: Any, r: Any, *, stabilizer: float = 0.0, residual: str = "signed"
) -> Any:
    """Residual add: ``x_k / sum x`` of the relevance to each branch; a constant gets nothing.

    With ``residual="absolute"``: ``|x_k| / sum |x|``, an even split where all are zero.
    """
    if len(layer.signal) == 1:
        return (r,)
    one_of("residual", residual)
    if residual == "absolute":
        sizes = [absolute(branch) for branch in x]
        whole = Add()(*sizes)
        even = keep_where(whole, "==", r) * (1.0 / len(sizes))
        q = divide_or_zero(r, whole)
        return tuple(size * q + even for size in sizes)
    q = quotient(r, layer.operator(*x), stabilizer)
    if isinstance(layer.operator, Subtract):
        return (x[0] * q, -x[1] * q)
    return tuple(branch * q for branch in x)


@rule
def signal(layer: Layer, x: Any, r: Any) -> Any:
    """Product of a signal and a gate: all to the signal; half each where neither is a gate."""
    if len(layer.signal) == 1:
        return (r,)
    return (r * 0.5, r * 0.5)


@rule
def affine(layer: Layer, x: Any, r: Any, *, epsilon: float = 1e-6) -> Any:
    """Epsilon rule of an affine map: norms whose statistics are constants, their mean included.

    Unbounded where a centered sum is near zero.
    """
    y = layer.operator(x, *layer.constants)
    slope = layer.named("slope", layer.operator.coefficient(x, *layer.constants))
    return x * slope * (r / stabilize(y, epsilon))
