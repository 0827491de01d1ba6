"""Nothing from the user's model becomes code: names are data, however they are spelled."""

import ast
import warnings

import onnx
import pytest
import torch
from safetensors import safe_open
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.artifact.manifest import read_manifest
from graphprop.checking.check import check_directory
from graphprop.emit.python import comment
from graphprop.errors import CaptureError
from graphprop.frontend.capture import capture, fx_graph
from graphprop.ir.names import identifier, tensor_name

MARK = "pwned"
CALL = f"getattr(__import__('os'), 'mkdir')('{MARK}')"

HOSTILE = {
    "quotes": "a'b\"c'''d\"\"\"e",
    "newline": "a\nimport os\nb",
    "return": "a\r\nb",
    "line separator": "a\u2028b\x0cc\x85d",
    "null": "a\0b",
    "backslash": "a\\",
    "escapes": "\\N{BULLET}\\x00\\",
    "half a surrogate pair": "a\ud800b",
    "right to left": "a\u202eb\u2066c",
    "format": "{x}{0}%s%(name)s{{",
    "space": " ",
    "none of ASCII": "свёртка",
    "look-alike": "сonv",
    "full width": "ｃｏｎｖ",
    "emoji": "\U0001f600",
    "long": "n" * 10_000,
    "number": "0",
    "keyword": "class",
    "soft keyword": "match",
    "constant": "None",
    "builtin": "print",
    "dunder": "__dunder__",
    "header": "__metadata__",
    "self": "self",
    "torch": "torch",
    "F": "F",
    "x": "x",
    "input": "input",
    "target": "target",
    "start": "start",
    "logits": "logits",
    "relevance": "relevance",
    "weights": "weights",
    "recorded": "recorded",
    "load": "load",
    "watch": "_watch",
    "explainer": "Explainer",
    "method of a module": "register_parameter",
    "closes a double quote": f'"); {CALL} #',
    "closes a single quote": f"'); {CALL} #",
    "closes a bracket": f"']); {CALL} #",
    "closes a docstring": f'"""\n{CALL}\n"""',
    "continues a call": f'x", None) or {CALL} or getattr(self, "x',
    "new line of a comment": f"a\n{CALL}\n#",
    "new line of a body": f"a\n        {CALL}\n        #",
    "f-string": "{" + CALL + "}",
}

CALLS = [name for name in HOSTILE.values() if MARK in name]


