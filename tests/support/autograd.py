"""Networks of torchvision, and references by autograd with modified backward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support.rap_reference import Net


def initialized(model: nn.Module) -> nn.Module:
    """Weights that keep the scale of activations, and statistics as training leaves them.

    zennit leaves a merged batch norm's own epsilon in place, so that it is zero here.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def narrow(model: nn.Module, features: int) -> nn.Module:
    """Make the dense layers narrower without changing their number."""
    model.classifier = nn.Sequential(
        nn.Linear(features, 128),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(128, 64),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(64, 10),
    )
    return model


models = pytest.importorskip("torchvision.models")


DOUBLE = 1e-9
"""The relative error of a map that is allowed in float64."""


Back = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From a layer, its input, its output and the gradient of the output: that of the input."""


@cache
def large(name: str) -> nn.Module:
    """A network of torchvision with ten classes, and batch norms that are not the identity."""
    torch.manual_seed(0)
    if name == "vgg16_bn":
        return initialized(narrow(models.vgg16_bn(init_weights=False), 512 * 49))
    return initialized(models.resnet50(num_classes=10))


SIZES = {"vgg16_bn": (32, 32), "resnet50": (64, 64)}


ON_LARGE = pytest.mark.parametrize("name", SIZES)


def images(name: str) -> torch.Tensor:
    return torch.randn(2, 3, *SIZES[name], dtype=torch.float64)


TARGETS = torch.tensor([7, 2])


class Replaced(torch.autograd.Function):
    """A layer with a backward pass that is not its derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Module, back: Back) -> torch.Tensor:
        y = layer(x)
        ctx.save_for_backward(x, y)
        ctx.layer, ctx.back = layer, back
        return y

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.back(ctx.layer, *ctx.saved_tensors, *given), None, None


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module, back: Back) -> None:
        super().__init__()
        self.layer, self.back = layer, back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Replaced.apply(x, self.layer, self.back)
        return found


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy whose activations do not work in place."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False
    return model


def with_backward(model: nn.Module, backs: dict[type[nn.Module], Back]) -> nn.Module:
    """A copy of a model in which some kinds of layers have another backward pass."""
    model = out_of_place(model)
    steps = {step.layer: step for step in model.steps} if isinstance(model, Net) else {}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            for kind, back in backs.items():
                if isinstance(layer, kind):
                    setattr(parent, name, Wrapped(layer, back))
                    if layer in steps:
                        object.__setattr__(steps[layer], "layer", Wrapped(layer, back))
    return model


def chosen(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, target[:, None])[:, 0]


def gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(chosen(model(leaf), target).sum(), leaf)
    return found


class Gates(nn.Module):
    """What other rules treat as constant: gates, denominators, statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.attention = nn.Conv2d(4, 1, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.layer_norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.stem(x)))
        gate = torch.sigmoid(self.excite(F.gelu(self.squeeze(x.mean((2, 3))))))
        y = x * gate[:, :, None, None] + F.hardswish(self.depthwise(x)) / (x * x + 1)
        y = y * torch.softmax(self.attention(y).flatten(2), 2).unflatten(2, y.shape[2:])
        y = self.up(y) - F.elu(self.up(x))
        y = F.max_pool2d(y, 3, 2, 1) * F.avg_pool2d(x, 3, 1, 1)
        return self.head(self.layer_norm(y.amax((2, 3)) / F.normalize(x.mean((2, 3))).exp()))


def gates() -> nn.Module:
    torch.manual_seed(5)
    model = Gates()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return model.double().eval()
