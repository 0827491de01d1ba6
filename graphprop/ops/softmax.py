"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.interval import (
    NON_POSITIVE,
    UNIT,
    Interval,
)
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.shape import axis_of
from graphprop.ops.sums import Sum

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Softmax(Operator):
    """``exp(x) / sum exp(x)`` along an axis: a gate, or the end of a network (then removed)."""

    axis: int
    relevance: ClassVar[str | None] = "pass"
    squashes: ClassVar[str] = "softmax"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.axis)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        share = self(operands[0])
        return (share * (r - Sum((self.axis,))(share * r)),)

    def interval(self, *operands: Interval) -> Interval:
        return UNIT

    def source(self, *operands: str) -> str:
        return f"torch.softmax({operands[0]}, {self.axis})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Softmax", *operands, axis=self.axis)


@dataclass(frozen=True)
class LogSoftmax(Softmax):
    """The logarithm of `Softmax`; no gate."""

    squashes: ClassVar[str] = "log-softmax"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, self.axis)

    def interval(self, *operands: Interval) -> Interval:
        return NON_POSITIVE

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (r - Softmax(self.axis)(operands[0]) * Sum((self.axis,))(r),)

    def source(self, *operands: str) -> str:
        return f"torch.log_softmax({operands[0]}, {self.axis})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("LogSoftmax", *operands, axis=self.axis)


@from_aten(aten.softmax.int, aten._softmax.default)
def _softmax(x: Array, axis: int, dtype: torch.dtype | None = None) -> Array:
    return Softmax(axis_of(axis, x))(x)


@from_aten(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(x: Array, axis: int, dtype: torch.dtype | None = None) -> Array:
    return LogSoftmax(axis_of(axis, x))(x)
