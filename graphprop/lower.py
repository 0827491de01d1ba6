"""Lower: from a network with rules to one graph that computes logits and relevance.

The network is walked backwards once. At each node what comes back from its consumers is added up,
the node's rule is asked, and the rule writes the nodes that carry relevance to its operands.
"""

from __future__ import annotations

from collections import defaultdict
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
from graphprop.ops import Multiply, Sign, Start
from graphprop.rules.registry import Layer


def lower(network: Network, start: str = "logit") -> Network:
    """Write the explainer of an annotated network.

    Parameters
    ----------
    network
        Canonical, with roles and rules.
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
    (image,) = network.inputs
    target = writer.placeholder(
        "target", torch.empty(BATCH, dtype=torch.int64, device="meta"), Sign.POSITIVE
    )
    with writer.at(section="start", prefix="start", label="start"):
        first = writer.rename(Start(start == "one")(logits, target), "r_" + logits.node.name)
    incoming: dict[fx.Node, list[Value]] = defaultdict(list)
    incoming[logits_node].append(first)
    relevance: dict[str, fx.Node] = {}
    for node in reversed(network.graph.nodes):
        parts = incoming.pop(node, None)
        if not parts or node.op not in ("call_function", "placeholder"):
            continue
        r = together(writer, forward[node], parts)
        if node is image:
            relevance[""] = r.node
            continue
        relevance[node.meta["label"]] = r.node
        for operand, part in zip(
            (node.args[i] for i in node.meta["signal"]),
            carried_back(writer, node, forward, r),
            strict=True,
        ):
            incoming[operand].append(part)
    if "" not in relevance:
        raise MethodError("no relevance reaches the input: the logits do not depend on it")
    result = relevance.pop("")
    lowered.graph.output((logits.node, result, relevance))
    return lowered


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


def together(writer: Writer, value: Value, parts: list[Value]) -> Value:
    """Add up what comes back to a value from its consumers."""
    total = parts[0]
    with writer.at(prefix=f"r_{value.node.name}"):
        for part in parts[1:]:
            total = total + part
    if len(parts) > 1 or not total.node.name.startswith("r_"):
        writer.rename(total, f"r_{value.node.name}")
    return total


def carried_back(
    writer: Writer, node: fx.Node, forward: dict[fx.Node, Any], r: Value
) -> tuple[Any, ...]:
    """Ask a node's rule for the relevance of its operands."""
    rule, signal = node.meta["rule"], node.meta["signal"]
    operands = [forward.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
    shapes = [operand.shape for operand in operands if isinstance(operand, Value)]
    layer = Layer(
        node.target,
        weight=operands[1] if node.target.weighted else None,
        bias=operands[2] if node.target.weighted and len(operands) > 2 else None,
        shapes=shapes,
        label=node.meta["label"],
        signal=signal,
        constants=tuple(operands[1:]),
        rename=lambda value, name: writer.rename(value, f"{node.name}_{name}"),
    )
    several = node.target.relevance in ("share", "signal") or len(signal) > 1
    x = tuple(operands) if several else operands[signal[0]]
    heading = f"{node.meta['label']}: {node.target.__name__}, {rule}"
    with writer.at(prefix=node.name, **{**facts_of(node), "section": heading}):
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


def whole(x: Value, part: Any) -> Any:
    """Relevance of the shape of x: a rule may return a number, meaning the same everywhere."""
    if isinstance(part, Value):
        return part
    return Multiply()(x, 0.0) if sign_of(part) == Sign.ZERO else Multiply()(x, 0.0) + part
