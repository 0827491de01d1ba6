"""Sums and means along axes, and their adjoints, which broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import ZERO, Interval
from graphprop.ir.layout import (
    CHANNEL,
    PLACE,
    Factor,
    Layout,
    resized_to,
    sizes,
)
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.shape import Rearrangement, Reshape, _squeeze, axes_of
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Expand(Rearrangement):
    """Axes of length 1 repeated to the given shape."""

    shape: Shape
    inline: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.REARRANGEMENT | Trait.ALIGNMENT | Trait.ENTRYWISE

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(self.shape)

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return resized_to(x, shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Expand(shapes[0])

    def even(self, shape: Shape) -> Operator:
        """Spread a result evenly over what it sums."""
        return Spread(shape, prod(shape[axis] for axis in self.axes))

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.sum({self.axes}, keepdim=True)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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


@from_aten(aten.expand.default)
def _expand(x: Array, shape: Sequence[int]) -> Array:
    added = len(shape) - len(x.shape)
    if added:
        raise UnsupportedOperator("an expand that adds axes in front moves the batch")
    full = (-1, *(o if d == -1 else d for d, o in zip(shape[1:], x.shape[1:], strict=True)))
    return x if full == tuple(x.shape) else Expand(full)(x)


@from_aten(aten.sum.dim_IntList)
def _sum(
    x: Array, axes: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Array:
    chosen = axes_of(axes, x)
    total = Sum(chosen)(x)
    return total if keepdim else _squeeze(total, chosen)
