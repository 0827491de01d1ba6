"""Sensitivity: does a map change with the class and the weights, and not with noise."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphprop.errors import MethodError
from graphprop.evaluation.perturbation import correlation, ranks_of
from graphprop.evaluation.registry import NotApplicable, choice, metric
from graphprop.evaluation.sample import Explainer, Floats, Sample, batches_of, explain_batch

SIMILARITIES = ("pearson", "spearman")
REVERSED = 2.0
"""The relative change of a map that turns into its negative."""


def similarity_of(
    one: Floats, other: Floats, similarity: str, signed: bool, undefined: float
) -> float:
    """How alike two maps are: from 0 to 1, or with its sign from -1.

    A map and its negative are alike: many methods start from the logit, and where that changes its
    sign nothing else need change.
    """
    choice("similarity", similarity, SIMILARITIES)
    if similarity == "spearman":
        one, other = ranks_of(one), ranks_of(other)
    found = correlation(one, other, undefined)
    return found if signed else abs(found)


@metric(higher_is_better=False, missing=1.0, batched=True)
def class_sensitivity(
    samples: Sequence[Sample],
    *,
    other: str = "next",
    similarity: str = "pearson",
    signed: bool = False,
) -> list[float]:
    """Similarity of the map for the label and of the map for another class.

    The magnitude of their correlation over pixels: low where a method tells classes apart. Maps
    that are constant or contain NaN cannot be distinguished, and have 1.

    Parameters
    ----------
    samples
        The cases and their maps.
    other
        ``"next"``: the class of the largest logit that the picture does not show; ``"random"``:
        one at random (random logit test).
    similarity
        ``"pearson"`` or ``"spearman"``.
    signed
        Keep the sign of the correlation: a map that is the negative of the other is then as
        different as can be.

    References
    ----------
    Sixt et al. 2020, *When Explanations Lie: Why Many Modified BP Attributions Fail* (random logit
    test); Nam and Lee, *Gradient Hedging ...*, class-specific maps.
    """
    choice("other", other, ("next", "random"))
    choice("similarity", similarity, SIMILARITIES)
    classes = len(samples[0].logits)
    if classes < 2:
        raise NotApplicable("needs a network of two classes or more")
    targets = [another_class(sample, other) for sample in samples]
    maps = explained(samples, [sample.image for sample in samples], targets)
    return [
        similarity_of(s.map, m, similarity, signed, 1.0) if np.isfinite(m).all() else 1.0
        for s, m in zip(samples, maps, strict=True)
    ]


def another_class(sample: Sample, other: str) -> int:
    """A class that the picture does not show; where it shows all, one that isn't the target."""
    known = set(range(len(sample.logits)))
    free = sorted(known - sample.labels - {sample.target}) or sorted(known - {sample.target})
    if other == "random":
        return int(sample.random("class").choice(free))
    return max(free, key=lambda index: sample.logits[index])


def explained(
    samples: Sequence[Sample], pictures: Sequence[torch.Tensor], targets: Sequence[int]
) -> list[Floats]:
    """Maps of pictures of several samples, in batches."""
    found: list[Floats] = []
    pairs = list(zip(pictures, targets, strict=True))
    for batch in batches_of(pairs, samples[0].batch_size):
        x = torch.stack([picture for picture, _ in batch])
        classes = torch.tensor([target for _, target in batch])
        found += list(explain_batch(samples[0].explainer, x, classes)[1])
    return found


@metric(higher_is_better=False, missing=REVERSED)
def max_sensitivity(sample: Sample, *, radius: float = 0.05, draws: int = 10) -> float:
    """Max sensitivity: the largest relative change of the map under small noise.

    ``max_d ||R(x + d) - R(x)|| / ||R(x)||`` over draws d, each entry uniform in ``radius`` times
    the span of the picture. For the same class. A zero map has 2, as a map that turns into its
    negative; one that becomes NaN, too. A constant map that isn't zero has 0: stability alone says
    nothing.

    Parameters
    ----------
    sample
        The case and its map.
    radius
        The largest change of an entry, as a share of the picture's largest less its smallest value.
    draws
        How often noise is drawn.

    References
    ----------
    Yeh et al. 2019, *On the (In)fidelity and Sensitivity of Explanations*.
    """
    if draws < 1 or radius <= 0:
        raise MethodError(f"draws is from 1, radius above 0, not {draws} and {radius}")
    norm = float(np.linalg.norm(sample.map))
    if norm == 0:
        return REVERSED
    span = radius * float(sample.image.max() - sample.image.min())
    random = sample.random("sensitivity")
    noisy = [
        sample.image
        + torch.from_numpy(random.uniform(-span, span, sample.image.shape)).to(sample.image)
        for _ in range(int(draws))
    ]
    maps = sample.explain(noisy)
    if not all(np.isfinite(one).all() for one in maps):
        return REVERSED
    return max(float(np.linalg.norm(one - sample.map)) for one in maps) / norm


