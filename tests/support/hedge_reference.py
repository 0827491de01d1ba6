"""A reference of gradient hedging, neuron by neuron, after methods.md, section 4.

Nothing here comes from graphprop. Networks, and how a layer's matrix is read off, are those of
`rap_reference`. Relevance is handed down one output at a time, and a budget along with it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from support.rap_reference import (
    AVERAGE,
    BATCH_NORM,
    MAX_POOL,
    PASSED,
    WEIGHTED,
    Bound,
    Concatenation,
    Net,
    Step,
    Sum,
    Vector,
    Walk,
    bound,
    box,
    by_shares,
    matrix_of,
    windows_of,
)

LEAST = 1e-9

Carried = tuple[Vector, float]
"""Relevance, and its budget."""


class Padded(nn.Conv2d):
    """A convolution that pads its input with zeros on two sides only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (1, 0, 0, 2)))


# One layer


def sections(r: Vector, tau: float) -> tuple[Vector, Vector]:
    """``P`` and ``N``: the positive entries normalized to tau, the negative ones to -tau."""
    above, below = r[r > 0].sum(), -r[r < 0].sum()
    p = np.array([tau * v / above if v > 0 else 0.0 for v in r])
    n = np.array([tau * v / below if v < 0 else 0.0 for v in r])
    return p, n


def hedged(
    w: np.ndarray,
    x: Vector,
    r: Vector,
    *,
    tau: float,
    gamma: float,
    pointwise: bool,
    terms: str = "CAUS",
) -> Vector:
    """Propagate relevance through one layer with weights."""
    p, n = sections(r, tau)
    gamma = 1.0 if pointwise else gamma
    active, idle = (x > 0).astype(float), (x <= 0).astype(float)
    shares = {
        "C": (np.maximum(x, 0.0), gamma * p + n),
        "A": (active, p),
        "U": (idle, n),
    }
    carried = np.zeros_like(x)
    for j in range(len(r)):
        for a, handed in (given for term, given in shares.items() if term in terms):
            z = a * np.abs(w[j])
            if z.sum() > 0:
                carried += z / z.sum() * handed[j]
    if "S" in terms and not pointwise and active.any():
        carried -= active * tau / active.sum()
    return carried


def expected_total(
    w: np.ndarray,
    x: Vector,
    r: Vector,
    *,
    tau: float,
    gamma: float,
    pointwise: bool,
    terms: str = "CAUS",
) -> float:
    """The sum of a layer's relevance: ``(gamma - 2) tau`` less the terms that are missing.

    That is 0 in place of ``(gamma - 2) tau`` where gamma is 1 and nothing is taken off.
    """
    p, n = sections(r, tau)
    sees_active = [(w[j] != 0)[x > 0].any() for j in range(len(r))]
    sees_idle = [(w[j] != 0)[x <= 0].any() for j in range(len(r))]
    found = 0.0
    for j in range(len(r)):
        if sees_active[j]:
            found += ("C" in terms) * ((1.0 if pointwise else gamma) * p[j] + n[j])
            found += ("A" in terms) * p[j]
        if sees_idle[j]:
            found += ("U" in terms) * n[j]
    return found - (tau if "S" in terms and not pointwise and (x > 0).any() else 0.0)


def is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or set(layer.kernel_size) == {1}


def averaged(w: np.ndarray, x: Vector, r: Vector) -> Vector:
    """An average: in proportion to the positive part plus a small constant."""
    raised = np.maximum(x, 0.0) + LEAST
    return sum(raised * w[j] / (raised * w[j]).sum() * r[j] for j in range(len(r)))


def shared(parts: list[Vector], r: Vector) -> list[Vector]:
    """A residual add: by the positive part of each branch, evenly where all are zero."""
    found = [np.zeros_like(r) for _ in parts]
    for i in range(len(r)):
        positive = [max(part[i], 0.0) for part in parts]
        for k, share in enumerate(positive):
            found[k][i] = r[i] * (share / sum(positive) if sum(positive) else 1 / len(parts))
    return found


