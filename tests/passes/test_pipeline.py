"""The pipeline checks what each pass ensures, and dumps what each pass did."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import graphprop
from graphprop.errors import VerificationError
from graphprop.frontend.capture import capture
from graphprop.ir.facts import facts_of
from graphprop.ir.interval import Interval
from graphprop.ir.layout import guessed
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation
from graphprop.ir.writer import Writer
from graphprop.lowering import legalization_steps, lowering_steps
from graphprop.ops import Add, Operator, Relu
from graphprop.passes.pipeline import NAMES, Pipeline, Step, analysis_steps
from graphprop.rules.parameters import resolve_parameters


class Net(nn.Module):
    """A residual block with a batch norm that is merged and one that is not, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv, self.bn = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.branch, self.gate = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(torch.tanh(self.before(x)))))
        x = x + self.branch(x) + self.branch(torch.relu(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[..., None, None]
        return self.fc(self.pool(x).flatten(1))


EXAMPLE = torch.zeros(2, 1, 8, 8)


@cache
def program() -> Any:
    """`Net` as it is captured."""
    torch.manual_seed(0)
    return capture(Net().eval(), EXAMPLE)


def all_steps(method: str) -> list[Step]:
    """Every pass of a method, for both targets one after the other."""
    chosen = graphprop.METHODS[method]
    parameters = resolve_parameters(chosen, {})
    return [
        *analysis_steps(chosen, parameters),
        *lowering_steps(chosen, parameters),
        *(step for target in ("torch", "onnx") for step in legalization_steps(target)),
    ]


def run(steps: list[Step], dump: Any = None) -> Pipeline:
    """Run the passes on `Net`."""
    pipeline = Pipeline(dump)
    network = pipeline.run(steps[:-2], program())
    for step in steps[-2:]:
        pipeline.run([step], network)
    return pipeline


Harm = Callable[[Network], Any]


def complaint(name: str, harm: Harm, method: str = "epsilon_plus_flat") -> str:
    """What the pipeline says of a pass whose result is harmed."""

    def harmed(function: Callable[[Any], Network]) -> Callable[[Any], Network]:
        def run_and_harm(network: Any) -> Network:
            result = function(network)
            return harm(result) or result

        return run_and_harm

    steps = [
        replace(step, function=harmed(step.function)) if step.name == name else step
        for step in all_steps(method)
    ]
    with pytest.raises(VerificationError) as caught:
        run(steps)
    return str(caught.value)


def named(network: Network, name: str) -> Any:
    """The node of a name."""
    return next(node for node in network.graph.nodes if node.name == name)


def test_the_names_are_those_of_the_steps() -> None:
    assert tuple(step.name for step in all_steps("lrp_z")) == NAMES


# methods that are fitted to data need more than passes
METHODS = [name for name, method in graphprop.METHODS.items() if not method.fitted]


def test_every_pass_of_every_method_ensures_something() -> None:
    for method in graphprop.METHODS:
        assert all(step.ensures for step in all_steps(method))


@pytest.mark.parametrize("method", METHODS)
def test_every_promise_is_kept(method: str) -> None:
    assert tuple(run(all_steps(method)).records) == NAMES


# A violated promise


def test_a_violation_names_the_passes_and_shows_the_lines() -> None:
    def forget(network: Network) -> None:
        facts_of(named(network, "branch")).rule = None

    text = complaint("assign_rules", forget)
    head, *lines = text.splitlines()
    assert re.sub(r"test_pipeline.py:\d+", "FILE", head) == (
        "the pass assign_rules (after: canonicalize, join_sums, fold_batchnorm, infer_ranges, "
        "infer_layouts, tag_roles, find_layer) does not ensure that the layers that relevance "
        "reaches, and no others, have a rule: branch ('branch' (FILE)): relevance reaches it, and "
        "it has no rule"
    )
    shown = [line.partition(" = ")[0] for line in lines]
    assert shown == ["  tanh", "  conv", "  relu", "> branch", "  relu_1", "  branch_1", "  add_1"]
    assert lines[3] == (
        "> branch = conv(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)"
        "(relu, branch_weight, branch_bias)  # (-1, 4, 6, 6) mixed | conv_stack"
    )
    assert lines[2].endswith("| pass")


def set_facts(name: str, **facts: Any) -> Harm:
    def harm(network: Network) -> None:
        facts_of(named(network, name)).update(**facts)

    return harm


@pytest.mark.parametrize(
    ("name", "harm", "expected"),
    [
        (
            "canonicalize",
            set_facts("conv", label="before"),
            "every layer has a label of its own: conv ('before' (FILE)): another layer has the "
            "label 'before'",
        ),
        (
            "infer_ranges",
            set_facts("relu", range=Interval(-1.0, 1.0)),
            "lies within what its operator infers: relu ('relu' (FILE)): its range is [-1, 1], its "
            "operator infers [0, inf]",
        ),
        (
            "infer_ranges",
            set_facts("conv_weight", range=Interval(0.0, 1.0)),
            "conv_weight ('conv.weight'): a parameter has the range [0, 1]",
        ),
        (
            "infer_layouts",
            set_facts("relu", layout=None),
            "every value that depends on the input has a layout of its shape: relu ('relu' "
            "(FILE)): it has no layout",
        ),
        (
            "infer_layouts",
            set_facts("relu", layout=guessed((-1, 4, 5, 5))),
            "its layout is N,c4,p5,p5, its shape (-1, 4, 6, 6)",
        ),
        (
            "tag_roles",
            set_facts("gate", roles=frozenset()),
            "every layer with weights has a role: gate ('gate' (FILE)): it has none",
        ),
        (
            "tag_roles",
            set_facts("conv", signal=(0, 1)),
            "relevance flows to operands that depend on the input: conv ('conv' (FILE)): its "
            "operand 1, conv_weight, does not",
        ),
        (
            "tag_roles",
            set_facts("relu", signal=(3,)),
            "relu ('relu' (FILE)): its operand 3, None, does not",
        ),
        (
            "find_layer",
            set_facts("relu", map_layer=True),
            "relu ('relu' (FILE)): the method's map is made at the input",
        ),
        (
            "assign_rules",
            set_facts("fc", signal=()),
            "fc ('fc' (FILE)): relevance reaches it, and flows to none of its operands",
        ),
        (
            "legalize_torch",
            lambda network: setattr(named(network, "relu"), "name", "lambda"),
            "every name can be that of a variable: lambda ('relu' (FILE)): its name can't be that "
            "of a variable",
        ),
    ],
)
def test_a_fact_that_is_wrong_is_found(name: str, harm: Harm, expected: str) -> None:
    assert expected in re.sub(r"test_pipeline.py:\d+", "FILE", complaint(name, harm))


def test_a_rule_where_no_relevance_goes_is_found() -> None:
    def everywhere(network: Network) -> None:
        facts_of(named(network, "gate")).rule = facts_of(named(network, "branch")).rule

    text = complaint("assign_rules", everywhere)
    assert "no relevance reaches it, and it has the rule z_plus" in text
    assert "\n> gate = linear()" in text


def test_the_layer_of_a_map_is_marked_once() -> None:
    def unmark(network: Network) -> None:
        for node in network.layers:
            facts_of(node).map_layer = False

    assert "output: no layer is marked" in complaint("find_layer", unmark, "gradcam")
    text = complaint("find_layer", set_facts("relu", map_layer=True), "gradcam")
    assert "the one layer at which the method makes its map is marked" in text
    assert "relu is marked, too" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("join_sums", "no sum is read by another sum alone: add_1 ('add#2' (FILE)): nothing else"),
        ("fold_batchnorm", "every batch norm has been decided on: before ('before' (FILE)): it"),
        ("infer_layouts", "x ('x'): it has no layout"),
        ("tag_roles", "before: it has none"),
        ("assign_rules", "fc ('fc' (FILE)): relevance reaches it, and it has no rule"),
        ("legalize_onnx", "the network is well-formed: conv ('conv' (FILE)): add_bias is not in"),
    ],
)
def test_a_pass_that_does_nothing_is_found(name: str, expected: str) -> None:
    steps = [
        replace(step, function=lambda network: network) if step.name == name else step
        for step in all_steps("lrp_epsilon")
    ]
    if name == "legalize_onnx":

        def unchanged(network: Network) -> Network:
            copied = network.copy()
            copied.level = "onnx"
            return copied

        steps[-1] = replace(steps[-1], function=unchanged)
    with pytest.raises(VerificationError) as caught:
        run(steps)
    text = re.sub(r"test_pipeline.py:\d+", "FILE", str(caught.value))
    assert text.startswith(f"the pass {name} (after: ")
    if name == "tag_roles":
        expected = "every layer with weights has a role: conv ('conv' (FILE)): it has none"
    assert expected in text


