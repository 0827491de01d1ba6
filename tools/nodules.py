"""Volumes with ground truth: a bright nodule, or a vessel that distracts, in noisy tissue.

    python tools/nodules.py --count 100 -o build/nodules.npz

writes ``images`` ``[N, 1, 32, 32, 32]`` (float32), ``labels`` ``[N]`` (0 vessel, 1 nodule) and
``masks`` ``[N, 32, 32, 32]``. A nodule is a ball, a vessel a tube through the volume; both are near
the center, so that the central slice shows them, and as bright and as thick as each other, so that
neither brightness nor the slice alone tells them apart. A volume depends on split, number and seed
alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

CLASSES = ("vessel", "nodule")
SPLITS = ("train", "test")
SIZE = 32
NOTHING = -1
"""The label of a third of the training volumes, which hold tissue alone. Without those a network
may tell a class by the absence of the other one, and no map of it would have to lie on anything."""

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Volume:
    """A volume and what it shows.

    Attributes
    ----------
    image, context
        ``[32, 32, 32]``, values around 0 to 1; with the nodule or vessel, and without.
    label
        0 for a vessel, 1 for a nodule, `NOTHING` for neither.
    mask
        ``[32, 32, 32]``: the voxels that show it.
    """

    image: Floats
    context: Floats
    label: int
    mask: Bools


def draw(split: str, index: int, seed: int = 0) -> Volume:
    """Draw one volume of a split: the same for the same numbers."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = int(rng.integers(NOTHING if split == "train" else 0, len(CLASSES)))
    context = tissue(rng)
    center = SIZE / 2 - 0.5 + rng.uniform(-4, 4, 3)
    radius = rng.uniform(2.5, 5)
    grid = np.stack(np.indices((SIZE, SIZE, SIZE)), axis=-1) - center
    if label == 0:
        # what lies along the tube does not count for the distance from it
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        grid = grid - (grid @ direction)[..., None] * direction
    mask: Bools = ((grid**2).sum(-1) <= radius**2) & (label != NOTHING)
    brightness = rng.uniform(0.6, 1)
    image = context + np.where(mask, brightness, 0)
    return Volume(image.astype(np.float32), context.astype(np.float32), label, mask)


def tissue(rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth clouds with fine noise."""
    coarse = torch.from_numpy(rng.normal(0, 0.2, (1, 1, 6, 6, 6)))
    clouds = F.interpolate(coarse, size=(SIZE, SIZE, SIZE), mode="trilinear")[0, 0].numpy()
    return 0.2 + clouds + rng.normal(0, 0.1, (SIZE, SIZE, SIZE))


def volumes(split: str, count: int, seed: int = 0) -> Iterator[Volume]:
    """The first volumes of a split."""
    return (draw(split, index, seed) for index in range(count))


def arrays(split: str, count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """All volumes of a split; ``images`` and ``contexts`` are ``[N, 1, 32, 32, 32]``."""
    found = list(volumes(split, count, seed))
    return {
        "images": np.stack([one.image for one in found])[:, None],
        "contexts": np.stack([one.context for one in found])[:, None],
        "labels": np.array([one.label for one in found]),
        "masks": np.stack([one.mask for one in found]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("-n", "--count", type=int, default=100, help="volumes (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz")
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    found = arrays(given.split, given.count, given.seed)
    del found["contexts"]
    np.savez_compressed(given.output, **found)
    print(f"{given.count} volumes of the split {given.split}: {given.output}")


if __name__ == "__main__":
    main()
