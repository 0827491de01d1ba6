"""Norms: relevance passes, or goes by the affine rule: autograd with constant statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.api import CompiledExplainer
from graphprop.emit.onnx import to_onnx
from graphprop.errors import MethodError
from graphprop.ir.facts import facts_of
from graphprop.ir.interpret import interpret
from graphprop.lowering import in_flow
from graphprop.lowering.legalize import legalize
from graphprop.ops import BatchNorm, GroupNorm, LayerNorm, Operator, RmsNorm
from graphprop.ops.norm import SampleNorm
from graphprop.rules import METHODS, Layer
from graphprop.rules.structure import affine
from support.cases import randomized
from support.modules import Function

EPSILON = 0.01


# The rule


def stabilized(z: torch.Tensor) -> torch.Tensor:
    return z + torch.where(z >= 0, EPSILON, -EPSILON)


def statistics(x: torch.Tensor, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)


SHAPE = (3, 6, 4, 5)

CLOSED: list[tuple[Operator, tuple[int, ...], Callable[[torch.Tensor], Any]]] = [
    (LayerNorm((5,), 0.1), (5,), lambda x: statistics(x, (3,))),
    (LayerNorm((6, 4, 5), 0.1), (6, 4, 5), lambda x: statistics(x, (1, 2, 3))),
    (RmsNorm((4, 5), 0.1), (4, 5), lambda x: (0, x.square().mean((2, 3), keepdim=True))),
    (GroupNorm(6, 0.1), (6, 1, 1), lambda x: statistics(x, (2, 3))),
    (
        GroupNorm(3, 0.1),
        (6, 1, 1),
        lambda x: [
            s.repeat_interleave(40, 1).reshape(SHAPE) for s in statistics(x.reshape(3, 3, 40), (2,))
        ],
    ),
]


@pytest.mark.parametrize(
    ("operator", "per_entry", "statistics_of", "parameters"),
    [
        (operator, *rest, parameters)
        for operator, *rest in CLOSED
        for parameters in range(2 if isinstance(operator, RmsNorm) else 3)
    ],
    # a function's text has its address in it, which is another in every process
    ids=lambda given: getattr(given, "__qualname__", str(given)).replace(" ", ""),
)
def test_affine_rule_is_its_closed_form(
    operator: Operator,
    per_entry: tuple[int, ...],
    statistics_of: Callable[[torch.Tensor], Any],
    parameters: int,
) -> None:
    """``R = x * g / s * r / stab((x - m) / s * g + b)`` (methods.md, section 0)."""
    x = torch.randn(SHAPE, dtype=torch.float64) + 0.3
    r = torch.randn_like(x)
    g, b = torch.randn(2, *per_entry, dtype=torch.float64)
    m, variance = statistics_of(x)
    slope = (g if parameters > 0 else 1) / (variance + 0.1).sqrt()
    y = (x - m) * slope + (b if parameters > 1 else 0)
    constants = [t.flatten() if isinstance(operator, GroupNorm) else t for t in (g, b)]
    layer = Layer(operator, operands=(x, *constants[:parameters]))
    torch.testing.assert_close(operator.run(x, *layer.constants), y)
    found = affine(layer, x, r, epsilon=EPSILON)
    torch.testing.assert_close(found, x * slope * r / stabilized(y))


def test_affine_rule_of_batch_norm() -> None:
    x, r = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    scale, shift = torch.randn(2, 6, dtype=torch.float64)
    found = affine(Layer(BatchNorm(), operands=(x, scale, shift)), x, r, epsilon=EPSILON)
    scale, shift = scale[:, None], shift[:, None]
    torch.testing.assert_close(found, x * scale * r / stabilized(scale * x + shift))


# Networks


class ChannelsLast(nn.Module):
    """Layers that see the channels on the last axis."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x.movedim(1, -1)).movedim(-1, 1)
        return result


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.layers(x)
        return result


def convnext_block() -> nn.Module:
    return Residual(
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        ChannelsLast(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)),
        LayerScale(6),
    )


def tracked(norm: Any) -> nn.Module:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(norm)


