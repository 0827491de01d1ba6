"""Rearrangements: relevance goes back through their adjoints.

Shapes are given with -1 for the batch axis, so that one graph serves every batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH, facts_of
from graphprop.ir.interval import ZERO, Interval
from graphprop.ir.layout import (
    CHANNEL,
    PLACE,
    Factor,
    Layout,
    concatenated,
    guessed,
    resized_to,
    sizes,
)
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Value
from graphprop.ops import helpers
from graphprop.ops.base import Operator, from_aten
from graphprop.ops.elementwise import Multiply
from graphprop.ops.traits import Signal, Trait

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

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        return guessed(shape) if x is None else x.regrouped(shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Reshape(shapes[0])

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.reshape({', '.join(map(str, self.shape))})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Reshape", operands[0], graph.integers(self.shape))


@dataclass(frozen=True)
class Permute(Rearrangement):
    """Axes in another order; the batch stays first."""

    axes: tuple[int, ...]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.axes)

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        return guessed(shape) if x is None else x.permuted(self.axes)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Permute(tuple(self.axes.index(axis) for axis in range(len(self.axes))))

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.permute({', '.join(map(str, self.axes))})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Transpose", operands[0], perm=self.axes)


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

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        return guessed(shape) if x is None else x.resized(self.axis, shape[self.axis])

    def adjoint(self, *shapes: Shape) -> Operator:
        return Unslice(self.axis, self.start, self.stop, self.step, shapes[0][self.axis])

    def source(self, *operands: str) -> str:
        step = f":{self.step}" if self.step != 1 else ""
        before = ":, " * self.axis
        return f"{operands[0]}[{before}{self.start}:{self.stop}{step}]"

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
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
class Pad(Rearrangement):
    """A constant around the value, (before, after) per axis; negative amounts crop."""

    amounts: tuple[tuple[int, int], ...]
    value: float = 0.0

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, self._torch_amounts(), value=self.value)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | Interval.of(self.value)

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        return guessed(shape) if x is None else resized_to(x, shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Pad(tuple((-before, -after) for before, after in self.amounts))

    def source(self, *operands: str) -> str:
        value = f", value={self.value!r}" if self.value else ""
        amounts = ", ".join(map(str, self._torch_amounts()))
        return f"F.pad({operands[0]}, ({amounts}){value})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x = operands[0]
        # onnx.reference can't crop by padding
        cropped = [axis for axis, pair in enumerate(self.amounts) if min(pair) < 0]
        if cropped:
            starts = [max(-self.amounts[axis][0], 0) for axis in cropped]
            ends = [min(self.amounts[axis][1], 0) or 2**31 for axis in cropped]
            x = graph.node("Slice", x, *map(graph.integers, (starts, ends, cropped)))
        sides = [*zip(*self.amounts, strict=True)]
        amounts = [max(amount, 0) for side in sides for amount in side]
        if not any(amounts):
            return x
        return graph.node("Pad", x, graph.integers(amounts), graph.number(self.value, like=x))

    def _torch_amounts(self) -> list[int]:
        amounts = list(self.amounts)
        while amounts and amounts[0] == (0, 0):
            amounts.pop(0)
        return [amount for pair in reversed(amounts) for amount in pair]


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

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return tuple(self.part(index, shapes)(r) for index in range(len(operands)))

    def source(self, *operands: str) -> str:
        return f"torch.cat([{', '.join(operands)}], dim={self.axis})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
        backward = graph.integers([-1] * len(self.axes))
        lowest = graph.integers([-(2**31)] * len(self.axes))
        return graph.node(
            "Slice", operands[0], backward, lowest, graph.integers(self.axes), backward
        )


@dataclass(frozen=True)
class Expand(Rearrangement):
    """Axes of length 1 repeated to the given shape."""

    shape: Shape
    inline: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.REARRANGEMENT | Trait.ALIGNMENT | Trait.ENTRYWISE

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(self.shape)

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        if x is None:
            return guessed(shape)
        pairs = enumerate(zip(sizes(x), shape[1:], strict=True))
        axes = list(x.axes)
        for index in (index for index, (before, after) in pairs if before != after):
            # a length of 1 that a reshape put there: places, if there are channels elsewhere
            unknown = PLACE if any(f.kind == CHANNEL for axis in x.axes for f in axis) else CHANNEL
            kind = axes[index][0].kind if axes[index] else unknown
            axes[index] = (Factor(kind, shape[index + 1], varies=False),)
        return Layout(tuple(axes))

    def adjoint(self, *shapes: Shape) -> Operator:
        pairs = enumerate(zip(shapes[0], self.shape, strict=True))
        repeated = tuple(axis for axis, (before, after) in pairs if before == 1 != after)
        # a sum along no axis would be one along all
        return Sum(repeated) if repeated else Reshape(shapes[0])

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.expand({', '.join(map(str, self.shape))})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        shape = [max(length, 1) for length in self.shape]
        return graph.node("Expand", operands[0], graph.integers(shape))


@dataclass(frozen=True)
class Sum(Operator):
    """The sum along axes, which stay with length 1."""

    axes: tuple[int, ...]
    relevance: ClassVar[str | None] = "proportional"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.AXIS_SUM

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(self.axes, keepdim=True)

    def interval_at(self, shapes: Sequence[Shape], *operands: Interval) -> Interval:
        return operands[0].times(prod(shapes[0][axis] for axis in self.axes))

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        (x,) = operands
        return guessed(shape) if x is None else resized_to(x, shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Expand(shapes[0])

    def even(self, shape: Shape) -> Operator:
        """Spread a result evenly over what it sums."""
        return Spread(shape, prod(shape[axis] for axis in self.axes))

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.sum({self.axes}, keepdim=True)"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("ReduceSum", operands[0], graph.integers(self.axes), keepdims=1)


@dataclass(frozen=True)
class Mean(Sum):
    """The mean along axes, which stay with length 1."""

    traits: ClassVar[Trait] = Trait.REDUCTION

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes, keepdim=True)

    def interval_at(self, shapes: Sequence[Shape], *operands: Interval) -> Interval:
        return operands[0].widened()

    def adjoint(self, *shapes: Shape) -> Operator:
        return self.even(shapes[0])

    def source(self, *operands: str) -> str:
        return f"torch.mean({operands[0]}, {self.axes}, keepdim=True)"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("ReduceMean", operands[0], graph.integers(self.axes), keepdims=1)


@dataclass(frozen=True)
class Spread(Rearrangement):
    """One entry's value divided evenly among ``count`` entries."""

    shape: Shape
    count: int
    levels: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | ZERO

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.count).expand(self.shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        pairs = enumerate(zip(shapes[0], self.shape, strict=True))
        return Mean(tuple(axis for axis, (before, after) in pairs if before == 1 != after))


def axis_of(axis: int, value: Any) -> int:
    """Count an axis from the front; the batch axis is refused."""
    axis = axis % len(value.shape)
    if axis == 0:
        raise UnsupportedOperator("an operation along the batch axis mixes samples")
    return axis


def axes_of(axes: Sequence[int] | None, value: Any) -> tuple[int, ...]:
    """Count the axes of a reduction from the front, in order; none at all means every axis."""
    return tuple(sorted(axis_of(axis, value) for axis in axes or range(len(value.shape))))


def rearranged_shape(shape: Sequence[int]) -> Shape:
    """A captured shape with the batch as -1."""
    return tuple(-1 if length % BATCH == 0 and length else int(length) for length in shape)


def reshaped(x: Any, shape: Sequence[int]) -> Any:
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
def _view(x: Any, shape: Sequence[int]) -> Any:
    return reshaped(x, shape)


@from_aten(aten.flatten.using_ints)
def _flatten(x: Any, start: int = 0, end: int = -1) -> Any:
    start, end = axis_of(start, x), end % len(x.shape)
    merged = prod(x.shape[start : end + 1])
    return reshaped(x, (*x.shape[:start], merged, *x.shape[end + 1 :]))


@from_aten(aten.unflatten.int)
def _unflatten(x: Any, axis: int, sizes: Sequence[int]) -> Any:
    axis = axis_of(axis, x)
    sizes = list(sizes)
    if -1 in sizes:
        rest = -prod(sizes)
        sizes[sizes.index(-1)] = x.shape[axis] // rest
    return reshaped(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


@from_aten(aten.unsqueeze.default)
def _unsqueeze(x: Any, axis: int) -> Any:
    axis = axis % (len(x.shape) + 1)
    return reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:]))


