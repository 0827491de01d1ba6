"""Heads, layers and maps do not depend on how a function is written: its layout is followed.

The same function with the channels first, with the channels last and over tokens, with dense layers
and with convolutions of one place, has the same roles and the same maps (methods.md, section 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.api import CompiledExplainer
from graphprop.frontend.capture import capture
from graphprop.ir.facts import facts_of
from support.modules import Function

METHODS = ("epsilon_plus", "lrp_cmp_alpha2", "rap", "rap-bn", "hedge", "gradcam", "relevance_cam")


def assert_same_maps(
    first: nn.Module, second: nn.Module, x: torch.Tensor, methods: tuple[str, ...] = METHODS
) -> None:
    """Two ways to write a function give maps of one shape, equal but for rounding."""
    first, second = first.double().eval(), second.double().eval()
    torch.testing.assert_close(first(x), second(x))
    programs = [(model, capture(model, x)) for model in (first, second)]
    for method in methods:
        one, two = (compiled(model, program, x, method)(x)[1] for model, program in programs)
        assert one.shape == two.shape, method
        assert float(one.norm()) > 0, method
        assert float((one - two).norm() / one.norm()) < 1e-8, method


def compiled(
    model: nn.Module, program: Any, x: torch.Tensor, method: str, **parameters: Any
) -> CompiledExplainer:
    """The explainer of a model that has been captured: once for all methods."""
    with mock.patch("graphprop.api.capture", return_value=program):
        return graphprop.compile(model, x, method, **parameters)


def images(size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


# The dense head


class Head(nn.Module):
    """A stack of convolutions, and a classifier that is written in one way or another."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stack = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stack(x))


def dense(first: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(first, 7), nn.ReLU(), nn.Linear(7, 4))


def as_convolutions(layers: nn.Sequential, kernel: int) -> nn.Sequential:
    """Dense layers as convolutions: the first of the size of the map, the others of 1x1."""
    made = []
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            size = kernel if index == 0 else 1
            conv = nn.Conv2d(layer.in_features // size**2, layer.out_features, size)
            conv.weight.data = layer.weight.data.reshape(conv.weight.shape)
            conv.bias.data = layer.bias.data
            layer = conv
        made.append(layer)
    return nn.Sequential(*made)


SUMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean of mean": lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True),
    "sum": lambda x: x.sum((2, 3), keepdim=True),
    "max": lambda x: x.amax((2, 3), keepdim=True),
    "GeM": lambda x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), 3).pow(1 / 3),
    "log-sum-exp": lambda x: x.exp().sum((2, 3), keepdim=True).log(),
}


@pytest.mark.parametrize("name", SUMS)
def test_head_behind_sums_over_places(name: str) -> None:
    """1x1 convolutions behind any sum over places are the dense layers that they compute."""
    layers = dense(5)
    summed = Function(SUMS[name])
    linear = Head(nn.Sequential(summed, nn.Flatten(), *layers))
    convolved = Head(nn.Sequential(summed, *as_convolutions(layers, 1), nn.Flatten()))
    assert_same_maps(linear, convolved, images())


def test_fully_convolutional_head() -> None:
    """A convolution that covers its map is the first dense layer, 1x1 convolutions follow."""
    layers = dense(45)
    linear = Head(nn.Sequential(nn.Flatten(), *layers))
    convolved = Head(nn.Sequential(*as_convolutions(layers, 3), nn.Flatten()))
    assert_same_maps(linear, convolved, images())
    explainer = graphprop.compile(convolved.eval(), images(), "epsilon_plus")
    roles = {i.path: i.role for i in explainer.layers if i.roles}
    assert roles["classifier.0"] == roles["classifier.2"] == "dense_head"
    assert roles["stack.3"] == "conv_stack"


def test_convolution_that_covers_a_part_is_no_head() -> None:
    """At a larger picture the same layers have several places."""
    layers = as_convolutions(dense(45), 3)
    model = Head(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())).double().eval()
    explainer = graphprop.compile(model, images(20), "epsilon_plus")
    roles = {i.path: i.role for i in explainer.layers if i.roles}
    assert roles["classifier.0"] == roles["classifier.2"] == "conv_stack"


