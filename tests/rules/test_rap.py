"""RAP against its formulas neuron by neuron, and the laws at the end of methods.md, section 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import graphprop
from graphprop import Layer
from graphprop.errors import MethodError
from graphprop.ops import Add, Conv, ConvTranspose, Linear, Subtract, divide_or_zero
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
    operator_of,
    through_compiler,
    total,
)
from support.rap_reference import LAYERS, NETWORKS, Example, Net, prepared

TARGETS = torch.tensor([0, 1, 2])

torch.set_num_threads(1)


# Parameters


@pytest.mark.parametrize("name", ["branches", "dense"])
def test_authors(name: str) -> None:
    """Inhibitory is for convolutions: the authors' dense layer sends all relevance to both sets."""
    network = prepared(NETWORKS[name](), 5)
    x, target = network.images(), network.targets()
    _, found = graphprop.compile(network, x, "rap", authors=True)(x, target)
    expected = reference.rap(
        network, x, target, negative="inhibitory", active="support", residual="signed"
    )
    assert error(found, expected) < TOLERANCE


def test_parameters_are_refused() -> None:
    network = prepared(NETWORKS["dense"](), 0)
    for texts, message in (
        ({"negative": "none"}, "negative is 'both' or 'inhibitory', not 'none'"),
        ({"active": "all"}, "active is 'input' or 'support', not 'all'"),
        ({"nu": "text"}, "nu is 'inhibitory' or 'printed', not 'text'"),
        ({"residual": "even"}, "residual is 'signed' or 'absolute', not 'even'"),
        ({"lost": "drop"}, "the method 'rap' has no parameter 'lost'"),
        ({"low": "smallest"}, "a bound of zB is a number, a number per channel or 'per_sample'"),
    ):
        with pytest.raises(MethodError, match=message):
            graphprop.compile(network, network.images(), "rap", **texts)


# One layer: the rule run on tensors, and compiled


VARIANTS = [
    {"negative": negative, "active": active}
    for negative in ("both", "inhibitory")
    for active in ("input", "support")
]
EACH_VARIANT = pytest.mark.parametrize(
    "parameters", VARIANTS, ids=lambda given: " ".join(given.values())
)


def by_hand(
    example: Example, seed: int, x: torch.Tensor, r: torch.Tensor, **parameters: str
) -> torch.Tensor:
    layer = example.layer(seed)
    w, _ = reference.matrix_of(layer, example.shape)
    rows = [
        reference.rap_hidden(w, *pair, convolution=not isinstance(layer, nn.Linear), **parameters)
        for pair in zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).reshape(x.shape)


@BOTH_SIGNS
@EACH_LAYER
def test_rule_equals_its_formula(example: Example, signs: str) -> None:
    for seed, parameters in enumerate(VARIANTS):
        layer, x, r = laid_out(example, seed, signs)
        found = RULES["rap"].bind(**parameters)(layer, x, r)
        assert_equal(found, by_hand(example, seed, x, r, **parameters), r)


