"""Reductions over everything but the batch: no sample may depend on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.interval import Interval
from graphprop.ops import helpers
from graphprop.ops.base import Array, Operator

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True)
class PerSample(Operator):
    """What the reductions share: the result has length 1 along every axis but the batch."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})


def _axes(rank: int) -> tuple[int, ...]:
    return tuple(range(1, rank))


@dataclass(frozen=True)
class Extreme(PerSample):
    """The smallest (``"min"``) or largest (``"max"``) entry of each sample."""

    which: str

    @property
    def helpers(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("smallest" if self.which == "min" else "largest",)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return helpers.smallest(x) if self.which == "min" else helpers.largest(x)

    def source(self, *operands: str) -> str:
        return f"{self.helpers[0]}({operands[0]})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        axes = graph.integers(_axes(len(graph.shape(operands[0]))))
        name = "ReduceMin" if self.which == "min" else "ReduceMax"
        return graph.node(name, operands[0], axes, keepdims=1)


@dataclass(frozen=True)
class Total(PerSample):
    """The sum over each sample."""

    helpers: ClassVar[tuple[str, ...]] = ("total",)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].cone()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return helpers.total(x)

    def source(self, *operands: str) -> str:
        return f"total({operands[0]})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        # axis by axis: an engine that adds entries one after the other, as onnxruntime-web does,
        # would otherwise lose the small ones of a hundred thousand
        value = operands[0]
        for axis in reversed(_axes(len(graph.shape(value)))):
            value = graph.node("ReduceSum", value, graph.integers([axis]), keepdims=1)
        return value


def total(x: Array) -> Array:
    """The sum over each sample."""
    return Total()(x)


def smallest(x: Array) -> Array:
    """The smallest entry of each sample."""
    return Extreme("min")(x)


def largest(x: Array) -> Array:
    """The largest entry of each sample."""
    return Extreme("max")(x)
