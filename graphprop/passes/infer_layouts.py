"""Infer layouts: which axis of each value holds channels, and which places.

A convolution defines what the axes of its operand are; from there, layouts are followed through
permutations, flattening and token sequences by the operators themselves (`Operator.layout`). An
input is taken for ``[N, C, ...]``, unless the first convolution finds its channels on the last
axis.
"""

from __future__ import annotations

from torch import fx

from graphprop.ir.facts import facts_of, has_shape, layout_of, shape_of
from graphprop.ir.layout import PLACE, Layout, channels_last, guessed
from graphprop.ir.network import Network
from graphprop.ops import Trait


def infer_layouts(network: Network) -> Network:
    """Give every value that depends on the input its layout."""
    for image in network.inputs:
        facts_of(image).layout = guessed(shape_of(image))
    propagate(network)
    turned = [image for image in network.inputs if is_read_as_channels_last(network, image)]
    for image in turned:
        facts_of(image).layout = channels_last(shape_of(image))
    if turned:
        propagate(network)
    return network


def propagate(network: Network) -> None:
    """Infer the layout of every result from those of the inputs."""
    for node in network.layers:
        if facts_of(node).batched and has_shape(node):
            operands = [layout_of(a) if isinstance(a, fx.Node) else None for a in node.args]
            facts_of(node).layout = node.target.layout(shape_of(node), *operands)


def is_read_as_channels_last(network: Network, image: fx.Node) -> bool:
    """Whether a convolution finds places of an input where its channels should be."""
    if len(shape_of(image)) < 3:
        return False
    reached = {image}
    for node in network.layers:
        if not reached & set(node.all_input_nodes):
            continue
        if node.target.has(Trait.CHANNELS_SECOND):
            layout: Layout | None = layout_of(node.args[0])
            return layout is not None and layout.kind(1) == PLACE
        if not node.target.weighted:
            reached.add(node)
    return False
