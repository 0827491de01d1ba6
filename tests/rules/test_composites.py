"""Whole composites on torchvision's networks: the same relevance as zennit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import graphprop
from graphprop.frontend.capture import capture

pytest.importorskip("zennit")
models = pytest.importorskip("torchvision.models")

from support.autograd import initialized, narrow  # noqa: E402  torchvision may be absent
from support.oracles import (  # noqa: E402  zennit may be absent
    CANONIZERS,
    EXACT,
    HIGH,
    LOW,
    STABILIZED,
    relative_error,
    zennit_relevance,
)

DOUBLE, SINGLE = 1e-9, 1e-4
"""How far apart two samples' maps may be, relative to their norm, in float64 and float32."""


# name: how it is made, and the size of the image; before the pooling to 7x7 places the VGGs then
# have 2x1 and 1x1
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "alexnet": (lambda: narrow(models.alexnet(), 256 * 36), (64, 64)),
    "vgg16": (lambda: narrow(models.vgg16(init_weights=False), 512 * 49), (64, 32)),
    "vgg16_bn": (lambda: narrow(models.vgg16_bn(init_weights=False), 512 * 49), (32, 32)),
    "resnet50": (lambda: models.resnet50(num_classes=10), (64, 64)),
}


@dataclass
class Subject:
    """A network to explain, and what it is explained on; captured once for every method."""

    name: str
    model: nn.Module
    x: torch.Tensor
    target: torch.Tensor
    program: Any

    def compile(self, method: str, **parameters: Any) -> graphprop.CompiledExplainer:
        with mock.patch("graphprop.api.capture", return_value=self.program):
            return graphprop.compile(self.model, self.x, method, **bounds(method), **parameters)

    def oracle(self, method: str) -> tuple[torch.Tensor, torch.Tensor]:
        return zennit_relevance(self.model, method, self.x, self.target, CANONIZERS[self.name]())


def bounds(method: str) -> dict[str, float]:
    boxed = "low" in graphprop.METHODS[method].parameters
    return {"low": LOW, "high": HIGH} if boxed else {}


