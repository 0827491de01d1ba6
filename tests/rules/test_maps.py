"""Maps that say why this class, and maps made at a layer (methods.md, section 5).

Each against autograd, zennit or captum, and by its laws; and what holds of all methods of the
section: they agree with ONNX Runtime, are numbers whatever comes, and refuse in words.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import MethodError
from graphprop.frontend.load import load_source
from graphprop.lowering.interpret_map import interpret_map
from support.maps import MODELS, compiled, double, error, small
from support.rap_reference import NETWORKS, Net, prepared

pytest.importorskip("zennit")

from zennit import composites
from zennit.attribution import Gradient

from support.autograd import (
    DOUBLE,
    ON_LARGE,
    TARGETS,
    Gates,
    chosen,
    gates,
    gradient,
    images,
    large,
    out_of_place,
    with_backward,
)
from support.oracles import CANONIZERS, EXACT, HIGH, LOW, TINY

torch.set_num_threads(1)


def total(r: torch.Tensor) -> torch.Tensor:
    """The sum of each sample, shaped to multiply it."""
    return r.sum(tuple(range(1, r.dim())), keepdim=True)


def assert_within(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> None:
    """Equal up to the rounding of what was subtracted, which is of the size of ``scale``."""
    assert found.shape == expected.shape
    off = (found - expected).flatten(1).norm(dim=1)
    assert bool((off <= 1e-12 * scale.flatten(1).norm(dim=1)).all()), off


def one_hot(target: torch.Tensor, classes: int = 10) -> torch.Tensor:
    return F.one_hot(target, classes).double()


# Large networks, in parts


def divided(name: str, after: str) -> tuple[nn.Module, nn.Module]:
    """A network up to a layer, and from there on."""
    model = out_of_place(large(name))
    if name == "vgg16_bn":
        count = int(after.partition(".")[2]) + 1
        below, rest = model.features[:count], model.features[count:]
        return below, nn.Sequential(rest, model.avgpool, nn.Flatten(), model.classifier)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    count = int(after.removeprefix("layer"))
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    rest = nn.Sequential(*stages[count:])
    return (
        nn.Sequential(stem, *stages[:count]),
        nn.Sequential(rest, model.avgpool, nn.Flatten(), model.fc),
    )


def by_zennit(name: str, model: nn.Module, composite: Any, x: torch.Tensor, start: Any) -> Any:
    """The relevance of x, started with what ``start`` says of the logits."""
    made = composite(CANONIZERS[name]())
    with Gradient(model=out_of_place(model), composite=made) as attributor:
        logits, relevance = attributor(x.detach().clone(), start)
    return logits.detach(), relevance.detach()


def value_at(below: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = below(x)
    return found


DEFAULTS = {"vgg16_bn": "features.42", "resnet50": "layer4"}
DEEPER = {"vgg16_bn": "features.33", "resnet50": "layer3"}


# CAMs


def weighted(a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nchw,nc->nhw", a, r.mean((2, 3)))[:, None]


@pytest.mark.parametrize("where", ["default", "deeper"])
@ON_LARGE
def test_gradcam(name: str, where: str) -> None:
    layer = (DEFAULTS if where == "default" else DEEPER)[name]
    model, x = large(name), images(name)
    below, above = divided(name, layer)
    a = value_at(below, x)
    expected = weighted(a, gradient(above, a, TARGETS)).clamp(min=0)
    parameters = {} if where == "default" else {"layer": layer}
    _, found = compiled(model, x, "gradcam", **parameters)(x, TARGETS)
    assert error(found, expected) < DOUBLE
    if where == "default":
        attribution = pytest.importorskip("captum.attr")
        other = out_of_place(model)
        oracle = attribution.LayerGradCam(other, other.get_submodule(layer))
        assert error(found, oracle.attribute(x, target=TARGETS, relu_attributions=True)) < DOUBLE


def plus_plus(a: torch.Tensor, above: Any, target: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ by the derivatives of ``exp(y)`` that the paper's eqs. 9-11 and 19 name."""
    leaf = a.clone().requires_grad_()
    y = chosen(above(leaf), target)
    (g,) = torch.autograd.grad(y.sum(), leaf)
    # the factor exp(y) of every derivative cancels; of a large logit it would overflow
    first, second, third = g, g**2, g**3
    below = 2 * second + a.sum((2, 3), keepdim=True) * third
    alpha = torch.where(below != 0, second / below, 0.0)
    weights = (alpha * first.clamp(min=0)).sum((2, 3))
    return torch.einsum("nchw,nc->nhw", a, weights)[:, None].clamp(min=0)


