"""RAP-BN against its formulas neuron by neuron, and the laws of methods.md, section 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprop
from graphprop import Layer
from graphprop.errors import MethodError
from graphprop.ir.interpret import interpret
from graphprop.ops import BatchNorm
from graphprop.rules import RULES
from support import rap_reference as reference
from support.maps import (
    BOTH_SIGNS,
    EACH_LAYER,
    TOLERANCE,
    assert_equal,
    digits,
    error,
    explained,
    laid_out,
    through_compiler,
    total,
)
from support.rap_reference import LAYERS, NETWORKS, Example, Net, prepared

torch.set_num_threads(1)


# Parameters


def test_parameters_are_refused() -> None:
    network = prepared(NETWORKS["dense"](), 0)
    for texts, message in (
        ({"lost": "keep"}, "lost is 'drop' or 'spread', not 'keep'"),
        ({"inversion_sign": 2}, "inversion_sign is 1 or -1, not 2"),
        ({"inversion_sign": "+"}, "the parameter 'inversion_sign' is a number, not '\\+'"),
        ({"units": "some"}, "units is 'active' or 'all', not 'some'"),
        ({"input": "pixels"}, "input is 'zB' or 'flow', not 'pixels'"),
        (
            {"batch_norm": "merge"},
            "'rap-bn' can't have batch_norm=merge: a merged batch norm leaves nothing to "
            "compensate: leave it at 'compensate', or choose the method 'rap'",
        ),
        ({"authors": True}, "the method 'rap-bn' has no parameter 'authors'"),
    ):
        with pytest.raises(MethodError, match=message):
            graphprop.compile(network, network.images(), "rap-bn", **texts)


# One layer: the rules run on tensors, and compiled


FLOWS = [(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0)]
EACH_FLOW = pytest.mark.parametrize(
    ("kappa", "inversion_sign"), FLOWS, ids=["normal", "inversed", "inversed, sign -1"]
)


def by_hand(
    example: Example,
    seed: int,
    x: torch.Tensor,
    r: torch.Tensor,
    kappa: float,
    inversion_sign: float,
    lost: str,
) -> torch.Tensor:
    """Steps 2 and 3 of section 3 on a layer of this seed."""
    layer = example.layer(seed)
    w, b = reference.matrix_of(layer, example.shape)
    part = reference.excited if kappa > 0 else reference.inhibited
    rows = []
    for sample, handed in zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True):
        if layer.bias is not None:
            handed = reference.compensated_bias(b, layer.bias.numel(), handed, int(kappa))
        rows.append(
            reference.by_shares(
                lambda j, sample=sample: part(sample * w[j]),
                sample,
                handed,
                inversion_sign,
                lost,
            )
        )
    return torch.from_numpy(np.stack(rows)).reshape(x.shape)


def size_of(layer: Layer, r: torch.Tensor) -> torch.Tensor:
    """What a rounding error may be measured by: relevance, and the bias taken off it."""
    return r.abs() if layer.bias is None else r.abs() + layer.bias.abs().sum()


@EACH_FLOW
@BOTH_SIGNS
@EACH_LAYER
def test_rule_equals_its_formula(
    example: Example, signs: str, kappa: float, inversion_sign: float
) -> None:
    for seed, lost in enumerate(("spread", "drop")):
        layer, x, r = laid_out(example, seed, signs)
        given = {"kappa": kappa, "inversion_sign": inversion_sign, "lost": lost}
        found = RULES["rap_bn"].bind(**given)(layer, x, r)
        assert_equal(found, by_hand(example, seed, x, r, **given), size_of(layer, r))


@pytest.mark.parametrize("example", LAYERS[::2], ids=str)
def test_compiled_rule_equals_its_formula(example: Example) -> None:
    x = example.inputs(4, "mixed")
    kappa, inversion_sign = FLOWS[LAYERS.index(example) // 2 % len(FLOWS)]
    given = {"kappa": kappa, "inversion_sign": inversion_sign, "lost": "spread"}
    r, found = through_compiler(example, 4, x, "rap_bn", **given)
    layer, _, _ = laid_out(example, 4, "mixed")
    assert_equal(found, by_hand(example, 4, x, r, **given), size_of(layer, r))


@EACH_FLOW
@BOTH_SIGNS
@EACH_LAYER
def test_law_conserves(example: Example, signs: str, kappa: float, inversion_sign: float) -> None:
    """With "spread" the sum stays, or only turns its sign: what sums to zero goes on to do so."""
    for seed in range(3):
        layer, x, r = laid_out(example, seed, signs)
        given = {"kappa": kappa, "inversion_sign": inversion_sign}
        found = RULES["rap_bn"].bind(**given)(layer, x, r)
        active = x.flatten(1).any(1)
        assert active.tolist() == [True, True, False, True, True]
        expected = inversion_sign * total(r) * active
        assert_equal(total(found)[:, None], expected[:, None], size_of(layer, r))
        assert not found[2].any()
        assert not found[x == 0].any()


@EACH_FLOW
def test_dropped_relevance_is_missing(kappa: float, inversion_sign: float) -> None:
    """One input at work: an output sees it by an excitatory or by an inhibitory weight."""
    layer, x, r = laid_out(LAYERS[0], 0, "mixed")
    layer.bias = None
    given = {"kappa": kappa, "inversion_sign": inversion_sign, "lost": "drop"}
    found = RULES["rap_bn"].bind(**given)(layer, x, r)[3]
    z = layer.weight @ x[3]
    expected = inversion_sign * r[3][z > 0 if kappa > 0 else z < 0].sum()
    assert 0 < int((z > 0).sum()) < len(z)
    assert_equal(found.sum()[None, None], expected[None, None], r[3][None])


@BOTH_SIGNS
@EACH_LAYER
def test_law_input_layer_conserves(example: Example, signs: str) -> None:
    for seed, kappa in enumerate((1.0, -1.0)):
        layer, x, r = laid_out(example, seed, signs)
        found = RULES["rap_bn_input"].bind(kappa=kappa)(layer, x, r)
        active = x.flatten(1).any(1)
        assert_equal(total(found)[:, None], (total(r) * active)[:, None], size_of(layer, r))


@BOTH_SIGNS
@EACH_LAYER
def test_law_start_sums_to_zero(example: Example, signs: str) -> None:
    """Where an output has contributions of both signs; else they are a logit, or minus one."""
    for seed in range(3):
        layer, x, r = laid_out(example, seed, signs)
        z, size = layer.op(x, layer.weight), layer.op(x.abs(), layer.weight.abs())
        above, below = size + z > 1e-12 * size, size - z > 1e-12 * size
        found = RULES["rap_bn_start"].bind()(layer, x, r)
        expected = total(r * (above.double() - below.double()))
        assert_equal(total(found)[:, None], expected[:, None], r)
        whole = total((r * (above & below)).abs()) == total(r.abs())
        assert bool((total(found).abs() <= TOLERANCE * total(r.abs()))[whole].all())


@EACH_FLOW
@EACH_LAYER
def test_law_linear_without_bias(example: Example, kappa: float, inversion_sign: float) -> None:
    layer, x, r = laid_out(example, 1, "mixed")
    layer.bias, other = None, torch.randn_like(r)
    for bound in (
        RULES["rap_bn"].bind(kappa=kappa, inversion_sign=inversion_sign),
        RULES["rap_bn_input"].bind(kappa=kappa),
        RULES["rap_bn_start"].bind(),
    ):
        found = bound(layer, x, 2.5 * r - other)
        expected = 2.5 * bound(layer, x, r) - bound(layer, x, other)
        assert_equal(found, expected, r.abs() + other.abs())


@EACH_FLOW
@EACH_LAYER
def test_law_samples_are_independent(example: Example, kappa: float, inversion_sign: float) -> None:
    layer, x, r = laid_out(example, 2, "mixed")
    bound = RULES["rap_bn"].bind(kappa=kappa, inversion_sign=inversion_sign)
    together = bound(layer, x, r)
    for i in range(len(x)):
        part = slice(i, i + 1)
        assert_equal(bound(layer, x[part], r[part]), together[part], size_of(layer, r)[part])


@pytest.mark.parametrize("units", ["active", "all"])
@pytest.mark.parametrize("kappa", [1.0, -1.0])
@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 4, 5), (2, 3, 2, 2)], ids=str)
def test_compensation_of_a_norm(shape: tuple[int, ...], kappa: float, units: str) -> None:
    """``R - kappa (S - mean_A S) / (c h w)`` on the active units, or all: the sum stays."""
    x, r = torch.randn(2, 3, *shape, dtype=torch.float64)
    r[0] *= torch.rand(shape) < 0.5
    r[1] = 0.0
    scale, shift = torch.randn(2, shape[0], dtype=torch.float64)
    layer = Layer(BatchNorm(), operands=(x, scale, shift))
    found = RULES["compensate"].bind(kappa=kappa, units=units)(layer, x, r)
    per_channel = (-1, *[1] * (len(shape) - 1))
    s = (scale.reshape(per_channel) * x + shift.reshape(per_channel)) - x
    expected = [
        torch.from_numpy(reference.compensated_norm(*pair, int(kappa), units)).reshape(shape)
        for pair in zip(s.flatten(1).numpy(), r.flatten(1).numpy(), strict=True)
    ]
    assert_equal(found, torch.stack(expected), r.abs() + s.abs())
    assert_equal(total(found)[:, None], total(r)[:, None], r.abs() + s.abs())
    assert bool(found[r == 0].any()) == (units == "all")


# From end to end: every flow sums to zero


def flows_of(network: nn.Module, x: torch.Tensor, target: torch.Tensor, **options: Any) -> Any:
    """The relevance, and in each flow that of every layer's result, by its name."""
    explainer = graphprop.compile(network, x, "rap-bn", **options)
    _, relevance, kept = explained(explainer, x, target)
    named = {
        flow: {
            label.removesuffix(f" ({flow})").removeprefix("layers."): r
            for label, r in kept.items()
            if label.endswith(f" ({flow})")
        }
        for flow in ("normal", "inversed")
    }
    assert sum(map(len, named.values())) == len(kept)
    return explainer, relevance, named


