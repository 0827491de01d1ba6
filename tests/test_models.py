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

from graphprop.frontend.load import load_source

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
    "resnet101": "resnet101.py",
    "densenet121": "densenet121.py",
    "densenet169": "densenet121.py:densenet169",
    "densenet201": "densenet121.py:densenet201",
    "inception_v3": "inception_v3.py",
}
"""The networks that torchvision has, too."""

DEFINED_IN = {"vgg19.py": "vgg16.py", "vgg16_bn.py": "vgg16.py", "resnet101.py": "resnet50.py"}
"""Files that name a network from another one."""

SIZES = {"inception_v3": 299}
"""The size of the inputs, where it isn't 224."""


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
    module = classes_on_meta(DEFINED_IN.get(file, file))
    monkeypatch.setattr(module, "initialized", lambda make, **options: make())
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        ours, theirs = getattr(module, name)(), getattr(models, name)(**options)
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert attribute in ("", name)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet101", "densenet121", "inception_v3"]
)
def test_forward_is_torchvisions(name):
    models = pytest.importorskip("torchvision.models")
    size = 80 if name == "inception_v3" else 64
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    ours = load(SOURCES[name]).model
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        theirs = getattr(models, name)(**options)
    theirs.load_state_dict(ours.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(x), theirs.double().eval()(x))


@pytest.mark.parametrize(
    "name",
    ["alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet101", "densenet121", "inception_v3"],
)
def test_logits_are_of_sane_scale(name):
    loaded = load(SOURCES[name])
    size = 96 if name.startswith("vgg") else 128
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = loaded.model(x)
    assert logits.shape == (1, 1000)
    assert bool(logits.isfinite().all())
    assert 0.05 < float(logits.std()) < 5
    full = SIZES.get(name, 224)
    assert loaded.example.shape == (2, 3, full, full)
    assert loaded.preprocessing["size"] == [full, full]
    mean = [0.5, 0.5, 0.5] if name == "inception_v3" else [0.485, 0.456, 0.406]
    assert loaded.preprocessing["mean"] == mean
    assert loaded.name == name
    assert loaded.notes == []


def test_inception_answers_twice_in_training_alone():
    network = load("inception_v3.py").model
    x = torch.randn(2, 3, 299, 299, device="meta")
    network.to("meta")
    assert network(x).shape == (2, 1000)
    assert [part.shape for part in network.train()(x)] == [(2, 1000), (2, 1000)]


def test_caffenet_is_the_originals():
    loaded = load("caffenet.py")
    known = {  # of bvlc_reference_caffenet.caffemodel
        "conv1.weight": (96, 3, 11, 11),
        "conv2.weight": (256, 48, 5, 5),
        "conv3.weight": (384, 256, 3, 3),
        "conv4.weight": (384, 192, 3, 3),
        "conv5.weight": (256, 192, 3, 3),
        "fc6.weight": (4096, 9216),
        "fc7.weight": (4096, 4096),
        "fc8.weight": (1000, 4096),
    }
    found = shapes(loaded.model)
    assert {key: found[key] for key in known} == known
    assert {key for key in found if key not in known} == {
        key.replace("weight", "bias") for key in known
    }
    assert loaded.example.shape == (2, 3, 227, 227)
    pixels = torch.randint(256, (1, 3, 227, 227)) / 255
    mean, std = (torch.tensor(loaded.preprocessing[k]).view(3, 1, 1) for k in ("mean", "std"))
    x = (pixels - mean) / std
    torch.testing.assert_close(x[:, 0], pixels[:, 0] * 255 - 123)
    with torch.no_grad():
        assert 0.05 < float(loaded.model(x).std()) < 5


def test_vgg16_3d_is_vgg16_bn_with_one_axis_more():
    volumes = load("vgg16_3d.py")
    images = shapes(load("vgg16_bn.py").model)
    found = shapes(volumes.model)
    assert list(found) == list(images)
    for key, shape in found.items():
        wanted = images[key]
        if len(wanted) == 4:
            wanted = (*wanted, 3)
        if key == "features.0.weight":
            wanted = (64, 1, 3, 3, 3)
        if key.startswith("classifier"):
            continue
        assert shape == wanted, key
    assert found["classifier.0.weight"] == (4096, 512)
    assert found["classifier.6.weight"] == (2, 4096)
    assert volumes.example.shape == (2, 1, 32, 32, 32)
    x = torch.randn(4, 1, 32, 32, 32)
    with torch.no_grad():
        logits = volumes.model(x)
    assert 0.02 < float(logits.abs().mean()) < 5
    assert volumes.notes == []


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
