"""Maps that know nothing of the network: what any method has to beat.

They are explainers as any other, `(x, target) -> (logits, relevance)`, so that they stand in the
same table. The logits come from another explainer, which has to be of the same network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from graphprop.errors import InputError
from graphprop.evaluation.sample import Explainer, logits_of

MapFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Baseline:
    """An explainer whose map is a function of the picture alone.

    Attributes
    ----------
    map_of
        Pictures ``[N, C, H, W]`` to maps ``[N, 1, H, W]``.
    network
        An explainer, or anything that is called as one, for the logits.
    """

    map_of: MapFunction
    network: Explainer = field(repr=False)

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the network, and a map that it has no influence on."""
        return self.logits(x), self.map_of(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]`` of the network."""
        forward = getattr(self.network, "logits", None)
        if callable(forward):
            result: torch.Tensor = forward(x)
            return result
        return self.network(x, torch.zeros(len(x), dtype=torch.int64))[0]


def random_map(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noise of a normal distribution.

    It depends on the seed and on the picture itself, so that the same picture has the same map in
    any batch, and another one with noise on it another map.
    """
    maps = []
    for picture in x:
        key = zlib.crc32(picture.detach().cpu().contiguous().numpy().tobytes())
        drawn = np.random.default_rng([seed, key]).standard_normal((1, *picture.shape[1:]))
        maps.append(torch.from_numpy(drawn).to(picture))
    return torch.stack(maps)


def uniform_map(x: torch.Tensor) -> torch.Tensor:
    """One everywhere."""
    return torch.ones_like(x[:, :1])


def edge_map(x: torch.Tensor) -> torch.Tensor:
    """The magnitude of the gradient of brightness, by Sobel's filter; edge pixels are repeated."""
    axes = x.dim() - 2
    gray = F.pad(x.mean(1, keepdim=True), (1, 1) * axes, mode="replicate")
    change, mean = torch.tensor([-1.0, 0, 1]).to(x), torch.tensor([1.0, 2, 1]).to(x)
    kernels = []
    for along in range(axes):
        parts = [change if axis == along else mean for axis in range(axes)]
        kernels.append(reduce(lambda a, b: a[..., None] * b, parts))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    found = convolution(gray, torch.stack(kernels)[:, None])
    return found.square().sum(1, keepdim=True).sqrt()


@dataclass
class SlidingOcclusion:
    """How far the target's logit falls when a window of the picture is covered, window by window.

    It needs nothing of the network but its logits. A pixel has the mean over all windows that cover
    it. Each window is one more forward pass: (size / stride)^2 a picture.

    Attributes
    ----------
    network
        An explainer, or anything that is called as one, for the logits.
    window, stride
        The side of a window, and the distance of the next, in pixels; None: an eighth of the
        picture's shorter side, and half a window. The last window of a row ends at the edge.
    batch_size
        How many covered pictures are computed at once.

    References
    ----------
    Zeiler and Fergus 2014, *Visualizing and Understanding Convolutional Networks*, sec. 4.2; the
    color that covers is the picture's mean.
    """

    network: Explainer = field(repr=False)
    window: int | None = None
    stride: int | None = None
    batch_size: int = 64

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the network, and maps ``[N, 1, H, W]``."""
        logits = self.logits(x)
        maps = [self.map_of(one, int(c)) for one, c in zip(x, target.expand(len(x)), strict=True)]
        return logits, torch.stack(maps)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]`` of the network."""
        return Baseline(uniform_map, self.network).logits(x)

    def map_of(self, picture: torch.Tensor, target: int) -> torch.Tensor:
        """The map ``[1, H, W]`` of one picture."""
        corners, window = self.corners(*picture.shape[1:])
        axes = picture.dim() - 1
        fallen, covering = (torch.zeros(picture.shape[1:], dtype=torch.float64) for _ in range(2))
        before = logits_of(self.network, picture[None], target)[0, target]
        color = picture.mean(tuple(range(1, axes + 1)), keepdim=True)
        for start in range(0, len(corners), self.batch_size):
            part = corners[start : start + self.batch_size]
            covered = picture.repeat(len(part), *[1] * (axes + 1))
            windows = [tuple(slice(first, first + window) for first in one) for one in part]
            for one, places in zip(covered, windows, strict=True):
                one[(slice(None), *places)] = color
            after = logits_of(self.network, covered, target)[:, target]
            for places, fall in zip(windows, before - after, strict=True):
                fallen[places] += float(fall)
                covering[places] += 1
        return torch.where(covering > 0, fallen / covering.clamp(min=1), 0.0)[None].to(picture)

    def corners(self, *size: int) -> tuple[list[tuple[int, ...]], int]:
        """The corners of all windows where each axis begins, and their side."""
        shorter = min(size)
        window = max(1, shorter // 8) if self.window is None else self.window
        stride = max(1, window // 2) if self.stride is None else self.stride
        if not 1 <= window <= shorter or stride < 1:
            raise InputError(
                f"a window of {window} pixels and a stride of {stride} don't fit a picture of "
                f"{' x '.join(map(str, size))}"
            )
        firsts = ([*range(0, length - window, stride), length - window] for length in size)
        return list(product(*firsts)), window


BASELINES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "random": random_map,
    "uniform": lambda x, seed: uniform_map(x),
    "edge": lambda x, seed: edge_map(x),
}


def baselines(
    network: Explainer, names: Iterable[str] = tuple(BASELINES), *, seed: int = 0
) -> dict[str, Explainer]:
    """Explainers that know nothing of the network, to be evaluated beside others.

    Parameters
    ----------
    network
        An explainer of the network, for its logits.
    names
        Of ``"random"``, ``"uniform"``, ``"edge"``, and ``"occlusion"``, which isn't chosen by
        default: it takes hundreds of forward passes a picture (see `SlidingOcclusion`).
    seed
        Of the random maps.
    """

    def made(name: str) -> Explainer:
        if name == "occlusion":
            return SlidingOcclusion(network)
        return Baseline(lambda x: BASELINES[name](x, seed), network)

    return {name: made(name) for name in names}
