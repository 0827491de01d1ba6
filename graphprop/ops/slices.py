"""Slices, reversals and concatenation; relevance goes back through their adjoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import ZERO, Interval
from graphprop.ir.layout import (
    Layout,
    concatenated,
)
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops import helpers
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.shape import Rearrangement, _squeeze, axis_of
from graphprop.ops.traits import Signal, Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Slice(Rearrangement):
    """Every ``step``-th entry from ``start`` up to ``stop`` along an axis."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def run(self, x: torch.Tensor) -> torch.Tensor:
        index = [slice(None)] * x.dim()
        index[self.axis] = slice(self.start, self.stop, self.step)
        return x[tuple(index)]

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return x.resized(self.axis, shape[self.axis])

    def adjoint(self, *shapes: Shape) -> Operator:
        return Unslice(self.axis, self.start, self.stop, self.step, shapes[0][self.axis])

    def source(self, *operands: str) -> str:
        step = f":{self.step}" if self.step != 1 else ""
        before = ":, " * self.axis
        return f"{operands[0]}[{before}{self.start}:{self.stop}{step}]"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        limits = [(self.start,), (self.stop,), (self.axis,), (self.step,)]
        return graph.node("Slice", operands[0], *map(graph.integers, limits))


@dataclass(frozen=True)
class Unslice(Rearrangement):
    """The adjoint of `Slice`: entries put back in their places, zeros elsewhere."""

    axis: int
    start: int
    stop: int
    step: int
    size: int
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("unslice",)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | ZERO

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return helpers.unslice(x, self.axis, self.start, self.step, self.size)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Slice(self.axis, self.start, self.stop, self.step)

    def source(self, *operands: str) -> str:
        step = f", step={self.step}" if self.step != 1 else ", step=1"
        return (
            f"unslice({operands[0]}, axis={self.axis}, start={self.start}{step}, size={self.size})"
        )

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        shape = graph.shape(x)
        rank, length = len(shape), shape[self.axis]
        if self.step > 1:
            widened = (*shape[: self.axis], length, 1, *shape[self.axis + 1 :])
            x = graph.node("Reshape", x, graph.integers(widened))
            amounts = [0] * (2 * rank + 2)
            amounts[rank + 1 + self.axis + 1] = self.step - 1
            x = graph.node("Pad", x, graph.integers(amounts))
            length *= self.step
            flat = (*shape[: self.axis], length, *shape[self.axis + 1 :])
            x = graph.node("Reshape", x, graph.integers(flat))
        behind = self.size - self.start - length
        if behind < 0:
            # onnx.reference can't crop by padding
            limits = [(0,), (length + behind,), (self.axis,)]
            x = graph.node("Slice", x, *map(graph.integers, limits))
        amounts = [0] * (2 * rank)
        amounts[self.axis] = self.start
        amounts[rank + self.axis] = max(behind, 0)
        return graph.node("Pad", x, graph.integers(amounts))


@dataclass(frozen=True)
class Cat(Rearrangement):
    """Values one after another along an axis."""

    axis: int
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.ALL
    traits: ClassVar[Trait] = Trait.REARRANGEMENT | Trait.CONCATENATION

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        return torch.cat(operands, self.axis)

    def interval(self, *operands: Interval) -> Interval:
        return reduce(or_, operands)

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        known = [x for x in operands if x is not None]
        return concatenated(shape, known, self.axis)

    def part(self, index: int, shapes: Sequence[Shape]) -> Slice:
        """The slice of the result that operand ``index`` fills: its adjoint."""
        start = sum(shape[self.axis] for shape in shapes[:index])
        return Slice(self.axis, start, start + shapes[index][self.axis])

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return tuple(self.part(index, shapes)(r) for index in range(len(operands)))

    def source(self, *operands: str) -> str:
        return f"torch.cat([{', '.join(operands)}], dim={self.axis})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Concat", *operands, axis=self.axis)