def budgets(tau: float, parts: list[Vector]) -> list[float]:
    sizes = [np.abs(part).sum() for part in parts]
    return [tau * size / sum(sizes) if sum(sizes) else 0.0 for size in sizes]


# Networks, backwards


def initial_map(
    network: Net, values: dict[str, torch.Tensor], target: torch.Tensor, layer: str
) -> Vector:
    """``G / |sum G|``, the gradient taken by autograd."""
    leaf = values[layer].clone().requires_grad_()
    found = {**values, layer: leaf}
    names = [step.name for step in network.steps]
    for step in network.steps[names.index(layer) + 1 :]:
        found[step.name] = step.layer(*(found[name] for name in step.inputs))
    logits = found[names[-1]][0]
    chosen = (logits * target).sum() if target.is_floating_point() else logits[target]
    (slope,) = torch.autograd.grad(chosen, leaf)
    places = tuple(range(2, slope.dim()))
    g = (leaf * slope.mean(places, keepdim=True)).detach().numpy().flatten()
    size = abs(g.sum()) or np.abs(g).sum()
    return g / size if size else g


def walk(
    network: Net,
    values: dict[str, torch.Tensor],
    start: Vector,
    layer: str,
    *,
    gamma: float = 1.0,
    terms: str = "CAUS",
    low: Bound = "per_sample",
    high: Bound = "per_sample",
) -> tuple[dict[str, Carried], Vector]:
    """Relevance and budget of every step's result down from a layer, and the map."""
    helper = Walk(network, values, None, None, "")  # type: ignore[arg-type]

    def carried(step: Step, r: Vector, tau: float) -> list[Carried]:
        flat = [values[name].numpy().flatten() for name in step.inputs]
        x, shape = flat[0], tuple(values[step.inputs[0]].shape[1:])
        if isinstance(step.layer, WEIGHTED):
            w, _ = matrix_of(step.layer, shape)
            if helper.is_input(step):
                lowest, highest = bound(low, np.min, x, shape), bound(high, np.max, x, shape)
                handed = by_shares(lambda j: box(w[j], x, lowest, highest), x, r, 1.0, "drop")
                return [(handed, tau)]
            given: Any = {"tau": tau, "gamma": gamma, "pointwise": is_pointwise(step.layer)}
            return [(hedged(w, x, r, **given, terms=terms), tau)]
        if isinstance(step.layer, MAX_POOL):
            handed = np.zeros_like(x)
            for share, cells in zip(r, windows_of(step.layer, shape), strict=True):
                handed[max(cells, key=lambda i: (x[i], -i))] += share
            return [(handed, tau)]
        if isinstance(step.layer, AVERAGE):
            return [(averaged(matrix_of(step.layer, shape)[0], x, r), tau)]
        if isinstance(step.layer, Sum | Concatenation):
            cuts = np.cumsum([part.size for part in flat])[:-1]
            parts = shared(flat, r) if isinstance(step.layer, Sum) else np.split(r, cuts)
            return list(zip(parts, budgets(tau, list(parts)), strict=True))
        assert isinstance(step.layer, (*PASSED, *BATCH_NORM, nn.Flatten))
        return [(r, tau)]

    arrived: dict[str, list[Carried]] = defaultdict(list)
    arrived[layer].append((start, float(np.abs(start).sum() > 0)))
    at: dict[str, Carried] = {}
    for step in reversed(network.steps):
        if arrived[step.name]:
            r, tau = (sum(part) for part in zip(*arrived[step.name], strict=True))
            at[step.name] = r, tau
            for name, part in zip(step.inputs, carried(step, r, tau), strict=True):
                arrived[name].append(part)
    return at, sum(r for r, _ in arrived["x"])


def hedge(
    network: Net, x: torch.Tensor, target: torch.Tensor, layer: str, **parameters: Any
) -> torch.Tensor:
    """The maps of gradient hedging."""
    rows = []
    for sample, wanted in zip(x, target, strict=True):
        with torch.no_grad():
            values = network.values(sample[None])
        start = initial_map(network, values, wanted, layer)
        rows.append(walk(network, values, start, layer, **parameters)[1])
    return torch.from_numpy(np.stack(rows)).reshape(x.shape)
