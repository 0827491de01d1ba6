"""The gradient and its relatives against autograd and captum (methods.md, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import MethodError
from support.autograd import (
    DOUBLE,
    ON_LARGE,
    TARGETS,
    chosen,
    gates,
    gradient,
    images,
    large,
    out_of_place,
    with_backward,
)
from support.maps import chain, compiled, error, forks, parsed
from support.rap_reference import NETWORKS, Net, prepared

torch.set_num_threads(1)


SINGLE = 1e-6
"""captum holds the weights of points on a path in single precision."""


# The networks


# The references


def guided_relu(
    layer: nn.Module, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor
) -> torch.Tensor:
    return torch.where((x > 0) & (r > 0), r, 0.0)


def deconvnet_relu(
    layer: nn.Module, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor
) -> torch.Tensor:
    return torch.where(r > 0, r, 0.0)


def guided_clip(
    layer: nn.Module, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor
) -> torch.Tensor:
    """At a rectifier with an upper limit: where the gradient passes, what is positive."""
    low, high = getattr(layer, "min_val", 0.0), getattr(layer, "max_val", torch.inf)
    return torch.where((x > low) & (x < high) & (r > 0), r, 0.0)


def psi(r: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Each sample rescaled to [0, 1], enlarged to the image, and summed over channels."""
    rows = []
    for sample in r.abs():
        rescaled = sample - sample.min()
        rows.append(rescaled / rescaled.max() if bool(rescaled.any()) else rescaled)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    enlarged = F.interpolate(torch.stack(rows), size, mode=mode, align_corners=True)
    return enlarged.sum(1, keepdim=True)


def bias_of(layer: nn.Module) -> torch.Tensor | None:
    """What a layer adds to each channel."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        slope = layer.weight / (layer.running_var + layer.eps).sqrt()
        return layer.bias - slope * layer.running_mean
    return getattr(layer, "bias", None)


def full_gradients(
    model: nn.Module, x: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The input's part ``x * df/dx``, and each bias's ``b * df/dy``."""
    model, kept = out_of_place(model), []

    def keep(layer: nn.Module, given: Any, y: torch.Tensor) -> torch.Tensor:
        kept.append((y, bias_of(layer)))
        # what changes its input in place behind the layer changes a copy
        return y.clone()

    for layer in model.modules():
        if bias_of(layer) is not None:
            layer.register_forward_hook(keep)
    leaf = x.clone().requires_grad_()
    f = chosen(model(leaf), target).sum()
    slopes = torch.autograd.grad(f, [leaf, *(y for y, _ in kept)])
    parts = [
        slope * bias.detach().reshape(1, -1, *[1] * (slope.dim() - 2))
        for slope, (_, bias) in zip(slopes[1:], kept, strict=True)
    ]
    return x * slopes[0], parts


def full_gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    size = tuple(x.shape[2:])
    first, parts = full_gradients(model, x, target)
    return psi(first, size) + sum(psi(part, size) for part in parts if part.dim() > 2)


def integrated(
    model: nn.Module,
    x: torch.Tensor,
    target: torch.Tensor,
    baseline: torch.Tensor | float,
    places: Any,
    weights: Any,
) -> torch.Tensor:
    """``(x - x0) sum_k w_k df/dx(x0 + a_k (x - x0))``."""
    found = torch.zeros_like(x)
    for place, weight in zip(places, weights, strict=True):
        found += weight * gradient(model, baseline + place * (x - baseline), target)
    return (x - baseline) * found


def legendre(steps: int) -> tuple[Any, Any]:
    """The Gauss-Legendre rule on [0, 1], from the eigenvectors of Jacobi's matrix."""
    k = np.arange(1, steps)
    beside = k / np.sqrt(4.0 * k**2 - 1.0)
    places, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    return (places + 1) / 2, vectors[0] ** 2


REFERENCES: dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gradient": gradient,
    "input_x_gradient": lambda model, x, target: x * gradient(model, x, target),
    "fullgrad": full_gradient,
    "guided_backprop": lambda model, x, target: gradient(
        with_backward(model, {nn.ReLU: guided_relu}), x, target
    ),
    "deconvnet": lambda model, x, target: gradient(
        with_backward(model, {nn.ReLU: deconvnet_relu}), x, target
    ),
}


