"""What stands in for a pixel that is removed.

Removing a pixel means to put something else there, and the network reacts to that, too. A fill is
a choice of that something; each is a function of the picture, of the removed pixels and of random
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from graphprop.evaluation.registry import NotApplicable, choice
from graphprop.evaluation.sample import Bools, Floats, Sample

FILLS = ("zero", "minimum", "mean", "noise", "shuffle", "blur", "road")
BLUR = 10.0
"""Sigma of the Gaussian blur, in pixels of a picture of 224 x 224: details are gone, and no edge is
added."""
ROAD_NOISE = 0.01
"""Standard deviation of the noise of ROAD, in units of the picture's own: as its authors have it on
pictures that are normalized to a standard deviation of one."""
ROAD_RESIDUAL = 1e-4
"""The relative residual at which the linear system of ROAD counts as solved. Pixels are then off by
about a thousandth of the picture's span, a third of the noise that is added."""

Remove = Callable[[Bools], torch.Tensor]
"""Takes the pixels to remove ``[H, W]``, and returns the picture without them."""


def filler(sample: Sample, fill: str) -> Remove:
    """What removes pixels from a sample's picture.

    Parameters
    ----------
    sample
        The picture, and where random numbers come from.
    fill
        ``"zero"``, which is the mean of the data where pictures are normalized; ``"minimum"``, the
        picture's smallest value in each channel; ``"mean"``, its mean; ``"noise"``, uniform between
        its extremes; ``"shuffle"``, the removed pixels change places among themselves; ``"blur"``,
        the picture blurred; ``"road"``, noisy linear imputation.
    """
    choice("fill", fill, FILLS)
    if fill in ("blur", "road") and len(sample.size) != 2:
        raise NotApplicable(
            f"the fill {fill!r} is defined for pictures, and these have {len(sample.size)} axes: "
            "choose another, as fill=mean"
        )
    if fill in ("shuffle", "road"):
        function = shuffled if fill == "shuffle" else imputed
        return lambda removed: function(sample, removed)
    return partial(replaced, sample.image, canvas(sample, fill))


def canvas(sample: Sample, fill: str) -> torch.Tensor:
    """The picture ``[C, H, W]`` of which nothing is left but what a fill puts there."""
    image = sample.image
    flat = image.flatten(1)
    if fill == "zero":
        return torch.zeros_like(image)
    if fill == "blur":
        return blurred(image)
    if fill == "noise":
        low, high = per_channel(flat.amin(1), image), per_channel(flat.amax(1), image)
        drawn = torch.from_numpy(sample.random("noise").random(image.shape)).to(image)
        return low + (high - low) * drawn
    level = flat.amin(1) if fill == "minimum" else flat.mean(1)
    return per_channel(level, image).expand_as(image)


def per_channel(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A value for each channel, in the shape in which it is broadcast over an image's places."""
    return values.reshape(-1, *[1] * (image.dim() - 1))


def replaced(image: torch.Tensor, ground: torch.Tensor, removed: Bools) -> torch.Tensor:
    """A picture with another one in the removed pixels."""
    return torch.where(torch.from_numpy(removed), ground, image)


def shuffled(sample: Sample, removed: Bools) -> torch.Tensor:
    """A picture in which the removed pixels changed places among themselves."""
    where = np.flatnonzero(removed)
    flat = sample.image.flatten(1).clone()
    flat[:, where] = flat[:, sample.random("shuffle").permutation(where)]
    return flat.reshape(sample.image.shape)


def blurred(image: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
    """A picture ``[C, H, W]`` after a Gaussian blur, its edge pixels repeated outside."""
    if sigma is None:
        sigma = BLUR * max(image.shape[1:]) / 224
    reach = max(1, round(3 * sigma))  # beyond three sigma lies 0.3 % of the weight
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-(axis**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image.dtype)
    rows = F.pad(image[:, None], (0, 0, reach, reach), mode="replicate")
    rows = F.conv2d(rows, kernel[None, None, :, None])
    columns = F.pad(rows, (reach, reach, 0, 0), mode="replicate")
    return F.conv2d(columns, kernel[None, None, None])[:, 0]


# Noisy linear imputation.

SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def neighbors(values: Floats) -> Iterator[Floats]:
    """The values ``[..., H, W]`` of each of the eight neighbors, weighted; 0 outside."""
    padded = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)])
    height, width = values.shape[-2:]
    for dy, dx in SHIFTS:
        weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
        yield weight * padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def imputed(sample: Sample, removed: Bools) -> torch.Tensor:
    """A picture whose removed pixels are the weighted means of their neighbors, with noise.

    Direct neighbors weigh 1/6, diagonal ones 1/12; at the edge of the picture the weights of those
    that exist are scaled to a sum of one. All removed pixels together solve one linear system (Rong
    et al. 2022, ROAD). Where everything is removed, the mean of the picture is left.
    """
    image: Floats = sample.image.double().numpy()
    if removed.all():
        means = image.mean((1, 2), keepdims=True)
        known = np.broadcast_to(means, image.shape).copy()
    else:
        known = harmonic(image, removed)
    deviation = ROAD_NOISE * image.std()
    noise = sample.random("road").standard_normal(image.shape)
    result = np.where(removed, known + deviation * noise, image)
    return torch.from_numpy(result).to(sample.image)


def harmonic(image: Floats, removed: Bools) -> Floats:
    """Fill pixels so that each is the weighted mean of its neighbors, by conjugate gradients.

    ``(D - W) x = W y`` on the removed pixels, with the weights W of neighbors, their sums D, and
    the known pixels y: symmetric, and positive definite as long as a pixel is known.
    """
    total = sum(neighbors(np.ones(removed.shape)))

    def matrix(x: Floats) -> Floats:
        result: Floats = np.where(removed, total * x - sum(neighbors(x)), 0.0)
        return result

    def product(a: Floats, b: Floats) -> Floats:
        result: Floats = (a * b).sum((1, 2), keepdims=True)
        return result

    right = np.where(removed, sum(neighbors(np.where(removed, 0.0, image))), 0.0)
    x = np.zeros_like(image)
    residual = right - matrix(x)
    direction, size = residual.copy(), product(residual, residual)
    enough = ROAD_RESIDUAL**2 * np.maximum(size, np.finfo(float).tiny)
    for _ in range(int(removed.sum())):  # in exact arithmetic it has ended by then
        if (size <= enough).all():
            break
        applied = matrix(direction)
        curvature = product(direction, applied)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        x += step * direction
        residual -= step * applied
        before, size = size, product(residual, residual)
        direction = residual + direction * np.divide(
            size, before, out=np.zeros_like(size), where=before > 0
        )
    return x
