"""The steps of the pipeline from a network with rules to the graph that a target prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphprop.lowering.conditions import NAMED, SIMPLIFIED, printable, relevances_written
from graphprop.lowering.legalize import legalize
from graphprop.lowering.lower import lower
from graphprop.lowering.simplify import simplify
from graphprop.passes.pipeline import Step
from graphprop.rules.registry import Method


def lowering_steps(method: Method, parameters: Mapping[str, Any]) -> list[Step]:
    """Return the passes from a network with rules to the simplified graph of its explainer."""
    return [
        Step(
            "lower",
            lambda network: lower(network, method, parameters),
            (relevances_written(method),),
        ),
        Step("simplify", simplify, (SIMPLIFIED,)),
    ]


def legalization_steps(target: str) -> list[Step]:
    """Return the passes from there to the graph that ``target``, "torch" or "onnx", prints.

    The lowered network is left as it is: the steps for one target may follow those for the other.
    """
    return [
        Step(
            f"legalize_{target}",
            lambda network: legalize(network, target),
            (printable(target), NAMED, SIMPLIFIED),
        )
    ]