class Branches(nn.Module):
    """Inception's module: 1x1 convolutions beside a padded 3x3 one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.one, self.reduce = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.three = nn.Conv2d(4, 4, 3, padding=1)
        self.pooled = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        three = self.three(F.relu(self.reduce(x)))
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        x = F.relu(torch.cat([self.one(x), three, pooled], 1))
        return self.head(x.mean((2, 3)))


def test_roles_do_not_depend_on_the_size_of_the_picture() -> None:
    small, large = (
        {i.path: i.roles for i in graphprop.compile(Branches().eval(), images(size).float()).layers}
        for size in (4, 32)
    )
    assert small == large
    assert "conv_stack" in small["one"]
    assert "dense_head" in small["head"]


# The layer of a map


class Tail(nn.Module):
    """A network whose last spatial value is ``stack``, and a tail behind it."""

    def __init__(self, tail: Callable[[nn.Module, torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.stack = nn.ReLU()
        self.norm = nn.BatchNorm2d(5)
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.layer_norm, self.vector_norm = nn.LayerNorm(5), nn.BatchNorm1d(5)
        self.head = nn.Linear(width, 4)
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return self.tail(self, self.stack(self.second(x)))


TAILS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], torch.Tensor], int]] = {
    "mean": (lambda m, x: m.head(x.mean((2, 3))), 5),
    "flattened": (lambda m, x: m.head(x.flatten(1)), 180),
    "max pool, flattened": (lambda m, x: m.head(F.max_pool2d(x, 2).flatten(1)), 45),
    "layer norm": (lambda m, x: m.head(m.layer_norm(x.mean((2, 3)))), 5),
    "batch norm": (lambda m, x: m.head(m.vector_norm(x.mean((2, 3)))), 5),
    "batch norm of one place": (
        lambda m, x: m.head(m.norm(F.adaptive_avg_pool2d(x, 1)).flatten(1)),
        5,
    ),
    "relu": (lambda m, x: m.head(F.relu(x.mean((2, 3)) - 0.1)), 5),
    "GeM": (
        lambda m, x: m.head(F.avg_pool2d(x.clamp(min=1e-6).pow(3), 6).pow(1 / 3).flatten(1)),
        5,
    ),
    "unit length": (lambda m, x: m.head(F.normalize(x.mean((2, 3)), dim=1)), 5),
    "average plus max": (lambda m, x: m.head(x.mean((2, 3)) + x.amax((2, 3))), 5),
    "average and max": (lambda m, x: m.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)), 10),
    "log-sum-exp": (lambda m, x: m.head(torch.logsumexp(x, (2, 3))), 5),
    "log of sum of exp": (lambda m, x: m.head(x.exp().mean((2, 3)).log()), 5),
    "channels last": (lambda m, x: m.head(x.permute(0, 2, 3, 1).mean((1, 2))), 5),
    "channels last, norm": (
        lambda m, x: m.head(m.layer_norm(x.permute(0, 2, 3, 1).mean((1, 2)))),
        5,
    ),
    "tokens": (lambda m, x: m.head(x.flatten(2).transpose(1, 2).mean(1)), 5),
    "tokens, norm": (lambda m, x: m.head(m.layer_norm(x.flatten(2).transpose(1, 2).mean(1))), 5),
}


def made_at(explainer: CompiledExplainer) -> str:
    map_layer = explainer.network.map_layer
    assert map_layer is not None
    return str(facts_of(map_layer).label)


@pytest.mark.parametrize("name", TAILS)
def test_map_is_made_before_the_classifiers_own_layers(name: str) -> None:
    """Pooling of every kind, flattening, norms and dense layers belong to the classifier."""
    x = images()
    model = Tail(*TAILS[name]).double().eval()
    program = capture(model, x)
    for method in ("hedge", "gradcam", "relevance_cam"):
        explainer = compiled(model, program, x, method)
        assert made_at(explainer) == "stack"
        named = compiled(model, program, x, method, layer="stack")
        torch.testing.assert_close(explainer(x)[1], named(x)[1])


# Channels last, and tokens


class Blocks(nn.Module):
    """Two residual blocks of pointwise layers, in one of three arrangements.

    The map is arranged before the blocks, and its mean over the places taken behind them.
    """

    def __init__(self, kind: str, *, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand, self.reduce = nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm = nn.LayerNorm(8) if norms else nn.Identity()
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.stem.bias, -0.1, 0.1)

    def pointwise(self, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "first":
            return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
        return layer(x)

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "first":
            return x
        return x.permute(0, 2, 3, 1) if self.kind == "last" else x.flatten(2).transpose(1, 2)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "first":
            return x
        if self.kind == "last":
            return x.permute(0, 3, 1, 2)
        return x.transpose(1, 2).reshape(-1, 8, 6, 6)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "first" and isinstance(self.norm, nn.LayerNorm):
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.arrange(F.max_pool2d(F.relu(self.stem(x)), 2))
        for _ in range(2):
            y = self.pointwise(self.reduce, F.relu(self.pointwise(self.expand, self.normed(x))))
            x = F.relu(x + y)
            x = x + self.arrange(self.mix(self.back(x)))
        places = {"first": (2, 3), "last": (1, 2), "tokens": (1,)}[self.kind]
        return self.head(F.relu(x).mean(places))


@pytest.mark.parametrize("kind", ["last", "tokens"])
@pytest.mark.parametrize("norms", [True, False], ids=["norms", "plain"])
def test_layouts_of_one_function(kind: str, norms: bool) -> None:
    x = images()
    first, other = Blocks("first", norms=norms), Blocks(kind, norms=norms)
    methods = (*METHODS, "epsilon_plus_flat", "lrp_z", "deep_taylor", "fullgrad", "deeplift")
    assert_same_maps(first, other, x, methods)


class ChannelsLastInput(nn.Module):
    """The same network, of a picture with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Blocks("first")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "hedge", "gradcam"])
