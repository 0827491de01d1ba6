"""Relevance on its way: maps at the layers, and the flows of a method that has several.

Both need explainers that record: compiled in this process, with ``record``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from graphprop.errors import InputError, MethodError, nearest
from graphprop.evaluation.explainers import ModuleExplainer
from graphprop.evaluation.figures.panel import SCALE
from graphprop.evaluation.figures.subjects import Scene, Subject, central
from graphprop.evaluation.sample import Explainer, Floats, maps_of
from graphprop.explainer import Compiled
from graphprop.ir.facts import facts_of
from graphprop.ir.layout import PLACE, Layout
from graphprop.lowering import in_flow, input_label
from graphprop.module import ExplainerModule
from graphprop.passes.tag_roles import adds_depth
from graphprop.pictures.heatmap import limit_of
from graphprop.pictures.sheet import Cell, Row, draw, map_cell

SAME = 1e-4
"""The relative difference up to which the sum of the flows is the map: what float32 leaves."""


def recording(name: str, explainer: Explainer) -> ExplainerModule:
    """The module that records.

    Raises
    ------
    InputError
        If it wasn't compiled in this process with ``record``.
    """
    module = explainer.module if isinstance(explainer, ModuleExplainer) else explainer
    if not isinstance(module, ExplainerModule) or not module.compiled.record:
        raise InputError(
            f"{name} records no relevance of layers: compile it with record=['*'], or name the "
            "model by --model SOURCE and the method by --method NAME in place of a directory"
        )
    return module


def explained(module: ExplainerModule, subject: Subject) -> tuple[Floats, dict[str, torch.Tensor]]:
    """The map of a case, summed over channels, and the relevance of the layers by label."""
    x, target = subject.case.image[None], torch.tensor([subject.case.target])
    with torch.no_grad():
        relevance = module(x, target)[1]
    recorded: dict[str, torch.Tensor] = module.module.recorded
    return maps_of(relevance, x)[0], recorded


# Layers


def layers(scene: Scene, *, layer: Sequence[str] = (), count: int = 8) -> Any:
    """Draw the relevance of layers, summed over channels: from the last layer to the input.

    Each map is relevance of a layer's result. Layers whose result has no places (dense ones) are
    left out. Flows of a method that has several are rows of their own.

    Parameters
    ----------
    scene
        Explainers that record, and cases.
    layer
        Patterns of layers; by default a choice over the depth of the network, one for each weighted
        or pooling layer at most.
    count
        How many layers are chosen where none are named.

    Raises
    ------
    MethodError
        If a pattern names no layer whose relevance is recorded and has places.
    """
    if isinstance(layer, str):
        layer = [layer]
    modules = {name: recording(name, one) for name, one in scene.explainers.items()}
    found = [layers_with_places(module.compiled) for module in modules.values()]
    longest = max(found, key=len)  # methods that fold batch norms have fewer
    known = {**longest, **{label: one for each in found for label, one in each.items()}}
    chosen = named(known, layer) if layer else spread(known, count)
    rows: list[Row] = []
    for subject in scene.subjects:
        for name, module in modules.items():
            summed, recorded = explained(module, subject)
            nodes = nodes_of(module.compiled)
            for flow in module.method.flow_names:
                cells = [subject.cell("" if rows else "picture")]
                for label in reversed(chosen):
                    head = "" if rows else label
                    cells.append(layer_cell(recorded, nodes, label, flow, head))
                cells.append(at_input(module.compiled, recorded, flow, summed, not rows))
                rows.append(Row(scene.label_of(subject, in_flow(name, flow)), cells))
    title = "Relevance of the results of layers, from the last to the input"
    return draw(rows, title, f"{SCALE} Empty: no relevance reaches the layer by this method.")


def nodes_of(compiled: Compiled) -> dict[str, fx.Node]:
    """The layers of the network and its inputs, by label."""
    found = {facts_of(node).label: node for node in compiled.network.layers}
    return found | {input_label(compiled.network, n): n for n in compiled.network.inputs}


@dataclass(frozen=True)
class Place:
    """A layer whose relevance is recorded: its path, its depth, and whether depth grows by it."""

    path: str
    depth: int
    deeper: bool


def layers_with_places(compiled: Compiled) -> dict[str, Place]:
    """The layers that are recorded and have places, by label and in order."""
    nodes = nodes_of(compiled)
    recorded = compiled.recorded_nodes(compiled.legal)
    reached = {compiled.flows[label][0] for label in recorded}
    found = {}
    for info in compiled.layers:
        layout = facts_of(nodes[info.label]).layout
        if info.label in reached and layout is not None and has_map(layout):
            deeper = adds_depth(nodes[info.label])
            found[info.label] = Place(info.path, info.depth, deeper)
    return found


def has_map(layout: Layout) -> bool:
    """Whether a value has places in two dimensions or more."""
    return sum(size > 1 for size in places_of(layout)) >= 2


def places_of(layout: Layout) -> list[int]:
    """The sizes of the factors of all axes that are places."""
    return [f.size for axis in layout.axes for f in axis if f.kind == PLACE and f.varies]


def map_of(relevance: torch.Tensor, layout: Layout) -> Floats:
    """Sum relevance ``[1, ...]`` over channels: ``[H, W]``, wherever the channels are."""
    factors = [factor for axis in layout.axes for factor in axis]
    values = relevance.detach().double().numpy()[0]
    if prod(f.size for f in factors) == values.size:
        values = values.reshape([f.size for f in factors])
        others = tuple(i for i, f in enumerate(factors) if f.kind != PLACE or not f.varies)
        values = values.sum(others)
    found: Floats = central(values)
    return found


def named(known: Mapping[str, Place], patterns: Sequence[str]) -> list[str]:
    """The layers that patterns name, in the order of computation."""
    chosen = set()
    for pattern in patterns:
        hits = {
            label
            for label, one in known.items()
            if fnmatchcase(label, pattern) or fnmatchcase(one.path, pattern)
        }
        if not hits:
            raise MethodError(
                f"the pattern {pattern!r} names no layer with places whose relevance is recorded: "
                + nearest(pattern, known)
            )
        chosen |= hits
    return [label for label in known if label in chosen]


def spread(known: Mapping[str, Place], count: int) -> list[str]:
    """At most so many weighted or pooling layers, spread over depth; one of each depth."""
    if count < 1:
        raise InputError(f"count is a number from 1, not {count}")
    if not known:
        raise InputError("relevance of no layer with places is recorded: name layers by record")
    by_depth: dict[int, str] = {}
    for label, one in known.items():
        if one.deeper or not any(other.deeper for other in known.values()):
            by_depth.setdefault(one.depth, label)
    labels = [by_depth[depth] for depth in sorted(by_depth)]
    places = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round())
    return [labels[int(place)] for place in places]


def layer_cell(
    recorded: Mapping[str, torch.Tensor],
    nodes: Mapping[str, fx.Node],
    label: str,
    flow: str,
    head: str,
) -> Cell:
    """The map of a layer's relevance, in one flow."""
    relevance = recorded.get(in_flow(label, flow))
    if relevance is None:
        return Cell(head=head)
    layout = facts_of(nodes[label]).layout
    assert layout is not None, "layers_with_places looked at it"
    summed = map_of(relevance, layout)
    size = " x ".join(map(str, relevance.shape[1:]))
    return map_cell(summed, head, f"{size}\nsum {float(relevance.double().sum()):.3g}")