@from_aten(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(x: Any, axes: int | Sequence[int] | None = None) -> Any:
    if axes is None:
        axes = range(1, len(x.shape))
    chosen = {a % len(x.shape) for a in ([axes] if isinstance(axes, int) else axes)}
    kept = [d for i, d in enumerate(x.shape) if not (i in chosen and d == 1)]
    return reshaped(x, kept)


@from_aten(aten.permute.default)
def _permute(x: Any, axes: Sequence[int]) -> Any:
    order = tuple(axis % len(x.shape) for axis in axes)
    if order[0] != 0:
        raise UnsupportedOperator("a permutation moves the batch away from the first axis")
    return x if order == tuple(range(len(order))) else Permute(order)(x)


@from_aten(aten.transpose.int)
def _transpose(x: Any, first: int, second: int) -> Any:
    order = list(range(len(x.shape)))
    first, second = first % len(order), second % len(order)
    order[first], order[second] = order[second], order[first]
    return _permute(x, order)


@from_aten(aten.slice.Tensor)
def _slice(
    x: Any, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Any:
    rank = len(x.shape)
    if axis % rank == 0 and start in (None, 0) and (stop is None or stop > 2**31) and step == 1:
        return x
    axis = axis_of(axis, x)
    first, last, step = slice(start, stop, step).indices(x.shape[axis])
    if (first, last, step) == (0, x.shape[axis], 1):
        return x
    return Slice(axis, first, max(first, last), step)(x)


@from_aten(aten.slice_scatter.default)
def _slice_scatter(
    x: Any,
    new: Any,
    axis: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Any:
    """A slice written anew: what lies before it, the new entries, and what lies behind."""
    axis = axis % len(x.shape)
    if start in (None, 0) and (stop is None or stop > 2**31) and step == 1:
        return new
    axis = axis_of(axis, x)
    length = x.shape[axis]
    first, last, step = slice(start, stop, step).indices(length)
    if step != 1:
        return _every_written(x, new, axis, range(first, last, step))
    parts = [entries(x, axis, 0, first), new, entries(x, axis, last, length)]
    return _cat([part for part in parts if part.shape[axis]], axis)


def _every_written(x: Any, new: Any, axis: int, places: range) -> Any:
    """Entries in some places written anew: one after another."""
    parts, done = [], 0
    for count, place in enumerate(places):
        parts += [entries(x, axis, done, place), entries(new, axis, count, count + 1)]
        done = place + 1
    parts.append(entries(x, axis, done, x.shape[axis]))
    return _cat([part for part in parts if part.shape[axis]], axis)


def entries(x: Any, axis: int, start: int, stop: int) -> Any:
    """The entries from ``start`` to ``stop`` of an axis, of a value or a constant."""
    if isinstance(x, torch.Tensor):
        return x.narrow(axis, start, stop - start)
    return x if (start, stop) == (0, x.shape[axis]) else Slice(axis, start, stop)(x)


@from_aten(aten.select_scatter.default)
def _select_scatter(x: Any, new: Any, axis: int, index: int) -> Any:
    axis = axis_of(axis, x)
    index = index % x.shape[axis]
    new = new.unsqueeze(axis) if isinstance(new, torch.Tensor) else _unsqueeze(new, axis)
    return _slice_scatter(x, new, axis, index, index + 1)


@from_aten(aten.copy.default)
def _copy(x: Any, new: Any, non_blocking: bool = False) -> Any:
    """What is written over x: another value or constant, broadcast to its shape."""
    if isinstance(new, torch.Tensor):
        return new.expand([BATCH if length == -1 else length for length in x.shape])
    while len(new.shape) < len(x.shape):
        new = Reshape((-1, 1, *new.shape[1:]))(new)
    wanted = (-1, *x.shape[1:])
    return new if tuple(new.shape) == wanted else Expand(wanted)(new)


@from_aten(aten.fill.Scalar, aten.fill.Tensor)
def _fill(x: Any, value: Any) -> Any:
    return filled(x, x.shape, float(value), None)


@from_aten(aten.narrow.default)
def _narrow(x: Any, axis: int, start: int, length: int) -> Any:
    return _slice(x, axis, start, start + length)


@from_aten(aten.select.int)
def _select(x: Any, axis: int, index: int) -> Any:
    axis = axis_of(axis, x)
    index = index % x.shape[axis]
    return _squeeze(_slice(x, axis, index, index + 1), axis)


@from_aten(aten.split.Tensor)
def _split(x: Any, size: int, axis: int = 0) -> Any:
    axis = axis_of(axis, x)
    return [_slice(x, axis, i, i + size) for i in range(0, x.shape[axis], size)]


@from_aten(aten.split_with_sizes.default, aten.split.sizes)
def _split_with_sizes(x: Any, sizes: Sequence[int], axis: int = 0) -> Any:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_narrow(x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


@from_aten(aten.chunk.default)
def _chunk(x: Any, chunks: int, axis: int = 0) -> Any:
    axis = axis_of(axis, x)
    return _split(x, -(-x.shape[axis] // chunks), axis)


@from_aten(aten.unbind.int)
def _unbind(x: Any, axis: int = 0) -> Any:
    axis = axis_of(axis, x)
    return [_select(x, axis, index) for index in range(x.shape[axis])]


@from_aten(aten.cat.default)
def _cat(values: Sequence[Any], axis: int = 0) -> Any:
    first = next(value for value in values if isinstance(value, Value))
    axis = axis_of(axis, first)
    if any(not isinstance(value, Value) for value in values):
        # a constant beside values: give it the batch
        values = [v if isinstance(v, Value) else _with_batch(v, first) for v in values]
    return Cat(axis)(*values)


def one_sample(constant: torch.Tensor) -> torch.Tensor:
    """A constant that was made as large as the batch, for one sample."""
    if constant.dim() == 0 or not constant.shape[0] or constant.shape[0] % BATCH:
        return constant
    if constant.stride(0) and not torch.equal(constant, constant[:1].expand_as(constant)):
        raise UnsupportedOperator("a constant that differs from sample to sample mixes samples")
    return constant[:1].clone()


def _with_batch(constant: torch.Tensor, like: Any) -> Any:
    """A constant as a value: added to a zero that has the batch of ``like``.

    The zero is a piece of padding, so that its relevance is nobody's.
    """
    constant = one_sample(constant).to(like.dtype)
    one = Slice(1, 0, 1)(like)
    if len(one.shape) > 2:
        one = Slice(2, 0, 1)(Reshape((-1, 1, prod(one.shape[2:])))(one))
    one = Reshape((-1, 1))(one)
    padding = Slice(1, 0, 1)(Pad(((0, 0), (1, 0)), 0.0)(one))
    zero = Multiply()(Reshape((-1, *[1] * (constant.dim() - 1)))(padding), 0.0)
    return Expand((-1, *constant.shape[1:]))(zero) + constant


@from_aten(aten.stack.default)
def _stack(values: Sequence[Any], axis: int = 0) -> Any:
    return _cat(
        [_unsqueeze(v, axis % (len(v.shape) + 1)) for v in values],
        axis % (len(values[0].shape) + 1),
    )


@from_aten(aten.pad.default)
def _pad(x: Any, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    pairs = [(int(amounts[i]), int(amounts[i + 1])) for i in range(0, len(amounts), 2)]
    full = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs[::-1]
    if full[0] != (0, 0):
        raise UnsupportedOperator("padding along the batch axis adds samples")
    for axis, (before, after) in enumerate(full):
        # a negative amount crops: what is cut off is no part of the layer behind, as padding is
        x = entries(x, axis, max(-before, 0), x.shape[axis] - max(-after, 0)) if axis else x
    full = [(max(before, 0), max(after, 0)) for before, after in full]
    if mode == "constant":
        return Pad(tuple(full), float(value or 0.0))(x) if any(map(any, full)) else x
    for axis, (before, after) in enumerate(full):
        x = _pad_by_copying(x, axis, before, after, mode)
    return x


def _pad_by_copying(x: Any, axis: int, before: int, after: int, mode: str) -> Any:
    """Pad one axis with copies of its own entries: reflect, replicate, circular."""
    length = x.shape[axis]
    parts = [x]
    if before > 0:
        parts.insert(0, _border(x, axis, mode, before, length, front=True))
    if after > 0:
        parts.append(_border(x, axis, mode, after, length, front=False))
    return Cat(axis)(*parts) if len(parts) > 1 else x


def _border(x: Any, axis: int, mode: str, amount: int, length: int, *, front: bool) -> Any:
    if mode == "reflect":
        span = (1, amount + 1) if front else (length - amount - 1, length - 1)
        return Flip((axis,))(Slice(axis, *span)(x))
    if mode == "circular":
        return Slice(axis, *((length - amount, length) if front else (0, amount)))(x)
    if mode == "replicate":
        edge = Slice(axis, *((0, 1) if front else (length - 1, length)))(x)
        return Expand((*x.shape[:axis], amount, *x.shape[axis + 1 :]))(edge)
    raise UnsupportedOperator(f"padding of mode {mode!r} has no relevance rule")


@from_aten(aten.constant_pad_nd.default)
def _constant_pad(x: Any, amounts: Sequence[int], value: float = 0.0) -> Any:
    return _pad(x, amounts, "constant", value)


@from_aten(aten.flip.default)
def _flip(x: Any, axes: Sequence[int]) -> Any:
    return Flip(tuple(axis_of(axis, x) for axis in axes))(x)


@from_aten(aten.roll.default)
def _roll(x: Any, shifts: Sequence[int], axes: Sequence[int] = ()) -> Any:
    for shift, axis in zip(shifts, axes, strict=True):
        axis = axis_of(axis, x)
        cut = -shift % x.shape[axis]
        if cut:
            x = Cat(axis)(_slice(x, axis, cut, x.shape[axis]), _slice(x, axis, 0, cut))
    return x


@from_aten(aten.expand.default)
def _expand(x: Any, shape: Sequence[int]) -> Any:
    added = len(shape) - len(x.shape)
    if added:
        raise UnsupportedOperator("an expand that adds axes in front moves the batch")
    full = (-1, *(o if d == -1 else d for d, o in zip(shape[1:], x.shape[1:], strict=True)))
    return x if full == tuple(x.shape) else Expand(full)(x)


@from_aten(aten.repeat.default)
def _repeat(x: Any, counts: Sequence[int]) -> Any:
    if len(counts) != len(x.shape) or counts[0] != 1:
        raise UnsupportedOperator("a repeat along the batch axis mixes samples")
    for axis, count in enumerate(counts):
        if count > 1:
            x = Cat(axis)(*[x] * count)
    return x


@from_aten(aten.tile.default)
def _tile(x: Any, counts: Sequence[int]) -> Any:
    return _repeat(x, [1] * (len(x.shape) - len(counts)) + list(counts))


@from_aten(aten.pixel_shuffle.default)
def _pixel_shuffle(x: Any, factor: int) -> Any:
    _, channels, height, width = x.shape
    out = channels // factor**2
    x = Reshape((-1, out, factor, factor, height, width))(x)
    x = Permute((0, 1, 4, 2, 5, 3))(x)
    return Reshape((-1, out, height * factor, width * factor))(x)


@from_aten(aten.pixel_unshuffle.default)
def _pixel_unshuffle(x: Any, factor: int) -> Any:
    _, channels, height, width = x.shape
    x = Reshape((-1, channels, height // factor, factor, width // factor, factor))(x)
    x = Permute((0, 1, 3, 5, 2, 4))(x)
    return Reshape((-1, channels * factor**2, height // factor, width // factor))(x)


@from_aten(aten.channel_shuffle.default)
def _channel_shuffle(x: Any, groups: int) -> Any:
    _, channels, *size = x.shape
    x = Reshape((-1, groups, channels // groups, *size))(x)
    x = Permute((0, 2, 1, *range(3, len(size) + 3)))(x)
    return Reshape((-1, channels, *size))(x)


@from_aten(aten.sum.dim_IntList)
def _sum(x: Any, axes: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    chosen = axes_of(axes, x)
    total = Sum(chosen)(x)
    return total if keepdim else _squeeze(total, chosen)


@from_aten(
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.type_as.default,
)
def _identity(x: Any, *arguments: Any, **options: Any) -> Any:
    for option in (*arguments, *options.values()):
        if not facts_of(x.node).varies:
            break  # a mask has no fraction
        if isinstance(option, torch.dtype) and not option.is_floating_point:
            raise UnsupportedOperator(
                f"a cast to {option} loses the fraction: it has no relevance rule"
            )
    return x


def filled(like: Any, shape: Sequence[int], value: float, dtype: Any) -> torch.Tensor:
    """A constant: one row, repeated for the batch without memory where that leads the shape."""
    lengths = [BATCH if length == -1 else int(length) for length in shape]
    rows = lengths and lengths[0] and lengths[0] % BATCH == 0
    kept = [1, *lengths[1:]] if rows else lengths
    full: torch.Tensor = torch.full(kept, value, dtype=dtype or like.dtype)
    return full.expand(lengths)


@from_aten(aten.zeros_like.default, aten.new_zeros.default)
def _zeros(x: Any, shape: Sequence[int] | None = None, *, dtype: Any = None, **_: Any) -> Any:
    return filled(x, x.shape if shape is None else shape, 0, dtype)


@from_aten(aten.ones_like.default, aten.new_ones.default)
def _ones(x: Any, shape: Sequence[int] | None = None, *, dtype: Any = None, **_: Any) -> Any:
    return filled(x, x.shape if shape is None else shape, 1, dtype)


@from_aten(aten.full_like.default)
def _full_like(x: Any, value: float, *, dtype: Any = None, **_: Any) -> Any:
    return filled(x, x.shape, value, dtype)


@from_aten(aten.new_full.default)
def _new_full(x: Any, shape: Sequence[int], value: float, *, dtype: Any = None, **_: Any) -> Any:
    return filled(x, shape, value, dtype)


LIKE = (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default),
)
"""What makes a constant of the shape or type of a value."""


@from_aten(aten._assert_tensor_metadata.default)
def _nothing(*_: Any, **__: Any) -> None:
    return None
