"""The printer: a network as text, one node per line."""

from __future__ import annotations

from graphprop.ir.facts import facts_of, has_shape, shape_of, sign_of
from graphprop.ir.network import Network


def show(network: Network) -> str:
    """Print a network, a node a line: name, operator, operands, shape, sign and facts."""
    lines = [f"# {network.level}"]
    for node in network.graph.nodes:
        if node.op == "output":
            logits, *rest = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            lines.append("return " + ", ".join(str(part) for part in (logits, *rest[:1])))
            continue
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
        lines.append(f"{line}  # {size} {' | '.join(facts)}")
    return "\n".join(lines) + "\n"
