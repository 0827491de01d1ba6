"""How models are called, what they return, and what is a constant of theirs."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import CaptureError, UnsupportedOperator
from graphprop.frontend.capture import capture
from graphprop.frontend.inputs import two_samples
from graphprop.ir.network import Network
from graphprop.passes.canonicalize import canonicalize


class Classifier(nn.Module):
    """A convolution and a dense layer, with something before and something after them."""

    def __init__(
        self,
        before: Callable[[Any], Any] = lambda x: x,
        after: Callable[[Any], Any] = lambda x: x,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.before, self.after = before, after
        self.eval()

    def forward(self, x: Any) -> Any:
        return self.after(self.fc(F.relu(self.conv(self.before(x))).mean((2, 3))))


def explained(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> tuple[torch.Tensor, Any]:
    """Logits and relevance by epsilon."""
    explainer = graphprop.compile(model, options.pop("example", inputs), "lrp_epsilon", **options)
    logits, relevance = explainer(*inputs, target=1)
    return logits, relevance


def twin(model: Classifier, **options: Any) -> Classifier:
    """The same weights with other ends."""
    other = Classifier(**options)
    other.load_state_dict(model.state_dict())
    return other


# Arguments


class Pair(Classifier):
    """Two inputs, by name."""

    def forward(self, first: Any, second: Any) -> Any:  # type: ignore[override]
        return super().forward(first * 2 + second)


class Batch(Classifier):
    """One input that is a dict."""

    def forward(self, batch: Any) -> Any:  # type: ignore[override]
        return super().forward(batch["first"] * 2 + batch["second"])


@pytest.mark.parametrize("kind", [Pair, Batch])
def test_inputs_by_name(kind: type[Classifier]) -> None:
    """An example that is a dict names the arguments of forward, or is its only argument."""
    model, x = kind(), torch.randn(2, 2, 3, 8, 8)
    expected_model = Pair()
    expected_model.load_state_dict(model.state_dict())
    expected = explained(expected_model, x[0], x[1])
    found = explained(model, x[0], x[1], example={"first": x[0], "second": x[1]})
    torch.testing.assert_close(found, expected)


def test_named_inputs_come_in_the_order_of_forward() -> None:
    model, x = Pair(), torch.randn(2, 2, 3, 8, 8)
    explainer = graphprop.compile(model, {"second": x[1], "first": x[0]})
    torch.testing.assert_close(explainer(x[0], x[1])[0], model(x[0], x[1]))


def test_whole_numbers_as_input() -> None:
    """The explainer takes the values of a picture's bytes as floating-point numbers."""
    model = Classifier(before=lambda x: x.float() / 255)
    x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    explainer = graphprop.compile(model, x, "lrp_epsilon")
    assert any("whole numbers (uint8)" in note for note in explainer.notes)
    logits, relevance = explainer(x.float(), target=1)
    torch.testing.assert_close(logits, model(x))
    expected = explained(twin(model, before=lambda x: x / 255), x.float())[1]
    torch.testing.assert_close(relevance, expected)


def test_arithmetic_on_whole_numbers_is_not_taken_for_arithmetic_on_fractions() -> None:
    model = Classifier(before=lambda x: (x * 2).float())  # beyond 255 it begins at 0 again
    with pytest.raises(CaptureError, match="result differs from the model's"):
        graphprop.compile(model, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_input_changed_in_place() -> None:
    model = Classifier(before=lambda x: x.mul_(2).add_(1))
    plain = twin(model, before=lambda x: x * 2 + 1)
    x = torch.randn(2, 3, 8, 8)
    given = x.clone()
    found = explained(model, x)
    assert torch.equal(x, given)
    torch.testing.assert_close(found, explained(plain, x))


# Results


def test_only_the_result_that_is_asked_for_must_be_supported() -> None:
    model = Classifier(after=lambda y: {"logits": y, "sums": torch.cumsum(y, 1)})
    x = torch.randn(2, 3, 8, 8)
    found = explained(model, x, output="logits")
    torch.testing.assert_close(found, explained(twin(model), x))
    with pytest.raises(UnsupportedOperator, match="cumsum"):
        explained(model, x, output="sums")
    both = re.escape("'logits' of shape (N, 5), 'sums' of shape (N, 5)")
    with pytest.raises(CaptureError, match=both):
        explained(model, x)


LOGITS: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("the softmax", lambda y: F.softmax(y, 1), lambda y: y),
    ("the log-softmax", lambda y: F.log_softmax(y, 1), lambda y: y),
    ("the sigmoid", torch.sigmoid, lambda y: y),
    ("the softmax", lambda y: torch.log(F.softmax(y, 1)), lambda y: y),
    ("the softmax", lambda y: torch.log(F.softmax(y, -1) + 1e-8), lambda y: y),
    ("the softmax", lambda y: F.softmax(y, 1).clamp(1e-6, 1) * 100, lambda y: y),
    ("the softmax", lambda y: F.softmax(y, 1)[:, :3], lambda y: y[:, :3]),
    (
        "the log-softmax",
        lambda y: F.log_softmax(y, 1).flip(1)[:, 1:4:2],
        lambda y: y.flip(1)[:, 1:4:2],
    ),
    ("the sigmoid", lambda y: torch.sigmoid(y)[:, 2:], lambda y: y[:, 2:]),
    ("the softmax", lambda y: torch.log(F.softmax(y, 1)[:, :2]), lambda y: y[:, :2]),
]