def assert_sums_to_zero(r: torch.Tensor) -> None:
    assert bool((total(r).abs() <= TOLERANCE * total(r.abs())).all())


@pytest.mark.parametrize(
    "options", [{}, {"inversion_sign": 1}, {"units": "all"}, {"input": "flow"}], ids=str
)
def test_flows_sum_to_zero_at_every_layer(options: dict[str, Any]) -> None:
    network = prepared(NETWORKS["plain"](), 3)
    x, target = network.images(4), network.targets(4)
    _, relevance, named = flows_of(network, x, target, **options)
    for flow in named.values():
        logits, *others = flow
        assert logits == "dense2"
        for label in others:
            assert float(flow[label].abs().sum()) > 0
            assert_sums_to_zero(flow[label])
    assert_sums_to_zero(relevance)


def test_flows_of_a_residual_network_sum_to_zero() -> None:
    """Wherever all of a flow passes; its parts in two branches keep their sums, which cancel.

    With inversion_sign -1 they need not: branches of different depth turn their signs differently.
    """
    network = prepared(NETWORKS["residual"](), 3)
    with torch.no_grad():
        # every logit has contributions of both signs
        network.layers["dense"].weight.abs_()
        network.layers["dense"].weight[:, 1::2] *= -1
    x, target = network.images(4), network.targets(4)
    _, relevance, named = flows_of(network, x, target, inversion_sign=1)
    for flow in named.values():
        whole = ("flatten", "mean", "relu3", "add2.add", "relu2", "add1.add", "pool", "stem")
        for label in whole:
            assert_sums_to_zero(flow[label])
        branch = flow["bn3"].abs().sum()
        assert bool((total(flow["bn3"]).abs() > 1e-6 * branch).any())
        assert_sums_to_zero(torch.cat([flow["bn3"].flatten(1), flow["bn4"].flatten(1)], 1))
        for labels in (("bn3", "conv3"), ("bn4", "wide"), ("bn2", "conv2", "relu1", "conv1")):
            for label in labels[1:]:
                assert_equal(
                    total(flow[label])[:, None], total(flow[labels[0]])[:, None], flow[labels[0]]
                )
    assert_sums_to_zero(relevance)


