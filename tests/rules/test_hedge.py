"""Gradient hedging against its formulas neuron by neuron, and the laws of methods.md, section 4."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import graphprop
from graphprop import Layer
from graphprop.cli import main
from graphprop.errors import MethodError
from graphprop.frontend.capture import capture
from graphprop.frontend.load import load_source
from graphprop.ir.facts import facts_of
from graphprop.ops import Add, AvgPool, Conv, ConvTranspose, Linear, Subtract
from graphprop.passes.pipeline import Pipeline, analysis_steps
from graphprop.rules import RULES
from graphprop.rules.parameters import resolve_parameters
from support import hedge_reference as reference
from support.maps import (
    BOTH_SIGNS,
    EACH_LAYER,
    MODELS,
    TOLERANCE,
    assert_equal,
    awkward,
    chain,
    compiled,
    error,
    explained,
    forks,
    laid_out,
    parsed,
    total,
)
from support.rap_reference import (
    LAYERS,
    NETWORKS,
    Concatenation,
    Example,
    Net,
    Sum,
    matrix_of,
    prepared,
)

torch.set_num_threads(1)


NAMES = ["plain", "residual", "branches", "all convolution", "two inputs", "volume", "signal"]
NETS: dict[str, Callable[[], Net]] = {
    "chain": chain,
    "forks": forks,
    **{name: NETWORKS[name] for name in NAMES},
}
LAST = {
    "chain": "relu6",
    "forks": "relu5",
    "plain": "relu3",
    "residual": "relu3",
    "branches": "relu2",
    "all convolution": "relu2",
    "two inputs": "relu",
    "volume": "relu2",
    "signal": "relu2",
}


def path(layer: str) -> str:
    return f"layers.{layer}"


def of_layer(name: str) -> dict[str, str]:
    """The parameter that names the last activation, where the default isn't it."""
    return {"layer": path(LAST[name])} if name == "all convolution" else {}


# The maps of whole networks


@pytest.mark.parametrize("name", NETS)
def test_map_equals_the_formulas(name: str) -> None:
    network = prepared(NETS[name](), len(name))
    x, target = network.images(), network.targets()
    explainer = compiled(network, x, "hedge", **of_layer(name))
    assert facts_of(explainer.network.map_layer).label == path(LAST[name])
    found = explainer(x, target)[1]
    assert error(found, reference.hedge(network, x, target, LAST[name])) < TOLERANCE


SETTINGS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"gamma": "1.5"}, {"gamma": 1.5}),
    ({"gamma": "2"}, {"gamma": 2.0}),
    ({"terms": "CAUS"}, {"terms": "CAUS"}),
    ({"terms": "C"}, {"terms": "C"}),
    ({"low": "-4", "high": "4"}, {"low": -4, "high": 4}),
    ({"low": "-6.5,-7,-8", "high": "per_sample"}, {"low": (-6.5, -7, -8)}),
]


@pytest.mark.parametrize("name", ["residual", "chain"])
def test_parameters(name: str) -> None:
    network = prepared(NETS[name](), 7)
    x, target = network.images(), network.targets()
    for texts, meant in SETTINGS:
        explainer = compiled(network, x, "hedge", **parsed(texts))
        assert {key: explainer.settings[key] for key in meant} == meant
        expected = reference.hedge(network, x, target, LAST[name], **meant)
        assert error(explainer(x, target)[1], expected) < TOLERANCE, texts


@pytest.mark.parametrize("text", ["C,A", "A, C", "SUC", "U,S", "S", "A"])
def test_terms(text: str) -> None:
    """Any of the four, in any order: the paper's ablation."""
    network = prepared(NETS["forks"](), 7)
    x, target = network.images(), network.targets()
    _, found = compiled(network, x, "hedge", **parsed({"terms": text}), gamma=1.5)(x, target)
    expected = reference.hedge(network, x, target, LAST["forks"], terms=text, gamma=1.5)
    assert error(found, expected) < TOLERANCE


