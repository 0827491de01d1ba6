"""Arithmetic and clamps, entry by entry, broadcasting like torch.

Operands may be Python numbers as well as tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.interval import Interval
from graphprop.ir.operation import Shape
from graphprop.ir.writer import ARITHMETIC, Operand
from graphprop.ops.base import Array, Operator
from graphprop.ops.traits import Signal, Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True)
class Elementwise(Operator):
    """An operator that acts on each entry, broadcasting like torch."""

    inline: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.ENTRYWISE


@dataclass(frozen=True)
class Add(Elementwise):
    """``x + y (+ ...)``: a residual add, or relevance that meets at a fan-out."""

    relevance: ClassVar[str | None] = "share"
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.ALL
    infix: ClassVar[bool] = True
    traits: ClassVar[Trait] = (
        Trait.ENTRYWISE
        | Trait.SUM
        | Trait.ASSOCIATIVE
        | Trait.ORDER_PRESERVING
        | Trait.POOLED_ARITHMETIC
    )

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        return reduce(add, operands)

    def interval(self, *operands: Interval) -> Interval:
        return reduce(add, operands)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (r,) * len(operands)

    def source(self, *operands: str) -> str:
        return " + ".join(operands)

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return reduce(lambda x, y: graph.node("Add", x, y), operands)


@dataclass(frozen=True)
class Subtract(Elementwise):
    """``x - y``."""

    relevance: ClassVar[str | None] = "share"
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.ALL
    infix: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.SUM | Trait.POOLED_ARITHMETIC

    def run(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x - y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] - operands[1]

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return r, -r

    def source(self, *operands: str) -> str:
        return f"{operands[0]} - {operands[1]}"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Sub", *operands)


@dataclass(frozen=True)
class Multiply(Elementwise):
    """``x * y``: a gate, a scale, or the step from a gradient to relevance."""

    relevance: ClassVar[str | None] = "signal"
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.FACTORS
    infix: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.PRODUCT | Trait.POOLED_ARITHMETIC

    def run(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] * operands[1]

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        x, y = operands
        return r * y, r * x

    def source(self, *operands: str) -> str:
        return f"{operands[0]} * {operands[1]}"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Mul", *operands)


@dataclass(frozen=True)
class Divide(Elementwise):
    """``x / y``, y being known not to be zero."""

    relevance: ClassVar[str | None] = "signal"
    signal: ClassVar[Signal | tuple[int, ...]] = (0,)
    infix: ClassVar[bool] = True
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.QUOTIENT | Trait.POOLED_ARITHMETIC

    def run(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x / y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] / operands[1]

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        x, y = operands
        q = r / y
        return q, -q * (x / y)

    def source(self, *operands: str) -> str:
        return f"{operands[0]} / {operands[1]}"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Div", *operands)


@dataclass(frozen=True)
class Negate(Elementwise):
    """``-x``."""

    relevance: ClassVar[str | None] = "pass"
    infix: ClassVar[bool] = True

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return -x

    def interval(self, *operands: Interval) -> Interval:
        return -operands[0]

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (-r,)

    def source(self, *operands: str) -> str:
        return f"-{operands[0]}"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Neg", *operands)


@dataclass(frozen=True)
class Positive(Elementwise):
    """``x+ = max(x, 0)``."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].clipped(low=0.0)

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.clamp(min=0)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Relu", *operands)


@dataclass(frozen=True)
class Negative(Elementwise):
    """``x- = min(x, 0)``."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(max=0)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].clipped(high=0.0)

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.clamp(max=0)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Min", operands[0], graph.number(0.0, like=operands[0]))


@dataclass(frozen=True)
class Absolute(Elementwise):
    """``|x|``."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].size()

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.abs()"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Abs", *operands)


positive = Positive()


negative = Negative()


absolute = Absolute()


ARITHMETIC.update(
    {
        operator.add: Add(),
        operator.sub: Subtract(),
        operator.mul: Multiply(),
        operator.truediv: Divide(),
        operator.neg: Negate(),
    }
)
