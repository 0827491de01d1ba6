"""Bring a value into the arrangement ``[N, C, places ...]``, whatever its layout is, and back."""

from __future__ import annotations

from math import prod

from graphprop.ir.layout import PLACE, Factor, Layout
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array
from graphprop.ops.shape import Permute, Reshape


def channels_first(x: Array, layout: Layout | None) -> Array:
    """A value of a layout as ``[N, C, places ...]``: its channels on one axis, the places behind.

    Without a layout, or where it has this arrangement already, x itself.
    """
    if layout is None or layout.channels_first:
        return x
    factors, order, channels, places = split(layout)
    apart = Reshape((-1, *(factor.size for factor in factors)))(x)
    x = Permute((0, *(1 + index for index in order)))(apart)
    return Reshape((-1, prod(channels), *places))(x)


def arranged_as(x: Array, layout: Layout | None, shape: Shape) -> Array:
    """The inverse of `channels_first`: a value ``[N, C, places ...]`` in a layout's own shape."""
    if layout is None or layout.channels_first:
        return x
    _, order, channels, places = split(layout)
    back = tuple(1 + order.index(index) for index in range(len(order)))
    x = Permute((0, *back))(Reshape((-1, *channels, *places))(x))
    return Reshape(shape)(x)


def split(layout: Layout) -> tuple[list[Factor], list[int], list[int], list[int]]:
    """A layout's factors, the order that puts channels first, and the sizes of both kinds."""
    factors = [factor for axis in layout.axes for factor in axis]
    channels = [index for index, factor in enumerate(factors) if factor.kind != PLACE]
    places = [index for index, factor in enumerate(factors) if factor.kind == PLACE]
    return (
        factors,
        [*channels, *places],
        [factors[index].size for index in channels],
        [factors[index].size for index in places],
    )
