"""``graphprop check`` as people and programs use it: options, files that were changed, outputs."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.artifact.manifest import as_json, manifest_hash
from graphprop.checking.check import check_directory
from graphprop.checking.junit import Checked, as_junit
from graphprop.checking.report import BackendResult, Report
from graphprop.cli import main
from graphprop.errors import InputError, OutputError

pytestmark = pytest.mark.usefixtures("same_process")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    torch.manual_seed(0)
    explainer = graphprop.compile(Net().eval(), torch.zeros(2, 3, 6, 6))
    preprocessing = {"size": [6, 6], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    folder = tmp_path_factory.mktemp("compiled") / "net"
    return save(explainer, folder, preprocessing=preprocessing)


@pytest.fixture
def directory(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "net")


def check(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def rewrite(directory, *, sealed=False, **fields):
    """Change fields of a manifest; with ``sealed``, its hash, too."""
    file = directory / "manifest.json"
    content = json.loads(file.read_text()) | fields
    if sealed:
        content["sha256"] = manifest_hash(content)
    file.write_text(as_json(content))


# What is printed


def test_printing_a_report_prints_what_the_command_prints(compiled):
    report = check_directory(compiled, backends=["onnxruntime"])
    done = check(compiled, "--backend", "onnxruntime")
    assert str(report).splitlines()[0] == done.stdout.splitlines()[0] == "check: passed"
    assert bool(report) is report.passed is True
    assert not Report("float64", backends=[BackendResult("b", problem="it is off")])


def test_nothing_compared_is_not_checked(tmp_path):
    """Neither by the backend that can't be held against anything, nor by none."""
    explainer = graphprop.compile(Net().eval(), torch.zeros(2, 3, 6, 6))
    folder = save(explainer, tmp_path / "net", check=False)
    done = check(folder, "--backend", "onnxruntime")
    assert done.exit_code == 1
    assert done.stdout.startswith("check: not checked")
    assert "nothing is recorded to hold it against" in done.stdout
    empty = Report("float64")
    assert (empty.status, bool(empty)) == ("not checked", False)
    assert empty.complaint() == "nothing was compared"
    skipped = Report("float64", backends=[BackendResult("onnx.reference", skipped="too slow")])
    assert skipped.status == "not checked"
    assert skipped.complaint() == "nothing was compared; too slow"


def test_several_directories(compiled, directory):
    rewrite(directory, model="another")
    done = check(compiled, directory, "--backend", "onnxruntime")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{compiled}:", "check: passed"]
    assert f"{directory}:" in lines
    assert "check: FAILED" in lines


def test_a_directory_that_is_none_does_not_keep_others_from_being_checked(compiled, tmp_path):
    done = check(tmp_path / "none", compiled, "--backend", "onnxruntime")
    assert done.exit_code == 2
    assert "check: passed" in done.stdout
    assert "there is no directory" in done.stderr


def test_json_of_several_directories(compiled, directory, tmp_path):
    rewrite(directory, model="another")
    done = check(compiled, directory, tmp_path, "--backend", "onnxruntime", "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 2
    assert content["passed"] is False
    assert [one["status"] for one in content["checks"]] == ["passed", "failed", "error"]
    first, second, third = content["checks"]
    assert (first["directory"], first["error"], first["check"]["version"]) == (
        str(compiled),
        None,
        2,
    )
    assert second["check"]["changes"]
    assert third["check"] is None
    assert third["error"]["type"] == "OutputError"
    assert third["error"]["exit_code"] == 2
    assert "manifest.json" in third["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "command", "kind", "text"),
    [
        (["check", "nowhere", "--json"], "check", "OutputError", "there is no directory nowhere"),
        (["compile", "nowhere.py", "--json"], "compile", "LoadError", "nowhere.py"),
        (["check", "--json"], "check", "MissingParameter", "Missing argument 'DIR...'"),
        (["check", "x", "--json", "--samples", "none"], "check", "BadParameter", "valid integer"),
    ],
)
def test_errors_are_json_too(arguments, command, kind, text):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    content = json.loads(done.stdout)
    assert (content["version"], content["command"]) == (1, command)
    assert content["error"]["type"] == kind
    assert content["error"]["exit_code"] == 2
    assert text in content["error"]["message"]
    assert text in done.stderr


def test_junit(compiled, directory, tmp_path):
    (directory / "explainer.onnx").write_bytes(b"no model")
    file = tmp_path / "check.xml"
    done = check(compiled, directory, tmp_path, "--junit", file)
    assert done.exit_code == 2
    root = ElementTree.parse(file).getroot()
    assert [suite.get("name") for suite in root] == [str(compiled), str(directory), str(tmp_path)]
    numbers = [
        [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] for suite in root
    ]
    assert numbers == [["4", "0", "0", "0"], ["4", "3", "0", "0"], ["1", "0", "1", "0"]]
    cases = {case.get("name"): case for case in root[1].iter("testcase")}
    assert list(cases) == ["files", "python", "onnxruntime", "onnx.reference"]
    assert "explainer.onnx was changed" in cases["files"].find("failure").get("message")
    assert cases["python"].find("failure") is None
    assert float(cases["python"].get("time")) > 0
    assert root.get("tests") == "9"


def test_junit_holds_any_name():
    report = Report("float64", backends=[BackendResult("b", problem="\x00 <&>\ud800")])
    text = as_junit([Checked("a\x1b]&<", report), Checked("b", error=OutputError("none"))])
    assert ElementTree.fromstring(text.encode()).get("failures") == "1"


# What is compared


def test_inputs_of_ones_own(compiled, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 3, 6, 6)))
    report = check_directory(compiled, inputs=tmp_path / "x.npy")
    assert report.passed
    assert [name for name in report.samples if name.startswith("inputs")] == [
        "inputs[0]",
        "inputs[1]",
        "inputs[2]",
    ]
    assert all("inputs[2]" in result.rows for result in report.backends)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((2, 3, 5, 5)), r"shape \(2, 3, 5, 5\), and inputs have \('N', 3, 6, 6\)"),
        (np.zeros((0, 3, 6, 6)), r"holds arrays of shape \(0, 3, 6, 6\)"),
        (np.zeros((1, 3, 6, 6), complex), "holds complex128, and inputs are numbers"),
        (np.full((1, 3, 6, 6), np.nan), "holds NaN or infinity"),
        (np.array([object()]), r"can't be read \(Object arrays cannot be loaded"),
        (None, "there is no file"),
    ],
)
def test_inputs_that_are_none(compiled, tmp_path, array, text):
    if array is not None:
        np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=text):
        check_directory(compiled, inputs=tmp_path / "x.npy")


