"""The page in a browser: its maps are ONNX Runtime's, every control does what it says."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import graphprop
from graphprop.artifact.manifest import read_manifest
from graphprop.checking.web import allowed_apart
from graphprop.frontend.load import load_source
from graphprop.pictures.preprocessing import RESAMPLING, Preprocessing
from graphprop.web.site import build_site
from support.artifacts import explainer_of
from support.browser import Visit, browsing, need_browser, playing, serving

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "models"
DIGITS = sorted((MODELS / "digits_examples").glob("*.png"))
HOSTILE = '</script><img src=x onerror="document.title=1">'
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
METHODS = ("epsilon_plus_flat", "rap", "hedge")


@cache
def digits():
    return load_source(str(MODELS / "digits.py"))


def compiled(directory, method, names=None):
    """The network for digits, in a directory."""
    explainer = graphprop.compile(digits().model, digits().example, method, class_names=names)
    explainer.save(directory, check=False, preprocessing=digits().preprocessing)
    return directory


def built(directory, output, **options):
    allowed = allowed_apart(read_manifest(directory))
    return build_site(directory, output, allowed=allowed, browser=False, **options).folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The page of digits by each method, in folders of these names; its directories beside it."""
    need_browser()
    root = tmp_path_factory.mktemp("page")
    for method in METHODS:
        directory = compiled(root / "compiled" / method, method)
        built(directory, root / "sites" / method, examples=DIGITS)
    return root


@pytest.fixture(scope="module")
def address(root):
    with serving(root / "sites") as address:
        yield address


@pytest.fixture(scope="module")
def chromium(root):
    with playing() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def browser(chromium):
    with browsing(chromium, *CAMERA) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser, address):
    """The page of digits, which takes a second to start."""
    size = {"width": 1280, "height": 1400}  # all of the page: the mouse goes nowhere else
    visit = Visit(browser, f"{address}epsilon_plus_flat/", viewport=size, accept_downloads=True)
    yield visit.open()
    visit.close()


@pytest.fixture
def visit(opened, address):
    """The page as it begins; nothing may go wrong in it, and nothing be asked of anyone else."""
    page = opened.page
    page.click("#draw")
    page.click("#clear")
    page.click("#largest")
    page.locator("#contrast").fill("0")
    page.locator("#overlay").fill("0")
    yield opened
    assert opened.trouble == []
    assert [url for url in opened.asked if not url.startswith((address, "blob:"))] == []


def saved(page):
    """The map that the page saves."""
    with page.expect_download() as download:
        page.click("#save")
    return np.load(download.value.path())


def native(directory, x, target):
    session = onnxruntime.InferenceSession(str(directory / "explainer.onnx"))
    feeds = {"input": x, "target": np.array([target])}
    return session.run(["logits", "relevance"], feeds)


def draw_seven(page):
    box = page.locator("#pad").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + 0.3 * side, y + 0.25 * side)
    page.mouse.down()
    for across, along in ((0.7, 0.25), (0.45, 0.8)):
        page.mouse.move(x + across * side, y + along * side, steps=6)
    page.mouse.up()


@pytest.mark.parametrize("method", METHODS)
def test_the_map_of_a_picture_is_that_of_onnx_runtime(browser, address, root, method):
    visit = Visit(browser, f"{address}{method}/", accept_downloads=True).open()
    page = visit.page
    directory = root / "compiled" / method
    manifest = read_manifest(directory)
    preprocessing = Preprocessing.of(manifest)
    for digit, target in ((3, None), (5, 8)):
        page.click(f'[data-example$="/{digit}.png"]')
        page.click("#largest")
        visit.wait(f"document.querySelector('#about-map').textContent.includes('class {digit}:')")
        if target is not None:
            page.click(f'#classes button[data-index="{target}"]')
            visit.wait(
                f"document.querySelector('#about-map').textContent.includes('class {target}:')"
            )
        x = preprocessing.tensor(preprocessing.read(DIGITS[digit])[0]).numpy()
        logits, relevance = native(directory, x, digit if target is None else target)
        found = saved(page)
        assert found.shape == relevance.shape[1:]
        error = np.linalg.norm(found - relevance[0]) / np.linalg.norm(relevance)
        assert error <= allowed_apart(manifest)
        shown = page.locator(f'#classes button[data-index="{digit}"] .logit').inner_text()
        assert float(shown) == pytest.approx(float(logits[0, digit]), abs=0.006)
    assert visit.fact("its map and ONNX Runtime's").startswith("the same")
    visit.close()
    assert visit.trouble == []


