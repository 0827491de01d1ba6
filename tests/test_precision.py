"""Data types and memory formats: casts are identities, and every tensor takes the input's type."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprop.frontend.capture import capture
from graphprop.ir.facts import facts_of
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.ir.verify import verify
from graphprop.passes.canonicalize import canonicalize

SHAPE = (3, 8, 8)


def network() -> nn.Sequential:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 36, 5)).eval()


class Autocast(nn.Module):
    """Casts by torch: what is cast are weights and values."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: torch.Tensor = self.network(x).float()
        return result


class Mixed(nn.Module):
    """Casts by hand, between layers in half precision and layers in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).half()
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(4 * 36, 5).double()
        self.scale = nn.Parameter(torch.rand(4, 1, 1).bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x.half()).float()) * self.scale.float()
        result: torch.Tensor = self.linear(x.flatten(1).to(self.linear.weight.dtype)).float()
        return result


def canonical(model: nn.Module, x: torch.Tensor) -> Network:
    found = canonicalize(capture(model.eval(), x))
    verify(found)
    return found


def types(found: Network) -> set[torch.dtype]:
    values = [*found.tensors.values(), *(facts_of(node).value for node in found.layers)]
    return {value.dtype for value in values if value.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_one_type_keeps_it(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), torch.randn(2, *SHAPE, dtype=dtype)
    found = canonical(model, x)
    assert types(found) == {dtype}
    logits, _ = interpret(found, {"x": x})
    torch.testing.assert_close(logits, model.double()(x.double()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("model", [Autocast(), Mixed()], ids=["autocast", "by hand"])
def test_casts_are_identities(model: nn.Module) -> None:
    x = torch.randn(2, *SHAPE)
    found = canonical(model, x)
    assert types(found) == {torch.float32}
    logits, _ = interpret(found, {"x": x}, dtype=torch.float32)
    torch.testing.assert_close(logits, model(x), rtol=0.02, atol=0.02)


def test_memory_formats_are_nothing_to_the_graph() -> None:
    model, x = network(), torch.randn(2, *SHAPE)
    plain = canonical(model, x)
    model.to(memory_format=torch.channels_last)
    found = canonical(model, x.to(memory_format=torch.channels_last))
    assert [str(node.target) for node in found.layers] == [str(n.target) for n in plain.layers]
    assert all(tensor.is_contiguous() for tensor in found.tensors.values())
    torch.testing.assert_close(*(interpret(n, {"x": x})[0] for n in (plain, found)))