@BOTH_SIGNS
@pytest.mark.parametrize("example", LAYERS[::3], ids=str)
def test_law_terms_add_up(example: Example, signs: str) -> None:
    """What one term adds does not depend on which others there are; each has its own total."""
    layer, x, r = budgeted(example, 0, signs)
    rules = {terms: RULES["hedge"].bind(gamma=1.6, terms=terms) for terms in ("CAUS", *"CAUS")}
    parts = {terms: rule(layer, x, r) for terms, rule in rules.items()}
    assert_equal(sum(parts[term] for term in "CAUS"), parts["CAUS"], layer.budget)
    for terms, part in parts.items():
        of_terms = partial(reference.expected_total, terms=terms)
        expected = by_hand(of_terms, example, 0, layer, r, 1.6)
        assert_equal(total(part)[:, None], expected[:, None], layer.budget)


@pytest.mark.parametrize(("name", "layer"), [("chain", "relu3"), ("forks", "relu3")])
def test_layer_is_a_parameter(name: str, layer: str) -> None:
    """From a layer further down, through which the gradient comes to it."""
    network = prepared(NETS[name](), 2)
    x, target = network.images(), network.targets()
    _, found = compiled(network, x, "hedge", layer=path(layer), gamma=1.2)(x, target)
    expected = reference.hedge(network, x, target, layer, gamma=1.2)
    assert error(found, expected) < TOLERANCE


def test_target_of_weights() -> None:
    network = prepared(NETS["chain"](), 3)
    x = network.images()
    target = torch.zeros(3, network.classes(), dtype=torch.float64)
    target[0, 1], target[0, 2], target[2] = 1.0, -1.0, torch.rand(network.classes())
    _, found = compiled(network, x, "hedge")(x, target)
    expected = reference.hedge(network, x, target, LAST["chain"])
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_refused() -> None:
    network = prepared(NETS["forks"](), 0)
    x = network.images()
    for parameters, message in (
        ({"gamma": 0.99}, "gamma lies between 1 and 2, not 0.99"),
        ({"gamma": 2.01}, "gamma lies between 1 and 2, not 2.01"),
        ({"gamma": "most"}, "the parameter 'gamma' is a number, not 'most'"),
        ({"terms": "CAX"}, "terms names some of C, A, U and S, such as 'CAUS' or 'C,A', not 'CAX'"),
        ({"terms": ""}, "terms names some of C, A, U and S, .* not ''"),
        ({"terms": 3}, "terms names some of C, A, U and S"),
        ({"layer": "layers.relu55"}, "there is no layer 'layers.relu55'.*'layers.relu5'"),
        ({"layer": "layers.flatten"}, "has no places to make a map of: choose a layer in front of"),
        ({"layer": "layers.dense"}, "the map can't be made at the logits"),
    ):
        with pytest.raises(MethodError, match=message):
            compiled(network, x, "hedge", **parameters)
    vector = prepared(NETWORKS["dense"](), 0)
    with pytest.raises(MethodError, match="no layer with places that all relevance passes"):
        compiled(vector, vector.images(), "hedge")


# One layer


GAMMAS = (1.0, 1.6, 2.0)


def is_pointwise(example: Example) -> bool:
    return reference.is_pointwise(example.make())


def budgeted(example: Example, seed: int, signs: str) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """A layer with a budget for each sample; relevance of one sign, and none, in two of five."""
    layer, x, r = laid_out(example, seed, signs)
    r[1] = r[1].abs()
    r[4] = 0.0 if seed % 2 else -r[4].abs()
    tau = 0.1 + torch.rand(len(x), dtype=torch.float64)
    layer.budget = tau.reshape(-1, *[1] * (r.dim() - 1))
    return layer, x, r


def by_hand(
    function: Callable[..., Any], example: Example, seed: int, layer: Layer, r: Any, gamma: float
) -> torch.Tensor:
    """A function of the reference on every sample."""
    module = example.layer(seed)
    w, _ = matrix_of(module, example.shape)
    x = layer.operands[0]
    rows = [
        function(w, *pair, tau=float(tau), gamma=gamma, pointwise=reference.is_pointwise(module))
        for *pair, tau in zip(
            x.flatten(1).numpy(), r.flatten(1).numpy(), layer.budget.flatten(), strict=True
        )
    ]
    return torch.from_numpy(np.stack(rows))


