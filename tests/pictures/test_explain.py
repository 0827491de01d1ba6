"""Explaining pictures: what is written is what the library computes, and the drawing is honest."""

import json
import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import graphprop
from graphprop.artifact import engines
from graphprop.errors import InputError, MethodError, OutputError
from graphprop.pictures import heatmap
from graphprop.pictures.explain import explain_images
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sources import otherwise, read_names

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Tiny(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def compiled(folder, mean, std, size):
    torch.manual_seed(0)
    model = Tiny(len(mean)).eval()
    explainer = graphprop.compile(model, torch.zeros(2, len(mean), *size), "lrp_epsilon")
    preprocessing = {"size": size, "mean": mean, "std": std}
    explainer.save(folder, onnx=False, check=False, preprocessing=preprocessing)
    return explainer, folder


@pytest.fixture(scope="module")
def color(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("color") / "compiled", MEAN, STD, [6, 8])


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("gray") / "compiled", [0.0], [1.0], [5, 5])


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def black(tmp_path):
    path = tmp_path / "black.png"
    Image.new("L", (5, 5)).save(path)
    return path


def expected_input(path):
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    return ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]


# The arrays


@pytest.mark.parametrize("target", [None, 0, 2])
def test_the_arrays_are_the_library_s_result(color, photo, tmp_path, target):
    explainer, folder = color
    (found,) = explain_images(folder, [photo], target=target, output=tmp_path / "out")
    logits, relevance = explainer(expected_input(photo), target)
    arrays = np.load(tmp_path / "out" / "photo.npz")
    assert sorted(arrays) == ["logits", "relevance", "scale", "target"]
    torch.testing.assert_close(torch.from_numpy(arrays["relevance"]), relevance[0])
    torch.testing.assert_close(torch.from_numpy(arrays["logits"]), logits[0])
    assert arrays["target"] == (int(logits.argmax()) if target is None else target)
    summed = arrays["relevance"].astype(np.float64).sum(0)
    assert arrays["scale"] == np.abs(summed).max() == found.limit


def test_the_same_picture_gives_the_same_bytes(color, photo, tmp_path):
    written = []
    for name in ("a", "b"):
        (found,) = explain_images(color[1], [photo], output=tmp_path / name)
        written.append((found.npz.read_bytes(), found.png.read_bytes()))
    assert written[0] == written[1]
    assert not list(tmp_path.glob("*/.*"))


def test_what_is_known_fits_into_json(color, photo, tmp_path):
    (found,) = explain_images(color[1], [photo], target=1, output=tmp_path / "o")
    known = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert known["image"] == str(photo)
    assert known["target"] == 1
    assert known["logit"] == pytest.approx(float(found.logits[1]))
    assert known["relevance_sum"] == pytest.approx(float(found.relevance.sum()), rel=1e-5)
    assert known["png"] == str(tmp_path / "o" / "photo.png")
    assert known["warnings"] == []


def test_a_compiled_directory_stays_as_it_is(color, photo, tmp_path):
    before = sorted(path.name for path in color[1].iterdir())
    explain_images(color[1], [photo], output=tmp_path / "o")
    assert sorted(path.name for path in color[1].iterdir()) == before


# The drawing


def test_colors_are_seismic_and_symmetric():
    values = np.linspace(-1, 1, 21)
    colors = heatmap.seismic(values).astype(int)
    assert colors[10].tolist() == [255, 255, 255]
    for low, high in zip(colors[:10], colors[:10:-1], strict=True):
        assert low[2] - low[0] > 0  # negative is blue
        assert high[0] - high[2] > 0  # positive is red
    assert heatmap.seismic(np.array([0.5, -0.5])).tolist() == [[255, 0, 0], [0, 0, 255]]


def test_an_opposite_map_has_the_opposite_colors():
    summed = np.random.default_rng(0).normal(size=(4, 4))
    summed[0] = 0
    limit = heatmap.limit_of(summed)
    drawn = np.asarray(heatmap.heatmap(summed, limit)).astype(int)
    assert (drawn[0] == 255).all()
    red, blue = drawn[..., 0] > drawn[..., 2], drawn[..., 2] > drawn[..., 0]
    assert (red == (summed > 0)).all()
    assert (blue == (summed < 0)).all()