# Randomization of the weights.

PART = re.compile(r"[._](weight|bias|scale|shift|running_mean|running_var|num_batches_tracked)$")
"""What ends the name of a tensor, behind the name of its layer."""


@metric("randomisation", higher_is_better=False, missing=1.0, batched=True)
def randomization(
    samples: Sequence[Sample],
    *,
    similarity: str = "spearman",
    signed: bool = False,
    depths: int = 0,
) -> list[float | NotApplicable]:
    """Cascading randomization: similarity to the map after layers lost their weights.

    From the last layer to the first, the entries of each layer's tensors are permuted, and stay so;
    after each layer the map is compared with the original, by the magnitude of their correlation
    over pixels. The value is the mean over depths. A
    method that explains the network has a low one. A map that becomes constant or NaN has changed,
    and counts 0; the original map being constant, nothing can change, and the value is 1.

    It needs an explainer with ``state_dict`` and ``load_state_dict``; the weights are put back
    afterwards. Layers are taken in the order of its names.

    Parameters
    ----------
    samples
        The cases and their maps.
    similarity
        ``"spearman"`` or ``"pearson"``.
    signed
        Keep the sign of the correlation.
    depths
        After how many of the layers, evenly spaced and the first layer of the network among them,
        maps are compared; 0: after each. Each costs one explanation.

    References
    ----------
    Adebayo et al. 2018, *Sanity Checks for Saliency Maps*, cascading randomization.
    """
    choice("similarity", similarity, SIMILARITIES)
    explainer = samples[0].explainer
    original = state_of(explainer)
    groups = layers_of(original)
    if not groups:
        raise NotApplicable("the explainer's state has no layers to randomize")
    if depths < 0:
        raise MethodError(f"depths is from 0, not {depths}")
    count = min(int(depths), len(groups)) or len(groups)
    compared = sorted({round(len(groups) * (i + 1) / count) for i in range(count)})
    similar: list[list[float]] = [[] for _ in samples]
    changed = dict(original)
    try:
        for depth, names in enumerate(reversed(list(groups.values())), 1):
            for name in names:
                changed[name] = permuted(original[name], name, samples[0].seed)
            if depth not in compared:
                continue
            explainer.load_state_dict(changed)  # type: ignore[attr-defined]
            maps = explained(samples, [s.image for s in samples], [s.target for s in samples])
            for values, sample, one in zip(similar, samples, maps, strict=True):
                alike = 0.0
                if np.isfinite(one).all():
                    alike = similarity_of(sample.map, one, similarity, signed, 0.0)
                values.append(alike)
    finally:
        explainer.load_state_dict(original)  # type: ignore[attr-defined]
    for sample, values in zip(samples, similar, strict=True):
        sample.record("depth", compared, values)
    return [
        1.0 if sample.constant else float(np.mean(values))
        for sample, values in zip(samples, similar, strict=True)
    ]


def state_of(explainer: Explainer) -> dict[str, torch.Tensor]:
    """A copy of an explainer's weights.

    Raises
    ------
    NotApplicable
        If it has none that can be replaced.
    """
    read = getattr(explainer, "state_dict", None)
    if not callable(read) or not callable(getattr(explainer, "load_state_dict", None)):
        raise NotApplicable("the explainer has no load_state_dict, so that no weight can change")
    return {name: tensor.clone() for name, tensor in read().items()}


def layers_of(state: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of a state dict, grouped by layer in the order in which layers first occur.

    Tensors that aren't called as those of layers are (a fixed noise, bounds of the input) are left
    as they are, unless there is nothing else.
    """
    floating = [
        name
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    ]
    groups: dict[str, list[str]] = {}
    for name in [name for name in floating if PART.search(name)] or floating:
        groups.setdefault(PART.sub("", name), []).append(name)
    return groups


def permuted(tensor: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """A tensor with its entries in another order, which keeps their distribution.

    A variance stays positive, and no scale has to be assumed.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    order = torch.from_numpy(random.permutation(tensor.numel()))
    return tensor.reshape(-1)[order.to(tensor.device)].reshape(tensor.shape)
