"""The networks in ``models/``: torchvision's names, weights of sane scale, digits as claimed."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graphprop.load import load_source

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"

SOURCES = {
    "alexnet": "alexnet.py",
    "vgg16": "vgg16.py",
    "vgg19": "vgg19.py",
    "vgg16_bn": "vgg16_bn.py",
    "vgg19_bn": "vgg16.py:vgg19_bn",
    "resnet18": "resnet50.py:resnet18",
    "resnet34": "resnet50.py:resnet34",
    "resnet50": "resnet50.py",
    "resnet101": "resnet50.py:resnet101",
}


def load(source):
    return load_source(str(MODELS / source))


def shapes(model):
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def classes_on_meta(name):
    """Build an architecture without its weights."""
    spec = importlib.util.spec_from_file_location("source_on_meta", MODELS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SOURCES)
def test_state_dict_is_torchvisions(name, monkeypatch):
    models = pytest.importorskip("torchvision.models")
    monkeypatch.syspath_prepend(str(MODELS))
    file, _, attribute = SOURCES[name].partition(":")
    file = {"vgg19.py": "vgg16.py", "vgg16_bn.py": "vgg16.py"}.get(file, file)
    module = classes_on_meta(file)
    monkeypatch.setattr(module, "initialised", lambda make: make())
    with torch.device("meta"):
        ours, theirs = getattr(module, name)(), getattr(models, name)()
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert attribute in ("", name)


def test_forward_is_torchvisions():
    models = pytest.importorskip("torchvision.models")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("resnet18", "resnet50"):
        ours = load(SOURCES[name]).model
        theirs = getattr(models, name)().eval()
        theirs.load_state_dict(ours.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet101"])
def test_logits_are_of_sane_scale(name):
    loaded = load(SOURCES[name])
    size = 96 if name.startswith("vgg") else 128
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = loaded.model(x)
    assert logits.shape == (1, 1000)
    assert bool(logits.isfinite().all())
    assert 0.05 < float(logits.std()) < 5
    assert loaded.example.shape == (2, 3, 224, 224)
    assert loaded.preprocessing["size"] == [224, 224]
    assert loaded.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert loaded.name == name
    assert loaded.notes == []


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_two_builds_have_the_same_weights(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load(SOURCES[name]).model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = load(SOURCES[name]).model.state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_every_weight_is_set():
    model = load("resnet50.py:resnet18").model
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert 0.5 < float(layer.running_var.min()) <= float(layer.running_var.max()) < 1.5
            assert int(layer.num_batches_tracked) == 0
            assert float(layer.running_mean.abs().max()) > 0


def trainer():
    pytest.importorskip("sklearn")
    path = ROOT / "tools" / "train_digits.py"
    spec = importlib.util.spec_from_file_location("train_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_are_read_as_claimed():
    tool = trainer()
    split = tool.load_split()
    accuracy = tool.accuracy(load("digits.py").model, split.test, split.test_labels)
    claimed = re.search(r"held-out digits: ([\d.]+) %", (MODELS / "digits.py").read_text())
    assert len(split.test) == 360
    assert accuracy >= 0.985
    assert f"{accuracy:.2%}" == f"{float(claimed[1]):.2f}%"


def test_digits_weights_are_small():
    assert (MODELS / "digits.safetensors").stat().st_size < 1_000_000


def test_digits_examples_are_read_rightly():
    loaded = load("digits.py")
    for digit in range(10):
        picture = Image.open(MODELS / "digits_examples" / f"{digit}.png")
        assert picture.mode == "L"
        assert list(picture.size) == loaded.preprocessing["size"]
        x = torch.from_numpy(np.array(picture)).float()[None, None] / 255
        with torch.no_grad():
            assert int(loaded.model(x).argmax()) == digit


def test_digits_has_the_layers_worth_showing():
    kinds = {type(layer).__name__ for layer in load("digits.py").model.modules()}
    assert {"BatchNorm2d", "MaxPool2d", "ResidualBlock"} <= kinds
    assert json.dumps(load("digits.py").preprocessing)
