"""Localization metrics, each by a case that is computed by hand, and their laws."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from graphprop.errors import MethodError
from graphprop.evaluation.localization import LARGEST_RATIO, grown, is_predicted, top_weights
from graphprop.evaluation.registry import NotApplicable, find_metric
from support.evaluation import mask_of, sample

MASK = """
##..
##..
....
"""
MAP = [[4, 2, 1, 0], [1, 0, 0, 1], [0, 0, 1, -2]]


def value(name, values=MAP, mask=MASK, **options):
    (found,) = find_metric(name).values([sample(values, mask, **options)])
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pointing_game", 1.0),
        ("mu", 7 / 10),  # 4 + 2 + 1 of 4 + 2 + 1 + 1 + 1 + 1
        ("mu_w", 0.7 * 12 / 4),
        ("mu_50", 0.7),
        ("outside_inside_all", (5 / 8) / (7 / 4)),
        ("outside_inside_pos", (3 / 8) / (7 / 4)),
        ("outside_inside_minmax", ((3 + 8 * 2 - 2) / 8) / ((7 + 4 * 2) / 4)),
        ("pixel_accuracy", 8 / 12),  # two signs: above 0 lie three of the object and three others
        ("miou", (3 / 7 + 5 / 9) / 2),
        ("pixel_accuracy:threshold=mean", 8 / 12),  # the mean is 8 / 12, the same pixels
        ("pixel_accuracy:threshold=percentile,percentile=90", 10 / 12),  # 4 and 2
        ("miou:threshold=percentile,percentile=90", (2 / 4 + 8 / 10) / 2),
        ("rank_accuracy", (2 + 2 * 1 / 4) / 4),  # two of the four ones, of which one lies inside
    ],
)
def test_by_hand(name, expected):
    assert value(name) == pytest.approx(expected, abs=1e-12)


def test_mu_of_small_objects():
    assert isinstance(value("mu_25"), NotApplicable)
    assert "covers more than 25%" in str(value("mu_25"))
    small = "#...\n....\n...."
    assert value("mu_25", mask=small) == pytest.approx(0.4)
    assert value("mu_50", mask=small) == pytest.approx(0.4)
    assert isinstance(value("mu_50", mask="####\n###.\n...."), NotApplicable)


def test_one_sign_is_split_at_the_mean():
    values = [[3, 1], [1, 1]]
    assert value("pixel_accuracy", values, "#.\n..") == 1.0
    assert value("pixel_accuracy:threshold=zero", values, "#.\n..") == 0.25
    assert value("miou", [[-1, -3], [-3, -3]], "#.\n..") == 1.0


def test_average_precision_is_scikit_learns():
    random = np.random.default_rng(0)
    for rounded in (0, 1, 8):
        values = random.standard_normal((9, 7)).round(rounded)
        mask = random.random((9, 7)) < 0.3
        expected = average_precision_score(mask.reshape(-1), values.reshape(-1))
        assert value("mean_average_precision", values, mask) == pytest.approx(expected, abs=1e-12)


def test_ties_at_the_largest_pixel():
    values = [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert value("pointing_game", values) == pytest.approx(2 / 3)


def test_ties_at_rank_k():
    assert top_weights(np.array([3.0, 1.0, 1.0, 0.0]), 2) == pytest.approx([1, 0.5, 0.5, 0])
    assert top_weights(np.array([3.0, 1.0, 1.0, 0.0]), 4).sum() == pytest.approx(4)


def test_tolerance_is_a_distance_to_the_object():
    values = np.zeros((9, 9))
    values[8, 4] = 1
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    assert value("pointing_game:tolerance=4", values, mask) == 0
    assert value("pointing_game:tolerance=4.5", values, mask) == 1
    assert value("pointing_game", values, mask) == 0


@pytest.mark.parametrize("distance", [0, 1, 1.5, 2, 3.7, 5, 15])
def test_growth_accepts_what_is_nearer(distance):
    """TorchRay's definition: a point hits where some pixel of the mask is nearer than that."""
    mask = np.random.default_rng(1).random((12, 17)) < 0.03
    rows, columns = np.nonzero(mask)
    for y in range(12):
        for x in range(17):
            near = ((rows - y) ** 2 + (columns - x) ** 2 < distance**2).any() or mask[y, x]
            assert grown(mask, distance)[y, x] == near