def panels_of(path, width, height):
    """The parts of a drawing with a frame around them, of a size, from left to right."""
    drawn = np.asarray(Image.open(path).convert("RGB"))
    found = []
    frame = np.array([0x96] * 3)
    # the frame lies on the edge: within it, the pixels of the picture
    for top, left in np.argwhere((drawn == frame).all(-1)):
        rows = drawn[top : top + height, left]
        columns = drawn[top, left : left + width]
        framed = len(rows) == height and len(columns) == width
        framed = framed and (rows == frame).all() and (columns == frame).all()
        if framed and (not found or left > found[-1][1] + 2):
            found.append((top, left))
    return [drawn[top : top + height, left : left + width] for top, left in found]


def test_the_drawing_shows_input_and_relevance_enlarged(color, photo, tmp_path):
    (found,) = explain_images(color[1], [photo], output=tmp_path / "o")
    summed = found.relevance.astype(np.float64).sum(0)
    factor = heatmap.enlargement((8, 6))
    assert factor == 32
    panels = panels_of(found.png, 8 * factor, 6 * factor)
    assert len(panels) == 2
    wanted = (np.asarray(Image.open(photo)), heatmap.seismic(summed / np.abs(summed).max()))
    for panel, colors in zip(panels, wanted, strict=True):
        cells = panel.reshape(6, factor, 8, factor, 3)[:, 3:-3, :, 3:-3]
        assert (cells == cells[:, :1, :, :1]).all()  # crisp: an entry is a square of one color
        assert (cells[:, 0, :, 0] == colors).all()


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 32), ((224, 224), 2), ((300, 200), 1)])
def test_small_pictures_are_enlarged(size, factor):
    assert heatmap.enlargement(size) == factor


def test_the_text_in_the_drawing_holds_its_scale(color, photo, tmp_path):
    (found,) = explain_images(color[1], [photo], target=2, output=tmp_path / "o")
    text = Image.open(found.png).text
    assert float(text["Relevance-Limit"]) == found.limit
    assert text["Target"] == "2"
    assert float(text["Logit"]) == float(found.logits[2])
    assert text["Method"] == "lrp_epsilon"
    assert text["Software"] == "graphprop"


def test_a_shared_scale_is_the_largest(color, photo, tmp_path):
    faint = tmp_path / "faint.png"
    Image.fromarray(np.asarray(Image.open(photo)) // 4 + 90).save(faint)
    alone = explain_images(color[1], [photo, faint], output=tmp_path / "a")
    shared = explain_images(color[1], [photo, faint], output=tmp_path / "b", shared_scale=True)
    limits = [found.limit for found in alone]
    assert limits[0] != limits[1]
    assert [found.limit for found in shared] == [max(limits)] * 2
    for found in shared:
        assert float(Image.open(found.png).text["Relevance-Limit"]) == max(limits)
        assert np.load(found.npz)["scale"] == max(limits)


# Maps that can't be drawn


def test_a_zero_map_is_a_warning(gray, black, tmp_path):
    (found,) = explain_images(gray[1], [black], target=1, output=tmp_path / "o")
    assert found.png is None
    assert found.warnings == [
        f"{black}, class 1: the relevance, summed over channels, is zero everywhere (the logit is "
        "0); no picture is drawn. Choose another target or method"
    ]
    assert not np.load(tmp_path / "o" / "black.npz")["relevance"].any()
    assert not (tmp_path / "o" / "black.png").exists()


def test_a_zero_map_removes_an_older_drawing_of_the_same_name(gray, black, tmp_path):
    other = tmp_path / "other" / "black.png"
    other.parent.mkdir()
    Image.new("L", (5, 5), 100).save(other)
    (found,) = explain_images(gray[1], [other], output=tmp_path / "o")
    assert found.png.exists()
    explain_images(gray[1], [black], output=tmp_path / "o")
    assert not found.png.exists()


@pytest.mark.parametrize("shared_scale", [False, True])
def test_nan_is_a_warning(gray, tmp_path, monkeypatch, shared_scale):
    def broken(x, target=None):
        relevance = x.clone()
        if x.max() > 0.5:
            relevance[0, 0, 0, 0] = torch.nan
        return torch.tensor([[1.0, 2.0, 3.0]]), relevance

    images = []
    for name, level in (("dark", 50), ("bright", 200)):
        images.append(tmp_path / f"{name}.png")
        Image.new("L", (5, 5), level).save(images[-1])
    monkeypatch.setattr(engines, "load_explainer", lambda directory: broken)
    fine, bad = explain_images(gray[1], images, output=tmp_path / "o", shared_scale=shared_scale)
    assert fine.png is not None
    assert fine.limit == pytest.approx(50 / 255)
    assert bad.png is None
    assert "class 2: 1 of 25 entries of the relevance are NaN or infinite" in bad.warnings[0]
    assert "graphprop check" in bad.warnings[0]
    json.dumps(bad.as_dict(), allow_nan=False)


# Preprocessing


def test_a_color_picture_is_turned_gray_for_one_channel(photo):
    preprocessing = Preprocessing((6, 8), (0.0,), (1.0,))
    shown, _ = preprocessing.read(photo)
    assert shown.mode == "L"
    want = torch.from_numpy(np.array(Image.open(photo).convert("L"))) / 255
    torch.testing.assert_close(preprocessing.tensor(shown), want[None, None])


def test_a_gray_picture_fills_three_channels(black):
    preprocessing = Preprocessing((5, 5), tuple(MEAN), tuple(STD))
    shown, warnings = preprocessing.read(black)
    assert warnings == []
    want = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(
        preprocessing.tensor(shown), want[None, :, None, None].expand(1, 3, 5, 5)
    )


def test_a_picture_covers_the_input_and_keeps_its_middle(tmp_path):
    pixels = np.zeros((10, 40), dtype=np.uint8)
    pixels[:, 15:25] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    shown, _ = Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / "wide.png")
    assert shown.size == (5, 5)
    assert (np.asarray(shown)[:, 1:4] > 250).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((5, 5), 32896, dtype=np.uint16)).save(tmp_path / "deep.png")
    shown, _ = Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / "deep.png")
    assert (np.asarray(shown) == 128).all()


