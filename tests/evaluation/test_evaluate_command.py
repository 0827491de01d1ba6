"""``graphprop evaluate``: its table, its files, resuming, what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from graphprop import builtin
from graphprop.cli import main
from graphprop.evaluation import METRICS
from graphprop.evaluation.baselines import BASELINES

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
).eval()
example_input = torch.zeros(1, 1, 8, 8)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, two compiled directories and data."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    masks = np.zeros((6, 8, 8), dtype=bool)
    masks[:, 2:5, 2:5] = True
    images = random.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=[0, 1, 2, 0, 1, 2], masks=masks)
    for method in ("lrp_epsilon", "gradient"):
        arguments = ["compile", str(folder / "model.py"), "-m", method, "--no-onnx", "--no-check"]
        found = CliRunner().invoke(main, [*arguments, "-o", str(folder / method)])
        assert found.exit_code == 0, found.output
    return folder


def run(place, *arguments, code=0):
    found = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found


def directories(place):
    return [place / "lrp_epsilon", place / "gradient"]


def test_table_and_files(place, tmp_path):
    out = tmp_path / "out"
    arguments = ["--data", place / "data.npz", "-o", out, "--occlusion"]
    for name in ("mu", "mu_w", "gini", "entropy", "morf", "remove_positive", "randomisation"):
        arguments += ["--metric", name]
    found = run(place, *directories(place), *arguments).stdout
    head = next(line for line in found.splitlines() if line.startswith("metric"))
    assert head.split() == "metric better random uniform edge lrp_epsilon gradient".split()
    (line,) = (line for line in found.splitlines() if line.startswith("mu_w"))
    assert line.split()[1] == "higher"
    assert line.count("[") == 5
    assert line.count("*") >= 1
    assert "1 [1, 1]" in line  # the uniform map: what chance gives
    assert "no value of randomisation for random (6), uniform (6), edge (6)" in found
    assert "the target's logit falls by" in found
    content = json.loads((out / "evaluation.json").read_text())
    assert content["version"] == 1
    assert {row["n"] for row in content["rows"]} <= set(range(1, 7))
    names = {path.name for path in out.iterdir()}
    assert {"evaluation.csv", "cases.csv", "occlusion.csv"} <= names
    assert "partial.jsonl" not in names
    for name in ("metrics", "curve-morf", "mu-by-size", "occlusion"):
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 200


def test_json_is_what_the_library_finds(place, tmp_path):
    arguments = ["--data", place / "data.npz", "-o", tmp_path / "out", "--no-plots"]
    arguments += ["--metric", "mu", "--metric", "d_k:k=3000", "--json"]
    found = run(place, *directories(place), *arguments)
    content = json.loads(found.stdout)
    assert (content["version"], content["command"]) == (1, "evaluate")
    assert {row["metric"] for row in content["rows"]} == {"mu", "d_k(k=3000)"}
    for row in content["rows"]:
        assert set(row) == {"explainer", "metric", "mean", "low", "high", "n", "higher_is_better"}
    again = json.loads(run(place, *directories(place), *arguments).stdout)
    assert again == content


def test_a_model_compiled_on_the_fly(place, tmp_path):
    arguments = ["--data", place / "data.npz", "-o", tmp_path / "out", "--no-plots", "--json"]
    arguments += ["--metric", "mu", "--metric", "morf"]
    model = ["--model", place / "model.py", "-m", "lrp_epsilon", "-m", "gradient"]
    rows = json.loads(run(place, *model, *arguments).stdout)["rows"]
    arguments[3] = tmp_path / "other"
    compiled = json.loads(run(place, *directories(place), *arguments).stdout)["rows"]
    for row, other in zip(rows, compiled, strict=True):
        assert row == pytest.approx(other)


def test_values_of_a_parameter(place, tmp_path):
    model = ["--model", place / "model.py", "-m", "lrp_epsilon", "--sweep", "epsilon=1e-6,1"]
    arguments = ["--data", place / "data.npz", "-o", tmp_path / "out", "--no-plots"]
    arguments += ["--no-baselines", "--metric", "entropy"]
    found = run(place, *model, *arguments).stdout
    lines = [line.split()[0] for line in found.splitlines() if line.startswith("lrp_epsilon")]
    assert lines == ["lrp_epsilon[epsilon=1e-6]", "lrp_epsilon[epsilon=1]"]
    assert "method" in found  # one metric, two methods: methods go down the side


def test_samples(place, tmp_path):
    arguments = ["--data", place / "data.npz", "-o", tmp_path, "--no-plots", "--json"]
    found = run(place, *directories(place), *arguments, "--metric", "mu", "--samples", 2)
    assert {row["n"] for row in json.loads(found.stdout)["rows"]} == {2}


def test_an_interrupted_evaluation_is_resumed(place, tmp_path, monkeypatch):
    from graphprop.evaluation import runner

    arguments = ["--data", place / "data.npz", "--no-plots", "--json", "--batch-size", 2]
    arguments += ["--metric", "mu"]
    expected = run(place, *directories(place), *arguments, "-o", tmp_path / "complete")
    original, calls = runner.records_of, []

    def stopped(cases, name, *rest):
        calls.append(name)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(cases, name, *rest)

    out = tmp_path / "out"
    monkeypatch.setattr(runner, "records_of", stopped)
    run(place, *directories(place), *arguments, "-o", out, code=130)
    assert (out / "partial.jsonl").exists()
    seen = []

    def counted(cases, *rest):
        seen.append(len(cases))
        return original(cases, *rest)

    monkeypatch.setattr(runner, "records_of", counted)
    found = run(place, *directories(place), *arguments, "-o", out)
    rows = json.loads(found.stdout)["rows"]
    assert rows == json.loads(expected.stdout)["rows"]
    assert seen[:7] == [0] * 7
    assert sum(seen) == 6 * 5 - 7 * 2


def test_names_of_classes(place, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 99).save(tmp_path / "data" / name / "a.png")
    arguments = [*directories(place), "--data", tmp_path / "data", "-o", tmp_path / "out"]
    arguments += ["--metric", "gini", "--no-plots"]
    found = run(place, *arguments, code=2)
    assert "has the class 'one'" in found.stderr
    for content in (["two", "zero", "one"], {"one": 2, "two": 0}):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        run(place, *arguments, "--classes", tmp_path / "classes.json")
    cases = (tmp_path / "out/cases.csv").read_text().splitlines()
    assert {line.split(",")[2] for line in cases[1:]} == {"0", "2"}
    (tmp_path / "classes.json").write_text("3")
    found = run(place, *arguments, "--classes", tmp_path / "classes.json", code=2)
    assert "must hold a list of names, or an object of name to class" in found.stderr


def test_a_metric_of_ones_own(place, tmp_path):
    (tmp_path / "own_metric.py").write_text(
        "from graphprop.evaluation import metric\n\n\n"
        "@metric(higher_is_better=True, missing=0.0)\n"
        "def largest(sample, *, factor=1):\n"
        '    """The largest entry."""\n'
        "    return factor * sample.map.max()\n"
    )
    arguments = [place / "gradient", "--data", place / "data.npz", "-o", tmp_path / "out"]
    arguments += ["--import", tmp_path / "own_metric.py", "--metric", "largest:factor=0", "--json"]
    try:
        rows = json.loads(run(place, *arguments, "--no-plots").stdout)["rows"]
    finally:
        METRICS.pop("largest", None)
    assert {(row["metric"], row["mean"]) for row in rows} == {("largest(factor=0)", 0)}


def test_networks_that_cannot_be_compared(place, tmp_path):
    (tmp_path / "wide.py").write_text(
        MODEL.replace("8, 8", "16, 16").replace("Linear(64", "Linear(256")
    )
    arguments = ["compile", str(tmp_path / "wide.py"), "-m", "gradient", "--no-onnx", "--no-check"]
    found = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "wide")])
    assert found.exit_code == 0, found.output
    arguments = [place / "gradient", tmp_path / "wide", "--data", "x", "-o", tmp_path / "out"]
    found = run(place, *arguments, code=2)
    assert "can't be compared: they take different pictures" in found.stderr


def test_list_of_metrics(place):
    found = run(place, "--list-metrics").stdout
    lines = [line for line in found.splitlines() if line.startswith("outside_inside_all")]
    assert "lower" in lines[0]
    assert "masks" in lines[0]
    assert len(found.splitlines()) == 29


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x.npz"], "name compiled directories, or a model by --model SOURCE"),
        (["DIR", "--model", "m.py", "--data", "x"], "name either compiled directories or --model"),
        (["DIR", "-m", "rap", "--data", "x"], "--method compiles a model: name it by --model"),
        (["DIR", "--sweep", "a=1", "--data", "x"], "--sweep compiles a model"),
        (["DIR", "--fit", "x", "--data", "x"], "--fit compiles a model"),
        (["--model", "m.py", "--data", "x"], "name the methods to compile --model with"),
        (["DIR", "--data", "none"], "there is no data none"),
        (["DIR", "DIR", "--data", "x"], "is given twice"),
        (["DIR", "--data", "x", "--metric", "mue"], "did you mean 'mu'?"),
        (["DIR"], "Missing option '--data'"),
    ],
)
def test_refused(place, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(place / "gradient") if word == "DIR" else word for word in arguments]
    assert message in run(place, *given, code=2).stderr
    assert not (tmp_path / "evaluation").exists()


def test_a_folder_of_something_else_is_left_alone(place, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    found = run(place, place / "gradient", "--data", place / "data.npz", "-o", tmp_path, code=2)
    assert "is not empty and holds no evaluation: name another folder by -o" in found.stderr
    found = run(place, place / "gradient", "--data", "x", "-o", tmp_path / "letter.txt", code=2)
    assert "is a file: name a folder by -o" in found.stderr


def test_one_capture_for_all_methods(place, tmp_path, monkeypatch):
    from graphprop.frontend import captured

    original, calls = captured.capture, []

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(captured, "capture", counted)
    arguments = ["--model", place / "model.py", "-m", "lrp_epsilon", "-m", "rap", "-m", "gradient"]
    arguments += ["--sweep", "batch_norm=merge,pass", "--metric", "gini", "--no-plots"]
    run(place, *arguments, "--data", place / "data.npz", "-o", tmp_path / "out")
    assert len(calls) == 1


def test_methods_fitted_to_data(place, tmp_path):
    arguments = ["--model", place / "model.py", "-m", "pattern_net", "-m", "gradient"]
    arguments += ["--metric", "mu", "--no-plots", "--data", place / "data.npz", "--json"]
    arguments += ["-o", tmp_path / "out"]
    found = run(place, *arguments, code=2)
    assert "`graphprop compile --fit DATA`" in found.stderr
    rows = json.loads(run(place, *arguments, "--fit", place / "data.npz").stdout)["rows"]
    assert [row["explainer"] for row in rows][-2:] == ["pattern_net", "gradient"]
    arguments = [*arguments[:2], *arguments[4:], "--fit", place / "data.npz"]
    found = run(place, *arguments, code=2)
    assert "none of the methods 'gradient' fits anything to data" in found.stderr


def test_baselines_that_are_named(place, tmp_path):
    assert (*BASELINES, "occlusion") == builtin.BASELINES
    arguments = [place / "gradient", "--data", place / "data.npz", "--metric", "mu", "--json"]
    arguments += ["--metric", "morf", "--no-plots", "-o", tmp_path / "out"]
    named = ["--baseline", "occlusion", "--baseline", "edge", "--baseline", "edge"]
    rows = json.loads(run(place, *arguments, *named).stdout)["rows"]
    assert [row["explainer"] for row in rows][::2] == ["occlusion", "edge", "gradient"]
    found = run(place, *arguments, *named, "--no-baselines", code=2)
    assert "give either --baseline or --no-baselines" in found.stderr


def test_names_of_classes_in_the_models_file(place, tmp_path):
    (tmp_path / "named.py").write_text(MODEL + "class_names = ['zero', 'one', 'two']\n")
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 99).save(tmp_path / "data" / name / "a.png")
    compiled = ["compile", str(tmp_path / "named.py"), "-m", "gradient", "--no-check"]
    found = CliRunner().invoke(main, [*compiled, "-o", str(tmp_path / "named")])
    assert found.exit_code == 0, found.output
    shared = ["--data", tmp_path / "data", "--metric", "gini", "--no-plots"]
    for number, network in enumerate(
        ([tmp_path / "named"], ["--model", tmp_path / "named.py", "-m", "gradient"])
    ):
        run(place, *network, *shared, "-o", tmp_path / f"out{number}")
        cases = (tmp_path / f"out{number}/cases.csv").read_text().splitlines()
        assert {line.split(",")[2] for line in cases[1:]} == {"1", "2"}
    (tmp_path / "classes.json").write_text(json.dumps({"one": 0, "two": 2}))
    given = ["--classes", tmp_path / "classes.json", "-o", tmp_path / "given"]
    run(place, tmp_path / "named", *shared, *given)
    cases = (tmp_path / "given/cases.csv").read_text().splitlines()
    assert {line.split(",")[2] for line in cases[1:]} == {"0", "2"}
    (tmp_path / "named.py").write_text(MODEL + "class_names = ['zero', 'one']\n")
    found = CliRunner().invoke(main, [*compiled, "-o", str(tmp_path / "few")])
    assert found.exit_code == 2
    assert (
        "give one name for each of the 3 classes, not 2 (class_names; in a model's" in found.stderr
    )


def test_results_so_far_of_other_weights_are_refused(place, tmp_path, monkeypatch):
    from graphprop.evaluation import runner

    namespace = {}
    exec(MODEL, namespace)
    state = namespace["model"].state_dict()
    save_file({key: tensor.half() for key, tensor in state.items()}, tmp_path / "a.safetensors")
    save_file({key: tensor * 2 for key, tensor in state.items()}, tmp_path / "b.safetensors")
    original = runner.records_of

    def stopped(cases, name, *rest):
        if name == "gradient":
            raise KeyboardInterrupt
        return original(cases, name, *rest)

    arguments = ["--model", place / "model.py", "-m", "gradient", "--data", place / "data.npz"]
    arguments += ["--metric", "mu", "--no-plots", "-o", tmp_path / "out", "--weights"]
    monkeypatch.setattr(runner, "records_of", stopped)
    run(place, *arguments, tmp_path / "a.safetensors", code=130)
    monkeypatch.setattr(runner, "records_of", original)
    found = run(place, *arguments, tmp_path / "b.safetensors", code=2)
    assert "the results so far of another evaluation (explainers differ)" in found.stderr
    run(place, *arguments, tmp_path / "a.safetensors")
