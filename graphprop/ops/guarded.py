"""What relevance rules are written with: divisions guarded against zero, choices by sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from graphprop.ir.interval import ZERO, Interval
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


divide_or_zero = DivideOrZero()


def stabilize(z: Array, epsilon: float) -> Array:
    """``stab(z)``: see :class:`Stabilize`."""
    return Stabilize(float(epsilon))(z)


def keep_where(c: Array, comparison: str, x: Array) -> Array:
    """``x`` where ``c`` compares with zero (``">"``, ``"=="`` ...), 0 elsewhere."""
    return KeepWhere(comparison)(c, x)
