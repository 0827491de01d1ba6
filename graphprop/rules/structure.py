"""How relevance passes layers without weights: docs/methods.md, section 0."""

from __future__ import annotations

from graphprop.ops import (
    Add,
    Cat,
    Extremum,
    Subtract,
    Unpool,
    Where,
    absolute,
    divide_or_zero,
    mask,
    stabilize,
)
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.lrp import quotient
from graphprop.rules.parameters import one_of
from graphprop.rules.registry import rule


@rule("pass")
def pass_through(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Relevance passes unchanged: elementwise non-linearities, norms, unmerged batch norms.

    References
    ----------
    For norms: Achtibat et al. 2024 (AttnLRP), Prop. 3.4; docs/methods.md, section 0.
    """
    sources = [layer.operands[index] for index in layer.signal]
    if len(sources) != 1 or tuple(sources[0].shape) != tuple(r.shape):
        raise ValueError(
            "relevance passes unchanged only where a result is computed from one value of its own "
            "shape"
        )
    return r


@rule(fits=fits.REARRANGEMENTS)
def rearrange(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The adjoint rearrangement: reshapes, slices, concatenation, padding, choice by a mask.

    References
    ----------
    docs/methods.md, section 0.
    """
    if isinstance(layer.operator, Cat):
        parts = [layer.operator.part(index, layer.shapes) for index in layer.signal]
        return tuple(part(r) for part in parts)
    if isinstance(layer.operator, Where | Unpool):
        chosen = layer.operator.gradient(r, layer.operands, layer.shapes)
        return tuple(chosen[index] for index in layer.signal)
    return layer.opT(None, r)


@rule(fits=fits.MAXIMA)
def winner(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """All relevance to the largest entry of each window, the first one on ties.

    Of a maximum or minimum of two values, to the one that is chosen. Where one of them is a
    constant, it is a non-linearity of the other, and relevance passes unchanged.

    References
    ----------
    docs/methods.md, section 0.
    """
    if isinstance(layer.operator, Extremum):
        if len(layer.signal) == 1:
            return (r,)
        return layer.operator.gradient(r, layer.operands, layer.shapes)
    return layer.operator.gradient(r, (x,), (x.shape,))[0]


@rule(fits=fits.AVERAGES)
def proportional(layer: Layer, x: Tensor, r: Tensor, *, stabilizer: float = 0.0) -> Tensor:
    """Shares of a fixed linear map: ``J(x, w, r)`` for averages, sums and resizing.

    Where the result is zero, relevance is spread evenly over the entries inside the image.

    Parameters
    ----------
    stabilizer
        With s > 0 the denominator is ``stab(y)``, and nothing is spread.

    References
    ----------
    docs/methods.md, section 0.
    """
    y = layer.op(x)
    if stabilizer:
        return x * layer.opT(None, r / stabilize(y, stabilizer))
    spread = layer.operator.even(layer.shapes[0])(r * mask(y, "=="))
    return x * layer.opT(None, divide_or_zero(r, y)) + spread


@rule(fits=fits.SUMS)
def share(
    layer: Layer, x: Tensor, r: Tensor, *, stabilizer: float = 0.0, residual: str = "signed"
) -> Tensor:
    """Residual add: ``x_k / sum x`` of the relevance to each branch; a constant gets nothing.

    Parameters
    ----------
    stabilizer
        With s > 0 the denominator is ``stab(sum x)``.
    residual
        ``"signed"``, as above, or ``"absolute"``: ``|x_k| / sum |x|``, an even split where all
        branches are zero.

    References
    ----------
    docs/methods.md, section 0; for ``"absolute"`` section 2.
    """
    if len(layer.signal) == 1:
        return (r,)
    one_of("residual", residual)
    if residual == "absolute":
        sizes = [absolute(branch) for branch in x]
        whole = Add()(*sizes)
        even = r * (mask(whole, "==") * (1.0 / len(sizes)))
        q = divide_or_zero(r, whole)
        return tuple(size * q + even for size in sizes)
    q = quotient(r, layer.operator(*x), stabilizer)
    if isinstance(layer.operator, Subtract):
        return (x[0] * q, -x[1] * q)
    return tuple(branch * q for branch in x)


@rule(fits=fits.PRODUCTS)
def signal(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Product of a signal and a gate: all to the signal; half each where neither is a gate.

    References
    ----------
    docs/methods.md, section 0, "Gates".
    """
    if len(layer.signal) == 1:
        return (r,)
    return (r * 0.5, r * 0.5)


@rule(fits=fits.NORMS)
def affine(layer: Layer, x: Tensor, r: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Epsilon rule of a norm as an affine map, ``x * slope * r / stab(y)``, statistics constant.

    Unbounded where a centered sum is near zero.

    Parameters
    ----------
    epsilon
        What is added to the size of the denominator.

    References
    ----------
    docs/methods.md, section 0.
    """
    y = layer.operator(x, *layer.constants)
    slope = layer.named("slope", layer.operator.coefficient(x, *layer.constants))
    return x * slope * (r / stabilize(y, epsilon))
