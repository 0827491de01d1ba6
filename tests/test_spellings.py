"""One function written in two ways has one map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import UnsupportedOperator

METHODS = ("epsilon_plus_flat", "rap", "hedge", "gradient")
Middle = Callable[[torch.Tensor], torch.Tensor]

torch.manual_seed(0)
MATRIX = torch.randn(4, 4)
ROWS = torch.randn(6, 6)


class Network(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.LazyConv2d(4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.middle = middle
        self.eval()
        with torch.no_grad():
            self(torch.zeros(1, 3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(F.relu(self.first(x)))
        return self.fc(F.relu(self.second(x)).mean((2, 3)))


def explained(middle: Middle, method: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = Network(middle).double()
    logits, relevance = graphprop.compile(model, x, method)(x, target=1)
    torch.testing.assert_close(logits, model(x))
    return logits, relevance


def in_place(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, :3] *= 2
    x[:, 1] = x[:, 3]
    return x


def every_second(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1::2] = x[:, :, ::2]
    return y


def interleaved(x: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack([torch.zeros_like(x[:, :, ::2]), x[:, :, ::2]], 3)
    return pairs.flatten(2, 3)


SPELLINGS: dict[str, tuple[Middle, Middle]] = {
    "sigmoid": (lambda x: 1 / (1 + (-x).exp()), torch.sigmoid),
    "sigmoid by reciprocal": (lambda x: (1 + torch.exp(x * -1)).reciprocal(), torch.sigmoid),
    "sigmoid by a power": (lambda x: (torch.exp(-x) + 1) ** -1, torch.sigmoid),
    "glu": (lambda x: F.glu(x, 1), lambda x: x[:, :2] * torch.sigmoid(x[:, 2:])),
    "addcmul": (lambda x: torch.addcmul(x, x, x.tanh()), lambda x: x + x * x.tanh()),
    "addcdiv": (
        lambda x: torch.addcdiv(x, x, x + 1, value=0.5),
        lambda x: x + x / (x + 1) * 0.5,
    ),
    "lerp": (lambda x: torch.lerp(x, x.tanh(), 0.3), lambda x: 0.7 * x + 0.3 * x.tanh()),
    "einsum": (
        lambda x: torch.einsum("nchw,oc->nohw", x, MATRIX.to(x)),
        lambda x: F.linear(x.permute(0, 2, 3, 1), MATRIX.to(x)).permute(0, 3, 1, 2),
    ),
    "fixed matrix first": (
        lambda x: ROWS.to(x) @ x,
        lambda x: F.linear(x.mT, ROWS.to(x)).mT,
    ),
    "in place": (
        in_place,
        lambda x: torch.cat([x[:, :1] * 2, x[:, 3:], x[:, 2:3] * 2, x[:, 3:]], 1),
    ),
    "in place, with a step": (every_second, interleaved),
    "crop by padding": (
        lambda x: F.pad(x, (-1, 0, 1, -2)),
        lambda x: F.pad(x[..., :-2, 1:], (0, 0, 1, 0)),
    ),
    "nothing but a crop": (lambda x: F.pad(x, (-1, -1)), lambda x: x[..., 1:-1]),
    "stack and mean": (
        lambda x: torch.stack([x, x * 2], 1).mean(1),
        lambda x: torch.cat([x.unsqueeze(2), (x * 2).unsqueeze(2)], 2).mean(2),
    ),
    "stack and amax": (
        lambda x: torch.stack([x, x.tanh() * 2], 1).amax(1),
        lambda x: torch.stack([x, x.tanh() * 2], 2).amax(2),
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_have_one_map(name: str, method: str) -> None:
    (_, found), (_, expected) = (explained(middle, method) for middle in SPELLINGS[name])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("middle", [lambda x: (x + 1) ** -3, lambda x: (x + 1) ** -0.5], ids=str)
def test_a_negative_power_passes_relevance(middle: Middle) -> None:
    """It is a non-linearity like any other, and has a gradient."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = Network(middle).double()
    explainer = graphprop.compile(model, x, record=["pow", "first"])
    explainer(x, target=1)
    at = explainer.relevance_at
    torch.testing.assert_close(at("pow"), at("first"))
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(given)[:, 1].sum(), given)
    found = graphprop.compile(model, x, "gradient")(x, target=1)[1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "rap", "rap-bn", "hedge"])
def test_a_constant_divided_by_the_signal_is_refused(method: str) -> None:
    with pytest.raises(
        UnsupportedOperator, match=r"quotient at 'reciprocal' .* constant numerator"
    ):
        explained(lambda x: 1 / (x + 1), method)


def test_a_constant_divided_by_the_signal_has_a_gradient() -> None:
    explained(lambda x: 1 / (x + 1), "gradient")