# Whole networks


@pytest.mark.parametrize("method", REFERENCES)
@ON_LARGE
def test_map_of_a_large_network(name: str, method: str) -> None:
    model, x = large(name), images(name)
    logits, found = compiled(model, x, method)(x, TARGETS)
    assert error(found, REFERENCES[method](model, x, TARGETS)) < DOUBLE
    with torch.no_grad():
        torch.testing.assert_close(logits, model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*NETWORKS, "chain", "forks"])
def test_maps_of_a_small_network(name: str) -> None:
    network = prepared({**NETWORKS, "chain": chain, "forks": forks}[name](), 3)
    x, target = network.images(), network.targets()
    for method, reference in REFERENCES.items():
        if method == "fullgrad" and len(network.shape) == 1:
            continue
        _, found = compiled(network, x, method)(x, target)
        expected = reference(network, x, target)
        # rescaling to [0, 1] divides by what may be small
        assert error(found, expected) < DOUBLE, method


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_map_is_captums(method: str) -> None:
    attribution = pytest.importorskip("captum.attr")
    kind = {"guided_backprop": "GuidedBackprop", "deconvnet": "Deconvolution"}[method]
    model, x = large("vgg16_bn"), images("vgg16_bn")
    _, found = compiled(model, x, method)(x, TARGETS)
    oracle = getattr(attribution, kind)(out_of_place(model))
    with pytest.warns(UserWarning, match="Setting backward hooks on ReLU activations"):
        expected = oracle.attribute(x.clone().requires_grad_(), target=TARGETS)
    assert error(found, expected) < DOUBLE


def test_gradient_reaches_gates() -> None:
    """Every operand that depends on the input has its part, and no other method takes it away."""
    model, x = gates(), torch.randn(3, 3, 6, 8, dtype=torch.float64)
    target = torch.tensor([2, 0, 1])
    for method in ("gradient", "input_x_gradient"):
        _, found = compiled(model, x, method)(x, target)
        assert error(found, REFERENCES[method](model, x, target)) < DOUBLE


def test_target_of_weights() -> None:
    """The gradient of a weighted sum of logits."""
    network = prepared(NETWORKS["branches"](), 3)
    x = network.images()
    target = torch.randn(3, 3, dtype=torch.float64)
    target[1] = 0.0
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((network(leaf) * target).sum(), leaf)
    _, found = compiled(network, x, "gradient")(x, target)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not found[1].any()


# FullGrad


@pytest.mark.parametrize("name", ["plain", "residual", "dense"])
def test_full_gradients_are_complete(name: str) -> None:
    """What the input and all biases have add up to the logit: none is forgotten by the reference.

    The map then has those that have places.
    """
    network = prepared(NETWORKS[name](), 4)
    x, target = network.images(), network.targets()
    first, parts = full_gradients(network, x, target)
    found = first.flatten(1).sum(1) + sum(part.flatten(1).sum(1) for part in parts)
    torch.testing.assert_close(found, chosen(network(x), target), rtol=1e-10, atol=1e-10)