def test_flows_of_digits_sum_to_zero() -> None:
    model, x = digits()
    _, relevance, named = flows_of(model, x, torch.tensor([3, 4, 5]), inversion_sign=1)
    for flow in named.values():
        for label, r in flow.items():
            if label != "classifier" and not label.startswith("block."):
                assert_sums_to_zero(r)
    assert_sums_to_zero(relevance)


def test_contributions_of_one_sign_start_a_flow_that_sums_to_the_logit() -> None:
    """Outside the law: where a logit has no contribution of one sign, one of the halves is zero."""
    network = prepared(NETWORKS["dense"](), 1)
    with torch.no_grad():
        network.layers["dense4"].weight.abs_()
    x, target = network.images(), network.targets()
    _, relevance, named = flows_of(network, x, target, inversion_sign=1)
    logits = network(x).gather(1, target[:, None]).detach()
    for flow in named.values():
        assert_equal(total(flow["relu3"])[:, None], logits, logits)
    assert_equal(total(relevance)[:, None], 2 * logits, relevance)


@pytest.mark.parametrize("sign", [1, -1])
def test_flows_keep_their_total_in_a_row(sign: int) -> None:
    """A chain whose logit has no inhibitory contribution: the logit, turned at every layer."""
    network = prepared(NETWORKS["plain"](), 1)
    with torch.no_grad():
        network.layers["dense2"].weight.abs_()
    x, target = network.images(), network.targets()
    _, _, named = flows_of(network, x, target, inversion_sign=sign)
    logits = network(x).gather(1, target[:, None]).detach()
    for flow, turns in (("normal", 1), ("inversed", sign)):
        for index, label in enumerate(("relu4", "relu3", "relu2", "relu1")):
            r = named[flow][label]
            expected = logits * turns**index
            assert_equal(total(r)[:, None], expected, r.abs() + logits.abs().max())