@pytest.mark.parametrize("where", ["default", "deeper"])
@ON_LARGE
def test_gradcam_plus_plus(name: str, where: str) -> None:
    layer = (DEFAULTS if where == "default" else DEEPER)[name]
    model, x = large(name), images(name)
    below, above = divided(name, layer)
    expected = plus_plus(value_at(below, x), above, TARGETS)
    parameters = {} if where == "default" else {"layer": layer}
    _, found = compiled(model, x, "gradcam_plus_plus", **parameters)(x, TARGETS)
    assert bool(found.any())
    assert error(found, expected) < DOUBLE


class Averages(nn.Module):
    """A layer of both signs, read by a mean: ``g`` is known without autograd."""

    def __init__(self, a: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, len(a), 1)
        self.dense = nn.Linear(*weight.T.shape)
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0], self.dense.weight[:] = a, weight
            self.conv.bias.zero_()
        self.double().eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.dense(self.conv(x).mean((2, 3)))


def test_gradcam_plus_plus_where_the_denominator_is_zero_or_negative() -> None:
    """Two channels, ``A = a x``, two places, ``g = w / 2``: ``2 + g sum A`` by hand."""
    x = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64)
    # sum A is 4 and -4; with w = 1 the second denominator is 2 + 0.5 * -4 = 0, with w = 2 it is -2
    for w, expected in ((1.0, 2 * 0.5 / 4), (2.0, 2 * 1 / 6 + 2 * 1 / -2 * -1)):
        model = Averages(torch.tensor([1.0, -1.0]), torch.full((2, 2), w))
        _, found = compiled(model, x, "gradcam_plus_plus", layer="conv")(x, 0)
        torch.testing.assert_close(found, expected * x)
    negative = Averages(torch.tensor([1.0, 1.0]), -torch.ones(2, 2))
    assert not compiled(negative, x, "gradcam_plus_plus", layer="conv")(x, 0)[1].any()


def test_gradcam_plus_plus_of_small_gradients() -> None:
    """Squares of 1e-25 are 0 in float32, and the map isn't: it is linear in small gradients."""
    network = small()
    x = torch.randn(2, *network.shape)
    explainer = compiled(network, x, "gradcam_plus_plus")
    weights = torch.randn(2, 4)
    _, small_map = explainer(x, weights * 1e-25)
    _, halved = explainer(x, weights * 5e-26)
    assert bool(small_map.any())
    torch.testing.assert_close(halved * 2e25, small_map * 1e25)


@pytest.mark.parametrize("method", ["gradcam", "gradcam_plus_plus", "relevance_cam"])
def test_cam_of_the_size_of_the_image(method: str) -> None:
    network = double()
    x, target = network.images(), network.targets()
    plain, linear, nearest = (
        compiled(network, x, method, upsample=mode)(x, target)[1]
        for mode in ("none", "linear", "nearest")
    )
    assert plain.shape == (3, 1, 2, 2)
    assert linear.shape == nearest.shape == (3, 1, 8, 8)
    assert error(linear, F.interpolate(plain, (8, 8), mode="bilinear")) < DOUBLE
    assert error(nearest, F.interpolate(plain, (8, 8))) < DOUBLE


