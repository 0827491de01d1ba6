"""A report in a browser: every control does what it says, by mouse and by keyboard."""

import re
from functools import partial

import numpy as np
import pytest

from graphprop.artifact.manifest import read_manifest
from graphprop.pictures.explain import explain_one
from graphprop.pictures.heatmap import sum_channels
from graphprop.pictures.inputs import read_input
from graphprop.reporting import write_report
from graphprop.reporting.gallery import Subject, loaded
from support import chromium
from support.reports import compiled_twice, pictures_in

pytestmark = pytest.mark.slow

opened = partial(chromium.opened, embedded=True)

PIXEL = """(side, x, y) => {
  const canvas = document.getElementById(`canvas-${side}`);
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const [column, row] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
  return Array.from(context.getImageData(column, row, 1, 1).data).slice(0, 3);
}"""
WHOLE = "(side) => document.getElementById(`canvas-${side}`).toDataURL()"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two methods and two pictures."""
    folder = tmp_path_factory.mktemp("report")
    directories, pictures = compiled_twice(folder), pictures_in(folder, 2)
    written = write_report(folder / "report.html", [*directories, *pictures])
    return written.file, directories, pictures


def started(page):
    """Wait until the maps are drawn."""
    page.locator("#caption-right", has_text="net-rap").wait_for()
    return page


def maps_of(directory, picture, target):
    """The summed map as graphprop itself computes it."""
    manifest = read_manifest(directory)
    engine = loaded(Subject(directory, directory.name, manifest), (), "python")
    _, relevance, _ = explain_one(engine, read_input(picture, manifest).x, target)
    return sum_channels(relevance)


def set_range(page, name, value):
    """Move a slider, as its user does."""
    page.locator(f"#{name}").fill(str(value))


def test_the_values_under_the_pointer_are_the_maps(made):
    file, directories, pictures = made
    with opened(file) as page:
        started(page)
        target = int(page.locator("#class").input_value())
        known = [maps_of(directory, pictures[0], target) for directory in directories]
        for side, (column, row) in (("left", (3, 5)), ("right", (12, 8))):
            canvas = page.locator(f"#canvas-{side}")
            canvas.scroll_into_view_if_needed()
            box = canvas.bounding_box()
            place = [(index + 0.5) / 16 for index in (column, row)]
            page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])
            text = page.locator("#readout").inner_text()
            assert text.startswith(f"column {column}, row {row}: ")
            shown = [float(one) for one in re.findall(r"net-\w+ (\S+?)(?:;|$)", text)]
            wanted = [float(values[row, column]) for values in known]
            assert shown == pytest.approx(wanted, rel=2e-3, abs=1e-4 * float(np.abs(known).max()))


def test_the_arrow_keys_move_the_pointer(made):
    with opened(made[0]) as page:
        started(page)
        page.locator("#canvas-right").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
        assert page.locator("#readout").inner_text().startswith("column 9, row 7: ")
        page.keyboard.press("Shift+ArrowLeft")
        assert page.locator("#readout").inner_text().startswith("column 0, row 7: ")


def test_opacity_goes_from_the_gray_picture_to_the_map_alone(made):
    file, directories, pictures = made
    with opened(file) as page:
        started(page)
        set_range(page, "opacity", 0)
        gray = page.evaluate(f"() => ({PIXEL})('left', 0.9, 0.5)")
        assert len(set(gray)) == 1
        set_range(page, "opacity", 100)
        values = maps_of(directories[0], pictures[0], int(page.locator("#class").input_value()))
        row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
        x, y = (column + 0.5) / 16, (row + 0.5) / 16
        red, _, blue = page.evaluate(f"() => ({PIXEL})('left', {x}, {y})")
        assert (red > blue) == (values[row, column] > 0)
        assert page.locator("#opacity-value").inner_text() == "100 %"


def test_class_picture_method_and_colors_change_what_is_drawn(made):
    with opened(made[0]) as page:
        started(page)
        seen = [page.evaluate(WHOLE, "left")]
        page.locator("#colors").select_option(index=1)
        seen.append(page.evaluate(WHOLE, "left"))
        caption = page.locator("#caption-left")
        predicted = page.locator("#class").input_value()
        other = next(k for k in "012" if k != predicted)
        page.locator("#class").select_option(other)
        caption.filter(has_text=f"net-epsilon_plus_flat, {other}: ").wait_for()
        seen.append(page.evaluate(WHOLE, "left"))
        page.locator("#end").select_option("0.95")
        seen.append(page.evaluate(WHOLE, "left"))
        page.locator("#left").select_option("none")
        caption.filter(has_text="the picture alone").wait_for()
        seen.append(page.evaluate(WHOLE, "left"))
        page.locator("#thumbs input").nth(0).focus()
        page.keyboard.press("ArrowRight")  # radio buttons: the next picture
        page.locator("#canvas-left[aria-label^='picture1.png']").wait_for()
        seen.append(page.evaluate(WHOLE, "left"))
        assert len(set(seen)) == len(seen)


def test_one_slider_divides_two_methods(made):
    with opened(made[0]) as page:
        started(page)
        left = page.evaluate(WHOLE, "left")
        right = page.evaluate(WHOLE, "right")
        assert left != right
        assert not page.locator("#divider").is_visible()
        page.get_by_label("one picture, divided").check()
        assert not page.locator("#canvas-right").is_visible()
        places = [(place + 0.5) / 16 for place in range(16)]
        pixel = f"() => {places}.map((y) => ({PIXEL})('left', 0.53, y))"
        set_range(page, "split", 0)
        whole = page.evaluate(pixel)
        set_range(page, "split", 100)
        assert page.evaluate(pixel) != whole
        set_range(page, "split", 40)
        assert page.evaluate(pixel) == whole
        text = page.locator("#caption-left").inner_text()
        assert text.startswith("left of the line, net-epsilon_plus_flat")
        assert "right of it, net-rap" in text


def test_one_scale_for_both_is_the_larger(made):
    with opened(made[0]) as page:
        started(page)

        def ends():
            captions = [page.locator(f"#caption-{side}").inner_text() for side in ("left", "right")]
            return [float(re.search(r"scale to ±([\d.e+-]+?)(?:,|$)", c)[1]) for c in captions]

        own = ends()
        assert own[0] != own[1]
        page.locator("#shared").check()
        assert ends() == [max(own)] * 2


def test_all_controls_have_names_and_are_reached_by_the_keyboard(made):
    with opened(made[0]) as page:
        started(page)
        page.get_by_label("one picture, divided").check()
        wanted = set(page.evaluate(
            "Array.from(document.querySelectorAll('#viewer select, #viewer input[type=range],"
            "#viewer input[type=checkbox], #canvas-left')).map((one) => one.id)"
        ))  # fmt: skip
        reached = set()
        page.locator("#thumbs input").nth(0).focus()
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert wanted <= reached
        unnamed = page.evaluate(
            "Array.from(document.querySelectorAll('select, input')).filter("
            "(one) => !Array.from(one.labels).some((label) => label.textContent.trim())).length"
        )
        assert unnamed == 0
        assert page.locator("canvas:not([aria-label])").count() == 0
        assert page.locator("svg:not([role=img])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(made, scheme):
    with opened(made[0], scheme, width=390) as page:
        started(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        ink = page.evaluate("getComputedStyle(document.querySelector('.chart text')).fill")
        assert sum(map(int, re.findall(r"\d+", ink))) > 384 or scheme == "light"