@BOTH_SIGNS
@EACH_LAYER
def test_rule_equals_its_formula(example: Example, signs: str) -> None:
    for seed, gamma in enumerate(GAMMAS):
        layer, x, r = budgeted(example, seed, signs)
        found = RULES["hedge"].bind(gamma=gamma)(layer, x, r)
        expected = by_hand(reference.hedged, example, seed, layer, r, gamma)
        assert found.shape == x.shape
        assert_equal(found, expected.reshape(x.shape), layer.budget)


@BOTH_SIGNS
@EACH_LAYER
def test_law_total(example: Example, signs: str) -> None:
    """``(gamma - 2) tau`` where each P_j and N_j has what it needs, else less what is missing."""
    for seed, gamma in enumerate(GAMMAS):
        layer, x, r = budgeted(example, seed, signs)
        found = RULES["hedge"].bind(gamma=gamma)(layer, x, r)
        expected = by_hand(reference.expected_total, example, seed, layer, r, gamma)
        assert_equal(total(found)[:, None], expected[:, None], layer.budget)
        whole, nothing = (0.0, 0.0) if is_pointwise(example) else (gamma - 2.0, -1.0)
        # the third sample is all zeros, and the last all active, without negative relevance or any
        budget = layer.budget.flatten()
        assert total(found)[2] == pytest.approx(-float(bool((r[2] < 0).any())) * float(budget[2]))
        if (seed, signs) == (1, "mixed"):
            assert total(found)[4] == pytest.approx(nothing * float(budget[4]))
        if (seed, signs, example.name) == (0, "mixed", "conv 2-d"):
            assert total(found)[0] == pytest.approx(whole * float(budget[0]), abs=1e-12)


@BOTH_SIGNS
@EACH_LAYER
def test_law_not_positive_where_the_input_is_not(example: Example, signs: str) -> None:
    for seed in range(3):
        layer, x, r = budgeted(example, seed, signs)
        found = RULES["hedge"].bind(gamma=1.3)(layer, x, r)
        assert bool((found[x <= 0] <= 0).all())
        assert bool((found[x <= 0] < 0).any())


@EACH_LAYER
def test_law_size_of_relevance(example: Example) -> None:
    """R counts by its shares: ``c R`` gives what R does, whatever c > 0."""
    rule = RULES["hedge"].bind(gamma=1.3)
    layer, x, r = budgeted(example, 0, "mixed")
    expected = rule(layer, x, r)
    scales = torch.tensor([1e-9, 0.3, 7.0, 1e9, 2.0], dtype=torch.float64)
    found = rule(layer, x, r * scales.reshape(-1, *[1] * (r.dim() - 1)))
    assert_equal(found, expected, layer.budget)


@EACH_LAYER
def test_law_scale_of_a_channel(example: Example) -> None:
    """Scaling any output channel of the weights by c != 0, negative c among it, changes nothing."""
    rule = RULES["hedge"].bind(gamma=1.3)
    layer, x, r = budgeted(example, 1, "mixed")
    weight, expected = layer.weight, rule(layer, x, r)
    # of a grouped transposed convolution, a channel of the weight has one in each group
    axis = 1 if isinstance(layer.operator, ConvTranspose) else 0
    scales = 10 ** (4 * torch.rand(weight.shape[axis], dtype=torch.float64) - 2)
    scales[::2] *= -1
    layer.weight = weight * scales.reshape(*[1] * axis, -1, *[1] * (weight.dim() - axis - 1))
    assert_equal(rule(layer, x, r), expected, layer.budget)


