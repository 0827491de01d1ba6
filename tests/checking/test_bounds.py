"""Bounds of rounding hold for every operation, and are no wider than rounding needs."""

import pytest
import torch
import torch.nn.functional as F

from graphprop.checking.bounds import DRIFT, UNIT, RunningBounds, judge

OPERATIONS = {
    "conv": lambda x, w: F.conv2d(x, w, padding=1),
    "conv with bias": lambda x, w: F.conv2d(x, w, w[:, 0, 0, 0], stride=2),
    "grouped conv": lambda x, w: F.conv2d(x, w[:, :2], groups=2),
    "transposed conv": lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), stride=2),
    "linear": lambda x, w: F.linear(x.flatten(1), w.flatten(1)[:, :8].repeat(1, 32)),
    "linear with bias": lambda x, w: F.linear(x, w[:8, :, 0, 0].repeat(1, 2), w[:8, 0, 0, 0]),
    "matmul": lambda x, w: x @ x.transpose(2, 3),
    "einsum": lambda x, w: torch.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]),
    "sum": lambda x, w: x.sum((1, 2, 3), keepdim=True),
    "mean": lambda x, w: x.mean((2, 3)),
    "average pool": lambda x, w: F.avg_pool2d(x, 3, 2, 1),
    "adaptive pool": lambda x, w: F.adaptive_avg_pool2d(x, 3),
    "max pool": lambda x, w: F.max_pool2d(x, 2),
    "bilinear": lambda x, w: F.interpolate(x, size=(11, 5), mode="bilinear"),
    "bicubic": lambda x, w: F.interpolate(x, size=(11, 5), mode="bicubic"),
    "add": lambda x, w: x + x.flip(1) * 0.3,
    "subtract": lambda x, w: x - 0.999 * x,
    "multiply": lambda x, w: x * x.flip(2),
    "divide": lambda x, w: x / (x.abs() + 0.01),
    "guarded divide": lambda x, w: x / torch.where(x >= 0, x + 1e-6, x - 1e-6),
    "reciprocal": lambda x, w: x.relu().reciprocal().nan_to_num_(0.0, posinf=0.0, neginf=0.0),
    "addcmul": lambda x, w: torch.addcmul(x, x, x.flip(1), value=0.5),
    "batch norm": lambda x, w: F.batch_norm(x, w[:4, 0, 0, 0], w[:4, 0, 1, 1].abs() + 0.1),
    "group norm": lambda x, w: F.group_norm(x, 2),
    "layer norm": lambda x, w: F.layer_norm(x, (8,)),
    "softmax": lambda x, w: x.softmax(1),
    "exp": lambda x, w: x.exp(),
    "log": lambda x, w: (x.abs() + 1).log(),
    "sigmoid": lambda x, w: x.sigmoid(),
    "tanh": lambda x, w: x.tanh(),
    "gelu": lambda x, w: F.gelu(x),
    "silu": lambda x, w: F.silu(x),
    "softplus": lambda x, w: F.softplus(x),
    "hardswish": lambda x, w: F.hardswish(x),
    "elu": lambda x, w: F.elu(x, 0.5),
    "clamp": lambda x, w: (x * 1.1).clamp(min=0.0, max=1.0),
    "amax": lambda x, w: (x * 1.1).amax((2, 3)),
    "pad": lambda x, w: F.pad(x * 1.1, (1, 2, 0, 1)),
    "cat": lambda x, w: torch.cat([x * 1.1, x], 1).permute(0, 2, 3, 1).reshape(2, -1),
    "scatter": lambda x, w: (
        torch.zeros_like(x).flatten(1).scatter_add_(1, (x.flatten(1) * 0).long(), x.flatten(1))
    ),
    "unfold": lambda x, w: F.fold(F.unfold(x * 1.1, 3), (8, 8), 3),
    "sqrt": lambda x, w: (x * x).sum(1).sqrt(),
    "power": lambda x, w: (x.abs() + 0.1) ** -1.5,
    "written out": lambda x, w: x * (torch.tanh(F.softplus(x)) + 0.1).rsqrt(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_within_the_bounds(name):
    """The law, on numbers of several sizes; and the bounds don't hide an error of 1e-4."""
    operation = OPERATIONS[name]
    for size in (1e-3, 1.0, 30.0):
        x, w = torch.randn(2, 4, 8, 8) * size, torch.randn(6, 4, 3, 3)
        own = operation(x, w)
        with RunningBounds() as bounds:
            exact = operation(x.double(), w.double())
            verdict = judge(own, exact, bounds.of(exact))
            wrong = judge(own + 2e-4 * own.abs().max(), exact, bounds.of(exact))
        assert verdict.rounding, (size, verdict)
        if name not in ("subtract", "guarded divide"):
            assert not wrong.rounding, (size, wrong)


def test_a_canceling_sum_is_no_false_alarm():
    """Of 2,000 terms whose sum is a ten-thousandth of them, rounding is 1e-5 of the result."""
    terms = torch.randn(1, 2000, dtype=torch.float64)
    terms[:, -1] -= terms.sum() - 0.01
    x, w = terms.float(), torch.ones(1, 2000)
    worst = 0.0
    for _ in range(20):
        order = torch.randperm(2000)
        own = F.linear(x[:, order], w)
        with RunningBounds() as bounds:
            exact = F.linear(x[:, order].double(), w.double())
            verdict = judge(own, exact, bounds.of(exact))
        assert verdict.rounding
        worst = max(worst, float((own - exact).abs() / exact.abs()))
    assert worst > 1e-5


def test_a_constant_factor_is_seen_where_no_entry_is_far_off():
    x, w = torch.randn(1, 16, 24, 24), torch.randn(16, 16, 3, 3)
    own = F.conv2d(x, w)
    with RunningBounds() as bounds:
        exact = F.conv2d(x.double(), w.double())
        right, wrong = (judge(own * f, exact, bounds.of(exact)) for f in (1.0, 1 + 2e-6))
    assert right.rounding
    assert right.drift < DRIFT / 5
    assert wrong.error <= wrong.allowed
    assert wrong.drift > wrong.drift_allowed == DRIFT
    assert not wrong.rounding
    assert wrong.worse == (wrong.drift, DRIFT)


def test_what_is_exact_may_not_be_off():
    x = torch.randn(1, 3, 5)
    with RunningBounds() as bounds:
        exact = x.double().transpose(1, 2).flip(1)
        assert bounds.of(exact) is None
    assert judge(exact.float(), exact, None).rounding
    assert not judge(exact.float() * (1 + 4 * UNIT), exact, None).rounding


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_rounding(value):
    exact = torch.ones(1, 4, dtype=torch.float64)
    own = torch.ones(1, 4)
    own[0, 2] = value
    assert not judge(own, exact, None).rounding
    assert judge(torch.full((1, 2), torch.inf), torch.full((1, 2), torch.inf), None).rounding


def test_where_rounding_decides_both_sides_are_right():
    """A condition on what was only just computed may go either way."""
    x = torch.tensor([[1.0, -1.0, 2.0]])
    with RunningBounds() as bounds:
        z = x.double() * 0.1 - torch.tensor([[0.1, 0.1, 0.1]], dtype=torch.float64)
        exact = torch.where(z >= 0, z + 1e-3, z - 1e-3)
        verdict = judge(torch.tensor([[-1e-3, -0.201, 0.101]]), exact, bounds.of(exact))
        wrong = judge(torch.tensor([[1e-3, -0.199, 0.101]]), exact, bounds.of(exact))
    assert verdict.rounding
    assert not wrong.rounding
