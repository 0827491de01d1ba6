"""Operators from outside the package, as the recipe in the README has it."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.artifact.write import save
from graphprop.checking.check import check_directory
from graphprop.errors import OperatorError, VerificationError
from graphprop.ir.interval import Interval
from graphprop.ops.base import ATEN

# What a model uses that graphprop does not know


@torch.library.custom_op("outside::turn", mutates_args=())
def turn(x: torch.Tensor, shift: int) -> torch.Tensor:
    return x.roll(shift, 1)


@turn.register_fake
def _(x, shift):
    return torch.empty_like(x)


@torch.library.custom_op("outside::bent", mutates_args=())
def bent(x: torch.Tensor, slope: float) -> torch.Tensor:
    return F.relu(x) + slope * torch.tanh(x)


@bent.register_fake
def _(x, slope):
    return torch.empty_like(x)


# What the recipe says to write for it


@dataclass(frozen=True)
class Turn(graphprop.Operator):
    """Channels moved on, the last ones to the front."""

    shift: int
    relevance: ClassVar[str] = "rearrange"
    calls: ClassVar[tuple[str, ...]] = ("roll",)

    def run(self, x):
        return x.roll(self.shift, 1)

    def interval(self, x):
        return x

    def adjoint(self, *shapes):
        return Turn(-self.shift)

    def source(self, x):
        return f"{x}.roll({self.shift}, 1)"

    def onnx(self, graph, x):
        places = torch.arange(graph.shape(x)[1]).roll(self.shift)
        return graph.node("Gather", x, graph.integers(places.tolist()), axis=1)


@graphprop.from_aten(torch.ops.outside.turn.default)
def _(x, shift):
    return Turn(shift)(x)


def bent_line(x: torch.Tensor, slope: float) -> torch.Tensor:
    """A rectifier that bends a little."""
    return F.relu(x) + slope * squeezed(x)


def squeezed(x: torch.Tensor, *, by: float = 1.0) -> torch.Tensor:
    """Between -1 and 1."""
    return torch.tanh(x * by)


@dataclass(frozen=True)
class Bent(graphprop.Operator):
    """A rectifier that bends a little."""

    slope: float
    relevance: ClassVar[str] = "pass"
    helpers: ClassVar[tuple] = (bent_line, squeezed)

    def run(self, x):
        return bent_line(x, self.slope)

    def interval(self, x):
        return Interval(-abs(self.slope))

    def source(self, x):
        return f"bent_line({x}, {self.slope})"

    def onnx(self, graph, x):
        tanh = graph.node("Mul", graph.node("Tanh", x), self.slope)
        return graph.node("Add", graph.node("Relu", x), tanh)


@graphprop.from_aten(torch.ops.outside.bent.default)
def _(x, slope):
    return Bent(slope)(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.mix = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        # called like the functions that the source holds
        self.bent_line = nn.Linear(4, 3)

    def forward(self, x):
        x = turn(bent(self.conv(x), 0.1), 1)
        return self.bent_line(bent(self.mix(x), 0.2).amax((2, 3)))


@pytest.mark.parametrize("method", ["epsilon_plus", "rap", "hedge"])
def test_an_operator_from_outside_is_compiled_and_checked(method, tmp_path):
    model, x = Net().eval(), torch.randn(3, 2, 6, 6)
    explainer = graphprop.compile(model, x, method)
    logits, relevance = explainer(x)
    torch.testing.assert_close(logits, model(x))
    assert relevance.abs().sum() > 0
    assert {"turn", "bent"} <= {layer.operator for layer in explainer.layers}
    directory = save(explainer, tmp_path / "net")
    report = check_directory(directory)
    assert report.passed
    assert {backend.name for backend in report.backends} >= {"python", "onnxruntime"}
    source = (directory / "explainer.py").read_text()
    assert "def bent_line(x, slope):" in source
    assert "def squeezed(x, *, by=1.0):" in source
    assert ".roll(1, 1)" in source
    assert ".roll(-1, 1)" in source


class Turned(nn.Module):
    """The channels of a hidden layer turned; or, without that, the layer's rows."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = turn(x, self.shift) if self.shift else x
        return self.head(x.amax((2, 3)))


