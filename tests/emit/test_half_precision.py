"""Generated modules in float16 and bfloat16: they compute, or say that they can't."""

from functools import lru_cache

import pytest
import torch
from torch import nn

import graphprop
from graphprop.artifact.running import run_file

HALVES = (torch.float16, torch.bfloat16)
METHODS = ("epsilon_plus_flat", "epsilon_gamma_box", "rap", "rap-bn", "hedge", "smoothgrad")


@lru_cache
def compiled(method: str) -> graphprop.CompiledExplainer:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1))
    model = nn.Sequential(*layers, nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(5, 3))
    return graphprop.compile(model.eval(), torch.zeros(1, 2, 8, 8), method)


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    found = {}
    for method in METHODS:
        compiled(method).save(folder / method, onnx=False, check=False)
        found[method] = run_file(folder / method / "explainer.py").load
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", HALVES)
def test_maps_in_half_precision_are_near_those_in_double(loaders, method, dtype):
    torch.manual_seed(1)
    x = torch.rand(3, 2, 8, 8).to(dtype)
    exact = loaders[method](dtype=torch.float64)(x.double())[1]
    logits, relevance = loaders[method](dtype=dtype)(x)
    assert logits.dtype == relevance.dtype == dtype
    off = (relevance.double() - exact).norm() / exact.norm()
    assert off < 64 * torch.finfo(dtype).eps  # 3 digits, and 2


@pytest.mark.parametrize("method", METHODS)
def test_overflow_in_half_precision_is_refused(loaders, method):
    x = torch.rand(2, 2, 8, 8)
    x[1] *= 1e5  # float16 ends at 65504
    assert loaders[method](dtype=torch.bfloat16)(x.bfloat16())[1].isfinite().all()
    explainer = loaders[method](dtype=torch.float16)
    explainer(x[:1].half())
    with pytest.raises(FloatingPointError, match=r"NaN or infinity: torch.float16 is too narrow"):
        explainer(x.half())
    with pytest.raises(FloatingPointError):
        loaders[method]().half()(x.half())


def test_single_precision_returns_what_it_computes(loaders):
    x = torch.full((1, 2, 8, 8), torch.inf)
    assert not loaders["epsilon_plus_flat"]()(x)[0].isfinite().all()


@pytest.mark.parametrize("dtype", ["float16", torch.int8, 16])
def test_no_type_of_numbers_is_refused(loaders, dtype):
    with pytest.raises(
        TypeError, match=f"dtype must be a floating-point type of torch, not {dtype!r}"
    ):
        loaders["rap"](dtype=dtype)


def test_whole_numbers_among_the_weights_stay_whole(tmp_path):
    class Taking(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.register_buffer("order", torch.tensor([3, 0, 1, 2]))

        def forward(self, x):
            return self.linear(x[:, self.order])

    torch.manual_seed(0)
    explainer = graphprop.compile(Taking().eval(), torch.zeros(1, 4), "lrp_z")
    explainer.save(tmp_path / "out", onnx=False, check=False)
    half = run_file(tmp_path / "out" / "explainer.py").load(dtype=torch.bfloat16)
    x = torch.rand(2, 4).bfloat16()
    assert torch.allclose(half(x)[0].float(), explainer(x.float())[0], atol=0.05)
