"""Lower: from a network with rules to one graph that computes logits and relevance.

The network is walked backwards once. At each node what comes back from its consumers is added up,
the node's rule is asked, and the rule writes the nodes that carry relevance to its operands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphprop.errors import GraphpropError, MethodError
from graphprop.network import (
    BATCH,
    Network,
    Value,
    Writer,
    facts_of,
    sign_of,
    where,
)
from graphprop.ops import Multiply, Pad, Sign, Start
from graphprop.rules.registry import Layer, Method


def lower(network: Network, method: Method, start: str = "logit") -> Network:
    """Write the explainer of an annotated network.

    Parameters
    ----------
    network
        Canonical, with roles and rules.
    method
        Says which flows of relevance there are.
    start
        ``"logit"``: relevance starts as the target's logit; ``"one"``: as 1.

    Returns
    -------
    Network
        At level ``lowered``, its output ``(logits, relevance, {label: relevance of its result})``.

    Raises
    ------
    MethodError
        If a rule can't be applied to its layer.
    """
    if start not in ("logit", "one"):
        raise MethodError(f"relevance starts as 'logit' or 'one', not {start!r}")
    lowered = Network(
        tensors=dict(network.tensors),
        level="lowered",
        notes=list(network.notes),
        decisions=dict(network.decisions),
    )
    writer = Writer(lowered)
    forward = copy_forward(network, writer)
    logits_node = network.output.args[0]
    logits = forward[logits_node]
    if len(logits.shape) != 2:
        raise MethodError(
            f"the model's output has shape {('N', *logits.shape[1:])}; relevance starts at logits "
            "of shape (N, classes): wrap the model so that it returns those"
        )
    target = writer.placeholder(
        "target", torch.empty(BATCH, dtype=torch.int64, device="meta"), Sign.POSITIVE
    )
    with writer.at(section="start", prefix="start", label="start"):
        first = writer.rename(Start(start == "one")(logits, target), "r_" + logits.node.name)
    relevance: dict[str, fx.Node] = {}
    results = []
    for name, parameters in method.flows:
        flow = Flow(writer, network, forward, name, parameters)
        results.append(flow.run(first))
        relevance.update(flow.relevance)
    result = results[0]
    with writer.at(section="the flows added up", prefix=f"r_{network.inputs[0].name}"):
        for other in results[1:]:
            result = result + other
    lowered.graph.output((logits.node, result.node, relevance))
    return lowered


@dataclass
class Flow:
    """One walk of relevance from the logits back to the input.

    Attributes
    ----------
    name, parameters
        What the flow is called (nothing where a method has but one), and the parameters that it
        gives to the rules that have them.
    relevance
        Label -> the relevance of that layer's result, filled on the way.
    """

    writer: Writer
    network: Network
    forward: Mapping[fx.Node, Any]
    name: str
    parameters: Mapping[str, Any]
    relevance: dict[str, fx.Node] = field(default_factory=dict)

    def run(self, first: Value) -> Value:
        """Walk back from the relevance of the logits; returns that of the input."""
        (image,) = self.network.inputs
        incoming: dict[fx.Node, list[Value]] = defaultdict(list)
        incoming[self.network.output.args[0]].append(first)
        for node in reversed(self.network.graph.nodes):
            parts = incoming.pop(node, None)
            if not parts or node.op not in ("call_function", "placeholder"):
                continue
            r = self.together(self.forward[node], parts)
            if node is image:
                return r
            self.relevance[in_flow(node.meta["label"], self.name)] = r.node
            for operand, part in zip(receivers(node), self.carried_back(node, r), strict=True):
                incoming[operand].append(part)
        raise MethodError("no relevance reaches the input: the logits do not depend on it")

    def together(self, value: Value, parts: list[Value]) -> Value:
        """Add up what comes back to a value from its consumers."""
        name = "_".join(filter(None, ("r", self.name, value.node.name)))
        total = parts[0]
        with self.writer.at(prefix=name):
            for part in parts[1:]:
                total = total + part
        if len(parts) > 1 or not total.node.name.startswith("r_"):
            self.writer.rename(total, name)
        return total

    def carried_back(self, node: fx.Node, r: Value) -> tuple[Any, ...]:
        """Ask a node's rule for the relevance of its operands."""
        rule, signal = node.meta["rule"].in_flow(self.parameters), node.meta["signal"]
        operands = [self.forward.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
        shapes = [operand.shape for operand in operands if isinstance(operand, Value)]
        weighted, padding = node.target.weighted, padding_of(node)
        if padding is not None:
            operands[0] = self.forward[padding.args[0]]
        prefix = "_".join(filter(None, (node.name, self.name)))
        layer = Layer(
            node.target,
            weight=operands[1] if weighted else None,
            bias=operands[2] if weighted and len(operands) > 2 else None,
            shapes=shapes,
            label=node.meta["label"],
            signal=signal,
            constants=tuple(operands[1:]),
            final=node is self.network.output.args[0],
            before=None if padding is None else padding.target,
            rename=lambda value, name, shared: self.writer.rename(
                value, f"{node.name if shared else prefix}_{name}"
            ),
        )
        several = node.target.relevance in ("share", "signal") or len(signal) > 1
        x = tuple(operands) if several else operands[signal[0]]
        heading = f"{node.meta['label']}: {node.target.__name__}, {rule}"
        if self.name:
            heading = f"{self.name} flow, {heading}"
        with self.writer.at(prefix=prefix, **{**facts_of(node), "section": heading}):
            try:
                result = rule(layer, x, r)
            except GraphpropError as error:
                raise type(error)(f"rule {rule} at {where(node)}: {error}") from error
            except (AttributeError, TypeError, ValueError, IndexError) as error:
                raise MethodError(
                    f"the rule {rule.rule.name!r} can't be applied to {where(node)} "
                    f"({node.target.__name__}): {error}"
                ) from error
            parts = result if isinstance(result, tuple) else (result,)
            return tuple(whole(operands[i], part) for i, part in zip(signal, parts, strict=True))


def receivers(node: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes that a node hands its relevance to."""
    padding = padding_of(node)
    if padding is not None:
        return (padding.args[0],)
    return tuple(node.args[i] for i in node.meta["signal"])


def padding_of(node: fx.Node) -> fx.Node | None:
    """The zero padding in front of a layer with weights: a part of the layer, as its own is.

    By rules that go by connections alone, padding would get a share otherwise.
    """
    source = node.args[0]
    if not (
        node.target.weighted and isinstance(source, fx.Node) and isinstance(source.target, Pad)
    ):
        return None
    return source if source.target.value == 0 else None


def in_flow(label: str, flow: str) -> str:
    """The name of a layer's relevance in one flow."""
    return f"{label} ({flow})" if flow else label


def copy_forward(network: Network, writer: Writer) -> dict[fx.Node, Any]:
    """Write the forward part, node by node; each keeps its name."""
    forward: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            forward[node] = writer.placeholder(node.target, node.meta["value"], node.meta["sign"])
        elif node.op == "get_attr":
            forward[node] = writer.attribute(node.target)
        elif node.op == "call_function":
            operands = [forward.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
            with writer.at(prefix=node.name, **facts_of(node), section="forward"):
                forward[node] = writer.rename(node.target.lowered(*operands), node.name)
                forward[node].node.meta["records"] = node.meta["label"]
    return forward


def whole(x: Value, part: Any) -> Any:
    """Relevance of the shape of x: a rule may return a number, meaning the same everywhere."""
    if isinstance(part, Value):
        return part
    return Multiply()(x, 0.0) if sign_of(part) == Sign.ZERO else Multiply()(x, 0.0) + part
