"""What the papers claim, and how each claim is judged from the results.

A claim that one method is better than another is judged by the difference of the two, case by case:
it *held* on a network where the 95 % interval of the mean difference (bootstrap over pictures, all
seeds together) is above zero and the mean is above zero for each seed; it *did not hold* where the
interval is below zero and so is each seed's mean; otherwise it can't be told from noise. A claim
about several pairs held where all of them held, and did not hold where one did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from evidence.plan import COMPOSITES, PHOTOGRAPHS, SHAPES, SIZED
from evidence.results import Column, Interval, Results, interval_of

HELD = "held"
FAILED = "did not hold"
NOISE = "can't be told from noise"
NEAR = 0.1
"""Values count as near each other where they differ by less than a tenth."""
FLAT = 0.9
"""A curve of accuracies counts as nearly flat where its mean height is above this."""
CHANGED = 0.5
"""A map counts as changed where its correlation with the original is below this."""
SINGLE = "single"
"""The split with one object a picture; of photographs, all are taken."""
LARGE, SMALL = 0.5, 0.25
"""Boxes that cover more than a half of the picture, and less than a quarter."""


@dataclass(frozen=True)
class Finding:
    """What was found of a claim on a network.

    Attributes
    ----------
    verdict
        `HELD`, `FAILED`, or `NOISE`.
    detail
        The numbers.
    """

    verdict: str
    detail: str


Judge = Callable[[Results, str], "Finding | None"]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes
    ----------
    key, paper, text
        What it is called, who claims it, and what.
    judge
        Judges it on one network; None where the network can't say anything about it.
    networks
        Those that the claim is about.
    """

    key: str
    paper: str
    text: str
    judge: Judge
    networks: tuple[str, ...]

    def findings(self, results: Results) -> dict[str, Finding]:
        """What was found on each network."""
        found = {n: self.judge(results, n) for n in self.networks if n in results.networks}
        return {network: finding for network, finding in found.items() if finding is not None}


MOST, MANY = 2 / 3, 1 / 3
"""Shares of the networks on which a claim has to hold, or fails, for the verdict over networks."""


def overall(findings: Sequence[Finding]) -> str:
    """The verdict over networks: held on most and failed on none, failed on many, or unknown."""
    verdicts = [finding.verdict for finding in findings]
    if not verdicts:
        return NOISE
    held, failed = (verdicts.count(one) / len(verdicts) for one in (HELD, FAILED))
    if failed >= MANY:
        return FAILED
    return HELD if held >= MOST and not failed else NOISE


def verdict_of(found: Interval) -> str:
    """Whether a difference is above zero, below it, or unknown."""
    if found.low > 0 and min(found.seeds) > 0:
        return HELD
    if found.high < 0 and max(found.seeds) < 0:
        return FAILED
    return NOISE


def number(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}"


def span(found: Interval) -> str:
    """A mean with its interval."""
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def better(
    results: Results,
    network: str,
    *,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    which: str | None = None,
    only: str = "",
) -> Finding | None:
    """Whether the first of each pair is better than the second."""
    found = {}
    for one, other in pairs:
        difference = results.difference(network, one, other, metric, which, only)
        if difference is not None:
            found[one, other] = difference
    if not found:
        return None
    verdicts = {pair: verdict_of(one) for pair, one in found.items()}
    counts = {v: sum(x == v for x in verdicts.values()) for v in (HELD, FAILED, NOISE)}
    verdict = FAILED if counts[FAILED] else HELD if counts[HELD] == len(found) else NOISE
    if len(found) == 1:
        ((one, other),) = found
        return Finding(verdict, f"{one} - {other}: {span(found[one, other])}")
    texts = [f"{counts[HELD]} of {len(found)} pairs"]
    for against in (FAILED, NOISE):
        names = [f"{a} / {b}" for (a, b), v in verdicts.items() if v == against]
        if names:
            texts.append(f"{'against' if against == FAILED else 'unclear'}: {', '.join(names)}")
    return Finding(verdict, "; ".join(texts))


def above_all(method: str, others: Sequence[str], metric: str, only: str = "") -> Judge:
    """Whether a method is better than each of others."""
    pairs = [(method, other) for other in others if other != method]
    return partial(better, metric=metric, pairs=pairs, only=only)


def each_above(pairs: Sequence[tuple[str, str]], metric: str, which: str | None = None) -> Judge:
    """Whether the first of each pair is better."""
    return partial(better, metric=metric, pairs=pairs, which=which)