def network(norm: nn.Module, rank: int = 2) -> nn.Module:
    """A small classifier around a norm of 6 channels and spatial size 6."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1]
    torch.manual_seed(1)
    return nn.Sequential(
        conv(3, 6, 3, padding=1),
        norm,
        nn.ReLU(),
        conv(6, 4, 3),
        pool(2),
        nn.Flatten(),
        nn.Linear(4 * 2**rank, 5),
    ).eval()


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: randomized(nn.LayerNorm((6, 6, 6))),
    "layer, plain": lambda: nn.LayerNorm((6, 6, 6), elementwise_affine=False),
    "layer, last axis": lambda: randomized(nn.LayerNorm(6, bias=False)),
    "layer, channels last": lambda: randomized(ChannelsLast(nn.LayerNorm(6, 1e-3))),
    "group": lambda: randomized(nn.GroupNorm(3, 6)),
    "group, plain": lambda: nn.GroupNorm(2, 6, affine=False),
    "instance": lambda: nn.InstanceNorm2d(6),
    "instance, affine": lambda: randomized(nn.InstanceNorm2d(6, affine=True)),
    "instance, kept": lambda: tracked(nn.InstanceNorm2d(6, track_running_stats=True)),
    "rms": lambda: randomized(ChannelsLast(nn.RMSNorm(6, 1e-3))),
    "rms, plain": lambda: nn.RMSNorm((6, 6, 6), 1e-3, elementwise_affine=False),
    "local response": lambda: nn.LocalResponseNorm(3, 0.5, 0.75, 1.5),
    "batch": lambda: tracked(nn.BatchNorm2d(6)),
    "batch, plain": lambda: tracked(nn.BatchNorm2d(6, affine=False)),
    "ConvNeXt block": convnext_block,
}


def relevance_of(layer: nn.Module, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Relevance of a layer's input, by autograd through the layer with its statistics constant."""
    if isinstance(layer, nn.Sequential):
        inputs = [x]
        for part in layer:
            inputs.append(part(inputs[-1]))
        for part, value in zip(reversed(layer), reversed(inputs[:-1]), strict=True):
            r = relevance_of(part, value, r)
        return r
    if isinstance(layer, ChannelsLast):
        return relevance_of(layer.layers, x.movedim(1, -1), r.movedim(1, -1)).movedim(-1, 1)
    if isinstance(layer, Residual):
        branch = layer.layers(x)
        q = r / (x + branch)
        return x * q + relevance_of(layer.layers, x, branch * q)
    if isinstance(layer, nn.ReLU | nn.GELU | nn.LocalResponseNorm | LayerScale):
        return r
    x = x.detach().requires_grad_()
    if isinstance(layer, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d | nn.Flatten):
        y = layer(x)
        denominator = y
    else:
        y = affine_map(layer, x)
        denominator = stabilized(y)
    (y * (r / denominator).detach()).sum().backward()
    assert x.grad is not None
    return x * x.grad


