"""References of RAP and RAP-BN, neuron by neuron, and small networks to compare on.

Nothing here comes from graphprop. A network is a list of steps; a layer's matrix is read off by
probing the torch layer with the identity; and relevance is handed down one output at a time, after
methods.md, sections 0, 2 and 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

Vector = np.ndarray
Bound = float | tuple[float, ...] | str

WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d)
PASSED = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Dropout, nn.Identity)


# Networks


class Sum(nn.Module):
    """The sum of its inputs: a residual add."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return sum(values[1:], values[0])


class Concatenation(nn.Module):
    """The concatenation of its inputs along the channels."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.cat(values, 1)


@dataclass(frozen=True)
class Step:
    """One layer, and the names of its inputs."""

    name: str
    layer: nn.Module
    inputs: tuple[str, ...]


class Net(nn.Module):
    """A network written as a list: ``(name, layer)``, or ``(name, layer, input, ...)``.

    A layer without inputs is called with the result of the one before it. The image is ``"x"``.
    """

    def __init__(self, shape: tuple[int, ...], *entries: tuple[Any, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.steps: list[Step] = []
        self.layers = nn.ModuleDict()
        before = "x"
        for name, layer, *inputs in entries:
            self.steps.append(Step(name, layer, tuple(inputs) or (before,)))
            self.layers[name] = layer
            before = name

    def values(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every intermediate value, by name."""
        found = {"x": x}
        for step in self.steps:
            found[step.name] = step.layer(*(found[name] for name in step.inputs))
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values(x)[self.steps[-1].name]

    def images(self, count: int = 3) -> torch.Tensor:
        """Images of both signs; the last but one has a patch of one number, its smallest."""
        x = torch.randn(count, *self.shape, dtype=torch.float64)
        if count > 1 and len(self.shape) > 1:
            patch = tuple(slice(0, length // 2 + 1) for length in self.shape[1:])
            x[(-2, slice(None), *patch)] = -6.0
        return x

    def classes(self) -> int:
        with torch.no_grad():
            return int(self(next(self.parameters()).new_zeros(1, *self.shape)).shape[1])

    def targets(self, count: int = 3) -> torch.Tensor:
        return torch.arange(count) % self.classes()


def prepared(network: Net, seed: int, *, bias: bool = True, positive_scales: bool = False) -> Net:
    """The network in float64 with random weights, statistics and scales."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, WEIGHTED):
                nn.init.normal_(layer.weight, 0, (2 / layer.weight[0].numel()) ** 0.5)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, 0, 0.3 if bias else 0.0)
            elif isinstance(layer, BATCH_NORM):
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
                if not positive_scales:
                    layer.weight[0] *= -1
    return network.double().eval()


def plain() -> Net:
    return Net(
        (2, 8, 7),
        ("conv1", nn.Conv2d(2, 4, 3, padding=1)),
        ("bn1", nn.BatchNorm2d(4)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(4, 4, 3, padding=1, bias=False)),
        ("bn2", nn.BatchNorm2d(4)),
        ("relu2", nn.ReLU()),
        ("pool", nn.MaxPool2d(2)),
        ("conv3", nn.Conv2d(4, 5, 3)),
        ("relu3", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(10, 6)),
        ("relu4", nn.ReLU()),
        ("dropout", nn.Dropout()),
        ("dense2", nn.Linear(6, 4)),
    )


def residual() -> Net:
    return Net(
        (3, 8, 8),
        ("stem", nn.Conv2d(3, 4, 3, padding=1, bias=False)),
        ("bn", nn.BatchNorm2d(4)),
        ("relu", nn.ReLU()),
        ("pool", nn.MaxPool2d(3, 2, 1)),
        ("conv1", nn.Conv2d(4, 4, 3, padding=1)),
        ("bn1", nn.BatchNorm2d(4)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(4, 4, 3, padding=1)),
        ("bn2", nn.BatchNorm2d(4)),
        ("add1", Sum(), "bn2", "pool"),
        ("relu2", nn.ReLU()),
        ("conv3", nn.Conv2d(4, 6, 3, 2, 1)),
        ("bn3", nn.BatchNorm2d(6)),
        ("wide", nn.Conv2d(4, 6, 1, 2), "relu2"),
        ("bn4", nn.BatchNorm2d(6)),
        ("add2", Sum(), "bn3", "bn4"),
        ("relu3", nn.ReLU()),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(6, 3)),
    )


def branches() -> Net:
    return Net(
        (2, 6, 6),
        ("stem", nn.Conv2d(2, 4, 3, padding=1)),
        ("relu", nn.ReLU()),
        ("left", nn.Conv2d(4, 3, 1)),
        ("left_relu", nn.ReLU()),
        ("right", nn.Conv2d(4, 2, 3, padding=1), "relu"),
        ("right_relu", nn.LeakyReLU(0.2)),
        ("average", nn.AvgPool2d(3, 1, 1), "relu"),
        ("thin", nn.Conv2d(4, 2, 1)),
        ("cat", Concatenation(), "left_relu", "right_relu", "thin"),
        ("bn", nn.BatchNorm2d(7)),
        ("conv", nn.Conv2d(7, 4, 3, padding=1)),
        ("relu2", nn.ReLU()),
        ("pool", nn.MaxPool2d(3, 2, 1)),
        ("pool2", nn.AvgPool2d(2, 1)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(16, 3)),
    )


def dense() -> Net:
    return Net(
        (9,),
        ("dense1", nn.Linear(9, 8)),
        ("bn1", nn.BatchNorm1d(8)),
        ("relu1", nn.ReLU()),
        ("dense2", nn.Linear(8, 8)),
        ("add", Sum(), "dense2", "relu1"),
        ("relu2", nn.ReLU()),
        ("dense3", nn.Linear(8, 6, bias=False)),
        ("relu3", nn.ReLU()),
        ("dense4", nn.Linear(6, 3)),
    )


def all_convolution() -> Net:
    """The last weighted layer is a convolution; a mean follows it."""
    return Net(
        (2, 7, 6),
        ("conv1", nn.Conv2d(2, 4, 3, 2)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(4, 4, 2, padding=1, dilation=2, groups=2)),
        ("relu2", nn.ReLU()),
        ("logits", nn.Conv2d(4, 3, 1)),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
    )


def two_inputs() -> Net:
    """Two input layers, a sum of three, mixed signs, and a transposed convolution."""
    return Net(
        (2, 5, 6),
        ("left", nn.Conv2d(2, 4, 3, padding=1)),
        ("right", nn.Conv2d(2, 4, 5, padding=2, bias=False), "x"),
        ("thin", nn.Conv2d(2, 4, 1), "x"),
        ("add", Sum(), "left", "right", "thin"),
        ("silu", nn.SiLU()),
        ("up", nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)),
        ("bn", nn.BatchNorm2d(3)),
        ("leaky", nn.LeakyReLU(0.1)),
        ("down", nn.Conv2d(3, 3, 3, stride=2)),
        ("relu", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(60, 3)),
    )


def volume() -> Net:
    return Net(
        (2, 4, 5, 4),
        ("conv1", nn.Conv3d(2, 3, 3, padding=1)),
        ("bn", nn.BatchNorm3d(3)),
        ("relu1", nn.ReLU()),
        ("pool", nn.MaxPool3d(2)),
        ("conv2", nn.Conv3d(3, 4, (2, 1, 2))),
        ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(8, 3)),
    )


def signal() -> Net:
    return Net(
        (2, 14),
        ("conv1", nn.Conv1d(2, 4, 3, padding=1)),
        ("bn", nn.BatchNorm1d(4)),
        ("relu1", nn.ReLU()),
        ("pool", nn.MaxPool1d(3, 2)),
        ("conv2", nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=4)),
        ("relu2", nn.ReLU()),
        ("average", nn.AvgPool1d(2)),
        ("flatten", nn.Flatten()),
        ("dense", nn.Linear(12, 3)),
    )


NETWORKS: dict[str, Callable[[], Net]] = {
    "plain": plain,
    "residual": residual,
    "branches": branches,
    "dense": dense,
    "all convolution": all_convolution,
    "two inputs": two_inputs,
    "volume": volume,
    "signal": signal,
}


# Layers, and inputs for them


@dataclass(frozen=True)
class Example:
    """A layer of torch, and the shape of one input."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    def layer(self, seed: int) -> Any:
        """The layer in float64, with random parameters."""
        torch.manual_seed(seed)
        layer = self.make().double().eval()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_()
        return layer

    def inputs(self, seed: int, signs: str) -> torch.Tensor:
        """Five inputs: dense, a third zeros, zeros alone, one number alone, and of one number."""
        torch.manual_seed(seed)
        x = torch.randn(5, *self.shape, dtype=torch.float64)
        x[1].flatten()[::3] = 0.0
        x[2:4] = 0.0
        x[3].flatten()[1] = -1.3
        x[4] = 0.7
        return x.abs() if signs == "non-negative" else x


LAYERS = [
    Example("linear", lambda: nn.Linear(7, 5), (7,)),
    Example("linear without bias", lambda: nn.Linear(6, 4, bias=False), (6,)),
    Example("linear along an axis", lambda: nn.Linear(4, 3), (3, 4)),
    Example("conv 1-d strided", lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 8)),
    Example("conv 1-d dilated", lambda: nn.Conv1d(2, 3, 2, dilation=3, padding=2), (2, 7)),
    Example("conv 2-d", lambda: nn.Conv2d(2, 3, 3, padding=1, bias=False), (2, 5, 4)),
    Example("conv 2-d skipping", lambda: nn.Conv2d(3, 2, 2, stride=3), (3, 6, 5)),
    Example("conv 2-d grouped", lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    Example("conv 2-d depthwise", lambda: nn.Conv2d(3, 6, 3, 2, 1, groups=3), (3, 5, 5)),
    Example("conv 2-d uneven", lambda: nn.Conv2d(2, 2, (3, 1), (1, 2), (2, 0)), (2, 4, 5)),
    Example("conv 2-d 1x1", lambda: nn.Conv2d(4, 3, 1, stride=2), (4, 4, 5)),
    Example("conv 3-d", lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
    Example("transposed", lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 3, 4)),
]


# Layers as matrices


def matrix_of(layer: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, Vector]:
    """``(w [out, in], b [out])`` of an affine layer, by applying it to the identity."""
    count = int(np.prod(shape))
    with torch.no_grad():
        bias = layer(torch.zeros(1, *shape, dtype=torch.float64))
        columns = layer(torch.eye(count, dtype=torch.float64).reshape(count, *shape))
    # without bias: after adding and subtracting one, a zero weight might not be zero
    if getattr(layer, "bias", None) is not None:
        with torch.no_grad():
            kept, layer.bias = layer.bias, None
            columns = layer(torch.eye(count, dtype=torch.float64).reshape(count, *shape))
            layer.bias = kept
    return columns.reshape(count, -1).numpy().T, bias.numpy().flatten()


def windows_of(pool: nn.Module, shape: tuple[int, ...]) -> Iterator[list[int]]:
    """For each output of a max pool, the indices of its window in order, without padding."""
    _, *size = shape
    rank = len(size)
    kernel, stride, padding = (
        (given,) * rank if isinstance(given, int) else tuple(given)
        for given in (pool.kernel_size, pool.stride, pool.padding)
    )
    assert pool.dilation == 1
    assert not pool.ceil_mode
    counts = [
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    ]
    for channel in range(shape[0]):
        for corner in product(*map(range, counts)):
            cells = []
            for offset in product(*map(range, kernel)):
                place = np.multiply(corner, stride) - padding + offset
                if (place >= 0).all() and (place < size).all():
                    cells.append(int(np.ravel_multi_index((channel, *place), shape)))
            yield cells


def quotient(a: Any, c: Any) -> Any:
    """``a (/) c``."""
    return np.divide(a, c, out=np.zeros_like(c), where=c != 0)


# Rules


def excited(z: Vector) -> Vector:
    """The contributions of P: those where input and weight have the same sign."""
    return np.where(z > 0, z, 0.0)


def inhibited(z: Vector) -> Vector:
    """The contributions of N: those where input and weight have opposite signs."""
    return np.where(z < 0, z, 0.0)


def rap_hidden(
    w: np.ndarray,
    x: Vector,
    r: Vector,
    *,
    negative: str,
    active: str,
    convolution: bool,
    numerator: str = "inhibitory",
) -> Vector:
    """RAP below the logit layer (section 2)."""
    carried = np.zeros_like(x)
    for j in range(len(r)):
        above, below = excited(x * w[j]), inhibited(x * w[j])
        p, n = above.sum(), below.sum()
        nu = r[j] if numerator == "printed" else quotient(r[j] * abs(n), p + abs(n))
        if negative == "inhibitory" and convolution and r[j] < 0:
            # the authors' convolution: negative relevance to the inhibitory set only
            carried += below * quotient(r[j], n)
        else:
            carried += above * quotient(r[j], p)
        carried += below * quotient(nu, n)
    chosen = (x if active == "input" else carried) != 0
    if not chosen.any():
        return np.zeros_like(x)
    shift = (carried.sum() - r.sum()) / chosen.sum()
    return np.where(chosen, carried - shift, 0.0)


def rap_logits(w: np.ndarray, x: Vector, r: Vector, *, final: bool) -> Vector:
    """RAP's start: at the last weighted layer, once (section 2)."""
    carried = np.zeros_like(x)
    for j in range(len(r)):
        z = x * w[j]
        carried += (np.abs(z) if final else z) * quotient(
            r[j], np.abs(z).sum() if final else z.sum()
        )
    if final:
        return carried
    return np.abs(carried) * quotient(carried.sum(), np.abs(carried).sum())


def rap_bn_logits(w: np.ndarray, x: Vector, r: Vector) -> Vector:
    """RAP-BN's start: one tensor that seeds both flows (section 3)."""
    carried = np.zeros_like(x)
    for j in range(len(r)):
        above, below = excited(x * w[j]), inhibited(x * w[j])
        carried += above * quotient(r[j], above.sum()) - below * quotient(r[j], below.sum())
    return carried


def compensated_norm(s: Vector, r: Vector, kappa: int, units: str = "active") -> Vector:
    """RAP-BN, step 1: S centered over the active units, or over all."""
    active = (r != 0) | (units == "all")
    if not active.any():
        return r
    return np.where(active, r - kappa * (s - s[active].mean()) / s.size, 0.0)


def compensated_bias(b: Vector, channels: int, r: Vector, kappa: int) -> Vector:
    """RAP-BN, step 2: b is the bias of each unit, all places of a channel having the same."""
    places = b.size / channels
    return r - kappa * (b - b.mean()) / places


def by_shares(
    contributions: Callable[[int], Vector], x: Vector, r: Vector, sign: float, lost: str
) -> Vector:
    """Distribute each output's relevance in proportion to its contributions (step 3)."""
    carried, without = np.zeros_like(x), 0.0
    for j in range(len(r)):
        z = contributions(j)
        if z.sum() == 0:
            without += sign * r[j]
        else:
            carried += sign * z / z.sum() * r[j]
    if lost == "spread" and (x != 0).any():
        carried += np.where(x != 0, without / (x != 0).sum(), 0.0)
    return carried


def box(w: Vector, x: Vector, low: Vector, high: Vector) -> Vector:
    """The contributions of zB to one output."""
    return x * w - low * np.where(w > 0, w, 0.0) - high * np.where(w < 0, w, 0.0)


def bound(given: Bound, extreme: Callable[[Vector], float], x: Vector, shape: Any) -> Vector:
    """A bound of zB for each input."""
    if given == "per_sample":
        return np.full_like(x, extreme(x))
    channels = np.array(given, dtype=float).reshape(-1, *[1] * (len(shape) - 1))
    return np.broadcast_to(channels, shape).flatten()


def shared(parts: list[Vector], r: Vector, residual: str) -> list[Vector]:
    """A residual add."""
    if residual == "signed":
        whole = sum(parts)
        return [quotient(part * r, whole) for part in parts]
    sizes = [np.abs(part) for part in parts]
    whole = sum(sizes)
    even = np.where(whole == 0, r / len(parts), 0.0)
    return [quotient(size * r, whole) + even for size in sizes]


def averaged(w: np.ndarray, x: Vector, r: Vector) -> Vector:
    """A pooling or mean: proportional, evenly over the in-image cells where the result is zero."""
    carried = np.zeros_like(x)
    for j in range(len(r)):
        y = (w[j] * x).sum()
        cells = w[j] != 0
        carried += w[j] * x / y * r[j] if y != 0 else np.where(cells, r[j] / cells.sum(), 0.0)
    return carried


# Networks, backwards


@dataclass
class Walk:
    """One walk of relevance through a network, for one sample.

    Attributes
    ----------
    weighted
        Hands relevance through a layer with weights: ``(step, w, b, x, r) -> relevance of x``.
    norm
        Hands relevance through a batch norm: ``(x, y, r) -> relevance of x``.
    residual
        How a residual add shares.
    at
        Filled on the way: the relevance of each step's result.
    """

    network: Net
    values: dict[str, torch.Tensor]
    weighted: Callable[[Step, np.ndarray, Vector, Vector, Vector], Vector]
    norm: Callable[[Vector, Vector, Vector], Vector]
    residual: str
    at: dict[str, Vector] = field(default_factory=dict)

    def flat(self, name: str) -> Vector:
        return self.values[name].numpy().flatten()

    def run(self, start: Vector) -> Vector:
        arrived: dict[str, list[Vector]] = defaultdict(list)
        arrived[self.network.steps[-1].name].append(start)
        for step in reversed(self.network.steps):
            if not arrived[step.name]:
                continue
            r = self.at[step.name] = sum(arrived[step.name])
            for name, part in zip(step.inputs, self.carried(step, r), strict=True):
                arrived[name].append(part)
        return sum(arrived["x"])

    def carried(self, step: Step, r: Vector) -> list[Vector]:
        layer, x = step.layer, self.flat(step.inputs[0])
        shape = tuple(self.values[step.inputs[0]].shape[1:])
        if isinstance(layer, WEIGHTED):
            return [self.weighted(step, *matrix_of(layer, shape), x, r)]
        if isinstance(layer, BATCH_NORM):
            return [self.norm(x, self.flat(step.name), r)]
        if isinstance(layer, MAX_POOL):
            relevance = np.zeros_like(x)
            for share, cells in zip(r, windows_of(layer, shape), strict=True):
                relevance[max(cells, key=lambda i: (x[i], -i))] += share
            return [relevance]
        if isinstance(layer, AVERAGE):
            return [averaged(matrix_of(layer, shape)[0], x, r)]
        if isinstance(layer, Sum):
            return shared([self.flat(name) for name in step.inputs], r, self.residual)
        if isinstance(layer, Concatenation):
            sizes = [self.flat(name).size for name in step.inputs]
            return np.split(r, np.cumsum(sizes)[:-1])
        assert isinstance(layer, (*PASSED, nn.Flatten))
        return [r]

    def is_logits(self, step: Step) -> bool:
        """Whether a weighted layer is the last."""
        return [s for s in self.network.steps if isinstance(s.layer, WEIGHTED)][-1] is step

    def is_input(self, step: Step) -> bool:
        """Whether a weighted layer reads the image through nothing weighted."""
        names = set(step.inputs)
        for other in reversed(self.network.steps):
            if other.name in names:
                if isinstance(other.layer, WEIGHTED):
                    return False
                names |= set(other.inputs)
        return True


def start_of(logits: torch.Tensor, target: torch.Tensor) -> Vector:
    """The target's logit, or logits times weights; of one sample."""
    if target.is_floating_point():
        return (logits[0] * target).numpy()
    return np.array([z if k == int(target) else 0.0 for k, z in enumerate(logits[0].tolist())])


def each_sample(
    network: Net,
    x: torch.Tensor,
    target: torch.Tensor,
    explain: Callable[[dict[str, torch.Tensor], Vector], Vector],
) -> torch.Tensor:
    """Explain the samples one by one."""
    rows = []
    for sample, wanted in zip(x, target, strict=True):
        with torch.no_grad():
            values = network.values(sample[None])
        rows.append(explain(values, start_of(values[network.steps[-1].name], wanted)))
    return torch.from_numpy(np.stack(rows)).reshape(x.shape)


def rap(
    network: Net,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    negative: str = "both",
    active: str = "input",
    residual: str = "absolute",
    nu: str = "inhibitory",
    low: Bound = "per_sample",
    high: Bound = "per_sample",
) -> torch.Tensor:
    """RAP: methods.md, section 2."""

    def explain(values: dict[str, torch.Tensor], start: Vector) -> Vector:
        def weighted(step: Step, w: np.ndarray, b: Vector, x: Vector, r: Vector) -> Vector:
            if walk.is_logits(step):
                return rap_logits(w, x, r, final=step is network.steps[-1])
            if walk.is_input(step):
                shape = values[step.inputs[0]].shape[1:]
                lowest, highest = bound(low, np.min, x, shape), bound(high, np.max, x, shape)
                return by_shares(lambda j: box(w[j], x, lowest, highest), x, r, 1.0, "drop")
            dense_layer = isinstance(step.layer, nn.Linear)
            return rap_hidden(
                w,
                x,
                r,
                negative=negative,
                active=active,
                convolution=not dense_layer,
                numerator=nu,
            )

        walk = Walk(network, values, weighted, lambda x, y, r: r, residual)
        return walk.run(start)

    return each_sample(network, x, target, explain)


def rap_bn(
    network: Net,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    inversion_sign: float = -1.0,
    units: str = "active",
    input: str = "zB",
    lost: str = "spread",
    residual: str = "absolute",
    flows: tuple[int, ...] = (1, -1),
    low: Bound = "per_sample",
    high: Bound = "per_sample",
) -> torch.Tensor:
    """RAP-BN: methods.md, section 3."""

    def explain(values: dict[str, torch.Tensor], start: Vector) -> Vector:
        def flow(kappa: int) -> Vector:
            def weighted(step: Step, w: np.ndarray, b: Vector, x: Vector, r: Vector) -> Vector:
                if walk.is_logits(step):
                    return rap_bn_logits(w, x, r)
                if step.layer.bias is not None:
                    r = compensated_bias(b, step.layer.bias.numel(), r, kappa)
                if walk.is_input(step) and input == "zB":
                    shape = values[step.inputs[0]].shape[1:]
                    lowest, highest = bound(low, np.min, x, shape), bound(high, np.max, x, shape)
                    return by_shares(lambda j: box(w[j], x, lowest, highest), x, r, 1.0, lost)
                if kappa > 0:
                    return by_shares(lambda j: excited(x * w[j]), x, r, 1.0, lost)
                return by_shares(lambda j: inhibited(x * w[j]), x, r, inversion_sign, lost)

            def norm(x: Vector, y: Vector, r: Vector) -> Vector:
                return compensated_norm(y - x, r, kappa, units)

            walk = Walk(network, values, weighted, norm, residual)
            return walk.run(start)

        return sum(map(flow, flows))

    return each_sample(network, x, target, explain)