def not_better(
    results: Results,
    network: str,
    *,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    which: str | None = None,
) -> Finding | None:
    """Whether none of the firsts is better than the second: the reverse of `better`."""
    found = better(results, network, metric=metric, pairs=pairs, which=which)
    differences = [results.difference(network, a, b, metric, which) for a, b in pairs]
    known = [verdict_of(one) for one in differences if one is not None]
    if found is None:
        return None
    if HELD in known:
        return Finding(FAILED, found.detail)
    return Finding(HELD if set(known) == {FAILED} else NOISE, found.detail)


def threshold(column: Column | None, limit: float, above: bool, text: str) -> Finding | None:
    """Whether a mean is above (or below) a limit, with all of its interval."""
    if column is None:
        return None
    sign = 1 if above else -1
    shifted = interval_of(column._replace(values=sign * (column.values - limit)))
    return Finding(verdict_of(shifted), f"{text}: {span(interval_of(column))}")


def level(explainer: str, metric: str, limit: float, above: bool) -> Judge:
    """Whether a metric is above (or below) a limit."""

    def judge(results: Results, network: str) -> Finding | None:
        return threshold(results.column(network, explainer, metric), limit, above, explainer)

    return judge


def alike(one: str, other: str, metric: str, tolerance: float) -> Judge:
    """Whether two methods differ by less than a share of the second's mean."""

    def judge(results: Results, network: str) -> Finding | None:
        found = results.difference(network, one, other, metric)
        reference = results.mean(network, other, metric)
        if found is None or reference is None:
            return None
        limit = tolerance * abs(reference.mean)
        detail = f"{one} - {other}: {span(found)}, near is {limit:.2g}"
        if -limit < found.low and found.high < limit:
            return Finding(HELD, detail)
        if found.low > limit or found.high < -limit:
            return Finding(FAILED, detail)
        return Finding(NOISE, detail)

    return judge


def same_maps(results: Results, network: str) -> Finding | None:
    """Whether LRP-z gives the maps of input x gradient: within rounding."""
    column = results.special(network, "distance")
    if column is None:
        return None
    largest = float(column.values.max())
    return Finding(HELD if largest < 1e-3 else FAILED, f"largest relative distance {largest:.1e}")


def same_places(results: Results, network: str) -> Finding | None:
    """Whether excitatory and inhibitory part correlate, and more than with edges."""
    parts, edges = (results.special(network, "signs", key) for key in ("parts", "edges"))
    if parts is None or edges is None:
        return None
    found = interval_of(parts)
    more = interval_of(parts._replace(values=parts.values - edges.values))
    verdicts = {
        verdict_of(interval_of(parts._replace(values=parts.values - CHANGED))),
        verdict_of(more),
    }
    verdict = FAILED if FAILED in verdicts else HELD if verdicts == {HELD} else NOISE
    detail = f"rank correlation {span(found)}, with edges {span(interval_of(edges))}"
    return Finding(verdict, detail)


def objects_matter(results: Results, network: str) -> Finding | None:
    """Whether hiding the object costs the logit more than hiding its context."""
    values, pictures, seeds = [], [], []
    for run in results.runs[network]:
        for case in run["occlusion"]:
            values.append(case["object"] - case["context"])
            pictures.append(f"{run['seed']}/{case['name']}")
            seeds.append(run["seed"])
    if not values:
        return None
    found = interval_of(Column(np.array(values), pictures, np.array(seeds)))
    return Finding(verdict_of(found), f"fall of the logit, object - context: {span(found)}")