@pytest.mark.parametrize("where", ["default", "deeper"])
@ON_LARGE
def test_relevance_cam(name: str, where: str) -> None:
    layer = (DEFAULTS if where == "default" else DEEPER)[name]
    model, x = large(name), images(name)
    below, above = divided(name, layer)
    a = value_at(below, x)
    start = 1.1 * one_hot(TARGETS) - 0.1
    _, r = by_zennit(name, above, EXACT["lrp_alpha1_beta0"], a, start)
    parameters = {} if where == "default" else {"layer": layer}
    _, found = compiled(model, x, "relevance_cam", **parameters)(x, TARGETS)
    assert error(found, weighted(a, r)) < DOUBLE


def test_cam_of_a_branch() -> None:
    """A layer that not all of the gradient passes has the part that does."""
    network = prepared(NETWORKS["branches"](), 3)
    x, target = network.images(), network.targets()
    _, found = compiled(network, x, "gradcam", layer="layers.left_relu")(x, target)
    values = network.values(x)
    (slope,) = torch.autograd.grad(chosen(values["dense"], target).sum(), values["left_relu"])
    assert error(found, weighted(values["left_relu"], slope).clamp(min=0).detach()) < DOUBLE


def test_cam_of_volumes_and_signals() -> None:
    for name, layer in (("volume", "relu1"), ("signal", "relu1")):
        network = prepared(NETWORKS[name](), 3)
        x, target = network.images(), network.targets()
        values = network.values(x)
        a = values[layer]
        (slope,) = torch.autograd.grad(chosen(values["dense"], target).sum(), a)
        places = tuple(range(2, a.dim()))
        expected = (a * slope.mean(places, keepdim=True)).sum(1, keepdim=True).clamp(min=0)
        parameters = {"layer": f"layers.{layer}", "upsample": "nearest"}
        _, found = compiled(network, x, "gradcam", **parameters)(x, target)
        assert error(found, F.interpolate(expected.detach(), tuple(x.shape[2:]))) < DOUBLE


# Excitation backprop


def excitation(canonizers: list[Any]) -> Any:
    return composites.ExcitationBackprop(stabilizer=TINY, zero_params="bias", canonizers=canonizers)


@ON_LARGE
def test_excitation_backprop(name: str) -> None:
    """zennit's, where the image is non-negative: it also excites by negative inputs."""
    model, x = large(name), images(name).abs()
    _, expected = by_zennit(name, model, excitation, x, one_hot(TARGETS))
    _, found = compiled(model, x, "excitation_backprop")(x, TARGETS)
    assert error(found, expected) < DOUBLE
    if name == "vgg16_bn":
        assert bool((found >= 0).all())


def headless(name: str) -> tuple[nn.Module, nn.Linear]:
    """A network without its logit layer, and that layer."""
    model = out_of_place(large(name))
    if name == "vgg16_bn":
        last, model.classifier = model.classifier[-1], model.classifier[:-1]
    else:
        last, model.fc = model.fc, nn.Identity()
    return model, last


@ON_LARGE
def test_contrastive_excitation_backprop(name: str) -> None:
    model, x = large(name), images(name).abs()
    below, last = headless(name)
    h, w = value_at(below, x).clamp(min=0), last.weight.detach()
    flows = []
    for row in (w[TARGETS].clamp(min=0), (-w[TARGETS]).clamp(min=0)):
        flows.append(h * row / (h * row).sum(1, keepdim=True))
    _, r = by_zennit(name, below, excitation, x, flows[0] - flows[1])
    _, first = by_zennit(name, below, excitation, x, flows[0])
    _, found = compiled(model, x, "contrastive_excitation_backprop")(x, TARGETS)
    assert_within(found, r.clamp(min=0), first)
    assert bool((found >= 0).all())
    assert bool(found.flatten(1).any(1).all())


def positive_network() -> Net:
    """No layer is without what excites it."""
    network = prepared(NETWORKS["plain"](), 3, positive_scales=True)
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3", "dense1", "dense2"):
            network.layers[name].weight[:, 0].abs_()
        for name in ("bn1", "bn2"):
            network.layers[name].bias.fill_(2.0)
            network.layers[name].running_mean.zero_()
        for name in ("conv3", "dense1"):
            network.layers[name].bias.fill_(1.0)
    return network


