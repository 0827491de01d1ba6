"""One flow of relevance: a walk over the network against the direction of computation.

At each node what comes back from its consumers is added up, the node's rule is called, and the rule
writes the nodes that carry relevance to its operands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from torch import fx

from graphprop.errors import GraphpropError, MethodError, VerificationError
from graphprop.ir.facts import Applied, AssignedRule, facts_of, inherited_facts, range_of, where
from graphprop.ir.interval import ZERO
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.lowering.forward import Values
from graphprop.lowering.layer import layer_at, read_by_rule, receivers
from graphprop.ops import Multiply, Reshape, absolute, divide_or_zero, keep_where, ones_like, total
from graphprop.passes.assign_rules import bind_rule, rules_that_fit
from graphprop.rules.layer import Layer
from graphprop.rules.registry import BoundRule, Method


@dataclass(frozen=True)
class Carried:
    """Relevance on its way, and its budget in a method that keeps one.

    A budget is a number per sample: what the relevance of a layer is normalized to.
    """

    r: Value
    budget: Value | None = None

    def __add__(self, other: Carried) -> Carried:
        if self.budget is None or other.budget is None:
            return Carried(self.r + other.r)
        rank = len(self.r.shape)
        budget = of_rank(self.budget, rank) + of_rank(other.budget, rank)
        return Carried(self.r + other.r, budget)


@dataclass
class Explanation:
    """What all flows of one explainer share.

    Attributes
    ----------
    network
        The annotated network.
    writer
        Writes the lowered graph.
    forward, reference
        The values of the forward part, for the input and for the method's baseline, if it has one.
    relevance
        Label -> the relevance of that layer's result, filled on the way.
    contributions
        What layers add to the map, filled on the way.
    """

    network: Network
    method: Method
    parameters: Mapping[str, Any]
    writer: Writer
    forward: Values
    reference: Values
    relevance: dict[str, fx.Node]
    contributions: list[Value]


class Flow:
    """One walk of relevance against the direction of computation.

    Attributes
    ----------
    name, parameters
        What the flow is called (nothing where a method has but one), and the parameters that it
        gives to the rules that have them.
    """

    def __init__(self, shared: Explanation, name: str, parameters: Mapping[str, Any]) -> None:
        self.shared, self.writer, self.forward = shared, shared.writer, shared.forward
        self.name, self.parameters = name, parameters

    def run(self, start: fx.Node, first: Carried, stops: tuple[fx.Node, ...]) -> list[Value]:
        """Walk back from the relevance of one node's result; returns that of others'."""
        ends: dict[fx.Node, Value] = {}
        incoming: dict[fx.Node, list[Carried]] = defaultdict(list)
        incoming[start].append(first)
        for node in reversed(self.shared.network.graph.nodes):
            parts = incoming.pop(node, None)
            if not parts or node.op not in ("call_function", "placeholder"):
                continue
            carried = self.sum_incoming(self.forward[node], parts)
            if node.op == "call_function":
                label = in_flow(facts_of(node).label, self.name)
                self.shared.relevance[label] = carried.r.node
            elif self.name:
                label = in_flow(input_label(self.shared.network, node), self.name)
                self.shared.relevance[label] = carried.r.node
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
        """Call a node's rule for the relevance of its operands."""
        assigned, shared = facts_of(node).rule, self.shared
        assert assigned is not None
        rule = assigned.in_flow(self.parameters)
        budget = carried.budget
        if budget is not None:
            budget = of_rank(budget, len(carried.r.shape))
        prefix = "_".join(filter(None, (node.name, self.name)))
        layer = layer_at(
            node,
            shared.network,
            self.forward.__getitem__,
            reference=shared.reference,
            budget=budget,
            rename=lambda value, name, of_all: self.writer.rename(
                value, f"{node.name if of_all else prefix}_{name}"
            ),
            tensor_of=self.writer.attribute,
        )
        x = read_by_rule(layer)
        heading = f"{facts_of(node).label}: {node.target.__name__}, {rule}"
        if self.name:
            heading = f"{self.name} flow, {heading}"
        one = Applied(facts_of(node).label, node.target.__name__, rule, self.name, prefix)
        given = {**inherited_facts(node), "section": heading, "applied": one}
        with self.writer.at(prefix=prefix, **given):
            result = applied(rule, node, layer, x, carried.r)
            parts = list(result) if isinstance(result, tuple) else [result]
            with rule_errors(rule, node, node.target.__name__):
                parts = [
                    as_relevance(layer.operands[index], part)
                    for index, part in zip(layer.signal, parts, strict=True)
                ]
            if shared.method.layer_contribution is not None:
                contribution = bind_rule(shared.method.layer_contribution, shared.parameters)
                added = applied(contribution, node, layer, x, carried.r)
                if added is not None:
                    shared.contributions.append(added)
            if budget is None or len(parts) == 1:
                return [Carried(part, budget) for part in parts]
            return [*map(Carried, parts, divided(budget, parts))]


