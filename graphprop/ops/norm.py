"""Normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphprop.ops import helpers
from graphprop.ops.base import Operator, Shape, Sign, from_aten

aten = torch.ops.aten


@dataclass(frozen=True)
class BatchNorm(Operator):
    """``scale * x + shift`` per channel: batch norm at inference, its statistics folded in."""

    relevance: ClassVar[str | None] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "scale", "shift")
    helpers: ClassVar[tuple[str, ...]] = ("batch_norm",)

    def run(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return helpers.batch_norm(x, scale, shift)

    def coefficient(self, x: Any, scale: Any, shift: Any) -> Any:
        """The slope of the affine map, shaped to multiply x."""
        from graphprop.ops.shape import Reshape

        return Reshape(channel_shape(len(x.shape)))(scale)

    def source(self, *operands: str) -> str:
        x, scale, shift = operands
        return f"batch_norm({x}, {scale}, {shift})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x, scale, shift = operands
        shape = graph.integers(channel_shape(len(graph.shape(x))))
        scaled = graph.node("Mul", x, graph.node("Reshape", scale, shape))
        return graph.node("Add", scaled, graph.node("Reshape", shift, shape))


def channel_shape(rank: int) -> Shape:
    """The shape in which a vector per channel meets a value of this rank."""
    return (-1, *[1] * (rank - 2))


@from_aten(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> Any:
    deviation = (variance.double() + epsilon).sqrt()
    scale = 1.0 / deviation if weight is None else weight.double() / deviation
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return (BatchNorm()(x, scale.to(mean.dtype), shift.to(mean.dtype)), None, None)
