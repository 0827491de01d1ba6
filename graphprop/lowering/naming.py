"""Names of values: what a value is, where the rule that wrote it did not say.

A value is written under the name of its operator, with a number where there are several. What it is
there for is known better: the adjoint of a layer carries something *back*, a division by a
pre-activation gives a *quotient*. Names are given before the network is legalized for a target, so
that a value is called alike in all.
"""

from __future__ import annotations

import re

from torch import fx

from graphprop.ir.facts import facts_of
from graphprop.ir.names import RESERVED
from graphprop.ir.network import Network
from graphprop.ir.operation import reserved_names

WORDS = {
    "absolute": "size",
    "add": "whole",
    "conv": "preactivation",
    "conv_transpose": "back",
    "divide": "quotient",
    "divide_or_zero": "quotient",
    "expand": "spread",
    "keep_where": "kept",
    "linear": "preactivation",
    "linear_transpose": "back",
    "mask": "mask",
    "multiply": "share",
    "negate": "opposite",
    "negative": "below",
    "ones_like": "ones",
    "positive": "above",
    "stabilize": "denominator",
    "subtract": "difference",
    "sum": "summed",
    "total": "total",
}
"""Operator -> what its result is to a rule."""

OF_WEIGHTS = (
    (r"_negate_positive", "_negative"),
    (r"_negative_negate", "_inhibitory"),
    (r"_positive_negate", "_opposite"),
    (r"_positive_(add|stabilize)", "_positive_stabilized"),
    (r"_inhibitory_(add|stabilize)", "_inhibitory_stabilized"),
    (r"_(add|stabilize)", "_stabilized"),
)
"""How the name of what follows from a weight ends, and how it is to end."""


def name_values(network: Network) -> None:
    """Name the values of a lowered network by what they are."""
    _, _, relevances = network.output.args[0]
    kept = {*network.maps, *relevances.values()}
    taken = {node.name for node in network.graph.nodes} | RESERVED | reserved_names()
    for node in network.layers:
        facts = facts_of(node)
        if facts.named or facts.records is not None or node in kept:
            continue
        wanted = name_of_value(node) if facts.batched else name_of_parameter(node)
        if wanted is None:
            continue
        taken.discard(node.name)
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        node.name = name


def name_of_value(node: fx.Node) -> str | None:
    """What a value is called that a rule computed; None where no rule did."""
    applied = facts_of(node).applied
    if applied is None or not node.name.startswith(f"{applied.prefix}_"):
        return None
    word = WORDS.get(node.target.__name__)
    if "stabilize" in node.name[len(applied.prefix) :]:
        word = WORDS["stabilize"]
    return f"{applied.prefix}_{word}" if word else None


def name_of_parameter(node: fx.Node) -> str | None:
    """What something is called that follows from a weight; None where its name is fine."""
    plain = re.sub(r"_\d+$", "", node.name)
    for ending, other in OF_WEIGHTS:
        found = re.sub(f"{ending}$", other, plain)
        if found != plain:
            return found
    return None
