"""Rewrite tables: what fires, what is refused, and what the log says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphprop.ir.facts import BATCH, facts_of
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.ir.rewrite import (
    Refusal,
    Replacement,
    RewriteTable,
    is_call,
    is_number,
    is_zero,
    same_shape,
)
from graphprop.ir.writer import Value, Writer
from graphprop.ops import Add, Multiply, Negate, Relu, Subtract


def network_of(function: Any) -> Network:
    """What a function of one value writes, at level ``lowered``."""
    network = Network(level="lowered")
    writer = Writer(network)
    x = writer.placeholder("x", torch.empty(BATCH, 3, device="meta"))
    network.graph.output(function(x).node)
    return network


def value_of(network: Network, x: torch.Tensor) -> torch.Tensor:
    """What a network computes."""
    output, _ = interpret(network, {"x": x})
    found: torch.Tensor = output
    return found


def operators(network: Network) -> list[str]:
    """The operators of a network, in order."""
    return [node.target.__name__ for node in network.layers]


X = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)


def test_a_rule_is_applied_until_nothing_is_left() -> None:
    table = RewriteTable()

    @table.rule("negation of a negation", Negate)
    def _twice(node: Any, writer: Writer) -> Replacement:
        inner = node.args[0]
        return inner.args[0] if is_call(inner, Negate) else None

    network = network_of(lambda x: Negate()(Negate()(Negate()(Negate()(Negate()(x))))))
    table.apply(network)
    assert operators(network) == ["negate"]
    assert torch.equal(value_of(network, X), -X)
    assert network.log.fired[0] == "negation of a negation: negate_1 (negate) -> x (placeholder)"
    assert len(network.log.fired) >= 2
    assert network.log.refused == []


def test_a_new_node_takes_the_name_and_the_log_has_both_operators() -> None:
    table = RewriteTable()

    @table.rule("difference as sum", Subtract)
    def _sum(node: Any, writer: Writer) -> Replacement:
        first, second = writer.values(node.args)
        return Add()(first, Negate()(second))

    network = network_of(lambda x: Relu()(x - Multiply()(x, 2.0)))
    table.apply(network)
    assert [node.name for node in network.layers] == [
        "multiply",
        "subtract_negate",
        "subtract",
        "relu",
    ]
    assert network.log.fired == ["difference as sum: subtract (subtract) -> subtract (add)"]
    assert torch.equal(value_of(network, X), torch.relu(-X))


def test_a_number_takes_the_place_of_a_node() -> None:
    table = RewriteTable()

    @table.rule("one", Relu)
    def _one(node: Any, writer: Writer) -> Replacement:
        return 1.0

    network = network_of(lambda x: x + Relu()(x))
    table.apply(network)
    assert network.log.fired == ["one: relu (relu) -> 1"]
    assert torch.equal(value_of(network, X), X + 1)
    assert facts_of(network.layers[0]).range.high == float("inf")


def test_refusals_are_those_of_the_last_sweep() -> None:
    """What is refused at first, and done later, is no refusal."""
    table = RewriteTable()

    @table.rule("negation under a relu", Relu)
    def _under(node: Any, writer: Writer) -> Replacement:
        inner = node.args[0]
        if not is_call(inner, Negate):
            return Refusal("its operand is no negation")
        return inner.args[0]

    @table.rule("product with minus one", Multiply)
    def _negated(node: Any, writer: Writer) -> Replacement:
        return Negate()(writer.value(node.args[0])) if is_number(node.args[1], -1.0) else None

    network = network_of(lambda x: Relu()(Multiply()(Relu()(x), -1.0)))
    # the rule for what comes first in the graph is tried first
    table.apply(network)
    assert network.log.refused == ["negation under a relu: relu (relu): its operand is no negation"]
    assert operators(network) == ["relu"]


def test_the_first_rule_that_applies_is_taken() -> None:
    table, tried = RewriteTable(), []

    @table.rule("refuses", Relu)
    def _first(node: Any, writer: Writer) -> Replacement:
        tried.append("first")
        return Refusal("not me")

    @table.rule("fires", Relu)
    def _second(node: Any, writer: Writer) -> Replacement:
        tried.append("second")
        return node.args[0]

    @table.rule("comes too late", Relu)
    def _third(node: Any, writer: Writer) -> Replacement:
        tried.append("third")
        return None

    network = network_of(lambda x: Negate()(Relu()(x)))
    table.apply(network)
    assert tried == ["first", "second"]
    assert network.log.fired == ["fires: relu (relu) -> x (placeholder)"]
    assert network.log.refused == []


def test_a_rule_is_removed_with_its_function() -> None:
    table = RewriteTable()

    @table.rule("for one", Relu)
    @table.rule("for another", Negate)
    def gone(node: Any, writer: Writer) -> Replacement:
        return node.args[0]

    @table.rule("stays", Relu)
    def _stays(node: Any, writer: Writer) -> Replacement:
        return None

    table.remove(gone)
    assert [entry.name for entry in table.rules] == ["stays"]
    network = network_of(lambda x: Negate()(Relu()(x)))
    table.apply(network)
    assert operators(network) == ["relu", "negate"]


def test_tables_are_joined_in_order() -> None:
    first, second = RewriteTable(), RewriteTable()
    first.rule("a", Relu)(lambda node, writer: None)
    second.rule("b", Relu)(lambda node, writer: None)
    assert [entry.name for entry in (first + second).rules] == ["a", "b"]
    assert [entry.name for entry in first.rules] == ["a"]


def test_equal_subexpressions_are_computed_once_and_logged() -> None:
    network = network_of(lambda x: Relu()(x) + Relu()(x))
    RewriteTable().apply(network)
    assert operators(network) == ["relu", "add"]
    assert network.log.fired == ["equal subexpressions: relu_1 (relu) -> relu (relu)"]


def test_what_nothing_uses_goes_with_its_tensors() -> None:
    network = Network(level="lowered")
    writer = Writer(network)
    x = writer.placeholder("x", torch.empty(BATCH, 3, device="meta"))
    kept = writer.tensor(torch.ones(3), "kept")
    Multiply()(x, writer.tensor(torch.ones(3), "unused"))
    network.graph.output((x + kept).node)
    RewriteTable().apply(network)
    assert set(network.tensors) == {"kept"}
    assert operators(network) == ["add"]


def test_a_copy_has_a_log_of_its_own() -> None:
    network = network_of(lambda x: Relu()(x) + Relu()(x))
    RewriteTable().apply(network)
    copied = network.copy()
    copied.log.fired.append("more")
    assert len(network.log.fired) == 1


@pytest.fixture
def parts() -> tuple[Any, Any, Any]:
    """A sum, and its two operands: the input, and something that is zero everywhere."""
    network = network_of(lambda x: x + Multiply()(x, 0.0))
    (product, total) = network.layers
    return total, total.args[0], product


def test_what_rules_ask_of_operands(parts: tuple[Any, Any, Any]) -> None:
    total, x, zero = parts
    assert is_call(total, Add)
    assert is_call(total, Relu, Add)
    assert not is_call(total, Relu)
    assert not is_call(x, Add)
    assert not is_call(1.0, Add)
    assert is_number(0.5, 0.5)
    assert is_number(1, 1.0)
    assert not is_number(0.5, 0.25)
    assert not is_number(x, 0.5)
    assert is_zero(zero)
    assert is_zero(0.0)
    assert not is_zero(x)
    assert not is_zero(1.0)
    assert same_shape(x, total)
    assert not same_shape(0.0, total)


def test_a_writer_turns_nodes_into_values(parts: tuple[Any, Any, Any]) -> None:
    total, x, _ = parts
    writer = Writer(Network(graph=total.graph, level="lowered"))
    assert isinstance(writer.value(x), Value)
    assert writer.value(x).node is x
    value, number = writer.values((x, 2.0))
    assert isinstance(value, Value)
    assert value.node is x
    assert number == 2.0