def test_flows_are_linear_without_bias_and_norm() -> None:
    torch.manual_seed(5)
    network = prepared(
        Net(
            (2, 6, 6),
            ("conv1", nn.Conv2d(2, 4, 3, padding=1, bias=False)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(4, 4, 3, padding=1, bias=False)),
            ("leaky", nn.LeakyReLU(0.1)),
            ("add", reference.Sum(), "leaky", "relu1"),
            ("pool", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("dense", nn.Linear(36, 3)),
        ),
        5,
    )
    x = network.images(4)
    explainer = graphprop.compile(network, x, "rap-bn", record=["*conv1 (*"])
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)

    def run(weights: torch.Tensor) -> list[torch.Tensor]:
        _, relevance = explainer(x, weights)
        normal, inversed = (
            explainer.relevance_at(f"layers.conv1 ({flow})") for flow in ("normal", "inversed")
        )
        return [relevance, normal, inversed]

    found = run(2.5 * first - second)
    for whole, one, other in zip(found, run(first), run(second), strict=True):
        assert float(whole.abs().sum()) > 0
        assert_equal(whole, 2.5 * one - other, one.abs() + other.abs())


# The compensation terms


def test_compensation_terms_have_names() -> None:
    network = prepared(NETWORKS["residual"](), 2)
    x, target = network.images(), network.targets()
    explainer = graphprop.compile(network, x, "rap-bn")
    decisions = explainer.network.decisions
    assert set(decisions) == {f"layers.{name}" for name in ("bn", "bn1", "bn2", "bn3", "bn4")}
    assert all(decision.startswith("compensated") for decision in decisions.values())
    rules = {layer.label: layer.rule for layer in explainer.layers}
    assert rules["layers.bn1"] == "compensate(kappa=1, units=active)"
    assert rules["layers.conv1"] == "rap_bn(kappa=1, inversion_sign=-1, lost=spread)"
    stem = "rap_bn_input(kappa=1, inversion_sign=-1, lost=spread, input=zB, low=per_sample"
    assert rules["layers.stem"].startswith(stem)
    assert rules["layers.dense"] == "rap_bn_start"
    names = {node.name for node in explainer.legal.layers}
    for name in ("bn", "bn1", "bn2", "bn3", "bn4"):
        assert f"layers_{name}_compensation" in names
    for name in ("conv1", "conv2", "conv3", "wide"):
        assert f"layers_{name}_bias_compensation" in names
    # without bias there is none; at the logit layer it isn't taken off
    assert "layers_stem_bias_compensation" not in explainer.source
    assert "layers_dense_bias_compensation" not in explainer.source
    for flow in ("normal", "inversed"):
        assert f"rap_bn_conv_{flow}(" in explainer.source
        assert f"# {flow} flow, layers.conv3: conv, rap_bn" in explainer.source

    nodes = {node.name: node for node in explainer.lowered.graph.nodes}
    assert {f"layers_bn1_{flow}_centered_compensation" for flow in ("normal", "inversed")} < set(
        nodes
    )
    wanted = {
        name: nodes[name]
        for name in (
            "layers_bn1",
            "layers_conv1",
            "layers_bn1_compensation",
            "layers_conv1_bias_compensation",
        )
    }
    _, kept = interpret(explainer.lowered, {"x": x, "target": target}, keep=wanted)
    s = kept["layers_bn1"] - kept["layers_conv1"]
    torch.testing.assert_close(kept["layers_bn1_compensation"], s)
    bias = network.layers["conv1"].bias.detach()
    expected = (bias - bias.mean()) / 16
    torch.testing.assert_close(kept["layers_conv1_bias_compensation"].flatten(), expected)


