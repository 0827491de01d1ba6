"""Loading: which model a SOURCE names, and the text of every refusal."""

import hashlib
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from graphprop.errors import InputError, LoadError, WeightsError
from graphprop.frontend.capture import capture
from graphprop.frontend.load import load_source
from graphprop.frontend.weights import load_weights

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))
"""
EXAMPLE = "\nexample_input = torch.zeros(2, 2, 8, 8)\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="net.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def refusal(source, kind=LoadError, **options):
    with pytest.raises(kind) as caught:
        load_source(source, **options)
    assert type(caught.value) is kind
    return str(caught.value)


# Which model a source names


def test_the_only_class(write):
    source = write(NET + EXAMPLE)
    loaded = load_source(source)
    assert type(loaded.model).__name__ == "Net"
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.example.shape == (2, 2, 8, 8)
    assert loaded.example.dtype == torch.float32
    assert loaded.name == "net"
    assert loaded.source == "net.py"
    assert loaded.sha256 == hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert loaded.notes == ["the model was in training mode; compiled in evaluation mode"]
    assert loaded.preprocessing is None  # nobody said it


def test_model_goes_before_build_model_and_classes(write):
    text = NET + EXAMPLE + "def build_model():\n    return Net(5)\n"
    assert load_source(write(text)).model.fc.out_features == 5
    assert load_source(write(text + "model = Net(7).eval()\n")).model.fc.out_features == 7
    assert load_source(write(text + "model = Net(7).eval()\n")).notes == []


@pytest.mark.parametrize(
    ("definition", "classes"),
    [
        ("small = Net(6)", 6),
        ("def small(classes=5):\n    return Net(classes)", 5),
        ("class small(Net):\n    pass", 3),
        ("import functools\nsmall = functools.partial(Net, 4)", 4),
        ("small = lambda: Net(8)", 8),
    ],
)
def test_an_attribute(write, definition, classes):
    loaded = load_source(write(NET + EXAMPLE + definition) + ":small")
    assert loaded.model.fc.out_features == classes
    assert loaded.name == "small"
    assert loaded.source == "net.py:small"


def test_standard_attributes_are_named_after_their_file(write):
    source = write(NET + EXAMPLE + "def build_model():\n    return Net()\n")
    loaded = load_source(source + ":build_model")
    assert (loaded.name, loaded.source) == ("net", "net.py:build_model")


def test_a_class_that_needs_no_arguments_goes_before_those_that_do(write):
    block = "class Block(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
    assert type(load_source(write(NET + EXAMPLE + block)).model).__name__ == "Net"


def test_a_package(write, tmp_path, monkeypatch):
    write(NET + "def tiny():\n    return Net(2)\n", "zoo_for_test/nets.py")
    write("", "zoo_for_test/__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded = load_source("zoo_for_test.nets:tiny", input_shape=(2, 9, 7))
    assert loaded.example.shape == (2, 2, 9, 7)
    assert (loaded.name, loaded.source) == ("tiny", "zoo_for_test.nets:tiny")
    assert loaded.sha256 is None


def test_torchvision():
    pytest.importorskip("torchvision")
    loaded = load_source("torchvision.models:squeezenet1_1", input_shape=(3, 64, 64))
    assert loaded.name == "squeezenet1_1"


def test_a_model_without_weights_is_the_same_each_time(write):
    source = write(NET + EXAMPLE)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = load_source(source).model
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first.conv.weight, load_source(source).model.conv.weight)


def test_neighbors_are_imported_and_forgotten(write, tmp_path):
    main = "import torch\nfrom blocks import Net\nmodel = Net()" + EXAMPLE
    for folder, classes in (("a", 3), ("b", 11)):
        write(NET.replace("classes=3", f"classes={classes}"), f"{folder}/blocks.py")
        source = write(main, f"{folder}/net.py")
        path = list(sys.path)
        loaded = load_source(source)
        assert loaded.model.fc.out_features == classes
        assert sys.path == path
        assert "blocks" not in sys.modules
        assert capture(loaded.model, loaded.example)
    assert not list(tmp_path.rglob("__pycache__"))


def test_neighbors_go_before_modules_of_the_same_name(write, monkeypatch):
    write("WIDTH = 1\n", "other/blocks.py")
    monkeypatch.syspath_prepend(str(Path(write("", "other/__init__.py")).parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    blocks = pytest.importorskip("blocks")
    write(NET, "mine/blocks.py")
    load_source(write("import torch\nfrom blocks import Net\nmodel = Net()" + EXAMPLE, "mine/m.py"))
    assert sys.modules.pop("blocks") is blocks


def test_annotations_are_left_as_the_file_has_them(write):
    text = NET + EXAMPLE + "def f(x: int):\n    pass\nassert f.__annotations__ == {'x': int}\n"
    load_source(write(text))


def test_what_the_file_prints_stays_off_stdout(write, capsys):
    load_source(write(NET + EXAMPLE + "print('hello')\n"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


# How the model is made ready


def test_data_parallel_is_unwrapped(write):
    loaded = load_source(write(NET + EXAMPLE + "model = nn.DataParallel(Net()).eval()\n"))
    assert type(loaded.model).__name__ == "Net"
    assert loaded.notes == ["the model was wrapped in DataParallel; compiled without it"]


def test_torch_compile_is_unwrapped(write):
    text = NET + EXAMPLE
    loaded = load_source(write(text + "model = torch.compile(Net().eval())\n"))
    assert type(loaded.model).__name__ == "Net"
    assert loaded.notes == ["the model was wrapped by torch.compile; compiled without it"]
    loaded = load_source(write(text + "model = Net().eval()\nmodel.compile()\n"))
    assert loaded.notes == ["Net was compiled in place; taken uncompiled"]
    assert loaded.model(loaded.example).shape == (2, 3)


def test_double_becomes_float(write):
    loaded = load_source(write(NET + EXAMPLE + "model = Net().double().eval()\n"))
    assert loaded.model.conv.weight.dtype == torch.float32
    assert loaded.notes == ["the model was not in float32; compiled in float32"]


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ("with torch.device('meta'):\n    model = Net()", "the model lies on the meta device"),
        ("model = nn.Sequential(nn.LazyConv2d(3, 3))", "the model has lazy layers whose size"),
        ("model = torch.jit.script(Net())", "the model is a TorchScript module, which has no"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_models_without_weights_or_code_are_refused(write, definition, text):
    assert refusal(write(NET + EXAMPLE + definition)).startswith(text)


# Refusals of a source


def test_missing_file(write, tmp_path, monkeypatch):
    write(NET, "vgg16.py")
    monkeypatch.chdir(tmp_path)
    assert refusal("vgg61.py") == "there is no file vgg61.py: did you mean 'vgg16.py'?"
    assert refusal("no/such.py:net") == "there is no file no/such.py"


@pytest.mark.parametrize("source", ["net.pt", "folder/net", "net.pth:model", "folder/"])
def test_not_a_python_file(source):
    text = f"{source.partition(':')[0]} is not a .py file: graphprop compiles the Python code"
    assert refusal(source).startswith(text)


def test_forgotten_suffix(write):
    source = write(NET).removesuffix(".py")
    assert refusal(source) == f"{source} is not a .py file: did you mean {source}.py?"


@pytest.mark.parametrize("source", ["resnet50", "torchvision.models", "", ":x", "a b:c", "a..b:c"])
def test_neither_file_nor_package(source):
    assert refusal(source) == (
        f"{source!r} is neither a .py file nor of the form package.module:callable, such as "
        "torchvision.models:resnet50"
    )


def test_nothing_after_the_colon():
    assert refusal("net.py:") == (
        "'net.py:' names nothing after the colon: give net.py:NAME or net.py"
    )


def test_package_not_installed():
    assert refusal("no_such_package.models:net") == (
        "there is no module 'no_such_package.models' (no 'no_such_package'): install the package "
        "into this environment, or give the path of a .py file"
    )
    assert refusal("torch.no_such_part:net").startswith("there is no module 'torch.no_such_part':")


def test_package_that_fails(write, tmp_path, monkeypatch):
    write("import torch\n\n1 / 0\n", "failing_for_test.py")
    write("import no_such_package\n", "lacking_for_test.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert refusal("failing_for_test:net") == (
        "failing_for_test can't be imported (failing_for_test.py:3): ZeroDivisionError: "
        "division by zero"
    )
    assert refusal("lacking_for_test:net") == (
        "lacking_for_test can't be imported (lacking_for_test.py:1): ModuleNotFoundError: "
        "No module named 'no_such_package'"
    )


def test_no_model(write):
    assert refusal(write("x = 1\n")) == (
        "net.py defines no model: it needs a torch.nn.Module called model, a function "
        "build_model() that returns one, or a subclass of torch.nn.Module"
    )
    assert refusal(write("from torch.nn import Linear, ReLU\n")).startswith("net.py defines no")


def test_several_models(write):
    assert refusal(write(NET + "class Big(Net):\n    pass\n")) == (
        "net.py defines several models: Net, Big. Say which by net.py:NAME, or name one of them: "
        "model = Big()"
    )


def test_class_that_needs_arguments(write):
    source = write(NET.replace("classes=3", "width, classes"))
    assert refusal(source) == (
        "net.py defines no model that can be built without arguments (Net needs the arguments "
        "width, classes): add a function build_model() that returns the model"
    )
    assert refusal(source + ":Net") == (
        "'Net' in net.py needs the arguments width, classes: give them defaults, or write a "
        "function without arguments, build_model(), that returns the model"
    )
    source = write(NET.replace("classes=3", "*, classes"))
    assert refusal(source + ":Net").startswith(
        "'Net' in net.py needs the argument classes: give it"
    )


def test_attribute_that_does_not_exist(write):
    source = write(NET + "def resnet_small():\n    return Net()\n")
    assert refusal(source + ":resnet_smal") == (
        "net.py has no 'resnet_smal': did you mean 'resnet_small'?"
    )
    assert refusal(source + ":xyz") == "net.py has no 'xyz': there are: Net, resnet_small"


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ("model = 3", "'model' in net.py is an int: it must be a torch.nn.Module, or a class or"),
        ("model = {'a': 1}", "'model' in net.py is a dict: it must be a torch.nn.Module"),
        ("model = None", "'model' in net.py is None: it must be a torch.nn.Module"),
        ("class model: pass", "'model' in net.py is the class model: it must be a torch.nn"),
        ("def model(): return 1.0", "model() in net.py returns a float, not a torch.nn.Module"),
        ("def model(): return nn.ReLU", "model() in net.py returns the class ReLU, not a torch"),
    ],
)
def test_not_a_module(write, definition, text):
    assert refusal(write(NET + definition)).startswith(text)


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ("x = 1\ny = z", "net.py can't be run (net.py:2): NameError: name 'z' is not defined"),
        ("x = 1\ny = = 2", "net.py can't be run (net.py:2): SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "net.py can't be run (net.py:2): SystemExit: 3"),
        ("import sibling", "net.py can't be run (sibling.py:2): KeyError: 'k'"),
        ("import broken", "net.py can't be run (broken.py:1): SyntaxError: invalid syntax"),
        ("import torch\n\ntorch.zeros(2) @ torch.zeros(3)", "net.py can't be run (net.py:3): "),
        (
            "def model():\n    raise ValueError('no\\nway')",
            "model() in net.py fails (net.py:2): ValueError: no",
        ),
        (
            "from .blocks import Net",
            "net.py can't be run (net.py:1): ImportError: attempted relative import with no known "
            "parent package. Import neighbors by their plain names, or give "
            "package.module:callable",
        ),
    ],
)
def test_errors_in_the_file_name_its_line(write, definition, text):
    write("d = {}\nd['k']\n", "sibling.py")
    write("a b\n", "broken.py")
    assert refusal(write(definition)).startswith(text)


# The input


def test_example_inputs(write):
    for text, shape in (
        ("example_input = torch.zeros(2, 2, 8, 8, dtype=torch.float64)", (2, 2, 8, 8)),
        ("example_input = torch.zeros(1, 2, 8, 9)", (2, 2, 8, 9)),
        ("example_input = torch.zeros(5, 2, 8, 8)", (2, 2, 8, 8)),
        ("def example_input():\n    return torch.zeros(1, 2, 6, 6)", (2, 2, 6, 6)),
        ("Net.example_input = torch.zeros(1, 2, 4, 4)", (2, 2, 4, 4)),
        ("def build_model(): return Net()\nbuild_model.example_input = torch.zeros(1, 2, 5, 5)",
         (2, 2, 5, 5)),
    ):  # fmt: skip
        example = load_source(write(NET + text)).example
        assert example.shape == shape
        assert example.dtype == torch.float32


def test_input_shape_goes_first(write):
    preprocessing = "preprocessing = {'size': [8, 8], 'mean': [0.1, 0.2]}"
    loaded = load_source(write(NET + EXAMPLE + preprocessing), input_shape=(2, 5, 6))
    assert loaded.example.shape == (2, 2, 5, 6)
    assert loaded.preprocessing == {"size": [5, 6], "mean": [0.1, 0.2], "std": [1.0, 1.0]}


def test_unknown_input(write):
    for text in ("", "example_input = None"):
        assert refusal(write(NET + text), InputError) == (
            "the shape of the model's input is unknown: give it without the batch, --input-shape "
            "C,H,W, or define example_input (a tensor of shape [N, C, H, W]) in the file"
        )


@pytest.mark.parametrize("shape", [(), (3, 0, 2), (3, -1), (3, 2.5), ("3", "8")])
def test_bad_input_shape(write, shape):
    text = refusal(write(NET), InputError, input_shape=shape)
    assert text == (
        f"the input shape {','.join(map(str, shape)) or '()'} must be whole numbers above zero, "
        "without the batch: --input-shape C,H,W, such as 3,224,224"
    )


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ("example_input = (torch.zeros(1, 3), 3)", "example_input is an int: it must be a tensor"),
        ("example_input = torch.zeros(2, 2, 8, 8).bool()", "example_input is of type bool: it"),
        ("example_input = torch.zeros(2, 2).cfloat()", "example_input is of type complex64: it"),
        ("example_input = {'x': 3}", "example_input is an int: it must be a tensor"),
        ("example_input = {}", "example_input is an empty dict: it must be a tensor"),
        ("example_input = torch.zeros(8)", "example_input has the shape (8,): it must hold at"),
        ("example_input = torch.zeros(0, 2, 8)", "example_input has the shape (0, 2, 8): it must"),
    ],
)
def test_bad_example_input(write, definition, text):
    assert refusal(write(NET + definition), InputError).startswith(text)


def test_example_input_by_name(write):
    loaded = load_source(
        write(NET + "example_input = {'image': torch.ones(1, 2, 8, 8), 'age': torch.ones(3, 4)}")
    )
    assert {name: tuple(part.shape) for name, part in loaded.example.items()} == {
        "image": (2, 2, 8, 8),
        "age": (2, 4),
    }
    assert loaded.preprocessing is None


@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_example_input_of_whole_numbers(write, kind):
    """The bytes of a picture: they reach the network as they are."""
    text = NET.replace("self.conv(x)", "self.conv(x.float() / 255)")
    text += f"example_input = torch.zeros(2, 2, 8, 8, dtype=torch.{kind})\n"
    for loaded in (load_source(write(text)), load_source(write(text), input_shape=(2, 5, 6))):
        assert loaded.example.dtype == getattr(torch, kind)
        assert loaded.preprocessing["std"] == [1 / 255, 1 / 255]
    mean = text + "preprocessing = {'std': [1.0, 1.0]}"
    assert load_source(write(mean)).preprocessing["std"] == [1.0, 1.0]


def test_a_shape_with_the_batch_in_it(write):
    pre = "preprocessing = {'mean': [0.1, 0.2]}"
    for batch in (1, 32):
        text = refusal(write(NET + pre), InputError, input_shape=(batch, 2, 8, 9))
        assert text == (
            f"the input shape {batch},2,8,9 begins with the batch, {batch}: give it without, "
            "--input-shape 2,8,9"
        )
    deep = NET.replace("Conv2d", "Conv3d").replace("(2, 3)", "(2, 3, 4)")
    assert load_source(write(deep), input_shape=(2, 4, 8, 9)).example.shape == (2, 2, 4, 8, 9)


def test_example_input_that_fails(write):
    source = write("import torch\ndef example_input():\n    return 1 / 0\n" + NET)
    assert refusal(source) == (
        "example_input() fails (net.py:3): ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        ("3", "preprocessing is an int: it must be a dictionary such as {'size': [224, 224], "),
        ("{'sdt': [1, 1]}", "preprocessing has no 'sdt': did you mean 'std'?"),
        ("{'mean': [0.5] * 3}", "the mean of preprocessing has 3 values, but the input has 2 ch"),
        ("{'size': [8]}", "the size of preprocessing has 1 values, but the input has 2 axes"),
        ("{'size': 8}", "the size of preprocessing is 8: it must be a dictionary such as"),
        ("{'std': [1, float('nan')]}", "the std of preprocessing is [1, nan]: it must be a"),
        ("{'std': [1, 0]}", "the std of preprocessing is [1, 0]: every one must be above zero"),
        (
            "{'size': [9, 9]}",
            "preprocessing makes inputs of size [9, 9], but the model's input has the size "
            "[8, 8]: make them equal, or leave the size out",
        ),
    ],
)
def test_bad_preprocessing(write, preprocessing, text):
    assert refusal(write(f"{NET}{EXAMPLE}preprocessing = {preprocessing}")).startswith(text)


def test_preprocessing_of_tensors(write):
    text = f"{NET}{EXAMPLE}preprocessing = {{'mean': torch.tensor([0.5, 0.25]), 'std': (2, 4)}}"
    assert load_source(write(text)).preprocessing == {
        "size": [8, 8],
        "mean": [0.5, 0.25],
        "std": [2.0, 4.0],
    }


# The weights


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)


def weights(seed=5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small().state_dict()


def prefixed(prefix):
    return OrderedDict((prefix + key, tensor) for key, tensor in weights().items())


UNDER = "the weights are those under {!r} in FILE"


def renamed(notes, path):
    return [note.replace(path.name, "FILE") for note in notes]


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (weights(), []),
        ({"state_dict": weights(), "epoch": 3}, [UNDER.format("state_dict")]),
        ({"model": weights()}, [UNDER.format("model")]),
        ({"model_state_dict": weights()}, [UNDER.format("model_state_dict")]),
        (prefixed("module."), ["the prefix 'module.' was removed from the keys of FILE"]),
        (
            prefixed("module._orig_mod."),
            [
                "the prefix 'module.' was removed from the keys of FILE",
                "the prefix '_orig_mod.' was removed from the keys of FILE",
            ],
        ),
    ],
)
def test_weights_of_torch(tmp_path, content, notes):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    model = Small()
    assert renamed(load_weights(model, path), path) == notes
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in weights().items())


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.backbone.", "module.model."])
def test_the_prefix_of_a_training_framework_is_removed(tmp_path, prefix):
    path = tmp_path / "last.ckpt"
    state = prefixed(prefix) | {"criterion.weight": torch.ones(3), "metric.total": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, path)
    model = Small()
    notes = renamed(load_weights(model, path), path)
    assert notes == [
        UNDER.format("state_dict"),
        f"the prefix {prefix!r} was removed from the keys of FILE; 2 others are left out: "
        "'criterion.weight', 'metric.total'",
    ]
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in weights().items())


def test_two_networks_that_fit_are_not_chosen_between(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(prefixed("model.") | prefixed("ema.model."), path)
    model = Small()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert weights_refusal(path, model) == (
        "w.pt holds weights that fit the model under 2 prefixes, 'ema.model.', 'model.': save "
        "those you mean alone, under their plain keys"
    )
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())


@pytest.mark.parametrize("change", ["shape", "more", "less"])
def test_a_prefix_before_other_weights_stays(tmp_path, change):
    path = tmp_path / "w.pt"
    state = prefixed("model.")
    if change == "shape":
        state["model.fc.bias"] = torch.zeros(7)
    elif change == "more":
        state["model.extra.weight"] = torch.zeros(7)
    else:
        del state["model.fc.bias"]
    torch.save(state, path)
    assert weights_refusal(path).startswith("w.pt doesn't fit the model: 8 missing: 'conv.bias'")


def test_weights_of_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    state = {key: value for key, value in weights().items() if "num_batches" not in key}
    safetensors.torch.save_file(state, path)
    model = Small()
    assert load_weights(model, path) == []
    assert torch.equal(model.fc.weight, weights()["fc.weight"])


def test_weights_given_with_a_source(write, tmp_path):
    source = write(NET + EXAMPLE + "model = nn.DataParallel(Net(4)).eval()\n")
    model = load_source(source).model
    torch.save({key: tensor + 1 for key, tensor in model.state_dict().items()}, tmp_path / "w.pt")
    loaded = load_source(source, weights=tmp_path / "w.pt")
    assert torch.equal(loaded.model.conv.weight, model.conv.weight + 1)


def test_a_model_may_rename_old_keys(tmp_path):
    class Renaming(Small):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            state_dict["conv.weight"] = state_dict.pop("convolution.weight")
            super()._load_from_state_dict(state_dict, prefix, *rest)

    state = dict(weights())
    state["convolution.weight"] = state.pop("conv.weight")
    torch.save(state, tmp_path / "w.pt")
    model = Renaming()
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.conv.weight, weights()["conv.weight"])


def weights_refusal(path, model=None):
    with pytest.raises(WeightsError) as caught:
        load_weights(model or Small(), path)
    return str(caught.value)


def test_missing_weight_file(tmp_path):
    path = tmp_path / "w.pt"
    assert weights_refusal(path) == f"there is no weight file {path}"
    assert weights_refusal(tmp_path) == f"{tmp_path} is a folder: give the weight file in it"


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.ckpt", "w"])
@pytest.mark.parametrize("how", ["pickle", "old pickle", "torch"])
def test_a_pickle_is_never_run(tmp_path, name, how):
    made = tmp_path / "made"
    content = {"weight": Malicious(str(made)), "conv.weight": torch.zeros(2, 1, 3, 3)}
    path = tmp_path / name
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=0 if how == "old pickle" else None))
    text = weights_refusal(path)
    assert not made.exists()
    if name.endswith("safetensors") or how == "old pickle":
        assert text.startswith(f"{name} can't be read as weights")
    else:
        assert text.startswith(f"{name} is refused: it is a pickle that holds other things than")
        assert "only tensors are loaded, as unpickling can run any code" in text
    assert "weights_only" not in text
    pickle.loads(pickle.dumps(Malicious(str(made))))
    assert made.exists(), "the pickle does what it is feared for"


def test_a_whole_model_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    assert weights_refusal(tmp_path / "w.pt") == (
        "w.pt is refused: it is a pickle that holds other things than tensors "
        "(torch.nn.modules.linear.Linear), and only tensors are loaded, as unpickling can run any "
        "code. Save the weights alone: torch.save(model.state_dict(), path)"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    assert weights_refusal(tmp_path / "w.pt") == (
        "w.pt is a TorchScript archive: save the weights of it alone, "
        "torch.save(model.state_dict(), path)"
    )


def test_no_weight_file(tmp_path):
    for content in (b"", b"hello", b"PK\x03\x04 and so on"):
        (tmp_path / "w.pt").write_bytes(content)
        text = weights_refusal(tmp_path / "w.pt")
        assert text.startswith("w.pt can't be read as weights")
        assert text.endswith("or one written by torch.save(model.state_dict(), path)")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([torch.zeros(1)], "w.pt holds a list, not a state dict: save the weights by torch.save("),
        (torch.zeros(1), "w.pt holds a Tensor, not a state dict: save the weights by torch.save("),
        ({}, "w.pt holds an empty dict, not a state dict: save the weights by torch.save("),
        (
            {"a": torch.zeros(1), "epoch": 3},
            "w.pt holds other things than tensors, under 'epoch': save the weights alone, ",
        ),
    ],
)
def test_not_a_state_dict(tmp_path, content, text):
    torch.save(content, tmp_path / "w.pt")
    assert weights_refusal(tmp_path / "w.pt").startswith(text)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "w.pt"
    tail = (
        ". Give the weights of this very architecture, or the model that they belong to "
        "(SOURCE:NAME)"
    )

    def text(**changes):
        state = dict(weights())
        for key, value in changes.items():
            key = key.replace("__", ".")
            state.pop(key, None)
            if value is not None:
                state[key] = value
        torch.save(state, path)
        message = weights_refusal(path)
        assert message.endswith(tail)
        return message.removesuffix(tail).removeprefix("w.pt doesn't fit the model: ")

    assert text(fc__weight=None, fc__bias=None) == "2 missing: 'fc.bias', 'fc.weight'"
    extra = torch.zeros(1)
    assert text(head__weight=extra) == "1 unexpected: 'head.weight'"
    assert text(fc__bias=torch.zeros(7), fc__weight=None, head=extra) == (
        "1 missing: 'fc.weight'; 1 unexpected: 'head'; 1 of another shape: 'fc.bias' ([7] in the "
        "file, [3] in the model)"
    )
    many = {f"layer{index}": extra for index in range(8)}
    assert text(**many) == (
        "8 unexpected: 'layer0', 'layer1', 'layer2', 'layer3', 'layer4' and 3 more"
    )


# Names of classes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class_names = ['a', 'b', 'c']", ("a", "b", "c")),
        ("classes = ('a', 'b', 'c')", ("a", "b", "c")),
        ("classes = ['x']\nclass_names = ['a', 'b', 'c']", ("a", "b", "c")),
        ("def class_names():\n    return ['a', 'b', 'c']", ("a", "b", "c")),
        ("classes = 3", None),
        ("classes = [0, 1, 2]", None),
        ("def classes(model):\n    return ['a']", None),
        ("", None),
    ],
)
def test_names_of_classes(write, text, names):
    assert load_source(write(NET + EXAMPLE + text)).class_names == names


def test_names_of_classes_of_another_kind(write):
    assert refusal(write(NET + EXAMPLE + "class_names = {0: 'a'}")) == (
        "class_names in net.py is a dict: it must be a list of texts, one for each class, or a "
        "function without arguments that returns one"
    )
    text = refusal(write(NET + EXAMPLE + "def class_names():\n    return open('none')"))
    assert text.startswith("class_names() in net.py fails")


# Weights of another type


@pytest.mark.parametrize("name", ["half.safetensors", "half.pt"])
def test_weights_in_half_precision(write, tmp_path, name):
    source = write(NET + EXAMPLE)
    half = {key: tensor.half() for key, tensor in load_source(source).model.state_dict().items()}
    save = safetensors.torch.save_file if name.endswith(".safetensors") else torch.save
    save(half, tmp_path / name)
    state = load_source(source, weights=tmp_path / name).model.state_dict()
    for key, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half[key].float())


def test_quantized_weights_are_refused(write, tmp_path):
    source = write(NET + EXAMPLE)
    state = load_source(source).model.state_dict()
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    torch.save(state, tmp_path / "int8.pt")
    text = refusal(source, WeightsError, weights=tmp_path / "int8.pt")
    assert text.startswith("int8.pt holds whole or complex numbers (int8) for 'fc.weight'")