def test_relevance_of_another_shape_is_found() -> None:
    def exchange(network: Network) -> None:
        relevances = network.output.args[0][2]
        logits, maps, _ = network.output.args[0]
        network.output.args = ((logits, maps, {**relevances, "relu": relevances["fc"]}),)

    text = complaint("lower", exchange)
    assert "the relevance of every layer has the shape of the layer's result: r_fc" in text
    assert "it has the shape (-1, 3), relu (-1, 4, 6, 6)" in text


def write(target: Operation, *names: str) -> Harm:
    """Write a node at the end of the graph."""

    def harm(network: Network) -> None:
        writer = Writer(network)
        with network.graph.inserting_before(network.output):
            writer.write(target, tuple(writer.value(named(network, name)) for name in names))

    return harm


def test_what_is_left_to_simplify_is_found() -> None:
    text = complaint("simplify", write(Relu(), "r_fc"))
    assert "nothing is computed twice, or in vain: relu_2: nothing reads it\n" in text

    def repeat(network: Network) -> None:
        relu = named(network, "relu")
        user = next(iter(relu.users))
        writer = Writer(network)
        with network.graph.inserting_before(user):
            again = writer.write(relu.target, (writer.value(relu.args[0]),))
        user.replace_input_with(relu, again.node)

    text = complaint("simplify", repeat)
    assert "nothing is computed twice, or in vain: relu_2: relu is the same\n" in text