def test_difficult_and_predicted_cases():
    assert isinstance(value("pointing_game:cases=difficult"), NotApplicable)
    small = "#...\n....\n...."
    assert isinstance(value("pointing_game:cases=difficult", mask=small), NotApplicable)
    assert value("pointing_game:cases=difficult", mask=small, labels=(0, 2)) == 1
    # all logits of the network are zero, so that no class is predicted before another
    assert isinstance(value("pointing_game:targets=predicted"), NotApplicable)
    assert value("pointing_game:targets=predicted", labels=(0, 1, 2)) == 1
    one = sample(MAP, MASK)
    assert is_predicted(np.array([2.0, 1.0]), one)
    assert not is_predicted(np.array([1.0, 1.0]), one)
    assert not is_predicted(np.array([2.0, np.nan]), one)
    assert not is_predicted(np.array([np.nan, 1.0]), one)


CONSTANT = np.full((3, 4), 2.0)
ZERO = np.zeros((3, 4))
PICK = (
    "pointing_game",
    "pixel_accuracy",
    "miou",
    "mean_average_precision",
    "rank_accuracy",
)


@pytest.mark.parametrize("name", PICK)
@pytest.mark.parametrize("values", [CONSTANT, ZERO, -CONSTANT])
def test_a_constant_map_is_a_miss(name, values):
    assert value(name, values) == 0
    assert value(name, values, np.ones((3, 4), dtype=bool)) == 0


@pytest.mark.parametrize(
    ("name", "constant", "zero"),
    [
        ("mu", 1 / 3, 0),
        ("mu_w", 1, 0),
        ("mu_50", 1 / 3, 0),
        ("outside_inside_all", 1, 1),
        ("outside_inside_pos", 1, 1),
        ("outside_inside_minmax", 1, 1),
    ],
)
def test_ratios_of_a_constant_map_are_those_of_chance(name, constant, zero):
    assert value(name, CONSTANT) == pytest.approx(constant)
    assert value(name, ZERO) == zero


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*PICK, "mu", "mu_w", "mu_50", "mu_25"])
def test_a_map_that_is_not_finite_is_a_miss(name, bad):
    values = np.array(MAP, dtype=float)
    values[0, 0] = bad
    assert value(name, values) == 0
    values[:] = bad
    assert value(name, values) == 0


@pytest.mark.parametrize("name", ["outside_inside_all", "outside_inside_pos"])
def test_nothing_inside(name):
    outside = [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert value(name, outside) == LARGEST_RATIO
    assert value(name, np.full((3, 4), np.nan)) == LARGEST_RATIO
    assert isinstance(value(name, mask=np.ones((3, 4), dtype=bool)), NotApplicable)


@pytest.mark.parametrize("name", [*PICK, "mu", "outside_inside_all"])
def test_without_a_mask_there_is_no_value(name):
    assert str(value(name, mask=None)) == "needs masks or boxes, and the data has none"
    assert "outside of the picture" in str(value(name, mask=np.zeros((3, 4), dtype=bool)))


@pytest.mark.parametrize(
    "name",
    [
        *PICK,
        "mu",
        "mu_w",
        "mu_25",
        "mu_50",
        "outside_inside_all",
        "outside_inside_pos",
        "outside_inside_minmax",
    ],
)
def test_a_perfect_map_beats_a_random_one(name):
    random = np.random.default_rng(0)
    mask = np.zeros((20, 20), dtype=bool)
    mask[3:9, 5:12] = True
    metric = find_metric(name)
    perfect = value(name, mask.astype(float), mask)
    for _ in range(10):
        other = value(name, random.standard_normal((20, 20)), mask)
        assert perfect > other if metric.higher_is_better else perfect < other


def test_a_word_that_does_not_exist():
    with pytest.raises(MethodError, match="threshold is 'paper' or 'mean' or"):
        value("miou:threshold=often")
    with pytest.raises(MethodError, match="cases is 'all' or 'difficult', not 'hard'"):
        value("pointing_game:cases=hard")
    with pytest.raises(MethodError, match="percentile is a number from 0 to 100"):
        value("miou:threshold=percentile,percentile=101")


def test_masks_of_text():
    assert mask_of(MASK).sum() == 4