@EACH_LAYER
def test_law_linear_in_the_budget(example: Example) -> None:
    rule = RULES["hedge"].bind(gamma=1.3)
    layer, x, r = budgeted(example, 2, "mixed")
    expected = 3.0 * rule(layer, x, r)
    layer.budget = 3.0 * layer.budget
    assert_equal(rule(layer, x, r), expected, layer.budget)


@EACH_LAYER
def test_law_samples_are_independent(example: Example) -> None:
    rule = RULES["hedge"].bind()
    layer, x, r = budgeted(example, 2, "mixed")
    together, budget = rule(layer, x, r), layer.budget
    for i in range(len(x)):
        part = slice(i, i + 1)
        layer.budget = budget[part]
        assert_equal(rule(layer, x[part], r[part]), together[part], layer.budget)


small = st.integers(-2, 2).map(float)


@settings(max_examples=40, deadline=None)
@given(
    w=arrays(float, (3, 4), elements=small),
    x=arrays(float, (2, 4), elements=small),
    r=arrays(float, (2, 3), elements=small),
    gamma=st.sampled_from([1.0, 1.5, 2.0]),
)
def test_law_small_whole_numbers(w: Any, x: Any, r: Any, gamma: float) -> None:
    """Whole numbers make empty sections and unconnected neurons of every kind."""
    values, weight, handed = map(torch.from_numpy, (x, w, r))
    rule, tau = RULES["hedge"].bind(gamma=gamma), 0.75
    for pointwise in (True, False):
        rows = [
            reference.hedged(w, *pair, tau=tau, gamma=gamma, pointwise=pointwise)
            for pair in zip(x, r, strict=True)
        ]
        if pointwise:
            layer = Layer.of(Linear(), values, weight)
            layer.budget = tau
            found = rule(layer, values, handed)
        else:
            # a kernel of three, of which padding hides all but the middle
            kernel = torch.zeros(*weight.shape, 3, dtype=torch.float64)
            kernel[..., 1] = weight
            layer = Layer.of(Conv((1,), (1,), (1,)), values[..., None], kernel)
            layer.budget = tau
            found = rule(layer, values[..., None], handed[..., None])[..., 0]
        torch.testing.assert_close(found, torch.from_numpy(np.stack(rows)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3])
def test_residual_add(count: int) -> None:
    """By what is positive of each branch; evenly where none is; always conserving."""
    parts = tuple(torch.randint(-2, 3, (3, 2, 4)).double() for _ in range(count))
    r = torch.randn(3, 2, 4, dtype=torch.float64)
    for part in parts:
        part[:, 0, :2] = torch.tensor([0.0, -1.0])
    cases = [(Add(), parts, parts)]
    if count == 2:
        cases.append((Subtract(), parts, (parts[0], -parts[1])))
    for operator, operands, terms in cases:
        layer = Layer.of(operator, operands)
        found = RULES["hedge_share"].bind()(layer, operands, r)
        expected = reference.shared([t.numpy().flatten() for t in terms], r.numpy().flatten())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.flatten(), torch.from_numpy(other), rtol=0, atol=1e-14)
        torch.testing.assert_close(sum(found), r, rtol=1e-14, atol=1e-14)
        layer.signal = (1,)
        assert RULES["hedge_share"].bind()(layer, operands, r)[0] is r


def test_average_conserves() -> None:
    pool = AvgPool((3, 3), (2, 2), (1, 1))
    x = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    x[1], x[2] = 0.0, -x[2].abs()
    r = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    found = RULES["hedge_average"].bind()(Layer.of(pool, x), x, r)
    assert_equal(total(found)[:, None], total(r)[:, None], r)
    # where nothing is positive, the shares are those of the cells
    matrix, _ = matrix_of(nn.AvgPool2d(3, 2, 1), (2, 5, 6))
    shares = matrix / matrix.sum(1, keepdims=True)
    for i in (1, 2):
        even = torch.from_numpy(r[i].numpy().flatten() @ shares).reshape(x.shape[1:])
        torch.testing.assert_close(found[i], even, rtol=0, atol=1e-12)


