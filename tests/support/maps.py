"""Networks, tolerances and assertions that the tests of several methods share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import graphprop
from graphprop import Layer
from graphprop.api import CompiledExplainer
from graphprop.emit.execute import run_source
from graphprop.emit.onnx import to_onnx
from graphprop.frontend.capture import capture
from graphprop.ir.interpret import interpret
from graphprop.lowering.legalize import legalize
from graphprop.ops import Conv, ConvTranspose, Linear, Operator
from graphprop.passes.assign_rules import parse_value
from support.hedge_reference import Padded
from support.rap_reference import (
    LAYERS,
    NETWORKS,
    Concatenation,
    Example,
    Net,
    Sum,
    prepared,
)

TOLERANCE = 1e-10


MODELS = Path(__file__).parents[2] / "models"


def total(r: torch.Tensor) -> torch.Tensor:
    """The sum of each sample."""
    return r.flatten(1).sum(1)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error of a sample, relative to its norm; 0 where both are zero."""
    assert found.shape == expected.shape
    off = (found - expected).detach().double().flatten(1).norm(dim=1)
    size = expected.detach().double().flatten(1).norm(dim=1)
    return float((off / size).where(off != 0, 0.0).max())


def assert_equal(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> None:
    """Equal up to the tolerance, relative to the sum of the absolute summands."""
    off = (found - expected).abs().flatten(1).amax(1)
    assert bool((off <= TOLERANCE * scale.abs().flatten(1).sum(1)).all()), off


def parsed(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as the command line reads them."""
    return {name: parse_value(text) for name, text in texts.items()}


def operator_of(layer: Any) -> Operator:
    """graphprop's operator of a torch layer."""
    if isinstance(layer, nn.Linear):
        return Linear()
    attributes = layer.stride, layer.padding, layer.dilation, layer.groups
    return (
        ConvTranspose(*attributes, layer.output_padding) if layer.transposed else Conv(*attributes)
    )


def laid_out(example: Example, seed: int, signs: str) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """A layer as rules see it, inputs, and relevance of its output with both signs and zeros."""
    layer, x = example.layer(seed), example.inputs(seed, signs)
    bias = None if layer.bias is None else layer.bias.detach()
    seen = Layer.of(operator_of(layer), x, layer.weight.detach(), bias)
    r = torch.randn_like(seen.op(x, seen.weight))
    return seen, x, r.masked_fill(torch.rand_like(r) < 0.2, 0.0)


def through_compiler(
    example: Example, seed: int, x: torch.Tensor, rule: str, **parameters: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compile one layer with a rule; returns the relevance of its output, and its map."""
    layer = example.layer(seed)
    network = nn.Sequential(layer, nn.Flatten()).eval()
    explainer = graphprop.compile(network, x, "rap", rules={"0": (rule, parameters)})
    weights = torch.randn_like(network(x))
    logits, found = explainer(x, weights)
    return (logits * weights).reshape(layer(x).shape).detach(), found


BOTH_SIGNS = pytest.mark.parametrize("signs", ["non-negative", "mixed"])


EACH_LAYER = pytest.mark.parametrize("example", LAYERS, ids=str)


def explained(
    explainer: CompiledExplainer, x: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, relevance, and the relevance of each layer's result, in the type of x."""
    (logits, relevance, _), kept = interpret(
        explainer.lowered,
        {"x": x, "target": target},
        dtype=x.dtype,
        keep=explainer.lowered.output.args[0][2],
    )
    return logits, relevance, kept


def digits() -> tuple[nn.Module, torch.Tensor]:
    """The digits network of ``models/``, and three of its example images."""
    sys.path.insert(0, str(MODELS))
    try:
        import digits
    finally:
        sys.path.remove(str(MODELS))
    paths = sorted((MODELS / "digits_examples").glob("*.png"))[3:6]
    images = [np.array(Image.open(path).convert("L"), dtype=float) / 255 for path in paths]
    return digits.build_model().double(), torch.from_numpy(np.stack(images))[:, None]


def awkward(network: Net) -> torch.Tensor:
    """A constant image, one of zeros, one with a single bright pixel, and a random one."""
    x = torch.zeros(4, *network.shape, dtype=next(network.parameters()).dtype)
    x[0] = 0.7
    x[2].flatten()[3] = 2.0
    x[3] = torch.randn(network.shape)
    return x


def dead(name: str) -> Net:
    """A network in which one layer is inactive for every input."""
    network = prepared(NETWORKS[name](), 6)
    layers = [step.layer for step in network.steps if isinstance(step.layer, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        layers[1].weight.zero_()
        if layers[1].bias is not None:
            layers[1].bias.fill_(-100.0)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.fill_(-1e-3)
                layer.running_mean.zero_()
    return network


def weights_as_targets(network: Net) -> list[torch.Tensor | None]:
    """Targets of every kind for four samples."""
    classes = network.classes()
    contrastive = torch.zeros(4, classes, dtype=torch.float64)
    contrastive[:, 0], contrastive[:, 1] = 1.0, -1.0
    return [None, torch.arange(4) % classes, contrastive, torch.zeros_like(contrastive)]


def assert_numbers(network: Net, method: str) -> None:
    x = awkward(network)
    explainer = graphprop.compile(network, x, method)
    for target in [*weights_as_targets(network), network(x).argmin(1)]:
        logits, relevance = explainer(x, target)
        assert bool(logits.isfinite().all())
        assert bool(relevance.isfinite().all())
        if target is not None and target.is_floating_point() and not target.any():
            assert method != "rap" or not relevance.any()


SCALES = [
    (inputs, which, weights)
    for inputs in (1e-20, 1.0, 1e20)
    for which in ("none", "first", "middle", "last", "all")
    for weights in (1e-20, 1e20)
    if which != "none" or weights < 1
]


def extreme() -> Net:
    return Net(
        (2, 6, 6),
        ("conv1", nn.Conv2d(2, 4, 3, padding=1)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(4, 4, 3, padding=1)),
        ("bn2", nn.BatchNorm2d(4)),
        ("add", Sum(), "bn2", "pool1"),
        ("relu2", nn.ReLU()),
        ("narrow", nn.Conv2d(4, 2, 1), "relu2"),
        ("cat", Concatenation(), "relu2", "narrow"),
        ("pool2", nn.AvgPool2d(2, 1)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(24, 3)),
    )


SCALED = {"none": (), "first": ("conv1",), "middle": ("conv2",), "last": ("dense",)}


def scaled(explainer: CompiledExplainer, which: str, factor: float) -> dict[str, torch.Tensor]:
    """The explainer's tensors, the weights of some layers scaled."""
    layers = SCALED.get(which, ("conv1", "conv2", "narrow", "dense"))
    names = {f"layers.{layer}.weight" for layer in layers}
    return {
        name: tensor * factor if name in names else tensor
        for name, tensor in explainer.legal.tensors.items()
    }


def session_of(explainer: CompiledExplainer, **tensors: torch.Tensor) -> Any:
    """ONNX Runtime with the explainer, some of its tensors replaced."""
    legal = legalize(explainer.lowered, "onnx")
    legal.tensors.update({k: t for k, t in tensors.items() if k in legal.tensors})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = onnx_ir.to_proto(to_onnx(legal)).SerializeToString()
    return onnxruntime.InferenceSession(model, options)


def in_onnx(session: Any, x: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    feeds = {"input": x.numpy(), "target": target.numpy()}
    return [torch.from_numpy(found) for found in session.run(None, feeds)]


def assert_numbers_at_extremes(method: str, *, bias: bool) -> None:
    """Where the logits are finite in float32, so are the maps, by torch and by ONNX Runtime.

    Denominators at these scales are subnormal, or their quotients infinite: rules treat them as
    zero.
    """
    network = prepared(extreme(), 1, bias=bias).float()
    x, target = torch.randn(4, *network.shape), torch.tensor([0, 1, 2, 0])
    explainer = graphprop.compile(network, x, method)
    make = run_source(explainer.source)
    compared = 0
    for inputs, which, weights in SCALES:
        tensors = scaled(explainer, which, weights)
        module = make(tensors)
        logits, relevance = module(x * inputs, target)
        if not logits.isfinite().all():
            continue
        assert bool(relevance.isfinite().all()), (inputs, which, weights)
        _, written = in_onnx(session_of(explainer, **tensors), x * inputs, target)
        assert bool(written.isfinite().all()), (inputs, which, weights)
        size = relevance.flatten(1).double().norm(dim=1)
        off = (written.double() - relevance.double()).flatten(1).norm(dim=1)
        assert bool((off <= 1e-3 * size).all()), (inputs, which, weights)
        compared += 1
    assert compared > len(SCALES) // 2


def assert_onnx_agrees(name: str, method: str) -> None:
    """By the criterion ``max(1e-5, 10 * e32)``, e32 being torch's own error in float32."""
    network = prepared(NETWORKS[name](), 8).float()
    # no constant patch: rounding decides which of several equal entries wins a max pool
    x, target = torch.randn(5, *network.shape), network.targets(5)
    explainer = graphprop.compile(network, x, method)
    (_, exact, _), _ = interpret(explainer.lowered, {"x": x, "target": target})
    _, single = explainer(x, target)
    session = session_of(explainer)
    for count in (1, 2, 5):
        logits, found = in_onnx(session, x[:count], target[:count])
        torch.testing.assert_close(logits, network(x[:count]).detach(), rtol=1e-4, atol=1e-5)
        for i in range(count):
            part = slice(i, i + 1)
            allowed = max(1e-5, 10 * error(single[part], exact[part]))
            assert error(found[part], exact[part]) <= allowed, (count, i)


def chain() -> Net:
    """A sequence of convolutions of every kind."""
    return Net(
        (3, 11, 10),
        ("stem", nn.Conv2d(3, 6, 3, padding=1)),
        ("bn", nn.BatchNorm2d(6)),
        ("relu1", nn.ReLU()),
        ("strided", nn.Conv2d(6, 6, 3, stride=2, padding=1, bias=False)),
        ("relu2", nn.ReLU()),
        ("grouped", nn.Conv2d(6, 6, 3, padding=1, groups=3)),
        ("relu3", nn.ReLU()),
        ("pointwise", nn.Conv2d(6, 8, 1)),
        ("relu4", nn.ReLU()),
        ("maximum", nn.MaxPool2d(3, 1, 1)),
        ("uneven", nn.Conv2d(8, 8, (1, 3), padding=(0, 1))),
        ("relu5", nn.ReLU()),
        ("average", nn.AvgPool2d(2)),
        ("padded", Padded(8, 8, 3)),
        ("relu6", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(8, 8)),
        ("relu7", nn.ReLU()),
        ("dense2", nn.Linear(8, 4)),
    )


def forks() -> Net:
    """A residual block nested in a branch of another, sums of three, and a concatenation."""
    return Net(
        (2, 6, 6),
        ("stem", nn.Conv2d(2, 4, 3, padding=1)),
        ("relu", nn.ReLU()),
        ("outer", nn.Conv2d(4, 4, 3, padding=1)),
        ("relu1", nn.ReLU()),
        ("inner", nn.Conv2d(4, 4, 3, padding=1)),
        ("bn", nn.BatchNorm2d(4)),
        ("inside", Sum(), "bn", "relu1"),
        ("relu2", nn.ReLU()),
        ("projection", nn.Conv2d(4, 4, 1), "relu"),
        ("around", Sum(), "relu2", "projection", "relu"),
        ("relu3", nn.ReLU()),
        ("left", nn.Conv2d(4, 3, 3, padding=1)),
        ("left_relu", nn.ReLU()),
        ("right", nn.Conv2d(4, 3, 1), "relu3"),
        ("pool", nn.AvgPool2d(3, 1, 1), "relu3"),
        ("cat", Concatenation(), "left_relu", "right", "pool"),
        ("relu4", nn.ReLU()),
        ("last", nn.Conv2d(10, 5, 3, 2, 1)),
        ("relu5", nn.ReLU()),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(5, 3)),
    )


def fitting(method: str, x: Any) -> dict[str, Any]:
    """What to compile a method with that is fitted to data: noise like x; else nothing."""
    if not graphprop.METHODS[method].fitted:
        return {}
    generator = torch.Generator().manual_seed(0)
    parts = [x] if isinstance(x, torch.Tensor) else list(x.values() if isinstance(x, dict) else x)
    batch = [torch.randn(24, *part.shape[1:], generator=generator).to(part.dtype) for part in parts]
    return {"fit": [batch]}


PROGRAMS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def compiled(
    network: nn.Module, x: torch.Tensor, method: str, **parameters: Any
) -> graphprop.CompiledExplainer:
    """Compile a network, capturing it only once: that takes longer than all passes together."""
    if network not in PROGRAMS:
        PROGRAMS[network] = capture(network, x)
    with mock.patch("graphprop.api.capture", return_value=PROGRAMS[network]):
        return graphprop.compile(network, x, method, **{**fitting(method, x), **parameters})


@cache
def double() -> Net:
    """A residual network, in float64."""
    return prepared(NETWORKS["residual"](), 9)


@cache
def small() -> Net:
    """Every kind of layer, in single precision."""
    return prepared(
        Net(
            (3, 8, 8),
            ("stem", nn.Conv2d(3, 6, 3, padding=1)),
            ("bn", nn.BatchNorm2d(6)),
            ("relu", nn.ReLU()),
            ("pool", nn.MaxPool2d(3, 2, 1)),
            ("conv1", nn.Conv2d(6, 6, 3, padding=1, groups=2)),
            ("bn1", nn.BatchNorm2d(6)),
            ("relu1", nn.ReLU()),
            ("wide", nn.Conv2d(6, 6, 1), "pool"),
            ("add", Sum(), "relu1", "wide"),
            ("relu2", nn.ReLU()),
            ("average", nn.AvgPool2d(2)),
            ("conv2", nn.Conv2d(6, 6, 3, padding=1)),
            ("silu", nn.SiLU()),
            ("mean", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("dense1", nn.Linear(6, 6)),
            ("relu3", nn.ReLU()),
            ("dense2", nn.Linear(6, 4)),
        ),
        8,
    ).float()
