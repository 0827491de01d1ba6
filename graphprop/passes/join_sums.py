"""Join sums: ``(a + b) + c`` becomes one sum of three, where nothing else reads ``a + b``.

A residual add shares relevance among all its branches at once; how the user nested them has no
meaning.
"""

from torch import fx

from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.ir.writer import infer
from graphprop.ops import Trait


def join_sums(network: Network) -> Network:
    """Join every sum into the sum that is its only consumer."""
    for node in network.layers:
        if not is_sum(node):
            continue
        operands: list[fx.Node] = []
        for operand in node.args:
            inner = is_sum(operand) and operand.target == node.target and len(operand.users) == 1
            operands += operand.args if inner else (operand,)
        node.args = tuple(operands)
        infer(node)
    network.graph.eliminate_dead_code()
    return network


def is_sum(node: object) -> bool:
    """Whether a node adds up values that all depend on the input."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and node.target.has(Trait.ASSOCIATIVE)
        and all(isinstance(a, fx.Node) and facts_of(a).batched for a in node.args)
    )
