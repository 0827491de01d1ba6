"""How networks are prepared, compiled by several methods, and compared."""

from __future__ import annotations

from unittest import mock

import torch
from torch import nn

import graphprop
from graphprop.frontend.capture import capture

METHODS_COMPARED = ("epsilon_plus", "lrp_alpha2_beta1", "epsilon_gamma_box", "lrp_epsilon")


def prepared(model: nn.Module) -> nn.Module:
    """Float64, evaluation mode, and batch norms with statistics as training leaves them."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def without_bias(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


def image(*shape: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, *(shape or (3, 8, 8)), dtype=torch.float64)


def compile_each(
    model: nn.Module, x: torch.Tensor, methods: tuple[str, ...]
) -> list[graphprop.CompiledExplainer]:
    """Compile a model for several methods, capturing it once."""
    with mock.patch("graphprop.api.capture", return_value=capture(model, x)):
        return [graphprop.compile(model, x, method) for method in methods]


def assert_same_map(
    model: nn.Module, twin: nn.Module, x: torch.Tensor, methods: tuple[str, ...] = METHODS_COMPARED
) -> None:
    """Two ways of writing a network have the same logits and relevance."""
    target = torch.arange(len(x)) % 2
    explainers, twins = (compile_each(each, x, methods) for each in (model, twin))
    for explainer, other in zip(explainers, twins, strict=True):
        logits, relevance = explainer(x, target)
        expected_logits, expected = other(x, target)
        torch.testing.assert_close(logits, model(x).detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(logits, expected_logits, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-12)
        assert float(relevance.abs().sum()) > 0
