"""Windows taken out of a map, put together again, and undone poolings.

Windows are slices set side by side, so that relevance finds its way back through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import facts_of
from graphprop.ir.interval import ZERO, Interval
from graphprop.ir.layout import Layout, resized_to
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops import helpers
from graphprop.ops.base import Array, Ints, Operator, from_aten, is_value, per_axis
from graphprop.ops.padding import Pad, _pad
from graphprop.ops.pool import Places, Route
from graphprop.ops.shape import Permute, Reshape, axis_of
from graphprop.ops.slices import Cat, Slice, entries
from graphprop.ops.sums import Sum

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Unpool(Operator):
    """``Unpool(size)(x, places)``: entries put where a max pool found them, zeros elsewhere."""

    size: tuple[int, ...]
    relevance: ClassVar[str | None] = "rearrange"
    operands: ClassVar[tuple[str, ...]] = ("x", "places")
    helpers: ClassVar[tuple[str, ...]] = ("route",)

    def run(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return helpers.route(x, places, self.size)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | ZERO

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return resized_to(x, shape)

    def lowered(self, *operands: Operand) -> Array:
        return Route(self.size)(*operands)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (Collect()(r, operands[1]),)

    def source(self, *operands: str) -> str:
        return f"route({operands[0]}, {operands[1]}, size={self.size})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return Route(self.size).onnx(graph, *operands)


@dataclass(frozen=True)
class Collect(Operator):
    """The adjoint of `Unpool`: the entries of r at the places of the winners."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("collect",)

    def run(self, r: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return helpers.collect(r, places)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0]

    def source(self, *operands: str) -> str:
        return f"collect({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        r, places = operands
        # places count over the whole tensor
        return graph.node("Gather", graph.node("Reshape", r, graph.integers([-1])), places)


@from_aten(aten.max_unpool2d.default, aten.max_unpool3d.default)
def _max_unpool(x: Array, places: Array, size: Sequence[int], *_: object) -> Array:
    target = getattr(getattr(places, "node", None), "target", None)
    if not isinstance(target, Places):
        raise UnsupportedOperator("an unpooling by indices that no max pool of the network found")
    source = facts_of(places.node.args[0]).value.shape[2:]
    if tuple(size) != tuple(source):
        raise UnsupportedOperator(
            f"an unpooling to {tuple(size)} of a max pool of {tuple(source)}: give it output_size"
        )
    pool = target.pool
    if any(span > step for span, step in zip(pool.kernel, pool.stride, strict=True)):
        raise UnsupportedOperator(
            "an unpooling of overlapping windows: which of two entries is kept is not defined"
        )
    return Unpool(tuple(size))(x, places)


def windows(x: Array, axis: int, span: int, step: int, dilation: int = 1) -> list[Any]:
    """Every window's first entry, every window's second one ..., along an axis."""
    count = (x.shape[axis] - dilation * (span - 1) - 1) // step + 1
    starts = [dilation * index for index in range(span)]
    return [Slice(axis, first, first + (count - 1) * step + 1, step)(x) for first in starts]


@from_aten(aten.unfold.default)
def _unfold(x: Array, axis: int, span: int, step: int) -> Array:
    axis = axis_of(axis, x)
    parts = windows(x, axis, span, step)
    return Cat(len(x.shape))(*(Reshape((*part.shape, 1))(part) for part in parts))