def inputs(count: int, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images between the bounds, and a class for each."""
    x = torch.randn(count, 3, *size, dtype=torch.float64).clamp(LOW, HIGH)
    return x, torch.tensor([0, 7, 3, 7, 9])[:count]


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    make, size = NETWORKS[request.param]
    torch.manual_seed(0)
    model = initialized(make())
    x, target = inputs(3, size)
    return Subject(request.param, model, x, target, capture(model, x))


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("subject", names, indirect=True, scope="module")


def assert_like_zennit(subject: Subject, method: str) -> None:
    logits, relevance = subject.oracle(method)
    explainer = subject.compile(method)
    found_logits, found = explainer(subject.x, subject.target)
    assert relative_error(found_logits, logits) <= DOUBLE
    # these two divide by sums that come as close to zero as they like
    ill_conditioned = method in ("lrp_z", "lrp_epsilon")
    assert relative_error(found, relevance) <= (1e-6 if ill_conditioned else DOUBLE)
    with torch.no_grad():
        torch.testing.assert_close(found_logits, subject.model(subject.x), rtol=1e-9, atol=1e-9)
    found_logits, found = explainer.float()(subject.x.float(), subject.target)
    assert found.dtype == torch.float32
    assert relative_error(found_logits, logits) <= SINGLE
    if not ill_conditioned:
        assert relative_error(found, relevance) <= SINGLE


@on("alexnet", "vgg16", "vgg16_bn", "resnet50")
@pytest.mark.parametrize("method", [name for name in STABILIZED if name.startswith("epsilon")])
def test_composite_is_zennits(subject: Subject, method: str) -> None:
    assert_like_zennit(subject, method)


@on("alexnet", "resnet50")
@pytest.mark.parametrize("method", ["preset_a", "preset_b"])
def test_preset_is_what_zennit_makes_of_its_rules(subject: Subject, method: str) -> None:
    assert_like_zennit(subject, method)


@on("alexnet")
@pytest.mark.parametrize("method", EXACT)
def test_exact_method_is_what_zennit_makes_of_its_rules(subject: Subject, method: str) -> None:
    assert_like_zennit(subject, method)


@on("resnet50")
@pytest.mark.parametrize("method", ["lrp_cmp_alpha2_flat", "deep_taylor"])
def test_exact_method_with_residual_adds(subject: Subject, method: str) -> None:
    assert_like_zennit(subject, method)


@on("alexnet")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_of_any_size_is_zennits(subject: Subject, count: int) -> None:
    x, target = inputs(count, subject.x.shape[2:])
    other = Subject(subject.name, subject.model, x, target, subject.program)
    for method in ("epsilon_plus_flat", "epsilon_gamma_box"):
        logits, relevance = other.oracle(method)
        found_logits, found = subject.compile(method)(x, target)
        assert relative_error(found_logits, logits) <= DOUBLE
        assert relative_error(found, relevance) <= DOUBLE


@on("alexnet")
def test_the_basic_rule_is_input_times_gradient(subject: Subject) -> None:
    """On a network of ReLUs and max pools, the bias being a sink as in the default."""
    explainer = subject.compile("lrp_z")
    assert explainer.settings["bias"] == "sink"
    _, found = explainer(subject.x, subject.target)
    _, expected = subject.compile("input_x_gradient")(subject.x, subject.target)
    assert relative_error(found, expected) <= 1e-6
    assert subject.compile("lrp_epsilon").settings["bias"] == "sink"


def test_every_composite_of_lrp_is_compared() -> None:
    """A composite without oracle here needs one, or a test of its own."""
    prefixes = ("lrp_", "epsilon_", "preset_", "deep_taylor")
    composites = {name for name in graphprop.METHODS if name.startswith(prefixes)}
    assert {**STABILIZED, **EXACT}.keys() == composites


@on("alexnet")
def test_rules_of_a_composite(subject: Subject) -> None:
    """The table of methods.md, on a network where every role is plain."""
    rules = {
        info.label: info.rule
        for info in subject.compile("epsilon_plus_flat").layers
        if info.operator in ("conv", "linear")
    }
    epsilon, plus = "epsilon(epsilon=1e-06, bias=sink)", "z_plus(bias=sink, stabilizer=1e-06)"
    assert rules == {
        "features.0": "flat(stabilizer=1e-06)",
        "features.3": plus,
        "features.6": plus,
        "features.8": plus,
        "features.10": plus,
        "classifier.0": epsilon,
        "classifier.3": epsilon,
        "classifier.6": epsilon,
    }


@on("alexnet")
def test_flat_on_the_first_layers(subject: Subject) -> None:
    """Layers with weights count, the pools between them come along, and the head stays.

    Behind the last layer of the stack a pool belongs to the stack: with it, relevance is spread
    evenly from the dense head down.
    """
    for count, expected in (
        (0, []),
        (1, ["features.0"]),
        (2, ["features.0", "features.2", "features.3"]),
        (3, ["features.0", "features.2", "features.3", "features.5", "features.6"]),
        (4, [f"features.{i}" for i in (0, 2, 3, 5, 6, 8)]),
        (5, [f"features.{i}" for i in (0, 2, 3, 5, 6, 8, 10, 12)]),
        (99, [f"features.{i}" for i in (0, 2, 3, 5, 6, 8, 10, 12)]),
    ):
        explainer = subject.compile("lrp_cmp_alpha1_flat", flat_layers=count)
        flat = [info.label for info in explainer.layers if (info.rule or "").startswith("flat")]
        assert [label for label in flat if label != "avgpool"] == expected
        assert ("avgpool" in flat) == (count >= 5)
        _, found = explainer(subject.x, subject.target)
        assert bool(found.isfinite().all())
