"""Arithmetic, clamps and guarded divisions: what relevance rules are written with.

Operands may be Python numbers as well as tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch

from graphprop.ir.interval import ONE, ZERO, Interval
from graphprop.ir.operation import Shape
from graphprop.ir.writer import ARITHMETIC
from graphprop.ops import helpers
from graphprop.ops.base import Operator


@dataclass(frozen=True)
class Elementwise(Operator):
    """An operator that acts on each entry, broadcasting like torch."""

    inline: ClassVar[bool] = True


@dataclass(frozen=True)
class Add(Elementwise):
    """``x + y (+ ...)``: a residual add, or relevance that meets at a fan-out."""

    relevance: ClassVar[str | None] = "share"

    def run(self, *operands: Any) -> Any:
        return reduce(add, operands)

    def interval(self, *operands: Interval) -> Interval:
        return reduce(add, operands)

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (r,) * len(operands)

    def source(self, *operands: str) -> str:
        return " + ".join(operands)

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return reduce(lambda x, y: graph.node("Add", x, y), operands)


@dataclass(frozen=True)
class Subtract(Elementwise):
    """``x - y``."""

    relevance: ClassVar[str | None] = "share"

    def run(self, x: Any, y: Any) -> Any:
        return x - y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] - operands[1]

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return r, -r

    def source(self, *operands: str) -> str:
        return f"{operands[0]} - {operands[1]}"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Sub", *operands)


@dataclass(frozen=True)
class Multiply(Elementwise):
    """``x * y``: a gate, a scale, or the step from a gradient to relevance."""

    relevance: ClassVar[str | None] = "signal"

    def run(self, x: Any, y: Any) -> Any:
        return x * y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] * operands[1]

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        x, y = operands
        return r * y, r * x

    def source(self, *operands: str) -> str:
        return f"{operands[0]} * {operands[1]}"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Mul", *operands)


@dataclass(frozen=True)
class Divide(Elementwise):
    """``x / y``, y being known not to be zero."""

    relevance: ClassVar[str | None] = "signal"

    def run(self, x: Any, y: Any) -> Any:
        return x / y

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] / operands[1]

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        x, y = operands
        q = r / y
        return q, -q * (x / y)

    def source(self, *operands: str) -> str:
        return f"{operands[0]} / {operands[1]}"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Div", *operands)


@dataclass(frozen=True)
class Negate(Elementwise):
    """``-x``."""

    relevance: ClassVar[str | None] = "pass"

    def run(self, x: Any) -> Any:
        return -x

    def interval(self, *operands: Interval) -> Interval:
        return -operands[0]

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (-r,)

    def source(self, *operands: str) -> str:
        return f"-{operands[0]}"

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Abs", *operands)


@dataclass(frozen=True)
class Stabilize(Elementwise):
    """``stab(z) = z + epsilon * s(z)`` with s(z) = +1 where z >= 0, zero included, else -1.

    In methods.md's section 0: the denominator that can't vanish.
    """

    epsilon: float
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("stabilize",)

    def run(self, z: torch.Tensor) -> torch.Tensor:
        return helpers.stabilize(z, self.epsilon)

    def interval(self, *operands: Interval) -> Interval:
        z, step = operands[0], Interval.of(self.epsilon)
        if z.low >= 0:
            return z + step
        below = z.clipped(high=0.0) - step
        return below if z.high < 0 else below | z.clipped(low=0.0) + step

    def source(self, *operands: str) -> str:
        return f"stabilize({operands[0]}, {self.epsilon!r})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        z = operands[0]
        epsilon, zero = graph.number(self.epsilon, like=z), graph.number(0.0, like=z)
        below = graph.number(-self.epsilon, like=z)
        signed = graph.node("Where", graph.node("GreaterOrEqual", z, zero), epsilon, below)
        return graph.node("Add", z, signed)


@dataclass(frozen=True)
class DivideOrZero(Elementwise):
    """``a (/) c``: a / c where c is not 0, and exactly 0 where it is.

    A c so small that 1 / c or a / c is infinite counts as 0: the product of infinity with a zero
    beside it would not be a number.
    """

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("divide_or_zero",)

    def run(self, a: Any, c: torch.Tensor) -> torch.Tensor:
        return helpers.divide_or_zero(a, c)

    def interval(self, *operands: Interval) -> Interval:
        a, c = operands
        return ZERO if c == ZERO else a / c | ZERO

    def source(self, *operands: str) -> str:
        return f"divide_or_zero({', '.join(operands)})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        a, c = operands
        quotient = graph.node("Div", a, c)
        small = graph.node("IsInf", graph.node("Reciprocal", c))
        lost = graph.node("Or", small, graph.node("IsInf", quotient))
        return graph.node("Where", lost, graph.number(0.0, like=c), quotient)


@dataclass(frozen=True)
class KeepWhere(Elementwise):
    """``x`` where ``c`` compares with zero as said, 0 elsewhere."""

    comparison: str
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    KNOWN: ClassVar[dict[str, tuple[Any, str]]] = {
        "==": (torch.eq, "Equal"),
        "!=": (torch.ne, "Equal"),
        ">": (torch.gt, "Greater"),
        ">=": (torch.ge, "GreaterOrEqual"),
        "<": (torch.lt, "Less"),
        "<=": (torch.le, "LessOrEqual"),
    }

    def run(self, c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.KNOWN[self.comparison][0](c, 0), x, 0.0)

    def interval(self, *operands: Interval) -> Interval:
        return operands[1] | ZERO

    def source(self, *operands: str) -> str:
        c, x = operands
        return f"torch.where({c} {self.comparison} 0, {x}, 0.0)"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        c, x = operands
        zero = graph.number(0.0, like=c)
        condition = graph.node(self.KNOWN[self.comparison][1], c, zero)
        chosen = (zero, x) if self.comparison == "!=" else (x, zero)
        return graph.node("Where", condition, *chosen)


@dataclass(frozen=True)
class OnesLike(Operator):
    """A tensor of ones with the shape of its operand."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)

    def interval(self, *operands: Interval) -> Interval:
        return ONE

    def source(self, *operands: str) -> str:
        return f"torch.ones_like({operands[0]})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.filled(1.0, graph.node("Shape", operands[0]), like=operands[0])


