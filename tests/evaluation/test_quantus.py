"""Metrics that Quantus defines, too: the same numbers on the same maps.

It is no dependency of the tests: where it isn't installed, the cases computed by hand remain.
"""

import warnings

import numpy as np
import pytest
import torch

from graphprop.evaluation.registry import find_metric
from support.evaluation import Fixed, sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus")

QUIET = {
    "abs": False,
    "normalise": False,
    "return_aggregate": False,
    "disable_warnings": True,
    "display_progressbar": False,
}
COUNT, SIDE = 5, 8


class Net(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x):
        return torch.einsum("nchw,kchw->nk", x, self.weight)


@pytest.fixture(params=["both signs", "positive"])
def drawn(request):
    random = np.random.default_rng(7)
    maps = random.standard_normal((COUNT, SIDE, SIDE))
    if request.param == "positive":
        maps = np.abs(maps)
    masks = np.zeros((COUNT, SIDE, SIDE), dtype=bool)
    for number in range(COUNT):
        masks[number, number % 4 : number % 4 + 3, 2:6] = True
    images = random.random((COUNT, 1, SIDE, SIDE)).astype(np.float32)
    weight = torch.from_numpy(random.standard_normal((3, 1, SIDE, SIDE))).float()
    return maps, masks, images, weight


def ours(name, drawn):
    maps, masks, images, weight = drawn
    samples = [
        sample(one, mask, image=torch.from_numpy(image), explainer=Fixed(one, weight), index=number)
        for number, (one, mask, image) in enumerate(zip(maps, masks, images, strict=True))
    ]
    return find_metric(name).values(samples), samples


def theirs(metric, drawn):
    maps, masks, images, weight = drawn
    return metric(
        model=Net(weight).eval(),
        x_batch=images,
        y_batch=np.zeros(COUNT, dtype=int),
        a_batch=maps[:, None],
        s_batch=masks[:, None],
        device="cpu",
    )


@pytest.mark.parametrize(
    ("name", "metric", "options"),
    [
        ("pointing_game", "PointingGame", {}),
        ("rank_accuracy", "RelevanceRankAccuracy", {}),
        ("entropy", "Complexity", {"abs": True}),
        ("gini", "Sparseness", {"abs": True}),
    ],
)
def test_the_same_as_quantus(name, metric, options, drawn):
    expected = theirs(getattr(quantus, metric)(**{**QUIET, **options}), drawn)
    found, _ = ours(name, drawn)
    # Quantus adds 1e-7 to magnitudes
    assert found == pytest.approx(np.asarray(expected, dtype=float).tolist(), abs=1e-5)


def test_mu_is_attribution_localisation(drawn):
    expected = theirs(quantus.AttributionLocalisation(**QUIET, positive_attributions=True), drawn)
    maps, *_ = drawn
    if (maps > 0).all():
        assert ours("mu", drawn)[0] == pytest.approx(expected)


def test_deletion_is_pixel_flipping(drawn):
    metric = quantus.PixelFlipping(**QUIET, features_in_step=4, perturb_baseline=0.0)
    expected = theirs(metric, drawn)
    _, samples = ours("deletion:points=16", drawn)
    for one, curve in zip(samples, expected, strict=True):
        assert one.curves["curve"][1][1:] == pytest.approx(curve, abs=1e-5)


def test_what_quantus_does_otherwise(drawn):
    """What docs/evaluation.md says of it."""
    maps, masks, images, weight = drawn
    levels = np.arange(1.0, COUNT + 1)[:, None, None]  # it refuses a batch of one value
    flat = (np.ones_like(maps) * levels, masks, images, weight)
    assert all(theirs(quantus.PointingGame(**QUIET), flat))
    assert ours("pointing_game", flat)[0] == [0] * COUNT
    weighted = quantus.AttributionLocalisation(**QUIET, positive_attributions=True, weighted=True)
    positive = (np.abs(maps), masks, images, weight)
    fractions = masks.mean((1, 2))
    mu, mu_w = (np.array(ours(name, positive)[0]) for name in ("mu", "mu_w"))
    found = np.array(theirs(weighted, positive))
    # times the share instead of divided by it, and the share is one of all but two pictures
    assert found == pytest.approx(mu * fractions / (COUNT - 2))
    assert mu_w == pytest.approx(mu / fractions)
