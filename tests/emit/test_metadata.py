"""An ONNX file says of itself what it computes, in the same bytes everywhere."""

import json

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphprop
from graphprop.artifact.manifest import read_manifest, sha256
from graphprop.emit.metadata import PREFIX, metadata_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).amax((2, 3)))


PREPROCESSING = {"size": [6, 6], "mean": (0.5,), "std": [0.25]}


def saved(directory, *, names=("cat", "дог"), preprocessing=PREPROCESSING, **options):
    torch.manual_seed(0)
    explainer = graphprop.compile(
        Net().eval(), torch.zeros(2, 1, 6, 6), "epsilon_plus", class_names=names, **options
    )
    return explainer.save(directory, check=False, preprocessing=preprocessing)


def test_metadata_say_what_the_manifest_says(tmp_path):
    directory = saved(
        tmp_path / "net",
        epsilon=0.25,
        rules={"conv": ("epsilon", {"epsilon": 0.5})},
        roles={"head": "dense_head"},
    )
    # as whoever has the file alone reads it
    session = onnxruntime.InferenceSession(directory / "explainer.onnx")
    found = session.get_modelmeta().custom_metadata_map
    manifest = read_manifest(directory)
    assert found.pop(PREFIX + "version") == manifest["graphprop"] == graphprop.__version__
    assert found.pop(PREFIX + "method") == manifest["method"] == "epsilon_plus"
    assert json.loads(found.pop(PREFIX + "parameters")) == manifest["parameters"]
    assert manifest["parameters"]["epsilon"] == 0.25
    assert json.loads(found.pop(PREFIX + "rules")) == manifest["rules"]
    assert json.loads(found.pop(PREFIX + "roles")) == manifest["roles"]
    assert int(found.pop(PREFIX + "classes")) == manifest["classes"] == 2
    assert json.loads(found.pop(PREFIX + "class_names")) == ["cat", "дог"]
    assert json.loads(found.pop(PREFIX + "preprocessing")) == manifest["preprocessing"]
    weights = directory / "weights.safetensors"
    assert found.pop(PREFIX + "weights_sha256") == sha256(weights)
    assert sha256(weights) == manifest["files"]["weights.safetensors"]
    assert not found


def test_what_is_not_known_is_not_said(tmp_path):
    directory = saved(tmp_path / "net", names=None, preprocessing=None)
    model = onnx.load(directory / "explainer.onnx")
    found = {entry.key.removeprefix(PREFIX) for entry in model.metadata_props}
    assert found == {"version", "method", "parameters", "classes", "weights_sha256"}
    assert model.producer_name == "graphprop"
    assert model.producer_version == graphprop.__version__


def test_the_documentation_says_what_a_target_is(tmp_path):
    model = onnx.load(saved(tmp_path / "net") / "explainer.onnx")
    for text in (
        "input FLOAT [N, 1, 6, 6]; target INT64 [N_or_1]",
        "logits FLOAT [N, 2]; relevance FLOAT [N, 1, 6, 6]",
        "a class from 0 to 1 for each sample, or one for all; -1 is the class of the largest logit",
        "Any other number gives NaN as that sample's relevance",
    ):
        assert text in model.doc_string
        assert text in model.graph.doc_string


def test_the_same_bytes_wherever_it_is_written(tmp_path):
    first, second = (saved(tmp_path / name) for name in ("one", "deeper/two"))
    content = (first / "explainer.onnx").read_bytes()
    assert content == (second / "explainer.onnx").read_bytes()
    assert str(tmp_path).encode() not in content


@pytest.mark.parametrize("name", ["a\ud800b", "\n", 'x"y', "né"])
def test_names_of_any_kind(name):
    found = metadata_of(method=name, parameters={name: name}, classes=1, class_names=[name])
    for text in found.values():
        assert text.encode()
    assert json.loads(found[PREFIX + "class_names"]) == [name]
    assert json.loads(found[PREFIX + "parameters"]) == {name: name}