def test_a_picture_in_the_directory_is_explained(directory):
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(directory / "cat.png")
    report = check_directory(directory)
    assert report.passed, report.render()
    assert "picture cat.png" in report.samples
    (directory / "cat.png").write_bytes(b"no picture")
    report = check_directory(directory)
    assert report.passed
    assert "the picture cat.png is not explained: " in " ".join(report.warnings)


def test_a_tolerance_of_ones_own(compiled):
    assert check_directory(compiled, rtol=1e-4).passed
    assert check_directory(compiled, atol=1e-4).passed
    report = check_directory(compiled, rtol=1e-9)
    assert not report.passed
    assert report.backends[0].worst.allowed == 1e-9
    # nothing is excused as rounding then
    assert all(result.explained is None for result in report.backends)
    assert check(compiled, "--rtol", "1e-9").exit_code == 1


# Files that are not as they were written


def test_what_was_written_has_not_changed(compiled):
    assert check_directory(compiled).changes == []


def test_every_changed_file_fails_the_check(directory):
    def altered(name):
        before = (directory / name).read_bytes()
        (directory / name).write_bytes(before + b"\n")
        report = check_directory(directory, backends=["onnxruntime"])
        allowed = check_directory(directory, backends=["onnxruntime"], allow_changed=True)
        (directory / name).write_bytes(before)
        assert f"{name} was changed after it was written" in report.changes
        assert f"{name} was changed after it was written" in allowed.warnings
        assert allowed.changes == []
        return report.passed, allowed.passed

    assert altered("explainer.py") == (False, True)
    assert altered("weights.safetensors")[0] is False
    done = check(directory, "--backend", "onnxruntime")
    assert done.exit_code == 0
    (directory / "explainer.py").write_bytes(b"")
    done = check(directory, "--backend", "onnxruntime")
    assert done.exit_code == 1
    assert "explainer.py was changed" in done.stdout
    assert check(directory, "--backend", "onnxruntime", "--allow-changed").exit_code == 0


def test_the_manifest_covers_itself(directory):
    content = json.loads((directory / "manifest.json").read_text())
    for key in sorted(content.keys() - {"generator", "version", "sha256", "files"}):
        assert manifest_hash(content | {key: "another"}) != content["sha256"]
    rewrite(directory, notes=["nothing to see here"])
    report = check_directory(directory, backends=["onnxruntime"])
    assert report.changes == ["manifest.json was changed after it was written"]
    rewrite(directory, sha256="0" * 64)
    assert not check_directory(directory, backends=["onnxruntime"])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"method": "rap"}, "manifest.json says method rap, and explainer.py epsilon_plus_flat"),
        ({"model": "Other"}, "manifest.json says model 'Other', and explainer.py 'Net'"),
        ({"graphprop": "9.9"}, "manifest.json says graphprop 9.9, explainer.py "),
        ({"relevance_shape": [3, 6, 7]}, "manifest.json gives relevance the shape [3, 6, 7]"),
        ({"onnx_names": {"conv": "nothing"}}, "the value 'nothing', which explainer.onnx has not"),
        ({"onnx_names": {"nothing": "conv"}}, "is to be nothing, which explainer.py has not"),
        ({"fingerprint": None}, "holds results of a check without what was checked"),
    ],
)
def test_a_manifest_that_says_something_else_fails(directory, fields, text):
    """Even with a hash that is right."""
    rewrite(directory, sealed=True, **fields)
    report = check_directory(directory, backends=["onnxruntime"])
    assert any(text in change for change in report.changes), report.changes
    assert not report.passed


def test_a_parameter_that_was_changed_in_the_manifest_fails(directory):
    content = json.loads((directory / "manifest.json").read_text())
    parameters = content["parameters"] | {"epsilon": 0.5}
    rewrite(directory, sealed=True, parameters=parameters)
    report = check_directory(directory, backends=["onnxruntime"])
    assert "manifest.json says epsilon=0.5, and explainer.py 1e-06" in report.changes


def test_metadata_of_onnx_that_says_something_else_fails(directory):
    file = directory / "explainer.onnx"
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"method": "rap", "classes": "3", "other": "x"})
    onnx.save(model, file)
    report = check_directory(directory, backends=["onnxruntime"])
    differ = [change for change in report.changes if "metadata" in change]
    text = 'manifest.json and the metadata of explainer.onnx differ in method: "epsilon_plus_flat" '
    assert differ[0] == f"{text}and rap"


def test_weights_that_no_path_uses_are_seen_by_their_hash(directory):
    weights = load_file(directory / "weights.safetensors")
    save_file(weights | {"unused": torch.zeros(1)}, directory / "weights.safetensors")
    assert not check_directory(directory, backends=["onnxruntime"])