def start(x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return RULES["hedge_start"].bind()(Layer(None), x, r)


def test_initial_map_adds_up_to_one() -> None:
    x = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    r = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    g = x * r.mean((2, 3), keepdim=True)
    found = start(x, r)
    torch.testing.assert_close(found, g / total(g).abs().reshape(-1, 1, 1, 1))
    torch.testing.assert_close(total(found), total(g).sign())
    assert {-1.0, 1.0} == set(total(g).sign().tolist())


def test_initial_map_of_sum_zero() -> None:
    """Where G adds up to zero it is divided by its size; where it is zero, the map is."""
    x = torch.tensor([[1.0, 1.0], [2.0, 4.0], [0.0, 0.0]], dtype=torch.float64)[:, :, None]
    r = torch.tensor([[1.0, -1.0], [1.0, -0.5], [1.0, 2.0]], dtype=torch.float64)[:, :, None]
    assert start(x, r)[..., 0].tolist() == [[0.5, -0.5], [0.5, -0.5], [0.0, 0.0]]
    assert start(x, r * 0.0).abs().max() == 0


# Budgets


def step_of(label: str) -> str:
    """The step that a label is of: a sum of three is one of two, and one more."""
    return label.removeprefix("layers.").partition("#")[0].partition(".")[0]


def totals(network: Net, x: torch.Tensor, **parameters: Any) -> dict[str, torch.Tensor]:
    """What the relevance of each step's result adds up to, and that of the map as ``"x"``."""
    explainer = compiled(network, x, "hedge", **parameters)
    _, relevance, kept = explained(explainer, x, network.targets(len(x)))
    return {**{step_of(label): total(r) for label, r in kept.items()}, "x": total(relevance)}


def wide(*middle: tuple[Any, ...]) -> Net:
    """A network with so many channels that every neuron sees active and idle ones."""
    return Net(
        (3, 5, 5),
        ("stem", nn.Conv2d(3, 24, 3, padding=1)),
        ("relu", nn.ReLU()),
        *middle,
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(24, 4)),
    )


def assert_totals(found: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-10)


def test_budget_of_a_chain() -> None:
    """Each normal layer hands down ``(gamma - 2) tau``, of whatever arrives; a 1x1 layer 0."""
    network = prepared(
        wide(
            ("conv1", nn.Conv2d(24, 24, 3, padding=1)),
            ("relu1", nn.ReLU()),
            ("pointwise", nn.Conv2d(24, 24, 1)),
            ("relu2", nn.ReLU()),
            ("conv2", nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=2)),
            ("relu3", nn.ReLU()),
            ("conv3", nn.Conv2d(24, 24, 3, padding=1)),
            ("relu4", nn.ReLU()),
        ),
        5,
    )
    for gamma in (1.0, 1.4, 2.0):
        found = totals(network, network.images(2), gamma=gamma)
        assert_totals(found["conv3"].abs(), 1.0)
        for step in ("relu3", "conv2", "relu2", "pointwise"):
            assert_totals(found[step], gamma - 2.0)
        assert_totals(found["relu1"], 0.0)
        assert_totals(found["relu"], gamma - 2.0)
        # the box rule conserves, and normalizes nothing
        torch.testing.assert_close(found["x"], found["relu"], rtol=0, atol=1e-10)


def ledger(network: Net, x: torch.Tensor, layer: str, gamma: float) -> list[dict[str, Any]]:
    """Relevance and budgets of each sample, by the reference."""
    found = []
    for sample, target in zip(x, network.targets(len(x)), strict=True):
        with torch.no_grad():
            values = network.values(sample[None])
        start = reference.initial_map(network, values, target, layer)
        at, relevance = reference.walk(network, values, start, layer, gamma=gamma)
        found.append({**at, "x": (relevance, 1.0)})
    return found


