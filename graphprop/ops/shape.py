"""Reshapes and permutations: the same entries in another shape, or with the axes in another order.

Shapes are given with -1 for the batch axis, so that one graph serves every batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH
from graphprop.ir.interval import Interval
from graphprop.ir.layout import (
    Layout,
)
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Rearrangement(Operator):
    """What all rearrangements share."""

    relevance: ClassVar[str | None] = "rearrange"
    traits: ClassVar[Trait] = Trait.REARRANGEMENT

    def interval(self, *operands: Interval) -> Interval:
        return operands[0]


@dataclass(frozen=True)
class Reshape(Rearrangement):
    """The same entries in another shape: flatten, view, squeeze, unsqueeze."""

    shape: Shape
    inline: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.REARRANGEMENT | Trait.ALIGNMENT

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.shape)

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return x.regrouped(shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Reshape(shapes[0])

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.reshape({', '.join(map(str, self.shape))})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Reshape", operands[0], graph.integers(self.shape))


@dataclass(frozen=True)
class Permute(Rearrangement):
    """Axes in another order; the batch stays first."""

    axes: tuple[int, ...]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.axes)

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return x.permuted(self.axes)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Permute(tuple(self.axes.index(axis) for axis in range(len(self.axes))))

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.permute({', '.join(map(str, self.axes))})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Transpose", operands[0], perm=self.axes)


def axis_of(axis: int, value: Array) -> int:
    """Count an axis from the front; the batch axis is refused."""
    axis = axis % len(value.shape)
    if axis == 0:
        raise UnsupportedOperator("an operation along the batch axis mixes samples")
    return axis


def axes_of(axes: Sequence[int] | None, value: Array) -> tuple[int, ...]:
    """Count the axes of a reduction from the front, in order; none at all means every axis."""
    return tuple(sorted(axis_of(axis, value) for axis in axes or range(len(value.shape))))


def rearranged_shape(shape: Sequence[int]) -> Shape:
    """A captured shape with the batch as -1."""
    return tuple(-1 if length % BATCH == 0 and length else int(length) for length in shape)


def reshaped(x: Array, shape: Sequence[int]) -> Array:
    """Reshape, unless the shape stays; a -1 of the user's is worked out."""
    wanted = list(rearranged_shape(shape))
    if wanted.count(-1) > 1:
        # the user's own -1 beside the batch: the batch leads, the rest follows from the sizes
        known = -prod(x.shape)
        rest = prod(length for length in wanted if length != -1)
        last = len(wanted) - 1 - wanted[::-1].index(-1)
        wanted[last] = known // rest
    elif wanted and wanted[0] != -1 and -1 in wanted:
        raise UnsupportedOperator("a reshape moves the batch away from the first axis")
    return x if tuple(wanted) == tuple(x.shape) else Reshape(tuple(wanted))(x)


@from_aten(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _view(x: Array, shape: Sequence[int]) -> Array:
    return reshaped(x, shape)


@from_aten(aten.flatten.using_ints)
def _flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = axis_of(start, x), end % len(x.shape)
    merged = prod(x.shape[start : end + 1])
    return reshaped(x, (*x.shape[:start], merged, *x.shape[end + 1 :]))


@from_aten(aten.unflatten.int)
def _unflatten(x: Array, axis: int, sizes: Sequence[int]) -> Array:
    axis = axis_of(axis, x)
    sizes = list(sizes)
    if -1 in sizes:
        rest = -prod(sizes)
        sizes[sizes.index(-1)] = x.shape[axis] // rest
    return reshaped(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


@from_aten(aten.unsqueeze.default)
def _unsqueeze(x: Array, axis: int) -> Array:
    axis = axis % (len(x.shape) + 1)
    return reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:]))


@from_aten(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(x: Array, axes: int | Sequence[int] | None = None) -> Array:
    if axes is None:
        axes = range(1, len(x.shape))
    chosen = {a % len(x.shape) for a in ([axes] if isinstance(axes, int) else axes)}
    kept = [d for i, d in enumerate(x.shape) if not (i in chosen and d == 1)]
    return reshaped(x, kept)


@from_aten(aten.permute.default)
def _permute(x: Array, axes: Sequence[int]) -> Array:
    order = tuple(axis % len(x.shape) for axis in axes)
    if order[0] != 0:
        raise UnsupportedOperator("a permutation moves the batch away from the first axis")
    return x if order == tuple(range(len(order))) else Permute(order)(x)


@from_aten(aten.transpose.int)
def _transpose(x: Array, first: int, second: int) -> Array:
    order = list(range(len(x.shape)))
    first, second = first % len(order), second % len(order)
    order[first], order[second] = order[second], order[first]
    return _permute(x, order)


@from_aten(aten.pixel_shuffle.default)
def _pixel_shuffle(x: Array, factor: int) -> Array:
    _, channels, height, width = x.shape
    out = channels // factor**2
    x = Reshape((-1, out, factor, factor, height, width))(x)
    x = Permute((0, 1, 4, 2, 5, 3))(x)
    return Reshape((-1, out, height * factor, width * factor))(x)


@from_aten(aten.pixel_unshuffle.default)
def _pixel_unshuffle(x: Array, factor: int) -> Array:
    _, channels, height, width = x.shape
    x = Reshape((-1, channels, height // factor, factor, width // factor, factor))(x)
    x = Permute((0, 1, 3, 5, 2, 4))(x)
    return Reshape((-1, channels * factor**2, height // factor, width // factor))(x)


@from_aten(aten.channel_shuffle.default)
def _channel_shuffle(x: Array, groups: int) -> Array:
    _, channels, *size = x.shape
    x = Reshape((-1, groups, channels // groups, *size))(x)
    x = Permute((0, 2, 1, *range(3, len(size) + 3)))(x)
    return Reshape((-1, channels, *size))(x)
