"""Every rule against its formula, neuron by neuron, on the dense matrix of the layer.

The reference knows nothing of convolutions: it reads a layer's matrix off by probing the layer with
the identity, and then goes through methods.md's formulas one output at a time. Each rule is held
against it twice: run on tensors, and compiled.
"""

from __future__ import annotations

from collections.abc import Callable
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
from graphprop.errors import GraphpropError, MethodError
from graphprop.frontend.capture import capture
from graphprop.ir.interpret import interpret
from graphprop.lowering.legalize import legalize
from graphprop.ops import Conv, Linear, divide_or_zero
from graphprop.rules import RULES, find_rule
from graphprop.rules.parameters import resolve_parameters
from support.formulas import (
    EXAMPLES,
    SETTINGS,
    SIZES,
    TOLERANCE,
    Example,
    by_shares,
    matrix,
    over,
    relevance_of,
    samples,
    suited,
)
from support.maps import fitting
from support.modules import Function

# The layers


# The reference: the matrix of a layer, and the formulas on it


# Each reference takes the inputs x [in], and for every output: the weights w and which inputs are
# connected ([out, in]), the bias b, zero where it is ignored, and the relevance r.


def assert_equal(found: torch.Tensor, expected: torch.Tensor, what: object = "") -> None:
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    torch.testing.assert_close(
        found, expected, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{what}: {text}"
    )


# Each rule is its formula


class Flattened(nn.Module):
    """One layer, behind a ReLU where its input is to be known as non-negative."""

    def __init__(self, layer: nn.Module, signs: str) -> None:
        super().__init__()
        self.layer, self.signs = layer, signs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.signs == "non-negative":
            x = torch.relu(x)
        return torch.flatten(self.layer(x), 1)


