"""Where relevance starts: at the logits. How a target is read in ONNX.

In Python `helpers.target_of` reads the target, and refuses what is no class by an error. A graph
can't raise one: there, what is no class makes the relevance of its sample NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.operation import Shape
from graphprop.ops import helpers
from graphprop.ops.base import Operator

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True)
class Start(Operator):
    """Relevance at the output: ``Start(kind)(logits, target)``.

    Weights in place of a class are multiplied by what each output would start with.

    ============ =======================================================
    ``logit``     the target's logit
    ``one``       1 at the target
    ``others``    ``1 / (C - 1)`` at each of the C classes but the target
    ``contrast``  1 at the target, ``-1 / C`` elsewhere
    ============ =======================================================
    """

    kind: str = "logit"
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("at_target", "check_target", "target_of")

    KNOWN: ClassVar[tuple[str, ...]] = ("logit", "one", "others", "contrast")

    def run(self, logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        if logits.is_meta:
            # of a target without values only the shape can be inferred
            return torch.empty_like(logits)
        chosen = helpers.at_target(logits, target)
        if self.kind == "one":
            return chosen
        if self.kind == "others":
            return (1.0 - chosen) / (logits.shape[1] - 1 or 1)
        if self.kind == "contrast":
            return chosen - (1.0 - chosen) / logits.shape[1]
        return logits * chosen

    def verify(self, *shapes: Shape) -> str | None:
        return None if self.kind in self.KNOWN else f"relevance can't start as {self.kind!r}"

    def source(self, *operands: str) -> str:
        logits, _ = operands
        chosen = f"at_target({', '.join(operands)})"
        if self.kind == "one":
            return chosen
        if self.kind == "others":
            return f"(1.0 - {chosen}) / ({logits}.shape[1] - 1 or 1)"
        if self.kind == "contrast":
            return f"{chosen} - (1.0 - {chosen}) / {logits}.shape[1]"
        return f"{logits} * {chosen}"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        logits, target = operands
        count, *places = graph.shape(logits)[1:]
        ones = [1] * len(places)
        column = graph.node("Reshape", target, graph.integers([-1, 1, *ones]))
        row = graph.node("Reshape", graph.integers(range(count)), graph.integers([1, -1, *ones]))
        kinds: dict[str, tuple[ir.Value | float, float]] = {
            "logit": (logits, 0.0),
            "one": (1.0, 0.0),
            "others": (0.0, 1.0 / max(count - 1, 1)),
            "contrast": (1.0, -1.0 / count),
        }
        at_target, elsewhere = kinds[self.kind]
        # the number at the target first: constants are written in the order they are asked for
        number = isinstance(at_target, float)
        first = graph.number(at_target, like=logits) if isinstance(at_target, float) else logits
        rest = graph.number(elsewhere, like=logits)
        chosen = graph.node("Where", graph.node("Equal", column, row), first, rest)
        # a number at the target alone has no places yet
        if number and places:
            return graph.node("Expand", chosen, graph.node("Shape", logits))
        return chosen


def chosen_classes(graph: OnnxWriter, logits: ir.Value, target: ir.Value) -> ir.Value:
    """Write what is explained in ONNX, ``[N]``: the target, -1 being the largest logit.

    A target of one entry is meant for all samples; what has any other length does not run.
    """
    places = range(2, len(graph.shape(logits)))
    summed = logits
    if places:
        summed = graph.node("ReduceSum", logits, graph.integers(places), keepdims=0)
    largest = graph.node("ArgMax", summed, axis=1, keepdims=0)
    wanted = graph.node("Where", graph.node("Equal", target, -1), largest, target)
    # of a single sample, several targets would otherwise make several maps
    return graph.node("Reshape", wanted, graph.node("Shape", largest))


def nan_without_class(
    graph: OnnxWriter, relevance: ir.Value, classes: ir.Value, count: int
) -> ir.Value:
    """Write relevance in ONNX that is NaN where a sample's target is none of ``count`` classes."""
    column = graph.integers([-1, *[1] * (len(graph.shape(relevance)) - 1)])
    classes = graph.node("Reshape", classes, column)
    from_zero = graph.node("GreaterOrEqual", classes, 0)
    inside = graph.node("And", from_zero, graph.node("Less", classes, count))
    return graph.node("Where", inside, relevance, float("nan"))