@from_aten(aten.im2col.default)
def _im2col(x: Array, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Array:
    kernel, dilation, padding, stride = (
        per_axis(value, 2) for value in (kernel, dilation, padding, stride)
    )
    if any(padding):
        x = _pad(x, [padding[1], padding[1], padding[0], padding[0]])
    rows = windows(x, 2, kernel[0], stride[0], dilation[0])
    cells = [c for row in rows for c in windows(row, 3, kernel[1], stride[1], dilation[1])]
    channels, places = x.shape[1], prod(cells[0].shape[2:])
    flat = [Reshape((-1, channels, 1, places))(cell) for cell in cells]
    return Reshape((-1, channels * len(cells), places))(Cat(2)(*flat))


@from_aten(aten.col2im.default)
def _col2im(
    x: Array, size: Sequence[int], kernel: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Array:
    """Each entry of every window where it belongs, and the sum of what meets there."""
    kernel, dilation, padding, stride = (
        per_axis(value, 2) for value in (kernel, dilation, padding, stride)
    )
    whole = [length + 2 * pad for length, pad in zip(size, padding, strict=True)]
    counts = [(whole[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    channels = x.shape[1] // prod(kernel)
    cells = Reshape((-1, channels, prod(kernel), *counts))(x)
    if kernel == stride and dilation == (1, 1):
        # windows side by side: a rearrangement
        rows, columns = counts
        cells = Reshape((-1, channels, *kernel, rows, columns))(x)
        cells = Permute((0, 1, 4, 2, 5, 3))(cells)
        total = Reshape((-1, channels, rows * kernel[0], columns * kernel[1]))(cells)
        rest = [length - total.shape[axis + 2] for axis, length in enumerate(whole)]
        if any(rest):
            total = Pad(((0, 0), (0, 0), *((0, amount) for amount in rest)))(total)
    else:
        total = overlapping(cells, kernel, stride, dilation, whole)
    for axis, pad in enumerate(padding):
        total = entries(total, axis + 2, pad, pad + size[axis])
    return total


def overlapping(
    cells: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    whole: Sequence[int],
) -> Array:
    """The sum over the cells of windows ``[N, C, cells, rows, columns]``, each where it belongs."""
    _, channels, count, *counts = cells.shape
    parts = []
    for index in range(count):
        part = Reshape((-1, channels, *counts))(Slice(2, index, index + 1)(cells))
        for axis, place in enumerate(divmod(index, kernel[1])):
            part = spaced(part, axis + 2, place * dilation[axis], stride[axis], whole[axis])
        parts.append(Reshape((-1, channels, 1, *whole))(part))
    return Reshape((-1, channels, *whole))(Sum((2,))(Cat(2)(*parts)))


def spaced(x: Array, axis: int, first: int, step: int, size: int) -> Array:
    """The entries of an axis put ``step`` apart from ``first`` on, on an axis of zeros."""
    rank, length = len(x.shape), x.shape[axis]
    if step > 1:
        shape = x.shape
        wide = Reshape((*shape[: axis + 1], 1, *shape[axis + 1 :]))(x)
        amounts = [(0, 0)] * (rank + 1)
        amounts[axis + 1] = (0, step - 1)
        wide = Pad(tuple(amounts))(wide)
        x = Reshape((*shape[:axis], length * step, *shape[axis + 1 :]))(wide)
        length = (length - 1) * step + 1
        x = entries(x, axis, 0, length)
    amounts = [(0, 0)] * rank
    amounts[axis] = (first, size - first - length)
    return Pad(tuple(amounts))(x) if any(amounts[axis]) else x


@from_aten(aten.index_select.default)
def _index_select(x: Array, axis: int, index: Array) -> Array:
    """Fixed entries of an axis: slices, one after another."""
    if not isinstance(index, torch.Tensor):
        raise UnsupportedOperator("an index that depends on the input: relevance can't follow it")
    axis = axis_of(axis, x)
    places = [int(place) % x.shape[axis] for place in index.flatten()]
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    parts = [entries(x, axis, *run) for run in runs]
    return Cat(axis)(*parts) if len(parts) > 1 else parts[0]


@from_aten(aten.index.Tensor)
def _index(x: Array, indices: Sequence[Array]) -> Array:
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if any(is_value(indices[axis]) for axis in given):
        raise UnsupportedOperator("an index that depends on the input: relevance can't follow it")
    if not isinstance(x, torch.Tensor) and len(given) == 1:
        (axis,) = given
        index = indices[axis]
        index = index.nonzero().flatten() if index.dtype == torch.bool else index
        chosen = _index_select(x, axis, index)
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return chosen if tuple(chosen.shape) == shape else Reshape(shape)(chosen)
    raise UnsupportedOperator("indices along several axes at once: write them one after another")


@from_aten(aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.default)
def _choice(*_: object, **__: object) -> Array:
    raise UnsupportedOperator("an index that depends on the input: relevance can't follow it")
