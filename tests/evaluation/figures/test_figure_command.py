"""``graphprop figure``: each kind from the command line, its files, what it refuses."""

import json

import matplotlib.figure
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from graphprop.cli import main
from graphprop.errors import OutputError
from graphprop.evaluation.figures import refuse_file, save_figure

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(64, 3),
).eval()
example_input = torch.zeros(1, 1, 8, 8)
preprocessing = {"size": [8, 8], "mean": [0.5], "std": [0.25]}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a compiled directory, two pictures, data, and an evaluation."""
    folder = tmp_path_factory.mktemp("figure")
    (folder / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    masks = np.zeros((6, 8, 8), dtype=bool)
    masks[:, 2:5, 2:5] = True
    images = random.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=[0, 1, 2, 0, 1, 2], masks=masks)
    for name in ("a", "b"):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    (folder / "names.json").write_text('["ant", "bee", "cow"]')
    run("compile", folder / "model.py", "-m", "gradient", "--no-onnx", "--no-check", "-o",
        folder / "gradient")  # fmt: skip
    metrics = ("--metric", "mu", "--metric", "morf", "--metric", "deletion", "--occlusion")
    run("evaluate", folder / "gradient", "--data", folder / "data.npz", *metrics, "--no-plots",
        "-o", folder / "evaluation")  # fmt: skip
    return folder


def run(*arguments, code=0):
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    return found


def model(place, *methods):
    return ["--model", place / "model.py", *(part for m in methods for part in ("-m", m))]


def size_of(path):
    with Image.open(path) as image:
        assert image.info["Software"] == "graphprop"
        return image.size


def test_directories_and_pictures(place, tmp_path):
    out = tmp_path / "new" / "panel.png"
    done = run("figure", "panel", place / "gradient", place / "a.png", place / "b.png",
               "--baseline", "edge", "--baseline", "uniform", "-o", out)  # fmt: skip
    assert done.output == f"written: {out}\n"
    wide, high = size_of(out)
    assert wide > high > 300
    done = run("figure", "panel", place / "gradient", place / "a.png", "--json", "-o", out)
    content = json.loads(done.stdout)
    assert (content["command"], content["kind"], content["file"]) == ("figure", "panel", str(out))
    assert size_of(out)[1] < high  # one row in place of two


@pytest.mark.parametrize(
    ("kind", "methods", "options"),
    [
        ("layers", ["rap", "gradcam"], ["--layer", "0", "--count", "3"]),
        ("flows", ["rap-bn"], []),
        ("signs", [], []),
        ("signs", ["rap", "gradient"], ["--pair", "rap,gradient"]),
        ("topk", ["rap"], ["--top", "5", "--top", "20", "--fill", "mean", "--value", "sigmoid"]),
        ("sanity", ["rap"], ["--target", "bee", "--target", "2", "--depths", "2"]),
    ],
)
def test_a_model_and_data(kind, methods, options, place, tmp_path):
    out = tmp_path / "figure.svg"
    data = ["--data", place / "data.npz", "--samples", "1", "--classes", place / "names.json"]
    run("figure", kind, *model(place, *methods), *data, *options, "-o", out)
    text = out.read_text()
    assert "<dc:title>graphprop</dc:title>" in text
    assert text.count("<image") >= 3


def test_names_of_classes_are_those_of_the_models_file(place, tmp_path):
    (tmp_path / "model.py").write_text(MODEL + 'classes = ["ant", "bee", "cow"]\n')
    out = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        run("figure", "panel", "--model", tmp_path / "model.py", "-m", "gradient",
            place / "a.png", "--target", "bee", "-o", out)  # fmt: skip
    assert ">bee (1)<" in out.read_text()


@pytest.mark.parametrize(("kind", "options"), [("curves", ["--metric", "morf"]), ("size", [])])
def test_an_evaluation(kind, options, place, tmp_path):
    out = tmp_path / "figure.png"
    run("figure", kind, place / "evaluation", *options, "-o", out)
    assert min(size_of(out)) > 300


def test_curves_are_those_of_the_evaluation_in_a_band(place):
    import graphprop

    drawn = graphprop.figure("curves", evaluation=place / "evaluation")
    content = json.loads((place / "evaluation" / "evaluation.json").read_text())
    lines = {
        (axes.get_title(), line.get_label()): line.get_xydata()
        for axes in drawn.axes
        for line in axes.lines
    }
    assert len(lines) == len(content["curves"]) == 2 * 4
    for curve in content["curves"]:
        points = lines[curve["metric"], curve["explainer"]]
        assert np.allclose(points, np.transpose([curve["x"], curve["y"]]))
    bands = [band.get_paths()[0].vertices for axes in drawn.axes for band in axes.collections]
    assert bands
    assert all(band[:, 1].min() >= 0 and band[:, 1].max() <= 1 for band in bands)
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend == ["random", "uniform", "edge", "gradient"]


def test_effects_of_occlusion_stand_in_a_band_of_one_deviation(place):
    import graphprop
    from graphprop.evaluation.saved import read_evaluation

    drawn = graphprop.figure("size", evaluation=place / "evaluation")
    left, right = drawn.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("mu", "fall of the logit")
    _, occluded = read_evaluation(place / "evaluation")
    for part, line, band in zip(("object", "context"), right.lines, right.collections, strict=True):
        falls = [case[part] for case in occluded.cases]  # all objects are of one size: one bin
        assert line.get_xydata() == pytest.approx(np.array([[0.145, np.mean(falls)]]))
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(np.mean(falls) - np.std(falls))
        assert heights.max() == pytest.approx(np.mean(falls) + np.std(falls))


# Files


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_figure_is_the_same_file_and_is_replaced(suffix, place, tmp_path):
    out = tmp_path / f"figure{suffix}"
    files = []
    for _ in range(2):
        run("figure", "panel", place / "gradient", place / "a.png", "-o", out)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_file_from_elsewhere_is_kept(suffix, place, tmp_path):
    out = tmp_path / f"figure{suffix}"
    figure = matplotlib.figure.Figure()
    figure.savefig(out)
    before = out.read_bytes()
    done = run("figure", "panel", place / "gradient", place / "a.png", "-o", out, code=2)
    assert "exists and was not written by graphprop" in done.output
    assert out.read_bytes() == before


def test_names_that_are_no_figure_are_refused(place, tmp_path):
    for name, message in (
        ("figure", "a figure is a file that ends in .png, .svg, .pdf"),
        ("figure.jpg", f"give -o {tmp_path / 'figure.png'}"),
        (".", "does not"),
    ):
        with pytest.raises(OutputError, match=message.replace(".", r"\.")):
            refuse_file(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        refuse_file(tmp_path / "folder.png")
    with pytest.raises(OutputError, match="which it is made of"):
        refuse_file(place / "a.png", keep=[place / "a.png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        save_figure(matplotlib.figure.Figure(), tmp_path / "file" / "figure.png")


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["panle", "gradient", "a.png"], "'panle' is not one of"),
        (["panel", "gradient"], "name pictures, or data by --data DATA, and not both"),
        (["panel", "gradient", "a.png", "--data", "data.npz"], "and not both"),
        (["panel", "a.png"], "name compiled directories, or a model by --model SOURCE"),
        (["panel", "gradient", "c.png"], "neither a compiled directory nor a picture"),
        (["panel", "evaluation", "a.png"], "manifest.json"),
        (["panel", "gradient", "a.png", "-m", "rap"], "--method compiles a model"),
        (["panel", "--model", "model.py", "a.png"], "name the methods to compile"),
        (["signs", "--model", "model.py", "a.png", "--fit", "b.png"], "name the methods"),
        (["panel", "gradient", "a.png", "--fit", "b.png"], "--fit compiles a model"),
        (["signs", "gradient", "--model", "model.py", "a.png"], "not both"),
        (["layers", "gradient", "a.png"], "which compiled directories don't record"),
        (["panel", "gradient", "a.png", "--top", "3"], "--top is of topk, not panel"),
        (["topk", "gradient", "a.png", "--pair", "a,b"], "--pair is of signs, not topk"),
        (["signs", "gradient", "a.png", "--pair", "a"], "write FIRST,SECOND, not 'a'"),
        (["signs", "gradient", "a.png", "--pair", "a,b"], "no explainer 'a' for a pair"),
        (["panel", "gradient", "a.png", "--target", "bee"], "'bee' is no class: give a number"),
        (["panel", "gradient", "a.png", "--target", "7"], "the network has the classes 0 to 2"),
        (["topk", "gradient", "a.png", "--fill", "ink"], "fill"),
        (["curves"], "is drawn of one evaluation: name the folder"),
        (["curves", "evaluation", "a.png"], "and no model, data or pictures"),
        (["size", "evaluation", "--samples", "3"], "and no model, data or pictures"),
        (["curves", "gradient"], "holds no evaluation.json"),
        (["curves", "evaluation", "--metric", "mrof"], "no curve of 'mrof': did you mean 'morf'"),
        (["size", "evaluation", "--metric", "morf"], "--metric is of curves, not size"),
    ],
)
def test_wrong_use_is_refused(arguments, message, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    out = tmp_path / "figure.png"
    done = run("figure", *arguments, "-o", out, code=2)
    assert message in " ".join(done.output.split())
    assert not out.exists()
