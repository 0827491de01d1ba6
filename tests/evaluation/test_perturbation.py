"""Perturbation metrics on linear networks, whose curves can be computed by hand."""

import numpy as np
import pytest
import torch

from graphprop.errors import MethodError
from graphprop.evaluation.fills import blurred, canvas, filler, harmonic, neighbors
from graphprop.evaluation.perturbation import (
    area,
    correlation,
    ranks_of,
    steps_up_to,
    values_of,
)
from graphprop.evaluation.registry import METRICS, NotApplicable, find_metric
from support.evaluation import Fixed, Linear, sample

NAMES = (
    "lerf morf aopc deletion insertion morf_insertion remove_positive remove_negative "
    "occlusion_agreement"
).split()


def counting(values):
    """A sample whose first logit is the number of pixels left, the second half of them."""
    values = np.asarray(values, dtype=float)
    weight = torch.stack([torch.ones(1, *values.shape), torch.zeros(1, *values.shape)])
    explainer = Fixed(values, weight)
    return sample(values, explainer=explainer)


def value(name, one):
    (found,) = find_metric(name).values([one])
    return found


def ramp(side=16):
    return np.arange(side * side, dtype=float).reshape(side, side)


def test_deletion_by_hand():
    one = counting(ramp())
    assert value("deletion:value=logit,points=4", one) == pytest.approx(128)
    assert one.curves["curve"] == ([0, 0.25, 0.5, 0.75, 1], [256, 192, 128, 64, 0])
    p = [1 / (1 + np.exp(-n)) for n in (256, 192, 128, 64, 0)]
    assert value("deletion:points=4", one) == pytest.approx(area(np.arange(5), np.array(p)))


def test_values_of_predictions():
    logits = np.array([[1.0, 3.0], [-900.0, 900.0]])
    one = counting(ramp())
    assert values_of(one, logits, "logit").tolist() == [1, -900]
    assert values_of(one, logits, "score") == pytest.approx([1 / (1 + np.exp(2)), 0])
    assert values_of(one, logits, "sigmoid") == pytest.approx([1 / (1 + np.exp(-1)), 0])
    assert values_of(one, logits, "accuracy").tolist() == [0, 0]


def test_insertion_by_hand():
    one = counting(ramp())
    assert value("insertion:value=logit,points=2,fill=zero", one) == pytest.approx(128)
    assert one.curves["curve"][1] == [0, 128, 256]
    # 256 pixels, k percent of them, rounded
    expected = np.mean([round(256 * k / 100) for k in range(1, 21)])
    assert value("morf_insertion:value=logit,fill=zero", one) == pytest.approx(expected)


