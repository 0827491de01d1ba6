"""What is passed to the library by mistake: one sentence each, that says what to pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphprop
from graphprop.errors import InputError, LoadError, MethodError
from graphprop.rules import RULES


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).amax((2, 3)))


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x, y):
        return self.head(x + y)


model = Net().eval()
x = torch.zeros(2, 2, 6, 6)

MODEL = "the model must be a torch.nn.Module, not "
MODELS = {
    "class": (Net, MODEL + r"the class Net: pass an instance, made as by Net\(\)"),
    "state dict": (model.state_dict(), MODEL + "an OrderedDict: that holds weights alone: build"),
    "dict": ({"state_dict": {}}, MODEL + "a dict: that holds weights alone: build the model"),
    "path": ("vgg16.py", MODEL + "a str: build the model from it first, or use `graphprop"),
    "Path": (Path("vgg16.py"), MODEL + "a PosixPath: build the model from it first"),
    "function": (lambda x: x, MODEL + "a function: pass a torch.nn.Module whose forward calls"),
    "method": (model.forward, MODEL + "a method: pass a torch.nn.Module whose forward calls it"),
    "tensor": (x, MODEL + "a Tensor: pass the network itself"),
    "nothing": (None, MODEL + "None: pass the network itself"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_model(name):
    wrong, text = MODELS[name]
    with pytest.raises(LoadError, match=text) as caught:
        graphprop.compile(wrong, x)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_in_another_form():
    traced = torch.jit.trace(model, x)
    with pytest.raises(LoadError, match="not a TopLevelTracedModule: pass the Python module that"):
        graphprop.compile(traced, x)
    with pytest.raises(LoadError, match="an ExportedProgram: pass the module that it was exported"):
        graphprop.compile(torch.export.export(model, (x,)), x)


EXAMPLE = r"example_input must be a torch.Tensor \[N, ...\], "
EXAMPLES = {
    "shape": ((2, 6, 6), EXAMPLE + r"not a shape: pass torch.zeros\(2, 6, 6\), batch included"),
    "torch's shape": (x.shape, EXAMPLE + r"not a shape: pass torch.zeros\(2, 2, 6, 6\)"),
    "numpy": (x.numpy(), EXAMPLE + "not a ndarray: pass torch.from_numpy of it"),
    "several of numpy": ([x.numpy()], EXAMPLE + "or one for each .* a ndarray: pass torch.from_"),
    "text": ("cat.png", EXAMPLE + "not a str"),
    "nothing": (None, EXAMPLE + "not None"),
    "none of several": ((), EXAMPLE + "or several of them, not a tuple without any"),
    "a list of lists": ([[0.0, 1.0]], EXAMPLE + "or one for each input, not a list of a list"),
    "number": (torch.tensor(1.0), EXAMPLE + "not a number: an input has a batch axis"),
    "without batch": (x[0], r"example_input lacks the batch axis: pass example_input\[None\]"),
    "another shape": (torch.zeros(2, 5, 6, 6), r"does not run on an input of shape \(5, 6, 6\)"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_no_example(name):
    wrong, text = EXAMPLES[name]
    with pytest.raises(InputError, match=text) as caught:
        graphprop.compile(model, wrong)
    assert "\n" not in str(caught.value)


def test_several_examples():
    part = torch.zeros(2, 3)
    graphprop.compile(Sum().eval(), [part, part], "lrp_z")
    with pytest.raises(InputError, match="or one for each input, not a tuple of an int"):
        graphprop.compile(Sum().eval(), (part, 3))


OPTIONS = {
    "method": (
        {"method": Net},
        "a method is given by its name, as 'rap', or as a graphprop.Method, not as the class Net",
    ),
    "no method": ({"method": None}, "a method is given by its name, as 'rap', .* not as None"),
    "methods": ({"method": ["rap"]}, "a method is given by its name, .* not as a list"),
    "rules as a list": (
        {"rules": [("conv", "flat")]},
        r"rules must be a dict, as rules=\{'features.0': 'w_square'\}, not a list",
    ),
    "rules as text": ({"rules": "conv=flat"}, "rules must be a dict, as rules=.*, not a str"),
    "a rule's function": (
        {"rules": {"conv": RULES["flat"].function}},
        "the rule for 'conv' must be its name, 'flat', or a name with parameters, as ",
    ),
    "a rule": ({"rules": {"conv": RULES["flat"]}}, "must be its name, 'flat', or .* not a Rule"),
    "a number": ({"rules": {"conv": 0.1}}, "'conv' must be a name, as 'epsilon', .* not a float"),
    "a name alone": ({"rules": {"conv": ("epsilon",)}}, "or a name with parameters.* not a tuple"),
    "a value alone": ({"rules": {"conv": ("epsilon", 0.1)}}, "or a name with .* not a tuple"),
    "a layer": ({"rules": {model.conv: "flat"}}, "rules must name layers by text, .* by a Conv2d"),
    "roles as a list": ({"roles": ["conv"]}, r"roles must be a dict, as roles=\{'head.*not a list"),
    "a role": ({"roles": {"conv": 1}}, "role for 'conv' must be a name, as 'dense_head', not an"),
    "record as text": (
        {"record": "conv*"},
        r"record must be a list, as record=\['conv\*'\], not o",
    ),
    "record of a layer": (
        {"record": [model.conv]},
        "record must be a list of texts, not of a Conv",
    ),
    "record": (
        {"record": True},
        r"record must be a list, as record=\['features.1\*'\], not a bool",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_another_kind(name):
    options, text = OPTIONS[name]
    with pytest.raises(MethodError, match=text) as caught:
        graphprop.compile(model, x, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": 3}, "name must be a text, not an int"),
        ({"class_names": "cat"}, r"class_names must be a list, as class_names=\['cat'\], not one"),
        ({"class_names": ["cat", "dog"]}, "give one name for each of the 4 classes, not 2"),
        ({"class_names": range(4)}, "class_names must be a list of texts, not of an int"),
    ],
)
def test_names_of_another_kind(options, text):
    with pytest.raises(InputError, match=text):
        graphprop.compile(model, x, **options)


@pytest.mark.parametrize(
    ("backends", "text"),
    [
        ("onnxruntime", r"backends must be a list, as backends=\['onnxruntime'\], not one text"),
        (1, r"backends must be a list, as backends=\['python', 'onnxruntime'\], not an int"),
        ([None], "backends must be a list of texts, not of None"),
    ],
)
def test_backends_of_another_kind(backends, text):
    explainer = graphprop.compile(model, x)
    with pytest.raises(InputError, match=text):
        explainer.check(backends=backends)


def test_what_is_meant_is_accepted():
    options = {"rules": {"conv": ["epsilon", {"epsilon": 0.1}]}, "record": {"conv"}}
    explainer = graphprop.compile(
        model, (x,), roles={"head": "dense_head"}, class_names=("a", "b", "c", "d"), **options
    )
    assert explainer.class_names == ["a", "b", "c", "d"]
    given = np.zeros((3, 2, 6, 6), np.float32)
    explainer(torch.from_numpy(given), np.array([0, 3, -1]))
    assert explainer.relevance_at("conv").shape == (3, 3, 4, 4)
