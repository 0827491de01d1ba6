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


def written_by_indices(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[..., [3, 2, 4, 5]] = 1.0
    return x


def unpooled(x: torch.Tensor) -> torch.Tensor:
    return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


def chosen_by_pool(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x == F.interpolate(F.max_pool2d(x, 2), scale_factor=2), x, 0)


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
    "log-sigmoid": (F.logsigmoid, lambda x: -F.softplus(-x)),
    "expm1": (torch.expm1, lambda x: x.exp() - 1),
    "rrelu": (lambda x: F.rrelu(x - 1, 0.1, 0.3), lambda x: F.leaky_relu(x - 1, 0.2)),
    "threshold": (lambda x: F.threshold(x - 0.5, 0.0, 0.0), lambda x: F.relu(x - 0.5)),
    "relu by where": (lambda x: torch.where(x > 0.5, x - 0.5, 0), lambda x: F.relu(x - 0.5)),
    "relu by a fill": (
        lambda x: (x - 0.5).masked_fill(x < 0.5, 0.0),
        lambda x: F.relu(x - 0.5),
    ),
    "leaky relu by where": (
        lambda x: torch.where(x > 0.5, x - 0.5, (x - 0.5) * 0.1),
        lambda x: F.leaky_relu(x - 0.5, 0.1),
    ),
    "leaky relu by a maximum": (
        lambda x: torch.maximum(x - 0.5, (x - 0.5) * 0.1),
        lambda x: F.leaky_relu(x - 0.5, 0.1),
    ),
    "clamp by a constant": (lambda x: x.clamp(min=torch.tensor(0.25)), lambda x: x.clamp(0.25)),
    "maximum": (
        lambda x: torch.maximum(x, x.flip(1)),
        lambda x: torch.stack([x, x.flip(1)], 2).amax(2),
    ),
    "fixed mask": (
        lambda x: torch.where(torch.arange(6) < 2, x, -x),
        lambda x: torch.cat([x[..., :2], -x[..., 2:]], 3),
    ),
    "fixed mask and a constant": (
        lambda x: torch.where(torch.arange(6) < 2, x, 0),
        lambda x: torch.cat([x[..., :2], torch.zeros_like(x[..., 2:])], 3),
    ),
    "written by indices": (
        written_by_indices,
        lambda x: torch.cat([x[..., :2], torch.ones_like(x[..., 2:])], 3),
    ),
    "mask of logic": (
        lambda x: torch.where((x > 0.2) & ~(x > 1), x, x * 2),
        lambda x: torch.where(x > 0.2, torch.where(x > 1, x * 2, x), x * 2),
    ),
    "unfold": (
        lambda x: F.unfold(x, 2, stride=2).unflatten(2, (3, 3)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "fold": (
        lambda x: F.fold(x.repeat(1, 4, 1, 1).flatten(2), (12, 12), 2, stride=2),
        lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    ),
    "index": (lambda x: x[:, [2, 3, 0]], lambda x: torch.cat([x[:, 2:], x[:, :1]], 1)),
    "unpool": (
        lambda x: unpooled(x + ROWS.to(x)),
        lambda x: chosen_by_pool(x + ROWS.to(x)),
    ),
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


@pytest.mark.parametrize(
    "middle", [lambda x: (x + 1) ** -3, lambda x: (x + 1) ** -0.5], ids=["cube", "root"]
)
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


# Choices


def test_a_mask_is_a_gate_of_nothing() -> None:
    """It carries no relevance, whatever it is computed from; what it chooses gets all."""

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.mask = (nn.Conv2d(3, 4, 3) for _ in range(3))
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            chosen = torch.where(self.mask(x) > 0, self.first(x), self.second(x))
            return self.fc((chosen * (self.mask(x) > -1)).mean((2, 3)))

    model, x = Chosen().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    explainer = graphprop.compile(model, x, "epsilon_plus", record=["first", "second", "mul"])
    assert {layer.label: layer.role for layer in explainer.layers}["mask"] == "gate"
    explainer(x, target=0)
    whole = explainer.relevance_at("mul")
    mask = model.mask(x) > 0
    torch.testing.assert_close(explainer.relevance_at("first"), whole * mask)
    torch.testing.assert_close(explainer.relevance_at("second"), whole * ~mask)
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(given)[:, 1].sum(), given)
    found = graphprop.compile(model, x, "gradient")(x, target=1)[1]
    torch.testing.assert_close(found, expected)


def test_a_mask_alone_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match=r"'to\w*|only steps"):
        explained(lambda x: (x > 0).to(x.dtype), "rap")


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: torch.maximum(x, 1 - x),
        lambda x: torch.minimum(x, x.tanh() * 2) + torch.maximum(x.flip(1), x * x),
        lambda x: torch.where(x > 0.3, x * x, 0.1),
        lambda x: F.hardshrink(x - 0.2),
    ],
)
def test_deeplift_of_choices_is_complete(middle: Middle) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = Network(middle).double()
    _, relevance = graphprop.compile(model, x, "deeplift")(x, target=1)
    difference = model(x) - model(torch.zeros_like(x))
    torch.testing.assert_close(relevance.sum((1, 2, 3)), difference[:, 1])
