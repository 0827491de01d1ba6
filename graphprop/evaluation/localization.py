"""Localization: does relevance lie on the object.

All of these need a mask. A constant map singles out no pixel: where a metric picks pixels by rank
or by a threshold, such a map is a miss and gets the worst value. Ratios of sums have a value for
it, which is what chance gives.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from graphprop.errors import MethodError
from graphprop.evaluation.registry import NotApplicable, choice, metric
from graphprop.evaluation.sample import Bools, Floats, Sample

LARGEST_RATIO = 100.0
"""Where an outside-inside ratio is cut off. A map with nothing on the object has an infinite one,
and no mean could be taken over pictures; a hundred times as much relevance on a pixel of the
background as on one of the object is a failure, however large the quotient."""


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def pointing_game(
    sample: Sample,
    *,
    tolerance: float = 0.0,
    cases: str = "all",
    targets: str = "labels",
) -> float:
    """Whether the pixel of the largest relevance lies in the object.

    ``1`` if ``argmax R`` is in the mask, else ``0``. Where several pixels share the largest value,
    the share of them that lies in the mask: what a choice at random expects. A constant map is a
    miss.

    Parameters
    ----------
    sample
        The case and its map.
    tolerance
        A pixel less than so many pixels away from the object counts, too (the paper: 15).
    cases
        ``"all"``, or ``"difficult"``: pictures with objects of another class, where the object
        covers less than a quarter.
    targets
        ``"labels"``: every label of a picture; ``"predicted"``: those that the network predicts.

    References
    ----------
    Zhang et al. 2016, *Top-down Neural Attention by Excitation Backprop*.
    """
    choice("cases", cases, ("all", "difficult"))
    choice("targets", targets, ("labels", "predicted"))
    if cases == "difficult" and not (sample.fraction < 0.25 and len(sample.labels) > 1):
        raise NotApplicable("not a difficult case: a small object beside one of another class")
    if targets == "predicted" and not is_predicted(sample.logits, sample):
        raise NotApplicable("the network does not predict the label")
    if sample.constant:
        return 0.0
    largest = sample.map == sample.map.max()
    return float(grown(sample.object, tolerance)[largest].mean())


def is_predicted(logits: Floats, sample: Sample) -> bool:
    """Whether the target is among the largest logits, of as many as the picture has labels.

    Of a picture with one label that is the largest logit. Classes that share the logit of the
    target count as larger; with NaN among the logits nothing is predicted.
    """
    if not np.isfinite(logits).all():
        return False
    others = np.delete(logits, sample.target)
    return bool((others >= logits[sample.target]).sum() < max(1, len(sample.labels)))


def grown(mask: Bools, distance: float) -> Bools:
    """The pixels nearer than a distance to a mask, and the mask itself."""
    reach = int(np.ceil(distance)) - 1
    if reach < 1:
        return mask
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    squares = sum(part**2 for part in torch.meshgrid([axis] * mask.ndim, indexing="ij"))
    ball = (torch.as_tensor(squares) < distance**2).float()[None, None]
    convolution = (F.conv1d, F.conv2d, F.conv3d)[mask.ndim - 1]
    near = convolution(torch.from_numpy(mask).float()[None, None], ball, padding=reach)
    found: Bools = (near[0, 0] > 0.5).numpy()
    return found


def inside_total(sample: Sample) -> float:
    """The share of positive relevance that lies in the object; 0 where there is none."""
    positive = np.maximum(sample.map, 0.0)
    total = positive.sum()
    return float(positive[sample.object].sum() / total) if total > 0 else 0.0


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def mu(sample: Sample) -> float:
    """Inside-total relevance ratio: how much of the positive relevance lies in the object.

    ``mu = sum_in max(R, 0) / sum max(R, 0)``. A map without positive relevance has 0. A large
    object has a large mu by chance: a constant map has the share of the picture it covers.

    References
    ----------
    Kohlbrenner et al. 2020, *Towards Best Practice in Explaining Neural Network Decisions with
    LRP*, inside-total relevance ratio.
    """
    return inside_total(sample)


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def mu_w(sample: Sample) -> float:
    """Weighted inside-total relevance ratio: mu in terms of what chance gives.

    ``mu_w = mu * S_total / S_in`` with the number of pixels of the picture and of the object. A
    constant positive map has 1, a map without positive relevance 0.

    References
    ----------
    Kohlbrenner et al. 2020, weighted inside-total relevance ratio.
    """
    return inside_total(sample) / sample.fraction


def inside_total_up_to(sample: Sample, largest: float) -> float:
    """Mu of objects that cover no more than a share of the picture."""
    if sample.fraction > largest:
        raise NotApplicable(f"the object covers more than {largest:.0%} of the picture")
    return inside_total(sample)


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def mu_25(sample: Sample) -> float:
    """Inside-total relevance ratio of objects that cover at most a quarter of the picture.

    ``mu`` over the cases with ``S_in / S_total <= 0.25``; others are left out.

    References
    ----------
    Kohlbrenner et al. 2020, inside-total relevance ratio by size.
    """
    return inside_total_up_to(sample, 0.25)


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def mu_50(sample: Sample) -> float:
    """Inside-total relevance ratio of objects that cover at most half of the picture.

    ``mu`` over the cases with ``S_in / S_total <= 0.5``; others are left out.

    References
    ----------
    Kohlbrenner et al. 2020, inside-total relevance ratio by size.
    """
    return inside_total_up_to(sample, 0.5)


def outside_inside(amounts: Floats, mask: Bools) -> float:
    """Mean outside of a mask over mean inside, of amounts that are not negative.

    With nothing on either side, the ratio is that of a constant map, 1.
    """
    if mask.all():
        raise NotApplicable("the object covers the picture, nothing is outside")
    inside, outside = float(amounts[mask].mean()), float(amounts[~mask].mean())
    if outside == inside:
        return 1.0
    return min(outside / inside, LARGEST_RATIO) if inside > 0 else LARGEST_RATIO


@metric(higher_is_better=False, missing=LARGEST_RATIO, needs_mask=True)
def outside_inside_all(sample: Sample) -> float:
    """Outside-inside ratio of relevance of both signs, by magnitude.

    ``mean_out |R| / mean_in |R|``, cut off at 100. A constant map has 1, a zero map, too.

    References
    ----------
    Nam et al. 2020, *Relative Attributing Propagation*, eq. 11, ALL; there the magnitude of the
    negative part is added to the positive.
    """
    return outside_inside(np.abs(sample.map), sample.object)


@metric(higher_is_better=False, missing=LARGEST_RATIO, needs_mask=True)
def outside_inside_pos(sample: Sample) -> float:
    """Outside-inside ratio of positive relevance.

    ``mean_out max(R, 0) / mean_in max(R, 0)``, cut off at 100. A map without positive relevance
    has 1, as a constant one.

    References
    ----------
    Nam et al. 2020, *Relative Attributing Propagation*, eq. 11, POS.
    """
    return outside_inside(np.maximum(sample.map, 0.0), sample.object)


@metric(higher_is_better=False, missing=LARGEST_RATIO, needs_mask=True)
def outside_inside_minmax(sample: Sample) -> float:
    """Outside-inside ratio of the map scaled to [0, 1].

    ``mean_out S / mean_in S`` with ``S = (R - min R) / (max R - min R)``, cut off at 100. A
    constant map can't be scaled, and has 1.

    References
    ----------
    Nam and Lee, *Gradient Hedging for Intensively Exploring Salient Interpretation beyond Neuron
    Activation*, eq. 14.
    """
    low, high = sample.map.min(), sample.map.max()
    span = high - low
    scaled = (sample.map - low) / span if span > 0 else np.zeros_like(sample.map)
    return outside_inside(scaled, sample.object)


def selected(sample: Sample, threshold: str, percentile: float) -> Bools:
    """The pixels above a threshold."""
    choice("threshold", threshold, ("paper", "mean", "zero", "median", "percentile"))
    if threshold == "paper":
        two_signed = sample.map.min() < 0 < sample.map.max()
        threshold = "zero" if two_signed else "mean"
    if threshold == "zero":
        limit = 0.0
    elif threshold == "mean":
        limit = float(sample.map.mean())
    else:
        if not 0 <= percentile <= 100:
            raise MethodError(f"percentile is a number from 0 to 100, not {percentile}")
        limit = float(np.percentile(sample.map, 50 if threshold == "median" else percentile))
    found: Bools = sample.map > limit
    return found


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def pixel_accuracy(sample: Sample, *, threshold: str = "paper", percentile: float = 75.0) -> float:
    """How many pixels a threshold on relevance assigns rightly to object and background.

    ``mean[(R > t) = mask]``. A constant map is a miss.

    Parameters
    ----------
    sample
        The case and its map.
    threshold
        ``"paper"``: 0 for a map of both signs, its mean for one of a single sign. ``"mean"``,
        ``"zero"``, ``"median"``, ``"percentile"``.
    percentile
        Of the threshold by percentile.

    References
    ----------
    Nam et al. 2020, *Relative Attributing Propagation*.
    """
    if sample.constant:
        return 0.0
    return float((selected(sample, threshold, percentile) == sample.object).mean())


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def miou(sample: Sample, *, threshold: str = "paper", percentile: float = 75.0) -> float:
    """Intersection over union of thresholded relevance, mean of object and background.

    ``(|S & M| / |S | M| + |~S & ~M| / |~S | ~M|) / 2`` with ``S = (R > t)`` and the mask M. Where a
    union is empty, the other term alone counts. A constant map is a miss. The thresholds are those
    of `pixel_accuracy`.

    References
    ----------
    Nam et al. 2020, *Relative Attributing Propagation*.
    """
    if sample.constant:
        return 0.0
    found = selected(sample, threshold, percentile)
    terms = []
    for one, other in ((found, sample.object), (~found, ~sample.object)):
        union = (one | other).sum()
        if union:
            terms.append((one & other).sum() / union)
    return float(np.mean(terms))


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def mean_average_precision(sample: Sample) -> float:
    """Average precision of relevance as a score for the pixels of the object.

    ``AP = sum_k (recall_k - recall_(k-1)) precision_k`` over the distinct values of the map as
    thresholds, so that equal values are one step. The mean over cases is the mAP. A constant map is
    a miss; a random one has about the share of the picture that the object covers.

    References
    ----------
    Nam et al. 2020, *Relative Attributing Propagation*; the definition of average
    precision is scikit-learn's.
    """
    if sample.constant:
        return 0.0
    values = sample.map.reshape(-1)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    hits = np.cumsum(sample.object.reshape(-1)[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    precision = hits[last] / (last + 1)
    recall = hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


@metric(higher_is_better=True, missing=0.0, needs_mask=True)
def rank_accuracy(sample: Sample) -> float:
    """Relevance rank accuracy: how many of the K most relevant pixels lie in the object.

    ``|top K & mask| / K`` with K the number of pixels of the object. Where pixels share the value
    at rank K, the share of them that a choice at random expects. A constant map is a miss.

    References
    ----------
    Arras et al. 2022, *CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural
    network explanations*.
    """
    if sample.constant:
        return 0.0
    count = int(sample.object.sum())
    return float((top_weights(sample.map, count) * sample.object).sum() / count)


def top_weights(values: Floats, count: int) -> Floats:
    """How much each pixel belongs to the top ``count``: 1, 0, or in between at a tie."""
    limit = np.partition(values.reshape(-1), values.size - count)[values.size - count]
    above, tied = values > limit, values == limit
    weights: Floats = above + tied * ((count - above.sum()) / tied.sum())
    return weights
