"""The printer: a network as text, one node per line."""

from __future__ import annotations

from torch import fx

from graphprop.ir.facts import facts_of, has_shape, shape_of, sign_of
from graphprop.ir.network import Network

CONTEXT = 3
"""The lines before and after a node in an excerpt: its operands and users are mostly among them."""


def show(network: Network) -> str:
    """Print a network, a node a line: name, operator, operands, shape, sign and facts."""
    return "\n".join([f"# {network.level}", *map(line_of, network.graph.nodes)]) + "\n"


def line_of(node: fx.Node) -> str:
    """Print one node."""
    if node.op == "output":
        logits, *rest = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
        return "return " + ", ".join(str(part) for part in (logits, *rest[:1]))
    operands = ", ".join(str(a) for a in node.args)
    what = f"{node.target}" if node.op == "call_function" else node.op
    if node.op == "get_attr":
        what = f"tensor {node.target!r}"
    size = shape_of(node) if has_shape(node) else "several"
    facts = [str(sign_of(node))]
    if facts_of(node).roles:
        facts.append("/".join(sorted(facts_of(node).roles)))
    if facts_of(node).rule is not None:
        facts.append(str(facts_of(node).rule))
    line = f"{node.name} = {what}({operands})" if operands else f"{node.name} = {what}"
    return f"{line}  # {size} {' | '.join(facts)}"


def excerpt(network: Network, marked: fx.Node, context: int = CONTEXT) -> str:
    """Print a node, marked by ``>``, with the lines before and after it."""
    nodes = list(network.graph.nodes)
    place = nodes.index(marked)
    around = nodes[max(place - context, 0) : place + context + 1]
    return "\n".join(f"{'>' if node is marked else ' '} {line_of(node)}" for node in around)
