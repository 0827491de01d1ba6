"""Constants with the data type of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.interval import ONE, Interval
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Operator

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter


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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.numbers(self.numbers, self.shape, like=operands[0])


ones_like = OnesLike()


def ones(like: Array, shape: Shape) -> Array:
    """A constant of ones of ``shape``, with the data type of ``like``."""
    return Ones(tuple(shape))(like)