def assert_budgets(
    network: Net, x: torch.Tensor, layer: str, gamma: float = 1.5
) -> list[dict[str, float]]:
    """Every layer's relevance is as the reference has it; returns the budgets."""
    explainer = compiled(network, x, "hedge", gamma=gamma)
    _, _, kept = explained(explainer, x, network.targets(len(x)))
    rows = ledger(network, x, layer, gamma)
    compared = 0
    for label, r in kept.items():
        step = step_of(label)
        if step in rows[0] and step != layer:  # there, it is the gradient
            expected = torch.from_numpy(np.stack([row[step][0] for row in rows]))
            assert error(r.flatten(1), expected) < TOLERANCE, step
            compared += 1
    assert compared == len(rows[0]) - 2
    return [{step: tau for step, (_, tau) in row.items()} for row in rows]


def test_budget_of_a_block() -> None:
    """Across a residual block with a projection budgets divide, and add up to what came in."""
    network = prepared(
        wide(
            ("conv1", nn.Conv2d(24, 24, 3, padding=1)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(24, 24, 3, padding=1)),
            ("bn", nn.BatchNorm2d(24)),
            ("projection", nn.Conv2d(24, 24, 1), "relu"),
            ("add", Sum(), "bn", "projection"),
            ("relu2", nn.ReLU()),
        ),
        3,
    )
    gamma, x = 1.5, network.images(2)
    budgets = assert_budgets(network, x, "relu2", gamma)
    for tau in budgets:
        assert 0.05 < tau["bn"] < 0.95
        assert tau["bn"] == tau["conv2"] == tau["relu1"] == tau["conv1"]
        assert tau["bn"] + tau["projection"] == pytest.approx(1)
        assert tau["relu"] == tau["stem"] == pytest.approx(1)
    found = totals(network, x, gamma=gamma)
    # what the block hands down is that of its 3x3 branch: the 1x1 projection hands down 0
    expected = torch.tensor([(gamma - 2) * tau["bn"] for tau in budgets], dtype=torch.float64)
    for step in ("relu1", "relu"):
        torch.testing.assert_close(found[step], expected, rtol=0, atol=1e-10)


def test_budget_of_a_concatenation() -> None:
    """Budgets divide by size of relevance among what is concatenated, too."""
    network = prepared(
        wide(
            ("left", nn.Conv2d(24, 16, 3, padding=1)),
            ("left_relu", nn.ReLU()),
            ("right", nn.Conv2d(24, 8, 3, padding=1), "relu"),
            ("right_relu", nn.ReLU()),
            ("cat", Concatenation(), "left_relu", "right_relu"),
            ("conv", nn.Conv2d(24, 24, 3, padding=1)),
            ("relu2", nn.ReLU()),
        ),
        4,
    )
    gamma, x = 1.5, network.images(2)
    for tau in assert_budgets(network, x, "relu2", gamma):
        assert 0.05 < tau["left"] < 0.95
        assert tau["left"] + tau["right"] == pytest.approx(1)
        assert tau["relu"] == pytest.approx(1)
    found = totals(network, x, gamma=gamma)
    for step in ("cat", "relu"):
        assert_totals(found[step], gamma - 2.0)


def test_budget_of_forks() -> None:
    """Blocks within blocks; the budget is whole wherever all relevance passes."""
    network = prepared(forks(), 8)
    for tau in assert_budgets(network, network.images(2), "relu5"):
        for step in ("last", "cat", "relu3", "around", "relu", "stem"):
            assert tau[step] == pytest.approx(1), step
        assert tau["relu2"] + tau["projection"] < 1
        assert tau["relu1"] == pytest.approx(tau["relu2"])


# The default layer


DEFAULTS = [
    ("vgg16.py", "features.29", (512, 2, 2)),
    ("resnet50.py", "layer4.2.relu", (2048, 1, 1)),
]


