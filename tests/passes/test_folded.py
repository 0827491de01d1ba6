"""Time-distributed networks: frames folded into the batch, layer by layer, and taken out again.

The law: such a network is explained as its twin with an axis for the frames, whose convolutions and
poolings have a kernel of length 1 along it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import UnsupportedOperator
from support.modules import Model
from support.networks import compile_each, prepared

FRAMES = 3
METHODS = ("epsilon_plus_flat", "lrp_z", "rap", "rap-bn", "hedge", "gradient")

Body = Callable[[torch.Tensor], torch.Tensor]


class Distributed(nn.Module):
    """A network for each frame, the mean over the frames, and a head."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 6),
            nn.ReLU(),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c, h, w = x.shape
        y = self.body(x.view(n * t, c, h, w))
        return self.head(y.view(n, t, -1).mean(1))


class FlattenedAndUnflattened(Distributed):
    """In other words."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x.flatten(0, 1))
        return self.head(y.unflatten(0, x.shape[:2]).mean(1))


class Reshaped(Distributed):
    """With lengths that follow from the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x.reshape(-1, *x.shape[2:]))
        return self.head(y.reshape(x.size(0), -1, 6).mean(1))


class ChannelsFirst(Distributed):
    """By way of frames behind the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = x.transpose(1, 2).shape
        y = self.body(x.transpose(1, 2).transpose(1, 2).reshape(n * t, c, h, w))
        return self.head(y.reshape(n, t, 6).mean(1))


class Twin(Distributed):
    """The same network with an axis for the frames."""

    def __init__(self, other: Distributed) -> None:
        super().__init__()
        first, norm, second, linear = (other.body[i] for i in (0, 1, 4, 8))
        wide = [
            nn.Conv3d(first.in_channels, 4, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(4, 5, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        ]
        for conv, source in zip(wide, (first, second), strict=True):
            conv.weight = nn.Parameter(source.weight.unsqueeze(2))
            conv.bias = source.bias
        batch_norm = nn.BatchNorm3d(4)
        batch_norm.load_state_dict(norm.state_dict())
        self.body = nn.Sequential(
            wide[0],
            batch_norm,
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            wide[1],
            nn.ReLU(),
            nn.AdaptiveAvgPool3d((FRAMES, 1, 1)),
        )
        self.rest = nn.Sequential(linear, nn.ReLU())
        self.head = other.head
        self.double().eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x.transpose(1, 2))
        y = self.rest(y.transpose(1, 2).flatten(2))
        return self.head(y.mean(1))


class Between(Model):
    """Something between folding and taking out again, and a head."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor], **parts: Any) -> None:
        super().__init__(function, **parts)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.function(self, self.stem(x.flatten(0, 1)))
        return self.head(y.reshape(x.shape[0], FRAMES, -1).flatten(1))


def clips(channels: int = 2) -> torch.Tensor:
    return torch.randn(2, FRAMES, channels, 8, 8, dtype=torch.float64)


def gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    model(x)[torch.arange(len(x)), target].sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "kind",
    [Distributed, FlattenedAndUnflattened, Reshaped, ChannelsFirst],
    ids=lambda k: k.__name__,
)
def test_frames_are_explained_as_an_axis_of_their_own(
    kind: type[Distributed], channels: int
) -> None:
    model, x = prepared(kind(channels)), clips(channels)
    twin, target = Twin(model), torch.tensor([0, 2])
    methods = METHODS if kind is Distributed else ("epsilon_plus_flat", "hedge")
    pairs = zip(compile_each(model, x, methods), compile_each(twin, x, methods), strict=True)
    for method, (explainer, other) in zip(methods, pairs, strict=True):
        logits, relevance = explainer(x, target)
        _, expected = other(x, target)
        torch.testing.assert_close(logits, model(x).detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-12)
        assert float(relevance.abs().sum()) > 0
        if method == "gradient":
            torch.testing.assert_close(relevance, gradient(model, x, target), rtol=1e-9, atol=1e-12)
        singles = [explainer(x[i : i + 1], target[i : i + 1])[1] for i in range(2)]
        torch.testing.assert_close(torch.cat(singles), relevance, rtol=1e-9, atol=1e-12)


def test_onnx_runtime_agrees() -> None:
    explainer = graphprop.compile(prepared(Distributed()), clips(), "epsilon_plus_flat")
    assert explainer.check(backends=["onnxruntime"]).passed


def gated(net: Any, y: torch.Tensor) -> torch.Tensor:
    """A squeeze-and-excitation, and a residual."""
    gate = torch.sigmoid(net.gate(y.mean((2, 3)))).unsqueeze(-1).unsqueeze(-1)
    return y + torch.relu(y * gate.expand_as(y))


