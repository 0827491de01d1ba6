"""What layers compute alike is a function that ``forward`` calls, and its values stay in sight."""

import ast
import re

import pytest
import torch
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.checking.check import check_directory
from graphprop.checking.runner import local_variables
from graphprop.lowering.interpret_map import interpret_map

SHAPE = (2, 8, 8)


def net():
    torch.manual_seed(0)
    layers = []
    for before, stride in ((2, 1), (4, 1), (4, 2), (4, 1)):
        layers += [nn.Conv2d(before, 4, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()


def functions(source):
    """The functions with a rule's documentation: name -> definition."""
    found = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    return {name: n for name, n in found.items() if "Source: " in (ast.get_docstring(n) or "")}


@pytest.fixture(scope="module")
def explainer():
    return graphprop.compile(net(), torch.zeros(2, *SHAPE), "rap")


def test_layers_with_one_rule_call_one_function(explainer):
    (name,) = functions(explainer.source)
    assert name == "rap_conv"
    calls = re.findall(r"^        (\w+) = rap_conv\(([^)]*)\)$", explainer.source, re.MULTILINE)
    assert [result for result, _ in calls] == ["r_layer_5", "r_layer_3", "r_layer_1"]
    strided = [call for _, call in calls if "stride=2" in call]
    assert len(strided) == 1
    assert "output_padding=1" in strided[0]


def test_the_function_says_formula_and_source(explainer):
    text = ast.get_docstring(functions(explainer.source)["rap_conv"])
    assert "Rbar = JP(R) + JN(nu)" in text
    assert "Nam et al. 2020" in text
    assert "negative=both" in text


@pytest.mark.parametrize("method", ["rap", "rap-bn", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_the_map_is_that_of_the_graph(method):
    explainer = graphprop.compile(net(), torch.zeros(2, *SHAPE), method)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    _, (wanted,) = interpret_map(explainer.lowered, {"x": x}, None)
    torch.testing.assert_close(explainer(x)[1].double(), wanted, rtol=1e-3, atol=1e-6)
    assert functions(explainer.source)


def test_a_rule_that_one_layer_has_stays_inline():
    model = net()
    source = graphprop.compile(model, torch.zeros(2, *SHAPE), "rap", rules={"2": "z_plus"}).source
    assert "z_plus" not in functions(source)
    assert "# 2: conv, z_plus(" in source


def test_values_within_a_function_have_names(explainer):
    inside = [name for name in explainer.generated.places.values() if "." in name]
    assert "r_layer_3.excitatory" in inside
    assert set(inside) <= set(local_variables(explainer.source))


def test_a_function_is_called_as_no_variable_is():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.rap_conv, self.total = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.stem, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 3)

        def forward(self, x):
            for layer in (self.stem, self.rap_conv, self.total):
                x = torch.relu(layer(x))
            return self.head(x.flatten(1))

    torch.manual_seed(0)
    model, x = Named().eval(), torch.randn(3, *SHAPE)
    explainer = graphprop.compile(model, x, "rap")
    torch.testing.assert_close(explainer(x)[0], model(x))
    assert list(functions(explainer.source)) == ["rap_conv_2"]


def test_a_rule_s_documentation_is_no_code():
    @graphprop.rule
    def hostile(layer, x, r):
        '''Half of it. \\

        """
        raise SystemExit("this was run")
        """
        '''
        return x * layer.opT(layer.weight, r) * 0.5 + x * 0.25

    rules = {"*": "hostile"}
    explainer = graphprop.compile(net(), torch.zeros(2, *SHAPE), "lrp_z", rules=rules)
    explainer(torch.randn(1, *SHAPE))
    assert "def hostile_conv(" in explainer.source


def test_the_check_names_a_wrong_step_within_a_function(explainer, tmp_path, same_process):
    directory = save(explainer, tmp_path / "net", samples=1)
    file = directory / "explainer.py"
    text = file.read_text()
    assert text.count("    spread = x *") == 1
    file.write_text(text.replace("    spread = x *", "    spread = 1.01 * x *"))
    report = check_directory(
        directory, backends=["python", "onnxruntime"], samples=1, allow_changed=True
    )
    python, onnxruntime = report.backends
    assert not python.passed
    assert "first diverges at the relevance of the result of '5'" in python.complaint()
    # explainer.py is the reference: what ONNX holds differs from it at the step that was changed
    assert not onnxruntime.passed
    assert "first diverges at 'r_layer_5.spread'" in onnxruntime.complaint()