@pytest.mark.parametrize(("source", "layer", "shape"), DEFAULTS, ids=[row[0] for row in DEFAULTS])
def test_default_layer(source: str, layer: str, shape: tuple[int, ...]) -> None:
    """relu5_3 of VGG, what the last block of ResNet returns; a note says so."""
    program = capture(load_source(str(MODELS / source)).model, torch.zeros(1, 3, 32, 32))
    method = graphprop.METHODS["hedge"]
    network = Pipeline().run(analysis_steps(method, resolve_parameters(method, {})), program)
    label = facts_of(network.map_layer).label
    assert label.partition("#")[0] == layer
    (note,) = (note for note in network.notes if "map is made" in note)
    assert note == f"the initial map is made at {label}, of shape {shape}"
    rules: dict[str, list[str]] = {"batch_norm": []}
    for node in network.layers:
        rules.setdefault(node.target.__name__, []).append(str(facts_of(node).rule))
    assert set(rules["conv"][1:]) == {"hedge(gamma=1, terms=CAUS)"}
    assert set(rules["linear"]) == {"gradient"}
    assert set(rules["batch_norm"]) == ({"pass"} if source.startswith("resnet") else set())


# Nothing but numbers


def test_numbers_where_all_is_active() -> None:
    network = prepared(NETS["chain"](), 5)
    with torch.no_grad():
        for step in network.steps:
            if isinstance(step.layer, nn.Conv2d) and step.name != "stem":
                step.layer.weight.abs_()
        network.layers["bn"].bias.fill_(99.0)
    x = awkward(network)
    target = network.targets(4)
    values = network.values(x)
    assert all(bool((values[f"relu{i}"] > 0).all()) for i in range(1, 7))
    _, found = compiled(network, x, "hedge")(x, target)
    assert bool(found.isfinite().all())
    expected = reference.hedge(network, x, target, "relu6")
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_numbers_without_a_gradient() -> None:
    """A dense layer that nothing passes: the initial map is zero, and no share of it a number."""
    network = prepared(NETS["plain"](), 5)
    with torch.no_grad():
        network.layers["dense1"].bias.fill_(-1e4)
    x = network.images()
    explainer = compiled(network, x, "hedge")
    _, found, kept = explained(explainer, x, network.targets())
    assert not kept["layers.conv3"].any()
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_numbers_of_an_empty_section(sign: float) -> None:
    """Only positive relevance arrives, or only negative."""
    network = prepared(NETS["plain"](), 5)
    with torch.no_grad():
        for name in ("dense1", "dense2"):
            network.layers[name].weight.abs_()
            network.layers[name].bias.zero_()
        network.layers["dense2"].weight *= sign
        network.layers["conv3"].bias.fill_(0.5)
    x, target = network.images(), network.targets()
    explainer = compiled(network, x, "hedge", gamma=1.5)
    _, found, kept = explained(explainer, x, target)
    assert bool((kept["layers.relu3"] * sign >= 0).all())
    assert bool(found.isfinite().all())
    expected = reference.hedge(network, x, target, "relu3", gamma=1.5)
    assert error(found, expected) < TOLERANCE


# What is compiled


def test_source_names_what_it_computes() -> None:
    network = prepared(NETS["residual"](), 0)
    explainer = compiled(network, network.images(), "hedge")
    assert "hedge_conv(" in explainer.source  # layers that compute alike are calls of a function
    for name in ("plus", "minus", "active", "idle"):
        assert f"    {name} = " in explainer.source
    rules = {layer.label.removeprefix("layers."): layer.rule for layer in explainer.layers}
    assert rules["stem"] == "zB(low=per_sample, high=per_sample)"
    assert rules["conv1"] == "hedge(gamma=1, terms=CAUS)"
    assert rules["add1.add"] == "hedge_share"
    assert rules["bn1"] == "pass"
    assert rules["dense"] == "gradient"


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "gradient", "rap-bn"])
def test_the_rule_in_a_method_without_budgets(method: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\nmodel = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), "
        "nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(32, 3)).eval()\n"
        "example_input = torch.zeros(1, 1, 8, 8)\n"
    )
    arguments = ["compile", str(tmp_path / "model.py"), "-m", method, "--rule", "2=hedge"]
    found = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out")])
    assert found.exit_code == 2
    assert "rule hedge(gamma=1, terms=CAUS) at '2'" in found.stderr
    assert "use another rule for this layer, or the method 'hedge'" in found.stderr
    assert not (tmp_path / "out").exists()