@pytest.mark.parametrize("example", LAYERS[::2], ids=str)
def test_compiled_rule_equals_its_formula(example: Example) -> None:
    x = example.inputs(4, "mixed")
    parameters = VARIANTS[LAYERS.index(example) // 2 % len(VARIANTS)]
    r, found = through_compiler(example, 4, x, "rap", **parameters)
    assert_equal(found, by_hand(example, 4, x, r, **parameters), r)


@EACH_VARIANT
@BOTH_SIGNS
@EACH_LAYER
def test_law_conserves(example: Example, signs: str, parameters: dict[str, str]) -> None:
    """The sum stays where there is an active input, and is lost where there is none."""
    for seed in range(3):
        layer, x, r = laid_out(example, seed, signs)
        found = RULES["rap"].bind(**parameters)(layer, x, r)
        active = (x if parameters["active"] == "input" else found).flatten(1).any(1)
        assert active.tolist() == [True, True, False, *active[3:].tolist()]
        assert_equal(total(found)[:, None], (total(r) * active)[:, None], r)
        assert not found[2].any()


@EACH_VARIANT
@BOTH_SIGNS
@EACH_LAYER
def test_law_zero_stays_zero(example: Example, signs: str, parameters: dict[str, str]) -> None:
    layer, x, r = laid_out(example, 0, signs)
    found = RULES["rap"].bind(**parameters)(layer, x, r)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found[x == 0].any()


@BOTH_SIGNS
@EACH_LAYER
def test_law_linear_in_r(example: Example, signs: str) -> None:
    rule = RULES["rap"].bind(active="input")
    for seed in range(3):
        layer, x, r = laid_out(example, seed, signs)
        other = torch.randn_like(r)
        found = rule(layer, x, 2.5 * r - other)
        assert_equal(found, 2.5 * rule(layer, x, r) - rule(layer, x, other), r.abs() + other.abs())


@EACH_VARIANT
@BOTH_SIGNS
@EACH_LAYER
def test_law_scale_of_a_channel(example: Example, signs: str, parameters: dict[str, str]) -> None:
    """Scaling any output channel of the weights by c > 0 changes nothing."""
    rule = RULES["rap"].bind(**parameters)
    layer, x, r = laid_out(example, 1, signs)
    weight, expected = layer.weight, rule(layer, x, r)
    axis = 1 if isinstance(layer.operator, ConvTranspose) else 0
    scales = 10 ** (4 * torch.rand(weight.shape[axis], dtype=torch.float64) - 2)
    layer.weight = weight * scales.reshape(*[1] * axis, -1, *[1] * (weight.dim() - axis - 1))
    assert_equal(rule(layer, x, r), expected, r)


@EACH_VARIANT
@EACH_LAYER
def test_law_samples_are_independent(example: Example, parameters: dict[str, str]) -> None:
    rule = RULES["rap"].bind(**parameters)
    layer, x, r = laid_out(example, 2, "mixed")
    together = rule(layer, x, r)
    for i in range(len(x)):
        assert_equal(rule(layer, x[i : i + 1], r[i : i + 1]), together[i : i + 1], r[i : i + 1])


@EACH_LAYER
def test_law_of_the_start(example: Example) -> None:
    """The start conserves; at the last layer, all shares have the sign of their logit."""
    for seed in range(3):
        layer, x, r = laid_out(example, seed, "mixed")
        found = RULES["rap_start"].bind()(layer, x, r)
        size = layer.op(x.abs(), layer.weight.abs())
        assert_equal(total(found)[:, None], total(r * (size != 0))[:, None], r)
        assert bool((RULES["rap_start"].bind()(layer, x, -r.abs()) <= 0).all())
        layer.final = False
        inner = RULES["rap_start"].bind()(layer, x, r)
        kept = r * (layer.op(x, layer.weight) != 0)
        assert_equal(total(inner)[:, None], total(kept)[:, None], inner.abs() + x.abs())
        signs = inner.sign().flatten(1)
        assert bool((signs * total(inner).sign()[:, None] >= 0).all())


small = st.integers(-2, 2).map(float)


@settings(max_examples=40, deadline=None)
@given(
    w=arrays(float, (3, 4), elements=small),
    x=arrays(float, (2, 4), elements=small),
    r=arrays(float, (2, 3), elements=small),
)
def test_law_small_whole_numbers(w: np.ndarray, x: np.ndarray, r: np.ndarray) -> None:
    """Whole numbers make zeros and zero denominators of every kind.

    Relevance of both signs may cancel: whether what is left is zero, and so in the support, is up
    to the last bit. So there it has one sign.
    """
    values, weight = torch.from_numpy(x), torch.from_numpy(w)
    layer = Layer.of(Linear(), values, weight)
    wide = Layer.of(Conv((1,), (0,), (1,)), values[..., None], weight[..., None])
    for parameters in VARIANTS:
        rule = RULES["rap"].bind(**parameters)
        handed = np.abs(r) if parameters["active"] == "support" else r
        relevance = torch.from_numpy(handed)
        for convolution in (False, True):
            rows = [
                reference.rap_hidden(w, *pair, convolution=convolution, **parameters)
                for pair in zip(x, handed, strict=True)
            ]
            found = (
                rule(wide, values[..., None], relevance[..., None])[..., 0]
                if convolution
                else rule(layer, values, relevance)
            )
            torch.testing.assert_close(found, torch.from_numpy(np.stack(rows)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("residual", ["absolute", "signed"])
@pytest.mark.parametrize("count", [2, 3])
def test_residual_add(count: int, residual: str) -> None:
    """Zeros in some branches or all: the absolute shares conserve even there."""
    parts = [torch.randint(-2, 3, (3, 2, 4)).double() for _ in range(count)]
    r = torch.randn(3, 2, 4, dtype=torch.float64)
    for part in parts:
        part[:, 0, 0] = 0.0
    values = tuple(parts)
    layer = Layer.of(Add(), values)
    found = RULES["share"].bind(residual=residual)(layer, values, r)
    expected = reference.shared([p.numpy() for p in parts], r.numpy(), residual)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, torch.from_numpy(other), rtol=1e-14, atol=1e-14)
    if residual == "absolute":
        torch.testing.assert_close(sum(found), r, rtol=1e-14, atol=1e-14)
        opposite = Layer.of(Subtract(), values[:2])
        for one, other in zip(
            RULES["share"].bind(residual=residual)(opposite, values[:2], r),
            reference.shared([p.numpy() for p in parts[:2]], r.numpy(), residual),
            strict=True,
        ):
            torch.testing.assert_close(one, torch.from_numpy(other), rtol=1e-14, atol=1e-14)


# From end to end: the ledger


def lost_by_box(layer: Any, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """What zB loses: the relevance of outputs whose denominator is zero."""
    operator, weight = operator_of(layer), layer.weight.detach()
    low, high = (
        bound.reshape(-1, *[1] * (x.dim() - 1))
        for bound in (x.flatten(1).amin(1), x.flatten(1).amax(1))
    )
    c = operator.run(x - low, weight.clamp(min=0)) + operator.run(x - high, weight.clamp(max=0))
    return total(r * (c == 0))


def vgg() -> Net:
    """Convolutions, max pools and a dense head; one filter of the first layer is positive."""
    network = prepared(
        Net(
            (2, 12, 12),
            ("conv1", nn.Conv2d(2, 6, 3, padding=1)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(6, 6, 3, padding=1)),
            ("relu2", nn.ReLU()),
            ("pool1", nn.MaxPool2d(2)),
            ("conv3", nn.Conv2d(6, 8, 3, padding=1)),
            ("relu3", nn.ReLU()),
            ("pool2", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("dense1", nn.Linear(72, 10)),
            ("relu4", nn.ReLU()),
            ("dense2", nn.Linear(10, 4)),
        ),
        11,
    )
    with torch.no_grad():
        network.layers["conv1"].weight[0].abs_()
        network.layers["conv1"].bias[0] = 30.0
    return network


def test_ledger_of_vgg() -> None:
    """Every layer's sum is the logit; what is missing at the input is what zB lost."""
    network = vgg()
    x = network.images(4)
    target = network(x).argmin(1)
    explainer = graphprop.compile(network, x, "rap")
    logits, relevance, kept = explained(explainer, x, target)
    chosen = logits.gather(1, target[:, None])
    assert bool((chosen < 0).any())
    for label, r in kept.items():
        assert_equal(total(r)[:, None], chosen, r), label
    lost = lost_by_box(network.layers["conv1"], x, kept["layers.conv1"])
    # the third image has a patch of its smallest number, where a positive filter sees nothing
    assert float(lost[2].abs()) > 1e-3 * float(kept["layers.conv1"][2].abs().sum())
    assert not lost[[0, 1, 3]].any()
    assert_equal((total(relevance) + lost)[:, None], chosen, kept["layers.conv1"])


def test_ledger_of_a_residual_network() -> None:
    """The sum is whole wherever all relevance passes; a residual add divides it."""
    network = prepared(NETWORKS["residual"](), 12)
    x = network.images(4)
    target = network(x).argmin(1)
    explainer = graphprop.compile(network, x, "rap")
    logits, relevance, kept = explained(explainer, x, target)
    chosen = logits.gather(1, target[:, None])
    sums = {label.removeprefix("layers."): total(r)[:, None] for label, r in kept.items()}
    for label in ("mean", "relu3", "add2.add", "relu2", "add1.add", "pool", "relu", "bn", "stem"):
        assert_equal(sums[label], chosen, kept[f"layers.{label}"])
    for first, *rest in (("bn3", "conv3"), ("bn4", "wide"), ("bn2", "conv2", "relu1", "conv1")):
        for label in rest:
            assert_equal(sums[label], sums[first], kept[f"layers.{label}"])
    assert_equal(sums["bn3"] + sums["bn4"], chosen, kept["layers.add2.add"])
    lost = lost_by_box(network.layers["stem"], x, kept["layers.stem"])
    assert_equal((total(relevance) + lost)[:, None], chosen, kept["layers.stem"])


def test_ledger_of_digits() -> None:
    model, x = digits()
    explainer = graphprop.compile(model, x, "rap")
    target = torch.tensor([3, 4, 5])
    logits, relevance, kept = explained(explainer, x, target)
    assert logits.argmax(1).tolist() == target.tolist()
    chosen = logits.gather(1, target[:, None])
    for label, r in kept.items():
        if not label.startswith("block."):
            assert_equal(total(r)[:, None], chosen, r)
    lost = lost_by_box(model.conv1, x, kept["conv1"])
    assert_equal((total(relevance) + lost)[:, None], chosen, kept["conv1"])


# Batch norm: merged or passed


def test_merged_equals_passed_where_scales_are_positive() -> None:
    for name in ("plain", "residual"):
        network = prepared(NETWORKS[name](), 4, positive_scales=True)
        x, target = network.images(), network.targets()
        passed, merged = (
            graphprop.compile(network, x, "rap", batch_norm=strategy)
            for strategy in ("pass", "merge")
        )
        assert all(d.startswith("merged into") for d in merged.network.decisions.values())
        assert error(merged(x, target)[1], passed(x, target)[1]) < TOLERANCE


def test_merging_a_negative_scale_turns_the_layer() -> None:
    """Where s < 0, merging exchanges what excites a channel and what inhibits it.

    Passed, relevance is shared by the contributions to the convolution's own result z, whose sign
    the batch norm then turns: what drives z up drives the network's value down. Merged, the weights
    are s * w, and P and |N| of the channel have changed places. So the maps differ; and the merged
    one is that of the same network written with the channel's weights and scale both negated.
    """
    network = prepared(NETWORKS["plain"](), 4)
    x, target = network.images(), network.targets()
    bn1, bn2 = network.layers["bn1"], network.layers["bn2"]
    assert bool((bn1.weight[0] < 0) & (bn2.weight[0] < 0))
    logits, passed = graphprop.compile(network, x, "rap")(x, target)
    _, merged = graphprop.compile(network, x, "rap", batch_norm="merge")(x, target)
    assert error(merged, passed) > 1e-2
    with torch.no_grad():
        for conv, bn in (("conv1", bn1), ("conv2", bn2)):
            layer = network.layers[conv]
            for tensor in (layer.weight, layer.bias, bn.running_mean, bn.weight):
                if tensor is not None:
                    tensor[0] *= -1
    same, turned = graphprop.compile(network, x, "rap")(x, target)
    torch.testing.assert_close(same, logits)
    assert error(turned, merged) < TOLERANCE


# Nothing but numbers


def test_negative_logit() -> None:
    """A negative logit gives a map of the same size and the opposite sum."""
    network = prepared(NETWORKS["plain"](), 2)
    x = network.images()
    explainer = graphprop.compile(network, x, "rap")
    target = network(x).argmin(1)
    logits, found = explainer(x, target)
    chosen = logits.gather(1, target[:, None])
    assert bool((chosen < 0).all())
    weights = torch.zeros_like(logits).scatter(1, target[:, None], -torch.ones_like(chosen))
    assert_equal(explainer(x, weights)[1], -found, chosen)


def test_division_by_what_is_too_small() -> None:
    """A quotient that would be infinite is zero; what is no number stays none."""
    a = torch.tensor([1.0, -1.0, 0.0, 1e20, 1e-30, torch.nan, 3.0])
    c = torch.tensor([1e-40, 0.0, 0.0, 1e-20, 1e-30, 1.0, torch.nan])
    found = divide_or_zero(a, c)
    assert found[:5].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert bool(found[5:].isnan().all())
    exact = divide_or_zero(a[:5].double(), c[:5].double())
    torch.testing.assert_close(exact[[0, 3]], (a / c.double())[[0, 3]], rtol=1e-15, atol=0)


def hard_layers() -> dict[str, tuple[Conv, torch.Tensor, torch.Tensor]]:
    """Layers at which a difference of two results might leave a remnant of rounding."""
    torch.manual_seed(0)
    x, weight = torch.randn(3, 16, 12, 12), torch.randn(8, 16, 3, 3)
    x[0, :, :7] = 0.0  # windows of zeros beside others
    weight[1] = 0.0  # a dead channel
    weight[2] = weight[2].abs()  # N is zero where x >= 0, and P is where x <= 0
    weight[3] = -weight[3].abs()
    weight[4, :8] = weight[4, 8:] = 1.0  # cancels, see x
    weight[4, 8:] *= -1.0
    weight[5] *= 1e-20
    weight[6] *= 1e15
    above = x.abs()
    above[2, 8:] = above[2, :8]
    plain = Conv((1, 1), (1, 1), (1, 1))
    return {
        "above": (plain, above, weight),
        "both": (plain, x, weight),
        "tiny": (plain, above * 1e-15, weight),
        "strided": (Conv((2, 2), (0, 0), (1, 1)), above, weight),
        "pointwise": (Conv((1, 1), (0, 0), (1, 1)), above, weight[:, :, 1:2, 1:2]),
        "in groups": (Conv((1, 1), (1, 1), (1, 1), 4), above, weight[:, :4]),
    }


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", hard_layers())
def test_difference_has_no_remnants(name: str, memory: torch.memory_format) -> None:
    """``z - 2 P`` is zero just where all terms are, and as exact as a sum of their sizes."""
    operator, x, weight = hard_layers()[name]
    x = x.contiguous(memory_format=memory)
    layer = Layer.of(operator, x, weight)
    seen: dict[str, torch.Tensor] = {}
    layer.rename = lambda value, name, shared: seen.setdefault(name, value)
    r = torch.randn(operator(x, weight).shape)
    found = RULES["rap"].bind()(layer, x, r)
    sizes = operator(x.double().abs(), weight.double().abs())
    assert torch.equal(seen["difference"] == 0, sizes.float() == 0)
    assert bool(((seen["difference"] + sizes).abs() <= 1e-6 * sizes + 1e-44).all())
    exact = RULES["rap"].bind()(
        Layer.of(operator, x.double(), weight.double()), x.double(), r.double()
    )
    assert bool(found.isfinite().all())
    assert bool((found[x == 0] == 0).all())
    assert error(found, exact) < 1e-5


# What is compiled


def test_rules_of_the_layers() -> None:
    network = prepared(NETWORKS["residual"](), 0)
    explainer = graphprop.compile(network, network.images(), "rap")
    rules = {layer.label.removeprefix("layers."): layer.rule for layer in explainer.layers}
    assert rules["stem"] == "zB(low=per_sample, high=per_sample)"
    assert rules["conv1"] == "rap(negative=both, active=input, nu=inhibitory)"
    assert rules["dense"] == "rap_start"
    assert rules["bn1"] == "pass"
    assert rules["add1.add"] == "share(residual=absolute)"
    # what is named stands in the function of the rule
    assert "rap_conv(" in explainer.source
    assert "    excitatory = " in explainer.source
    assert "    active = " in explainer.source
    shared = graphprop.compile(network, network.images(), "rap", residual="signed")
    assert "residual=signed" in shared.source
