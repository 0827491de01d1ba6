"""Fold batch norm: merge it into its layer, or leave it for relevance to pass through.

With ``BN(z) = s * z + t`` per channel and a linear layer ``z = op(x, w) + b`` before it,

    BN(z) = op(x, s * w) + (s * b + t)

and with a linear layer without padding behind it,

    op(BN(z), w) + b = op(z, w * s) + (b + op(t, w))

where s scales w along its input channels. Merging needs the layer to be the batch norm's only
neighbor on that side; neighbors are found by data flow, never by registration order.
"""

from __future__ import annotations

import torch
from torch import fx

from graphprop.errors import MethodError, nearest
from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.ops import BatchNorm

STRATEGIES = {
    "merge": "merged",
    "pass": "passed: relevance goes through it unchanged",
    "affine": "affine: the epsilon rule of its affine map",
    "compensate": "compensated: S = BN(z) - z is taken off the relevance as a term of its own",
}


def fold_batchnorm(network: Network, strategy: str = "merge") -> Network:
    """Apply a batch-norm strategy to every batch norm, noting what was done and why.

    Parameters
    ----------
    strategy
        ``"merge"`` folds each batch norm into a neighboring linear layer and passes relevance
        through those where that can't be done; ``"pass"``, ``"affine"`` and ``"compensate"``
        leave all of them in the forward part.

    Raises
    ------
    MethodError
        If there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise MethodError(f"no batch-norm strategy {strategy!r}: {nearest(strategy, STRATEGIES)}")
    writer = Writer(network)
    for node in list(network.layers):
        if not isinstance(node.target, BatchNorm):
            continue
        if strategy != "merge":
            network.decisions[facts_of(node).label] = STRATEGIES[strategy]
            continue
        network.decisions[facts_of(node).label] = merge(network, writer, node)
    network.graph.eliminate_dead_code()
    return network


def merge(network: Network, writer: Writer, node: fx.Node) -> str:
    """Merge one batch norm where possible; returns what was done, and why."""
    source = node.args[0]
    scale, shift = (network.tensor(argument).double() for argument in node.args[1:])
    reason = why_not_backward(node, source)
    if reason is None:
        weight, bias = parameters(network, source)
        scaled = source.target.with_results_scaled(weight, scale)
        if scaled is not None:
            bias = shift if bias is None else scale * bias + shift
            set_parameters(network, writer, source, scaled, bias)
            remove(network, node)
            return f"merged into {facts_of(source).label}"
        reason = f"the results of {facts_of(source).label} can't be scaled by its weight"
    follower = next(iter(node.users))
    obstacle = why_not_forward(node, follower)
    if obstacle is None:
        weight, bias = parameters(network, follower)
        moved = follower.target.with_operand_scaled(weight, scale, shift)
        if isinstance(moved, tuple):
            weight, added = moved
            set_parameters(
                network, writer, follower, weight, added if bias is None else bias + added
            )
            remove(network, node)
            return f"merged into {facts_of(follower).label}, which follows it"
        obstacle = NOT_LINEAR
        if moved is not None:
            obstacle = f"{facts_of(follower).label}, which follows it, {moved}"
    return f"passed: {reason}, and {obstacle}"


NOT_LINEAR = "what follows it is no linear layer"


def remove(network: Network, node: fx.Node) -> None:
    """Remove a batch norm that has been merged: its operand takes its place."""
    source = node.args[0]
    facts_of(source).pooled |= facts_of(node).pooled
    node.replace_all_uses_with(source)
    network.graph.erase_node(node)


def why_not_backward(node: fx.Node, source: fx.Node) -> str | None:
    """The reason a batch norm can't be merged into the layer before it."""
    if source.op != "call_function" or not source.target.weighted:
        before = facts_of(source).label or source.name
        return f"what comes before it ({before}) is no weighted layer"
    if len(source.users) > 1:
        return f"{facts_of(source).label} has another consumer"
    if source.target.channel_axis == -1 and len(shape_of(source)) != 2:
        return f"{facts_of(source).label} has its channels on another axis"
    return None


def why_not_forward(node: fx.Node, follower: fx.Node) -> str | None:
    """The reason a batch norm can't be merged into the layer behind it."""
    if len(node.users) > 1:
        return "it has several consumers"
    if follower.op != "call_function" or not follower.target.weighted:
        return NOT_LINEAR
    if follower.args[0] is not node or node in follower.args[1:]:
        return "what follows it uses it as a weight"
    if follower.target.channel_axis == -1 and len(shape_of(node)) != 2:
        return f"{facts_of(follower).label} has its channels on another axis"
    return None


def parameters(network: Network, layer: fx.Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A layer's weight and bias in float64."""
    weight, *bias = (network.tensor(argument).double() for argument in layer.args[1:])
    return weight, (bias[0] if bias else None)


def set_parameters(
    network: Network, writer: Writer, layer: fx.Node, weight: torch.Tensor, bias: torch.Tensor
) -> None:
    """Give a layer a new weight and bias, under the old names where nothing else uses those."""
    new = []
    for index, tensor in enumerate((weight, bias), start=1):
        old = layer.args[index] if index < len(layer.args) else None
        dtype = network.tensor(layer.args[1]).dtype
        tensor = tensor.to(dtype)
        if old is not None and set(old.users) == {layer}:
            network.tensors[old.target] = tensor
            new.append(old)
        else:
            name = f"{facts_of(layer).path}.{layer.target.operand_name(index)}"
            value: Value = writer.tensor(tensor, name)
            new.append(value.node)
    layer.args = (layer.args[0], *new)