def test_transparency_is_laid_on_white_and_said(tmp_path):
    path = tmp_path / "ghost.png"
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(path)
    shown, warnings = Preprocessing((5, 5), (0.0,) * 3, (1.0,) * 3).read(path)
    assert (np.asarray(shown) == 255).all()
    assert warnings == [f"{path} is transparent in places: laid on white"]


def test_a_turned_photo_is_set_upright(tmp_path):
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "turned.png", exif=exif)
    shown, _ = Preprocessing((4, 2), (0.0,), (1.0,)).read(tmp_path / "turned.png")
    assert np.argwhere(np.asarray(shown) == 255).tolist() == [[0, 1]]


def test_jpeg_is_read(color, photo, tmp_path):
    Image.open(photo).save(tmp_path / "photo.jpg")
    (found,) = explain_images(color[1], [tmp_path / "photo.jpg"], output=tmp_path / "o")
    assert found.png == tmp_path / "o" / "photo.png"


def test_preprocessing_that_nobody_said_is_said_once(photo, tmp_path):
    torch.manual_seed(0)
    explainer = graphprop.compile(Tiny(3).eval(), torch.zeros(2, 3, 6, 8), "lrp_epsilon")
    folder = explainer.save(tmp_path / "unknown", onnx=False, check=False)
    first, second = explain_images(folder, [photo, photo], output=tmp_path / "o")
    assert "how a picture becomes an input is not known" in first.warnings[0]
    assert "--preprocessing imagenet" in first.warnings[0]
    assert second.warnings == []
    array = saved(tmp_path / "x.npy", np.zeros((3, 6, 8), np.float32) + 1)
    (found,) = explain_images(folder, [array], output=tmp_path / "o")
    assert found.warnings == []


# Names of files


def test_two_pictures_of_one_name_get_two_files(color, photo, tmp_path):
    other = tmp_path / "other" / "photo.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    found = explain_images(color[1], [photo, other], output=tmp_path / "o")
    assert [one.png.name for one in found] == ["photo.png", "photo_2.png"]