def affine_map(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer as a map affine in x; of a layer with weights, the linear part."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    if hasattr(layer, "padding"):
        result: torch.Tensor = layer._conv_forward(x, layer.weight, None)
        return result
    if getattr(layer, "running_var", None) is not None:
        shape = (-1, *[1] * (x.dim() - 2))
        m, variance = layer.running_mean.reshape(shape), layer.running_var.reshape(shape)
    elif isinstance(layer, nn.RMSNorm):
        axes = tuple(range(-len(layer.normalized_shape), 0))
        m, variance = torch.zeros(()), x.square().mean(axes, keepdim=True)
    elif isinstance(layer, nn.LayerNorm):
        m, variance = statistics(x, tuple(range(-len(layer.normalized_shape), 0)))
    else:
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else x.shape[1]
        m, variance = (
            s.expand(-1, -1, x[0].numel() // groups).reshape(x.shape)
            for s in statistics(x.reshape(len(x), groups, -1), (2,))
        )
    y = (x - m.detach()) / (variance.detach() + layer.eps).sqrt()
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        shape = (-1, *[1] * (x.dim() - 2))
        weight, bias = (None if p is None else p.reshape(shape) for p in (weight, bias))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def in_onnx(explainer: CompiledExplainer, **inputs: torch.Tensor) -> list[torch.Tensor]:
    legal = legalize(explainer.lowered, "onnx")
    proto = onnx_ir.to_proto(to_onnx(legal))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings)
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return [torch.from_numpy(found) for found in session.run(None, feeds)]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def check(model: nn.Module, x: torch.Tensor, **options: Any) -> None:
    """Compile a model, and hold logits and relevance of every backend against the reference."""
    options = {"epsilon": EPSILON, "bias": "ignored", "norm": "affine", **options}
    explainer = graphprop.compile(model, x, "lrp_epsilon", **options)
    target = torch.arange(len(x))
    with torch.no_grad():
        expected = model(x)
    logits, found = explainer(x, target)
    torch.testing.assert_close(logits, expected)

    (_, relevance, _), _ = interpret(explainer.lowered, {"x": x, "target": target})
    exact = model.double()
    logits = exact(x.double())
    start = torch.zeros_like(logits).scatter(1, target[:, None], 1) * logits
    reference = relevance_of(exact, x.double(), start.detach()).detach()
    # the scale and shift that a batch norm is folded to are in single precision
    assert error(relevance, reference) < 1e-6
    in_single = error(found, reference)
    assert in_single < 1e-3
    written = in_onnx(explainer, input=x, target=target)
    torch.testing.assert_close(written[0], expected, rtol=1e-4, atol=1e-5)
    assert error(written[1], reference) <= max(1e-5, 10 * in_single)


@pytest.mark.parametrize("norm", NORMS)
def test_network(norm: str) -> None:
    check(network(NORMS[norm]()), torch.randn(3, 3, 6, 6), batch_norm="affine")


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("norm", ["LayerNorm", "GroupNorm", "InstanceNorm", "LocalResponseNorm"])
def test_network_of_other_rank(norm: str, rank: int) -> None:
    size = (6,) * rank
    layer = {
        "LayerNorm": lambda: nn.LayerNorm((6, *size)),
        "GroupNorm": lambda: nn.GroupNorm(2, 6),
        "InstanceNorm": lambda: getattr(nn, f"InstanceNorm{rank}d")(6, affine=True),
        "LocalResponseNorm": lambda: nn.LocalResponseNorm(4, 0.5),
    }[norm]()
    check(network(randomized(layer), rank), torch.randn(2, 3, *size))


def test_torchvision_layer_norm() -> None:
    convnext = pytest.importorskip("torchvision.models.convnext")
    torch.manual_seed(0)
    block = convnext.CNBlock(6, layer_scale=0.5, stochastic_depth_prob=0.1)
    model = network(nn.Sequential(randomized(convnext.LayerNorm2d(6)), block))
    x = torch.randn(2, 3, 6, 6)
    explainer = graphprop.compile(model, x, "epsilon_plus")
    torch.testing.assert_close(explainer(x)[0], model(x))
    rules = [layer.rule for layer in explainer.layers if layer.operator == "layer_norm"]
    assert rules == ["pass"] * 2


SAMPLE_NORMS = ("layer", "layer, channels last", "group", "instance, affine", "rms", "rms, plain")


@pytest.mark.parametrize(
    "method",
    ["lrp_z", "preset_a", "rap", "rap-bn", "hedge", "contrastive_lrp", "relevance_cam"],
)
def test_relevance_passes_norms(method: str) -> None:
    """Relevance of a norm's result is that of its input, in every method with rules of its own."""
    norms = [layer() for layer in (NORMS[name] for name in SAMPLE_NORMS)]
    model = network(nn.Sequential(*norms)).double()
    options = {"layer": "3"} if "layer" in METHODS[method].parameters else {}
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    explainer = graphprop.compile(model, x, method, record=["*"], **options)
    explainer(x)
    kept = explainer.module.recorded
    passed = [n for n in explainer.network.layers if isinstance(n.target, SampleNorm)]
    passed = [n for n in passed if facts_of(n).rule is not None and not facts_of(n).above]
    assert len(passed) == (
        len(SAMPLE_NORMS) if METHODS[method].continues_to_input or not options else 0
    )
    for node in passed:
        assert str(facts_of(node).rule) == "pass"
        source = facts_of(node.args[0]).label
        for flow in METHODS[method].flow_names:
            label = in_flow(facts_of(node).label, flow)
            if label in kept:
                torch.testing.assert_close(kept[in_flow(source, flow)], kept[label])


def test_relevance_through_many_norms_conserves() -> None:
    """A deep residual network with norms, bias ignored: the sum stays the logit."""
    torch.manual_seed(3)
    blocks = [
        Residual(nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, bias=False))
        for _ in range(6)
    ]
    model = network(nn.Sequential(*map(randomized, blocks))).double()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    sums = {}
    for norm in ("pass", "affine"):
        logits, relevance = graphprop.compile(model, x, "rap", norm=norm)(x)
        sums[norm] = (relevance.flatten(1).sum(1) / logits.amax(1) - 1).abs()
    assert float(sums["pass"].max()) < 1e-9
    assert float(sums["affine"].max()) > 0.1


