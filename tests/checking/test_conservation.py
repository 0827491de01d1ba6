"""Relevance that vanishes, explodes or overflows: it is said, with the reason, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import graphprop
from graphprop.api import check as check_explainer
from graphprop.artifact.conservation import is_off, of_map
from graphprop.checking.check import check_directory
from graphprop.checking.conservation import conserves, of_explainer, warning
from graphprop.cli import main
from graphprop.errors import EquivalenceError
from graphprop.frontend.capture import capture
from graphprop.rules import METHODS
from support.maps import fitting

torch.set_num_threads(1)


class Ones(nn.Module):
    """A value of ones, whatever comes: relevance passes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(1.0, 1.0)


def chain(weight: float, bias: float, count: int) -> nn.Module:
    """Layers of one unit that read a 1, and hand on ``weight / (weight + bias)`` of relevance."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(12, 1, bias=False), Ones()]
    for _ in range(count):
        layer = nn.Linear(1, 1)
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
        layers += [layer, Ones()]
    last = nn.Linear(1, 2, bias=False)
    last.weight.data = torch.tensor([[4.0], [3.0]])
    return nn.Sequential(*layers, last).eval()


def said(model: nn.Module, method: str, count: int = 2, **options: Any) -> tuple[Any, list[str]]:
    """What is recorded and said of a few samples."""
    x = torch.rand(count, 3, 2, 2) + 0.1
    explainer = graphprop.compile(model, x, method, **options)
    logits, relevance = explainer(x, 0)
    start = logits[:, 0] if explainer.settings.get("start") == "logit" else torch.ones(count)
    sums = {"start": start.tolist(), "input": relevance.flatten(1).sum(1).tolist()}
    target = torch.zeros(count, dtype=torch.int64)
    return of_explainer(
        explainer.compiled, sums, lambda i: ({"x": x[i : i + 1]}, target[i : i + 1])
    )


# What is said, and when


def test_a_bias_that_takes_nearly_all() -> None:
    record, (text,) = said(chain(1.0, 9.0, 3), "lrp_alpha1_beta0", bias="sink")
    assert text == (
        "relevance vanishes: it starts with 4, and 0.004 arrive at the input (sample 0; 2 of 2 "
        "samples are off). It first falls below half of that at '7'. In all, biases took 100%; "
        "most of it, the bias of '7' took 90%, the bias of '5' took 9% . Set bias=ignored, or "
        "choose another method, such as rap."
    ).replace(
        "'7' took 90%, the bias of '5' took 9% .", "'7' took 90% and the bias of '5' took 9%."
    )
    assert record["start"] == "logit"
    assert said(chain(1.0, 9.0, 3), "lrp_alpha1_beta0") == (
        {"start": "logit", "places": 1, "cause": None, "remedy": None},
        [],
    )


def test_a_bias_that_adds_without_end() -> None:
    _, (text,) = said(chain(-1e6, 1000001.0, 2), "lrp_z", start="one")
    assert "relevance explodes: it starts with 1, and 1e+12 arrive at the input" in text
    assert "It first falls below half of that at '5'." in text
    assert "biases added 1.0e+12 times the start; most of it, the bias of '3' added" in text
    assert text.endswith("Set bias=ignored, or choose another method, such as rap.")
    _, (text,) = said(chain(-1e6, 1000001.0, 2), "lrp_epsilon")
    assert text.endswith(
        "Set bias=ignored or a larger epsilon, or choose another method, such as rap."
    )


def test_a_sign_that_changes() -> None:
    _, (text,) = said(chain(-1.0, 2.0, 1), "lrp_z")
    assert text.startswith("relevance changes its sign: it starts with 4, and -4 arrive at the")


def test_units_without_excitation() -> None:
    _, (text,) = said(chain(-1.0, 3.0, 1), "lrp_alpha1_beta0")
    assert "and 0 arrive at the input" in text
    assert "In all, zero denominators took 100%; most of it, zero denominators of '3' took" in text
    assert "Choose what hands relevance on where no input excites a unit: method=rap, or" in text


def test_a_stabilizer_that_takes_nearly_all() -> None:
    _, (text,) = said(chain(1.0, 0.0, 2), "lrp_epsilon", epsilon=10.0, bias="ignored")
    assert "stabilizers took" in text
    assert text.endswith("Set a smaller epsilon, or choose another method, such as rap.")


def test_sums_near_zero_without_their_bias() -> None:
    """Shares of opposite sign and 25,000 times what is shared, of which a stabilizer takes some."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), Ones(), nn.Linear(1, 2), nn.Linear(2, 1))
    model[3].weight.data = torch.tensor([[1.0], [0.1]])
    model[3].bias.data = torch.tensor([1.0, 2.9])
    model[4].weight.data = torch.tensor([[1000.0, -666.68]])
    model[4].bias.data = torch.tensor([1003.0])
    _, (text,) = said(model.eval(), "lrp_epsilon", epsilon=0.04, bias="ignored")
    assert "relevance explodes" in text
    assert text.endswith(
        "Set bias=sink or a larger epsilon, or choose another method, such as rap."
    )


