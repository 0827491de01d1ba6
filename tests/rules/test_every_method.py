"""What holds of the maps of every method, and the maps of RAP and RAP-BN as their references.

Maps consist of finite numbers, whatever the input; samples do not depend on their batch; and ONNX
Runtime computes the same. The LRP composites have these tests in test_rules.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import graphprop
from support import rap_reference
from support.maps import (
    TOLERANCE,
    assert_equal,
    assert_numbers,
    assert_numbers_at_extremes,
    assert_onnx_agrees,
    awkward,
    compiled,
    dead,
    double,
    error,
    parsed,
    small,
    weights_as_targets,
)
from support.rap_reference import NETWORKS, Net, prepared

torch.set_num_threads(1)

METHODS = [
    "hedge",
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "fullgrad",
    "guided_backprop",
    "deconvnet",
    "gradcam",
    "gradcam_plus_plus",
    "relevance_cam",
    "excitation_backprop",
    "contrastive_excitation_backprop",
    "contrastive_lrp",
    "deeplift",
    "pattern_attribution",
    "pattern_net",
]

EACH_METHOD = pytest.mark.parametrize("method", METHODS)


def test_every_method_is_here() -> None:
    composed = ("lrp_", "epsilon_", "preset_", "deep_taylor", "rap")
    assert {name for name in graphprop.METHODS if not name.startswith(composed)} == {*METHODS}


# RAP and RAP-BN: the maps of their references, neuron by neuron

REFERENCES = {"rap": rap_reference.rap, "rap-bn": rap_reference.rap_bn}
EACH_REFERENCE = pytest.mark.parametrize("method", REFERENCES)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETWORKS)
@EACH_REFERENCE
def test_map_equals_the_formulas(method: str, name: str, seed: int) -> None:
    network = prepared(NETWORKS[name](), seed)
    x, target = network.images(), network.targets()
    _, found = graphprop.compile(network, x, method)(x, target)
    assert error(found, REFERENCES[method](network, x, target)) < TOLERANCE


SETTINGS: dict[str, list[tuple[dict[str, str], dict[str, Any]]]] = {
    "rap": [
        ({"negative": "inhibitory"}, {"negative": "inhibitory"}),
        ({"active": "support"}, {"active": "support"}),
        ({"residual": "signed"}, {"residual": "signed"}),
        (
            {"authors": "true"},
            {"negative": "inhibitory", "active": "support", "residual": "signed"},
        ),
        (
            {"authors": "true", "residual": "absolute"},
            {"negative": "inhibitory", "active": "support", "residual": "absolute"},
        ),
        ({"authors": "false", "negative": "both", "active": "input", "residual": "absolute"}, {}),
        ({"nu": "printed"}, {"nu": "printed"}),
        (
            {"nu": "printed", "negative": "inhibitory", "active": "support"},
            {"nu": "printed", "negative": "inhibitory", "active": "support"},
        ),
        ({"low": "-3.5", "high": "4"}, {"low": -3.5, "high": 4}),
        ({"low": "per_sample", "high": "5"}, {"low": "per_sample", "high": 5}),
        ({"low": "-3,-4,-5.5", "high": "3,4,5"}, {"low": (-3, -4, -5.5), "high": (3, 4, 5)}),
    ],
    "rap-bn": [
        (
            {"inversion_sign": "1", "lost": "spread", "residual": "absolute"},
            {"inversion_sign": 1.0, "lost": "spread", "residual": "absolute"},
        ),
        ({}, {"inversion_sign": -1.0, "units": "active", "input": "zB", "lost": "spread"}),
        ({"lost": "drop"}, {"lost": "drop"}),
        ({"inversion_sign": "1", "lost": "drop"}, {"inversion_sign": 1.0, "lost": "drop"}),
        ({"units": "all"}, {"units": "all"}),
        ({"input": "flow"}, {"input": "flow"}),
        (
            {"input": "flow", "inversion_sign": "1", "units": "all", "lost": "drop"},
            {"input": "flow", "inversion_sign": 1.0, "units": "all", "lost": "drop"},
        ),
        ({"residual": "signed"}, {"residual": "signed"}),
        ({"low": "-7", "high": "4.5"}, {"low": -7, "high": 4.5}),
        ({"low": "-6,-7,-8.5", "high": "4,5,6"}, {"low": (-6, -7, -8.5), "high": (4, 5, 6)}),
    ],
}


@pytest.mark.parametrize(
    ("method", "texts", "meant"),
    [(method, *setting) for method, settings in SETTINGS.items() for setting in settings],
    ids=lambda given: str(given),
)
def test_parameters(method: str, texts: dict[str, str], meant: dict[str, Any]) -> None:
    network = prepared(NETWORKS["residual"](), 7)
    x, target = network.images(), network.targets()
    explainer = graphprop.compile(network, x, method, **parsed(texts))
    assert {key: explainer.settings[key] for key in meant} == meant
    _, found = explainer(x, target)
    assert error(found, REFERENCES[method](network, x, target, **meant)) < TOLERANCE


@pytest.mark.parametrize("name", ["plain", "all convolution"])
@EACH_REFERENCE
def test_target_of_weights(method: str, name: str) -> None:
    network = prepared(NETWORKS[name](), 3)
    x = network.images()
    target = torch.zeros(3, network.classes(), dtype=torch.float64)
    target[0, 1], target[0, 2], target[2] = 1.0, -1.0, torch.rand(network.classes())
    logits, found = graphprop.compile(network, x, method)(x, target)
    assert_equal(found, REFERENCES[method](network, x, target), logits)
    if method == "rap":
        assert not found[1].any()


# Finite numbers


@cache
def inactive() -> Net:
    """The network of `dead`, in which a ReLU is zero everywhere."""
    network = dead("residual")
    with torch.no_grad():
        network.layers["bn1"].weight.abs_()
    return network


@cache
def active() -> Net:
    """Everything is active, whatever comes in."""
    network = prepared(NETWORKS["plain"](), 3)
    with torch.no_grad():
        for name in ("conv2", "conv3", "dense1"):
            network.layers[name].weight.abs_()
        network.layers["bn1"].bias.fill_(99.0)
        network.layers["bn2"].weight.abs_()
        network.layers["bn2"].bias.fill_(9.0)
        for name in ("conv3", "dense1"):
            network.layers[name].bias.fill_(9.0)
    return network


@cache
def stopped() -> Net:
    """The dense head passes nothing: all gradients are zero."""
    network = prepared(NETWORKS["plain"](), 3)
    with torch.no_grad():
        network.layers["dense1"].bias.fill_(-1e4)
    return network


def test_networks_are_what_they_are_called() -> None:
    for network, layers, wanted in (
        (active(), ("relu1", "relu2", "relu3", "relu4"), True),
        (stopped(), ("relu4",), False),
    ):
        values = network.values(awkward(network))
        for layer in layers:
            assert bool((values[layer] > 0).all()) is wanted, layer
            assert bool((values[layer] > 0).any()) is wanted, layer
    values = inactive().values(awkward(inactive()))
    assert any(not value.any() for name, value in values.items() if "relu" in name)


FEW: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 4, "chunk": 3},
    "smoothgrad": {"n": 4, "chunk": 3},
}


@pytest.mark.parametrize("kind", [double, inactive, active, stopped], ids=lambda f: f.__name__)
@EACH_METHOD
def test_numbers(method: str, kind: Any) -> None:
    """Constant images, images of zeros, one bright place; targets of every kind."""
    network = kind()
    x = awkward(network)
    explainer = compiled(network, x, method, **FEW.get(method, {}))
    for target in weights_as_targets(network):
        logits, relevance = explainer(x, target)
        assert bool(logits.isfinite().all())
        assert bool(relevance.isfinite().all())


ZERO_AT_ZERO = [
    m
    for m in METHODS
    if "gradient" in m or m in ("gradcam", "gradcam_plus_plus", "fullgrad", "deeplift")
]


@pytest.mark.parametrize("method", ZERO_AT_ZERO)
def test_no_gradient_no_map(method: str) -> None:
    network = stopped()
    x = network.images()
    _, found = compiled(network, x, method, **FEW.get(method, {}))(x, network.targets())
    assert not found.any()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, name) for method in REFERENCES for name in ("residual", "all convolution")),
        *(("hedge", name) for name in ("residual", "branches")),
    ],
)
def test_numbers_of_constant_and_sparse_images(method: str, name: str) -> None:
    assert_numbers(prepared(NETWORKS[name](), 5), method)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, name) for method in REFERENCES for name in ("residual", "branches")),
        *(("hedge", name) for name in ("residual", "branches", "plain")),
    ],
)
def test_numbers_behind_a_dead_layer(method: str, name: str) -> None:
    assert_numbers(dead(name), method)


@pytest.mark.parametrize(
    ("method", "bias"),
    [("rap", True), ("rap", False), ("rap-bn", True), ("rap-bn", False), ("hedge", True)],
)
def test_numbers_at_extremes(method: str, bias: bool) -> None:
    assert_numbers_at_extremes(method, bias=bias)


# Samples


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        *((m, FEW.get(m, {})) for m in (*METHODS, "rap", "rap-bn")),
        ("rap", {"authors": True}),
        ("hedge", {"gamma": 1.2}),
    ],
    ids=lambda given: str(given),
)
def test_samples_of_a_batch_are_independent(method: str, parameters: dict[str, Any]) -> None:
    network = double()
    x, target = network.images(5), network.targets(5)
    explainer = compiled(network, x, method, **parameters)
    _, together = explainer(x, target)
    for part in (slice(0, 1), slice(1, 3), slice(4, 5)):
        assert error(explainer(x[part], target[part])[1], together[part]) < TOLERANCE


# ONNX Runtime


@EACH_METHOD
def test_onnx_runtime_agrees(method: str, tmp_path: Path) -> None:
    """What `check` says of it, and at every batch size, by its criterion."""
    network = small()
    x, target = torch.randn(5, *network.shape), network.targets(5)
    explainer = compiled(network, x, method, **FEW.get(method, {}))
    report = explainer.check(samples=2, backends=["onnxruntime"])
    assert report.passed, report.complaint()
    assert [result.name for result in report.backends] == ["onnxruntime"]
    explainer.save(tmp_path / "out", check=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "explainer.onnx"), options)
    _, single = explainer(x, target)
    _, exact = explainer.double()(x.double(), target)
    for count in (1, 2, 5):
        feeds = {"input": x[:count].numpy(), "target": target[:count].numpy()}
        logits, found = (torch.from_numpy(np.asarray(f)) for f in session.run(None, feeds)[:2])
        torch.testing.assert_close(logits, network(x[:count]).detach(), rtol=1e-4, atol=1e-5)
        for i in range(count):
            part = slice(i, i + 1)
            allowed = max(1e-5, 10 * error(single[part], exact[part]))
            assert error(found[part], exact[part]) <= allowed, (count, i)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, name) for method in REFERENCES for name in NETWORKS),
        *(("hedge", name) for name in ("residual", "branches", "volume")),
    ],
)
def test_onnx_runtime_agrees_on(method: str, name: str) -> None:
    assert_onnx_agrees(name, method)
