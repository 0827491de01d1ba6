"""Reductions over everything but the batch: no sample may depend on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphprop.ops.base import Operator, Sign


@dataclass(frozen=True)
class PerSample(Operator):
    """What the reductions share: the result has length 1 along every axis but the batch."""

    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def sign(self, *signs: Sign) -> Sign:
        return signs[0]


def _axes(rank: int) -> tuple[int, ...]:
    return tuple(range(1, rank))


@dataclass(frozen=True)
class Extreme(PerSample):
    """The smallest (``"min"``) or largest (``"max"``) entry of each sample."""

    which: str

    def run(self, x: torch.Tensor) -> torch.Tensor:
        reduce = torch.amin if self.which == "min" else torch.amax
        return reduce(x, _axes(x.dim()), keepdim=True)

    def source(self, *operands: str) -> str:
        x = operands[0]
        return f"{x}.a{self.which}(tuple(range(1, {x}.dim())), keepdim=True)"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        axes = graph.integers(_axes(len(graph.shape(operands[0]))))
        name = "ReduceMin" if self.which == "min" else "ReduceMax"
        return graph.node(name, operands[0], axes, keepdims=1)


def smallest(x: Any) -> Any:
    """The smallest entry of each sample."""
    return Extreme("min")(x)


def largest(x: Any) -> Any:
    """The largest entry of each sample."""
    return Extreme("max")(x)
