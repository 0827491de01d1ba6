"""How concentrated maps are, by cases computed by hand."""

import numpy as np
import pytest

from graphprop.errors import MethodError
from graphprop.evaluation.complexity import diagonal, in_proportion
from graphprop.evaluation.registry import find_metric
from support.evaluation import sample


def value(name, values):
    (found,) = find_metric(name).values([sample(values)])
    return found


def test_positive_ratio():
    assert value("positive_ratio", [[1, 0], [-1, 2]]) == 0.5
    for constant in (-1, 0, 1, np.nan):
        assert value("positive_ratio", np.full((2, 2), constant)) == 1.0


def test_entropy():
    assert value("entropy", [[0, 0], [0, -3]]) == 0
    assert value("entropy", [[1, 1], [-1, -1]]) == pytest.approx(np.log(4))
    p = np.array([1, 2, 3]) / 6
    assert value("entropy", [[1, -2, 3]]) == pytest.approx(-(p * np.log(p)).sum())
    for nothing in (0, np.nan):
        assert value("entropy", np.full((2, 2), nothing)) == pytest.approx(np.log(4))


def test_gini():
    assert value("gini", [[0, 0], [0, -3]]) == pytest.approx(3 / 4)
    assert value("gini", np.full((5, 5), 2.0)) == pytest.approx(0)
    # mean absolute difference over twice the mean: the definition without sorting
    values = np.random.default_rng(0).standard_normal((4, 6))
    a = np.abs(values).reshape(-1)
    differences = np.abs(a[:, None] - a[None]).mean()
    assert value("gini", values) == pytest.approx(differences / (2 * a.mean()))
    for nothing in (0, np.nan):
        assert value("gini", np.full((2, 2), nothing)) == 0


def test_mean_distance_of_the_top_pixels():
    values = np.zeros((224, 224))
    values[10, 10], values[10, 14], values[13, 14] = 3, 2, 1
    assert value("d_k:k=1", values) == 0
    assert value("d_k:k=3", values) == pytest.approx((0 + 4 + 5) / 3)


def test_distance_with_ties():
    values = np.zeros((224, 224))
    values[0, 0], values[0, 2], values[0, 6] = 2, 1, 1  # which of the two comes second is open
    assert value("d_k:k=2", values) == pytest.approx((0 + (2 + 6) / 2) / 2)
    values[0, 0] = 1  # three largest: the mean over them
    means = [(0 + 2 + 6) / 3, (2 + 0 + 4) / 3, (6 + 4 + 0) / 3]
    assert value("d_k:k=3", values) == pytest.approx(np.mean(means))


def test_distance_of_a_constant_map_is_the_diagonal():
    flat = sample(np.ones((4, 5)))
    assert diagonal(flat) == 5
    for constant in (1, 0, np.nan):
        assert value("d_k", np.full((4, 5), constant)) == 5


def test_numbers_of_pixels_are_in_proportion():
    assert in_proportion(1000, 224 * 224) == 1000
    assert in_proportion(1000, 112 * 112) == 250
    assert in_proportion(1, 32 * 32) == 1
    assert in_proportion(10**6, 32 * 32) == 32 * 32


@pytest.mark.parametrize("name", ["positive_ratio", "d_k", "entropy", "gini"])
def test_a_concentrated_map_beats_a_random_one(name):
    spot = np.zeros((16, 16))
    spot[4:6, 4:6] = [[1, 2], [3, 4]]
    noise = np.random.default_rng(0).standard_normal((16, 16))
    metric = find_metric(name)
    better, worse = value(f"{name}:k=200" if name == "d_k" else name, spot), value(name, noise)
    assert better > worse if metric.higher_is_better else better < worse


def test_no_pixel_at_all():
    with pytest.raises(MethodError, match="k is a number of pixels from 1, not 0"):
        value("d_k:k=0", [[1, 2]])