def test_law_excitation_is_a_probability() -> None:
    """Of a non-negative image, the map is non-negative and adds up to 1."""
    network = positive_network()
    x = network.images(5).abs() + 0.1
    explainer = compiled(network, x, "excitation_backprop")
    for target in range(network.classes()):
        _, found = explainer(x, target)
        torch.testing.assert_close(total(found).flatten(), torch.ones(5, dtype=torch.float64))
        assert bool((found >= 0).all())


def test_law_excitation_of_negative_inputs_is_zero() -> None:
    network = prepared(NETWORKS["plain"](), 3)
    x = network.images(5)
    _, found = compiled(network, x, "excitation_backprop")(x, network.targets(5))
    assert not found[x <= 0].any()
    assert bool(found[x > 0].any())


# Contrastive LRP


@ON_LARGE
def test_contrastive_lrp(name: str) -> None:
    model, x = large(name), images(name).clamp(LOW, HIGH)
    hot = one_hot(TARGETS)
    make = EXACT["deep_taylor"]
    _, target = by_zennit(name, model, make, x, lambda logits: logits * hot)
    _, others = by_zennit(name, model, make, x, (1 - hot) / 9)
    expected = target - others * total(target) / total(others)
    _, found = compiled(model, x, "contrastive_lrp", low=LOW, high=HIGH)(x, TARGETS)
    assert_within(found, expected, target)
    assert bool((total(found).abs() < 1e-12 * total(target.abs())).all())


def test_law_contrastive_lrp_adds_up_to_zero() -> None:
    """Where the others have relevance; where they have none, the target's is left."""
    network = prepared(NETWORKS["plain"](), 3)
    x = network.images(4)
    explainer = compiled(network, x, "contrastive_lrp")
    for target in range(network.classes()):
        _, found = explainer(x, target)
        size = found.abs().flatten(1).sum(1)
        assert bool((total(found).flatten().abs() <= 1e-10 * size).all())
        assert bool((size > 0).all())
    with torch.no_grad():
        network.layers["dense2"].weight[1:] = -network.layers["dense2"].weight[1:].abs()
    _, found = compiled(network, x, "contrastive_lrp")(x, 0)
    _, alone = compiled(network, x, "deep_taylor")(x, 0)
    assert error(found, alone) < DOUBLE
    assert bool((total(found).abs() > 1e-6).all())


# DeepLIFT


NEAREST = 1e-7


def rescaled(layer: nn.Module, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """``r dy / dx``; the first half of the batch are the images, the other the baseline."""
    (x1, x0), (y1, y0), (r, _) = x.chunk(2), y.chunk(2), r.chunk(2)
    with torch.enable_grad():
        leaf = x1.detach().requires_grad_()
        (slope,) = torch.autograd.grad(layer(leaf), leaf, r)
    near = (x1 - x0).abs() < NEAREST
    quotient = r * (y1 - y0) / torch.where(near, 1.0, x1 - x0)
    return torch.cat([torch.where(near, slope, quotient), torch.zeros_like(r)])


def rescaled_pool(
    layer: nn.Module, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor
) -> torch.Tensor:
    """To the image's winners ``max(y, y0) - y0``, to the baseline's ``y - max(y, y0)``."""
    (x1, x0), (y1, y0), (r, _) = x.chunk(2), y.chunk(2), r.chunk(2)
    pools = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
    settings = layer.kernel_size, layer.stride, layer.padding
    winners = [pools[x.dim()](half, *settings, return_indices=True)[1] for half in (x1, x0)]

    def sent(what: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        flat = torch.zeros_like(x1).flatten(2)
        return flat.scatter_add(2, where.flatten(2), what.flatten(2)).reshape(x1.shape)

    top = torch.maximum(y1, y0)
    moved = sent(r * (top - y0), winners[0]) + sent(r * (y1 - top), winners[1])
    near = (x1 - x0).abs() < NEAREST
    quotient = moved / torch.where(near, 1.0, x1 - x0)
    found = torch.where(near, sent(r, winners[0]), quotient)
    return torch.cat([found, torch.zeros_like(found)])


RESCALED = {
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.SiLU), rescaled),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), rescaled_pool),
}


