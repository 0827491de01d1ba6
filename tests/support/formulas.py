"""The formulas of the rules, neuron by neuron, on the dense matrix of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprop.ops import Conv, ConvTranspose, Linear, Operator

TOLERANCE = 1e-10


CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


SIZES = {1: (7,), 2: (5, 4), 3: (4, 3, 3)}


@dataclass(frozen=True)
class Example:
    """A layer of torch, and the shape of one input."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def module(self) -> nn.Module:
        """The layer in float64, the same each time."""
        return built(self)

    @property
    def operator(self) -> Operator:
        """graphprop's operator of it."""
        module = self.module
        if isinstance(module, nn.Linear):
            return Linear()
        attributes = module.stride, module.padding, module.dilation, module.groups
        if module.transposed:
            return ConvTranspose(*attributes, module.output_padding)
        return Conv(*attributes)


@cache
def built(example: Example) -> nn.Module:
    torch.manual_seed(1)
    module = example.make().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def examples() -> list[Example]:
    found = [
        Example("linear", lambda: nn.Linear(6, 4), (6,)),
        Example("linear without bias", lambda: nn.Linear(6, 4, bias=False), (6,)),
        Example("linear along an axis", lambda: nn.Linear(4, 3), (3, 4)),
    ]
    for rank, size in SIZES.items():
        conv, transposed = CONVOLUTION[rank], TRANSPOSED[rank]
        small = tuple(length // 2 for length in size)

        def add(name: str, make: Callable[[], nn.Module], *shape: int, rank: int = rank) -> None:
            found.append(Example(f"{name} {rank}-d", make, shape))

        add("conv strided", lambda conv=conv: conv(2, 3, 3, stride=2, padding=1), 2, *size)
        add("conv dilated", lambda conv=conv: conv(2, 2, 2, dilation=2, padding=2), 2, *size)
        add("conv grouped", lambda conv=conv: conv(4, 6, 2, groups=2, stride=2), 4, *size)
        add(
            "transposed strided",
            lambda conv=transposed: conv(2, 3, 3, stride=2, padding=1, output_padding=1),
            2,
            *small,
        )
        add("transposed grouped", lambda conv=transposed: conv(4, 4, 2, 2, groups=2), 4, *small)
        if rank == 3:
            continue
        add("conv", lambda conv=conv: conv(2, 3, 3, padding=1), 2, *size)
        add("conv unpadded", lambda conv=conv: conv(2, 3, 2, bias=False), 2, *size)
        add("conv skipping", lambda conv=conv: conv(2, 3, 2, stride=3), 2, *size)
        add("conv depthwise", lambda conv=conv: conv(2, 4, 3, groups=2, padding=1), 2, *size)
        add("conv 1x1 strided", lambda conv=conv: conv(2, 3, 1, stride=2), 2, *size)
        add("transposed", lambda conv=transposed: conv(2, 3, 3), 2, *small)
        add(
            "transposed dilated",
            lambda conv=transposed: conv(2, 2, 2, dilation=2, bias=False),
            2,
            *small,
        )
    found.append(Example("conv wide", lambda: nn.Conv2d(8, 9, 3, padding=1), (8, 4, 3)))
    found.append(Example("conv uneven", lambda: nn.Conv2d(2, 2, (3, 1), (1, 2), (2, 0)), (2, 4, 5)))
    return found


EXAMPLES = examples()


SPATIAL = [example for example in EXAMPLES if "linear" not in example.name]


def samples(example: Example, signs: str) -> torch.Tensor:
    """Five inputs: dense, with zeros, all zeros, constant, and nearly all zeros."""
    torch.manual_seed(2)
    x = torch.randn(5, *example.shape, dtype=torch.float64)
    x[1].masked_fill_(torch.rand(example.shape) < 0.5, 0.0)
    x[2] = 0.0
    x[3] = 0.7
    x[4] = 0.0
    x[4].flatten()[1] = 1.3
    return x.abs() if signs == "non-negative" else x


@dataclass(frozen=True)
class Dense:
    """A layer as ``weight [out, in]``, ``bias [out]``, and the mask of connected inputs."""

    weight: np.ndarray
    bias: np.ndarray
    connected: np.ndarray


def matrix(function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a linear map, by applying it to the identity."""
    count = int(np.prod(shape))
    with torch.no_grad():
        columns = function(torch.eye(count, dtype=torch.float64).reshape(count, *shape))
    return columns.reshape(count, -1).T.numpy()


@cache
def dense(example: Example) -> Dense:
    module = example.module
    zero = torch.zeros(1, *example.shape, dtype=torch.float64)
    with torch.no_grad():
        bias = module(zero)
        same = example.make().double()
        for name, parameter in same.named_parameters():
            parameter.fill_(1.0 if name == "weight" else 0.0)
        weight = matrix(lambda x: module(x) - bias, example.shape)
    connected = matrix(same, example.shape)
    assert set(np.unique(connected)) <= {0.0, 1.0}
    return Dense(weight, bias.flatten().numpy(), connected)


def over(a: np.ndarray, c: np.ndarray, stabilizer: float) -> np.ndarray:
    """``a / stab(c)``, and ``a (/) c`` without stabilizer."""
    if stabilizer:
        return a / np.where(c >= 0, c + stabilizer, c - stabilizer)
    return np.divide(a, c, out=np.zeros_like(a), where=c != 0)


def plus(a: Any) -> Any:
    return np.maximum(a, 0.0)


def negative_part(a: Any) -> Any:
    return np.minimum(a, 0.0)


def by_shares(
    contributions: np.ndarray, r: np.ndarray, bias: np.ndarray | float, stabilizer: float
) -> np.ndarray:
    """Distribute each output's relevance in proportion to the contributions ``[out, in]``."""
    return contributions * over(r, contributions.sum(1) + bias, stabilizer)[:, None]


def z(x, w, connected, b, r, stabilizer):
    return by_shares(x * w, r, b, stabilizer)


def epsilon(x, w, connected, b, r, stabilizer, epsilon):
    return by_shares(x * w, r, b, epsilon)


def alpha_beta(x, w, connected, b, r, stabilizer, alpha, beta):
    excited = by_shares(plus(x * w), r, plus(b), stabilizer)
    return alpha * excited - beta * by_shares(negative_part(x * w), r, negative_part(b), stabilizer)


def z_plus(x, w, connected, b, r, stabilizer):
    return by_shares(plus(x * w), r, plus(b), stabilizer)


def gamma(x, w, connected, b, r, stabilizer, gamma):
    y = (x * w).sum(1) + b
    above, below = np.where(y > 0, r, 0.0), np.where(y < 0, r, 0.0)
    return sum(
        by_shares(x * w + gamma * part(x * w), kept, b + gamma * part(b), stabilizer)
        for kept, part in ((above, plus), (below, negative_part))
    )


def flat(x, w, connected, b, r, stabilizer):
    return by_shares(connected, r, 0.0, stabilizer)


def w_square(x, w, connected, b, r, stabilizer):
    return by_shares(w * w, r, 0.0, stabilizer)


def box(x, w, connected, b, r, stabilizer, low, high):
    return by_shares((x - low) * plus(w) + (x - high) * negative_part(w), r, 0.0, stabilizer)


Reference = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Setting:
    """A rule with parameters, and the reference for it."""

    rule: str
    reference: Reference
    parameters: dict[str, Any]

    def __str__(self) -> str:
        shown = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{self.rule} {shown}".strip()

    def expected(self, example: Example, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """The reference for each sample, in the shape of x."""
        layer = dense(example)
        given = {"bias": "ignored", "stabilizer": 0.0, **self.parameters}
        bias = layer.bias if given.pop("bias") == "sink" else np.zeros_like(layer.bias)
        rows = []
        for sample, handed in zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True):
            bounds = {
                key: bound(given[key], extreme, sample, example)
                for key, extreme in (("low", np.min), ("high", np.max))
                if key in given
            }
            shares = self.reference(
                sample, layer.weight, layer.connected, bias, handed, **{**given, **bounds}
            )
            rows.append(shares.sum(0))
        return torch.from_numpy(np.stack(rows)).reshape(x.shape)


def bound(given: Any, extreme: Callable[..., Any], sample: np.ndarray, example: Example) -> Any:
    """A bound of zB as a number, or one number per input."""
    if given == "per_sample":
        return extreme(sample)
    if isinstance(given, tuple):
        behind = () if example not in SPATIAL else example.shape[1:]
        channels = np.array(given).reshape(-1, *[1] * len(behind))
        return np.broadcast_to(channels, example.shape).flatten()
    return given


SETTINGS = [
    *(
        Setting(rule, reference, {**parameters, "bias": bias, "stabilizer": stabilizer})
        for rule, reference, parameters in (
            ("z", z, {}),
            ("z_plus", z_plus, {}),
            ("alpha_beta", alpha_beta, {"alpha": 2.0, "beta": 1.0}),
            ("gamma", gamma, {"gamma": 0.25}),
        )
        for bias, stabilizer in (("sink", 0.0), ("sink", 1e-6), ("ignored", 0.0))
    ),
    Setting("alpha_beta", alpha_beta, {"alpha": 1.0, "beta": 0.0, "bias": "ignored"}),
    Setting("gamma", gamma, {"gamma": 0.0, "bias": "sink"}),
    Setting("epsilon", epsilon, {"epsilon": 0.1, "bias": "sink"}),
    Setting("epsilon", epsilon, {"epsilon": 1e-6, "bias": "ignored"}),
    *(
        Setting(rule, reference, {**parameters, "stabilizer": stabilizer})
        for rule, reference, parameters in (
            ("w_square", w_square, {}),
            ("flat", flat, {}),
            ("zB", box, {"low": "per_sample", "high": "per_sample"}),
            ("zB", box, {"low": -2.0, "high": 1.5}),
            ("zB", box, {"low": 0, "high": 3}),
        )
        for stabilizer in (0.0, 1e-6)
    ),
    Setting("zB", box, {"low": "one per channel", "high": "one per channel"}),
]


def suited(setting: Setting, example: Example) -> Setting | None:
    """The setting with bounds for a layer's channels; None where the rule is refused."""
    if setting.rule == "flat" and example not in SPATIAL:
        return None
    if setting.parameters.get("low") != "one per channel":
        return setting
    channels = example.shape[0 if example in SPATIAL else -1]
    bounds = {
        "low": tuple(-1.0 - 0.3 * i for i in range(channels)),
        "high": tuple(2.0 + 0.2 * i for i in range(channels)),
    }
    return Setting(setting.rule, setting.reference, bounds)


def relevance_of(example: Example, x: torch.Tensor) -> torch.Tensor:
    """Relevance of both signs, of the shape of the layer's output."""
    torch.manual_seed(3)
    with torch.no_grad():
        return torch.randn_like(example.module(x))
