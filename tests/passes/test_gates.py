"""Which operand of a product is the gate: decided by ranges and places (methods.md, section 0).

Each network is ``head(pool(function(f(x), g(x))))`` with convolutions f and g. Relevance that the
product hands to an operand arrives at its convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import UnsupportedOperator

Product = Callable[["Gated", torch.Tensor, torch.Tensor], torch.Tensor]


class Gated(nn.Module):
    """A product of what two convolutions compute."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.g = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.squeeze = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.product = product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.product(self, self.f(x), self.g(x)).mean((2, 3)))


def shares(product: Product) -> tuple[float, float]:
    """Which part of the product's relevance arrives at f and at g."""
    model = Gated(product).eval()
    explainer = graphprop.compile(model, torch.zeros(2, 3, 6, 6), "lrp_alpha1_beta0", record=["*"])
    torch.manual_seed(1)
    explainer(torch.randn(2, 3, 6, 6))
    recorded = explainer.module.recorded
    pools = [i.label for i in explainer.layers if i.operator == "adaptive_avg_pool"]
    whole = recorded[pools[-1]]
    total = sum(recorded[name].abs().sum() for name in ("f", "g") if name in recorded)
    assert whole.abs().sum() > 0
    assert total > 0
    return tuple(
        float(recorded[name].abs().sum() / total) if name in recorded else 0.0
        for name in ("f", "g")
    )


def mixed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.sigmoid(a[:, :2]), torch.tanh(b[:, 2:])], 1)


GATES: dict[str, Product] = {
    "sigmoid": lambda m, f, g: f * torch.sigmoid(g),
    "sigmoid first": lambda m, f, g: torch.sigmoid(g) * f,
    "tanh": lambda m, f, g: F.relu(f) * torch.tanh(g),
    "sigmoid beside tanh": lambda m, f, g: torch.tanh(f) * torch.sigmoid(g),
    "sigmoid beside relu6": lambda m, f, g: F.relu6(f) * torch.sigmoid(g),
    "product of sigmoids": lambda m, f, g: f * (torch.sigmoid(g) * torch.sigmoid(2 * g)),
    "cat of sigmoid and tanh": lambda m, f, g: f * mixed(g, g),
    "sum of sigmoids": lambda m, f, g: f * (torch.sigmoid(g) + torch.sigmoid(-g)),
    "share of the sum": lambda m, f, g: (
        f * (torch.sigmoid(g) / torch.sigmoid(g).sum(1, keepdim=True))
    ),
    "share of the sum and an epsilon": lambda m, f, g: (
        f * (F.relu(g) / (F.relu(g).sum(1, keepdim=True) + 1e-6))
    ),
    "clamped from below": lambda m, f, g: f * torch.sigmoid(g).clamp(min=0.1),
    "relu of tanh": lambda m, f, g: f * F.relu(torch.tanh(g)),
    "square": lambda m, f, g: torch.sigmoid(g) ** 2 * f,
    "root": lambda m, f, g: f * torch.sqrt(torch.sigmoid(g)),
    "size": lambda m, f, g: f * torch.abs(torch.sigmoid(g)),
    "above a threshold": lambda m, f, g: f * F.relu(torch.sigmoid(g) - 0.5),
    "hard sigmoid written out": lambda m, f, g: F.relu6(g + 3) / 6 * f,
    "hard sigmoid": lambda m, f, g: f * F.hardsigmoid(g),
    "softmax": lambda m, f, g: f * torch.softmax(g, 1),
    "softmax written out": lambda m, f, g: f * (torch.exp(g) / torch.exp(g).sum(1, keepdim=True)),
    "decay": lambda m, f, g: f * torch.exp(-torch.sigmoid(g)),
    "twice the sigmoid": lambda m, f, g: f * (2 * torch.sigmoid(g)),
    "one and tanh": lambda m, f, g: f * (1 + torch.tanh(g)),
    "one less": lambda m, f, g: f * (1 - torch.sigmoid(g)),
    "resized": lambda m, f, g: f * F.interpolate(torch.sigmoid(F.max_pool2d(g, 2)), size=(6, 6)),
    "squeeze and excite": lambda m, f, g: (
        f * torch.sigmoid(m.squeeze(g.mean((2, 3))))[:, :, None, None]
    ),
    "relu of the whole map": lambda m, f, g: (
        f * F.relu(m.squeeze(g.mean((2, 3))))[:, :, None, None]
    ),
    "relu6 beside a relu of the whole map": lambda m, f, g: (
        F.relu6(f) * F.relu(m.squeeze(g.mean((2, 3))))[:, :, None, None]
    ),
    "mean of the map": lambda m, f, g: f * g.mean((2, 3), keepdim=True),
    "divisor": lambda m, f, g: f / (1 + torch.abs(g)),
    "reciprocal": lambda m, f, g: f * torch.rsqrt(g * g + 1),
}

