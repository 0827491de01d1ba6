"""From a network with rules to the graph of its explainer, in the form that a target prints."""

from graphprop.lowering.flow import in_flow, input_label
from graphprop.lowering.legalize import LEGALIZE, LEGALIZE_ONNX, LEGALIZE_TORCH
from graphprop.lowering.simplify import SIMPLIFY
from graphprop.lowering.steps import legalization_steps, lowering_steps

__all__ = [
    "LEGALIZE",
    "LEGALIZE_ONNX",
    "LEGALIZE_TORCH",
    "SIMPLIFY",
    "in_flow",
    "input_label",
    "legalization_steps",
    "lowering_steps",
]
