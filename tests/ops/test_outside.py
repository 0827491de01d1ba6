"""Operators from outside the package, as the recipe in the README has it."""

import importlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.checking.check import check_directory
from graphprop.errors import OperatorError, VerificationError
from graphprop.ir.facts import facts_of
from graphprop.ir.interval import UNIT, Interval
from graphprop.ops import Linear, Mask, Simple, Trait, Weighted, absolute, divide_or_zero
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


@torch.library.custom_op("outside::gated", mutates_args=())
def gated(x: torch.Tensor, gate: torch.Tensor, by: float) -> torch.Tensor:
    return x * torch.sigmoid(by * gate.roll(1, 1))


@gated.register_fake
def _(x, gate, by):
    return torch.empty_like(x)


@torch.library.custom_op("outside::mixed", mutates_args=())
def mixed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ncij,dc->ndij", x, weight) + bias[:, None, None]


@mixed.register_fake
def _(x, weight, bias):
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


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


def soft_gate(gate: torch.Tensor, by: float) -> torch.Tensor:
    """Between 0 and 1, by the channel before."""
    return torch.sigmoid(by * gate.roll(1, 1))


@dataclass(frozen=True)
class Gated(graphprop.Operator):
    """A signal, scaled by what the second operand makes of the channel before."""

    by: float
    relevance: ClassVar[str] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "gate")
    signal: ClassVar[tuple[int, ...]] = (0,)
    traits: ClassVar[Trait] = Trait.POOLED_ARITHMETIC
    calls: ClassVar[tuple[str, ...]] = ("roll",)
    helpers: ClassVar[tuple] = (soft_gate,)

    def run(self, x, gate):
        return x * soft_gate(gate, self.by)

    def interval(self, x, gate):
        return x * UNIT

    def layout_from(self, shape, x):
        return x

    def gradient(self, r, operands, shapes):
        x, gate = operands
        share = Simple("sigmoid")(Turn(1)(gate) * self.by)
        return r * share, Turn(-1)(r * x * share * (1.0 - share) * self.by)

    def source(self, x, gate):
        return f"{x} * soft_gate({gate}, {self.by})"

    def onnx(self, graph, x, gate):
        gate = graph.node("Mul", Turn(1).onnx(graph, gate), self.by)
        return graph.node("Mul", x, graph.node("Sigmoid", gate))


@graphprop.from_aten(torch.ops.outside.gated.default)
def _(x, gate, by):
    return Gated(by)(x, gate)