def test_the_folder_by_default(color, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (found,) = explain_images(color[1], [photo])
    assert str(found.png) == "explanations/photo.png"
    assert (tmp_path / "explanations" / "photo.npz").exists()


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_a_file_holds_one_drawing_of_all(color, photo, tmp_path, ending):
    explain_images(color[1], [photo], output=tmp_path / f"map{ending}")
    assert (tmp_path / "map.npz").exists()
    for _ in range(2):  # its own file is replaced
        found = explain_images(color[1], [photo, photo], output=tmp_path / f"map{ending}")
    assert {one.png for one in found} == {tmp_path / f"map{ending}"}
    assert [one.npz.name for one in found] == ["map-photo.npz", "map-photo_2.npz"]
    if ending == ".png":
        with Image.open(found[0].png) as image:
            assert [one[0] for one in json.loads(image.text["Maps"])] == ["photo.png"] * 2


def test_own_files_are_replaced_and_others_are_not(color, photo, tmp_path):
    for _ in range(2):
        explain_images(color[1], [photo], output=tmp_path / "o")
    before = photo.read_bytes()
    with pytest.raises(OutputError, match="would replace the input"):
        explain_images(color[1], [photo], output=tmp_path)
    assert photo.read_bytes() == before
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "photo.png").write_bytes(before)
    with pytest.raises(OutputError, match=r"photo.png exists and was not written by graphprop"):
        explain_images(color[1], [photo], output=other)
    (other / "photo.png").unlink()
    with zipfile.ZipFile(other / "photo.npz", "w") as archive:
        archive.writestr("measured.npy", b"")
    with pytest.raises(OutputError, match=r"photo.npz exists and was not written by graphprop"):
        explain_images(color[1], [photo], output=other)


# Refusals


def refusal(kind, folder, images, **options):
    with pytest.raises(kind) as caught:
        explain_images(folder, images, **options)
    return str(caught.value)


def test_what_is_no_picture(color, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert refusal(InputError, color[1], [tmp_path / "gone.png"]) == (
        f"there is no picture {tmp_path / 'gone.png'}"
    )
    assert refusal(InputError, color[1], [text]) == (
        f"{text} can't be read as a picture: give a PNG, JPEG, BMP, GIF, WebP, TIFF or PPM"
    )
    assert refusal(InputError, color[1], [tmp_path]) == (
        f"{tmp_path} is a folder: give the pictures in it"
    )


def test_half_a_picture(color, photo, tmp_path):
    photo.write_bytes(photo.read_bytes()[:120])
    assert refusal(InputError, color[1], [photo]).endswith(
        "give a PNG, JPEG, BMP, GIF, WebP, TIFF or PPM"
    )


def test_numbers_without_a_range(color, tmp_path):
    path = tmp_path / "numbers.tif"
    Image.fromarray(np.zeros((5, 5), dtype=np.float32)).save(path)
    assert "holds numbers (F), whose range isn't known" in refusal(InputError, color[1], [path])


def test_a_bad_picture_stops_all_before_anything_is_written(color, photo, tmp_path):
    refusal(InputError, color[1], [photo, tmp_path / "gone.png"], output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("target", [-1, 3])
def test_a_target_out_of_range(color, photo, tmp_path, target):
    said = refusal(InputError, color[1], [photo], target=target, output=tmp_path / "o")
    assert said == f"the target must be a class from 0 to 2, not {target}"
    assert not (tmp_path / "o").exists()


def test_a_directory_of_another_kind(photo, tmp_path):
    said = refusal(OutputError, tmp_path, [photo])
    assert str(tmp_path) in said


def test_inputs_that_are_no_pictures():
    with pytest.raises(InputError) as caught:
        Preprocessing.of({"input_shape": [2, 16, 16]})
    assert str(caught.value) == (
        "the explainer takes inputs of shape (2, 16, 16), and a picture has the shape (1, H, W) or "
        "(3, H, W): give an array of that shape, as an .npy"
    )


# What a file that claims to be a picture can do


def eps(box="0 0 5 5"):
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: {box}\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["page.eps", "page.png"])
def test_no_picture_reaches_ghostscript(tmp_path, monkeypatch, name):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("it ran"))
    (tmp_path / name).write_text(eps())
    with pytest.raises(InputError, match=r"can't be read as a picture: give a PNG, JPEG, BMP"):
        Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / name)
    assert not heatmap.is_drawing(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_formats_that_are_read(black, kind):
    path = black.with_name("other")
    Image.open(black).save(path, format=kind)
    shown, _ = Preprocessing((5, 5), (0.0,), (1.0,)).read(path)
    assert not np.asarray(shown).any()


@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_picture_that_would_fill_the_memory(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Image.new("L", (100, int(100 * factor))).save(tmp_path / "bomb.png")
    with pytest.raises(InputError) as caught:
        Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / "bomb.png")
    assert str(caught.value) == (
        f"the picture {tmp_path / 'bomb.png'} has more than 10000 pixels: scale it down first"
    )


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe.png is no file, but a pipe or a device: give the"):
        Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / "pipe.png")
    assert not heatmap.is_drawing(tmp_path / "pipe.png")