def test_norms_as_affine_maps() -> None:
    class Shifted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x + 1e-3], 1)

    norm = nn.LayerNorm(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), Ones(), Shifted(), norm, nn.Linear(2, 2))
    norm.weight.data, norm.bias.data = torch.tensor([[1.0, 0.1], [3.0, 0.0]])
    _, (text,) = said(model.eval(), "lrp_epsilon", bias="ignored", norm="affine", start="one")
    assert "Set norm=pass" in text
    assert said(model.eval(), "lrp_epsilon", bias="ignored", start="one")[1] == []


@pytest.mark.parametrize(
    ("start", "arrived", "off"),
    [
        (2.0, 1.0, False),
        (2.0, 0.99, True),
        (2.0, 4.0, False),
        (2.0, 4.01, True),
        (-2.0, -3.0, False),
        (-2.0, 2.0, True),
        (0.0, 1.0, False),
        (1.0, float("nan"), False),
        (1.0, None, False),
    ],
)
def test_what_is_off(start: float, arrived: float | None, off: bool) -> None:
    assert is_off(start, arrived) == off


# What nothing is said of


CONSERVING = {
    *(name for name in METHODS if name.startswith(("lrp_", "epsilon_", "preset_"))),
    "deep_taylor",
    "rap",
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, (2, 1))
        self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(torch.flatten(x, 1))


def test_methods_that_are_meant_to_conserve() -> None:
    model, x = Small().eval(), torch.rand(1, 3, 2, 2)
    program, found = capture(model, x), set()
    for name, method in METHODS.items():
        options = {"layer": "first"} if method.layer == "last spatial" else {}
        options |= fitting(name, x)
        with mock.patch("graphprop.api.capture", return_value=program):
            explainer = graphprop.compile(model, x, name, **options)
        found |= {name} if conserves(explainer.compiled) else set()
        if name not in CONSERVING:
            sums = {"start": [1.0], "input": [1e-9]}
            assert of_explainer(explainer.compiled, sums, lambda i: ({}, torch.zeros(1))) == (
                None,
                [],
            )
    assert found == CONSERVING


@pytest.mark.parametrize(
    "options",
    [
        {"method": "lrp_alpha1_beta0", "alpha": 2.0},
        {"rules": {"first": "excitation"}},
        {"rules": {"first": "gradient"}},
    ],
)
def test_rules_that_are_not_meant_to_conserve(options: dict[str, Any]) -> None:
    options = {"method": "epsilon_plus", **options}
    assert not conserves(
        graphprop.compile(Small().eval(), torch.rand(1, 3, 2, 2), **options).compiled
    )


@pytest.mark.parametrize("method", ["lrp_alpha1_beta0", "rap", "lrp_epsilon"])
def test_nothing_is_said_where_all_arrives(method: str) -> None:
    model = Small().eval()
    for layer in (model.first, model.second):  # so that every unit is excited
        layer.weight.data.abs_()
        layer.bias.data.abs_()
    bias = {} if method == "rap" else {"bias": "ignored"}
    record, warnings = said(model, method, **bias)
    assert record is not None
    assert warnings == []


# From end to end