class GatedNet(nn.Module):
    """The gate by the operator from outside, or written out."""

    def __init__(self, written_out: bool) -> None:
        super().__init__()
        self.written_out = written_out
        self.conv, self.gate = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        self.mix, self.head = nn.Conv2d(4, 3, 2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        gate = self.gate(x)
        share = torch.sigmoid(2.0 * gate.roll(1, 1))
        x = x * share if self.written_out else gated(x, gate, 2.0)
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


@pytest.mark.parametrize("method", ["epsilon_plus", "rap", "input_x_gradient", "gradcam"])
def test_an_operator_with_a_gate_from_outside(method, tmp_path):
    """Its declarations give what the same operator written out gives: gate, range and layout."""
    torch.manual_seed(1)
    model, written_out = GatedNet(False).eval(), GatedNet(True).eval()
    written_out.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 6, 6)
    one, other = (graphprop.compile(m, x, method) for m in (model, written_out))
    torch.testing.assert_close(one(x), other(x))
    (node,) = (n for n in one.network.layers if isinstance(n.target, Gated))
    # the gradient has no gates: it reaches every operand
    assert facts_of(node).signal == ((0, 1) if method == "input_x_gradient" else (0,))
    assert facts_of(node).range.low == 0
    assert str(facts_of(node).layout) == "N,c4,p4,p4"
    roles = {layer.label: layer.roles for layer in one.layers}
    assert roles == roles | {layer.label: layer.roles for layer in other.layers if layer.roles}
    assert roles["gate"] == ("gate",)
    directory = one.save(tmp_path / "net")
    assert check_directory(directory).passed
    source = (directory / "explainer.py").read_text()
    assert "def soft_gate(gate, by):" in source
    session = onnxruntime.InferenceSession(str(directory / "explainer.onnx"))
    target = one(x)[0].argmax(1)
    found = session.run(None, {"input": x.numpy(), "target": target.numpy()})
    for result, expected in zip(found, one(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Mixed(Weighted):
    """A layer with weights: the channels of each place mixed, or the adjoint of that."""

    back: bool = False

    @property
    def equation(self):
        return "ndij,dc->ncij" if self.back else "ncij,dc->ndij"

    def run(self, x, weight, bias=None):
        mixed = torch.einsum(self.equation, x, weight)
        return mixed if bias is None else mixed + bias[:, None, None]

    def adjoint(self, *shapes):
        return Mixed(not self.back)

    def with_results_scaled(self, weight, scale):
        return weight * scale[:, None]

    def source(self, x, weight):
        return f"torch.einsum({self.equation!r}, {x}, {weight})"

    def onnx(self, graph, x, weight):
        return graph.node("Einsum", x, weight, equation=self.equation)


@graphprop.from_aten(torch.ops.outside.mixed.default)
def _(x, weight, bias):
    return Mixed()(x, weight, bias)


class MixedNet(nn.Module):
    """A mixed layer with a batch norm, or the convolution that is the same."""

    def __init__(self, as_conv: bool) -> None:
        super().__init__()
        self.as_conv = as_conv
        self.first, self.mix = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 1)
        self.norm, self.head = nn.BatchNorm2d(5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = self.mix(x) if self.as_conv else mixed(x, self.mix.weight[:, :, 0, 0], self.mix.bias)
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


@pytest.mark.parametrize("method", ["epsilon_plus", "lrp_alpha2_beta1"])
def test_a_layer_with_weights_from_outside(method):
    """It gets the method's rule, and a batch norm is merged into it, as into a convolution."""
    torch.manual_seed(2)
    model, as_conv = MixedNet(False).eval(), MixedNet(True).eval()
    nn.init.uniform_(model.norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    as_conv.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 6, 6)
    one, other = (graphprop.compile(m, x, method) for m in (model, as_conv))
    torch.testing.assert_close(one(x), other(x))
    assert list(one.network.decisions.values()) == ["merged into outside"]
    rules = [[layer.rule for layer in e.layers if layer.roles] for e in (one, other)]
    assert rules[0] == rules[1]
    assert one.check().passed


@pytest.mark.parametrize("trait", [Trait.NONE, Trait.POOLED_ARITHMETIC])
def test_a_trait_from_outside_is_seen_by_passes(trait):
    """What belongs to a pooling is passed over in the search of the layer of the map."""

    class Part(Bent):
        traits = trait

        def gradient(self, r, operands, shapes):
            tanh = Simple("tanh")(operands[0])
            return (r * (Mask(">")(operands[0]) + self.slope * (1.0 - tanh * tanh)),)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(bent(torch.relu(self.conv(x)), 0.5).mean((2, 3)))

    with meaning_of_bent(Part):
        explainer = graphprop.compile(Pooled().eval(), torch.zeros(2, 2, 6, 6), "gradcam")
    found = explainer.network.map_layer.target
    assert isinstance(found, Part) == (trait is Trait.NONE)


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


# A rule and a method


@pytest.fixture
def share_rule():
    """A rule and a method from outside, registered for one test."""

    @graphprop.rule("outside_share")
    def outside_share(layer, x, r, *, power=1.0):
        """Shares by the size of the contributions, whatever their sign."""
        a, w = absolute(x), absolute(layer.weight)
        return a * layer.opT(w, divide_or_zero(r, layer.op(a, w))) * power

    graphprop.method(
        "outside_method",
        [("dense_head", "epsilon"), ("*", "outside_share")],
        parameters={"epsilon": 1e-6, "bias": "ignored", "power": 1.0},
    )
    yield outside_share
    del graphprop.RULES["outside_share"], graphprop.METHODS["outside_method"]


def test_a_rule_from_outside_equals_its_closed_form(share_rule):
    torch.manual_seed(3)
    x, weight, r = torch.randn(2, 4), torch.randn(3, 4), torch.randn(2, 3)
    found = share_rule(graphprop.Layer.of(Linear(), x, weight), x, r, power=2.0)
    shares = (x.abs()[:, None] * weight.abs()) / (x.abs() @ weight.abs().T)[..., None]
    torch.testing.assert_close(found, 2.0 * (shares * r[..., None]).sum(1))


def test_a_method_from_outside_is_compiled_and_checked(share_rule, tmp_path):
    model, x = Net().eval(), torch.randn(3, 2, 6, 6)
    plain = graphprop.compile(model, x, "outside_method")
    twice = graphprop.compile(model, x, "outside_method", power=2.0)
    rules = {layer.rule for layer in plain.layers if "conv_stack" in layer.roles}
    assert rules == {"outside_share(power=1)"}
    # one factor for each of the two convolutions
    torch.testing.assert_close(twice(x)[1], 4.0 * plain(x)[1])
    directory = plain.save(tmp_path / "net")
    assert json.loads((directory / "manifest.json").read_text())["method"] == "outside_method"
    assert check_directory(directory).passed


# What is refused


def compiled_with(kind):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(bent(self.first(x), 0.5))

    with meaning_of_bent(kind):
        return graphprop.compile(One().eval(), torch.zeros(2, 4), "lrp_epsilon")


@contextmanager
def meaning_of_bent(kind):
    """Another operator for `bent`, for a while."""
    before = ATEN[torch.ops.outside.bent.default]
    graphprop.from_aten(torch.ops.outside.bent.default)(lambda x, slope: kind(slope)(x))
    try:
        yield
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


def at_target(x, slope):
    return F.relu(x)


@pytest.mark.parametrize(
    ("helper", "text"),
    [
        (with_a_global, "the helper 'with_a_global' uses 'LIMIT', which a generated module"),
        (bent_line, "the helper 'bent_line' uses 'squeezed', which a generated module doesn't"),
        (at_target, "the helper 'at_target' means two functions: name a function of your own"),
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
