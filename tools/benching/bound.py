"""The bound: what the mathematics of a method needs, in units of the forward pass.

It follows from the rules' formulas, not from what the compiler wrote: how many operations of a
layer's own size each rule needs with the best algebra known to us. docs/methods.md derives each
number ("What each rule needs"), and a test compares that table with this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx

from graphprop.api import CompiledExplainer
from graphprop.ir.facts import facts_of
from graphprop.ops import Conv, ConvTranspose, Linear, LinearTranspose

OPERATIONS: Mapping[str, tuple[int, int]] = {
    "z": (1, 1),
    "epsilon": (1, 1),
    "alpha_beta": (4, 8),
    "z_plus": (2, 4),
    "gamma": (3, 6),
    "flat": (0, 0),
    "w_square": (1, 1),
    "zB": (2, 2),
    "rap_start": (2, 2),
    "rap": (3, 6),
    "rap_bn_start": (4, 8),
    "rap_bn": (4, 8),
    "rap_bn_input": (2, 2),
    "hedge": (6, 6),
    "gradient": (1, 1),
    "guided": (1, 1),
    "deconvnet": (1, 1),
    "excitation": (2, 2),
    "excitation_top": (2, 2),
}
"""Rule -> operations beside the forward one: for inputs that are not negative, of both signs."""

WEIGHTED = (Conv, ConvTranspose, Linear, LinearTranspose)


class NoBound(Exception):
    """There is no bound for a rule or a method; the text says why."""


@dataclass(frozen=True)
class Bound:
    """What a method needs on a network.

    Attributes
    ----------
    work
        Multiply-accumulates, over those of the forward pass: the smallest ratio of times.
    forward
        Multiply-accumulates of one sample's forward pass.
    layers
        Label -> operations of the layer's size, the forward one among them.
    """

    work: float
    forward: int
    layers: dict[str, int]


def operations(rule: str, parameters: Mapping[str, Any], *, non_negative: bool) -> int:
    """How many operations a rule needs at one layer, beside the forward one.

    Raises
    ------
    NoBound
        If the rule isn't in the table.
    """
    if rule not in OPERATIONS:
        raise NoBound(f"docs/methods.md has no bound for the rule {rule}")
    needed = OPERATIONS[rule][not non_negative]
    if rule == "alpha_beta" and 0 in (parameters["alpha"], parameters["beta"]):
        return needed // 2  # one of both parts
    if rule == "rap" and parameters["negative"] == "inhibitory":
        return needed + needed // 3  # the inhibitory part is needed by itself
    return needed


def bound(explainer: CompiledExplainer) -> Bound:
    """Add up what the rules need at every layer with weights.

    Raises
    ------
    NoBound
        If the method runs the network several times, or one of its rules isn't in the table.
    """
    if explainer.lowered.samples is not None:
        raise NoBound("the method is a mean over samples: it takes as long as they do")
    total = forward = 0
    layers: dict[str, int] = {}
    for node in explainer.network.layers:
        facts = facts_of(node)
        if not isinstance(node.target, WEIGHTED) or not facts.batched:
            continue
        size, count = multiplications(node), 1
        if facts.rule is not None and facts.signal:
            non_negative = facts_of(node.args[0]).range.low >= 0
            count += operations(facts.rule.name, facts.rule.parameters, non_negative=non_negative)
        layers[facts.label] = count
        total, forward = total + count * size, forward + size
    if not forward:
        raise NoBound("the network has no layers with weights")
    return Bound(total / forward, forward, layers)


def multiplications(node: fx.Node) -> int:
    """Multiply-accumulates for one sample: each number of the large side meets a row of weights."""
    given, weight = facts_of(node.args[0]).value, facts_of(node.args[1]).value
    through = isinstance(node.target, ConvTranspose | LinearTranspose)
    numbers = prod((given if through else facts_of(node).value).shape[1:])
    return int(numbers * prod(weight.shape[1:]))


def emitted(explainer: CompiledExplainer) -> float:
    """The same of the graph that the generated module computes: the bound is never above it."""
    sizes = [
        multiplications(node)
        for node in explainer.legal.layers
        if isinstance(node.target, WEIGHTED) and facts_of(node).batched
    ]
    return sum(sizes) / bound(explainer).forward
