"""onnxruntime-web in a browser is judged as every backend is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprop
from graphprop.checking import web
from graphprop.checking.check import check_directory
from graphprop.frontend.load import load_source
from graphprop.web import browser
from support.artifacts import explainer_of
from support.browser import need_browser

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small explainer with a max over places."""
    directory = tmp_path_factory.mktemp("web") / "small"
    explainer_of("rap").save(directory, check=True)
    return directory


def compiled(name, method):
    """A network of ``models/``."""
    loaded = load_source(str(MODELS / f"{name}.py"))
    return graphprop.compile(loaded.model, loaded.example, method)


def only(report, name="web"):
    (result,) = (result for result in report.backends if result.name == name)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rap", "epsilon_plus_flat", "hedge"])
def test_the_map_of_digits_in_a_browser_is_that_of_every_backend(method):
    need_browser()
    report = compiled("digits", method).check(backends=["onnxruntime", "web"])
    assert report.passed, str(report)
    assert len(only(report).samples) == len(only(report, "onnxruntime").samples) > 0


@pytest.mark.slow
def test_the_map_of_a_real_network_in_a_browser_is_that_of_every_backend():
    need_browser()
    pytest.importorskip("efficientnet_lite_pytorch")
    report = compiled("efficientnet_lite0", "rap").check(samples=1, backends=["web"])
    assert report.passed, str(report)
    assert only(report).samples


@pytest.mark.slow
def test_webgpu_computes_the_same_where_a_pool_runs_on_the_processor():
    need_browser()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    explainer = graphprop.compile(model.eval(), torch.zeros(2, 1, 8, 8))
    report = explainer.check(backends=["webgpu"])
    assert report.passed, str(report)
    assert only(report, "webgpu").samples


def test_a_browser_starts_only_where_it_is_asked_for(small, monkeypatch):
    monkeypatch.setattr(web, "run_in_browser", None)
    assert "web" not in [result.name for result in check_directory(small).backends]


def test_without_a_browser_the_backend_is_skipped_with_the_reason(small, monkeypatch):
    monkeypatch.setattr(web, "lacking", lambda: "there is no browser")
    alone = check_directory(small, backends=["web"])
    assert alone.status == "not checked"
    assert only(alone).skipped == "there is no browser"
    beside = check_directory(small, backends=["web", "python"])
    assert beside.passed
    assert only(beside).skipped == "there is no browser"


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setenv(browser.VARIABLE, "/nowhere/chromium")
    assert "name the program by the variable GRAPHPROP_BROWSER" in str(browser.lacking())
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'graphprop[browser]'" in str(browser.lacking())


@pytest.mark.slow
@pytest.mark.parametrize("backends", [["web"], ["python", "web"]])
def test_the_layer_at_which_a_browser_goes_wrong_is_named(small, tmp_path, backends):
    need_browser()
    directory = tmp_path / "wrong"
    shutil.copytree(small, directory)
    model = onnx.load(directory / "explainer.onnx")
    (weight,) = (t for t in model.graph.initializer if t.name.endswith("head_weight"))
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, directory / "explainer.onnx")
    report = check_directory(directory, backends=backends, allow_changed=True)
    assert report.status == "failed"
    assert only(report).divergence.layers == ("head",)


def test_a_model_that_keeps_its_weights_elsewhere_is_refused(tmp_path):
    model = onnx.ModelProto()
    tensor = model.graph.initializer.add(name="w")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(browser.BrowserError, match="which is no file beside it"):
        browser.data_files(model, tmp_path)
