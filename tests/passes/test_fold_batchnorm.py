"""Batch norm: merged where its algebra holds, left where it does not, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import MethodError
from support.modules import Model


def prepared(model: nn.Module) -> nn.Module:
    """Statistics as training leaves them, scales of both signs."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if layer.affine:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return model.double().eval()


def decisions(model: nn.Module, *shape: int, **options: Any) -> dict[str, str]:
    """What was done with each batch norm; the logits must be the model's."""
    model, x = prepared(model), torch.randn(3, *shape, dtype=torch.float64)
    explainer = graphprop.compile(model, x, "lrp_z", **options)
    with torch.no_grad():
        torch.testing.assert_close(explainer(x)[0], model(x), rtol=1e-10, atol=1e-10)
    made = explainer.network.decisions
    left = sum(info.operator == "batch_norm" for info in explainer.layers)
    assert left == sum(not text.startswith("merged into") for text in made.values())
    return made


def headed(*layers: nn.Module) -> nn.Sequential:
    """Layers, then the mean over space."""
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


# Into the layer before it


BEFORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 6, 6)),
    "conv without bias": (
        lambda: headed(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
        (3, 6, 6),
    ),
    "padded conv": (lambda: headed(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), (3, 6, 6)),
    "grouped conv": (
        lambda: headed(nn.Conv2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)),
        (4, 6, 6),
    ),
    "transposed conv": (
        lambda: headed(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)),
        (3, 4, 4),
    ),
    "grouped transposed conv": (
        lambda: headed(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)),
        (4, 4, 4),
    ),
    "square grouped transposed conv": (
        lambda: headed(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)),
        (4, 4, 4),
    ),
    "conv 1-d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten()),
        (2, 6),
    ),
    "conv 3-d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten()),
        (1, 3, 3, 3),
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "no affine": (
        lambda: headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
        (3, 6, 6),
    ),
    "eps of its own": (lambda: headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.5)), (3, 6, 6)),
}


@pytest.mark.parametrize("name", BEFORE)
def test_merged_into_the_layer_before(name: str) -> None:
    make, shape = BEFORE[name]
    assert decisions(make(), *shape) == {"1": "merged into 0"}


@pytest.mark.parametrize("features", [5, 6])
def test_merged_into_a_matrix_product(features: int) -> None:
    """A weight that lies the other way, square or not."""
    model = Model(
        lambda m, x: m.norm(m.middle(x) @ m.last.weight),
        **{
            "middle": nn.ReLU(),
            "last": nn.Linear(features, 6, bias=False),
            "norm": nn.BatchNorm1d(features),
        },
    )
    assert decisions(model, 6) == {"norm": "merged into matmul"}


def test_two_in_a_row_are_merged_both() -> None:
    model = headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    assert decisions(model, 3, 6, 6) == {"1": "merged into 0", "2": "merged into 0"}


def test_neighbors_are_found_by_data_flow() -> None:
    """Registered in another order, under names that say nothing."""
    model = Model(
        lambda m, x: m.a(F.relu(m.d(m.b(x)))).mean((2, 3)) + m.c(m.e(x)).mean((2, 3)),
        a=nn.BatchNorm2d(4),
        b=nn.Conv2d(3, 4, 3),
        c=nn.BatchNorm2d(4),
        d=nn.BatchNorm2d(4),
        e=nn.Conv2d(3, 4, 3),
    )
    found = decisions(model, 3, 6, 6)
    assert found["d"] == "merged into b"
    assert found["c"] == "merged into e"
    assert found["a"].startswith("passed: what comes before it (relu) is no weighted layer")


def test_each_use_of_a_shared_layer_gets_its_own_weights() -> None:
    model = Model(
        lambda m, x: m.fc(F.relu(m.second(m.conv(F.relu(m.first(m.conv(x)))))).mean((2, 3))),
        conv=nn.Conv2d(3, 3, 3),
        first=nn.BatchNorm2d(3),
        second=nn.BatchNorm2d(3),
        fc=nn.Linear(3, 2),
    )
    assert decisions(model, 3, 6, 6) == {
        "first": "merged into conv",
        "second": "merged into conv#2",
    }


# Into the layer behind it


def test_merged_forward_into_a_convolution_without_padding() -> None:
    model = headed(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    assert decisions(model, 3, 6, 6) == {"0": "merged into 1, which follows it"}
    model = headed(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False))
    assert decisions(model, 3, 6, 6) == {"2": "merged into 3, which follows it"}


def test_merged_forward_into_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    assert decisions(model, 3, 4, 4) == {"2": "merged into 3, which follows it"}


def test_backward_comes_before_forward() -> None:
    model = headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    assert decisions(model, 3, 6, 6) == {"1": "merged into 0"}


# Not at all


def fork(function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> nn.Module:
    return Model(function, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), next=nn.Conv2d(4, 4, 1))


