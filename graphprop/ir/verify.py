"""The verifier: conditions on a network, and what is reported where one is violated.

A `Condition` finds the first node that violates it. `WELL_FORMED` holds of every network, after
every pass; what a single pass ensures on top is declared with the pass, see
`graphprop.passes.pipeline.Step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import fx

from graphprop.errors import VerificationError
from graphprop.ir.facts import facts_of, where
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation
from graphprop.ir.show import excerpt


class Fault(NamedTuple):
    """A node that violates a condition, and how."""

    node: fx.Node
    complaint: str


@dataclass(frozen=True)
class Condition:
    """A property of networks.

    Attributes
    ----------
    text
        The property as a sentence, for messages: ``"every layer has a label"``.
    faults
        Finds the nodes that violate it; only the first is asked for.
    """

    text: str
    faults: Callable[[Network], Iterable[Fault]]

    def violation(self, network: Network) -> str | None:
        """Describe the first node that violates it, with the lines around it; None: it holds."""
        for node, complaint in self.faults(network):
            origin = f" ({where(node)})" if facts_of(node).label else ""
            return f"{node.name}{origin}: {complaint}\n{excerpt(network, node)}"
        return None


def for_each_layer(text: str, complaint: Callable[[fx.Node], str | None]) -> Condition:
    """A condition on each operator node alone; ``complaint`` says how one violates it, or None."""

    def faults(network: Network) -> Iterable[Fault]:
        found = ((node, complaint(node)) for node in network.layers)
        return (Fault(node, text) for node, text in found if text is not None)

    return Condition(text, faults)


def malformed(network: Network) -> Iterable[Fault]:
    """Find nodes that have no place in a network of its level, or lack what every node has."""
    names: set[str] = set()
    before: set[fx.Node] = set()
    for node in network.graph.nodes:
        late = next((a.name for a in node.all_input_nodes if a not in before), None)
        if late is not None:
            yield Fault(node, f"its operand {late} is not computed before it")
        if node.name in names:
            yield Fault(node, "another node has its name")
        before.add(node)
        names.add(node.name)
        if node.op == "output":
            continue
        if node.op not in ("placeholder", "get_attr", "call_function"):
            yield Fault(node, f"a {node.op} node has no place in a network")
        if node.op == "get_attr" and node.target not in network.tensors:
            yield Fault(node, f"there is no tensor {node.target!r}")
        if node.op == "call_function":
            if not isinstance(node.target, Operation):
                yield Fault(node, f"{node.target} is not an operator")
            elif network.level not in node.target.levels:
                yield Fault(
                    node, f"{node.target.__name__} is not in the {network.level} vocabulary"
                )
        if facts_of(node).value is None:
            yield Fault(node, "the fact 'value' is missing")


WELL_FORMED = Condition("the network is well-formed", malformed)
"""Holds of every network: operands before their users, only operators of the network's level,
tensors that exist, and a value (shape and type) inferred for every node."""


def verify(network: Network) -> None:
    """Check that a network is well-formed: `WELL_FORMED`.

    Raises
    ------
    VerificationError
        Naming the node and what is wrong with it, with the lines around it.
    """
    violation = WELL_FORMED.violation(network)
    if violation is not None:
        raise VerificationError(violation)
