"""Any network as it is written: the map of its tidy twin, the model's own logits, or a refusal."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop import Layer
from graphprop.checking.check import check_directory
from graphprop.errors import (
    CaptureError,
    GraphpropError,
    InputError,
    MethodError,
    UnsupportedOperator,
    WeightsError,
)
from graphprop.frontend.capture import capture
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.ir.verify import verify
from graphprop.lowering.legalize import legalize
from graphprop.ops import Linear, absolute, divide_or_zero
from graphprop.passes.pipeline import Pipeline
from graphprop.rules import METHODS, RULES
from support.networks import (
    assert_same_map,
    image,
    prepared,
    without_bias,
)

# Networks as people write them


class Reused(nn.Module):
    """One convolution and one batch norm, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        for _ in range(2):
            x = self.relu(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))


class Unrolled(nn.Module):
    """What `Reused` computes, every layer a module of its own."""

    def __init__(self, reused: Reused) -> None:
        super().__init__()
        conv, norm = (lambda: deepcopy(reused.conv)), (lambda: deepcopy(reused.norm))
        self.layers = nn.Sequential(
            deepcopy(reused.stem),
            nn.ReLU(),
            *(conv(), norm(), nn.ReLU()),
            *(conv(), norm(), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            deepcopy(reused.fc),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Tidy(nn.Module):
    """A residual block of modules, registered in the order they run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(x + self.norm2(self.conv2(x)))
        return self.fc(self.flatten(self.pool(x)))


class Untidy(nn.Module):
    """What `Tidy` computes: functional, in place, and its modules registered backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.norm2 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x), inplace=True)
        y = F.conv2d(x, self.conv2.weight, self.conv2.bias, padding=1)
        y = self.norm2(y)
        y += x
        y = torch.max_pool2d(y.relu_(), 2)
        return F.linear(y.view(y.shape[0], -1), self.fc.weight, self.fc.bias)


class SqueezeExcite(nn.Module):
    """A gate per channel, computed from the signal itself."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.squeeze = nn.Conv2d(4, 2, 1)
        self.excite = nn.Conv2d(2, 4, 1)
        self.fc = nn.Linear(4, 3, bias=bias)
        self.fixed: torch.Tensor | None = None

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))

    def signal(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.signal(x)
        gate = self.gate(x) if self.fixed is None else self.fixed
        return self.fc((gate * x).mean((2, 3)))


class Branches(nn.Module):
    """Concatenation, several consumers of one value, and a branch that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 2, 1)
        self.right = nn.Conv2d(4, 3, 3, padding=1)
        self.unused = nn.Conv2d(4, 9, 1)
        self.fc = nn.Linear(9 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        self.unused(x)
        x = torch.cat([F.relu(self.left(x)), x, F.relu(self.right(x))], 1)
        return self.fc(torch.flatten(F.avg_pool2d(x, 2), 1))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 4, 5, stride=2, padding=2),
            nn.BatchNorm1d(4),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose1d(4, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
        )
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layers(x).mean(2))


class ThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 3, 3, padding=1, bias=False),
            nn.BatchNorm3d(3),
            nn.ReLU(),
            nn.AvgPool3d(2),
            nn.Conv3d(3, 4, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class ByChannels(nn.Module):
    """Another way for images of one channel than for those of three."""

    def __init__(self) -> None:
        super().__init__()
        self.gray = nn.Conv2d(1, 4, 3)
        self.color = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gray(x) if x.shape[1] == 1 else self.color(x)
        return self.fc(F.relu(x).amax((2, 3)))


class Mobile(nn.Module):
    """Inverted residual: depthwise convolution, ReLU6, hard-swish, a channel shuffle, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 6, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.gate = nn.Linear(6, 6)
        self.project = nn.Conv2d(6, 3, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.hardswish(self.norm1(self.expand(x)))
        y = F.relu6(self.norm2(self.depthwise(y)))
        gate = F.hardsigmoid(self.gate(y.mean((2, 3))))
        y = y * gate[:, :, None, None]
        y = y.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        y = self.norm3(self.project(y)) + x
        return self.fc(F.silu(self.head(y)).mean((2, 3)))


class PreActivation(nn.Module):
    """A dense block: batch norms that can't be merged, and growing concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(6)])
        self.convs = nn.ModuleList([nn.Conv2d(c, 2, 3, padding=1, bias=False) for c in (4, 6)])
        self.last = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return torch.softmax(self.fc(F.relu(self.last(x)).mean((2, 3))), -1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "reused": (Reused, (3, 8, 8)),
    "tidy": (Tidy, (3, 8, 8)),
    "untidy": (Untidy, (3, 8, 8)),
    "squeeze-excite": (SqueezeExcite, (3, 8, 8)),
    "branches": (Branches, (3, 8, 8)),
    "1-d": (OneDimensional, (2, 17)),
    "3-d": (ThreeDimensional, (1, 6, 6, 6)),
    "mobile": (Mobile, (3, 6, 6)),
    "pre-activation": (PreActivation, (3, 6, 6)),
}


# The same map, however it is written


def test_reused_module_is_as_if_unrolled() -> None:
    model = prepared(Reused())
    assert_same_map(model, prepared_twin(Unrolled(model)), image())
    labels = [info.label for info in graphprop.compile(model, image()).layers]
    assert {"conv", "conv#2"} <= set(labels)


def prepared_twin(twin: nn.Module) -> nn.Module:
    """A twin keeps the parameters that it was given."""
    return twin.double().eval()


def test_untidy_network_is_like_its_tidy_twin() -> None:
    tidy = prepared(Tidy())
    untidy = prepared_twin(Untidy())
    untidy.load_state_dict(tidy.state_dict())
    assert_same_map(untidy, tidy, image())


def test_weight_shared_by_two_modules_stays_whole() -> None:
    """Merging a batch norm into one of them must not change the other."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.second = nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.norm(self.first(x)))
            return self.fc(F.relu(self.second(x)).mean((2, 3)))

    model = prepared(Tied())
    twin = deepcopy(model)
    twin.second.weight = nn.Parameter(model.first.weight.detach().clone())
    assert_same_map(model, twin, image())


def test_value_changed_in_place_after_use() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            doubled = x * 2
            x.relu_()
            doubled.add_(x)
            return self.fc(doubled.mean((2, 3)))

    class Written(InPlace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc((x * 2 + F.relu(x)).mean((2, 3)))

    model, twin = prepared(InPlace()), prepared(Written())
    twin.load_state_dict(model.state_dict())
    assert_same_map(model, twin, image())


def test_gate_is_a_constant_to_relevance() -> None:
    """With the gate's values written down, the map of each sample is the same."""
    model, x = prepared(SqueezeExcite()), image()
    explainer = graphprop.compile(model, x, "epsilon_plus")
    _, relevance = explainer(x, 1)
    for i in range(len(x)):
        sample, fixed = x[i : i + 1], deepcopy(model)
        with torch.no_grad():
            fixed.fixed = model.gate(model.signal(sample))
        _, expected = graphprop.compile(fixed, sample, "epsilon_plus")(sample, 1)
        torch.testing.assert_close(relevance[i : i + 1], expected)
    rules = {info.label: (info.role, info.rule) for info in explainer.layers}
    assert rules["squeeze"] == ("gate", None)
    assert rules["excite"] == ("gate", None)


@pytest.mark.parametrize("name", ["tidy", "branches", "reused", "3-d"])
def test_epsilon_everywhere_is_gradient_times_input(name: str) -> None:
    """An oracle for any ReLU network without bias: fan-outs, sums, concatenations, reuse."""
    make, shape = NETWORKS[name]
    model = without_bias(make().double().eval())
    x = image(*shape).requires_grad_()
    explainer = graphprop.compile(model, x.detach(), "lrp_epsilon", epsilon=1e-14)
    _, found = explainer(x.detach(), 2)
    (gradient,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    expected = (gradient * x).detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8 * scale)


@pytest.mark.parametrize("name", ["tidy", "branches", "reused", "3-d", "squeeze-excite"])
def test_z_plus_conserves_from_layer_to_layer(name: str) -> None:
    """Without biases, relevance started at weights >= 0 reaches the input whole."""
    make, shape = NETWORKS[name]
    model = without_bias(make().double().eval())
    x = image(*shape)
    explainer = graphprop.compile(model, x, "lrp_alpha1_beta0", start="one", record=["*"])
    _, relevance = explainer(x, 0)
    torch.testing.assert_close(relevance.flatten(1).sum(1), torch.ones(len(x)).double())
    if name != "tidy":
        # a residual add of both signs divides by more than it has
        assert bool((relevance >= 0).all())


def test_network_that_branches_on_the_number_of_channels() -> None:
    model = prepared(ByChannels())
    for channels in (1, 3):
        x = image(channels, 6, 6)
        explainer = graphprop.compile(model, x)
        assert next(i.label for i in explainer.layers) == ("gray" if channels == 1 else "color")
        torch.testing.assert_close(explainer(x)[0], model(x).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_models(dtype: torch.dtype) -> None:
    model = prepared(Tidy()).to(dtype)
    x = image().to(dtype)
    logits, relevance = graphprop.compile(model, x)(x)
    assert logits.dtype == relevance.dtype == dtype


def test_compiling_leaves_the_model_alone() -> None:
    model = prepared(Tidy())
    before = deepcopy(model.state_dict())
    graphprop.compile(model, image())(image())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Softmax(-1), nn.LogSoftmax(1)], ids=str)