@pytest.mark.parametrize(("kind", "end", "without"), LOGITS)
def test_what_looks_like_logits_is_removed(
    kind: str, end: Callable[[Any], Any], without: Callable[[Any], Any]
) -> None:
    """Probabilities at the end, and their logarithms, are removed with a note; classes chosen."""
    model, x = Classifier(after=end), torch.randn(2, 3, 8, 8)
    explainer = graphprop.compile(model, x, "gradient")
    assert any(note.startswith(f"{kind} at the end") for note in explainer.notes)
    logits, relevance = explainer(x, target=1)
    plain = twin(model, after=lambda y: without(y) + 0)
    torch.testing.assert_close(logits, plain(x))
    torch.testing.assert_close(relevance, graphprop.compile(plain, x, "gradient")(x, target=1)[1])


@pytest.mark.parametrize(
    "end",
    [lambda y: -F.softmax(y, 1), lambda y: 1 - torch.sigmoid(y), lambda y: F.softmax(y, 1) ** 2],
)
def test_what_does_not_keep_the_order_of_classes_stays(end: Callable[[Any], Any]) -> None:
    model, x = Classifier(after=end), torch.randn(2, 3, 8, 8)
    explainer = graphprop.compile(model, x)
    assert not any("removed" in note for note in explainer.notes)
    torch.testing.assert_close(explainer(x)[0], model(x))


# Constants


def network_of(function: Callable[[Any], Any], *shape: int) -> Network:
    return canonicalize(capture(Classifier(before=function), torch.randn(2, *shape)))


@pytest.mark.parametrize(
    "constant",
    [
        lambda x: torch.ones(x.shape[0], *x.shape[1:]) * 2,
        lambda x: torch.zeros_like(x).add_(1) / 3,
        lambda x: x.new_full(x.shape, 3.0).softmax(1),
        lambda x: torch.arange(x.shape[3]).expand(x.shape[0], 3, x.shape[2], -1) + 0.5,
    ],
)
def test_a_constant_as_large_as_the_batch_is_held_once(constant: Callable[[Any], Any]) -> None:
    """It takes the memory of one sample, while it is computed, too."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network = network_of(lambda x: x + constant(x), 3, 128, 128)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(tensor.numel() <= 3 * 128 * 128 for tensor in network.tensors.values())
    assert peak - before < 500_000  # KiB; 7919 rows are 1.5 GiB


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (lambda x: torch.ones(x.shape[0], 3, 1, 1).cumsum(0), "differs from sample to sample"),
        (lambda x: torch.ones(x.shape[0], 3, 1, 1).softmax(0), "differs from sample to sample"),
        (lambda x: torch.ones(x.shape[0], 3, 1, 1).sum(0), "depends on the number of samples"),
    ],
)
def test_a_constant_that_mixes_samples_is_refused(
    constant: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(UnsupportedOperator, match=message):
        network_of(lambda x: x + constant(x), 3, 8, 8)


def test_a_file_may_name_its_inputs() -> None:
    found = two_samples({"first": torch.randn(1, 3, 8, 8), "second": torch.randn(3, 3, 8, 8)})
    assert {name: len(part) for name, part in found.items()} == {"first": 2, "second": 2}


# Attention


def test_attention_is_refused_as_what_it_is() -> None:
    """Not as the rearrangement of heads that fails before the product does."""

    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.fc = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.fc(y.mean(1))

    refusal = r"layer 'scaled_dot_product_attention', line .*: attention is not supported yet"
    with pytest.raises(UnsupportedOperator, match=refusal):
        graphprop.compile(Attended().eval(), torch.randn(2, 5, 8))
