"""Rewrites and passes from outside the package, as the documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import graphprop
from graphprop.errors import MethodError, VerificationError
from graphprop.ir.facts import facts_of, range_of
from graphprop.ir.network import Network
from graphprop.ir.rewrite import Refusal, Replacement
from graphprop.ir.verify import Condition, for_each_layer
from graphprop.ir.writer import Writer
from graphprop.lowering import LEGALIZE_TORCH, SIMPLIFY
from graphprop.ops import Add, Multiply, Relu
from graphprop.passes.pipeline import REGISTERED, Step, register, registered, unregister


class Net(nn.Module):
    """A network that adds a value to itself, and rectifies a value twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = torch.relu(torch.relu(y + y))
        return self.head(y.mean((2, 3)))


X = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


# A rewrite


def double(node: fx.Node, writer: Writer) -> Replacement:
    """``x + x`` is ``2 x``."""
    if len(node.args) != 2 or node.args[0] is not node.args[1]:
        return None
    if not facts_of(node).batched:
        return Refusal("it does not depend on the input")
    return writer.value(node.args[0]) * 2.0


def test_a_rewrite_from_outside_fires(model: nn.Module, tmp_path: Path) -> None:
    before = graphprop.compile(model, X, "lrp_z")
    SIMPLIFY.rule("sum of equal operands", Add)(double)
    try:
        explainer = graphprop.compile(model, X, "lrp_z", dump_ir=tmp_path)
    finally:
        SIMPLIFY.remove(double)
    (dump,) = tmp_path.glob("*_simplify.txt")
    line = "# fired: sum of equal operands: add (add) -> add (multiply)"
    assert line in dump.read_text().splitlines()
    assert isinstance(named(explainer.lowered, "add").target, Multiply)
    for found, expected in zip(explainer(X), before(X), strict=True):
        torch.testing.assert_close(found, expected)
    assert explainer.check(backends=["python"]).passed
    assert graphprop.compile(model, X, "lrp_z").source == before.source


def test_a_rewrite_for_one_target_reaches_no_other(model: nn.Module) -> None:
    LEGALIZE_TORCH.rule("sum of equal operands", Add)(double)
    try:
        explainer = graphprop.compile(model, X, "lrp_z")
    finally:
        LEGALIZE_TORCH.remove(double)
    assert isinstance(named(explainer.lowered, "add").target, Add)
    assert "add = conv * 2" in explainer.source
    assert "add = conv * 2" not in graphprop.compile(model, X, "lrp_z").source


def named(network: Network, name: str) -> fx.Node:
    return next(node for node in network.layers if node.name == name)


# A pass


def drop_idle_relus(network: Network) -> Network:
    """Remove each ReLU whose operand is not negative anyway."""
    for node in network.layers:
        if is_idle(node):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    return network


def is_idle(node: fx.Node) -> bool:
    return isinstance(node.target, Relu) and range_of(node.args[0]).low >= 0


NO_IDLE_RELUS = for_each_layer(
    "no ReLU has an operand that is never negative",
    lambda node: "it changes nothing" if is_idle(node) else None,
)
IDLE = Step("drop_idle_relus", drop_idle_relus, ensures=(NO_IDLE_RELUS,))


def relus(explainer: graphprop.CompiledExplainer) -> int:
    return sum(layer.operator == "relu" for layer in explainer.layers)


def test_a_pass_from_outside_runs_is_timed_and_dumped(model: nn.Module, tmp_path: Path) -> None:
    before = graphprop.compile(model, X)
    assert relus(before) == 2
    with registered(IDLE, after="infer_ranges"):
        explainer = graphprop.compile(model, X, dump_ir=tmp_path)
    assert relus(explainer) == 1
    for found, expected in zip(explainer(X), before(X), strict=True):
        assert torch.equal(found, expected)
    text = (tmp_path / "05_drop_idle_relus.txt").read_text()
    assert text.startswith("# pass drop_idle_relus: ")
    cost = text.splitlines()[0]
    before_nodes, after_nodes = map(int, cost.rpartition(", ")[2].split()[:3:2])
    assert before_nodes - after_nodes == 1
    assert (tmp_path / "06_infer_layouts.txt").exists()
    assert explainer.check(backends=["python"]).passed
    assert relus(graphprop.compile(model, X)) == 2


def test_what_a_pass_from_outside_ensures_is_checked(model: nn.Module) -> None:
    lazy = Step("lazy", lambda network: network, ensures=(NO_IDLE_RELUS,))
    with (
        registered(lazy, after="infer_ranges"),
        pytest.raises(VerificationError) as caught,
    ):
        graphprop.compile(model, X)
    text = str(caught.value)
    assert (
        "the pass lazy (after: canonicalize, join_sums, fold_batchnorm, infer_ranges) does" in text
    )
    assert "no ReLU has an operand that is never negative: relu_1 ('relu#2' (" in text
    assert "\n> relu_1 = relu()(relu)" in text


def test_what_a_pass_from_outside_breaks_is_found(model: nn.Module) -> None:
    def careless(network: Network) -> Network:
        facts_of(network.layers[0]).value = None
        return network

    with (
        registered(Step("careless", careless), after="canonicalize"),
        pytest.raises(VerificationError, match=r"pass careless .*: the fact 'value' is missing"),
    ):
        graphprop.compile(model, X)


@pytest.mark.parametrize("after", ["canonicalize", "assign_rules", "lower", "simplify"])
def test_passes_run_after_any_pass_in_the_order_they_were_added(
    model: nn.Module, after: str, tmp_path: Path
) -> None:
    ran: list[str] = []

    def note(name: str) -> Callable[[Network], Network]:
        def function(network: Network) -> Network:
            ran.append(name)
            return network

        return function

    first, second, third = (Step(name, note(name)) for name in ("first", "second", "third"))
    with (
        registered(first, after=after),
        registered(second, after=after),
        registered(third, after="first"),
    ):
        graphprop.compile(model, X, dump_ir=tmp_path)
    assert ran == ["first", "third", "second"]
    names = [path.stem.partition("_")[2] for path in sorted(tmp_path.iterdir())]
    assert names[names.index(after) + 1 :][:3] == ran


def test_a_pass_for_one_target(model: nn.Module, tmp_path: Path) -> None:
    ran: list[str] = []

    def seen(network: Network) -> Network:
        ran.append(network.level)
        return network

    with registered(Step("seen", seen), after="legalize_onnx"):
        graphprop.compile(model, X).save(tmp_path / "out", check=False)
    assert set(ran) == {"onnx"}


def test_a_pass_is_added_once_and_after_a_pass_that_there_is() -> None:
    with pytest.raises(MethodError, match="there is no pass 'infer_rangs': did you mean 'infer_r"):
        register(IDLE, after="infer_rangs")
    register(IDLE, after="infer_ranges")
    try:
        with pytest.raises(MethodError, match="there is already a pass 'drop_idle_relus'"):
            register(IDLE, after="infer_layouts")
        with pytest.raises(MethodError, match="there is already a pass 'lower'"):
            register(Step("lower", drop_idle_relus), after="infer_layouts")
    finally:
        unregister(IDLE)
    assert REGISTERED == []


def test_a_pass_is_removed_where_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), registered(IDLE, after="infer_ranges"):
        raise ZeroDivisionError
    assert REGISTERED == []


def test_a_condition_is_a_sentence_and_a_function() -> None:
    assert isinstance(NO_IDLE_RELUS, Condition)
    assert NO_IDLE_RELUS.text.startswith("no ReLU")