def test_softmax_at_the_end_is_removed(last: nn.Module) -> None:
    model, x = prepared(Tidy()), image()
    explainer = graphprop.compile(nn.Sequential(model, last).eval(), x)
    kind = "log-softmax" if isinstance(last, nn.LogSoftmax) else "softmax"
    assert explainer.notes == [
        f"the {kind} at the end ('1') is removed: relevance explains the logits"
    ]
    plain = graphprop.compile(model, x)
    assert plain.notes == []
    for found, expected in zip(explainer(x), plain(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_softmax_elsewhere_stays() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.map = nn.Conv2d(4, 1, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.conv(x))
            weights = torch.softmax(self.map(x).flatten(2), -1)
            return self.fc((x.flatten(2) * weights).sum(-1))

    model, x = prepared(Attended()), image()
    explainer = graphprop.compile(model, x, "epsilon_plus")
    assert explainer.notes == []
    assert {i.label: i.role for i in explainer.layers}["map"] == "gate"
    torch.testing.assert_close(explainer(x)[0], model(x).detach())


# Every pass leaves the logits alone


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Network]]:
    """Every pass of a compile that follows, and a copy of what it made."""
    seen: list[tuple[str, Network]] = []
    run = Pipeline.run

    def watching(name: str, function: Callable[[Any], Network]) -> Callable[[Any], Network]:
        def step(network: Any) -> Network:
            result = function(network)
            seen.append((name, result.copy()))
            return result

        return step

    def run_watched(self: Pipeline, steps: Any, start: Any) -> Any:
        watched = [replace(s, function=watching(s.name, s.function)) for s in steps]
        return run(self, watched, start)

    monkeypatch.setattr(Pipeline, "run", run_watched)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pass_leaves_the_logits_alone(name: str, watched: list[tuple[str, Network]]) -> None:
    make, shape = NETWORKS[name]
    model, x = prepared(make()), image(*shape)
    program, target = capture(model, x), torch.tensor([0, 2, 1])
    for method in ("epsilon_plus_flat", "lrp_alpha2_beta1"):
        watched.clear()
        with mock.patch("graphprop.api.capture", return_value=program):
            lowered = graphprop.compile(model, x, method).lowered
        legal = [(f"legalize for {t}", legalize(lowered, t)) for t in ("torch", "onnx")]
        stages = {stage for stage, _ in watched}
        assert {"canonicalize", "fold_batchnorm", "tag_roles", "lower", "simplify"} <= stages
        reference = None
        for stage, network in watched + legal:
            verify(network)
            output, _ = interpret(network, {"x": x, "target": target})
            logits = output[0] if isinstance(output, tuple) else output
            # its softmax is removed
            found = torch.softmax(logits, -1) if name == "pre-activation" else logits
            assert_equal(found, model(x).detach(), f"{method}, {stage}")
            if isinstance(output, tuple):
                reference = output[1] if reference is None else reference
                assert_equal(output[1], reference, f"{method}, {stage}")
        assert reference is not None