def test_compile_check_and_explain_say_it(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    input_shape = (3, 4, 4)\n\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)\n"
        "        nn.init.constant_(self.a.bias, 50.0)\n\n"
        "    def forward(self, x):\n"
        "        return self.b(torch.relu(self.a(x)).flatten(1))\n\n\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Net()\n"
    )
    out = tmp_path / "out"
    run = CliRunner().invoke
    command = ["compile", f"{source}:make", "-m", "epsilon_plus", "--input-shape", "3,4,4"]
    done = run(main, [*command, "-o", str(out), "--no-onnx"])
    assert done.exit_code == 0, done.output
    assert "warning: relevance vanishes: it starts with" in done.output
    assert "the bias of 'a' took" in done.output
    (text,) = [w for w in check_directory(out).warnings if "relevance" in w]
    assert "relevance vanishes: it starts with" in text
    assert "the bias of 'a' took" in text
    assert text.endswith("Set bias=ignored, or choose another method, such as rap.")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((4, 4, 3), 100, np.uint8)).save(picture)
    done = run(main, ["explain", str(out), str(picture), "-o", str(tmp_path / "maps")])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if "vanishes" in line]
    assert f"{picture}, class " in line
    assert "the bias of 'a' took" in line


def test_a_map_by_what_the_manifest_says() -> None:
    record = {"start": "logit", "places": 1, "cause": "It went.", "remedy": "Set it."}
    logits, relevance = np.array([3.0, 8.0]), np.full((1, 2), 0.5, np.float32)
    text = of_map({"conservation": record}, logits, 1, relevance)
    assert text == (
        "relevance vanishes: it starts with 8, and 1 arrive at the input. It went. Set it."
    )
    assert of_map({"conservation": record}, logits, 0, 3 * relevance) is None
    places = {**record, "start": "one", "places": 40}
    assert "it starts with 40" in (of_map({"conservation": places}, logits, 0, relevance) or "")
    for manifest in ({"conservation": None}, {}):
        assert of_map(manifest, logits, 1, relevance) is None


# Overflow


@pytest.mark.parametrize("method", ["lrp_z", "lrp_epsilon"])
@pytest.mark.parametrize("count", [8, 54])
def test_an_overflow_is_called_one(method: str, count: int) -> None:
    """In float32 only, or in float64, too; at the layer where it begins; no backend is blamed.

    Each layer multiplies relevance by a million, and float32 ends at 3e38.
    """
    model = chain(-1e6, 1000001.0, count)
    explainer = graphprop.compile(model, torch.rand(1, 3, 2, 2), method)
    report = check_explainer(explainer, backends=["python"])
    assert not report.passed
    text = report.render()
    layer = 3 + 2 * (count - 7)
    start = "relevance overflows on noise 0, first at the relevance of the result of"
    assert f"{start} '{layer - 1}.clamp', from the rule of '{layer}':" in text
    assert "no backend is at fault" in text
    assert "set a larger epsilon or the other bias (sink or ignored) where it has those" in text
    assert "python" not in {result.name for result in report.backends}


def test_a_compile_that_overflows(tmp_path: Path) -> None:
    explainer = graphprop.compile(chain(-1e6, 1000001.0, 53), torch.rand(1, 3, 2, 2), "lrp_z")
    with pytest.raises(EquivalenceError, match="relevance overflows on noise 0, first at"):
        explainer.save(tmp_path / "out", onnx=False)


def test_a_network_that_overflows_is_told_apart() -> None:
    class Infinite(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x - x)

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), Infinite())
    explainer = graphprop.compile(model.eval(), torch.rand(1, 3, 2, 2), "gradient")
    text = check_explainer(explainer, backends=["python"]).render()
    assert "the network itself gives NaN or infinity on noise 0, first at the result of" in text


def test_words_of_a_warning() -> None:
    sums = {"start": [1.0, 2.0, 3.0], "input": [1.0, 1e-3, 9.0]}
    text = warning(sums, {"cause": None, "remedy": None})
    assert text == (
        "relevance vanishes: it starts with 2, and 0.001 arrive at the input (sample 1; 2 of 3 "
        "samples are off)."
    )
