"""Where relevance starts: at the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphprop.ops import helpers
from graphprop.ops.base import Operator, Shape


@dataclass(frozen=True)
class Start(Operator):
    """Relevance at the output: ``Start(kind)(logits, target)``, see `helpers.start`.

    ============ =======================================================
    ``logit``     the target's logit
    ``one``       1 at the target
    ``others``    ``1 / (C - 1)`` at each of the C classes but the target
    ``contrast``  1 at the target, ``-1 / C`` elsewhere
    ============ =======================================================
    """

    kind: str = "logit"
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("start",)

    KNOWN: ClassVar[tuple[str, ...]] = ("logit", "one", "others", "contrast")

    def run(self, logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return helpers.start(logits, target, self.kind)

    def verify(self, *shapes: Shape) -> str | None:
        return None if self.kind in self.KNOWN else f"relevance can't start as {self.kind!r}"

    def source(self, *operands: str) -> str:
        return f"start({', '.join(operands)}, {self.kind!r})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        logits, target = operands
        count, *places = graph.shape(logits)[1:]
        ones = [1] * len(places)
        column = graph.node("Reshape", target, graph.integers([-1, 1, *ones]))
        row = graph.node("Reshape", graph.integers(range(count)), graph.integers([1, -1, *ones]))
        at_target, elsewhere = {
            "logit": (logits, 0.0),
            "one": (1.0, 0.0),
            "others": (0.0, 1.0 / max(count - 1, 1)),
            "contrast": (1.0, -1.0 / count),
        }[self.kind]
        values = (
            graph.number(value, like=logits) if isinstance(value, float) else value
            for value in (at_target, elsewhere)
        )
        chosen = graph.node("Where", graph.node("Equal", column, row), *values)
        # a number at the target alone has no places yet
        alone = places and not isinstance(at_target, float)
        return (
            chosen
            if alone or not places
            else graph.node("Expand", chosen, graph.node("Shape", logits))
        )
