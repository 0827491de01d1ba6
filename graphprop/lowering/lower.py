"""Lower: from a network with rules to one graph that computes logits and relevance.

The network is walked backwards once. At each node what comes back from its consumers is added up,
the node's rule is asked, and the rule writes the nodes that carry relevance to its operands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import fx

from graphprop.errors import GraphpropError, MethodError
from graphprop.ir.facts import (
    BATCH,
    AssignedRule,
    facts_of,
    inherited_facts,
    layout_of,
    range_of,
    shape_of,
    where,
)
from graphprop.ir.interval import ZERO
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.ops import (
    Multiply,
    Pad,
    Reshape,
    Start,
    absolute,
    divide_or_zero,
    keep_where,
    ones_like,
    total,
)
from graphprop.passes.assign_rules import bind_rule
from graphprop.rules.registry import Layer, Method
from graphprop.rules.sampling import baseline_of


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
    return Lowering(network, method, parameters).run()


@dataclass(frozen=True)
class Carried:
    """Relevance on its way, and its budget in a method that keeps one."""

    r: Value
    budget: Value | None = None

    def __add__(self, other: Carried) -> Carried:
        if self.budget is None or other.budget is None:
            return Carried(self.r + other.r)
        rank = len(self.r.shape)
        budget = of_rank(self.budget, rank) + of_rank(other.budget, rank)
        return Carried(self.r + other.r, budget)


class Lowering:
    """Writes one explainer.

    Attributes
    ----------
    forward, reference
        The values of the forward part, for the input and for the method's baseline.
    relevance
        Label -> the relevance of that layer's result, filled on the way.
    besides
        What layers add to the map, filled on the way.
    """

    def __init__(self, network: Network, method: Method, parameters: Mapping[str, Any]) -> None:
        self.network, self.method, self.parameters = network, method, parameters
        self.lowered = Network(
            tensors=dict(network.tensors),
            level="lowered",
            notes=list(network.notes),
            decisions=dict(network.decisions),
        )
        self.images = tuple(network.inputs)
        self.image = self.images[0]
        if method.samples is not None:
            if len(self.images) > 1:
                raise MethodError(f"{method.name!r} explains models of one input, not of several")
            samples = method.samples(parameters, shape_of(self.image))
            self.lowered.samples = samples.of_type(facts_of(self.image).value.dtype)
        self.writer = Writer(self.lowered)
        self.forward = copy_forward(network, self.writer)
        self.reference: dict[fx.Node, Any] = {}
        self.relevance: dict[str, fx.Node] = {}
        self.contributions: list[Value] = []

    def run(self) -> Network:
        """Write the start, the flows, and the map."""
        writer, method = self.writer, self.method
        logits = self.forward[self.network.output.args[0]]
        if len(logits.shape) < 2:
            raise MethodError(
                "the model's output has shape ('N',); relevance starts at logits of shape "
                "(N, classes) or (N, classes, height, width): let the model return those"
            )
        if method.samples is None and "baseline" in self.parameters:
            self.reference = self.copy_of_baseline()
        target = writer.placeholder("target", torch.empty(BATCH, dtype=torch.int64, device="meta"))
        map_layer = self.network.map_layer
        stops = self.images if map_layer is None else (map_layer,)
        ends = [self.flow(name, own, logits, target, stops) for name, own in method.flows]
        if map_layer is not None:
            with writer.at(prefix="map", section=f"the map at {facts_of(map_layer).label}"):
                maps = [self.map_from(method.at_layer, map_layer, [end[0] for end in ends])]
                # where there is no relevance, there is none to be measured against
                budget = None
                if method.budgets:
                    budget = writer.rename(start_of_budget(maps[0]), "budget")
            if method.continues_to_input:
                ends = [Flow(self, "", {}).run(map_layer, Carried(maps[0], budget), self.images)]
        if map_layer is None or method.continues_to_input:
            maps = []
            for index, image in enumerate(self.images):
                with writer.at(section="the map", prefix=f"r_{image.name}"):
                    maps.append(self.map_from(method.at_input, image, [end[index] for end in ends]))
        with writer.at(section="what the layers add", prefix="added"):
            for part in self.contributions:
                maps[0] = maps[0] + part
        nodes = tuple(value.node for value in maps)
        result = nodes if len(nodes) > 1 else nodes[0]
        self.lowered.graph.output((logits.node, result, self.relevance))
        return self.lowered

    def flow(
        self,
        name: str,
        own: Mapping[str, Any],
        logits: Value,
        target: Value,
        stops: tuple[fx.Node, ...],
    ) -> list[Value]:
        """Write one flow from the logits to where it ends."""
        kind = own.get("start", self.parameters.get("start", self.method.start))
        if kind not in Start.KNOWN:
            raise MethodError(f"relevance starts as 'logit' or 'one', not {kind!r}")
        with self.writer.at(section="start", prefix="start", label="start"):
            first = Start(kind)(logits, target)
            names = filter(None, ("r", name, logits.node.name))
            if not facts_of(first.node).named:
                self.writer.rename(first, "_".join(names))
        return Flow(self, name, own).run(self.network.output.args[0], Carried(first), stops)

    def map_from(self, rule: str | None, node: fx.Node, ends: list[Value]) -> Value:
        """What is made of what the flows bring to a node: by a rule, or their sum."""
        if rule is None:
            return reduce(add, ends)
        x = self.forward[node]
        reference = (self.reference[node],) if self.reference else ()
        layer = Layer(
            None,
            shapes=[x.shape],
            label=facts_of(node).label,
            operands=(x,),
            reference=reference,
            image=shape_of(self.image),
            layout=layout_of(node),
        )
        r = ends[0] if len(ends) == 1 else tuple(ends)
        made: Value = self.applied(bind_rule(rule, self.parameters), node, layer, x, r)
        return made

    def applied(self, rule: AssignedRule, node: fx.Node, layer: Layer, x: Any, r: Any) -> Any:
        """Apply a rule."""
        with rule_errors(rule, node, "map" if layer.operator is None else layer.operator.__name__):
            return rule(layer, x, r)

    def copy_of_baseline(self) -> dict[fx.Node, Any]:
        """Write the forward part once more, of the baseline in place of the input."""
        values = {}
        for image in self.images:
            shape = shape_of(image)
            baseline = baseline_of(self.parameters["baseline"], shape)
            tensor = baseline.to(facts_of(image).value.dtype).expand(1, *shape[1:]).contiguous()
            with self.writer.at(section="the baseline", prefix="baseline"):
                values[image] = self.writer.tensor(tensor, "baseline")
        return copy_forward(self.network, self.writer, values, "baseline")


class Flow:
    """One walk of relevance against the direction of computation.

    Attributes
    ----------
    name, parameters
        What the flow is called (nothing where a method has but one), and the parameters that it
        gives to the rules that have them.
    """

    def __init__(self, lowering: Lowering, name: str, parameters: Mapping[str, Any]) -> None:
        self.all, self.writer, self.forward = lowering, lowering.writer, lowering.forward
        self.name, self.parameters = name, parameters

    def run(self, start: fx.Node, first: Carried, stops: tuple[fx.Node, ...]) -> list[Value]:
        """Walk back from the relevance of one node's result; returns that of others'."""
        ends: dict[fx.Node, Value] = {}
        incoming: dict[fx.Node, list[Carried]] = defaultdict(list)
        incoming[start].append(first)
        for node in reversed(self.all.network.graph.nodes):
            parts = incoming.pop(node, None)
            if not parts or node.op not in ("call_function", "placeholder"):
                continue
            carried = self.sum_incoming(self.forward[node], parts)
            if node.op == "call_function":
                label = in_flow(facts_of(node).label, self.name)
                self.all.relevance[label] = carried.r.node
            elif self.name:
                label = in_flow(input_label(self.all.network, node), self.name)
                self.all.relevance[label] = carried.r.node
            if node in stops:
                ends[node] = carried.r
                continue
            if node.op != "call_function" or facts_of(node).rule is None:
                continue
            back = self.carried_back(node, carried)
            for operand, part in zip(receivers(node), back, strict=True):
                incoming[operand].append(part)
        if not ends:
            place = where(stops[0]) if stops[0].op == "call_function" else "the input"
            raise MethodError(f"no relevance reaches {place}: the logits do not depend on it")
        for stop in (node for node in stops if node not in ends):
            # an input that nothing comes back to has no relevance
            ends[stop] = Multiply()(self.forward[stop], 0.0)
        return [ends[stop] for stop in stops]

    def sum_incoming(self, value: Value, parts: list[Carried]) -> Carried:
        """Add up what comes back to a value from its consumers."""
        name = "_".join(filter(None, ("r", self.name, value.node.name)))
        total = parts[0]
        with self.writer.at(prefix=name):
            for part in parts[1:]:
                total = total + part
        if len(parts) > 1 or not total.r.node.name.startswith("r_"):
            self.writer.rename(total.r, name)
        return total

    def carried_back(self, node: fx.Node, carried: Carried) -> list[Carried]:
        """Ask a node's rule for the relevance of its operands."""
        assigned, signal = facts_of(node).rule, facts_of(node).signal
        assert assigned is not None
        rule = assigned.in_flow(self.parameters)
        operands = [self.forward.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
        budget = carried.budget
        if budget is not None:
            budget = of_rank(budget, len(carried.r.shape))
        layer = self.layer_of(node, operands, budget)
        operands = list(layer.operands)
        several = node.target.relevance in ("share", "signal") or len(signal) > 1
        x = tuple(operands) if several else operands[signal[0]]
        heading = f"{facts_of(node).label}: {node.target.__name__}, {rule}"
        if self.name:
            heading = f"{self.name} flow, {heading}"
        prefix = "_".join(filter(None, (node.name, self.name)))
        with self.writer.at(prefix=prefix, **{**inherited_facts(node), "section": heading}):
            result = self.all.applied(rule, node, layer, x, carried.r)
            parts = list(result) if isinstance(result, tuple) else [result]
            with rule_errors(rule, node, node.target.__name__):
                parts = [
                    as_relevance(operands[i], part) for i, part in zip(signal, parts, strict=True)
                ]
            if self.all.method.layer_contribution is not None:
                contribution = bind_rule(self.all.method.layer_contribution, self.all.parameters)
                added = self.all.applied(contribution, node, layer, x, carried.r)
                if added is not None:
                    self.all.contributions.append(added)
            if budget is None or len(parts) == 1:
                return [Carried(part, budget) for part in parts]
            return [*map(Carried, parts, divided(budget, parts))]

    def layer_of(self, node: fx.Node, operands: list[Any], budget: Value | None) -> Layer:
        """A node as its rule sees it."""
        shapes = [operand.shape for operand in operands if isinstance(operand, Value)]
        weighted, padding = node.target.weighted, padding_of(node)
        prefix = "_".join(filter(None, (node.name, self.name)))
        reference = [
            self.all.reference.get(a, a) if isinstance(a, fx.Node) else a for a in node.args
        ]
        if padding is not None:
            # the shapes stay those that the operator itself sees
            operands = [self.forward[padding.args[0]], *operands[1:]]
        return Layer(
            node.target,
            weight=operands[1] if weighted else None,
            bias=operands[2] if weighted and len(operands) > 2 else None,
            shapes=shapes,
            label=facts_of(node).label,
            signal=facts_of(node).signal,
            operands=tuple(operands),
            reference=tuple(reference) if self.all.reference else (),
            budget=budget,
            image=shape_of(self.all.image),
            layout=layout_of(node),
            final=node is self.all.network.output.args[0],
            before=None if padding is None else padding.target,
            rename=lambda value, name, shared: self.writer.rename(
                value, f"{node.name if shared else prefix}_{name}"
            ),
        )


@contextmanager
def rule_errors(rule: AssignedRule, node: fx.Node, kind: str) -> Iterator[None]:
    """Tell what goes wrong in a rule in the user's terms."""
    try:
        yield
    except GraphpropError as error:
        raise type(error)(f"rule {rule} at {where(node)}: {error}") from error
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise MethodError(
            f"the rule {rule.name!r} can't be applied to {where(node)} ({kind}): {error}"
        ) from error


def start_of_budget(r: Value) -> Value:
    """A budget of 1 for each sample that has any relevance."""
    size = total(absolute(r))
    return keep_where(size, "!=", ones_like(size))


def divided(budget: Value, parts: list[Value]) -> list[Value]:
    """A budget shared among branches in proportion to the size of their relevance."""
    rank = max(len(part.shape) for part in parts)
    sizes = [of_rank(total(absolute(part)), rank) for part in parts]
    q = divide_or_zero(budget, reduce(add, sizes))
    return [size * q for size in sizes]


def of_rank(number: Value, rank: int) -> Value:
    """A number per sample, shaped to meet values of a rank."""
    return number if len(number.shape) == rank else Reshape((-1, *[1] * (rank - 1)))(number)


def receivers(node: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes that a node hands its relevance to."""
    padding = padding_of(node)
    if padding is not None:
        return (padding.args[0],)
    return tuple(node.args[i] for i in facts_of(node).signal)


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


def input_label(network: Network, image: fx.Node) -> str:
    """What an input is called among the layers: its name, unless that is a layer's label."""
    taken = {facts_of(node).label for node in network.layers}
    return f"input {image.name}" if image.name in taken else image.name


def in_flow(label: str, flow: str) -> str:
    """The name of a layer's relevance in one flow."""
    return f"{label} ({flow})" if flow else label


def copy_forward(
    network: Network,
    writer: Writer,
    inputs: Mapping[fx.Node, Value] | None = None,
    flow: str = "",
) -> dict[fx.Node, Any]:
    """Write the forward part, node by node; each keeps its name.

    With other ``inputs``, it is a second one, its names ending in ``flow``.
    """
    forward: dict[fx.Node, Any] = {}
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


def as_relevance(x: Value, part: Any) -> Any:
    """Relevance of the shape of x: a rule may return a number, meaning the same everywhere."""
    if isinstance(part, Value):
        if tuple(part.shape) != tuple(x.shape):
            raise ValueError(
                f"it gives relevance of shape {tuple(part.shape)} to an operand of shape "
                f"{tuple(x.shape)}"
            )
        return part
    return Multiply()(x, 0.0) if range_of(part) == ZERO else Multiply()(x, 0.0) + part
