"""The verifier: a network holds only what its level allows, with every fact in place."""

from __future__ import annotations

from graphprop.errors import VerificationError
from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation


def verify(network: Network) -> None:
    """Check that a network holds only what its level allows, with every fact in place.

    Raises
    ------
    VerificationError
        Naming the node and what is wrong with it.
    """
    network.graph.lint()
    for node in network.graph.nodes:
        if node.op == "output":
            continue
        if node.op not in ("placeholder", "get_attr", "call_function"):
            raise VerificationError(f"{node.name}: a {node.op} node has no place in a network")
        if node.op == "get_attr" and node.target not in network.tensors:
            raise VerificationError(f"{node.name}: there is no tensor {node.target!r}")
        if node.op == "call_function":
            if not isinstance(node.target, Operation):
                raise VerificationError(f"{node.name}: {node.target} is not an operator")
            if network.level not in node.target.levels:
                raise VerificationError(
                    f"{node.name}: {node.target.__name__} is not in the {network.level} vocabulary"
                )
        if facts_of(node).value is None:
            raise VerificationError(f"{node.name}: the fact 'value' is missing")