@dataclass(frozen=True)
class Ones(Operator):
    """A constant of ones, of a given shape, with the data type of its operand."""

    shape: Shape
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_ones(self.shape)

    def interval(self, *operands: Interval) -> Interval:
        return ONE

    def source(self, *operands: str) -> str:
        return f"{operands[0]}.new_ones({self.shape})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.filled(1.0, graph.integers(self.shape), like=operands[0])


@dataclass(frozen=True)
class Numbers(Operator):
    """A constant of a few given numbers, of the given shape, with its operand's data type."""

    numbers: tuple[float, ...]
    shape: Shape
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_tensor(self.numbers).reshape(self.shape)

    def interval(self, *operands: Interval) -> Interval:
        return Interval.of(*self.numbers)

    def source(self, *operands: str) -> str:
        shape = ", ".join(map(str, self.shape))
        return f"{operands[0]}.new_tensor({list(self.numbers)}).reshape({shape})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.numbers(self.numbers, self.shape, like=operands[0])


positive = Positive()
negative = Negative()
absolute = Absolute()
divide_or_zero = DivideOrZero()
ones_like = OnesLike()


def stabilize(z: Any, epsilon: float) -> Any:
    """``stab(z)``: see :class:`Stabilize`."""
    return Stabilize(float(epsilon))(z)


def keep_where(c: Any, comparison: str, x: Any) -> Any:
    """``x`` where ``c`` compares with zero as said (``">"``, ``"=="`` ...), 0 elsewhere."""
    return KeepWhere(comparison)(c, x)


def ones(like: Any, shape: Shape) -> Any:
    """A constant of ones of ``shape``, with the data type of ``like``."""
    return Ones(tuple(shape))(like)


ARITHMETIC.update(
    {
        operator.add: Add(),
        operator.sub: Subtract(),
        operator.mul: Multiply(),
        operator.truediv: Divide(),
        operator.neg: Negate(),
    }
)
