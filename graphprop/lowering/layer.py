"""Layers as rules see them: a node of the annotated network, and what its operands are.

The same layer is built while compiling, of values, and by the ledger, of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from graphprop.ir.facts import facts_of, layout_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.writer import Operand
from graphprop.ops import Pad
from graphprop.rules.layer import Layer


def layer_at(
    node: fx.Node,
    network: Network,
    value_of: Callable[[fx.Node], Operand],
    *,
    reference: Mapping[fx.Node, Operand] | None = None,
    budget: Operand | None = None,
    rename: Callable[[Any, str, bool], Any] | None = None,
    tensor_of: Callable[[str], Operand] | None = None,
) -> Layer:
    """Return a node as its rule sees it.

    Parameters
    ----------
    node
        An operator node of the annotated network.
    value_of
        Gives the value of one of the network's nodes.
    reference
        The values where the model's input is the method's baseline, if it has one.
    budget, rename
        See `Layer`.
    tensor_of
        Gives one of the network's tensors by name, for rules that read what was fitted.
    """
    weighted, padding = node.target.weighted, padding_of(node)
    pattern = facts_of(node).pattern
    operands = [value_of(a) if isinstance(a, fx.Node) else a for a in node.args]
    if padding is not None:
        # the shapes stay those that the operator itself sees
        operands[0] = value_of(padding.args[0])
    return Layer(
        node.target,
        weight=operands[1] if weighted else None,
        bias=operands[2] if weighted and len(operands) > 2 else None,
        shapes=[shape_of(a) for a in node.args if isinstance(a, fx.Node)],
        label=facts_of(node).label,
        signal=facts_of(node).signal,
        operands=tuple(operands),
        reference=at_baseline(node, reference) if reference else (),
        budget=budget,
        image=shape_of(network.inputs[0]),
        layout=layout_of(node),
        final=node is network.output.args[0],
        before=None if padding is None else padding.target,
        rename=rename,
        pattern=None if pattern is None or tensor_of is None else tensor_of(pattern),
    )


def value_at(
    node: fx.Node,
    network: Network,
    value: Operand,
    *,
    reference: Mapping[fx.Node, Operand] | None = None,
) -> Layer:
    """Return a value as the rule sees it that makes the map of what arrives there."""
    return Layer(
        None,
        shapes=[shape_of(node)],
        label=facts_of(node).label,
        operands=(value,),
        reference=(reference[node],) if reference else (),
        image=shape_of(network.inputs[0]),
        layout=layout_of(node),
    )


def at_baseline(node: fx.Node, reference: Mapping[fx.Node, Operand]) -> tuple[Operand, ...]:
    """Return the operands of a node at the baseline; parameters stay as they are."""
    return tuple(reference.get(a, a) if isinstance(a, fx.Node) else a for a in node.args)


def read_by_rule(layer: Layer) -> Operand | tuple[Operand, ...]:
    """Return what a rule gets as x: the layer's signal, or all operands where values meet."""
    several = layer.operator.relevance in ("share", "signal") or len(layer.signal) > 1
    return layer.operands if several else layer.operands[layer.signal[0]]


def receivers(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the nodes that a node sends its relevance to."""
    padding = padding_of(node)
    if padding is not None:
        return (padding.args[0],)
    return tuple(node.args[i] for i in facts_of(node).signal)


def padding_of(node: fx.Node) -> fx.Node | None:
    """Return the zero padding in front of a layer with weights: a part of the layer, as its own is.

    By rules that go by connections alone, padding would get a share otherwise.
    """
    source = node.args[0]
    if not (
        node.target.weighted and isinstance(source, fx.Node) and isinstance(source.target, Pad)
    ):
        return None
    return source if source.target.value == 0 else None