@pytest.mark.parametrize("seed", range(5))
def test_damaged_pictures_are_one_message(color, photo, tmp_path, seed):
    """Whatever Pillow raises; where it reads the picture all the same, that is fine."""
    generator = np.random.default_rng(seed)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        path = tmp_path / "damaged"
        Image.open(photo).save(path, format=kind)
        content = bytearray(path.read_bytes())
        for place in generator.integers(0, len(content), 8):
            content[place] = generator.integers(256)
        path.write_bytes(content[: generator.integers(4, len(content) + 1)])
        with suppress(InputError):
            Preprocessing((6, 8), tuple(MEAN), tuple(STD)).read(path)


def test_opaque_pictures_with_an_alpha_channel_are_not_called_transparent(tmp_path):
    for mode in ("RGBA", "LA"):
        image = Image.new(mode, (5, 5), (90, 80, 70, 255) if mode == "RGBA" else (90, 255))
        image.save(tmp_path / "opaque.png")
        shown, warnings = Preprocessing((5, 5), (0.0,), (1.0,)).read(tmp_path / "opaque.png")
        assert warnings == []
        assert (np.asarray(shown) == np.asarray(image.convert("L"))).all()


# Where it is written to


@pytest.mark.parametrize("name", ["map.jpg", "map.npz", "map.eps"])
def test_a_drawing_is_a_png_svg_or_pdf(color, photo, tmp_path, name):
    said = refusal(OutputError, color[1], [photo], output=tmp_path / name)
    assert said == (
        f"drawings are PNG, SVG or PDF files, and {tmp_path / name} is none: give -o "
        f"{tmp_path / 'map.png'}, or a folder"
    )
    assert not (tmp_path / name).exists()


def test_a_file_is_no_folder(color, photo, tmp_path):
    (tmp_path / "notes").write_text("precious")
    for output in (tmp_path / "notes", tmp_path / "notes" / "deeper"):
        assert refusal(OutputError, color[1], [photo], output=output) == (
            f"{tmp_path / 'notes'} is a file: give a folder by -o, or a name ending in .png, .svg "
            "or .pdf"
        )
    assert (tmp_path / "notes").read_text() == "precious"


def test_a_name_as_long_as_names_get(color, photo, tmp_path):
    long = photo.with_name("p" * 250 + ".png")
    photo.rename(long)
    (found,) = explain_images(color[1], [long], output=tmp_path / "o")
    assert found.png.exists()
    said = refusal(OutputError, color[1], [long], output=tmp_path / "o" / ("x" * 300))
    assert said.endswith("can't be written to: File name too long")


