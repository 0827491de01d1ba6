"""The end of a network: a softmax or sigmoid, and what follows it, is removed.

Relevance explains logits. What only rearranges the probabilities (a selection of classes) is
applied to the logits in their place.
"""

from __future__ import annotations

import torch
from torch import fx

from graphprop.ir.facts import facts_of, origin_of, where
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.ops import Trait

aten = torch.ops.aten


def without_tail(node: fx.Node, network: Network) -> fx.Node:
    """The node of the logits: a softmax or sigmoid at the end, and what follows it, is removed.

    It may be followed by a logarithm, limits, an addition of a number and a product with a positive
    one, which keep the order of its entries, and by rearrangements (a selection of classes), which
    are applied to the logits instead.
    """
    chain: list[fx.Node] = []
    current = node
    while keeps_order(current) and not is_squashing(current):
        chain.insert(0, current)
        current = current.args[0]
    if not is_squashing(current):
        return node
    chain.insert(0, current)
    logits = current.args[0]
    while is_squashing(logits):
        chain.insert(0, logits)
        logits = logits.args[0]
    network.tail = tuple((link.target, link.args[1:]) for link in chain)
    kept = [link for link in chain if link.target.has(Trait.REARRANGEMENT)]
    rest = [link for link in chain if link not in kept]
    removed = [str(link.target.squashes) for link in rest if is_squashing(link)]
    others = [str(link.target.__name__) for link in rest if not is_squashing(link)]
    also = f", and what follows it ({', '.join(others)}), is" if others else " is"
    network.notes.append(
        f"the {' of a '.join(reversed(removed))} at the end ({where(chain[0])}){also} removed: "
        "relevance explains the logits"
    )
    writer = Writer(network)
    result = Value(logits, writer)
    for link in kept:
        with writer.at(**origin_of(link)):
            result = link.target(result)
        facts_of(link).label = f"{facts_of(link).label} (removed)"
        writer.take_name(result.node, link)
    return result.node


def is_squashing(node: fx.Node) -> bool:
    """Whether a node turns logits into probabilities, or their logarithms."""
    return node.op == "call_function" and bool(node.target.squashes)


def keeps_order(node: fx.Node) -> bool:
    """Whether a node of one operand keeps the order of its entries, or only rearranges them."""
    if node.op != "call_function" or not isinstance(node.args[0], fx.Node):
        return False
    if any(isinstance(operand, fx.Node) for operand in node.args[1:]):
        return False
    target = node.target
    if target.has(Trait.PRODUCT):
        return bool(node.args[1] > 0)
    return any(map(target.has, (Trait.ORDER_PRESERVING, Trait.REARRANGEMENT)))