def test_a_digit_that_is_drawn_is_read_and_explained(visit):
    page = visit.page
    draw_seven(page)
    visit.wait("document.querySelector('#about-map').textContent.includes('class 7:')")
    assert float(visit.fact("maps a second")) > 0
    assert visit.fact("time for a map").endswith(" ms")
    before = saved(page)
    assert np.abs(before).max() > 0
    page.click("#dark-ink")
    visit.wait(
        "document.querySelector('#pad').getContext('2d').getImageData(0,0,1,1).data[0] === 255"
    )
    page.click("#dark-ink")
    page.click("#clear")
    visit.wait("!document.querySelector('#about-map').textContent.includes('class 7:')")


def test_a_class_is_chosen_by_click_by_keyboard_and_by_name(visit):
    page = visit.page
    draw_seven(page)
    visit.wait("document.querySelector('#about-map').textContent.includes('class 7:')")
    page.locator('#classes button[data-index="2"]').focus()
    page.keyboard.press("Enter")
    visit.wait("document.querySelector('#about-map').textContent.includes('class 2:')")
    chosen = page.locator('#classes button[data-index="2"]')
    assert chosen.get_attribute("aria-pressed") == "true"
    assert page.locator("#largest").get_attribute("aria-pressed") == "false"
    page.fill("#find", "9")
    page.keyboard.press("Enter")
    visit.wait("document.querySelector('#about-map').textContent.includes('class 9:')")
    page.fill("#find", "99")
    page.keyboard.press("Enter")
    assert page.eval_on_selector("#find", "e => e.validationMessage") == "no such class"
    page.click("#largest")
    visit.wait("document.querySelector('#about-map').textContent.includes('class 7:')")


def test_the_settings_change_what_is_drawn_and_the_pointer_reads_values(visit):
    page = visit.page
    page.click('[data-example$="/7.png"]')
    visit.wait("document.querySelector('#about-map').textContent.includes('class 7:')")
    image = "document.querySelector('#map').toDataURL()"
    plain, limit = page.evaluate(image), page.inner_text("#high")
    page.locator("#contrast").fill("2")
    strong = page.evaluate(image)
    assert strong != plain
    assert float(page.inner_text("#high")) == pytest.approx(float(limit) / 4, rel=1e-2)
    page.locator("#overlay").fill("50")
    assert page.evaluate(image) != strong
    relevance = saved(page).sum(0)
    box = page.locator("#map").bounding_box()
    side = box["width"] / relevance.shape[1]
    page.mouse.move(box["x"] + 16.5 * side, box["y"] + 9.5 * side)
    row, column, value = 9, 16, float(relevance[9, 16])
    visit.wait("document.querySelector('#under').textContent.includes('row')")
    text = page.inner_text("#under")
    assert text.startswith(f"row {row}, column {column}: ")
    assert float(text.rpartition(" ")[2]) == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize("way", ["file", "drop", "paste"])
def test_a_picture_comes_from_a_file_by_drop_and_by_paste(visit, way):
    page = visit.page
    if way == "file":
        page.set_input_files("#file", DIGITS[4])
    else:
        content = base64.b64encode(DIGITS[4].read_bytes()).decode()
        page.evaluate(
            """([way, content]) => {
              const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], "4.png", { type: "image/png" }));
              const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
              document.body.dispatchEvent(event);
            }""",
            [way, content],
        )
    visit.wait("document.querySelector('#about-map').textContent.includes('class 4:')")
    assert page.locator("#pad").is_hidden()
    page.click("#draw")
    assert page.locator("#pad").is_visible()


def test_a_picture_that_is_chosen_while_another_is_explained_comes_next(visit):
    page = visit.page
    page.click('[data-example$="/3.png"]')
    visit.wait("document.querySelector('#about-map').textContent.includes('class 3:')")
    for digit in (5, 1, 6, 2):
        content = base64.b64encode(DIGITS[digit].read_bytes()).decode()
        page.evaluate(
            """(content) => {  // all in one task: the first is running when the second comes
              const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], "x.png", { type: "image/png" }));
              document.querySelector("#largest").click();
              document.body.dispatchEvent(
                new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
            }""",
            content,
        )
        visit.wait(f"document.querySelector('#about-map').textContent.includes('class {digit}:')")


def test_of_two_examples_the_one_chosen_last_is_shown_in_whichever_order_they_load(
    browser, address
):
    visit = Visit(browser, f"{address}rap/", service_workers="block").open()
    page = visit.page
    held = []
    visit.context.route("**/examples-*/4.png", lambda route: held.append(route))
    page.evaluate(
        """() => [4, 9].forEach((k) =>
          document.querySelector(`[data-example$="/${k}.png"]`).click())"""
    )
    visit.wait("document.querySelector('#about-map').textContent.includes('class 9:')")
    (first,) = held
    first.continue_()
    page.wait_for_timeout(300)
    assert "class 9:" in page.inner_text("#about-map")
    visit.close()