def test_full_gradient_needs_places() -> None:
    network = prepared(NETWORKS["dense"](), 0)
    x = network.images()
    _, found = compiled(network, x, "fullgrad")(x, network.targets())
    first, _ = full_gradients(network, x, network.targets())
    size = first.abs() - first.abs().amin(1, keepdim=True)
    expected = (size / size.amax(1, keepdim=True)).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_full_gradient_is_from_zero_to_one_per_layer() -> None:
    """One layer without bias: a channel's map lies in [0, 1], and reaches both ends."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(32, 3))
    x = torch.randn(4, 1, 6, 6)
    _, found = compiled(model.eval(), x, "fullgrad")(x)
    assert found.shape == (4, 1, 6, 6)
    assert found.flatten(1).amin(1).tolist() == [0.0] * 4
    torch.testing.assert_close(found.flatten(1).amax(1), torch.ones(4))


# Integrated gradients


@ON_LARGE
def test_integrated_gradients(name: str) -> None:
    attribution = pytest.importorskip("captum.attr")
    model, x = large(name), images(name)
    explainer = compiled(model, x, "integrated_gradients", steps=4, chunk=3)
    _, found = explainer(x, TARGETS)
    assert error(found, integrated(model, x, TARGETS, 0.0, *legendre(4))) < DOUBLE
    expected = attribution.IntegratedGradients(out_of_place(model)).attribute(
        x, target=TARGETS, n_steps=4, method="gausslegendre"
    )
    assert error(found, expected) < SINGLE


STEPS = np.arange(7)
QUADRATURES = {
    "gauss-legendre": legendre(7),
    "left": (STEPS / 7, [1 / 7] * 7),
    "middle": ((STEPS + 0.5) / 7, [1 / 7] * 7),
    "right": ((STEPS + 1) / 7, [1 / 7] * 7),
}


@pytest.mark.parametrize("kind", QUADRATURES)
def test_quadrature(kind: str) -> None:
    attribution = pytest.importorskip("captum.attr")
    network = prepared(NETWORKS["branches"](), 3)
    x, target = network.images(), network.targets()
    explainer = compiled(network, x, "integrated_gradients", quadrature=kind, baseline=0.5, steps=7)
    _, found = explainer(x, target)
    assert error(found, integrated(network, x, target, 0.5, *QUADRATURES[kind])) < DOUBLE
    method = {"gauss-legendre": "gausslegendre"}.get(kind, f"riemann_{kind}")
    expected = attribution.IntegratedGradients(network).attribute(
        x, 0.5, target=target, n_steps=7, method=method
    )
    assert error(found, expected) < SINGLE


BASELINES: dict[str, Any] = {
    "one per channel": (0.25, -1.0),
    "one per channel, as a tensor": torch.tensor([0.25, -1.0]),
    "an image": torch.arange(72.0).reshape(2, 6, 6) / 50,
    "a batch of one": torch.arange(72.0).reshape(1, 2, 6, 6) / 50,
}


@pytest.mark.parametrize("kind", BASELINES)
def test_baseline(kind: str) -> None:
    network = prepared(NETWORKS["branches"](), 3)
    x, target = network.images(), network.targets()
    given = BASELINES[kind]
    meant = torch.as_tensor(given, dtype=torch.float64)
    meant = meant.reshape(2, 1, 1) if meant.dim() == 1 else meant.reshape(2, 6, 6)
    explainer = compiled(network, x, "integrated_gradients", baseline=given, steps=5)
    expected = integrated(network, x, target, meant, *legendre(5))
    assert error(explainer(x, target)[1], expected) < DOUBLE


def test_integrated_gradients_are_complete() -> None:
    """They add up to ``f(x) - f(baseline)``, up to the quadrature; exactly where f is smooth."""
    smooth = prepared(
        Net(
            (2, 6, 6),
            ("conv1", nn.Conv2d(2, 4, 3, padding=1)),
            ("act1", nn.SiLU()),
            ("conv2", nn.Conv2d(4, 4, 3)),
            ("act2", nn.SiLU()),
            ("flatten", nn.Flatten()),
            ("dense", nn.Linear(64, 3)),
        ),
        1,
    )
    for network, steps, allowed in (
        (smooth, 24, 1e-9),
        (prepared(NETWORKS["plain"](), 3), 200, 1e-2),
    ):
        x, target = torch.randn(3, *network.shape, dtype=torch.float64), network.targets()
        for baseline in (0.0, 0.75):
            explainer = compiled(
                network, x, "integrated_gradients", steps=steps, baseline=baseline, chunk=50
            )
            logits, found = explainer(x, target)
            start = network(torch.full_like(x, baseline)).detach()
            expected = chosen(logits, target) - chosen(start, target)
            off = (found.flatten(1).sum(1) - expected).abs().max()
            assert float(off) < allowed * float(start.abs().max())


def test_chunks_change_nothing() -> None:
    network = prepared(NETWORKS["residual"](), 3)
    x, target = network.images(), network.targets()
    for method, count in (("integrated_gradients", "steps"), ("smoothgrad", "n")):
        found = [
            compiled(network, x, method, **{count: 7, "chunk": chunk})(x, target)[1]
            for chunk in (1, 3, 7, 100)
        ]
        for other in found[1:]:
            assert error(other, found[0]) < 1e-12


# SmoothGrad


@ON_LARGE
def test_smoothgrad(name: str) -> None:
    model, x = large(name), images(name)
    explainer = compiled(model, x, "smoothgrad", n=3, sigma=0.3, chunk=2)
    noise = explainer.lowered.samples.offset.double()
    assert noise.shape == (3, *x.shape[1:])
    expected = sum(gradient(model, x + one, TARGETS) for one in noise) / 3
    assert error(explainer(x, TARGETS)[1], expected) < DOUBLE


def test_noise_is_drawn_once() -> None:
    """The same for every explainer and sample, of the wanted width, and in the weights."""
    network = prepared(NETWORKS["residual"](), 3)
    x, target = network.images(), network.targets()
    torch.manual_seed(1)
    one = compiled(network, x, "smoothgrad", n=200, sigma=0.25, chunk=100)
    torch.manual_seed(2)
    other = compiled(network, x, "smoothgrad", n=200, sigma=0.25, chunk=100)
    noise = one.lowered.samples.offset
    assert torch.equal(noise, other.lowered.samples.offset)
    assert torch.equal(one(x, target)[1], other(x, target)[1])
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert float(noise.mean().abs()) < 0.01
    same = x[:1].expand(3, *x.shape[1:])
    found = one(same, torch.zeros(3, dtype=torch.int64))[1]
    torch.testing.assert_close(found[1:], found[:1].expand(2, *x.shape[1:]))


def test_no_noise_is_the_gradient() -> None:
    network = prepared(NETWORKS["residual"](), 3)
    x, target = network.images(), network.targets()
    _, found = compiled(network, x, "smoothgrad", n=3, sigma=0)(x, target)
    assert error(found, gradient(network, x, target)) < 1e-12


REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("integrated_gradients", {"steps": "0"}, "steps is a whole number from 1 on, not 0"),
    ("integrated_gradients", {"steps": "2.5"}, "steps is a whole number from 1 on, not 2.5"),
    ("integrated_gradients", {"chunk": "0"}, "chunk is a whole number from 1 on, not 0"),
    ("integrated_gradients", {"quadrature": "trapezoid"}, "quadrature is one of .*'left'"),
    ("integrated_gradients", {"sigma": "1"}, "has no parameter 'sigma'"),
    ("smoothgrad", {"n": "0"}, "n is a whole number from 1 on, not 0"),
    ("smoothgrad", {"sigma": "-1"}, "sigma, the standard deviation of the noise, is not -1"),
    ("gradient", {"layer": "stem"}, "has no parameter 'layer'"),
]


@pytest.mark.parametrize(
    ("method", "texts", "message"), REFUSED, ids=[f"{m} {t}" for m, t, _ in REFUSED]
)
def test_refused(method: str, texts: dict[str, str], message: str) -> None:
    network = shared_network()
    with pytest.raises(MethodError, match=message):
        compiled(network, network.images(), method, **parsed(texts))


@cache
def shared_network() -> Net:
    return prepared(NETWORKS["plain"](), 0)


@pytest.mark.parametrize("baseline", [(1.0, 2.0, 3.0), torch.zeros(2, 8, 6)], ids=["3", "2x8x6"])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift"])
def test_baseline_of_another_shape_is_refused(method: str, baseline: Any) -> None:
    network = shared_network()
    with pytest.raises(MethodError, match=r"a baseline is a number, .* of one input, \(2, 8, 7\)"):
        compiled(network, network.images(), method, baseline=baseline)


def test_baseline_is_not_a_word() -> None:
    network = shared_network()
    with pytest.raises(graphprop.errors.GraphpropError, match="baseline"):
        compiled(network, network.images(), "integrated_gradients", baseline="black")


def test_a_layer_may_be_called_like_the_loops_own_values() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loop_trip, self.loop_total = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3)
            self.total, self.trip = nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.total(self.loop_total(self.loop_trip(x).relu()).relu())
            return self.trip(x.mean((2, 3)))

    x = torch.zeros(2, 2, 9, 9)
    explainer = graphprop.compile(Named().eval(), x, "integrated_gradients", steps=3, chunk=2)
    assert explainer.check().passed


# Rectifiers other than ReLU


class Minimum(nn.Module):
    """``clamp(min=0)``, spelled as a function."""

    max_val = torch.inf

    def __init__(self, spelled: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.spelled = spelled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spelled(x)


RECTIFIERS: dict[str, Callable[[], nn.Module]] = {
    "relu6": nn.ReLU6,
    "hardtanh from 0": lambda: nn.Hardtanh(0.0, 0.4),
    "clamp": lambda: Minimum(lambda x: x.clamp(min=0)),
    "clamp_min": lambda: Minimum(lambda x: torch.clamp_min(x, 0.0)),
    "threshold": lambda: Minimum(lambda x: F.threshold(x, 0.0, 0.0)),
    "maximum": lambda: Minimum(lambda x: torch.maximum(x, torch.zeros(()).to(x))),
    "where": lambda: Minimum(lambda x: torch.where(x > 0, x, 0.0)),
    "where not": lambda: Minimum(lambda x: torch.where(x <= 0, 0.0, x)),
    "masked_fill": lambda: Minimum(lambda x: x.masked_fill(x < 0, 0.0)),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "leaky relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "clamp from above": lambda: Minimum(lambda x: x.clamp(max=0.1)),
    "clamp from elsewhere": lambda: Minimum(lambda x: x.clamp(min=-0.1)),
    "minimum": lambda: Minimum(lambda x: torch.minimum(x, torch.zeros(()).to(x))),
    "where from below": lambda: Minimum(lambda x: torch.where(x > 0, 0.0, x)),
}
GUIDED = {"guided_backprop": guided_clip, "deconvnet": deconvnet_relu}


def stack(activation: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), activation(), nn.Conv2d(8, 8, 3), activation(), nn.Flatten()
    )
    model.append(nn.Linear(8 * 4 * 4, 5))
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64) * 3
    return model.double().eval(), x, torch.tensor([0, 1, 4, 2])


@pytest.mark.parametrize("method", GUIDED)
@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifier_is_guided(name: str, method: str) -> None:
    """However it is spelled, and with an upper limit or without."""
    model, x, target = stack(RECTIFIERS[name])
    _, found = compiled(model, x, method)(x, target)
    kinds = (nn.ReLU6, nn.Hardtanh, Minimum)
    expected = gradient(with_backward(model, dict.fromkeys(kinds, GUIDED[method])), x, target)
    assert error(found, expected) < DOUBLE
    assert error(found, gradient(model, x, target)) > 0.01


@pytest.mark.parametrize("method", GUIDED)
@pytest.mark.parametrize("name", OTHERS)
def test_network_without_rectifier_is_refused(name: str, method: str) -> None:
    """Its map would be the gradient, under another name."""
    model, x, _ = stack(OTHERS[name])
    with pytest.raises(MethodError, match=rf"'{method}' differs from the gradient at rectifiers"):
        compiled(model, x, method)


@pytest.mark.parametrize("method", GUIDED)
def test_other_activations_beside_a_rectifier_have_their_gradient(method: str) -> None:
    model, x, target = stack(nn.ReLU6)
    model[3] = nn.SiLU().eval()
    _, found = compiled(model, x, method)(x, target)
    expected = gradient(with_backward(model, {nn.ReLU6: GUIDED[method]}), x, target)
    assert error(found, expected) < DOUBLE


@pytest.mark.parametrize("name", ["where", "where not", "where or equal", "masked_fill"])
def test_spelled_rectifier_keeps_its_derivative_at_zero(name: str) -> None:
    """Without a bias, what is computed from a black region is exactly zero."""
    spelled = {
        **RECTIFIERS,
        "where or equal": lambda: Minimum(lambda x: torch.where(x >= 0, x, 0.0)),
    }
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), spelled[name](), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)
    )
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x[:, :, 2:] = 0.0
    model, target = model.double().eval(), torch.tensor([0, 3])
    _, found = compiled(model, x, "gradient")(x, target)
    assert error(found, gradient(model, x, target)) < DOUBLE
