"""Colors, scales and smoothing of maps."""

import numpy as np
import pytest
from PIL import Image

from graphprop.errors import InputError
from graphprop.pictures.style import Style, blended, enlarged, smoothed

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.0, 60.0])
@pytest.mark.parametrize("shape", [(9, 7), (1, 5), (224, 3)])
def test_smoothing_keeps_the_sum_and_the_range(sigma, shape):
    values = RANDOM.standard_normal(shape)
    found = smoothed(values, sigma)
    assert found.shape == shape
    assert found.sum() == pytest.approx(values.sum(), abs=1e-9)
    assert found.min() >= values.min() - 1e-12
    assert found.max() <= values.max() + 1e-12
    np.testing.assert_allclose(smoothed(np.full(shape, 3.0), sigma), 3.0)


def test_smoothing_is_the_gaussian():
    values = np.zeros((41, 41))
    values[20, 20] = 1.0
    y, x = np.mgrid[-20:21, -20:21]
    wanted = np.exp(-(x**2 + y**2) / (2 * 2.0**2))
    np.testing.assert_allclose(smoothed(values, 2.0), wanted / wanted.sum(), atol=1e-5)


@pytest.mark.parametrize("cmap", ["seismic", "colorblind", "RdBu", "PuOr_r", "bwr"])
def test_zero_is_the_middle_and_signs_are_told_apart(cmap):
    style = Style.of({"cmap": cmap})
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    scale = style.scale(values, 2.0)
    colors = scale.colors(values).astype(int)
    if cmap in ("seismic", "colorblind"):
        assert colors[2].tolist() == [255, 255, 255]
    assert np.abs(colors[0] - colors[4]).max() > 80
    # darker on both sides of the middle
    assert colors[2].sum() > max(colors[1].sum(), colors[3].sum())
    assert scale.labels[1] == "0"


def test_the_colorblind_map_is_told_apart_by_blue_and_red_alone():
    """Without green and red apart, as most color vision deficiencies have it."""
    style = Style(cmap="colorblind")
    values = np.linspace(0.1, 1, 10)
    positive = style.scale(values, 1.0).colors(values).astype(int)
    negative = style.scale(-values, 1.0).colors(-values).astype(int)
    assert ((positive[:, :2].mean(1) > positive[:, 2]) & (negative[:, 2] > negative[:, 0])).all()


def test_a_map_without_a_middle_begins_at_zero_where_nothing_is_negative():
    style = Style.of({"cmap": "viridis"})
    assert style.scale(np.array([0.0, 1.0]), 1.0).low == 0.0
    assert style.scale(np.array([-0.1, 1.0]), 1.0).low == -1.0
    assert Style(cmap="seismic").scale(np.array([0.0, 1.0]), 1.0).low == -1.0


def test_a_percentile_ends_the_scale_and_what_is_beyond_has_its_color():
    values = np.arange(101.0).reshape(1, 101)
    style = Style.of({"percentile": 50})
    assert style.limit(values) == 50
    colors = style.scale(values, 50.0).colors(values)
    assert (colors[0, 50:] == colors[0, 50]).all()
    sparse = np.zeros((10, 10))
    sparse[0, 0] = 4.0
    assert style.limit(sparse) == 4.0  # a percentile of zero would be no scale
    assert np.isnan(style.limit(np.array([np.nan, 1.0])))


def test_a_coarse_map_is_enlarged_within_its_values():
    values = RANDOM.standard_normal((7, 5))
    found = enlarged(values, (224, 160))
    assert found.shape == (224, 160)
    assert found.min() >= values.min() - 1e-6
    assert found.max() <= values.max() + 1e-6
    places = np.unravel_index(np.argmax(found), found.shape)
    want = np.unravel_index(np.argmax(values), values.shape)
    assert (places[0] // 32, places[1] // 32) == want
    assert enlarged(values, (7, 5)) is values


def test_coarse_maps_are_smoothed_in_pixels_of_the_picture():
    values = RANDOM.standard_normal((7, 7))
    assert Style(smooth=1.0).prepared(values, 224) is values
    assert not np.allclose(Style(smooth=1.0).prepared(values, 7), values)


def test_an_overlay_is_the_gray_picture_and_the_map():
    shown = Image.fromarray(RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    colors = RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    gray = np.asarray(shown.convert("L").convert("RGB"))
    assert (blended(shown, colors, 0.0) == gray).all()
    assert (blended(shown, colors, 1.0) == colors).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.5}, "alpha is a number from 0 to 1, not 1.5"),
        ({"percentile": 0}, "percentile is a number above 0"),
        ({"smooth": -1}, "smooth is a number from 0 to 100, not -1"),
        ({"smooth": float("nan")}, "smooth is a number from 0 to 100, not nan"),
        ({"size": 3}, "size is a number of pixels from 16 to 4096, not 3"),
        ({"cmap": "sesmic"}, "there is no color map 'sesmic': did you mean 'seismic'?"),
    ],
)
def test_values_that_can_t_be(options, said):
    with pytest.raises(InputError) as caught:
        Style.of(options)
    assert str(caught.value) == said