def test_a_full_disk_is_one_message(color, photo, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        said = refusal(OutputError, color[1], [photo], output=tmp_path / "o")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said == f"{tmp_path / 'o'} can't be written to: File too large"
    assert os.listdir(tmp_path / "o") == []


def test_the_name_of_the_class(tmp_path, photo):
    torch.manual_seed(0)
    names = ["cat", "two\nlines \x1b[31m and more than thirty-two characters", "M\u00fcnze"]
    explainer = graphprop.compile(
        Tiny(3).eval(), torch.zeros(2, 3, 6, 8), "gradient", class_names=names
    )
    preprocessing = {"size": [6, 8], "mean": MEAN, "std": STD}
    folder = explainer.save(
        tmp_path / "named", onnx=False, check=False, preprocessing=preprocessing
    )
    for target, name in enumerate(names):
        (found,) = explain_images(folder, [photo], target=target, output=tmp_path / "maps")
        assert found.as_dict()["class_name"] == name
        assert found.title.startswith(f"{target}, ")
        assert found.title.isprintable()
        assert len(found.title) <= 35
        with Image.open(found.png) as image:
            assert image.text["Class"] == name
            assert image.text["Target"] == str(target)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class_names"] == names
    (folder / "manifest.json").write_text(json.dumps(manifest | {"class_names": names[:2]}))
    with pytest.raises(OutputError, match="class_names has 2 entries for 3 classes"):
        explain_images(folder, [photo])


def test_no_names_of_classes(color, photo, tmp_path):
    (found,) = explain_images(color[1], [photo], target=1, output=tmp_path / "maps")
    assert (found.class_name, found.title) == (None, "1")
    with Image.open(found.png) as image:
        assert "Class" not in image.text


# Arrays


def saved(path, array):
    (np.savez if path.suffix == ".npz" else np.save)(path, array)
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("batch", [False, True])
def test_an_array_of_numbers_is_explained_as_it_is(color, tmp_path, name, batch):
    explainer, folder = color
    x = torch.randn(1, 3, 6, 8)
    path = saved(tmp_path / name, (x if batch else x[0]).numpy())
    (found,) = explain_images(folder, [path], target=1, output=tmp_path / "out")
    torch.testing.assert_close(torch.from_numpy(found.relevance), explainer(x, 1)[1][0])
    assert found.png.exists()


def test_an_array_of_bytes_is_the_picture_of_these_bytes(color, photo, tmp_path):
    path = saved(tmp_path / "bytes.npy", np.asarray(Image.open(photo)))
    first, second = explain_images(color[1], [photo, path], output=tmp_path / "out")
    np.testing.assert_allclose(first.relevance, second.relevance, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(first.shown), np.asarray(second.shown))


class Volumetric(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3, 4)))