def lifted(model: nn.Module, x: torch.Tensor, target: torch.Tensor, baseline: Any) -> torch.Tensor:
    """DeepLIFT by other backward passes of a batch of images and baselines."""
    reference = torch.zeros_like(x) + baseline
    doubled = torch.cat([x, reference])
    slope = gradient(with_backward(model, RESCALED), doubled, torch.cat([target, target]))
    return (x - reference) * slope[: len(x)]


@ON_LARGE
def test_deeplift(name: str) -> None:
    """From a baseline of noise: on one of one number, all windows of a max pool have ties."""
    model, x = large(name), images(name)
    baseline = torch.randn(x.shape[1:], dtype=torch.float64)
    logits, found = compiled(model, x, "deeplift", baseline=baseline)(x, TARGETS)
    assert error(found, lifted(model, x, TARGETS, baseline)) < DOUBLE
    expected = chosen(logits - value_at(model, baseline[None]), TARGETS)
    torch.testing.assert_close(total(found).flatten(), expected, rtol=1e-9, atol=1e-9)


def test_deeplift_is_captums() -> None:
    """Of a network without max pools, where captum 0.9 is not complete."""
    attribution = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 6, 3, groups=2), nn.ELU(), nn.Conv2d(6, 4, 1), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(16, 5), nn.Softplus(), nn.Linear(5, 3)),
    ).double()
    x, target = torch.randn(3, 3, 10, 10, dtype=torch.float64), torch.tensor([2, 0, 1])
    oracle = attribution.DeepLift(model.eval(), eps=NEAREST)
    with pytest.warns(UserWarning, match="hooks"):
        expected = oracle.attribute(x, torch.full_like(x, 0.4), target=target).detach()
    _, found = compiled(model, x, "deeplift", baseline=0.4)(x, target)
    assert error(found, expected) < DOUBLE


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "two inputs"])
def test_deeplift_of_a_small_network(name: str) -> None:
    network = prepared(NETWORKS[name](), 3)
    x, target = network.images(), network.targets()
    _, found = compiled(network, x, "deeplift", baseline=0.25)(x, target)
    assert error(found, lifted(network, x, target, 0.25)) < DOUBLE


class Products(nn.Module):
    """Gates and quotients, of which DeepLIFT is complete, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
        self.mix = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        y = x * gate[:, :, None, None] + torch.tanh(self.mix(x)) / (x * x + 1)
        y = F.max_pool2d(y, 3, 2, 1) - 2 / (F.avg_pool2d(x, 3, 2, 1).exp() + 1)
        return self.head(y.amax((2, 3)))


def test_law_deeplift_is_complete() -> None:
    """The map adds up to ``f(x) - f(x0)``, products, quotients and maxima included."""
    torch.manual_seed(3)
    products = Products().double().eval()
    networks: list[tuple[nn.Module, tuple[int, ...]]] = [(products, (3, 6, 8))]
    for name in ("residual", "two inputs", "dense"):
        network = prepared(NETWORKS[name](), 4)
        networks.append((network, network.shape))
    target = torch.tensor([0, 1, 2, 0])
    for model, shape in networks:
        x = torch.randn(4, *shape, dtype=torch.float64)
        for baseline in (0.0, -0.6):
            x[3] = baseline
            logits, found = compiled(model, x, "deeplift", baseline=baseline)(x, target)
            expected = chosen(logits - value_at(model, torch.full_like(x, baseline)), target)
            torch.testing.assert_close(total(found).flatten(), expected, rtol=1e-9, atol=1e-9)
            assert not found[3].any()


def test_deeplift_does_not_depend_on_how_ties_round() -> None:
    """Of a baseline of one color most windows have equal entries, but for rounding."""
    digits = load_source(str(MODELS / "digits.py"))
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    lowered = graphprop.compile(digits.model, digits.example, "deeplift").lowered
    _, (single,) = interpret_map(lowered, {"x": x}, None, dtype=torch.float32)
    _, (double,) = interpret_map(lowered, {"x": x}, None, dtype=torch.float64)
    assert error(single.double(), double) < 1e-5


def test_deeplift_near_the_baseline_is_the_gradient() -> None:
    """No quotient of two small numbers: where inputs are as the baseline's, the derivative."""
    network = prepared(NETWORKS["residual"](), 3)
    x = network.images(3)[:1]
    target = torch.zeros(1, dtype=torch.int64)
    explainer = compiled(network, x, "deeplift", baseline=x[0], nearest=1e-3)
    near = x + 1e-9 * torch.randn_like(x)
    _, found = explainer(near, target)
    expected = (near - x) * gradient(network, near, target)
    assert error(found, expected) < 1e-6