def test_flows_can_be_recorded() -> None:
    network = prepared(NETWORKS["dense"](), 2)
    x, target = network.images(), network.targets()
    explainer = graphprop.compile(network, x, "rap-bn", record=["layers.dense2"])
    explainer(x, target)
    both = [explainer.relevance_at(f"layers.dense2 ({flow})") for flow in ("normal", "inversed")]
    torch.testing.assert_close(explainer.relevance_at("layers.dense2"), sum(both))


@pytest.mark.parametrize("input", ["zB", "flow"])
def test_map_of_each_flow_can_be_recorded(input: str) -> None:
    network = prepared(NETWORKS["two inputs"](), 2)
    x, target = network.images(), network.targets()
    explainer = graphprop.compile(network, x, "rap-bn", record=["x"], input=input)
    _, relevance = explainer(x, target)
    for flow, kappa in (("normal", 1), ("inversed", -1)):
        expected = reference.rap_bn(network, x, target, input=input, flows=(kappa,))
        assert error(explainer.relevance_at(f"x ({flow})"), expected) < TOLERANCE
    torch.testing.assert_close(explainer.relevance_at("x"), relevance)


def test_an_input_called_like_a_layer() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.y = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.y(torch.relu(self.x(x)))

    torch.manual_seed(0)
    x = torch.randn(2, 4)
    explainer = graphprop.compile(Clash().eval(), x, "rap-bn", record=["x", "input x"])
    _, relevance = explainer(x)
    assert explainer.relevance_at("x").shape == (2, 5)
    torch.testing.assert_close(explainer.relevance_at("input x"), relevance)
    assert explainer.relevance_at("input x (normal)").shape == (2, 4)
