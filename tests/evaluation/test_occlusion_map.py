"""Occlusion as a baseline: how far the logit falls, window by window."""

import numpy as np
import pytest
import torch

from graphprop.errors import InputError
from graphprop.evaluation import Case, baselines, evaluate
from graphprop.evaluation.baselines import SlidingOcclusion
from support.evaluation import Linear


def network(channels=2, height=12, width=12, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (classes, channels, height, width)
    return Linear(torch.randn(shape, generator=generator, dtype=torch.float64))


def pictures(count, channels=2, height=12, width=12):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(count, channels, height, width)))


def by_hand(picture, weight, windows):
    """For a linear network: what a window loses is known without covering anything."""
    lost = (weight * (picture - picture.mean((1, 2), keepdim=True))).sum(0)
    found, count = torch.zeros_like(lost), torch.zeros_like(lost)
    for rows, columns in windows:
        found[rows, columns] += lost[rows, columns].sum()
        count[rows, columns] += 1
    return torch.where(count > 0, found / count, 0.0)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_of_a_linear_network(batch_size):
    """The last window ends at the edge, where the stride does not lead there."""
    linear, x = network(height=9, width=12), pictures(2, height=9)
    targets = torch.tensor([2, 0])
    occlusion = SlidingOcclusion(linear, window=4, stride=3, batch_size=batch_size)
    logits, maps = occlusion(x, targets)
    torch.testing.assert_close(logits, linear.logits(x))
    windows = [
        (slice(top, top + 4), slice(left, left + 4)) for top in (0, 3, 5) for left in (0, 3, 6, 8)
    ]
    for one, target, found in zip(x, targets, maps, strict=True):
        torch.testing.assert_close(found[0], by_hand(one, linear.weight[target], windows))


def test_places_between_windows_have_zero():
    linear, x = network(), pictures(1)
    _, found = SlidingOcclusion(linear, window=2, stride=5)(x, torch.tensor([1]))
    covered = torch.zeros(12, 12, dtype=torch.bool)
    for top in (0, 5, 10):
        for left in (0, 5, 10):
            covered[top : top + 2, left : left + 2] = True
    assert torch.equal(found[0, 0] != 0, covered)


def test_default_window():
    occlusion = SlidingOcclusion(network())
    assert occlusion.corners(64, 80) == (
        [(top, left) for top in range(0, 57, 4) for left in range(0, 73, 4)],
        8,
    )
    assert occlusion.corners(5, 3)[1] == 1


def test_equal_to_captum():
    attribution = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(400, 3)
    )
    model, x = model.double().eval(), pictures(2)
    targets = torch.tensor([1, 2])
    with torch.no_grad():
        expected = attribution.Occlusion(model).attribute(
            x,
            sliding_window_shapes=(2, 4, 4),
            strides=(2, 2, 2),
            target=targets,
            baselines=x.mean((2, 3), keepdim=True).expand_as(x),
        )
        explainer = SlidingOcclusion(lambda x, target: (model(x), x), window=4, stride=2)
        found = explainer(x, targets)[1]
    # captum computes its maps in single precision
    torch.testing.assert_close(found.expand_as(x).float(), expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"window": 13}, {"window": 0}, {"stride": 0}], ids=str)
def test_windows_that_do_not_fit_are_refused(options):
    with pytest.raises(InputError, match="don't fit a picture of 12 x 12"):
        SlidingOcclusion(network(), **options)(pictures(1), torch.tensor([0]))


def test_logits_of_perturbed_pictures_cover_nothing():
    """A metric that classifies pictures costs a forward pass each, not one for every window."""
    counted = []

    def explainer(x, target):
        counted.append(len(x))
        return x.mean((2, 3)), x

    sliding = SlidingOcclusion(explainer, window=4, stride=2)
    assert sliding.logits(pictures(3)).shape == (3, pictures(3).shape[1])
    assert counted == [3]


def test_in_an_evaluation():
    """Of an additive network, it finds the place that decides, and the other baselines don't."""
    linear = Linear(torch.ones(2, 1, 16, 16))
    cases = []
    for top, left in ((2, 3), (9, 4), (5, 11)):
        image, mask = torch.rand(1, 16, 16) * 0.1, torch.zeros(16, 16, dtype=torch.bool)
        mask[top : top + 3, left : left + 3] = True
        cases.append(Case((image + mask * 5.0).float(), 0, mask.numpy()))
    names = ["occlusion", "random"]
    found = evaluate(baselines(linear, names), cases, ["pointing_game"])
    assert found.row("occlusion", "pointing_game")["mean"] == 1.0
    assert "occlusion" not in baselines(linear)