def test_an_example_that_does_not_load_is_said(browser, address):
    visit = Visit(browser, f"{address}rap/", service_workers="block").open()
    visit.context.route("**/examples-*/2.png", lambda route: route.fulfill(status=404))
    visit.page.click('[data-example$="/2.png"]')
    visit.wait("document.querySelector('#status').textContent.includes('does not load')")
    assert "the server answers 404" in visit.page.inner_text("#status")
    visit.close()


def test_what_is_no_picture_is_said(visit):
    broken = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    visit.page.set_input_files("#file", broken)
    visit.wait("document.querySelector('#status').textContent.startsWith('This can')")
    visit.page.set_input_files("#file", DIGITS[1])
    visit.wait("document.querySelector('#about-map').textContent.includes('class 1:')")


def test_the_camera_is_explained_frame_by_frame_until_it_is_stopped(visit):
    page = visit.page
    page.click("#camera")
    visit.wait("document.querySelector('#camera').getAttribute('aria-pressed') === 'true'")
    image = "document.querySelector('#map').toDataURL()"
    first = page.evaluate(image)
    visit.wait(f"{image} !== {json.dumps(first)}")  # the picture of this camera moves
    page.click("#shot")
    visit.wait("document.querySelector('#video').srcObject === null")
    assert page.locator("#video").is_hidden()
    page.click("#camera")
    visit.wait("document.querySelector('#video').srcObject !== null")
    page.click("#camera")
    visit.wait("document.querySelector('#video').srcObject === null")


def test_it_fits_a_phone_in_both_colors(visit):
    page = visit.page
    before = page.viewport_size
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = page.evaluate(
        "[...document.querySelectorAll('button, .button')].filter((e) => e.offsetParent)"
        ".map((e) => e.offsetHeight)"
    )
    assert min(heights) >= 44
    page.set_viewport_size(before)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        light = sum(map(int, ground[4:-1].split(","))) > 3 * 128
        assert light == (scheme == "light")


def test_it_works_offline_once_loaded_and_a_new_build_replaces_the_old(browser, root, tmp_path):
    directory = root / "compiled" / "rap"
    site = built(directory, tmp_path / "site", title="Before", examples=DIGITS[:2])
    with serving(tmp_path / "site") as address:
        visit = Visit(browser, address).open()
        visit.wait("document.querySelector('#facts').textContent.includes('this page is kept')")
        visit.context.set_offline(True)
        visit.page.reload()
        visit.page.wait_for_selector("body[data-ready]", timeout=60_000)
        visit.page.click('[data-example$="/1.png"]')
        visit.wait("document.querySelector('#about-map').textContent.includes('class 1:')")
        # with the headers that a folder of files can't have
        assert visit.page.evaluate("crossOriginIsolated") is True
        visit.context.set_offline(False)
        built(directory, tmp_path / "site", title="After", examples=DIGITS[:2])
        for _ in range(2):
            visit.page.reload()
            visit.page.wait_for_selector("body[data-ready]", timeout=60_000)
            assert visit.page.inner_text("h1") == "After"
        visit.wait("document.querySelector('#facts').textContent.includes('this page is kept')")
        visit.wait("caches.keys().then((names) => names.length === 1)")
        visit.context.set_offline(True)
        visit.page.reload()
        visit.page.wait_for_selector("body[data-ready]", timeout=60_000)
        assert visit.page.inner_text("h1") == "After"
        visit.close()
    assert visit.trouble == []
    assert site.name == "site"


def test_hostile_names_are_text(browser, root, tmp_path):
    names = [HOSTILE, *(f"{HOSTILE}{index}" for index in range(1, 10))]
    directory = compiled(tmp_path / "hostile", "lrp_z", names)
    picture = tmp_path / "'><svg onload=alert(1)>.png"
    picture.write_bytes(DIGITS[0].read_bytes())
    built(directory, tmp_path / "site", title=HOSTILE, examples=[picture])
    with serving(tmp_path / "site") as address:
        visit = Visit(browser, address).open()
        visit.page.click("[data-example]")
        visit.wait("document.querySelectorAll('#classes button').length === 10")
        assert visit.page.inner_text("h1") == HOSTILE
        assert HOSTILE in visit.page.inner_text("#classes")
        assert visit.page.title() == f"{HOSTILE}: why?"
        alternative = visit.page.get_attribute("[data-example] img", "alt")
        assert alternative == "'><svg onload=alert(1)>"
        assert visit.page.locator("svg, img[src='x']").count() == 0
        visit.close()
    assert visit.trouble == []


