"""The verifier finds what is wrong with a network, and shows where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphprop.errors import VerificationError
from graphprop.ir.facts import BATCH, facts_of
from graphprop.ir.network import Network
from graphprop.ir.show import excerpt, show
from graphprop.ir.verify import Condition, Fault, for_each_layer, verify
from graphprop.ir.writer import Writer
from graphprop.ops import AddBias, Negate, Relu


def network_of(length: int = 3) -> Network:
    """A chain of negations of a sum of the input and a tensor."""
    network = Network()
    writer = Writer(network)
    x = writer.placeholder("x", torch.empty(BATCH, 3, device="meta"))
    value = x + writer.tensor(torch.ones(3), "shift")
    for _ in range(length):
        value = Negate()(value)
    network.graph.output(value.node)
    return network


def node_of(network: Network, name: str) -> Any:
    """The node of a name."""
    return next(node for node in network.graph.nodes if node.name == name)


def test_a_network_as_it_is_written_is_well_formed() -> None:
    verify(network_of())


def move(network: Network) -> None:
    node_of(network, "negate").prepend(node_of(network, "negate_2"))


def call_method(network: Network) -> None:
    node_of(network, "negate").op = "call_method"


def call_function(network: Network) -> None:
    node_of(network, "negate").target = torch.neg


def call_lowered_operator(network: Network) -> None:
    network.level = "torch"
    node_of(network, "negate").target = AddBias(1)


def forget_value(network: Network) -> None:
    facts_of(node_of(network, "negate")).value = None


def forget_tensor(network: Network) -> None:
    network.tensors.clear()


def same_name(network: Network) -> None:
    node_of(network, "negate_1").name = "negate"


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (move, "negate_2: its operand negate_1 is not computed before it"),
        (call_method, "negate: a call_method node has no place in a network"),
        (call_function, "negate: .* is not an operator"),
        (call_lowered_operator, "negate: add_bias is not in the torch vocabulary"),
        (forget_value, "negate: the fact 'value' is missing"),
        (forget_tensor, r"shift \('shift'\): there is no tensor 'shift'"),
        (same_name, "negate: another node has its name"),
    ],
)
def test_a_malformed_network_is_refused(harm: Callable[[Network], None], text: str) -> None:
    network = network_of()
    harm(network)
    with pytest.raises(VerificationError, match=f"^{text}\n") as caught:
        verify(network)
    marked = [line for line in str(caught.value).splitlines() if line.startswith("> ")]
    assert len(marked) == 1
    assert marked[0].startswith(f"> {str(caught.value).partition(':')[0].split()[0]} = ")


def test_an_excerpt_is_lines_of_the_printed_network() -> None:
    network = network_of(9)
    shown = show(network).splitlines()
    lines = excerpt(network, node_of(network, "negate_4")).splitlines()
    assert len(lines) == 7
    assert [line[2:] for line in lines] == [*shown[5:12]]
    assert [line[:2] for line in lines] == ["  "] * 3 + ["> "] + ["  "] * 3
    assert lines[3].startswith("> negate_4 = negate()(negate_3)  # (-1, 3) mixed")


def test_an_excerpt_ends_where_the_network_does() -> None:
    network = network_of(1)
    assert excerpt(network, network.inputs[0]).splitlines()[0].startswith("  shift = tensor")
    assert excerpt(network, network.output).splitlines()[-1] == "> return negate"
    assert len(excerpt(network, node_of(network, "negate"), context=0).splitlines()) == 1


def test_a_condition_names_the_first_node_that_violates_it() -> None:
    network = network_of()
    negations = for_each_layer(
        "no layer is a negation",
        lambda node: "it is" if isinstance(node.target, Negate) else None,
    )
    violation = negations.violation(network)
    assert violation is not None
    assert violation.startswith("negate: it is\n")
    rectified = for_each_layer(
        "no layer is a rectifier",
        lambda node: "it is" if isinstance(node.target, Relu) else None,
    )
    assert rectified.violation(network) is None


def test_a_violation_names_the_label_and_the_line() -> None:
    network = network_of()
    facts_of(node_of(network, "negate")).update(label="block.0", line="net.py:3")
    condition = Condition("never", lambda network: [Fault(node_of(network, "negate"), "no")])
    violation = condition.violation(network)
    assert violation is not None
    assert violation.startswith("negate ('block.0' (net.py:3)): no\n")