# Refusals


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gradcam", {"layer": "layers.relu33"}, "there is no layer 'layers.relu33'.*'layers.relu3'"),
    ("relevance_cam", {"layer": "layers.add.ad"}, "there is no layer .* mean 'layers.add.add'"),
    ("gradcam", {"layer": "layers.dense1"}, r"of shape \('N', 6\) has no places to make a map of"),
    ("relevance_cam", {"layer": "layers.flatten"}, "choose a layer in front of the flattening"),
    ("gradcam", {"layer": "layers.dense2"}, "the map can't be made at the logits"),
    ("gradcam", {"upsample": "cubic"}, "upsample is 'none', 'linear' or 'nearest', not 'cubic'"),
    (
        "gradcam_plus_plus",
        {"layer": "layers.dense1"},
        r"of shape \('N', 6\) has no places to make a map of",
    ),
    ("relevance_cam", {"upsample": "all"}, "upsample is 'none', 'linear' or 'nearest', not 'all'"),
    ("relevance_cam", {"alpha": -2.0}, "must not be negative, not -2 and 0"),
    ("contrastive_lrp", {"low": "least"}, "a bound of zB is a number, a number per channel"),
    ("contrastive_excitation_backprop", {"layer": "mean"}, "there is no layer 'mean'"),
    ("deeplift", {"nearest": "far"}, "the parameter 'nearest' is a number, not 'far'"),
    ("excitation_backprop", {"layer": "relu"}, "has no parameter 'layer'"),
]


@pytest.mark.parametrize(
    ("method", "parameters", "message"), REFUSED, ids=[f"{m} {p}" for m, p, _ in REFUSED]
)
def test_refused(method: str, parameters: dict[str, Any], message: str) -> None:
    network = small()
    x = torch.zeros(1, *network.shape)
    with pytest.raises(MethodError, match=message):
        compiled(network, x, method, **parameters)


@pytest.mark.parametrize("method", ["hedge", "gradcam", "relevance_cam"])
def test_layer_beside_the_way_is_refused(method: str) -> None:
    """A gate's layers get no relevance, so that no map is made there."""
    model, x = gates(), torch.randn(1, 3, 6, 8, dtype=torch.float64)
    with pytest.raises(MethodError, match="no relevance passes the layer 'attention'"):
        compiled(model, x, method, layer="attention")
    assert isinstance(model, Gates)


def test_network_of_one_layer_has_none_below_the_logits() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    with pytest.raises(MethodError, match="the logit layer reads the input itself"):
        compiled(model, torch.zeros(1, 4), "contrastive_excitation_backprop")
    for method in ("gradcam", "gradcam_plus_plus", "relevance_cam"):
        with pytest.raises(MethodError, match="no layer with places that all relevance passes"):
            compiled(model, torch.zeros(1, 4), method)