def methods_meet(results: Results, network: str) -> Finding | None:
    """Whether methods differ less in mu where the box covers most of the picture."""
    if "boxes" not in results.runs[network][0]["sets"]:
        return None
    fractions = results.fractions(network, "boxes")
    columns = [results.column(network, name, "mu", "boxes") for name in SIZED]
    known = [column.values for column in columns if column is not None]
    if len(known) < 2 or any(len(values) != len(fractions) for values in known):
        return None
    spread = np.ptp(np.stack(known), axis=0)
    large, small = spread[fractions > LARGE], spread[fractions < SMALL]
    if not len(large) or not len(small):
        return None
    random = np.random.default_rng(0)
    draws = [
        random.choice(small, len(small)).mean() - random.choice(large, len(large)).mean()
        for _ in range(2000)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    verdict = HELD if low > 0 else FAILED if high < 0 else NOISE
    detail = (
        f"largest less smallest mu: {small.mean():.3g} below {SMALL:g} of the picture "
        f"({len(small)} cases), {large.mean():.3g} above {LARGE:g} ({len(large)})"
    )
    return Finding(verdict, detail)


def totals_hold(results: Results, network: str) -> Finding | None:
    """Whether the hedged relevance below a layer sums to gamma - 2."""
    shares, texts = [], []
    for gamma in ("1", "1.5"):
        column = results.special(network, "totals", gamma)
        if column is None:
            return None
        near = np.abs(column.values - (float(gamma) - 2)) < 1e-3
        shares.append(float(near.mean()))
        texts.append(f"gamma {gamma}: {near.mean():.0%} of {len(near)} sums")
    return Finding(HELD if min(shares) > 0.95 else FAILED, "; ".join(texts))


def degrades(results: Results, network: str) -> Finding | None:
    """Whether LRP-z is worse than a composite; by how much, the table shows by network."""
    return better(results, network, metric="mu_w", pairs=[("lrp_cmp_alpha2_flat", "lrp_z")])


RAP_POS = (
    "pattern_attribution",
    "guided_backprop",
    "lrp_alpha1_beta0",
    "lrp_alpha2_beta1",
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
)
RAP_ALL = ("lrp_alpha2_beta1", "input_x_gradient", "guided_backprop", "integrated_gradients")
GRADIENTS = (
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "fullgrad",
    "lrp_alpha1_beta0",
    "lrp_alpha2_beta1",
    "excitation_backprop",
    "rap",
)
UNIFORM = ("lrp_alpha1_beta0", "lrp_alpha2_beta1", "guided_backprop")
WITH_BATCH_NORM = ("shapes_vgg_bn", "shapes_resnet", "shapes_inception", "shapes_densenet")
PICTURES = (*SHAPES, PHOTOGRAPHS)
GAMMAS = [("hedge", "hedge[gamma=1.5]"), ("hedge[gamma=1.5]", "hedge[gamma=2]")]
TERMS = [("hedge", f"hedge[terms={terms}]") for terms in ("C", "CS", "AU", "CAU")]

CLAIMS = (
    Claim(
        "rap-outside-inside-pos",
        "RAP",
        "Positive relevance lies inside a single object: lowest outside-inside ratio (POS)",
        above_all("rap", RAP_POS, "outside_inside_pos", SINGLE),
        PICTURES,
    ),
    Claim(
        "rap-outside-inside-all",
        "RAP",
        "So does relevance of both signs: lowest outside-inside ratio (ALL)",
        above_all("rap", RAP_ALL, "outside_inside_all", SINGLE),
        PICTURES,
    ),
    Claim(
        "rap-miou",
        "RAP",
        "Highest mIoU on single objects",
        above_all("rap", RAP_POS, "miou", SINGLE),
        PICTURES,
    ),
    Claim(
        "rap-lerf",
        "RAP",
        f"Accuracy stays nearly flat (mean above {FLAT:g}) as the least relevant pixels go (LeRF)",
        level("rap", "lerf", FLAT, above=True),
        PICTURES,
    ),
    Claim(
        "rap-signs",
        "RAP",
        "The excitatory and the inhibitory part light the same places",
        same_places,
        PICTURES,
    ),
    Claim(
        "rapbn-negative",
        "RAP-BN",
        "Accuracy without the 10,000 most negative pixels (of 224 x 224) is above that of "
        "alpha-beta (2, 1) and input x gradient",
        above_all("rap-bn", ("lrp_alpha2_beta1", "input_x_gradient"), "remove_negative"),
        WITH_BATCH_NORM,
    ),
    Claim(
        "rapbn-negative-all",
        "RAP-BN",
        "The same without all negative pixels",
        above_all(
            "rap-bn", ("lrp_alpha2_beta1", "input_x_gradient"), "remove_negative(everything=True)"
        ),
        WITH_BATCH_NORM,
    ),
    Claim(
        "rapbn-dk",
        "RAP-BN",
        "The most relevant pixels lie together: smallest D_K",
        above_all("rap-bn", RAP_POS, "d_k"),
        WITH_BATCH_NORM,
    ),
    Claim(
        "hedge-pointing",
        "Hedge",
        "Pointing game: hedging above Grad-CAM",
        above_all("hedge", ("gradcam",), "pointing_game"),
        PICTURES,
    ),
    Claim(
        "hedge-pointing-cam",
        "Hedge",
        "Pointing game: Grad-CAM above the rest",
        above_all("gradcam", GRADIENTS, "pointing_game"),
        PICTURES,
    ),
    Claim(
        "hedge-positive-ratio",
        "Hedge",
        "Lowest share of positive pixels",
        above_all("hedge", (*GRADIENTS, "gradcam"), "positive_ratio"),
        PICTURES,
    ),
    Claim(
        "hedge-classes",
        "Hedge",
        "Maps of two classes differ more than those of RAP and FullGrad",
        above_all("hedge", ("rap", "fullgrad"), "class_sensitivity"),
        PICTURES,
    ),
    Claim(
        "hedge-gamma",
        "Hedge",
        "The pointing game improves as gamma falls from 2 over 1.5 to 1",
        each_above(GAMMAS, "pointing_game"),
        PICTURES,
    ),
    Claim(
        "hedge-insertion",
        "Hedge",
        "The score rises fastest as the most relevant pixels are inserted",
        above_all("hedge", (*GRADIENTS, "gradcam"), "morf_insertion"),
        PICTURES,
    ),
    Claim(
        "hedge-terms",
        "Hedge",
        "All terms together point better than C, C + S, A + U and C + A + U",
        each_above(TERMS, "pointing_game"),
        PICTURES,
    ),
    Claim(
        "hedge-total",
        "Hedge",
        "The relevance below each hedged layer sums to gamma - 2 (within 0.001, in 95 % of them)",
        totals_hold,
        ("shapes_vgg", "shapes_vgg_bn"),
    ),
    Claim(
        "hedge-randomization",
        "Hedge",
        f"Random weights change the map (mean correlation below {CHANGED:g})",
        level("hedge", "randomisation", CHANGED, above=False),
        PICTURES,
    ),
    Claim(
        "cmp-composites",
        "CMP",
        "Every composite localizes better (mu_w) than alpha-beta (2, 1)",
        each_above([(c, "lrp_alpha2_beta1") for c in COMPOSITES], "mu_w"),
        PICTURES,
    ),
    Claim(
        "cmp-alpha-beta",
        "CMP",
        "Alpha-beta (2, 1) localizes better (mu_w) than (1, 0)",
        each_above([("lrp_alpha2_beta1", "lrp_alpha1_beta0")], "mu_w"),
        PICTURES,
    ),
    Claim(
        "cmp-flat-alpha2",
        "CMP",
        "The flat rule helps alpha 2 (mu_w)",
        each_above([("lrp_cmp_alpha2_flat", "lrp_cmp_alpha2")], "mu_w"),
        PICTURES,
    ),
    Claim(
        "cmp-flat-alpha1",
        "CMP",
        "The flat rule does not help alpha 1 (mu_w)",
        partial(not_better, metric="mu_w", pairs=[("lrp_cmp_alpha1_flat", "lrp_cmp_alpha1")]),
        PICTURES,
    ),
    Claim("cmp-z", "CMP", "LRP-z gives the maps of input x gradient", same_maps, PICTURES),
    Claim(
        "cmp-depth",
        "CMP",
        "LRP-z localizes worse (mu_w) than a composite (by how much with depth: see below)",
        degrades,
        PICTURES,
    ),
    Claim(
        "cmp-pattern",
        "CMP",
        "Pattern attribution localizes nearly as alpha-beta (1, 0) does (mu_w within a tenth)",
        alike("pattern_attribution", "lrp_alpha1_beta0", "mu_w", NEAR),
        SHAPES,
    ),
    Claim(
        "cmp-single",
        "CMP",
        "Plain mu does not favour composites over alpha-beta (1, 0) on single objects",
        partial(
            not_better,
            metric="mu",
            pairs=[(c, "lrp_alpha1_beta0") for c in COMPOSITES],
            which="boxes",
        ),
        SHAPES,
    ),
    Claim(
        "cmp-large",
        "CMP",
        "Above half of the picture all methods meet: mu differs less than on small objects",
        methods_meet,
        SHAPES,
    ),
    Claim(
        "cmp-occlusion",
        "CMP",
        "Hiding the object lowers the logit more than hiding the context",
        objects_matter,
        PICTURES,
    ),
    Claim(
        "cmp-classes",
        "CMP",
        "Maps of composites differ between classes more than those of one rule everywhere and of "
        "guided backprop",
        each_above([(c, u) for c in COMPOSITES for u in UNIFORM], "class_sensitivity"),
        PICTURES,
    ),
)