def test_of_a_volume_the_central_slice_is_drawn(tmp_path):
    torch.manual_seed(0)
    explainer = graphprop.compile(Volumetric().eval(), torch.zeros(2, 1, 5, 6, 7), "lrp_epsilon")
    explainer.save(tmp_path / "compiled", onnx=False, check=False)
    x = torch.randn(1, 5, 6, 7)
    path = saved(tmp_path / "x.npy", x.numpy())
    (found,) = explain_images(tmp_path / "compiled", [path], target=0, output=tmp_path / "out")
    torch.testing.assert_close(torch.from_numpy(found.relevance), explainer(x[None], 0)[1][0])
    assert found.shown.size == (7, 6)
    slice_2 = x[0, 2].numpy()
    darkest = np.unravel_index(slice_2.argmin(), slice_2.shape)
    assert np.asarray(found.shown)[darkest] == 0
    with Image.open(found.png) as drawing:
        assert drawing.info["Description"].endswith("slice 2 of 5")
        assert drawing.info["Relevance-Limit"] == repr(found.limit)
    assert found.limit == np.abs(found.relevance.astype(np.float64).sum(0)).max()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 6, 9), np.float32), "has the shape"),
        (np.zeros((2, 3, 6, 8), np.float32), "holds 2 inputs, and one is explained at a time"),
        (np.full((3, 6, 8), np.nan, np.float32), "holds NaN or infinite numbers"),
    ],
    ids=["shape", "several", "nan"],
)
def test_arrays_that_are_no_input(color, tmp_path, array, message):
    path = saved(tmp_path / "x.npy", array)
    assert message in refusal(InputError, color[1], [path], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_array_that_is_not_there(color, tmp_path):
    said = refusal(InputError, color[1], [tmp_path / "x.npy"], output=tmp_path / "out")
    assert said == f"there is no file {tmp_path / 'x.npy'}"


def test_the_arrays_that_are_written_do_not_replace_those_given(color, tmp_path):
    path = saved(tmp_path / "x.npz", np.zeros((3, 6, 8), np.float32))
    said = refusal(OutputError, color[1], [path], output=tmp_path)
    assert "would replace the input" in said


# Several classes, methods, and how they are drawn


def text_of(path):
    with Image.open(path) as image:
        return dict(image.text)


def test_the_classes_of_the_largest_logits(color, photo, tmp_path):
    explainer, folder = color
    found = explain_images(folder, [photo], top=3, output=tmp_path / "o")
    logits, _ = explainer(expected_input(photo))
    assert [one.target for one in found] == logits[0].argsort(descending=True).tolist()
    assert [one.rank for one in found] == [0, 1, 2]
    for one in found:
        torch.testing.assert_close(
            torch.from_numpy(one.relevance), explainer(expected_input(photo), one.target)[1][0]
        )
        assert one.npz == tmp_path / "o" / f"photo-{one.target}.npz"
        assert one.png == tmp_path / "o" / "photo.png"
    assert refusal(InputError, folder, [photo], top=4) == (
        "top must be a number from 1 to 3, the number of classes, not 4"
    )
    said = refusal(InputError, folder, [photo], top=2, target=1)
    assert said == "top explains the largest logits: leave target and versus out"


def test_a_class_and_not_another(color, photo, tmp_path):
    explainer, folder = color
    (found,) = explain_images(folder, [photo], target=2, versus=0, output=tmp_path / "o")
    weights = torch.tensor([[-1.0, 0.0, 1.0]])
    wanted = explainer(expected_input(photo), weights)[1][0]
    torch.testing.assert_close(torch.from_numpy(found.relevance), wanted)
    assert found.question == "2, not 0"
    assert np.load(found.npz)["versus"] == 0
    assert text_of(found.png)["Versus"] == "0"
    explain_images(folder, [photo], output=tmp_path / "o")  # its own file is replaced
    largest = int(found.logits.argmax())
    assert "versus is the class explained" in refusal(
        InputError, folder, [photo], target=1, versus=1
    )
    assert "which has the largest logit" in refusal(InputError, folder, [photo], versus=largest)
    said = refusal(InputError, folder, [photo], versus=0, target=1, backend="onnxruntime")
    assert "use the backend 'python'" in said


def test_classes_are_named(color, photo, tmp_path):
    names = ["cat", "Dog", "dog"]
    options = {"names": names, "output": tmp_path / "o"}
    (found,) = explain_images(color[1], [photo], target="CAT", **options)
    assert (found.target, found.class_name) == (0, "cat")
    (found,) = explain_images(color[1], [photo], target="dog", **options)
    assert found.target == 2
    assert "2 classes are called 'DOG'" in refusal(
        InputError, color[1], [photo], target="DOG", **options
    )
    assert (
        refusal(InputError, color[1], [photo], target="ca", **options)
        == "there is no class 'ca': did you mean 'cat'?"
    )
    said = refusal(InputError, color[1], [photo], names=names[:2])
    assert said == "there are 2 names for 3 classes"


@pytest.mark.parametrize(
    "text", ["cat\ndog\ncow\n", "cat\ndog\ncow", '["cat", "dog", "cow"]', "cat\r\ndog\r\ncow\r\n"]
)
def test_files_of_names(tmp_path, text):
    (tmp_path / "names").write_bytes(text.encode())
    assert read_names(tmp_path / "names") == ["cat", "dog", "cow"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b"[", None])
def test_files_that_hold_no_names(tmp_path, content):
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(InputError):
        read_names(tmp_path / "names")


def test_several_methods_stand_in_one_drawing(color, photo, tmp_path):
    torch.manual_seed(0)
    other = graphprop.compile(Tiny(3).eval(), torch.zeros(2, 3, 6, 8), "gradient")
    preprocessing = {"mean": MEAN, "std": STD}
    second = other.save(tmp_path / "g", onnx=False, check=False, preprocessing=preprocessing)
    found = explain_images([color[1], second], [photo], target=0, output=tmp_path / "o")
    assert [one.method for one in found] == ["lrp_epsilon", "gradient"]
    assert {one.png for one in found} == {tmp_path / "o" / "photo.png"}
    assert sorted(one.npz.name for one in found) == ["photo-gradient.npz", "photo-lrp_epsilon.npz"]
    assert text_of(found[0].png)["Method"] == "lrp_epsilon, gradient"
    assert len(panels_of(found[0].png, 256, 192)) == 3
    for one, explainer in zip(found, (color[0], other), strict=True):
        wanted = explainer(expected_input(photo), 0)[1][0]
        torch.testing.assert_close(torch.from_numpy(one.relevance), wanted)


