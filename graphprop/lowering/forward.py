"""The forward part of an explainer: the network itself, for the input and for a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from graphprop.ir.facts import facts_of, inherited_facts, range_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.rules.sampling import baseline_of

Values = dict[fx.Node, Value]
"""The values written for the nodes of the annotated network."""


def copy_forward(
    network: Network,
    writer: Writer,
    inputs: Mapping[fx.Node, Value] | None = None,
    flow: str = "",
) -> Values:
    """Write the forward part, node by node; each keeps its name.

    With other ``inputs``, it is a second one, its names ending in ``flow``.
    """
    forward: Values = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            if inputs is None:
                found = range_of(node)
                forward[node] = writer.placeholder(node.target, facts_of(node).value, found)
            else:
                forward[node] = inputs[node]
        elif node.op == "get_attr":
            forward[node] = writer.attribute(node.target)
        elif node.op == "call_function":
            operands = [forward.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
            name = "_".join(filter(None, (node.name, flow)))
            section = flow or "forward"
            with writer.at(prefix=name, **{**inherited_facts(node), "section": section}):
                forward[node] = writer.rename(node.target.lowered(*operands), name)
                if inputs is None:
                    facts_of(forward[node].node).records = facts_of(node).label
    return forward


def copy_of_baseline(network: Network, writer: Writer, baseline: Any) -> Values:
    """Write the forward part once more, of a method's ``baseline`` in place of the input."""
    values: Values = {}
    for image in network.inputs:
        shape = shape_of(image)
        tensor = baseline_of(baseline, shape).to(facts_of(image).value.dtype)
        tensor = tensor.expand(1, *shape[1:]).contiguous()
        with writer.at(section="the baseline", prefix="baseline"):
            values[image] = writer.tensor(tensor, "baseline")
    return copy_forward(network, writer, values, "baseline")