def half_network(side=16):
    """Class 0 is the sum over the left half, class 1 that over the right half."""
    weight = torch.zeros(2, 1, side, side)
    weight[0, :, :, : side // 2] = 1
    weight[1, :, :, side // 2 :] = 1
    return weight


def halves(values, ratio=0.9):
    image = torch.ones(1, 16, 16)
    image[:, :, 8:] = ratio
    return sample(values, image=image, explainer=Fixed(values, half_network()))


def test_accuracy_curves_by_hand():
    left = np.zeros((16, 16))
    left[:, :8] = 1
    one = halves(left)
    # 128 against 115.2: the 13th pixel of the left half changes the class
    options = "pixels=3920,step=196"  # 20 steps of a pixel at 16 x 16
    assert steps_up_to(3920, 196, 256).tolist() == list(range(21))
    assert value(f"morf:{options}", one) == pytest.approx(12.5 / 20)
    assert one.curves["curve"][1] == [1] * 13 + [0] * 8
    assert value(f"lerf:{options}", one) == 1
    assert value(f"lerf:{options}", halves(-left)) == pytest.approx(12.5 / 20)


def test_a_tie_is_no_prediction():
    one = halves(ramp(), ratio=1.0)
    # the pixel of the largest relevance lies in the right half: then the left one is larger
    assert value("morf:pixels=196,step=196", one) == pytest.approx(0.5)
    assert one.curves["curve"][1] == [0, 1]


def test_aopc_by_hand():
    values = np.zeros((9, 9))
    values[4, 4] = 1
    one = counting(values)
    # at 9 x 9 a patch is one pixel, and one patch in the end: f falls by one
    assert value("aopc:fill=zero,value=logit,points=1,patches=1", one) == pytest.approx(0.5)
    every = "aopc:fill=zero,value=logit,points=81,patches=625"
    assert value(every, one) == pytest.approx(81 / 2)


def test_aopc_of_patches():
    values = np.zeros((224, 224))
    values[9:18, 0:9] = 1
    image = torch.zeros(1, 224, 224)
    image[:, 9:18, 0:9] = 1
    weight = torch.stack([torch.ones(1, 224, 224), torch.zeros(1, 224, 224)])
    one = sample(values, image=image, explainer=Fixed(values, weight))
    found = value("aopc:patches=1,points=1,fill=zero,value=logit", one)
    assert found == pytest.approx(81 / 2)  # none, then all 81 pixels of the only patch that counts


def test_removal_by_sign():
    values = np.zeros((16, 16))
    values[:, :8], values[:, 8:] = 1, -1
    one = halves(values, ratio=0.75)
    # the picture's minimum is 0.75: without its positive pixels, the halves are equal
    assert value("remove_positive:everything=true", one) == 0
    assert value("remove_negative:everything=true", one) == 1
    assert value("remove_positive:everything=true,fill=zero", one) == 0
    assert value("remove_negative:everything=true,fill=zero,value=score", one) == pytest.approx(1)
    step = 224 * 224 / 256
    found = value(f"remove_positive:largest={40 * step},steps=40,fill=zero", one)
    assert found == pytest.approx(31 / 40)  # 96 of 128 pixels are a tie


def test_nothing_of_a_sign_to_remove():
    one = counting(np.abs(ramp()))
    assert str(value("remove_negative", one)) == "no negative relevance to remove"
    assert isinstance(value("remove_positive", counting(-ramp() - 1)), NotApplicable)


def test_occlusion_agreement():
    weight = torch.stack([torch.from_numpy(ramp(8)).float()[None], torch.zeros(1, 8, 8)])
    image = torch.ones(1, 8, 8)
    image[0, 0, 0] = 1  # the fill's mean is then the picture: use zero
    agree = sample(ramp(8), image=image, explainer=Fixed(ramp(8), weight))
    assert value("occlusion_agreement:fill=zero", agree) == pytest.approx(1)
    against = sample(-ramp(8), image=image, explainer=Fixed(-ramp(8), weight))
    assert value("occlusion_agreement:fill=zero", against) == pytest.approx(-1)
    assert value("occlusion_agreement", agree) == 0  # no occlusion has an effect


def test_ranks_and_correlation():
    assert ranks_of(np.array([3.0, 1, 3, 0])).tolist() == [3.5, 2, 3.5, 1]
    random = np.random.default_rng(0)
    a, b = random.random(20).round(1), random.random(20).round(1)
    assert correlation(a, b, 0) == pytest.approx(np.corrcoef(a, b)[0, 1])
    scipy = pytest.importorskip("scipy.stats")
    expected = scipy.spearmanr(a, b).statistic
    assert correlation(ranks_of(a), ranks_of(b), 0) == pytest.approx(expected)
    assert correlation(a, np.ones(20), 0.25) == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_a_map_that_is_not_finite_is_the_worst(name):
    values = ramp()
    values[3, 3] = np.nan
    metric = METRICS[name]
    found = value(name, counting(values))
    assert found == metric.worst(counting(values))
    assert found == (
        {"aopc": -1, "occlusion_agreement": -1}.get(name, 0) if metric.higher_is_better else 1
    )


def test_a_constant_map_removes_in_random_order():
    orders = [sample(np.zeros((16, 16)), seed=seed).order for seed in (0, 0, 1)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    assert sorted(orders[0]) == list(range(256))
    assert abs(np.corrcoef(orders[0], np.arange(256))[0, 1]) < 0.2
    for name, worst in (("remove_positive", 1), ("remove_negative", 0), ("occlusion_agreement", 0)):
        assert value(name, counting(np.ones((16, 16)))) == worst


def test_order_is_from_the_largest():
    one = sample(ramp())
    assert one.order.tolist() == list(range(255, -1, -1))


@pytest.mark.parametrize("name", NAMES)
def test_the_right_map_beats_a_random_one(name):
    """A linear network with one informative region; its own map is input times weight."""
    random = np.random.default_rng(0)
    weight = torch.zeros(2, 1, 32, 32)
    weight[0, 0, 4:14, 4:14] = 1
    weight[1, 0, 18:28, 18:28] = 1
    image = torch.from_numpy(random.random((1, 32, 32))).float() * 0.1
    image[0, 4:14, 4:14] += 0.5
    image[0, 18:28, 18:28] += 0.35
    network = Linear(weight)
    right = (image[0] * (weight[0] - weight[1])[0]).double().numpy()
    metric = METRICS[name]
    if name in ("lerf", "remove_negative"):  # accuracy alone: so few pixels change no class
        name += ":value=logit,fill=zero"
    better = value(name, sample(right, image=image, explainer=network))
    others = [
        value(name, sample(random.standard_normal((32, 32)), image=image, explainer=network))
        for _ in range(5)
    ]
    assert better > np.mean(others) if metric.higher_is_better else better < np.mean(others)


# What stands in for a removed pixel.


def picture(channels=2, side=12):
    image = torch.from_numpy(np.random.default_rng(5).random((channels, side, side))).float()
    return sample(
        np.zeros((side, side)), image=image, explainer=Linear(torch.zeros(1, *image.shape))
    )


@pytest.mark.parametrize("fill", ["zero", "minimum", "mean", "noise", "blur", "shuffle", "road"])
def test_only_removed_pixels_change(fill):
    one = picture()
    removed = np.zeros((12, 12), dtype=bool)
    removed[2:5, 3:9] = True
    before = one.image.clone()
    found = filler(one, fill)(removed)
    keep = torch.from_numpy(~removed)
    assert torch.equal(one.image, before)
    assert torch.equal(found[:, keep], one.image[:, keep])
    assert not torch.equal(found, one.image)
    assert torch.equal(found, filler(one, fill)(removed))
    assert torch.isfinite(filler(one, fill)(np.ones((12, 12), dtype=bool))).all()
    assert torch.equal(filler(one, fill)(np.zeros((12, 12), dtype=bool)), one.image)


def test_levels():
    one = picture()
    assert (canvas(one, "zero") == 0).all()
    assert torch.equal(canvas(one, "minimum")[:, 3, 3], one.image.flatten(1).amin(1))
    torch.testing.assert_close(canvas(one, "mean")[:, 3, 3], one.image.mean((1, 2)))
    noise = canvas(one, "noise").flatten(1)
    assert (noise >= one.image.flatten(1).amin(1, keepdim=True)).all()
    assert (noise <= one.image.flatten(1).amax(1, keepdim=True)).all()


def test_shuffled_pixels_keep_their_values():
    one = picture()
    removed = np.zeros((12, 12), dtype=bool)
    removed[:6] = True
    found = filler(one, "shuffle")(removed)
    there = torch.from_numpy(removed)
    columns = [tuple(pixel) for pixel in found[:, there].T.tolist()]
    assert sorted(columns) == sorted(tuple(p) for p in one.image[:, there].T.tolist())


def test_blur_keeps_a_constant_and_smooths():
    flat = torch.full((3, 9, 11), 0.7)
    torch.testing.assert_close(blurred(flat), flat)
    noise = torch.rand(1, 40, 40)
    assert blurred(noise).std() < noise.std() / 3
    spot = torch.zeros(1, 41, 41)
    spot[0, 20, 20] = 1
    smooth = blurred(spot, sigma=2.0)[0]
    y = torch.arange(41.0) - 20
    expected = torch.exp(-(y[:, None] ** 2 + y[None] ** 2) / 8)
    torch.testing.assert_close(
        smooth / smooth.max(), expected, atol=0.012, rtol=0
    )  # cut off at 3 sigma


def test_imputation_solves_its_linear_system():
    random = np.random.default_rng(2)
    image, removed = random.random((2, 7, 6)), random.random((7, 6)) < 0.6
    matrix = np.zeros((42, 42))
    for k in range(42):
        unit = np.zeros(42)
        unit[k] = 1
        matrix[:, k] = sum(neighbors(unit.reshape(7, 6))).reshape(-1)
    matrix /= matrix.sum(1, keepdims=True)  # each is a mean of its neighbors
    missing = removed.reshape(-1)
    left = np.eye(42)[np.ix_(missing, missing)] - matrix[np.ix_(missing, missing)]
    found = harmonic(image, removed)
    for channel in range(2):
        known = image[channel].reshape(-1)[~missing]
        expected = np.linalg.solve(left, matrix[np.ix_(missing, ~missing)] @ known)
        assert found[channel][removed] == pytest.approx(expected, abs=1e-3)


def test_direct_neighbors_weigh_twice_as_much():
    one = np.zeros((5, 5))
    one[2, 2] = 12
    spread = sum(neighbors(one))
    assert spread[1:4, 1:4] == pytest.approx(np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("morf:step=0", "step must be above 0 and at most 4000, not 0"),
        ("morf:fill=black", "fill is 'zero' or"),
        (
            "morf:value=logits",
            "value is 'accuracy' or 'score' or 'sigmoid' or 'logit', not 'logits'",
        ),
        ("deletion:points=0", "points is a number from 1, not 0"),
        ("morf_insertion:percent=0", "percent is an integer from 1 to 100"),
        ("remove_positive:steps=0", "steps is a number from 1, not 0"),
        ("occlusion_agreement:grid=1", "grid is a number from 2, not 1"),
    ],
)
def test_options_that_cannot_be(name, message):
    with pytest.raises(MethodError, match=message):
        value(name, counting(ramp()))
