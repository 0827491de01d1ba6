"""Find the layer at which a method makes its map: the user's choice, or by the way of relevance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
from torch import fx

from graphprop.errors import MethodError, nearest
from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ops import Trait
from graphprop.passes.tag_roles import (
    dead_end,
    is_wider_than_map,
    live_operands,
    matches,
    places_of,
    signal_flow,
)
from graphprop.rules.registry import Method

LAST_SPATIAL = "last spatial"
BELOW_LOGITS = "below logits"


def find_layer(network: Network, method: Method, parameters: Mapping[str, Any]) -> Network:
    """Mark the layer where a method's flows end, what lies above it, and what below.

    The parameter ``layer`` names it: a path or label (of a module with several layers, the last),
    ``"last spatial"``: the last value with places that all relevance passes, before the
    classifier's own pooling or flattening; or ``"below logits"``: what the logit layer reads.

    Raises
    ------
    MethodError
        If there is no such layer, or relevance passes it by.
    """
    for node in network.layers:
        facts_of(node).update(map_layer=False, above=False, below=False)
    if method.layer is None:
        return network
    flow = signal_flow(network)
    wanted = str(parameters["layer"])
    if wanted == LAST_SPATIAL:
        map_layer = last_spatial(network, flow)
    elif wanted == BELOW_LOGITS:
        map_layer = below_logits(network)
    else:
        map_layer = named(wanted, network)
    if map_layer not in flow or network.output not in nx.descendants(flow, map_layer):
        raise MethodError(f"no relevance passes the layer {facts_of(map_layer).label!r}")
    if map_layer is network.output.args[0]:
        raise MethodError("the map can't be made at the logits: name a layer in front of them")
    above, below = nx.descendants(flow, map_layer), nx.ancestors(flow, map_layer)
    for node in network.layers:
        facts_of(node).update(above=node in above, below=node is map_layer or node in below)
    facts_of(map_layer).map_layer = True
    what = "the flows meet" if len(method.flows) > 1 else "the map is made"
    if method.continues_to_input and len(method.flows) == 1:
        what = "the initial map is made"
    network.notes.append(f"{what} at {facts_of(map_layer).label}, of {shape_text(map_layer)}")
    return network


def shape_text(node: fx.Node) -> str:
    """A value's shape for a message."""
    return "shape (" + ", ".join(map(str, shape_of(node)[1:])) + ")"


def named(wanted: str, network: Network) -> fx.Node:
    """The last layer of the module, or with the label, that the user names."""
    found = [node for node in network.layers if matches(wanted, node)]
    found = found or [n for n in network.layers if facts_of(n).path.startswith(f"{wanted}.")]
    if not found:
        known = {facts_of(node).label for node in network.layers}
        raise MethodError(f"there is no layer {wanted!r}: {nearest(wanted, known)}")
    return found[-1]


def last_spatial(network: Network, flow: nx.DiGraph) -> fx.Node:
    """The last value with places that all relevance passes, before pooling and flattening."""
    dominators = nx.immediate_dominators(flow.reverse(copy=False), network.output)
    reached = [image for image in network.inputs if image in dominators]
    if not reached:
        behind = nx.ancestors(flow, network.output)
        raise next(
            (dead_end(n) for n in network.layers if n in behind and not facts_of(n).signal),
            MethodError("no relevance reaches the input: the logits do not depend on it"),
        )
    way = chain(dominators, reached[0])
    for image in reached[1:]:
        others = set(chain(dominators, image))
        way = [node for node in way if node in others]
    roles = {node: facts_of(node).roles for node in flow}
    heads = {node for node in flow if roles[node] & {"dense_head", "logits"}}
    small = {
        found
        for wide in network.weighted
        if wide in flow and is_wider_than_map(wide)
        for found in (wide, *nx.descendants(flow, wide))
    }
    for node in reversed(way):
        if node.op != "call_function" or nx.ancestors(flow, node) & heads or node in heads:
            continue
        spatial = places_of(node) > 1 or (node in small and is_map_of_one_place(node))
        if spatial and not belongs_to_pooling(node):
            return node
    raise MethodError(
        "the network has no layer with places that all relevance passes: name one by layer=PATH"
    )


def is_map_of_one_place(node: fx.Node) -> bool:
    """Whether a value may be a map that has one place because the picture is small.

    A norm that follows no layer with weights is taken for the classifier's.
    """
    norm = node.target.has(Trait.NORM)
    source = node.args[0]
    layer = isinstance(source, fx.Node) and source.op == "call_function" and source.target.weighted
    return len(shape_of(node)) > 2 and (layer or not norm)


def belongs_to_pooling(node: fx.Node) -> bool:
    """Whether a value is on the way from the last spatial activation to the classifier.

    These are poolings, rearrangements and sums over places, and the arithmetic that generalized
    poolings do before they sum: powers (GeM), exponentials (log-sum-exp) and the clamps that keep
    those away from zero.
    """
    if live_operands(node) != (0,) or node.target.has(Trait.CONCATENATION):
        return False
    return any(map(node.target.has, BELONG_TO_POOLING))


BELONG_TO_POOLING = (
    Trait.POOLING,
    Trait.REDUCTION,
    Trait.REARRANGEMENT,
    Trait.POOLED_ARITHMETIC,
)


def chain(dominators: Mapping[fx.Node, fx.Node], start: fx.Node) -> list[fx.Node]:
    """The nodes that every way from one node to the end passes, in order."""
    way = [start]
    while dominators.get(way[-1]) not in (None, way[-1]):
        way.append(dominators[way[-1]])
    return [node for node in way if node.op != "output"]


def below_logits(network: Network) -> fx.Node:
    """What the logit layer reads."""
    for node in reversed(network.weighted):
        source = node.args[0]
        if "logits" in facts_of(node).roles and source.op == "call_function":
            return source
    raise MethodError("the logit layer reads the input itself: there is no layer in front of it")