@pytest.fixture(autouse=True)
def watched(tmp_path, monkeypatch, same_process):
    """A call that a name smuggles in makes a folder here; nothing may be warned of either."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        yield
    assert not (tmp_path / MARK).exists()


class Net(nn.Module):
    def __init__(self, *names):
        super().__init__()
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Linear(16, 3)
        self.names = names
        for name, layer in zip(names, layers, strict=True):
            # a few names are taken by nn.Module itself; whoever wants to can get round that
            self._modules[name] = layer

    def forward(self, x):
        first, norm, act, head = (self._modules[name] for name in self.names)
        return head(act(norm(first(x))).flatten(1))


def compiled(model, *shape, method="epsilon_plus", **options):
    torch.manual_seed(0)
    return graphprop.compile(model.eval(), torch.zeros(2, *shape), method, **options)


def accept(model, *shape, **options):
    """Compile, write, check and read a model; returns the explainer and its directory."""
    explainer = compiled(model, *shape, **options)
    x = torch.randn(2, *shape)
    torch.testing.assert_close(explainer(x)[0], model(x))
    directory = save(explainer, "out", samples=1)
    assert check_directory(directory, samples=1).passed
    source = (directory / "explainer.py").read_bytes()
    ast.parse(source)
    assert all(byte == 10 or 32 <= byte < 127 for byte in source)
    assert max(map(len, source.splitlines())) < 12_000
    onnx.checker.check_model(onnx.load(directory / "explainer.onnx"))
    with safe_open(directory / "weights.safetensors", "pt") as file:
        assert set(file.keys()) == set(explainer.legal.tensors)
    return explainer, directory


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_module_name(kind):
    name = HOSTILE[kind]
    try:
        explainer, directory = accept(Net(name, name + "n", name + "r", name + "h"), 1, 4, 4)
    except CaptureError as error:
        assert kind in ("self", "method of a module"), error  # noqa: PT017
        return
    layers = read_manifest(directory)["layers"]
    assert [layer["path"] for layer in layers if layer["operator"] == "conv"] == [name]
    assert explainer.layers[0].path == name


def test_names_that_look_the_same_stay_apart():
    explainer, directory = accept(Net("a-b", "a b", "a_b", "a\tb"), 1, 4, 4)
    variables = [layer["value"] for layer in read_manifest(directory)["layers"]]
    assert len(set(variables)) == len(variables)
    assert {"a-b.weight", "a_b.weight", "a\tb.weight"} <= set(explainer.legal.tensors)


def test_names_that_differ_only_in_what_is_cut_off():
    stem = "n" * 500
    accept(Net(stem + "1", stem + "2", stem + "3", stem + "4"), 1, 4, 4)


class Bare(nn.Module):
    """Parameters without a layer, one of them called like the header of a weight file."""

    def __init__(self, *names):
        super().__init__()
        self.names = names
        self.register_parameter(names[0], nn.Parameter(torch.randn(3, 4)))
        self.register_parameter(names[1], nn.Parameter(torch.randn(3)))

    def forward(self, x):
        weight, bias = (self._parameters[name] for name in self.names)
        return nn.functional.linear(x, weight, bias)


@pytest.mark.parametrize(
    "names", [("__metadata__", "metadata"), ("a\ud800", "a\\ud800"), ('"', "'"), ("é", "e\u0301")]
)
def test_hostile_parameter_names(names):
    accept(Bare(*names), 4)


@pytest.mark.parametrize("text", ['"""', "\\", "é\u2028\\" * 60, "a" * 85 + "é" * 9, "{0}%s\r\n"])
def test_hostile_model_name(text):
    explainer, _ = accept(Bare("w", "b"), 4, name=text)
    assert explainer.source.startswith('"""Relevance propagation for ')


@pytest.mark.parametrize("name", ["a\nb", "a\\", *CALLS])
def test_hostile_class_name(name):
    kind = type(name, (nn.Linear,), {})
    model = nn.Sequential(kind(4, 3))
    source = compiled(model, 4).source
    ast.parse(source)
    assert MARK not in "".join(
        line.partition("#")[0] for line in source.splitlines() if '"""' not in line
    )


def test_recorded_names_are_data():
    name = HOSTILE["closes a bracket"]
    explainer = compiled(Net(name, "n", "r", "h"), 1, 4, 4, record=["*"])
    explainer(torch.randn(1, 1, 4, 4))
    assert name in explainer.module.recorded
    directory = save(explainer, "out", samples=1)
    assert check_directory(directory, samples=1).passed
    outputs = {value.name for value in onnx.load(directory / "explainer.onnx").graph.output}
    assert len(outputs) == 2 + len(explainer.module.recorded)


def test_shared_layer_under_two_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self._modules["o\n(e"] = self.one

        def forward(self, x):
            return self._modules["o\n(e"](torch.relu(self.one(x)))

    accept(Shared(), 4)


def test_model_that_is_one_layer():
    explainer, _ = accept(nn.Linear(4, 3), 4)
    assert explainer.layers[0].label == ""


@pytest.mark.parametrize("name", CALLS)
def test_torch_compiles_no_name(name):
    model = Net(name, "n", "r", "h").eval()
    before = fx_graph._format_target
    try:
        capture(model, torch.zeros(2, 1, 4, 4))
    except CaptureError as error:
        assert "unterminated" not in str(error)  # noqa: PT017
        assert "invalid syntax" not in str(error)  # noqa: PT017
    assert fx_graph._format_target is before


@pytest.mark.parametrize("name", HOSTILE.values())
def test_escapes(name):
    found = identifier(name)
    assert found.isascii()
    assert found.isidentifier()
    assert len(found) <= 70
    assert not found.startswith("_")
    shown = comment(name)
    assert shown.isprintable()
    assert shown.isascii()
    assert len(shown) <= 90
    assert ast.parse(f'"""{shown}"""')
    assert tensor_name(name).encode()