HALVES: dict[str, Product] = {
    "two of anything": lambda m, f, g: f * g,
    "StarNet": lambda m, f, g: F.relu6(f) * g,
    "two sigmoids": lambda m, f, g: torch.sigmoid(f) * torch.sigmoid(g),
    "two tanhs": lambda m, f, g: torch.tanh(f) * torch.tanh(g),
    "twice too large": lambda m, f, g: f * (4 * torch.sigmoid(g)),
    "two relus": lambda m, f, g: F.relu(f) * F.relu(g),
    "places of another channel": lambda m, f, g: f * F.relu(g.mean(1, keepdim=True)),
}


@pytest.mark.parametrize("name", GATES)
def test_gate_gets_nothing(name: str) -> None:
    assert shares(GATES[name]) == (1.0, 0.0)


@pytest.mark.parametrize("name", HALVES)
def test_half_each_where_neither_is_a_gate(name: str) -> None:
    product = HALVES[name]
    model = Gated(product).eval()
    explainer = graphprop.compile(model, torch.zeros(2, 3, 6, 6), "lrp_alpha1_beta0")
    assert {i.path: "gate" in i.roles for i in explainer.layers if i.path in ("f", "g")} == {
        "f": False,
        "g": False,
    }
    found = shares(product)
    assert min(found) > 0.1


SELF_GATED: dict[str, tuple[Product, Product]] = {
    "hard-swish": (lambda m, f, g: f * F.relu6(f + 3) / 6, lambda m, f, g: F.hardswish(f)),
    "silu": (lambda m, f, g: f * torch.sigmoid(f), lambda m, f, g: F.silu(f)),
    "mish": (lambda m, f, g: f * torch.tanh(F.softplus(f)), lambda m, f, g: F.mish(f)),
    "gelu": (
        lambda m, f, g: f * 0.5 * (1 + torch.erf(f * 0.5**0.5)),
        lambda m, f, g: F.gelu(f),
    ),
    "tanh gelu": (
        lambda m, f, g: 0.5 * f * (1 + torch.tanh(0.7978845608 * (f + 0.044715 * f**3))),
        lambda m, f, g: F.gelu(f, approximate="tanh"),
    ),
}


@pytest.mark.parametrize("name", SELF_GATED)
@pytest.mark.parametrize("method", ["epsilon_plus", "rap"])
def test_activation_written_out(name: str, method: str) -> None:
    """It has the map of the activation that it is."""
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    maps = [
        graphprop.compile(Gated(product).double().eval(), x, method)(x)[1]
        for product in SELF_GATED[name]
    ]
    torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["epsilon_plus", "rap", "deep_taylor"])
def test_nothing_to_hand_the_relevance_of_a_reciprocal_to(method: str) -> None:
    model = Gated(lambda m, f, g: 1.0 / (2.0 + torch.tanh(f))).eval()
    with pytest.raises(UnsupportedOperator, match=r"quotient at 'reciprocal|'(mul|div).*numerator"):
        graphprop.compile(model, torch.zeros(2, 3, 6, 6), method)


def test_reciprocal_has_a_gradient() -> None:
    model = Gated(lambda m, f, g: 1.0 / (2.0 + torch.tanh(f))).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    _, found = graphprop.compile(model, x.detach(), "gradient")(x.detach(), 1)
    (expected,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    torch.testing.assert_close(found, expected)
