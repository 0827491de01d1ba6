"""Complexity: how concentrated a map is. None of these says that it is right."""

from __future__ import annotations

from functools import reduce

import numpy as np

from graphprop.errors import MethodError
from graphprop.evaluation.localization import top_weights
from graphprop.evaluation.registry import metric
from graphprop.evaluation.sample import Sample

REFERENCE_PIXELS = 224 * 224
"""The pixels of the pictures on which the papers count pixels; other sizes in proportion."""


def in_proportion(count: float, pixels: int) -> int:
    """A number of pixels at 224 x 224, for a picture of another size; at least one."""
    return min(max(1, round(count * pixels / REFERENCE_PIXELS)), pixels)


@metric(higher_is_better=False, missing=1.0)
def positive_ratio(sample: Sample) -> float:
    """Positive ratio PR: the share of pixels with positive relevance.

    ``|{R > 0}| / |R|``. A method that is selective marks few pixels as speaking for the class. A
    constant map, zero or not, is a miss and has 1.

    References
    ----------
    Nam and Lee, *Gradient Hedging for Intensively Exploring Salient Interpretation beyond Neuron
    Activation*, positive ratio.
    """
    return 1.0 if sample.constant else float((sample.map > 0).mean())


def diagonal(sample: Sample) -> float:
    """The longest distance between two pixels."""
    return float(reduce(np.hypot, (length - 1 for length in sample.size), 0.0))


@metric(higher_is_better=False, missing=diagonal)
def d_k(sample: Sample, *, k: int = 1000) -> float:
    """Mean distance of the K most relevant pixels from the most relevant one, in pixels.

    ``D_K = mean_{p in top K} |p - p*|`` with ``p* = argmax R``. Where pixels share the value at
    rank K, they count with equal shares; where several share the largest value, the mean over them
    is taken. A constant map is a miss, and has the picture's diagonal.

    Parameters
    ----------
    sample
        The case and its map.
    k
        How many pixels, of a picture of 224 x 224; in proportion for another size.

    References
    ----------
    Nam et al., the earlier version of *Relative Attributing Propagation* with batch-norm
    compensation, D_K.
    """
    if k < 1:
        raise MethodError(f"k is a number of pixels from 1, not {k}")
    if sample.constant:
        return diagonal(sample)
    weights = top_weights(sample.map, in_proportion(k, sample.pixels))
    places = np.argwhere(weights > 0)
    shares = weights[tuple(places.T)]
    peaks = np.argwhere(sample.map == sample.map.max())
    distances = [
        (np.linalg.norm(places - peak, axis=1) * shares).sum() / shares.sum() for peak in peaks
    ]
    return float(np.mean(distances))


@metric(higher_is_better=False, missing=lambda sample: float(np.log(sample.pixels)))
def entropy(sample: Sample) -> float:
    """Entropy of the magnitudes of relevance.

    ``-sum p ln p`` with ``p = |R| / sum |R|``, in nats, from 0 (one pixel) to ``ln(pixels)``
    (constant). A zero map has the latter.

    References
    ----------
    Bhatt et al. 2020, *Evaluating and Aggregating Feature-based Model Explanations*, complexity.
    """
    magnitudes = np.abs(sample.map).reshape(-1)
    total = magnitudes.sum()
    if total == 0:
        return float(np.log(sample.pixels))
    shares = magnitudes / total
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


@metric(higher_is_better=True, missing=0.0)
def gini(sample: Sample) -> float:
    """Gini index of the magnitudes of relevance.

    ``sum_i (2 i - n - 1) a_i / (n sum a)`` with the sorted magnitudes ``a_1 <= ... <= a_n``, from 0
    (constant, or zero) to ``1 - 1 / n`` (one pixel).

    References
    ----------
    Chalasani et al. 2020, *Concise Explanations of Neural Networks using Adversarial Training*,
    sparseness.
    """
    magnitudes = np.sort(np.abs(sample.map).reshape(-1))
    total, n = magnitudes.sum(), magnitudes.size
    if total == 0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * magnitudes).sum() / (n * total))
