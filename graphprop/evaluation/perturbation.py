"""Perturbation: what happens to the prediction when pixels are removed in the order of relevance.

Pixels that share a value are removed in random order, the same for all explainers, so that a
constant map is an order at random. Numbers of pixels are those of a picture of 224 x 224, and are
taken in proportion for another size. A removed pixel is replaced by what `fills` describes.

What is read from a prediction is its value: ``"accuracy"``, whether the target is still predicted
(among the largest logits, of as many as the picture has labels); ``"score"``, the softmax
probability of the target; ``"sigmoid"``, that of a network for several labels; ``"logit"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from graphprop.errors import MethodError
from graphprop.evaluation.complexity import in_proportion
from graphprop.evaluation.fills import filler
from graphprop.evaluation.localization import is_predicted
from graphprop.evaluation.registry import NotApplicable, choice, metric
from graphprop.evaluation.sample import Bools, Floats, Sample

VALUES = ("accuracy", "score", "sigmoid", "logit")
PATCH = 9
"""Pixels along a patch of AOPC, of a picture of 224 x 224: as its authors have it."""


def values_of(sample: Sample, logits: Floats, value: str) -> Floats:
    """What is read from predictions ``[N, classes]`` for the target."""
    choice("value", value, VALUES)
    if value == "accuracy":
        return np.array([float(is_predicted(row, sample)) for row in logits])
    own: Floats = logits[:, sample.target]
    if value == "logit":
        return own
    if value == "sigmoid":
        half: Floats = (1 + np.tanh(own / 2)) / 2  # without overflow
        return half
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    scores: Floats = shifted[:, sample.target] / shifted.sum(1)
    return scores


def first(sample: Sample, order: NDArray[np.int64], count: int) -> Bools:
    """The first pixels of an order, as a mask ``[H, W]``."""
    chosen = np.zeros(sample.pixels, dtype=bool)
    chosen[order[:count]] = True
    return chosen.reshape(sample.size)


def curve(sample: Sample, removed: Iterable[Bools], fill: str, value: str) -> Floats:
    """The value of the prediction after each of several removals."""
    remove = filler(sample, fill)
    pictures = (remove(mask) for mask in removed)
    return values_of(sample, sample.predict(pictures), value)


def area(x: Sequence[float] | NDArray[np.int64], y: Floats) -> float:
    """The area under a curve by trapezoids, over the length of its axis; its value at a point."""
    length = float(x[-1] - x[0])
    return float(np.trapezoid(y, x) / length) if length else float(np.mean(y))


def steps_up_to(largest: float, step: float, pixels: int) -> NDArray[np.int64]:
    """Numbers of pixels from 0 in equal steps, in proportion; no number twice."""
    if not 0 < step <= largest:
        raise MethodError(f"step must be above 0 and at most {largest:g}, not {step:g}")
    scale = pixels / (224 * 224)
    counts = np.round(np.arange(0, largest + step / 2, step) * scale).astype(np.int64)
    return np.unique(np.minimum(np.append(counts, max(1, counts[-1])), pixels))


def removal(
    sample: Sample, order: NDArray[np.int64], pixels: float, step: float, fill: str, value: str
) -> float:
    """The area under the curve of removing pixels in an order."""
    counts = steps_up_to(pixels, step, sample.pixels)
    found = curve(sample, (first(sample, order, n) for n in counts), fill, value)
    sample.record("curve", counts / sample.pixels, found)
    return area(counts, found)


@metric(higher_is_better=True, missing=0.0)
def lerf(
    sample: Sample,
    *,
    pixels: float = 4000,
    step: float = 100,
    fill: str = "zero",
    value: str = "accuracy",
) -> float:
    """Least relevant first: accuracy while the least relevant pixels are removed.

    The area under the curve over the number of removed pixels, over its length, so that 1 means
    that the prediction never changed.

    Parameters
    ----------
    sample
        The case and its map.
    pixels, step
        How many pixels are removed, and how many at a time, of a picture of 224 x 224.
    fill
        What replaces them: ``"zero"``, ``"minimum"``, ``"mean"``, ``"noise"``, ``"shuffle"``,
        ``"blur"`` or ``"road"``.
    value
        ``"accuracy"``, ``"score"``, ``"sigmoid"`` or ``"logit"``.

    References
    ----------
    Ancona et al. 2018, *Towards Better Understanding of Gradient-based Attribution Methods*; Nam et
    al. 2020, *Relative Attributing Propagation*.
    """
    return removal(sample, sample.order[::-1], pixels, step, fill, value)


@metric(higher_is_better=False, missing=1.0)
def morf(
    sample: Sample,
    *,
    pixels: float = 4000,
    step: float = 100,
    fill: str = "zero",
    value: str = "accuracy",
) -> float:
    """Most relevant first: accuracy while the most relevant pixels are removed.

    As `lerf` in the opposite order.

    References
    ----------
    Samek et al. 2017, *Evaluating the Visualization of What a Deep Neural Network Has Learned*.
    """
    return removal(sample, sample.order, pixels, step, fill, value)


@metric(higher_is_better=True, missing=-1.0)
def aopc(
    sample: Sample,
    *,
    patches: float = 100,
    points: int = 20,
    fill: str = "noise",
    value: str = "score",
) -> float:
    """Area over the perturbation curve: how much the score falls, patch by patch.

    ``mean_k f(x) - f(x_k)``, with the k most relevant patches of x_k replaced. A patch is 9 x 9
    pixels of a picture of 224 x 224, its relevance the sum of that of its pixels; equal ones are
    taken in random order.

    Parameters
    ----------
    sample
        The case and its map.
    patches
        How many patches are replaced in the end, of a picture of 224 x 224.
    points
        At how many numbers of patches, equally spaced, the curve is computed.
    fill, value
        As for `lerf`.

    References
    ----------
    Samek et al. 2017, *Evaluating the Visualization of What a Deep Neural Network Has Learned*.
    """
    refuse_other_than_pictures(sample, "patches of 9 x 9 pixels")
    labels, sums = patch_sums(sample.map, max(1, round(PATCH * max(sample.size) / 224)))
    shuffled = sample.random("patches").permutation(len(sums))
    order = shuffled[np.argsort(-sums[shuffled], kind="stable")]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    ranks = rank[labels]
    share = patches / (-(-224 // PATCH)) ** 2
    last = min(max(1, round(share * len(sums))), len(sums))
    counts = np.unique(np.round(np.linspace(0, last, max(1, int(points)) + 1)).astype(np.int64))
    found = curve(sample, (ranks < n for n in counts), fill, value)
    sample.record("curve", counts / len(sums), found)
    return area(counts, found[0] - found)


def refuse_other_than_pictures(sample: Sample, what: str) -> None:
    """Leave out signals and volumes, where a metric is defined by something that pictures have."""
    if len(sample.size) != 2:
        raise NotApplicable(f"is defined for pictures: {what}; these have {len(sample.size)} axes")


def patch_sums(values: Floats, side: int) -> tuple[NDArray[np.int64], Floats]:
    """Number the patches of a grid: the number of each pixel's, and the sum over each."""
    height, width = values.shape
    columns = -(-width // side)
    labels = (np.arange(height) // side)[:, None] * columns + (np.arange(width) // side)[None]
    sums: Floats = np.bincount(labels.reshape(-1), values.reshape(-1)).astype(np.float64)
    return labels.astype(np.int64), sums


def fractions(points: int, last: float = 1.0) -> Floats:
    """Equally spaced shares of the pixels, from 0."""
    if points < 1:
        raise MethodError(f"points is a number from 1, not {points}")
    found: Floats = np.linspace(0, last, int(points) + 1)
    return found


@metric(higher_is_better=False, missing=1.0)
def deletion(
    sample: Sample, *, points: int = 50, fill: str = "zero", value: str = "score"
) -> float:
    """Deletion: the area under the score while all pixels are removed, most relevant first.

    Parameters
    ----------
    sample
        The case and its map.
    points
        At how many shares of the pixels, equally spaced, the curve is computed.
    fill, value
        As for `lerf`.

    References
    ----------
    Petsiuk et al. 2018, *RISE: Randomized Input Sampling for Explanation of Black-box Models*.
    """
    shares = fractions(points)
    masks = (first(sample, sample.order, round(s * sample.pixels)) for s in shares)
    found = curve(sample, masks, fill, value)
    sample.record("curve", shares, found)
    return area(shares, found)  # type: ignore[arg-type]


def insert(sample: Sample, shares: Floats, fill: str, value: str) -> Floats:
    """The value while the most relevant pixels are put into what a fill leaves."""
    masks = (~first(sample, sample.order, round(s * sample.pixels)) for s in shares)
    found = curve(sample, masks, fill, value)
    sample.record("curve", shares, found)
    return found


@metric(higher_is_better=True, missing=0.0)
def insertion(
    sample: Sample, *, points: int = 50, fill: str = "blur", value: str = "score"
) -> float:
    """Insertion: the area under the score while pixels are put into the blurred picture.

    The most relevant come first, until the picture is complete.

    Parameters
    ----------
    sample
        The case and its map.
    points
        At how many shares of the pixels, equally spaced, the curve is computed.
    fill
        What the pixels are put into: the picture as each fill of `lerf` leaves it.
    value
        As for `lerf`.

    References
    ----------
    Petsiuk et al. 2018, *RISE: Randomized Input Sampling for Explanation of Black-box Models*.
    """
    shares = fractions(points)
    return area(shares, insert(sample, shares, fill, value))  # type: ignore[arg-type]


@metric(higher_is_better=True, missing=0.0)
def morf_insertion(
    sample: Sample, *, percent: int = 20, fill: str = "blur", value: str = "score"
) -> float:
    """Insertion of the top 1, 2, ... 20 % of the pixels into the blurred picture: mean score.

    ``mean_k f(x_k)`` over k percent of the pixels, k = 1 ... 20. Unlike `insertion`, it depends on
    the most relevant pixels alone.

    Parameters
    ----------
    sample
        The case and its map.
    percent
        The last percentage.
    fill
        What the pixels are put into: the picture as each fill of `lerf` leaves it.
    value
        As for `lerf`.

    References
    ----------
    Nam and Lee, *Gradient Hedging for Intensively Exploring Salient Interpretation beyond Neuron
    Activation*, insertion.
    """
    if not 1 <= percent <= 100:
        raise MethodError(f"percent is an integer from 1 to 100, not {percent}")
    shares = np.arange(1, int(percent) + 1) / 100
    return float(insert(sample, shares, fill, value).mean())


def signed_removal(
    sample: Sample, sign: int, largest: float, steps: int, everything: bool, fill: str, value: str
) -> float:
    """The mean value after the removal of the pixels of one sign, the largest magnitudes first."""
    if steps < 1:
        raise MethodError(f"steps is a number from 1, not {steps}")
    order = sample.order if sign > 0 else sample.order[::-1]
    there = int((sign * sample.map > 0).sum())
    if not there:
        raise NotApplicable(f"no {'positive' if sign > 0 else 'negative'} relevance to remove")
    if everything:
        counts = [there]
    else:
        wanted = [largest * (k + 1) / steps for k in range(int(steps))]
        counts = [min(in_proportion(count, sample.pixels), there) for count in wanted]
    found = curve(sample, (first(sample, order, n) for n in counts), fill, value)
    sample.record("curve", np.array(counts) / sample.pixels, found)
    return float(found.mean())


@metric(higher_is_better=False, missing=1.0)
def remove_positive(
    sample: Sample,
    *,
    largest: float = 10_000,
    steps: int = 5,
    everything: bool = False,
    fill: str = "minimum",
    value: str = "accuracy",
) -> float:
    """Accuracy after the removal of the pixels of most positive relevance.

    The mean over 2,000, 4,000 ... 10,000 removed pixels, or all of positive relevance where there
    are fewer. A constant map is a miss; another one without positive pixels is left out.

    Parameters
    ----------
    sample
        The case and its map.
    largest, steps
        How many pixels are removed in the end, of a picture of 224 x 224, and in how many steps.
    everything
        Remove all pixels of that sign, at once.
    fill
        What replaces them; ``"shuffle"`` lets them change places. The other fills are those of
        `lerf`.
    value
        As for `lerf`.

    References
    ----------
    Nam et al., the earlier version of *Relative Attributing Propagation* with batch-norm
    compensation.
    """
    if sample.constant:
        return 1.0
    return signed_removal(sample, 1, largest, steps, everything, fill, value)


@metric(higher_is_better=True, missing=0.0)
def remove_negative(
    sample: Sample,
    *,
    largest: float = 10_000,
    steps: int = 5,
    everything: bool = False,
    fill: str = "minimum",
    value: str = "accuracy",
) -> float:
    """Accuracy after the removal of the pixels of most negative relevance.

    As `remove_positive`, of the other sign: what is evidence against the class can be removed.

    References
    ----------
    Nam et al., the earlier version of *Relative Attributing Propagation* with batch-norm
    compensation.
    """
    if sample.constant:
        return 0.0
    return signed_removal(sample, -1, largest, steps, everything, fill, value)


@metric(higher_is_better=True, missing=-1.0)
def occlusion_agreement(sample: Sample, *, grid: int = 8, fill: str = "mean") -> float:
    """Rank correlation of relevance and of the effect of occlusion, over patches.

    Spearman's correlation between the sum of relevance in each patch of a grid and the fall of the
    target's logit when the patch is replaced. Equal values share their mean rank. A constant map
    has 0, and so has any map where no occlusion has an effect.

    Parameters
    ----------
    sample
        The case and its map.
    grid
        Patches along the longer side of the picture.
    fill
        What replaces a patch: the fills of `lerf`.

    References
    ----------
    Zeiler and Fergus 2014, *Visualizing and Understanding Convolutional Networks* (occlusion); the
    comparison by rank correlation as in Samek et al. 2017.
    """
    if grid < 2:
        raise MethodError(f"grid is a number from 2, not {grid}")
    refuse_other_than_pictures(sample, "the patches of a grid of two axes")
    labels, sums = patch_sums(sample.map, -(-max(sample.size) // int(grid)))
    removed = (labels == k for k in range(len(sums)))
    logits = curve(sample, removed, fill, "logit")
    return correlation(ranks_of(sums), ranks_of(sample.logits[sample.target] - logits), 0.0)


def ranks_of(values: Floats) -> Floats:
    """Ranks from 1, equal values with the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Floats = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return mean


def correlation(one: Floats, other: Floats, undefined: float) -> float:
    """Pearson's correlation; a value given for it where one of the two is constant."""
    a, b = one.reshape(-1) - one.mean(), other.reshape(-1) - other.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    flat = one.min() == one.max() or other.min() == other.max()
    return undefined if flat or not size > 0 else float(np.clip((a * b).sum() / size, -1, 1))
