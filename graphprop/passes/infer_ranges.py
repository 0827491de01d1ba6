"""Infer ranges: an interval for each value that holds whatever the input is.

It pays for the compiler: where an input is known to be non-negative, half of alpha-beta, RAP and
gamma disappears. And it decides what a gate is (docs/methods.md, section 0).

Operators infer the range of their result from those of their operands. What no operator can see
alone is found here: a quotient ``s / sum s`` of values that are not negative lies in [0, 1].
"""

from __future__ import annotations

from torch import fx

from graphprop.ir.facts import facts_of, range_of
from graphprop.ir.interval import UNIT
from graphprop.ir.network import Network
from graphprop.ir.writer import Argument, infer
from graphprop.ops import Trait


def infer_ranges(network: Network) -> Network:
    """Work out the ranges anew from the input on; other passes may have moved operators."""
    for node in network.layers:
        infer(node)
        if is_share_of_sum(node):
            facts_of(node).range = UNIT
    return network


def is_share_of_sum(node: fx.Node) -> bool:
    """Whether a node is ``s / sum s``, or ``s / (sum s + c)`` with c > 0, and s >= 0."""
    if not node.target.has(Trait.QUOTIENT):
        return False
    part, whole = node.args
    if not isinstance(part, fx.Node) or range_of(part).low < 0:
        return False
    while isinstance(whole, fx.Node) and whole.op == "call_function":
        if whole.target.has(Trait.AXIS_SUM):
            return is_same(whole.args[0], part)
        guarded = whole.target.has(Trait.ASSOCIATIVE) and len(whole.args) == 2
        guarded = guarded and range_of(whole.args[1]).low >= 0
        if not (guarded or whole.target.has(Trait.ALIGNMENT)):
            return False
        whole = whole.args[0]
    return False


def is_same(
    first: Argument, second: Argument, known: dict[tuple[fx.Node, fx.Node], bool] | None = None
) -> bool:
    """Whether two operands are computed in the same way: a function called twice has two nodes."""
    if first is second:
        return True
    if not (isinstance(first, fx.Node) and isinstance(second, fx.Node)):
        return bool(first == second)
    known = {} if known is None else known
    if (first, second) not in known:
        pairs = zip(first.args, second.args, strict=False)
        known[first, second] = (
            first.op == second.op == "call_function"
            and first.target == second.target
            and len(first.args) == len(second.args)
            and all(is_same(a, b, known) for a, b in pairs)
        )
    return known[first, second]