def test_picture_with_the_channels_last(method: str) -> None:
    x = images()
    last = x.permute(0, 2, 3, 1).contiguous()
    expected = graphprop.compile(Blocks("first").double().eval(), x, method)(x)[1]
    explainer = graphprop.compile(ChannelsLastInput().double().eval(), last, method)
    found = explainer(last)[1]
    if found.shape[-1] == 3:
        found = found.permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


class Mixer(nn.Module):
    """A layer over tokens beside one over channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 6, 3, stride=3)
        self.tokens, self.tokens_back = nn.Linear(16, 10), nn.Linear(10, 16)
        self.channels, self.channels_back = nn.Linear(6, 8), nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.patches(x)).flatten(2).transpose(1, 2)
        x = x + self.tokens_back(F.gelu(self.tokens(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.channels_back(F.gelu(self.channels(x)))
        return self.head(self.norm(x).mean(1))


def test_mixer_has_a_map_of_its_patches() -> None:
    x = images()
    explainer = graphprop.compile(Mixer().double().eval(), x, "gradcam")
    assert explainer(x)[1].shape == (2, 1, 4, 4)
    assert made_at(explainer) == "norm"
    roles = {i.path: i.role for i in explainer.layers if i.roles}
    assert roles["tokens"] == roles["channels"] == "conv_stack"
    assert roles["head"] == "dense_head"


def test_residual_block_of_one_place_is_no_head() -> None:
    """A 1x1 convolution behind the last padded one belongs to the stack at every size."""

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
            self.one, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Conv2d(4, 4, 1)
            self.pool, self.hidden = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1)
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.stem(x))
            x = F.relu(x + self.last(F.relu(self.three(F.relu(self.one(x))))))
            return self.head(F.relu(self.hidden(self.pool(x))).flatten(1))

    model = Bottleneck().eval()
    found = []
    for size in (4, 24):
        explainer = graphprop.compile(model, images(size).float(), "hedge")
        roles = {i.path: i.role for i in explainer.layers if i.roles}
        map_layer = explainer.network.map_layer
        assert map_layer is not None
        found.append((roles, facts_of(map_layer).label))
    assert found[0] == found[1]
    assert found[0][0]["last"] == "conv_stack"
    assert found[0][0]["hidden"] == found[0][0]["head"] == "dense_head"