@pytest.mark.parametrize("signs", ["mixed", "non-negative"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_rules_are_their_formulas(
    example: Example, signs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = samples(example, signs)
    r = relevance_of(example, x)
    module = example.module
    weight = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    layer = Layer.of(example.operator, x, weight, bias)
    model = Flattened(module, signs).eval()
    program = capture(model, x)
    monkeypatch.setattr("graphprop.api.capture", lambda model, example_input: program)
    for setting in filter(None, (suited(setting, example) for setting in SETTINGS)):
        expected = setting.expected(example, x, r)
        rule = find_rule(setting.rule).bind(**setting.parameters)
        assert_equal(rule(layer, x, r), expected, setting)
        # start="one": the weights given as target are the relevance of the result
        explainer = graphprop.compile(model, x, "lrp_z", rules={"layer": rule}, start="one")
        logits, found = explainer(x, r.flatten(1))
        assert_equal(logits, model(x).detach(), setting)
        assert_equal(found, expected, f"compiled {setting}")
        # what becomes ONNX is the same in other operators; it takes an index as target
        index = torch.arange(len(x)) % logits.shape[1]
        legal = legalize(explainer.lowered, "onnx")
        (_, found, _), _ = interpret(legal, {"x": x, "target": index})
        assert_equal(found, explainer(x, index)[1], f"compiled for ONNX {setting}")


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "linear" in e.name], ids=str)
def test_flat_is_refused_on_dense_layers(example: Example) -> None:
    layer = Layer.of(Linear(), torch.zeros(2, *example.shape), example.module.weight)
    with pytest.raises(MethodError, match="means nothing on the dense layer 'layer'"):
        find_rule("flat").bind()(layer, torch.zeros(2, *example.shape), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("rule", "parameters", "message"),
    [
        ("epsilon", {"epsilon": 0.0}, "epsilon must be positive, not 0.0"),
        ("alpha_beta", {"alpha": -2.0}, "must not be negative, not -2 and 1"),
        ("alpha_beta", {"alpha": 0.5, "beta": -0.5}, "must not be negative"),
        ("gamma", {"gamma": -1.0}, "gamma must not be negative, not -1.0"),
        ("z", {"bias": "kept"}, "bias is 'sink' or 'ignored', not 'kept'"),
        ("zB", {"low": "lowest"}, "a number per channel or 'per_sample', not 'lowest'"),
        ("zB", {"low": (0.0, 1.0)}, "'layer' reads 6 channels, but the bound has 2 numbers"),
    ],
)
def test_rule_refuses_parameters(rule: str, parameters: dict[str, Any], message: str) -> None:
    x = torch.ones(2, 6)
    layer = Layer.of(Linear(), x, torch.ones(4, 6), torch.ones(4))
    with pytest.raises(MethodError, match=message):
        find_rule(rule).bind(**parameters)(layer, x, torch.ones(2, 4))


# Layers without weights


def compiled(model: nn.Module, x: torch.Tensor, **options: Any) -> graphprop.CompiledExplainer:
    """Compile for relevance that is given as target, and check the logits."""
    method = options.pop("method", "lrp_z")
    explainer = graphprop.compile(model.double().eval(), x, method, start="one", **options)
    with torch.no_grad():
        assert_equal(explainer(x)[0], model(x))
    return explainer


def explain_given(
    model: nn.Module, x: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance of x, and the random relevance of the result that it comes from."""
    explainer = compiled(nn.Sequential(model, nn.Flatten()), x, **options)
    r = torch.randn(len(x), explainer.classes, dtype=torch.float64)
    return explainer(x, r)[1], r


def pooled_inputs(*shape: int) -> torch.Tensor:
    """Inputs like those behind a ReLU: ties, zeros, windows of zeros; and one of mixed signs."""
    torch.manual_seed(4)
    x = torch.randint(-3, 4, (4, *shape)).clamp(min=0).double()
    x[1] *= torch.rand(shape, dtype=torch.float64)
    x[2] = 0.0
    x[3] = torch.randn(shape, dtype=torch.float64)
    return x


def windows_of(pool: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """Which inputs lie in the window of each result: ``[out, in]``."""
    return matrix(lambda x: (pool(x) != 0).double(), shape)


AVERAGES = [
    *(
        (nn.AvgPool2d(3, 2, padding, ceil_mode=ceil, count_include_pad=counted), (2, 6, 5))
        for padding in (0, 1)
        for ceil in (False, True)
        for counted in (False, True)
    ),
    (nn.AvgPool2d(2, divisor_override=3), (2, 6, 4)),
    (nn.AvgPool1d(3, 2, 1), (2, 7)),
    (nn.AvgPool3d((2, 1, 2), (2, 1, 1), (1, 0, 1)), (2, 4, 3, 3)),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 3)),
    (nn.AdaptiveAvgPool2d((3, 2)), (2, 4, 3)),
    (nn.AdaptiveAvgPool2d((5, 7)), (2, 2, 3)),
    (nn.Upsample(scale_factor=2), (2, 3, 2)),
    (nn.Upsample((5, 4), mode="bilinear"), (2, 3, 3)),
]


@pytest.mark.parametrize(("pool", "shape"), AVERAGES, ids=str)
def test_averages_divide_by_shares(
    pool: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = pooled_inputs(*shape), matrix(pool, shape)
    inside = (weight != 0) / (weight != 0).sum(1, keepdims=True)
    capture_once(monkeypatch, pool, x)
    stabilized, r = explain_given(pool, x, method="epsilon_plus")
    exact, other = explain_given(pool, x)
    for sample, handed, relevance in zip(x, r, stabilized, strict=True):
        cells = sample.flatten().numpy()
        expected = by_shares(cells * weight, handed.numpy(), 0.0, 1e-6)
        assert_equal(relevance.flatten(), torch.from_numpy(expected.sum(0)))
    for sample, handed, relevance in zip(x, other, exact, strict=True):
        cells = sample.flatten().numpy()
        expected = by_shares(cells * weight, handed.numpy(), 0.0, 0.0)
        # a window of zeros: every cell of the image in it gets the same
        empty = (weight @ cells == 0) * handed.numpy()
        expected = expected + inside * empty[:, None]
        assert_equal(relevance.flatten(), torch.from_numpy(expected.sum(0)))
    flattened, r = explain_given(pool, x, rules={"0": "flat"})
    assert_equal(flattened.flatten(1), r @ torch.from_numpy(inside))
    # all three hand down what they get, but where mixed signs cancel
    assert_equal(total(exact[:3]), other[:3].sum(1))
    assert_equal(total(flattened), r.sum(1))


def capture_once(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, x: torch.Tensor) -> None:
    """Let every `explain_given` that follows compile the same captured layer."""
    program = capture(nn.Sequential(layer, nn.Flatten()).double().eval(), x)
    monkeypatch.setattr("graphprop.api.capture", lambda model, example: program)


MAXIMA = [
    (nn.MaxPool2d(2), (2, 4, 6)),
    (nn.MaxPool2d(3, 2, 1), (2, 5, 6)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 6, 6)),
    (nn.MaxPool2d(2, 1, dilation=2), (2, 5, 5)),
    (nn.MaxPool2d((3, 1), (1, 2)), (2, 5, 5)),
    (nn.MaxPool1d(3, 1), (2, 7)),
    (nn.MaxPool3d(2, 1), (1, 3, 3, 3)),
    (nn.AdaptiveMaxPool2d((3, 2)), (2, 5, 4)),
    (nn.AdaptiveMaxPool2d((2, 2)), (2, 4, 4)),
    (nn.AdaptiveMaxPool1d(1), (2, 5)),
]


@pytest.mark.parametrize(("pool", "shape"), MAXIMA, ids=str)
def test_max_pool_gives_all_to_the_first_winner(
    pool: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, windows = pooled_inputs(*shape), windows_of(pool, shape)
    capture_once(monkeypatch, pool, x)
    found, r = explain_given(pool, x)
    for sample, handed, relevance in zip(x.flatten(1), r, found, strict=True):
        expected = torch.zeros_like(sample)
        for window, amount in zip(windows, handed, strict=True):
            cells = np.flatnonzero(window)
            expected[cells[np.argmax(sample.numpy()[cells])]] += amount
        assert_equal(relevance.flatten(), expected)
    if getattr(pool, "dilation", 1) == 1:
        found, r = explain_given(pool, x, rules={"0": "flat"})
        even = torch.from_numpy(windows / windows.sum(1, keepdims=True))
        assert_equal(found.flatten(1), r @ even)
        return
    with pytest.raises(GraphpropError, match="a dilated max pool has no average"):
        explain_given(pool, x, rules={"0": "flat"})


class Two(nn.Module):
    """Two halves of the input, put together by a function."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return self.function(first, second)


def halves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An input of two halves, zeros in both, in either and sums of zero among them."""
    torch.manual_seed(5)
    x = torch.randint(-2, 3, (3, 4, 3, 3)).double()
    x[0] *= torch.rand(4, 3, 3, dtype=torch.float64)
    return x, *x.chunk(2, 1)


def quotient(a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(over(a.numpy(), c.numpy(), 0.0))


@pytest.mark.parametrize("method", ["lrp_z", "epsilon_plus"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sum_divides_by_shares(sign: float, method: str) -> None:
    x, first, second = halves()
    found, r = explain_given(Two(lambda a, b: a + b if sign > 0 else a - b), x, method=method)
    r, stabilizer = r.reshape(first.shape), 1e-6 if method == "epsilon_plus" else 0.0
    share = torch.from_numpy(over(r.numpy(), (first + sign * second).numpy(), stabilizer))
    assert_equal(found, torch.cat([first * share, sign * second * share], 1))


def test_sum_of_three_divides_by_shares() -> None:
    x = torch.randn(3, 6, 2, 2, dtype=torch.float64)
    first, second, third = x.chunk(3, 1)

    class Three(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, c = x.chunk(3, 1)
            return a + b + c

    found, r = explain_given(Three(), x)
    share = quotient(r.reshape(first.shape), first + second + third)
    assert_equal(found, torch.cat([part * share for part in (first, second, third)], 1))


def test_a_constant_addend_gets_nothing() -> None:
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    for function in (lambda x: x + 1.5, lambda x: 2.0 - x, lambda x: x - torch.ones(2, 2)):
        found, r = explain_given(Function(function), x)
        assert_equal(found, r.reshape(x.shape))


PRODUCTS: dict[str, tuple[Callable[..., torch.Tensor], tuple[float, float]]] = {
    "neither a gate": (lambda a, b: a * b, (0.5, 0.5)),
    "both gates": (lambda a, b: torch.sigmoid(a) * torch.sigmoid(b), (0.5, 0.5)),
    "sigmoid first": (lambda a, b: torch.sigmoid(a) * b, (0.0, 1.0)),
    "sigmoid second": (lambda a, b: a * torch.sigmoid(b), (1.0, 0.0)),
    "tanh": (lambda a, b: a * torch.tanh(b), (1.0, 0.0)),
    "hard sigmoid": (lambda a, b: nn.functional.hardsigmoid(a) * b, (0.0, 1.0)),
    "hard sigmoid by hand": (lambda a, b: a * (nn.functional.relu6(b + 3) / 6), (1.0, 0.0)),
    "softmax": (lambda a, b: a * torch.softmax(b, 1), (1.0, 0.0)),
    "mean of a sigmoid": (lambda a, b: a * torch.sigmoid(b).mean((2, 3), keepdim=True), (1, 0)),
    "division": (lambda a, b: a / (b.abs() + 1), (1.0, 0.0)),
    "sigmoid of a relu6": (lambda a, b: nn.functional.relu6(a) * torch.sigmoid(b), (1.0, 0.0)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_goes_to_the_signal(name: str) -> None:
    function, (to_first, to_second) = PRODUCTS[name]
    x, first, _ = halves()
    found, r = explain_given(Two(function), x)
    r = r.reshape(first.shape)
    assert_equal(found, torch.cat([to_first * r, to_second * r], 1))


def test_a_signal_that_gates_itself_gets_all() -> None:
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    for function in (
        lambda x: x * torch.sigmoid(x),
        lambda x: x * nn.functional.relu6(x + 3) / 6,
        lambda x: x * torch.tensor([2.0, -1.0]),
        lambda x: -3 * x,
        lambda x: x * x,
    ):
        found, r = explain_given(Function(function), x)
        assert_equal(found, r.reshape(x.shape))


def test_relevance_passes_activations_unchanged() -> None:
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    activations = nn.Sequential(
        nn.LeakyReLU(0.2),
        nn.GELU(),
        nn.SiLU(),
        nn.ELU(),
        nn.Hardswish(),
        nn.PReLU(),
        nn.BatchNorm2d(2),
        nn.Tanh(),
        nn.Softplus(),
        nn.Dropout(),
        nn.Identity(),
        nn.ReLU6(),
        nn.Sigmoid(),
        nn.ReLU(),
    )
    found, r = explain_given(activations, x)
    assert_equal(found, r.reshape(x.shape))


REARRANGEMENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice": lambda x: x[:, :, 1::2, :-1],
    "select": lambda x: x[:, 1],
    "chunk and cat": lambda x: torch.cat([*x.chunk(2, 1)][::-1], 1),
    "stack": lambda x: torch.stack([x, x], 1),
    "pad": lambda x: nn.functional.pad(x, (1, 2, 0, 1)),
    "pad by one": lambda x: nn.functional.pad(x, (1, 1), value=1.0),
    "crop": lambda x: nn.functional.pad(x, (-1, 0)),
    "reflect": lambda x: nn.functional.pad(x, (1, 1, 2, 0), mode="reflect"),
    "flip": lambda x: x.flip(2),
    "pixel shuffle": lambda x: nn.functional.pixel_shuffle(x, 2),
    "channel shuffle": lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "roll": lambda x: x.roll(1, 2),
}


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_rearrangement_goes_back_by_its_adjoint(name: str) -> None:
    function = REARRANGEMENTS[name]
    x = torch.randn(3, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    found, r = explain_given(Function(function), x.detach())
    (expected,) = torch.autograd.grad(function(x).flatten(1), x, r)
    assert_equal(found, expected)


# The laws


def laws_layer(seed: int, bias: bool = True) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """A convolution, its input of mixed signs and the relevance of its result."""
    torch.manual_seed(seed)
    rank = seed % 3 + 1
    operator = Conv((1 + seed % 2,) * rank, (1,) * rank, (1,) * rank)
    x = torch.randn(3, 2, *SIZES[rank], dtype=torch.float64)
    x[2] = 0.0
    weight = torch.randn(3, 2, *(3,) * rank, dtype=torch.float64)
    layer = Layer.of(operator, x, weight, torch.randn(3, dtype=torch.float64) if bias else None)
    return layer, x, torch.randn_like(layer.op(x, weight))


def total(r: torch.Tensor) -> torch.Tensor:
    """The sum of each sample."""
    return r.flatten(1).sum(1)


def halves_of(layer: Layer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """P and N of methods.md, section 0."""
    above, below = x.clamp(min=0), x.clamp(max=0)
    w_above, w_below = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    return (
        layer.op(above, w_above) + layer.op(below, w_below),
        layer.op(above, w_below) + layer.op(below, w_above),
    )


RULES_OF_LAYERS = ("z", "epsilon", "alpha_beta", "z_plus", "gamma", "flat", "w_square", "zB")


@pytest.mark.parametrize("seed", range(6))
def test_law_of_the_halves(seed: int) -> None:
    layer, x, _ = laws_layer(seed)
    p, n = halves_of(layer, x)
    assert bool((p >= 0).all())
    assert bool((n <= 0).all())
    assert_equal(layer.op(x, layer.weight), p + n)


@pytest.mark.parametrize("seed", range(6))
def test_law_z_plus_and_flat_conserve(seed: int) -> None:
    layer, x, r = laws_layer(seed)
    p, _ = halves_of(layer, x)
    found = RULES["z_plus"].bind(bias="ignored")(layer, x, r)
    assert_equal(total(found), total(r * (p > 0)))
    assert_equal(total(RULES["flat"].bind()(layer, x, r)), total(r))
    assert_equal(total(RULES["w_square"].bind()(layer, x, r)), total(r))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("alpha", "beta"), [(1.0, 0.0), (2.0, 1.0), (3.5, 2.5), (0.0, 1.0), (2.0, 0.0), (0.3, 0.4)]
)
def test_law_total_of_alpha_beta(seed: int, alpha: float, beta: float) -> None:
    layer, x, r = laws_layer(seed)
    p, n = halves_of(layer, x)
    found = RULES["alpha_beta"].bind(alpha=alpha, beta=beta, bias="ignored")(layer, x, r)
    assert_equal(total(found), alpha * total(r * (p > 0)) - beta * total(r * (n < 0)))


@pytest.mark.parametrize("rule", RULES_OF_LAYERS)
def test_law_linear_in_r(rule: str) -> None:
    for seed in range(6):
        layer, x, r = laws_layer(seed)
        other = torch.randn_like(r)
        bound = RULES[rule].bind()
        found = bound(layer, x, 2.5 * r - other)
        assert_equal(found, 2.5 * bound(layer, x, r) - bound(layer, x, other))


@pytest.mark.parametrize("bias", ["sink", "ignored"])
def test_law_z_plus_keeps_the_sign(bias: str) -> None:
    for seed in range(6):
        layer, x, r = laws_layer(seed)
        assert bool((RULES["z_plus"].bind(bias=bias)(layer, x, r.abs()) >= 0).all())


@pytest.mark.parametrize("rule", RULES_OF_LAYERS)
def test_law_samples_are_independent(rule: str) -> None:
    for seed in range(6):
        layer, x, r = laws_layer(seed)
        bound = RULES[rule].bind()
        together = bound(layer, x, r)
        for i in range(len(x)):
            assert_equal(bound(layer, x[i : i + 1], r[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("rule", RULES_OF_LAYERS)
def test_law_padding_receives_nothing(rule: str) -> None:
    """What a padded layer hands to its input is all it hands out; shape and type stay."""
    for seed in range(6):
        layer, x, r = laws_layer(seed, bias=False)
        bound = RULES[rule].bind(**({"low": -5.0, "high": 5.0} if rule == "zB" else {}))
        found = bound(layer, x, r)
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        if rule in ("z", "zB", "w_square", "flat", "z_plus"):
            kept = r * (halves_of(layer, x)[0] > 0) if rule == "z_plus" else r
            kept = kept * (layer.op(x, layer.weight) != 0) if rule == "z" else kept
            torch.testing.assert_close(total(found), total(kept), rtol=1e-8, atol=1e-8)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(6)
    return {
        "plain": nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(5, 4, 3, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 6, bias=False),
            nn.ReLU(),
            nn.Linear(6, 3, bias=False),
        ),
        "transposed": nn.Sequential(
            nn.ConvTranspose2d(2, 3, 3, stride=2, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(3, 2, 1),
            nn.Flatten(),
            nn.Linear(3 * 81, 3, bias=False),
        ),
    }


@pytest.mark.parametrize("name", networks())
def test_law_epsilon_everywhere_is_gradient_times_input(name: str) -> None:
    """With epsilon -> 0 and no bias, on a ReLU network."""
    model = networks()[name].double().eval()
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1])
    explainer = graphprop.compile(model, x.detach(), "lrp_epsilon", epsilon=1e-14)
    logits, found = explainer(x.detach(), target)
    (gradient,) = torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)
    expected = (gradient * x).detach()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8 * expected.abs().max().item())
    # a consequence: the logit, handed down whole
    chosen = logits.gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(total(found), chosen, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", sorted(graphprop.METHODS))
def test_law_batch_of_a_network_is_independent(method: str) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(5, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    model = model.double().eval()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    x[3] = 0.0
    target = torch.tensor([0, 1, 2, 1, 0])
    explainer = graphprop.compile(model, x, method, **fitting(method, x))
    logits, together = explainer(x, target)
    assert bool(together.isfinite().all())
    for part in (slice(0, 1), slice(1, 3), slice(3, 4), slice(0, 5)):
        alone, found = explainer(x[part], target[part])
        assert_equal(alone, logits[part])
        assert_equal(found, together[part])


small = st.integers(-2, 2).map(float)


@settings(max_examples=60, deadline=None)
@given(
    w=arrays(float, (3, 4), elements=small),
    b=arrays(float, 3, elements=small),
    x=arrays(float, (2, 4), elements=small),
    r=arrays(float, (2, 3), elements=small),
)
def test_law_small_whole_numbers(
    w: np.ndarray, b: np.ndarray, x: np.ndarray, r: np.ndarray
) -> None:
    """Whole numbers add up exactly: zeros, ties and zero denominators of every kind."""
    tensors = [torch.from_numpy(a) for a in (x, w, b)]
    layer = Layer.of(Linear(), *tensors)
    for setting in SETTINGS:
        if setting.rule == "flat" or setting.parameters.get("low") == "one per channel":
            continue
        given = {"bias": "ignored", "stabilizer": 0.0, **setting.parameters}
        bias = b if given.pop("bias") == "sink" else 0.0 * b
        found = find_rule(setting.rule).bind(**setting.parameters)(
            layer, tensors[0], torch.from_numpy(r)
        )
        for sample, handed, relevance in zip(x, r, found, strict=True):
            for key, extreme in (("low", np.min), ("high", np.max)):
                if setting.parameters.get(key) == "per_sample":
                    given[key] = extreme(sample)
            shares = setting.reference(sample, w, np.ones_like(w), bias, handed, **given)
            assert_equal(relevance, torch.from_numpy(shares.sum(0)), setting)


def test_division_by_zero_gives_zero() -> None:
    a, c = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.0, -0.0, 4.0])
    assert divide_or_zero(a, c).tolist() == [0.0, 0.0, -0.5]
    layer = Layer.of(Linear(), torch.zeros(1, 1), torch.ones(1, 1))
    for zero in (0.0, -0.0):
        found = RULES["epsilon"].bind(epsilon=0.5)(
            layer, torch.full((1, 1), zero), torch.ones(1, 1)
        )
        assert float(found) == 0.0


# Padding that the model applies by itself


PADDED: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "as a module": (
        lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 3, 3)),
        lambda: nn.Conv2d(2, 3, 3, padding=1),
    ),
    "as a word": (
        lambda: nn.Conv2d(2, 3, 3, padding="same"),
        lambda: nn.Conv2d(2, 3, 3, padding=1),
    ),
    "and its own": (
        lambda: nn.Sequential(nn.ZeroPad2d((2, 2, 0, 0)), nn.Conv2d(2, 3, 3, padding=(1, 0))),
        lambda: nn.Conv2d(2, 3, 3, padding=(1, 2)),
    ),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_before_a_layer_is_like_the_layers_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, own = (nn.Sequential(make(), nn.Flatten()).double().eval() for make in PADDED[name])
    for theirs, ours in zip(padded.parameters(), own.parameters(), strict=True):
        theirs.data = ours.data
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64) + 3
    r = torch.randn_like(own(x)).detach()
    programs = {model: capture(model, x) for model in (padded, own)}
    monkeypatch.setattr("graphprop.api.capture", lambda model, example: programs[model])
    for rule in RULES_OF_LAYERS:
        maps = [compiled(model, x, rules={"type:Conv2d": rule})(x, r)[1] for model in (padded, own)]
        assert_equal(*maps, rule)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("rule", ["flat", "w_square", "zB", "z_plus"])
def test_uneven_padding_receives_nothing(rule: str) -> None:
    """Half a pixel more behind than before, as kernels of even length have it."""
    conv = nn.Conv2d(2, 3, (2, 4), padding="same", bias=False)
    x = torch.rand(3, 2, 5, 4, dtype=torch.float64) + 1
    found, r = explain_given(conv, x, rules={"type:Conv2d": rule})
    p, _ = halves_of(Layer.of(Conv((1, 1), (0, 0), (1, 1)), x, conv.weight.detach()), x)
    assert p.min() > 0
    torch.testing.assert_close(total(found), r.sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 0, 1, 0), (2, -1, 0, 1)], ids=str)
def test_uneven_padding_before_a_stride(padding: tuple[int, int, int, int]) -> None:
    """A convolution without bias hands back gradient times input by the z rule, ONNX too."""
    layers = nn.ZeroPad2d(padding), nn.Conv2d(2, 3, 3, stride=2, bias=False), nn.Flatten()
    model = nn.Sequential(*layers).double().eval()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    explainer = graphprop.compile(model, x.detach(), "lrp_z")
    _, relevance = explainer(x.detach(), 0)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    torch.testing.assert_close(relevance, x * gradient, rtol=1e-9, atol=1e-12)
    assert explainer.check().passed


def test_start_at_one() -> None:
    """``start=1``, as zennit's composites have it."""
    assert resolve_parameters(graphprop.METHODS["epsilon_plus"], {"start": 1})["start"] == "one"


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_bounds_are_numbers_or_tensors(shape: tuple[int, ...], kind: Any) -> None:
    low, high = (-1.0, -2.0, -1.5), (1.0, 2.5, 2.0)
    x, model = torch.rand(2, 3, 8, 8, dtype=torch.float64), plain_stack()
    bounds = {"low": kind(low).reshape(shape), "high": kind(high).reshape(shape)}
    found = graphprop.compile(model, x, "deep_taylor", **bounds)(x)[1]
    assert_equal(found, graphprop.compile(model, x, "deep_taylor", low=low, high=high)(x)[1])
    one = {"low": kind(-1.0), "high": kind([[[2.0]]])}
    found = graphprop.compile(model, x, "deep_taylor", **one)(x)[1]
    assert_equal(found, graphprop.compile(model, x, "deep_taylor", low=-1, high=2)(x)[1])
    with pytest.raises(MethodError, match="is the same at all places of a channel"):
        graphprop.compile(model, x, "deep_taylor", low=kind([[[0.0] * 8] * 8] * 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flat_layers": -1}, "flat_layers lies between 0 and inf, not -1"),
        ({"flat_layers": 1.5}, "flat_layers is a whole number, not 1.5"),
        ({"norm": "gone"}, "norm is 'pass' or 'affine', not 'gone'"),
        ({"bias": "gone"}, "bias is 'sink' or 'ignored', not 'gone'"),
    ],
)
def test_parameters_are_refused_before_anything_is_compiled(given: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        resolve_parameters(graphprop.METHODS["lrp_cmp_alpha1_flat"], given)


# What is said of totals that change


def plain_stack() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 16, 3)).double().eval()


def notes_on(method: str, **options: Any) -> list[str]:
    explainer = graphprop.compile(
        plain_stack(), torch.zeros(1, 3, 8, 8).double(), method, **options
    )
    return [note for note in explainer.notes if "alpha - beta" in note]


def test_note_on_alpha_and_beta_that_do_not_conserve() -> None:
    (note,) = notes_on("lrp_alpha1_beta0", alpha=2.0)
    assert note == (
        "alpha - beta is not 1 at '0', '2', '5': where a unit has excitatory and inhibitory "
        "inputs, the rule multiplies its total by 2, by 8 after the 3 layers that follow one "
        "another; where alpha - beta is 1 it is conserved"
    )
    (note,) = notes_on("lrp_z", rules={"2": ("alpha_beta", {"alpha": 0.0, "beta": 1.0})})
    assert "at '2': where" in note
    assert "its total by -1; where" in note
    assert notes_on("lrp_alpha2_beta1", alpha=3, beta=2) == []
    assert notes_on("preset_b") == []


def test_the_inhibitory_part_alone() -> None:
    """``alpha_beta(2, 1) = 2 alpha_beta(1, 0) + alpha_beta(0, 1)``, and the total is as noted."""
    x, model = torch.rand(2, 3, 8, 8, dtype=torch.float64), plain_stack()
    maps = {
        weights: graphprop.compile(
            model,
            x,
            "epsilon_plus",
            rules={"0": ("alpha_beta", dict(zip(("alpha", "beta"), weights, strict=True)))},
        )(x)[1]
        for weights in ((2.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    }
    assert_equal(maps[2.0, 1.0], 2 * maps[1.0, 0.0] + maps[0.0, 1.0])