def applied(rule: AssignedRule, node: fx.Node, layer: Layer, x: Any, r: Any) -> Any:
    """Apply a rule."""
    with rule_errors(rule, node, "map" if layer.operator is None else layer.operator.__name__):
        return rule(layer, x, r)


@contextmanager
def rule_errors(rule: AssignedRule, node: fx.Node, kind: str) -> Iterator[None]:
    """Report what goes wrong in a rule with the rule, the layer and the user's line."""
    try:
        yield
    except VerificationError as error:
        text = f"rule {rule} at {where(node)}: {error}"
        if not isinstance(rule, BoundRule) or rule.rule.fits is not None or kind == "map":
            raise type(error)(text) from error
        # a rule that isn't known to fit: what it computes can't be
        raise MethodError(f"{text}. {rules_that_fit(node)}") from error
    except GraphpropError as error:
        raise type(error)(f"rule {rule} at {where(node)}: {error}") from error
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        text = f"the rule {rule.name!r} can't be applied to {where(node)} ({kind}): {error}"
        if node.op == "call_function" and kind != "map":
            text += f". {rules_that_fit(node)}"
        raise MethodError(text) from error


def as_relevance(x: Value, part: Value | float) -> Value:
    """Return relevance of the shape of x: a rule may return a number, the same for all entries."""
    if isinstance(part, Value):
        if tuple(part.shape) != tuple(x.shape):
            raise ValueError(
                f"it gives relevance of shape {tuple(part.shape)} to an operand of shape "
                f"{tuple(x.shape)}"
            )
        return part
    zero: Value = Multiply()(x, 0.0)
    return zero if range_of(part) == ZERO else zero + part


# Budgets


def start_of_budget(r: Value) -> Value:
    """Write a budget of 1 for each sample that has any relevance."""
    size = total(absolute(r))
    return keep_where(size, "!=", ones_like(size))


def divided(budget: Value, parts: list[Value]) -> list[Value]:
    """Share a budget among branches in proportion to the size of their relevance."""
    rank = max(len(part.shape) for part in parts)
    sizes = [of_rank(total(absolute(part)), rank) for part in parts]
    q = divide_or_zero(budget, reduce(add, sizes))
    return [size * q for size in sizes]


def of_rank(number: Value, rank: int) -> Value:
    """Shape a number per sample so that it broadcasts against values of a rank."""
    return number if len(number.shape) == rank else Reshape((-1, *[1] * (rank - 1)))(number)


# What relevance is called


def input_label(network: Network, image: fx.Node) -> str:
    """What an input is called among the layers: its name, unless that is a layer's label."""
    taken = {facts_of(node).label for node in network.layers}
    return f"input {image.name}" if image.name in taken else image.name


def in_flow(label: str, flow: str) -> str:
    """The name of a layer's relevance in one flow."""
    return f"{label} ({flow})" if flow else label
