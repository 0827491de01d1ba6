"""What relevance rules are written with: divisions guarded against zero, choices by sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from graphprop.ir.interval import UNIT, ZERO, Interval
from graphprop.ops import helpers
from graphprop.ops.base import Array
from graphprop.ops.elementwise import Elementwise

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True)
class Stabilize(Elementwise):
    """``stab(z) = z + epsilon * s(z)`` with s(z) = +1 where z >= 0, zero included, else -1.

    In docs/methods.md's section 0: the denominator that can't vanish.
    """

    epsilon: float
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("stabilize",)
    calls: ClassVar[tuple[str, ...]] = ("clone", "ge_", "sub_")

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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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
    calls: ClassVar[tuple[str, ...]] = ("mul_",)

    def run(self, a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return helpers.divide_or_zero(a, c)

    def interval(self, *operands: Interval) -> Interval:
        a, c = operands
        return ZERO if c == ZERO else a / c | ZERO

    def source(self, *operands: str) -> str:
        return f"divide_or_zero({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        a, c = operands
        quotient = graph.node("Div", a, c)
        small = graph.node("IsInf", graph.node("Reciprocal", c))
        lost = graph.node("Or", small, graph.node("IsInf", quotient))
        return graph.node("Where", lost, graph.number(0.0, like=c), quotient)


@dataclass(frozen=True)
class KeepWhere(Elementwise):
    """``x`` where ``c`` compares with zero by the given comparison, 0 elsewhere."""

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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        c, x = operands
        zero = graph.number(0.0, like=c)
        condition = graph.node(self.KNOWN[self.comparison][1], c, zero)
        chosen = (zero, x) if self.comparison == "!=" else (x, zero)
        return graph.node("Where", condition, *chosen)


@dataclass(frozen=True)
class Mask(Elementwise):
    """1 where x compares with zero by the given comparison, else 0."""

    comparison: str
    levels: ClassVar[frozenset[str]] = frozenset({"canonical", "lowered", "torch", "onnx"})
    piecewise_constant: ClassVar[bool] = True
    calls: ClassVar[tuple[str, ...]] = ("clone", "eq_", "ne_", "gt_", "ge_", "lt_", "le_")

    NAMES: ClassVar[dict[str, str]] = {
        "==": "eq",
        "!=": "ne",
        ">": "gt",
        ">=": "ge",
        "<": "lt",
        "<=": "le",
    }

    def run(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(x.clone(), f"{self.NAMES[self.comparison]}_")(0)
        return found

    def interval(self, *operands: Interval) -> Interval:
        return UNIT

    def source(self, *operands: str) -> str:
        # on a CPU five times faster than truth values, which would have to be converted
        return f"{operands[0]}.clone().{self.NAMES[self.comparison]}_(0)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        name, zero = KeepWhere.KNOWN[self.comparison][1], graph.number(0.0, like=x)
        condition = graph.node(name, x, zero)
        if self.comparison == "!=":
            condition = graph.node("Not", condition)
        return graph.node("Cast", condition, to=graph.dtype(x).value)


divide_or_zero = DivideOrZero()


def stabilize(z: Array, epsilon: float) -> Array:
    """``stab(z)``: see :class:`Stabilize`."""
    return Stabilize(float(epsilon))(z)


def keep_where(c: Array, comparison: str, x: Array) -> Array:
    """``x`` where ``c`` compares with zero (``">"``, ``"=="`` ...), 0 elsewhere.

    Where x is finite, ``x * mask(c, comparison)`` is the same and several times faster.
    """
    return KeepWhere(comparison)(c, x)


def mask(c: Array, comparison: str) -> Array:
    """1 where ``c`` compares with zero (``">"``, ``"=="`` ...), 0 elsewhere."""
    return Mask(comparison)(c)