def assert_equal(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-9, atol=1e-10, msg=lambda text: f"{what}: {text}"
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_network_has_the_models_logits(name: str) -> None:
    """In float32 too, and at every batch size; a sample's map does not depend on the others."""
    make, shape = NETWORKS[name]
    model, x = prepared(make()).float(), image(*shape, count=5).float()
    explainer = graphprop.compile(model, x[:1], "epsilon_plus")
    target = torch.tensor([0, 1, 2, 1, 0])
    logits, together = explainer(x, target)
    own = model(x).detach()
    found = torch.softmax(logits, -1) if name == "pre-activation" else logits
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
    for i in range(5):
        alone, relevance = explainer(x[i : i + 1], target[i : i + 1])
        torch.testing.assert_close(alone, logits[i : i + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(relevance, together[i : i + 1], rtol=1e-3, atol=1e-5)


# Relevance inside


def test_recorded_relevance_is_that_of_the_rest_of_the_network() -> None:
    layers = prepared(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
    )
    x = image()
    explainer = graphprop.compile(layers, x, "lrp_alpha2_beta1", record=["*"])
    explainer(x, 1)
    for split in (1, 3, 6):
        with torch.no_grad():
            inside = layers[:split](x)
        rest = layers[split:].eval()
        _, expected = graphprop.compile(rest, inside, "lrp_alpha2_beta1")(inside, 1)
        found = explainer.relevance_at(str(split - 1))
        assert found.shape == inside.shape
        torch.testing.assert_close(found, expected)
    start = explainer.relevance_at("6")
    logits = layers(x).detach()
    assert torch.equal(start[:, 0], torch.zeros(3))
    torch.testing.assert_close(start[:, 1], logits[:, 1])


def test_record_names_layers_by_pattern() -> None:
    model, x = prepared(Reused()), image()
    explainer = graphprop.compile(model, x, record=["conv*", "fc"])
    with pytest.raises(MethodError, match="call the explainer before"):
        explainer.relevance_at("fc")
    explainer(x, 1)
    assert explainer.relevance_at("conv#2").shape == (3, 4, 8, 8)
    assert explainer.relevance_at("fc").shape == (3, 3)
    with pytest.raises(MethodError, match="'stem'"):
        explainer.relevance_at("stem")
    with pytest.raises(MethodError, match=re.escape("compile with record=['stem']")):
        graphprop.compile(model, x).relevance_at("stem")
    with pytest.raises(MethodError, match=r"'cnov' of record matches no layer.*'conv'"):
        graphprop.compile(model, x, record=["cnov"])


def test_layers_say_what_was_found() -> None:
    explainer = graphprop.compile(prepared(Tidy()), image(), "epsilon_plus")
    info = {layer.label: layer for layer in explainer.layers}["conv2"]
    assert (info.path, info.operator, info.kind) == ("conv2", "conv", "Conv2d")
    assert (info.shape, info.role, info.sign) == ((4, 8, 8), "conv_stack", "non-negative")
    assert info.rule == "z_plus(bias=sink, stabilizer=1e-06)"
    assert info.line is not None
    assert info.line.startswith("test_networks.py:")
    assert line_of(info.line) == "x = self.relu2(x + self.norm2(self.conv2(x)))"


def line_of(place: str) -> str:
    """The text of a line of this file."""
    file, number = place.split(":")
    assert file == "test_networks.py"
    with open(__file__) as source:
        return source.read().splitlines()[int(number) - 1].strip()


# Rules and methods of the user's own


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Forget what a test registers."""
    rules, methods = dict(RULES), dict(METHODS)
    yield
    for registry, before in ((RULES, rules), (METHODS, methods)):
        registry.clear()
        registry.update(before)


@pytest.mark.usefixtures("own_registry")
def test_rule_of_ones_own() -> None:
    @graphprop.rule
    def absolute_shares(layer: Layer, x: Any, r: Any, *, power: float = 1.0) -> Any:
        """Shares by the absolute weight."""
        weight = absolute(layer.weight)
        shares = divide_or_zero(r, layer.op(absolute(x), weight))
        return absolute(x) * layer.opT(weight, shares) * power

    model = prepared(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x, weight = image(3, 2, 2), model[1].weight.detach()
    layer = Layer.of(Linear(), x.flatten(1), weight)
    explainer = graphprop.compile(model, x, "lrp_z", rules={"1": ("absolute_shares", {"power": 2})})
    logits, found = explainer(x, 1)
    start = torch.zeros_like(logits).index_copy(1, torch.tensor([1]), logits[:, 1:2])
    expected = absolute_shares(layer, x.flatten(1), start, power=2)
    torch.testing.assert_close(found.flatten(1), expected)
    torch.testing.assert_close(found.flatten(1).sum(1), 2 * logits[:, 1])
    assert {i.label: i.rule for i in explainer.layers}["1"] == "absolute_shares(power=2)"


@pytest.mark.usefixtures("own_registry")
def test_method_of_ones_own() -> None:
    @graphprop.rule("quarter")
    def anything(layer: Layer, x: Any, r: Any, *, share: float = 0.25) -> Any:
        return layer.opT(layer.weight, r) * share

    made = graphprop.method(
        "mine",
        [("input", "w_square"), ("type:Linear", "epsilon", {"epsilon": 0.5}), ("*", "quarter")],
        parameters={"share": 0.125, "start": "one", "epsilon": 1e-3},
        summary="Mine.",
    )
    model, x = prepared(Tidy()), image()
    for method in ("mine", made):
        explainer = graphprop.compile(model, x, method)
        rules = {i.label: i.rule for i in explainer.layers}
        assert rules["conv1"] == "w_square"
        assert rules["conv2"] == "quarter(share=0.125)"
        assert rules["fc"] == "epsilon(epsilon=0.5, bias=sink)"
    rules = {i.label: i.rule for i in graphprop.compile(model, x, "mine", share=1).layers}
    assert rules["conv2"] == "quarter(share=1)"
    with pytest.raises(MethodError, match="there is no rule 'quater': did you mean 'quarter'"):
        graphprop.method("wrong", [("*", "quater")])


@pytest.mark.usefixtures("own_registry")
def test_rule_that_computes_what_it_may_not() -> None:
    @graphprop.rule
    def exponential(layer: Layer, x: Any, r: Any) -> Any:
        return r * torch.exp(x)

    @graphprop.rule
    def method_call(layer: Layer, x: Any, r: Any) -> Any:
        return x.abs() * r

    model, x = prepared(nn.Sequential(nn.Flatten(), nn.Linear(12, 3))), image(3, 2, 2)
    for rule, name in (("exponential", "exp"), ("method_call", "abs")):
        with pytest.raises(MethodError, match=rf"{rule} at '1'.*'{name}'.*functions of graphprop"):
            graphprop.compile(model, x, "lrp_z", rules={"1": rule})
    with pytest.raises(MethodError, match=r"must take \(layer, x, r\) and keyword-only"):

        @graphprop.rule
        def no_relevance(layer: Layer, x: Any) -> Any:
            return x


def test_rules_map_by_name_type_and_role() -> None:
    model, x = prepared(Tidy()), image()
    program = capture(model, x)

    def rules(given: dict[str, Any]) -> dict[str, str | None]:
        with mock.patch("graphprop.api.capture", return_value=program):
            compiled = graphprop.compile(model, x, "lrp_z", rules=given)
        return {i.label: i.rule and i.rule.split("(")[0] for i in compiled.layers}

    plain = {"conv1": "z", "relu1": "pass", "conv2": "z", "pool": "winner", "fc": "z"}

    def changed(given: dict[str, Any]) -> dict[str, str | None]:
        found = rules(given)
        return {label: found[label] for label in plain if found[label] != plain[label]}

    assert changed({}) == {}
    assert changed({"conv1": "flat"}) == {"conv1": "flat"}
    assert changed({"type:Conv2d": "z_plus"}) == {"conv1": "z_plus", "conv2": "z_plus"}
    assert changed({"linear": "epsilon"}) == {"fc": "epsilon"}
    assert changed({"role:input": "w_square"}) == {"conv1": "w_square"}
    assert changed({"pool": "flat"}) == {"pool": "flat"}
    assert changed({"type:MaxPool2d": "flat", "p*": "flat"}) == {"pool": "flat"}
    # the first match wins
    assert changed({"conv1": "flat", "conv*": "gamma"}) == {"conv1": "flat", "conv2": "gamma"}
    bound = RULES["epsilon"].bind(epsilon=0.5)
    assert changed({"fc": bound}) == {"fc": "epsilon"}


def test_wildcard_is_meant_for_layers_with_weights() -> None:
    """``classifier.*`` names the activations between them, too."""
    model = prepared(
        nn.Sequential(
            nn.Flatten(), nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3))
        )
    )
    explainer = graphprop.compile(
        model, image(3, 2, 2), "lrp_z", rules={"1.*": ("epsilon", {"epsilon": 0.1})}
    )
    rules = {i.label: i.rule for i in explainer.layers}
    assert rules["1.0"] == rules["1.3"] == "epsilon(epsilon=0.1, bias=sink)"
    assert rules["1.1"] == "pass"


# What is refused, and how


def refused(kind: type[GraphpropError], text: str) -> Any:
    return pytest.raises(kind, match=text)


class Wrapped(nn.Module):
    """A convolution and a linear layer around a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.function(self.conv(x)).mean((2, 3)))


def compile_around(function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return graphprop.compile(prepared(Wrapped(function)), image())


def test_training_mode_is_refused() -> None:
    model = prepared(Tidy())
    with refused(CaptureError, "^the model is in training mode.*call model.eval"):
        graphprop.compile(model.train(), image())
    model.eval()
    model.norm2.train()
    with refused(CaptureError, "^'norm2' is in training mode"):
        graphprop.compile(model, image())


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = prepared(Tidy())
    model.conv1.weight.data[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    with refused(WeightsError, "^parameter 'conv1.weight' holds 2 values that are NaN or infinite"):
        graphprop.compile(model, image())
    model = prepared(Tidy())
    model.norm2.running_var[1] = float("nan")
    with refused(WeightsError, "^buffer 'norm2.running_var' holds 1 values"):
        graphprop.compile(model, image())


def test_input_of_the_wrong_shape_is_refused() -> None:
    with refused(InputError, r"does not run on an input of shape \(1, 8, 8\).*to have 3 channels"):
        graphprop.compile(prepared(Tidy()), image(1, 8, 8))
    with refused(InputError, r"shape \(3, 9, 11\) \(test_networks.py:\d+\).*example_input"):
        graphprop.compile(prepared(Tidy()), image(3, 9, 11))


def by_values(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        return x
    return -x


def by_batch(x: torch.Tensor) -> torch.Tensor:
    if len(x) > 1:
        return x - 1
    return x


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (by_values, "depends on the data: .* may not depend on the values in the input"),
        (by_batch, "depends on the batch size: .* may not depend on the number of samples"),
    ],
)
def test_control_flow_is_refused_with_its_line(
    function: Callable[[torch.Tensor], torch.Tensor], text: str
) -> None:
    line = inspect.getsourcelines(function)[1] + 1
    with refused(CaptureError, rf"control flow at test_networks\.py:{line} {text}"):
        compile_around(function)


def test_length_of_the_batch_as_a_number_is_refused() -> None:
    """``len`` makes a plain number of it, which torch.export then takes for given."""
    with refused(CaptureError, "works for some batch sizes only"):
        compile_around(lambda x: x.view(len(x), 4, 8, 8))


OPERATORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "cumsum": (lambda x: x.cumsum(2), "the operator cumsum at layer 'cumsum', line {} has no rele"),
    "sort": (lambda x: x.sort(2).values, "layer 'sort', line {}: an index that depends on"),
    "batch mean": (lambda x: x - x.mean(0), "layer 'mean', line {}: an operation along the batch"),
    "batch flip": (lambda x: x.flip(0), "layer 'flip', line {}: an operation along the batch axis"),
    "attention": (lambda x: x @ x.mT @ x, "layer 'matmul', line {}: attention is not suppor"),
    "samples": (
        lambda x: x * x.size(0),
        "layer 'mul', line {} computes with the number of samples",
    ),
    "per sample": (lambda x: x / x.numel(), "layer 'div', line {} computes with the number of sam"),
    "random": (lambda x: x + torch.randn(1), "layer 'randn', line {} draws random numbers: draw"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_without_meaning_is_refused(name: str) -> None:
    function, text = OPERATORS[name]
    # torch keeps the lines of the modules' forward
    place = rf"test_networks\.py:{inspect.getsourcelines(Wrapped.forward)[1] + 1}"
    with refused(UnsupportedOperator, text.format(place)) as caught:
        compile_around(function)
    fine = r"The 1 weighted layers before it, up to 'conv' \(test_networks\.py:\d+\), were fine$"
    assert re.search(fine, str(caught.value))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_called_that(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = kind(5, 4, batch_first=True)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.rows(x)[0][:, -1])

    with refused(UnsupportedOperator, r"at layer 'rows', line .* is a recurrent layer, and graph"):
        graphprop.compile(Recurrent().eval(), torch.zeros(2, 6, 5))


def test_operator_inside_a_module_is_refused_by_its_path() -> None:
    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, 1)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Sorting()))
    with refused(UnsupportedOperator, r"cumsum at layer '1\.1\.cumsum', line test_networks"):
        graphprop.compile(prepared(model), image())


def test_model_that_remembers_is_refused() -> None:
    """What was captured is then not what the model does."""

    calls = itertools.count(1)

    class Counting(Tidy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * next(calls))

    with refused(CaptureError, "differs from the model's by .*: the model draws random numbers"):
        graphprop.compile(prepared(Counting()), image())


def test_results_other_than_logits_are_refused() -> None:
    class Two(Tidy):
        def forward(self, x: torch.Tensor) -> Any:
            logits = super().forward(x)
            return logits, logits.abs()

    wanted = (
        r"returns 2 results that depend on the input: '0' of shape \(N, 3\), .1. of .* --output"
    )
    with refused(CaptureError, wanted):
        graphprop.compile(prepared(Two()), image())
    with refused(CaptureError, "the model has no result .2.: it returns .0. of shape "):
        graphprop.compile(prepared(Two()), image(), output=2)
    with refused(MethodError, r"output has shape \('N',\); relevance starts at logits"):
        graphprop.compile(prepared(nn.Sequential(Tidy(), Total())), image())


class Siamese(nn.Module):
    """Two pictures of different size through the same layers, and numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.numbers, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def encoded(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))

    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.encoded(x) - self.encoded(y) + self.numbers(z)))


def test_several_inputs_have_their_own_relevance(tmp_path: Path) -> None:
    model = prepared(Siamese()).double()
    shapes = ((3, 3, 8, 8), (3, 3, 12, 10), (3, 5))
    inputs = tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)
    target = torch.tensor([0, 2, 1])
    explainer = graphprop.compile(model, inputs, "gradient")
    logits, gradients = explainer(*inputs, target)
    torch.testing.assert_close(logits, model(*inputs))
    own = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(model(*own)[range(3), target].sum(), own)
    torch.testing.assert_close(gradients, expected)
    with refused(InputError, "takes 3 inputs, and a target, not 2"):
        explainer(*inputs[:2])
    with refused(InputError, r"have shape \[N, 3, 12, 10\], not \[3, 3, 8, 8\]: resize"):
        explainer(inputs[0], inputs[0], inputs[2])

    explainer = graphprop.compile(model.float(), inputs_of_type(inputs), "rap")
    logits, maps = explainer(*inputs_of_type(inputs), target=target)
    assert [part.shape for part in maps] == [x.shape for x in inputs]
    total = sum(part.flatten(1).sum(1) for part in maps)
    torch.testing.assert_close(total, logits[range(3), target], rtol=1e-4, atol=1e-5)
    explainer.save(tmp_path / "out")
    assert check_directory(tmp_path / "out").passed
    session = onnxruntime.InferenceSession(tmp_path / "out" / "explainer.onnx")
    names = [value.name for value in session.get_inputs()]
    assert names == ["input", "input_2", "input_3", "target"]
    assert [v.name for v in session.get_outputs()][1:] == [
        "relevance",
        "relevance_2",
        "relevance_3",
    ]


def inputs_of_type(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.float() for x in inputs)


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


class Heads(nn.Module):
    """A network for segmentation, with a head beside the one that is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.head, self.aux = nn.Conv2d(6, 5, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = F.relu(self.stem(x))
        z = self.head(F.relu(self.deep(y)))
        z = F.interpolate(z, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": z, "more": [self.aux(y), None]}


@pytest.mark.parametrize("output", ["out", "more.0"])
def test_one_of_several_results_is_explained_place_by_place(output: str) -> None:
    """A class means the sum over all places, weights choose a region (gradient x input)."""
    model, x = prepared(Heads()).double(), image().double()
    explainer = graphprop.compile(model, x, "input_x_gradient", output=output)
    assert explainer.network.output_name == output
    x.requires_grad_()
    results = model(x)
    expected = results["out"] if output == "out" else results["more"][0]
    region = torch.zeros_like(expected)
    region[:, 2, 1:4, 2:5] = 1.0
    classes = torch.arange(len(x)) % 5
    whole = F.one_hot(classes, 5)[..., None, None].expand_as(expected)
    largest = F.one_hot(expected.sum((2, 3)).argmax(1), 5)[..., None, None].expand_as(expected)
    for target, weights in ((region, region), (classes, whole), (None, largest)):
        (gradient,) = torch.autograd.grad((expected * weights).sum(), x, retain_graph=True)
        logits, relevance = explainer(x.detach(), target)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(relevance, x * gradient, rtol=1e-9, atol=1e-12)
    assert explainer.check().passed


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "method": (
        {"method": "epsilon_pluss"},
        "no method 'epsilon_pluss': did you mean 'epsilon_plus'",
    ),
    "rule": ({"rules": {"fc": "epsilom"}}, "there is no rule 'epsilom': did you mean 'epsilon'"),
    "rule's parameter": (
        {"rules": {"fc": ("epsilon", {"eps": 1})}},
        "the rule 'epsilon' has no parameter 'eps': did you mean 'epsilon'",
    ),
    "rule without parameters": (
        {"rules": {"fc": ("pass", {"eps": 1})}},
        "the rule 'pass' has no parameter 'eps': it has none",
    ),
    "rule pattern": ({"rules": {"conv3": "z"}}, "rule pattern 'conv3' matches no layer: did you"),
    "type pattern": ({"rules": {"type:Conv3d": "z"}}, "'type:Conv3d' matches no layer: there are"),
    "role": ({"roles": {"fc": "conv_stak"}}, "no role 'conv_stak': did you mean 'conv_stack'"),
    "role pattern": (
        {"roles": {"fd": "input"}},
        "role pattern 'fd' matches no layer: did you mean",
    ),
    "gate by hand": ({"roles": {"fc": "gate"}}, "'fc' can't be made a gate: that follows from"),
    "parameter": ({"epsilom": 1}, "'epsilon_plus' has no parameter 'epsilom': did you mean 'epsi"),
    "number": ({"epsilon": "small"}, "the parameter 'epsilon' is a number, not 'small'"),
    "truth": ({"epsilon": True}, "the parameter 'epsilon' is a number, not True"),
    "start": ({"start": "logits"}, "relevance starts as 'logit' or 'one', not 'logits'"),
    "strategy": ({"batch_norm": "fold"}, "no batch-norm strategy 'fold': there are: affine"),
    "bias": ({"bias": "gone"}, "bias is 'sink' or 'ignored', not 'gone'"),
    "flat on a dense layer": (
        {"rules": {"fc": "flat"}},
        "at 'fc' .*the flat rule means nothing on the dense layer 'fc'",
    ),
    "rule of weights on an activation": (
        {"rules": {"relu1": "z"}},
        "the rule 'z' does not fit 'relu1'",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names_are_refused_with_the_nearest(name: str) -> None:
    options, text = UNKNOWN[name]
    options = {"method": "epsilon_plus", **options}
    with refused(MethodError, text):
        graphprop.compile(prepared(Tidy()), image(), **options)


def test_default_method_on_a_network_of_dense_layers_is_refused() -> None:
    model = prepared(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)))
    with refused(MethodError, "the flat rule means nothing on the dense layer '1'.*choose another"):
        graphprop.compile(model, image(3, 2, 2))


def test_targets() -> None:
    x = image()
    explainer = graphprop.compile(prepared(Tidy()), x)
    logits, relevance = explainer(x)
    best = logits.argmax(1)
    weights = F.one_hot(best, 3).double()
    for target in (best, best.to(torch.int32), best.tolist(), weights, weights.float()):
        torch.testing.assert_close(explainer(x, target)[1], relevance)
    one = explainer(x, torch.tensor([2, 2, 2]))[1]
    for target in (2, torch.tensor(2)):
        torch.testing.assert_close(explainer(x, target)[1], one)
    # linear in the weights
    mixed = explainer(x, torch.tensor([[0.0, 2.0, -1.0]]).expand(3, 3))[1]
    torch.testing.assert_close(mixed, 2 * explainer(x, 1)[1] - explainer(x, 2)[1])


def test_call_with_another_shape_is_refused() -> None:
    explainer = graphprop.compile(prepared(Tidy()), image())
    text = r"must have shape \[N, 3, 8, 8\], not \[2, 3, 9, 9\]: resize it, or compile again"
    with refused(InputError, text):
        explainer(image(3, 9, 9, count=2))
    with refused(InputError, r"not \[3, 8, 8\]: add the batch axis"):
        explainer(image()[0])