NOT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "padding": (
        lambda: headed(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        (3, 6, 6),
        "0",
        "passed: what comes before it (x) is no weighted layer, and 1, which follows it, has "
        "padding",
    ),
    "pre-activation": (
        lambda: headed(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()),
        (3, 6, 6),
        "2",
        "passed: what comes before it (1) is no weighted layer, and what follows it is no linear "
        "layer",
    ),
    "groups behind": (
        lambda: headed(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=2)),
        (4, 6, 6),
        "0",
        "passed: what comes before it (x) is no weighted layer, and 1, which follows it, has "
        "groups",
    ),
    "second consumer before": (
        lambda: fork(lambda m, x: (lambda y: (F.relu(m.norm(y)) + y).mean((2, 3)))(m.conv(x))),
        (3, 6, 6),
        "norm",
        "passed: conv has another consumer, and what follows it is no linear layer",
    ),
    "second consumer behind": (
        lambda: fork(
            lambda m, x: (lambda y: (m.next(y) + y).mean((2, 3)))(m.norm(F.relu(m.conv(x))))
        ),
        (3, 6, 6),
        "norm",
        "passed: what comes before it (relu) is no weighted layer, and it has several consumers",
    ),
    "other axis": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3), nn.Flatten()),
        (3, 5),
        "1",
        "passed: 0 has its channels on another axis, and what follows it is no linear layer",
    ),
    "other axis behind": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(5, 4), nn.Flatten()),
        (3, 5),
        "0",
        "passed: what comes before it (x) is no weighted layer, and 1 has its channels on another "
        "axis",
    ),
    "last of all": (
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6)),
        (6,),
        "1",
        "passed: what comes before it (x) is no weighted layer, and what follows it is no linear "
        "layer",
    ),
}


@pytest.mark.parametrize("name", NOT)
def test_left_where_merging_would_change_the_logits(name: str) -> None:
    make, shape, label, reason = NOT[name]
    assert decisions(make(), *shape)[label] == reason


def test_relevance_passes_what_is_not_merged() -> None:
    """As if the batch norm were not there, relevance comes through it unchanged."""
    model = prepared(headed(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    _, found = graphprop.compile(model, x, "lrp_alpha2_beta1")(x, 1)
    with torch.no_grad():
        inside = model[0](x)
    _, expected = graphprop.compile(model[1:].eval(), inside, "lrp_alpha2_beta1")(inside, 1)
    torch.testing.assert_close(found, expected)


# The other strategies


@pytest.mark.parametrize(
    ("strategy", "text", "rule"),
    [
        ("pass", "passed: relevance goes through it unchanged", "pass"),
        ("affine", "affine: the epsilon rule of its affine map", "affine(epsilon=1e-06)"),
    ],
)
def test_strategy_that_leaves_all(strategy: str, text: str, rule: str) -> None:
    model = headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert decisions(model, 3, 6, 6, batch_norm=strategy) == {"1": text}
    explainer = graphprop.compile(
        model, torch.randn(2, 3, 6, 6).double(), "lrp_epsilon", batch_norm=strategy
    )
    assert {info.label: info.rule for info in explainer.layers}["1"] == rule


def test_affine_is_the_epsilon_rule_of_the_affine_map() -> None:
    model = prepared(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()))
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    r = torch.randn(3, 12, dtype=torch.float64)
    explainer = graphprop.compile(
        model, x, "lrp_epsilon", batch_norm="affine", epsilon=0.01, start="one"
    )
    found = explainer(x, r)[1]
    norm = model[0]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().reshape(1, 3, 1, 1)
    y = model[0](x).detach()
    stabilized = torch.where(y >= 0, y + 0.01, y - 0.01)
    torch.testing.assert_close(found, x * scale * r.reshape(x.shape) / stabilized)


def test_merged_and_passed_agree_where_the_scale_is_positive() -> None:
    """With zero shift, and by rules that a channel's scale does not touch."""
    model = prepared(headed(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.zeros_(model[1].bias)
    model[1].running_mean.zero_()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    for method in ("lrp_alpha2_beta1", "lrp_z"):
        maps = [
            graphprop.compile(model, x, method, batch_norm=strategy)(x, 2)[1]
            for strategy in ("merge", "pass")
        ]
        torch.testing.assert_close(*maps)


def test_merging_leaves_the_models_own_weights_alone() -> None:
    model = prepared(headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    graphprop.compile(model, torch.randn(2, 3, 6, 6).double())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_merged_explanation_is_that_of_the_merged_network() -> None:
    """Weights and biases scaled by hand, in a network that has no batch norm."""
    model = prepared(headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    conv, norm = model[0], model[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    merged = headed(nn.Conv2d(3, 4, 3)).double().eval()
    with torch.no_grad():
        merged[0].weight.copy_(conv.weight * scale.reshape(-1, 1, 1, 1))
        merged[0].bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    for method in ("epsilon_plus", "epsilon_gamma_box", "lrp_z"):
        found = graphprop.compile(model, x, method)(x, 1)
        expected = graphprop.compile(merged, x, method)(x, 1)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_unknown_strategy_is_refused() -> None:
    with pytest.raises(MethodError, match="no batch-norm strategy 'merged': did you mean 'merge'"):
        graphprop.compile(
            headed(nn.Conv2d(3, 4, 3)).eval(), torch.randn(2, 3, 6, 6), batch_norm="merged"
        )
