"""Maps that are a weighted mean over many inputs derived from the given one: docs/methods.md, 5.

Integrated gradients walk from a baseline to the input, SmoothGrad adds noise to it. Both explain
``scale_k * x + offset_k`` for each k and add the results up by weights. The points are explained in
chunks, each one batch, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from graphprop.errors import MethodError
from graphprop.ir.operation import Shape
from graphprop.ir.samples import Samples
from graphprop.ops import helpers

SEED = 0
"""The seed of SmoothGrad's noise: the same compile gives the same explainer."""

Baseline: TypeAlias = Any
"""A number, a number per channel, or a tensor of the shape of one input or ``[1, ...]``."""


def mean_over_samples(
    samples: Samples,
    x: torch.Tensor,
    target: torch.Tensor,
    explain: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """Compute the weighted mean; ``explain`` returns logits and relevance of a batch of points."""
    own = samples.of_type(x.dtype)
    mean = helpers.mean_over_samples(
        explain, x, target, own.scale, own.offset, own.weight, own.chunk
    )
    return mean if own.baseline is None else mean * (x - own.baseline)


def at_least_one(name: str, number: float) -> int:
    """A number of points as an int.

    Raises
    ------
    MethodError
        If it is less than one, or no whole number.
    """
    if number < 1 or number != int(number):
        raise MethodError(f"{name} is a whole number from 1 on, not {number}")
    return int(number)


def baseline_of(given: Baseline, shape: Shape) -> torch.Tensor:
    """A baseline as a tensor ``[1, ...]``: from a number, one per channel, or a complete input."""
    try:
        baseline = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError):
        raise MethodError(f"a baseline is a number, several or a tensor, not {given!r}") from None
    if baseline.dim() == 1:
        baseline = baseline.reshape(-1, *[1] * (len(shape) - 2))
    while baseline.dim() < len(shape):
        baseline = baseline.unsqueeze(0)
    fits = baseline.dim() == len(shape) and all(
        length in (1, wanted) for length, wanted in zip(baseline.shape[1:], shape[1:], strict=True)
    )
    if not fits or len(baseline) != 1:
        raise MethodError(
            "a baseline is a number, a number per channel or a tensor of the shape of one input, "
            f"{tuple(shape[1:])}, not {tuple(torch.as_tensor(given).shape)}"
        )
    return baseline


def path(parameters: Mapping[str, Any], shape: Shape) -> Samples:
    """Points on the straight path from the baseline to x (Sundararajan et al. 2017, eq. 3)."""
    steps = at_least_one("steps", parameters["steps"])
    places, weights = quadrature(parameters["quadrature"], steps)
    baseline = baseline_of(parameters["baseline"], shape)
    offset = (1.0 - places).reshape(-1, *[1] * (len(shape) - 1)) * baseline
    chunk = at_least_one("chunk", parameters["chunk"])
    return Samples(places, offset, weights, chunk, baseline)


def quadrature(name: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places between 0 and 1 and their weights, which sum to 1."""
    grid = torch.arange(steps, dtype=torch.float64)
    even = torch.full((steps,), 1.0 / steps, dtype=torch.float64)
    if name == "gauss-legendre":
        places, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))
        return (places + 1.0) / 2.0, weights / 2.0
    known = {"left": grid, "middle": grid + 0.5, "right": grid + 1.0}
    if name in known:
        return known[name] / steps, even
    choices = ", ".join(map(repr, ("gauss-legendre", *known)))
    raise MethodError(f"quadrature is one of {choices}, not {name!r}")


def noise(parameters: Mapping[str, Any], shape: Shape) -> Samples:
    """Copies of x with Gaussian noise of standard deviation sigma (Smilkov et al. 2017, sec. 3).

    The noise is drawn once, and is the same for every input.
    """
    n, sigma = at_least_one("n", parameters["n"]), parameters["sigma"]
    if not sigma >= 0:
        raise MethodError(f"sigma, the standard deviation of the noise, is not {sigma}")
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(n, *shape[1:], generator=generator)
    even = torch.full((n,), 1.0 / n, dtype=torch.float64)
    chunk = at_least_one("chunk", parameters["chunk"])
    return Samples(torch.ones(n), drawn * sigma, even, chunk)
