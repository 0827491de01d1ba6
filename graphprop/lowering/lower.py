"""Lower: from a network with rules to one graph that computes logits and relevance.

The forward part is copied (`graphprop.lowering.forward`), each flow of relevance of the method
walks over it backwards (`graphprop.lowering.flow`), and the map is made of what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import fx

from graphprop.errors import MethodError
from graphprop.ir.facts import BATCH, facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.lowering.flow import Carried, Explanation, Flow, applied, start_of_budget
from graphprop.lowering.forward import copy_forward, copy_of_baseline
from graphprop.lowering.layer import value_at
from graphprop.ops import Start
from graphprop.passes.assign_rules import bind_rule
from graphprop.rules.registry import Method


def lower(network: Network, method: Method, parameters: Mapping[str, Any]) -> Network:
    """Write the explainer of an annotated network.

    Parameters
    ----------
    network
        Canonical, with roles and rules.
    method
        Says which flows of relevance there are, where they start and end, and what is made of them.
    parameters
        The method's parameters.

    Returns
    -------
    Network
        At level ``lowered``, its output ``(logits, relevance, {label: relevance of its result})``.
        Where a method has several flows, what each brings to the inputs is among the latter.

    Raises
    ------
    MethodError
        If a rule can't be applied to its layer.
    """
    images = tuple(network.inputs)
    lowered = Network(
        tensors=dict(network.tensors),
        level="lowered",
        notes=list(network.notes),
        decisions=dict(network.decisions),
    )
    if method.samples is not None:
        if len(images) > 1:
            raise MethodError(f"{method.name!r} explains models of one input, not of several")
        samples = method.samples(parameters, shape_of(images[0]))
        lowered.samples = samples.of_type(facts_of(images[0]).value.dtype)
    writer = Writer(lowered)
    forward = copy_forward(network, writer)
    logits = forward[network.output.args[0]]
    if len(logits.shape) < 2:
        raise MethodError(
            "the model's output has shape ('N',); relevance starts at logits of shape "
            "(N, classes) or (N, classes, height, width): let the model return those"
        )
    reference = {}
    if method.samples is None and "baseline" in parameters:
        reference = copy_of_baseline(network, writer, parameters["baseline"])
    target = writer.placeholder("target", torch.empty(BATCH, dtype=torch.int64, device="meta"))
    shared = Explanation(network, method, parameters, writer, forward, reference, {}, [])
    maps = maps_of(shared, images, logits, target)
    with writer.at(section="what the layers add", prefix="added"):
        for part in shared.contributions:
            maps[0] = maps[0] + part
    nodes = tuple(value.node for value in maps)
    result = nodes if len(nodes) > 1 else nodes[0]
    lowered.graph.output((logits.node, result, shared.relevance))
    return lowered


def maps_of(
    shared: Explanation, images: tuple[fx.Node, ...], logits: Value, target: Value
) -> list[Value]:
    """Write the flows, and the map of each input; or the one at the method's layer."""
    network, method, writer = shared.network, shared.method, shared.writer
    map_layer = network.map_layer
    stops = images if map_layer is None else (map_layer,)
    ends = [
        Flow(shared, name, own).run(
            network.output.args[0], Carried(start(shared, name, own, logits, target)), stops
        )
        for name, own in method.flows
    ]
    if map_layer is not None:
        with writer.at(prefix="map", section=f"the map at {facts_of(map_layer).label}"):
            made = map_from(shared, method.at_layer, map_layer, [end[0] for end in ends])
            # where there is no relevance, there is none to be normalized
            budget = writer.rename(start_of_budget(made), "budget") if method.budgets else None
        if not method.continues_to_input:
            return [made]
        ends = [Flow(shared, "", {}).run(map_layer, Carried(made, budget), images)]
    maps = []
    for index, image in enumerate(images):
        with writer.at(section="the map", prefix=f"r_{image.name}"):
            maps.append(map_from(shared, method.at_input, image, [end[index] for end in ends]))
    return maps


def start(
    shared: Explanation, name: str, own: Mapping[str, Any], logits: Value, target: Value
) -> Value:
    """Write the relevance of the logits that a flow starts with."""
    kind = own.get("start", shared.parameters.get("start", shared.method.start))
    if kind not in Start.KNOWN:
        raise MethodError(f"relevance starts as 'logit' or 'one', not {kind!r}")
    with shared.writer.at(section="start", prefix="start", label="start"):
        first: Value = Start(kind)(logits, target)
        names = filter(None, ("r", name, logits.node.name))
        if not facts_of(first.node).named:
            shared.writer.rename(first, "_".join(names))
    return first


def map_from(shared: Explanation, rule: str | None, node: fx.Node, ends: list[Value]) -> Value:
    """Write what is made of what the flows bring to a node: by a rule, or their sum."""
    if rule is None:
        return reduce(add, ends)
    x = shared.forward[node]
    layer = value_at(node, shared.network, x, reference=shared.reference)
    r = ends[0] if len(ends) == 1 else tuple(ends)
    made: Value = applied(bind_rule(rule, shared.parameters), node, layer, x, r)
    return made
