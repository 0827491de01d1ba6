"""What the passes ensure: conditions on the networks that they return.

A condition is checked after its pass has run, by `graphprop.passes.pipeline`. It is written in
other terms than the pass, where there are any.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from graphprop.ir.facts import facts_of, has_shape, range_of, shape_of
from graphprop.ir.interval import UNBOUNDED
from graphprop.ir.layout import sizes
from graphprop.ir.network import Network
from graphprop.ir.verify import Condition, Fault, for_each_layer
from graphprop.ops import BatchNorm
from graphprop.passes.assign_rules import is_beside
from graphprop.passes.join_sums import is_sum
from graphprop.rules.registry import Method


def _labeled_twice(network: Network) -> Iterator[Fault]:
    labels: set[str] = set()
    for node in network.layers:
        label = facts_of(node).label
        if label in labels:
            yield Fault(node, f"another layer has the label {label!r}")
        labels.add(label)


LABELED = Condition("every layer has a label of its own", _labeled_twice)


def _unjoined(node: fx.Node) -> str | None:
    if not is_sum(node):
        return None
    inner = next((a for a in node.args if is_sum(a) and set(a.users) == {node}), None)
    return None if inner is None else f"nothing else reads the sum {inner.name}"


SUMS_JOINED = for_each_layer("no sum is read by another sum alone", _unjoined)


def _undecided(network: Network) -> Iterator[Fault]:
    for node in network.layers:
        if isinstance(node.target, BatchNorm) and facts_of(node).label not in network.decisions:
            yield Fault(node, "it was neither merged nor left in place on purpose")


BATCH_NORMS_DECIDED = Condition("every batch norm has been decided on", _undecided)


def _with_wrong_range(network: Network) -> Iterator[Fault]:
    for node in network.graph.nodes:
        if node.op == "get_attr" and range_of(node) != UNBOUNDED:
            # other weights may be loaded
            yield Fault(node, f"a parameter has the range {range_of(node)}")
        if node.op == "call_function":
            shapes = [shape_of(a) for a in node.args if isinstance(a, fx.Node) and has_shape(a)]
            inferred = node.target.interval_at(shapes, *map(range_of, node.args))
            found = range_of(node)
            if not (inferred.low <= found.low and found.high <= inferred.high):
                yield Fault(node, f"its range is {found}, its operator infers {inferred}")


RANGES_INFERRED = Condition(
    "the range of every value lies within what its operator infers", _with_wrong_range
)


def _without_layout(network: Network) -> Iterator[Fault]:
    for node in network.graph.nodes:
        if node.op == "output" or not (facts_of(node).batched and has_shape(node)):
            continue
        layout, shape = facts_of(node).layout, shape_of(node)
        if layout is None:
            yield Fault(node, "it has no layout")
        elif sizes(layout) != shape[1:]:
            yield Fault(node, f"its layout is {layout}, its shape {shape}")


LAYOUTS_INFERRED = Condition(
    "every value that depends on the input has a layout of its shape", _without_layout
)

ROLES_TAGGED = for_each_layer(
    "every layer with weights has a role",
    lambda node: "it has none" if node.target.weighted and not facts_of(node).roles else None,
)


def _wrong_signal(node: fx.Node) -> str | None:
    for index in facts_of(node).signal:
        operand = node.args[index] if index < len(node.args) else None
        if not isinstance(operand, fx.Node) or not facts_of(operand).batched:
            return f"its operand {index}, {operand}, does not"
    return None


SIGNALS_FOUND = for_each_layer(
    "relevance flows to operands that depend on the input", _wrong_signal
)


def map_layer_found(method: Method) -> Condition:
    """One layer is marked as the method's, or none if its map is made at the input."""

    def faults(network: Network) -> Iterator[Fault]:
        marked = [node for node in network.layers if facts_of(node).map_layer]
        if method.layer is None and marked:
            yield Fault(marked[0], "the method's map is made at the input")
        if method.layer is not None and not marked:
            yield Fault(network.output, "no layer is marked")
        if len(marked) > 1:
            yield Fault(marked[1], f"{marked[0].name} is marked, too")

    return Condition("the one layer at which the method makes its map is marked", faults)


def rules_assigned(method: Method) -> Condition:
    """Exactly the layers that relevance reaches have a rule, and each has operands to send to."""

    def faults(network: Network) -> Iterator[Fault]:
        reached = {network.output.args[0]}
        for node in reversed(network.layers):
            facts = facts_of(node)
            if node not in reached or is_beside(node, network, method):
                if facts.rule is not None:
                    yield Fault(node, f"no relevance reaches it, and it has the rule {facts.rule}")
                continue
            if facts.rule is None:
                yield Fault(node, "relevance reaches it, and it has no rule")
            if not facts.signal:
                yield Fault(node, "relevance reaches it, and flows to none of its operands")
            reached |= {node.args[index] for index in facts.signal}

    return Condition("the layers that relevance reaches, and no others, have a rule", faults)
