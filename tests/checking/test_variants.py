"""The check of generated modules in half precision, and on other devices."""

import json
import math
import re
import shutil

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import graphprop
from graphprop.checking.check import check_directory
from graphprop.checking.variants import LARGEST, expected
from graphprop.cli import main
from graphprop.errors import InputError, MethodError

pytestmark = pytest.mark.usefixtures("same_process")
NO_GPU = "needs an NVIDIA GPU, and a torch that is built for it"


def network(scale=1.0):
    """A small network; its logits grow with ``scale``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)),
        *(nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 3)),
    )
    with torch.no_grad():
        model[3].weight *= scale
    return model.eval()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    explainer = graphprop.compile(network(), torch.zeros(1, 1, 8, 8), "rap")
    return explainer.save(tmp_path_factory.mktemp("variants") / "net")


def results(report):
    return {result.name: result for result in report.backends}


def check(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_what_is_expected_follows_from_single_precision():
    assert expected("float16", 1e-6) == pytest.approx(1e-5 * 2**13)
    assert expected("float16", 1e-9) == expected("float16", math.nan)
    assert expected("bfloat16", 1e-6) == expected("float16", 1e-4) == LARGEST


def test_a_map_that_half_precision_can_hold(directory):
    report = check_directory(directory, dtypes=["bfloat16", torch.float16], device="cpu")
    assert report.passed, report
    found = results(report)
    assert [*found] == [
        *("python", "onnxruntime", "onnx.reference", "python cpu", "onnxruntime cpu"),
        *("python bfloat16", "python float16"),
    ]
    exact, rough, rougher = (
        found[name].worst.error for name in ("python", "python float16", "python bfloat16")
    )
    assert 10 * exact < rough < rougher <= LARGEST
    assert found["python cpu"].worst == found["python"].worst


@pytest.mark.parametrize(
    ("scale", "method", "dtype", "text"),
    [
        (1e6, "rap", "float16", "has NaN or infinity; it first goes wrong, to no number, at"),
        (1e6, "rap", "bfloat16", None),
        # the relevance is there, and too small for the numbers of this type
        (1e-7, "gradient", "float16", r"is off by .*; it first goes wrong, by \S+, at the"),
        (1e-7, "gradient", "bfloat16", None),
    ],
)
def test_a_type_that_is_too_narrow(scale, method, dtype, text):
    explainer = graphprop.compile(network(scale), torch.zeros(1, 1, 8, 8), method)
    report = explainer.check(backends=["python"], dtypes=[dtype])
    assert results(report)["python"].passed
    if text is None:
        assert report.passed, report
        return
    found = results(report)[f"python {dtype}"]
    assert not found.passed
    start = rf"this network and method can't be computed in {dtype}: .*"
    assert re.search(start + text, found.problem), found.problem
    assert "from the rule of" in found.problem or "the result of" in found.problem
    assert not report.passed


def test_a_wrong_step_is_no_rounding(directory, tmp_path):
    changed = shutil.copytree(directory, tmp_path / "net")
    file = changed / "explainer.py"
    source = file.read_text()
    half = "        check_finite("
    assert half in source
    wrong = "        relevance = relevance * (2 - (relevance.element_size() > 2))\n"
    file.write_text(source.replace(half, wrong + half))
    report = check_directory(changed, dtypes=["float16"], backends=["python"], allow_changed=True)
    assert results(report)["python"].passed
    found = results(report)["python float16"]
    assert found.worst.error == pytest.approx(1.0, abs=0.1)
    assert not found.passed


def test_a_kernel_that_torch_lacks_is_named(directory, tmp_path):
    changed = shutil.copytree(directory, tmp_path / "net")
    file = changed / "explainer.py"
    lacking = "        if x.element_size() == 2:\n            raise RuntimeError('no kernel')\n"
    file.write_text(
        file.read_text().replace("        check_input(", lacking + "        check_input(", 1)
    )
    report = check_directory(changed, dtypes=["float16"], backends=["python"], allow_changed=True)
    assert (
        "RuntimeError: no kernel (explainer.py, line" in results(report)["python float16"].problem
    )


def test_types_and_devices_that_there_are_not(directory):
    for options, kind, text in (
        ({"dtypes": ["float61"]}, MethodError, "not of 'float61': did you mean 'float16'"),
        ({"dtypes": "float32"}, MethodError, "knows what to expect of float16 and bfloat16"),
        ({"dtypes": ["float16"], "backends": ["onnxruntime"]}, MethodError, "single precision"),
        ({"device": "gpu"}, InputError, "there is no device 'gpu': give 'cpu' or 'cuda'"),
        ({"device": "meta"}, InputError, "runs on 'cpu' or 'cuda', not on 'meta'"),
        ({"device": "cpu", "backends": ["onnxruntime"]}, MethodError, "the backend 'python'"),
    ):
        with pytest.raises(kind, match=text):
            check_directory(directory, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(directory):
    done = check(directory, "--device", "cuda", "--json")
    assert done.exit_code == 2
    assert (
        "there is no device 'cuda' here: this torch" in json.loads(done.stdout)["error"]["message"]
    )


def test_the_command_checks_a_type(directory):
    done = check(directory, "--dtype", "float16", "--backend", "python", "--json")
    assert done.exit_code == 0
    names = [backend["name"] for backend in json.loads(done.stdout)["check"]["backends"]]
    assert names == ["python", "python float16"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("method", ["epsilon_plus_flat", "rap", "rap-bn", "hedge", "smoothgrad"])
def test_a_gpu_computes_the_same(method, tmp_path):
    explainer = graphprop.compile(network(), torch.zeros(1, 1, 8, 8), method)
    explainer.save(tmp_path / "net")
    report = check_directory(tmp_path / "net", device="cuda", dtypes=["float16", "bfloat16"])
    assert report.passed, report
    assert results(report)["python cuda"].worst is not None