@dataclass(frozen=True)
class Flip(Rearrangement):
    """Entries in reverse order along axes."""

    axes: tuple[int, ...]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(self.axes)

    def adjoint(self, *shapes: Shape) -> Operator:
        return self

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.flip({', '.join(map(str, self.axes))})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        backward = graph.integers([graph.FROM_THE_END] * len(self.axes))
        lowest = graph.integers([graph.TO_THE_FRONT] * len(self.axes))
        return graph.node(
            "Slice", operands[0], backward, lowest, graph.integers(self.axes), backward
        )


@from_aten(aten.slice.Tensor)
def _slice(
    x: Array, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Array:
    rank = len(x.shape)
    # torch.export writes a slice of everything, x[:], with the largest int64 as its end
    if axis % rank == 0 and start in (None, 0) and (stop is None or stop > 2**31) and step == 1:
        return x
    axis = axis_of(axis, x)
    first, last, step = slice(start, stop, step).indices(x.shape[axis])
    if (first, last, step) == (0, x.shape[axis], 1):
        return x
    return Slice(axis, first, max(first, last), step)(x)


def entries(x: Array, axis: int, start: int, stop: int) -> Array:
    """The entries from ``start`` to ``stop`` of an axis, of a value or a constant."""
    if isinstance(x, torch.Tensor):
        return x.narrow(axis, start, stop - start)
    return x if (start, stop) == (0, x.shape[axis]) else Slice(axis, start, stop)(x)


@from_aten(aten.narrow.default)
def _narrow(x: Array, axis: int, start: int, length: int) -> Array:
    return _slice(x, axis, start, start + length)


@from_aten(aten.select.int)
def _select(x: Array, axis: int, index: int) -> Array:
    axis = axis_of(axis, x)
    index = index % x.shape[axis]
    return _squeeze(_slice(x, axis, index, index + 1), axis)


@from_aten(aten.split.Tensor)
def _split(x: Array, size: int, axis: int = 0) -> list[Array]:
    axis = axis_of(axis, x)
    return [_slice(x, axis, i, i + size) for i in range(0, x.shape[axis], size)]


@from_aten(aten.split_with_sizes.default, aten.split.sizes)
def _split_with_sizes(x: Array, sizes: Sequence[int], axis: int = 0) -> list[Array]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_narrow(x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


@from_aten(aten.chunk.default)
def _chunk(x: Array, chunks: int, axis: int = 0) -> list[Array]:
    axis = axis_of(axis, x)
    return _split(x, -(-x.shape[axis] // chunks), axis)


@from_aten(aten.unbind.int)
def _unbind(x: Array, axis: int = 0) -> list[Array]:
    axis = axis_of(axis, x)
    return [_select(x, axis, index) for index in range(x.shape[axis])]


@from_aten(aten.flip.default)
def _flip(x: Array, axes: Sequence[int]) -> Array:
    return Flip(tuple(axis_of(axis, x) for axis in axes))(x)


@from_aten(aten.roll.default)
def _roll(x: Array, shifts: Sequence[int], axes: Sequence[int] = ()) -> Array:
    for shift, axis in zip(shifts, axes, strict=True):
        axis = axis_of(axis, x)
        cut = -shift % x.shape[axis]
        if cut:
            x = Cat(axis)(_slice(x, axis, cut, x.shape[axis]), _slice(x, axis, 0, cut))
    return x


@from_aten(aten.repeat.default)
def _repeat(x: Array, counts: Sequence[int]) -> Array:
    if len(counts) != len(x.shape) or counts[0] != 1:
        raise UnsupportedOperator("a repeat along the batch axis mixes samples")
    for axis, count in enumerate(counts):
        if count > 1:
            x = Cat(axis)(*[x] * count)
    return x


@from_aten(aten.tile.default)
def _tile(x: Array, counts: Sequence[int]) -> Array:
    return _repeat(x, [1] * (len(x.shape) - len(counts)) + list(counts))