def at_input(
    compiled: Compiled,
    recorded: Mapping[str, torch.Tensor],
    flow: str,
    summed: Floats,
    first: bool,
) -> Cell:
    """The map at the input: of a flow, or of the method where it has one flow."""
    head = "input" if first else ""
    label = input_label(compiled.network, compiled.network.inputs[0])
    if len(compiled.method.flow_names) > 1 and flow:
        relevance = recorded.get(in_flow(label, flow))
        if relevance is None:
            return Cell(head=head)
        summed = relevance[0].detach().double().sum(0).numpy()
    return map_cell(central(summed), head, f"sum {float(summed.sum()):.3g}")


# Flows


def flows(scene: Scene) -> Any:
    """Draw what each flow of a method brings to the input, and what they are together.

    For RAP-BN the normal and the inversed flow and their sum, on one scale.

    Parameters
    ----------
    scene
        Explainers that record the input and have several flows, and cases.

    Raises
    ------
    InputError
        If a method has one flow, or its input isn't recorded.
    """
    rows = []
    for subject in scene.subjects:
        for name, explainer in scene.explainers.items():
            module = recording(name, explainer)
            maps, together = flows_at_input(name, module, subject)
            limits = [limit_of(central(one)) for one in (*maps.values(), together)]
            limit = max((one for one in limits if np.isfinite(one)), default=0.0)
            total = sum(maps.values())
            same = np.allclose(total, together, rtol=0, atol=SAME * limit_of(together))
            heads = [*maps, "sum" if same else "map (not their sum)"]
            cells = [subject.cell("picture")]
            for head, values in zip(heads, (*maps.values(), together), strict=True):
                caption = f"sum {float(values.sum()):.3g}"
                cells.append(map_cell(central(values), head, caption, limit))
            rows.append(Row(scene.label_of(subject, name), cells))
    return draw(
        rows,
        "The flows of relevance at the input",
        "Relevance summed over channels: red positive, blue negative, white zero. The maps of a "
        "row share one scale, which ends at the number below them.",
    )


def flows_at_input(
    name: str, module: ExplainerModule, subject: Subject
) -> tuple[dict[str, Floats], Floats]:
    """The maps of the flows by name, and that of the method, summed over channels."""
    flow_names = [flow for flow in module.method.flow_names if flow]
    if len(flow_names) < 2:
        raise InputError(
            f"{name} has one flow of relevance, and this figure is of methods with several, as "
            "rap-bn"
        )
    together, recorded = explained(module, subject)
    label = input_label(module.network, module.network.inputs[0])
    missing = [flow for flow in flow_names if in_flow(label, flow) not in recorded]
    if missing:
        raise InputError(
            f"{name} does not record the flow {missing[0]!r} at the input: compile it with "
            f"record=[{label!r}]; a method whose flows meet at a layer has none there"
        )
    maps = {
        flow: recorded[in_flow(label, flow)][0].detach().double().sum(0).numpy()
        for flow in flow_names
    }
    return maps, together