@dataclass(frozen=True)
class Unprintable(Operator):
    """An operator that knows how to run, and nothing else."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(("target", "method"), [("torch", "source"), ("onnx", "onnx")])
def test_an_operator_that_a_target_can_not_print_is_found(target: str, method: str) -> None:
    text = complaint(f"legalize_{target}", write(Unprintable(), "r_fc"))
    assert f"every operator can be printed for {target}: unprintable" in text
    assert f"unprintable has no method '{method}'" in text


def test_a_canonical_operator_in_a_lowered_graph_is_found() -> None:
    @dataclass(frozen=True)
    class Early(Unprintable):
        levels = frozenset({"canonical"})

    text = complaint("lower", write(Early(), "r_fc"))
    assert "the network is well-formed" in text
    assert "early is not in the lowered vocabulary" in text


def test_a_pass_that_fails_to_write_is_named() -> None:
    text = complaint("simplify", lambda network: write(Add(), "fc", "relu")(network))
    head = text.splitlines()[0]
    assert head.startswith("the pass simplify (after: canonicalize, ")
    assert ", lower) failed: add() at 'add" in head


# Dumps


def dumped(folder: Any, name: str) -> list[str]:
    """The lines of the dump of a pass."""
    (found,) = folder.glob(f"*_{name}.txt")
    lines: list[str] = found.read_text().splitlines()
    return lines


def test_dumps_are_numbered_and_say_what_a_pass_cost(tmp_path: Any) -> None:
    pipeline = run(all_steps("epsilon_plus_flat"), tmp_path)
    expected = [f"{number:02}_{name}.txt" for number, name in enumerate(NAMES, start=1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    for name, record in pipeline.records.items():
        cost, *rest = dumped(tmp_path, name)
        nodes = f"{record.before} -> {record.after}"
        assert re.fullmatch(rf"# pass {name}: \d+\.\d ms, {nodes} nodes", cost)
        listed = [line for line in rest if " = " in line or line.startswith("return ")]
        assert len(listed) >= record.after
    records = list(pipeline.records.values())
    assert [r.after for r in records[:-2]] == [r.before for r in records[1:-1]]
    assert records[-1].before == records[-2].before
    assert records[9].after < records[9].before


def test_dumps_differ_in_nothing_but_times(tmp_path: Any) -> None:
    run(all_steps("rap"), tmp_path / "first")
    run(all_steps("rap"), tmp_path / "second")
    for name in NAMES:
        first, second = dumped(tmp_path / "first", name), dumped(tmp_path / "second", name)
        assert first[1:] == second[1:]


def test_dumps_say_which_rewrites_fired_and_which_did_not(tmp_path: Any) -> None:
    run(all_steps("lrp_alpha2_beta1"), tmp_path)
    lines = dumped(tmp_path, "fold_batchnorm")
    assert "# batch norm bn: merged into conv" in lines
    assert any(re.match("# batch norm before: passed: what comes before it", x) for x in lines)
    lines = dumped(tmp_path, "simplify")
    fired = "# fired: clamp of a known sign: branch_1_positive (positive) -> relu_1 (relu)"
    assert fired in lines
    refused = "# not fired: clamp of a known sign: conv_positive (positive): its operand lies in"
    assert f"{refused} [-1, 1]" in lines
    assert "# not fired: indices that nothing reads: pool (item): the indices are read" in lines
    lines = dumped(tmp_path, "legalize_torch")
    assert "# fired: bias inside the call: fc (add_bias) -> fc (linear)" in lines
    lines = dumped(tmp_path, "legalize_onnx")
    rule = "transposed convolution as convolution with flipped weights"
    assert any(
        line.startswith(f"# not fired: {rule}: ")
        and line.endswith(": it has fewer than 8 channels")
        for line in lines
    )


def test_what_is_logged_belongs_to_one_pass(tmp_path: Any) -> None:
    pipeline = run(all_steps("lrp_z"), tmp_path)
    logs = {name: record.log.fired for name, record in pipeline.records.items()}
    assert {name for name, fired in logs.items() if fired} == {
        "simplify",
        "legalize_torch",
        "legalize_onnx",
    }
    assert not set(logs["simplify"]) & set(logs["legalize_torch"])


def test_compiling_and_saving_dump_both_targets(tmp_path: Any) -> None:
    explainer = graphprop.compile(Net().eval(), EXAMPLE, dump_ir=tmp_path / "ir")
    explainer.save(tmp_path / "out", check=False)
    assert {path.name for path in (tmp_path / "ir").iterdir()} == {
        "index.html",
        *(f"{number:02}_{name}.txt" for number, name in enumerate(NAMES, start=1)),
    }
    assert "ms, " not in (tmp_path / "out" / "explainer.py").read_text()
    assert "ms, " not in (tmp_path / "out" / "manifest.json").read_text()
