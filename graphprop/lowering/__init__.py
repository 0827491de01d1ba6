"""From a network with rules to the graph of its explainer, in the form that a target prints."""

from graphprop.lowering.steps import legalization_steps, lowering_steps

__all__ = ["legalization_steps", "lowering_steps"]