def test_its_relevance_is_that_of_the_same_network_without_it():
    x, model, straight = torch.randn(3, 2, 6, 6), Turned(1).eval(), Turned(0).eval()
    straight.load_state_dict(
        {k: v.roll(int("conv" in k), 0) for k, v in model.state_dict().items()}
    )
    one, other = (graphprop.compile(m, x, "lrp_alpha2_beta1") for m in (model, straight))
    torch.testing.assert_close(one(x), other(x))


# What is refused


def compiled_with(kind, function=bent):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(bent(self.first(x), 0.5))

    before = ATEN[torch.ops.outside.bent.default]
    graphprop.from_aten(torch.ops.outside.bent.default)(lambda x, slope: kind(slope)(x))
    try:
        return graphprop.compile(One().eval(), torch.zeros(2, 4), "lrp_epsilon")
    finally:
        graphprop.from_aten(torch.ops.outside.bent.default)(before)


def test_a_method_that_is_not_declared_is_refused():
    class Undeclared(Bent):
        def source(self, x):
            return f"{x}.roll({self.slope}, 1)"

    text = r"calls 'first.roll', which none of its operators declares: name 'roll' in `calls` of"
    with pytest.raises(VerificationError, match=text):
        compiled_with(Undeclared)


def test_a_function_that_is_not_declared_is_refused():
    class Undeclared(Bent):
        helpers = ()

    text = r"calls 'bent_line', which none of its operators declares: name 'bent_line' in `helpers`"
    with pytest.raises(VerificationError, match=text):
        compiled_with(Undeclared)


LIMIT = 3.0


def with_a_global(x, slope):
    return F.relu(x) * LIMIT


def start(x, slope):
    return F.relu(x)


@pytest.mark.parametrize(
    ("helper", "text"),
    [
        (with_a_global, "the helper 'with_a_global' uses 'LIMIT', which a generated module"),
        (bent_line, "the helper 'bent_line' uses 'squeezed', which a generated module doesn't"),
        (start, "the helper 'start' means two functions: name a function of your own"),
        ("nowhere", "the helper 'nowhere' is none of graphprop's: name a function of your own"),
        (lambda x, slope: x, "the helper '<lambda>' must be a plain function, defined by `def`"),
    ],
)
def test_a_helper_that_can_not_be_copied_is_refused(helper, text):
    class Wrong(Bent):
        helpers = (helper,)

        def source(self, x):
            return f"{helper if isinstance(helper, str) else helper.__name__}({x}, 0.5)"

    with pytest.raises(OperatorError, match=text):
        compiled_with(Wrong)


def test_what_an_operator_is_made_with_is_public():
    for name in ("Operator", "from_aten", "rule", "method"):
        assert name in graphprop.__all__
        assert name in dir(graphprop)
        assert callable(getattr(graphprop, name))


def test_recipe_of_the_readme(tmp_path, monkeypatch):
    """The text of the README, as it stands, makes an operator that compiles."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (recipe,) = (
        part for part in re.findall(r"```python\n(.*?)```", readme, re.S) if "Bent" in part
    )
    head = "from dataclasses import dataclass\nfrom typing import ClassVar\n\nimport torch\n"
    head += "import torch.nn.functional as F\n\nimport graphprop\n\n\n"
    # a helper's source is read from the file that it stands in
    (tmp_path / "recipe_of_the_readme.py").write_text(head + recipe)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ATEN, torch.ops.outside.bent.default, None)
    recipe_module = importlib.import_module("recipe_of_the_readme")
    model, x = Net().eval(), torch.randn(3, 2, 6, 6)
    explainer = graphprop.compile(model, x, "epsilon_plus")
    assert any(isinstance(n.target, recipe_module.Bent) for n in explainer.network.layers)
    torch.testing.assert_close(explainer(x)[0], model(x))
    assert explainer.check(backends=["onnxruntime"]).passed
