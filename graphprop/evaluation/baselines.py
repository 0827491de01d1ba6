"""Maps that know nothing of the network: what any method has to beat.

They are explainers as any other, `(x, target) -> (logits, relevance)`, so that they stand in the
same table. The logits come from another explainer, which has to be of the same network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from graphprop.evaluation.sample import Explainer

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
    gray = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(x)
    kernels = torch.stack([across, across.T])[:, None]
    return F.conv2d(gray, kernels).square().sum(1, keepdim=True).sqrt()


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
        Of ``"random"``, ``"uniform"``, ``"edge"``.
    seed
        Of the random maps.
    """

    def made(name: str) -> Explainer:
        return Baseline(lambda x: BASELINES[name](x, seed), network)

    return {name: made(name) for name in names}