PIXELS = """async ([script, file, preprocessing, channels]) => {
  const { read, fitted, normalized } = await import(script);
  const picture = await read(await (await fetch(file)).blob(), channels);
  const shown = fitted(picture, preprocessing);
  const x = normalized(shown, preprocessing);
  const text = (bytes) => Array.from(bytes, (b) => String.fromCharCode(b)).join("");
  return [btoa(text(shown.data)), btoa(text(new Uint8Array(x.buffer)))];
}"""


def photograph(path, mode, size):
    """A picture with edges, slopes and noise."""
    rng = np.random.default_rng(0)
    height, width = size
    slope = np.linspace(0, 255, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    pixels = np.clip(slope + rng.normal(0, 40, (height, width, 3)), 0, 255).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        alpha = rng.integers(0, 2, (height, width)).astype(np.uint8) * 255
        image.putalpha(Image.fromarray(alpha))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned upright
    image.convert(mode).save(
        path, **({"exif": exif, "quality": 90} if path.suffix == ".jpg" else {})
    )


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "gray.png", "clear.png"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "gray"])
def test_a_picture_becomes_the_input_that_graphprop_makes_of_it(
    browser, address, root, name, channels
):
    mode = {"gray.png": "L", "clear.png": "RGBA"}.get(name, "RGB")
    file = root / "sites" / f"{channels}-{name}"
    photograph(file, mode, (157, 211))
    count = 1 if channels == "gray" else 3
    page = browser.new_page()
    page.goto(f"{address}rap/page.json")
    (app,) = (root / "sites" / "rap").glob("page-*")
    sizes = [((64, 48), None), ((40, 56), 61), ((33, 20), (50, 37)), ((90, 90), 70)]
    for (size, resize), interpolation in zip(sizes * 2, RESAMPLING, strict=False):
        mean, std = (0.4, 0.5, 0.6)[:count], (0.2, 0.3, 0.4)[:count]
        made = Preprocessing(size, mean, std, resize, interpolation, channels)
        given = {
            "size": size,
            "mean": mean,
            "std": std,
            "resize": resize,
            "interpolation": interpolation,
            "channels": channels,
        }
        shown, _ = made.read(file)
        script = f"{address}rap/{app.name}/pixels.js"
        pixels, x = (
            base64.b64decode(part)
            for part in page.evaluate(PIXELS, [script, f"{address}{file.name}", given, count])
        )
        wanted = np.asarray(shown).ravel().astype(int)
        apart = np.abs(np.frombuffer(pixels, np.uint8) - wanted)
        # the same to the last bit, but where the sine or the decoder rounds otherwise
        assert apart.max() <= (2 if name == "photo.jpg" else 1)
        assert (apart > 0).mean() <= (0.02 if name == "photo.jpg" else 1e-3)
        numbers = np.frombuffer(x, np.float32)
        np.testing.assert_allclose(
            numbers, made.tensor(shown).numpy().ravel(), atol=1e-6 + apart.max() / 255 / min(std)
        )
        if not apart.any():
            assert np.array_equal(numbers, made.tensor(shown).numpy().ravel())
    page.close()


def test_webgpu_is_used_where_its_map_is_right_and_left_where_it_is_not(chromium, tmp_path):
    directory = tmp_path / "small"
    explainer_of("rap").save(directory, check=False, preprocessing={"mean": [0.0], "std": [1.0]})
    site = built(directory, tmp_path / "site")
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    with serving(site) as address, browsing(chromium, *flags) as browser:
        visit = Visit(browser, address).open("?on=webgpu")
        assert visit.fact("runs on") == "WebGPU"
        assert visit.fact("its map and ONNX Runtime's").startswith("the same")
        visit.wait("document.querySelector('#facts').textContent.includes('this page is kept')")
        visit.open("?on=webgpu")  # under the policy that the service worker adds
        assert visit.page.evaluate("crossOriginIsolated") is True
        assert visit.fact("runs on") == "WebGPU"
        visit.close()
        assert visit.trouble == []
        (file,) = site.glob("network-*/map.f32")
        np.fromfile(file, np.float32)[::-1].tofile(file)
        visit = Visit(browser, address).open("?on=webgpu")
        assert visit.fact("runs on") == "WebAssembly"
        assert visit.fact("its map and ONNX Runtime's").startswith("differ by")
        assert visit.fact("note").startswith("WebGPU is not used: its map is off by")
        visit.close()