def down_and_up(net: Any, y: torch.Tensor) -> torch.Tensor:
    small = net.up(F.avg_pool2d(y, 2))
    larger = F.interpolate(F.max_pool2d(y, 2), scale_factor=2, mode="bilinear")
    return torch.cat([F.pad(small, (1, 0, 0, 1))[:, :, 1:, :-1], larger, y.flip(3)], 1)


def channels_last(net: Any, y: torch.Tensor) -> torch.Tensor:
    z = net.norm(y.permute(0, 2, 3, 1))
    return y + net.mix(F.gelu(z)).permute(0, 3, 1, 2)


def shuffled(net: Any, y: torch.Tensor) -> torch.Tensor:
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def vectors(net: Any, y: torch.Tensor) -> torch.Tensor:
    return net.norm(net.prelu(net.linear(y.amax((2, 3)) * net.scale[:4])))


def halves(net: Any, y: torch.Tensor) -> torch.Tensor:
    first, second = y.chunk(2, 1)
    return torch.cat([first * net.scale.view(2, 1, 1) + 1, second.abs(), y[:, 1].unsqueeze(1)], 1)


def along_time(net: Any, y: torch.Tensor) -> torch.Tensor:
    """Taken out, and folded once more."""
    z = y.view(-1, FRAMES, 4, 8, 8).flatten(2).transpose(1, 2)
    z = net.time(z).transpose(1, 2).reshape(-1, 4, 8, 8)
    return net.after(torch.relu(z))


BETWEENS: dict[str, Callable[[], Between]] = {
    "gate": lambda: Between(gated, gate=nn.Linear(4, 4)),
    "down and up": lambda: Between(down_and_up, up=nn.ConvTranspose2d(4, 3, 2, 2)),
    "channels last": lambda: Between(channels_last, norm=nn.LayerNorm(4), mix=nn.Linear(4, 4)),
    "shuffle": lambda: Between(shuffled),
    "vectors": lambda: Between(
        vectors,
        linear=nn.Linear(4, 5),
        prelu=nn.PReLU(5),
        norm=nn.BatchNorm1d(5),
        scale=nn.Parameter(torch.rand(4)),
    ),
    "halves": lambda: Between(halves, scale=nn.Parameter(torch.rand(2))),
    "along the frames": lambda: Between(
        along_time, time=nn.Conv1d(256, 256, 3, padding=1, groups=256), after=nn.Conv2d(4, 2, 3)
    ),
    "one convolution twice": lambda: Between(
        lambda net, y: net.conv(torch.relu(net.conv(y))), conv=nn.Conv2d(4, 4, 3, padding="same")
    ),
    "one axis of places": lambda: Between(
        lambda net, y: F.max_pool1d(net.conv(y.flatten(2)), 2), conv=nn.Conv1d(4, 3, 3, dilation=2)
    ),
}


@pytest.mark.parametrize("name", BETWEENS)
def test_what_layers_do_to_a_frame_they_do_to_each(name: str) -> None:
    model, x, target = BETWEENS[name]().double().eval(), clips(), torch.tensor([0, 2])
    model(x)
    model = prepared(model)
    explainer, rule = compile_each(model, x, ("gradient", "lrp_z"))
    logits, relevance = explainer(x, target)
    torch.testing.assert_close(logits, model(x).detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(relevance, gradient(model, x, target), rtol=1e-9, atol=1e-12)
    singles = [rule(x[i : i + 1], target[i : i + 1])[1] for i in range(2)]
    torch.testing.assert_close(torch.cat(singles), rule(x, target)[1], rtol=1e-9, atol=1e-12)


REFUSED: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], str]] = {
    "group norm": (lambda net, y: F.group_norm(y, 2), "operator group_norm can't be applied"),
    "norm of maps": (
        lambda net, y: F.layer_norm(y, (4, 8, 8)),
        "a norm over the channels and places of each frame can't be applied",
    ),
    "volumes": (
        lambda net, y: F.avg_pool3d(y.unsqueeze(1), 2),
        "a pooling over 3 axes of places can't be applied",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_for_frames_is_refused(name: str) -> None:
    function, text = REFUSED[name]
    model = Between(function).double().eval()
    x = clips()
    model(x)
    with pytest.raises(UnsupportedOperator) as caught:
        graphprop.compile(model, x, "lrp_z")
    message = str(caught.value)
    assert text in message
    assert "between folding the time into the batch and taking it out again" in message
    assert "test_folded.py:" in message


def test_a_frame_of_the_batch_is_refused() -> None:
    model = Between(lambda net, y: y[::FRAMES].repeat(FRAMES, 1, 1, 1)).double().eval()
    model(clips())
    with pytest.raises(UnsupportedOperator, match="along the batch axis mixes samples"):
        graphprop.compile(model, clips(), "lrp_z")


def test_a_result_for_each_frame_is_refused() -> None:
    class Frames(Distributed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x.flatten(0, 1)))

    with pytest.raises(UnsupportedOperator, match="return one for each sample"):
        graphprop.compile(prepared(Frames()), clips(), "lrp_z")