def test_raw_is_the_map_alone(color, photo, tmp_path):
    (found,) = explain_images(color[1], [photo], output=tmp_path / "o", raw=True)
    drawn = np.asarray(Image.open(found.png))
    assert (drawn == heatmap.seismic(found.map / np.abs(found.map).max())).all()
    with pytest.raises(OutputError, match="a raw map is a PNG"):
        explain_images(color[1], [photo], output=tmp_path / "map.svg", raw=True)
    with pytest.raises(OutputError, match="is one file, for several raw maps"):
        explain_images(color[1], [photo, photo], output=tmp_path / "map.png", raw=True)


def test_preprocessing_can_be_said_otherwise(color, photo, tmp_path):
    explainer, folder = color
    (found,) = explain_images(folder, [photo], preprocessing="zero-one", output=tmp_path / "o")
    pixels = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(torch.from_numpy(found.logits), explainer(pixels)[0][0])
    said = otherwise(None, {"channels": "BGR"})
    (found,) = explain_images(folder, [photo], preprocessing=said, output=tmp_path / "o")
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    wanted = explainer((pixels.flip(1) - mean) / std)[0][0]
    torch.testing.assert_close(torch.from_numpy(found.logits), wanted)
    assert "BGR" in text_of(found.png)["Preprocessing"]


def test_what_is_done_to_a_map_is_said_in_its_drawing(color, photo, tmp_path):
    style = {"smooth": 1.5, "percentile": 90, "shared_scale": True, "cmap": "colorblind"}
    (found,) = explain_images(color[1], [photo], output=tmp_path / "o", overlay=True, **style)
    said = text_of(found.png)["Drawn"]
    assert "Gaussian" in said
    assert "percentile 90" in said
    assert "One scale" in said
    # the arrays are what was computed
    wanted = color[0](expected_input(photo))[1][0]
    torch.testing.assert_close(torch.from_numpy(np.load(found.npz)["relevance"]), wanted)


def test_a_hostile_name_leads_nowhere(color, photo, tmp_path):
    explainer, _ = color
    found = graphprop.explain(
        {"../../up": explainer, "b/c": explainer}, photo, preprocessing="zero-one"
    )
    found.save(tmp_path / "o")
    assert {path.parent for path in tmp_path.rglob("*.npz")} == {tmp_path / "o"}
    html = graphprop.explain(
        explainer, {"<script>": Image.open(photo)}, names=["<b>", "<i>", "<u>"]
    )._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


# The library


def test_the_library_takes_pictures_arrays_and_tensors(color, photo):
    explainer, folder = color
    image = Image.open(photo)
    x = expected_input(photo)
    given = [photo, image, np.asarray(image), x, x[0], x.numpy(), str(photo.parent / "p*.png")]
    found = graphprop.explain(explainer, given, preprocessing={"mean": MEAN, "std": STD})
    assert len(found) == len(given)
    for one in found:
        np.testing.assert_allclose(one.relevance, explainer(x)[1][0].numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(one.shown), np.asarray(image))
    by_directory = graphprop.explain(folder, photo)
    np.testing.assert_allclose(by_directory[0].relevance, found[0].relevance, rtol=1e-4, atol=1e-6)
    figure = found.plot(overlay=True)
    assert type(figure).__name__ == "Figure"
    with pytest.raises(InputError, match=r"has the shape \(2, 3, 6, 8\)"):
        graphprop.explain(explainer, torch.zeros(2, 3, 6, 8))
    with pytest.raises(InputError, match="an int can't be explained"):
        graphprop.explain(explainer, 3)
    with pytest.raises(MethodError, match="no option 'overlai': did you mean 'overlay'"):
        graphprop.explain(explainer, photo, overlai=True)


def test_a_batch_or_one_by_one_makes_no_difference_to_limits(color, photo):
    explainer, _ = color
    found = graphprop.explain(explainer, [photo, photo], top=2)
    limits = [one.limit for one in found]
    found.plot(percentile=50)
    assert [one.limit for one in found] == limits  # a drawing changes nothing


def test_explainers_and_reports_show_themselves(color):
    explainer, _ = color
    html = explainer._repr_html_()
    assert "lrp_epsilon" in html
    assert "conv" in html
    assert type(explainer.plot()).__name__ == "Figure"
    report = explainer.check(samples=1, backends=["python"])
    assert "check: passed" in report._repr_html_()
    report.plot().canvas.draw()
