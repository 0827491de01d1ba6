"""Where relevance starts: at the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphprop.ops import helpers
from graphprop.ops.base import Operator, Sign


@dataclass(frozen=True)
class Start(Operator):
    """Relevance at the output: ``Start()(logits, target)``, see `helpers.start`."""

    unit: bool = False
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("start",)

    def run(self, logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return helpers.start(logits, target, self.unit)

    def sign(self, *signs: Sign) -> Sign:
        return Sign.MIXED

    def source(self, *operands: str) -> str:
        return f"start({', '.join(operands)}{', unit=True' if self.unit else ''})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        logits, target = operands
        classes = graph.integers(range(graph.shape(logits)[1]))
        column = graph.node("Unsqueeze", target, graph.integers([1]))
        chosen = graph.node("Equal", column, graph.node("Unsqueeze", classes, graph.integers([0])))
        zero = graph.number(0.0, like=logits)
        return graph.node(
            "Where", chosen, graph.number(1.0, like=logits) if self.unit else logits, zero
        )