def test_norm_is_no_parameter_of_derivatives() -> None:
    """Where every layer has the gradient as its rule, so do norms."""
    derivatives = {"deconvnet", "deeplift", "fullgrad", "gradcam", "gradient", "guided_backprop"}
    derivatives |= {"input_x_gradient", "integrated_gradients", "smoothgrad", "gradcam_plus_plus"}
    derivatives |= {"pattern_attribution", "pattern_net"}
    assert {name for name, m in METHODS.items() if "norm" not in m.defaults} == derivatives
    x = torch.randn(2, 3, 6, 6)
    model = network(nn.GroupNorm(3, 6))
    for method in ("gradient", "integrated_gradients", "deeplift", "guided_backprop", "gradcam"):
        with pytest.raises(MethodError, match="has no parameter 'norm'"):
            graphprop.compile(model, x, method, norm="pass")
    explainer = graphprop.compile(model, x, "gradient")
    leaf = x.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(explainer(x, 0)[1], leaf.grad)
    with pytest.raises(MethodError, match="norm is 'pass' or 'affine', not 'through'"):
        graphprop.compile(model, x, norm="through")


@pytest.mark.parametrize(
    "by_hand",
    [
        lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 0.1),
        lambda x: x * (x.pow(2).mean(1, keepdim=True) + 0.1) ** -0.5,
        lambda x: x / (x.norm(dim=1, keepdim=True) + 0.1),
        lambda x: (x.var((1, 2), correction=0) + 0.1).reciprocal()[:, None, None] * x,
        lambda x: F.normalize(x),
    ],
    ids=["rsqrt", "negative power", "norm", "reshaped reciprocal", "normalize"],
)
def test_division_by_hand_is_a_gate(by_hand: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """All relevance goes to what is divided, however the division is written."""
    x = torch.randn(2, 3, 6, 6)
    model = network(Function(by_hand))
    explainer = graphprop.compile(model, x, record=["*"])
    torch.testing.assert_close(explainer(x)[0], model(x))
    explainer(x)
    relevance = explainer.module.recorded
    gated = [n for n in explainer.network.layers if n.target.__name__ in ("multiply", "divide")]
    (product,) = [n for n in gated if facts_of(n).label in relevance]
    torch.testing.assert_close(relevance["0"], relevance[facts_of(product).label])


def test_local_response_norm_passes_relevance_through() -> None:
    model = network(nn.LocalResponseNorm(3))
    x = torch.randn(2, 3, 6, 6)
    explainer = graphprop.compile(model, x, record=["*"])
    explainer(x)
    relevance = explainer.module.recorded
    inside = [n for n in explainer.network.layers if facts_of(n).path == "1"]
    reached = [n for n in inside if facts_of(n).label in relevance]
    assert [n.target.__name__ for n in reached] == ["divide"]
    assert len(inside) > 5
    assert torch.equal(relevance["0"], relevance[facts_of(reached[0]).label])


def test_generated_source_calls_torch() -> None:
    model = network(nn.Sequential(nn.GroupNorm(3, 6, 1e-3), ChannelsLast(nn.LayerNorm(6))))
    source = graphprop.compile(model, torch.randn(2, 3, 6, 6)).source
    assert "F.group_norm(" in source
    assert "eps=0.001" in source
    assert "F.layer_norm(" in source
    assert source.count("F.layer_norm(") == 1
