"""Sheets of cells: colors, notes, and text that stays in its place."""

import numpy as np
import pytest

from graphprop.errors import InputError
from graphprop.pictures.heatmap import heatmap, limit_of
from graphprop.pictures.lettering import LONGEST, width_of, wrapped
from graphprop.pictures.sheet import CELLS, Cell, Row, draw, map_cell


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_a_map_has_the_colors_that_explain_gives_it():
    values = np.random.default_rng(0).standard_normal((9, 7))
    cell = map_cell(values)
    assert np.array_equal(cell.picture, np.asarray(heatmap(values, limit_of(values))))
    assert cell.note == ""
    assert cell.caption == f"±{limit_of(values):.2g}"
    other = map_cell(values, limit=9.0)
    assert np.array_equal(other.picture, np.asarray(heatmap(values, 9.0)))
    assert other.caption == "±9"


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (np.zeros((4, 4)), "zero everywhere"),
        (np.full((4, 4), -0.25), "constant: -0.25 everywhere"),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), "2 of 4 entries NaN or infinite"),
    ],
)
def test_a_map_that_shows_nothing_says_so(values, note):
    cell = map_cell(values, "rap", "below")
    assert cell.note == note
    drawn = draw([Row("row", [cell])], "title")
    assert note in " ".join(texts(drawn))


def test_a_map_without_finite_values_has_no_color_of_the_scale():
    cell = map_cell(np.full((2, 2), np.nan))
    assert (cell.picture == cell.picture[0, 0, 0]).all()
    assert not (cell.picture == 255).any()


LONG = "a_very-long.name/with parts and_" + "x" * 90


@pytest.mark.parametrize("width", [0.5, 1.45, 8.0])
@pytest.mark.parametrize("text", [LONG, "", "a", "two words", "M" * 40])
def test_wrapped_lines_fit_and_lose_nothing_but_spaces(text, width):
    lines = wrapped(text, width, 7.0)
    assert all(width_of(line, 7.0) <= width for line in lines)
    if len(lines) < LONGEST:
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) <= LONGEST


def test_what_is_cut_ends_in_a_mark():
    assert wrapped("word " * 200, 1.0, 7.0)[-1] == "…"


def test_texts_stay_within_the_page_and_apart():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    cell = Cell(np.zeros((8, 8, 3), dtype=np.uint8), LONG, f"{LONG} {LONG}")
    rows = [Row(f"{LONG}\nclass 3", [cell, Cell(cell.picture, "b", "c"), Cell(note=LONG)])] * 2
    drawn = draw(rows, f"A title {LONG}", f"A footer {LONG} {LONG}")
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    page = drawn.bbox
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawn.texts]
    for box in boxes:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    shrunk = [box.padded(-1.5) for box in boxes]
    for index, box in enumerate(shrunk):
        assert not any(box.overlaps(other) for other in shrunk[:index]), drawn.texts[index]
    for place in drawn.axes:
        inner = place.get_window_extent().padded(-1.5)
        assert not any(inner.overlaps(box) for box in shrunk)


def test_letters_of_formulas_are_letters():
    drawn = draw([Row("$x_{1}$ a$b$c^2 \\alpha", [Cell(note="$y^2$")])], "$\\frac{1}{2}$")
    drawn.canvas.draw()
    assert {"$y^2$", "$\\frac{1}{2}$"} <= set(texts(drawn))


def test_a_picture_keeps_its_shape():
    for shape in ((10, 20), (30, 10), (60, 6)):
        drawn = draw([Row("", [Cell(np.zeros((*shape, 3), dtype=np.uint8))])], "")
        box = drawn.axes[0].get_window_extent()
        assert box.height / box.width == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_an_outline_follows_the_object_at_the_edge_too():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:3, :3] = True
    drawn = draw([Row("", [Cell(np.zeros((8, 8, 3), dtype=np.uint8), outline=mask)])], "")
    (place,) = drawn.axes
    (contours,) = place.collections
    points = np.concatenate([path.vertices for path in contours.get_paths()])
    assert points.min() == pytest.approx(-0.5)
    assert points.max() == pytest.approx(2.5)
    assert place.get_xlim() == (-0.5, 7.5)
    assert place.get_ylim() == (7.5, -0.5)


def test_too_many_cells_are_refused():
    rows = [Row("", [Cell()] * 20)] * (CELLS // 20 + 1)
    with pytest.raises(InputError, match="draw fewer pictures or methods at a time"):
        draw(rows, "")
