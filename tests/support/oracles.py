"""zennit as an oracle: the same composites, run by hooks and autograd.

zennit is under the LGPL; it is called here, and nothing of it is part of graphprop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from zennit import composites
from zennit.attribution import Gradient
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Norm, Pass, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

LOW, HIGH = -2.5, 2.5
"""Bounds of the inputs, for the box rule."""

TINY = 1e-30
"""A stabilizer for zennit so small that division is exact, except by zero."""

IGNORED: dict[str, Any] = {"zero_params": "bias"}


Make = Callable[[list[Canonizer]], Composite]


def composed(
    *rules: tuple[Any, Any], first: Sequence[tuple[Any, Any]] = (), stabilizer: float = TINY
) -> Make:
    """A composite of zennit rules, written here."""
    shared = [
        (Activation, Pass()),
        (Sum, Norm(stabilizer=stabilizer)),
        (AvgPool, Norm(stabilizer=stabilizer)),
        (BatchNorm, Pass()),
    ]

    def make(canonizers: list[Canonizer]) -> Composite:
        return composites.SpecialFirstLayerMapComposite(
            layer_map=[*shared, *rules], first_map=list(first), canonizers=canonizers
        )

    return make


def known(name: str, **parameters: Any) -> Make:
    """One of zennit's own composites."""
    return lambda canonizers: composites.COMPOSITES[name](canonizers=canonizers, **parameters)


def alpha_beta(alpha: float, stabilizer: float = TINY, **options: Any) -> AlphaBeta:
    return AlphaBeta(alpha=alpha, beta=alpha - 1, stabilizer=stabilizer, **options)


# zennit wants tensors as bounds
BOX = {"low": torch.full((1, 3, 1, 1), LOW), "high": torch.full((1, 3, 1, 1), HIGH)}

STABILIZED: dict[str, Make] = {
    "epsilon_plus": known("epsilon_plus"),
    "epsilon_plus_flat": known("epsilon_plus_flat"),
    "epsilon_alpha2_beta1": known("epsilon_alpha2_beta1"),
    "epsilon_alpha2_beta1_flat": known("epsilon_alpha2_beta1_flat"),
    "epsilon_gamma_box": known("epsilon_gamma_box", **BOX),
    "preset_a": composed(
        (Convolution, alpha_beta(1, 1e-6)), (nn.Linear, Epsilon(epsilon=0.1)), stabilizer=1e-6
    ),
    "preset_b": composed(
        (Convolution, alpha_beta(2, 1e-6)), (nn.Linear, Epsilon(epsilon=0.1)), stabilizer=1e-6
    ),
}
"""The composites that stabilize every denominator, by graphprop's names."""

EXACT: dict[str, Make] = {
    "lrp_z": composed((Linear, Epsilon(epsilon=TINY))),
    "lrp_epsilon": composed((Linear, Epsilon(epsilon=1e-6))),
    "lrp_alpha1_beta0": composed((Linear, alpha_beta(1, **IGNORED))),
    "lrp_alpha2_beta1": composed((Linear, alpha_beta(2, **IGNORED))),
    "lrp_cmp_alpha1": composed(
        (Convolution, alpha_beta(1, **IGNORED)), (nn.Linear, Epsilon(epsilon=1e-6, **IGNORED))
    ),
    "lrp_cmp_alpha2": composed(
        (Convolution, alpha_beta(2, **IGNORED)), (nn.Linear, Epsilon(epsilon=1e-6, **IGNORED))
    ),
    "lrp_cmp_alpha1_flat": composed(
        (Convolution, alpha_beta(1, **IGNORED)),
        (nn.Linear, Epsilon(epsilon=1e-6, **IGNORED)),
        first=[(Linear, Flat(stabilizer=TINY))],
    ),
    "lrp_cmp_alpha2_flat": composed(
        (Convolution, alpha_beta(2, **IGNORED)),
        (nn.Linear, Epsilon(epsilon=1e-6, **IGNORED)),
        first=[(Linear, Flat(stabilizer=TINY))],
    ),
    "deep_taylor": composed(
        (Linear, ZPlus(stabilizer=TINY, **IGNORED)),
        first=[(Convolution, ZBox(**BOX, stabilizer=TINY, **IGNORED))],
    ),
}
"""The methods that divide exactly."""

CANONIZERS: dict[str, Callable[[], list[Canonizer]]] = {
    "alexnet": list,
    "vgg16": list,
    "vgg16_bn": lambda: [SequentialMergeBatchNorm()],
    "resnet50": lambda: [ResNetCanonizer()],
}
"""The canonizers that zennit needs for each network of torchvision."""


def zennit_relevance(
    model: nn.Module,
    method: str,
    x: torch.Tensor,
    target: torch.Tensor,
    canonizers: list[Canonizer],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute logits and relevance by zennit, started at the target's logit."""
    composite = {**STABILIZED, **EXACT}[method](canonizers)

    def start(logits: torch.Tensor) -> torch.Tensor:
        return logits * nn.functional.one_hot(target, logits.shape[1]).to(logits)

    with Gradient(model=model, composite=composite) as attributor:
        logits, relevance = attributor(x.clone(), start)
    return logits.detach(), relevance.detach()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error of a sample: ``||found - expected|| / ||expected||``."""
    difference = (found.double() - expected.double()).flatten(1).norm(dim=1)
    return float((difference / expected.double().flatten(1).norm(dim=1)).max())
