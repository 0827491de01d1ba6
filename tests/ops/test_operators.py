"""The laws that every operator keeps, on the examples of `tests/support/cases.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import fx

from graphprop.emit.onnx import save, to_onnx
from graphprop.errors import UnsupportedOperator
from graphprop.frontend.capture import capture
from graphprop.ir.facts import BATCH
from graphprop.ir.layout import CHANNEL, PLACE, Factor
from graphprop.ir.network import Network
from graphprop.ir.verify import verify
from graphprop.ir.writer import Writer
from graphprop.ops import (
    ATEN,
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    AvgPool,
    Cat,
    Clamp,
    Collect,
    Conv,
    ConvTranspose,
    Elu,
    Expand,
    Interval,
    Item,
    Layout,
    Linear,
    LinearTranspose,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Permute,
    Relu,
    ResampleTranspose,
    Resampling,
    Reshape,
    Route,
    Simple,
    Slice,
    Start,
    Sum,
    Trait,
    Unpool,
    Upsample,
    helpers,
)
from graphprop.ops.onnx_writer import OnnxWriter
from graphprop.passes.canonicalize import canonicalize
from support.cases import (
    CAPTURED,
    CASES,
    DECOMPOSED,
    REFUSED,
    Captured,
    Case,
    N,
    Together,
)
from support.modules import Function


def parametrize(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


def subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def overrides(operator: Operator, method: str) -> bool:
    return getattr(type(operator), method) is not getattr(Operator, method)


def per_sample(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The inner product of each sample."""
    return (x * y).flatten(1).sum(1)


def assert_equal(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(
        found, expected.to(found.dtype), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def test_every_operator_has_a_case() -> None:
    concrete = {
        kind
        for kind in subclasses(Operator)
        if kind.run is not Operator.run and kind.__module__.startswith("graphprop.")
    }
    missing = concrete - {type(case.operator) for case in CASES}
    # what operators inherit from is tested by them
    missing = {kind for kind in missing if not kind.__subclasses__()}
    assert not missing, "add a case to tests/support/cases.py"


# Traits


def with_trait(trait: Trait) -> list[Case]:
    return [case for case in CASES if case.operator.has(trait)]


@parametrize(with_trait(Trait.ENTRYWISE))
def test_entrywise(case: Case) -> None:
    """Another entry of an operand changes the result at its own place alone."""
    operands = case.tensors()
    before = case.operator.run(*operands)
    for index, x in enumerate(operands):
        if not isinstance(x, torch.Tensor) or x.shape != before.shape:
            continue
        place = tuple(length - 1 for length in x.shape)
        changed = x.clone()
        changed[place] = x[place] * 0.5 + 0.25
        after = case.operator.run(*operands[:index], changed, *operands[index + 1 :])
        same = torch.ones_like(before, dtype=torch.bool)
        same[place] = False
        assert torch.equal(after[same].nan_to_num(), before[same].nan_to_num())


@parametrize(with_trait(Trait.REARRANGEMENT))
def test_rearrangement(case: Case) -> None:
    """Every entry is one of the operands', or a constant (`Spread`: a share of one)."""
    operands = case.tensors()
    shares = getattr(case.operator, "count", 1)
    known = torch.cat([x.flatten() / shares for x in operands if isinstance(x, torch.Tensor)])
    constants = torch.tensor([0.0, getattr(case.operator, "value", 0.0)], dtype=known.dtype)
    assert torch.isin(case.operator.run(*operands), torch.cat([known, constants])).all()


@parametrize(with_trait(Trait.ASSOCIATIVE))
def test_associative(case: Case) -> None:
    a, *rest = case.tensors()
    b = rest[0] if rest else a
    run = case.operator.run
    assert_equal(run(run(a, b), a), run(a, b, a), 1e-12)


@parametrize(with_trait(Trait.ORDER_PRESERVING))
def test_order_preserving(case: Case) -> None:
    """Of larger entries the results are not smaller, the other operands being constants."""
    x = torch.linspace(0.1, 9.0, 50, dtype=torch.float64)
    constants = [1.5 for _ in case.operands[1:]]
    assert (case.operator.run(x, *constants).diff() >= 0).all()


@parametrize(with_trait(Trait.NEGATIVE_POWER))
def test_negative_power(case: Case) -> None:
    x = torch.linspace(0.1, 9.0, 50, dtype=torch.float64)
    assert (case.operator.run(x).diff() < 0).all()


@parametrize([case for case in CASES if isinstance(case.operator.signal, tuple)])
def test_declared_signals_are_operands(case: Case) -> None:
    assert all(index < len(case.operands) for index in case.operator.signal)


@parametrize([case for case in CASES if case.operator.window(*case.shapes()) is not None])
def test_window(case: Case) -> None:
    """A result in the middle depends on the places that its window spans, and on no other."""
    x, weight = case.tensors()[:2]
    window = case.operator.window(*case.shapes())
    assert window is not None
    x, weight = torch.ones_like(x), weight.abs() + 0.1
    result = case.operator.run(x, weight)
    center = [length // 2 for length in result.shape[2:]]
    first = [
        c * s - p for c, s, p in zip(center, case.operator.stride, window.padding, strict=True)
    ]
    changed = []
    for axis, length in enumerate(x.shape[2:]):
        hits = []
        for place in range(length):
            other = x.clone()
            other.select(axis + 2, place).add_(1.0)
            moved = case.operator.run(other, weight) - result
            hits += [place] * bool(moved[(0, 0, *center)].abs() > 1e-9)
        reach = range(first[axis], first[axis] + window.spans[axis])
        inside = [place for place in (reach[0], reach[-1]) if 0 <= place < length]
        changed.append(set(inside) <= set(hits) and set(hits) <= set(reach))
    assert all(changed)


# Adjoints


LINEAR = [
    case
    for case in CASES
    if overrides(case.operator, "adjoint")
    and case.is_batched(0)
    and not (isinstance(case.operator, ResampleTranspose) and case.operator.even)
]


@parametrize(LINEAR)
def test_adjoint(case: Case) -> None:
    """``<op(x), r> = <x, adjoint(r)>``, sample by sample, bias and padding value left out."""
    operator = case.operator
    x, *others = case.tensors()
    others = others[:1]
    result = operator.run(x, *others)
    if isinstance(operator, Pad):
        result = result - operator.run(torch.zeros_like(x))
    r = torch.randn_like(result)
    back = operator.adjoint(*case.shapes()[: 1 + len(others)])(r, *others)
    assert back.shape == x.shape
    assert_equal(per_sample(x, back), per_sample(result, r), 1e-10)


@parametrize([case for case in CASES if isinstance(case.operator, Cat)])
def test_adjoint_of_each_part_of_a_concatenation(case: Case) -> None:
    operands = case.tensors()
    result = case.operator.run(*operands)
    r = torch.randn_like(result)
    assert isinstance(case.operator, Cat)
    parts = [case.operator.part(i, case.shapes()).run(r) for i in range(len(operands))]
    assert [part.shape for part in parts] == [operand.shape for operand in operands]
    back = sum(per_sample(x, part) for x, part in zip(operands, parts, strict=True))
    assert isinstance(back, torch.Tensor)
    assert_equal(back, per_sample(result, r), 1e-10)


@parametrize([case for case in CASES if isinstance(case.operator, Resampling | Sum)])
def test_even_spread_conserves_the_sum(case: Case) -> None:
    operator = case.operator
    assert isinstance(operator, Resampling | Sum)
    (x,) = case.tensors()
    r = torch.rand_like(operator.run(x))
    spread = operator.even(case.shapes()[0]).run(r)
    assert spread.shape == x.shape
    assert bool((spread >= 0).all())
    assert_equal(spread.flatten(1).sum(1), r.flatten(1).sum(1), 1e-10)


def test_no_adjoint_where_output_padding_reaches_the_stride() -> None:
    # torch allows it where the dilation is larger still; no convolution has it as its adjoint
    operator = ConvTranspose((1,), (0,), (2,), 1, (1,))
    with pytest.raises(UnsupportedOperator, match="output padding is not below its stride"):
        operator.adjoint((N, 3, 4), (3, 4, 2))


# Gradients


def differentiable(case: Case) -> bool:
    """Whether the gradient may meet the operator: it stands in captured networks, with a batch."""
    operator = case.operator
    floating = any(
        value.is_floating_point() for value in case.tensors() if isinstance(value, torch.Tensor)
    )
    batched = any(case.is_batched(index) for index in range(len(case.operands)))
    weighted = operator.weighted and not isinstance(operator, LinearTranspose)
    known = weighted or overrides(operator, "gradient") or overrides(operator, "adjoint")
    steps = operator.piecewise_constant
    return "canonical" in operator.levels and floating and batched and known and not steps


GRADIENTS = [case for case in CASES if differentiable(case)]


@parametrize(GRADIENTS)
def test_gradient(case: Case) -> None:
    """The vector-Jacobian product is autograd's, for every operand that has a batch.

    Zeros are where non-linearities have corners and poles: they are left out.
    """
    operator = case.operator
    operands = case.tensors()
    if not isinstance(operator, MaxPool | AdaptiveMaxPool):
        operands = [
            x.masked_fill(x == 0, 0.125)
            if isinstance(x, torch.Tensor) and x.is_floating_point()
            else x
            for x in operands
        ]
    batched = [
        index
        for index, operand in enumerate(operands)
        if case.is_batched(index) and operand.is_floating_point()
    ]
    leaves = {index: operands[index].clone().requires_grad_() for index in batched}
    result = operator.run(*(leaves.get(i, operand) for i, operand in enumerate(operands)))
    r = torch.randn_like(result)
    expected = torch.autograd.grad(result, list(leaves.values()), r, materialize_grads=True)
    if operator.weighted:
        # the bias plays no part, nor does it have one
        shapes = case.shapes()[:2]
        found = [operator.adjoint(*shapes)(r, operands[1])]
    else:
        parts = operator.gradient(r, operands, case.shapes())
        found = [parts[index] for index in batched]
    # torch holds the sixth of a hardsigmoid in single precision
    tolerance = 1e-7 if operator == Simple("hardsigmoid") else 1e-10
    for one, other in zip(found, expected, strict=True):
        assert_equal(one.expand_as(other), other, tolerance)


@pytest.mark.parametrize("operator", [Relu(), Clamp(0.0, 6.0), Clamp(0.0)], ids=str)
def test_gradient_at_the_corner(operator: Operator) -> None:
    """What is 0 is not active."""
    x = torch.tensor([[-1.0, -0.0, 0.0, 1e-30, 6.0]])
    (found,) = operator.gradient(torch.ones_like(x), (x,), ((N, 5),))
    last = 0.0 if operator == Clamp(0.0, 6.0) else 1.0
    assert found.tolist() == [[0.0, 0.0, 0.0, 1.0, last]]


def test_every_operator_of_a_network_has_a_gradient() -> None:
    captured = {
        type(case.operator)
        for case in CASES
        if "canonical" in case.operator.levels and not case.operator.piecewise_constant
    }
    apart = {kind.__name__ for kind in captured - {type(case.operator) for case in GRADIENTS}}
    assert apart == set()


# Ranges


RANGES = {
    "anything": Interval(),
    "non-negative": Interval(0.0, inf),
    "non-positive": Interval(-inf, 0.0),
    "zero": Interval(0.0, 0.0),
    "gate": Interval(0.0, 1.0),
    "tanh": Interval(-1.0, 1.0),
    "off zero": Interval(0.2, 0.9),
    "below zero": Interval(-3.0, -0.5),
    "large": Interval(-50.0, 800.0),
}


def drawn_from(interval: Interval, like: torch.Tensor) -> torch.Tensor:
    """Values of an interval, its bounds among them."""
    low, high = max(interval.low, -4.0 * like.abs().max()), min(interval.high, 4.0)
    high = max(high, min(interval.high, 100.0)) if interval.low > 4 else high
    values = like.clamp(interval.low, interval.high).clone().flatten()
    ends = [end for end in (interval.low, interval.high) if isfinite(end)]
    spread = torch.linspace(float(low), float(high), len(values), dtype=like.dtype)
    values[::2] = spread[::2].clamp(interval.low, interval.high)
    for place, end in enumerate(ends):
        values[place::5] = end
    return values.reshape(like.shape) + 0.0  # no negative zero


@parametrize(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_interval(case: Case, dtype: torch.dtype) -> None:
    """The result lies in the interval that is inferred, whatever those of the operands are."""
    choices: list[list[tuple[Interval, Any]]] = []
    for index, (operand, value) in enumerate(
        zip(case.operands, case.tensors(dtype=dtype), strict=True)
    ):
        if isinstance(operand, tuple) and case.is_batched(index):
            choices.append([(each, drawn_from(each, value)) for each in RANGES.values()])
        elif isinstance(value, torch.Tensor | tuple):
            choices.append([(Interval(), value)])
        else:
            choices.append([(Interval.of(value), value)])
    for combination in product(*choices):
        intervals, values = zip(*combination, strict=True)
        inferred = case.operator.interval_at(case.shapes(), *intervals)
        found = case.operator.run(*values)
        found = found[0] if isinstance(found, tuple) else found
        numbers = found[~torch.isnan(found)] if found.is_floating_point() else found
        if numbers.numel():
            low, high = float(numbers.min()), float(numbers.max())
            said = f"{[str(i) for i in intervals]} gave [{low}, {high}], inferred {inferred}"
            assert inferred.low <= low, said
            assert inferred.high >= high, said


@pytest.mark.parametrize("first", RANGES.values(), ids=list(RANGES))
@pytest.mark.parametrize("second", RANGES.values(), ids=list(RANGES))
def test_interval_arithmetic(first: Interval, second: Interval) -> None:
    """Sums, products and quotients of numbers of two intervals lie in those of the intervals."""
    like = torch.randn(40, dtype=torch.float64)
    x, y = drawn_from(first, like)[:, None], drawn_from(second, like.flip(0))[None]
    for interval, numbers in (
        (first + second, x + y),
        (first - second, x - y),
        (first * second, x * y),
        (first / second, (x / y)[(y != 0).expand(len(x), -1)]),
        (-first, -x),
        (first | second, torch.cat([x.flatten(), y.flatten()])),
        (first.size(), x.abs()),
        (first.cone(), 3.0 * x),
        (first.clipped(0.1, 0.5), x.clamp(0.1, 0.5)),
        (first.clipped(0.5, 0.1), x.clamp(0.5, 0.1)),
    ):
        known = numbers[~torch.isnan(numbers)]
        assert bool(((known >= interval.low) & (known <= interval.high)).all()), interval


def test_sign_is_read_off_the_interval() -> None:
    read = {name: str(interval.sign) for name, interval in RANGES.items()}
    assert read["anything"] == read["tanh"] == "mixed"
    assert read["non-negative"] == read["gate"] == read["off zero"] == "non-negative"
    assert read["non-positive"] == read["below zero"] == "non-positive"
    assert read["zero"] == "zero"


def test_parameters_that_turn_a_sign() -> None:
    """An ELU of negative alpha and an average with a negative divisor are of both signs."""
    non_negative = Interval(0.0, inf)
    assert Elu(-1.0).interval(Interval(-inf, 0.0)).high == pytest.approx(1.0, rel=1e-5)
    pool = AvgPool((2, 2), (2, 2), (0, 0), divisor=-4)
    assert str(pool.interval(non_negative).sign) == "non-positive"
    back = ResampleTranspose(pool, (4, 4))
    assert str(back.interval(non_negative).sign) == "non-positive"


# Layouts


def layout(*axes: str) -> Layout:
    """``layout("c3", "p4*p5")``: an axis of 3 channels, and one of 4 times 5 places."""
    kinds = {"c": CHANNEL, "p": PLACE}
    return Layout(
        tuple(
            tuple(Factor(kinds[part[0]], int(part[1:])) for part in axis.split("*") if part != "1")
            for axis in axes
        )
    )


@pytest.mark.parametrize(
    ("operator", "shape", "before", "after"),
    [
        (Reshape((N, 60)), (N, 60), layout("c3", "p4", "p5"), "N,c3*p4*p5"),
        (Reshape((N, 3, 20)), (N, 3, 20), layout("c3", "p4", "p5"), "N,c3,p4*p5"),
        (Reshape((N, 3, 4, 5)), (N, 3, 4, 5), layout("c3*p4*p5"), "N,c3,p4,p5"),
        (Reshape((N, 3, 1, 1)), (N, 3, 1, 1), layout("c3"), "N,c3,1,1"),
        (Reshape((N, 2, 3, 4)), (N, 2, 3, 4), layout("c6", "p4"), "N,c2,c3,p4"),
        (Reshape((N, 2, 2, 5, 3)), (N, 2, 2, 5, 3), layout("p4", "p5", "c3"), "N,p2,p2,p5,c3"),
        (Permute((0, 2, 3, 1)), (N, 4, 5, 3), layout("c3", "p4", "p5"), "N,p4,p5,c3"),
        (Permute((0, 2, 1)), (N, 20, 3), layout("c3", "p4*p5"), "N,p4*p5,c3"),
        (Slice(1, 0, 2), (N, 2, 4), layout("c3", "p4"), "N,c2,p4"),
        (Slice(1, 0, 1), (N, 1, 3), layout("p4*p5", "c3"), "N,p1,c3"),
        (Sum((2, 3)), (N, 3, 1, 1), layout("c3", "p4", "p5"), "N,c3,p1,p1"),
        (Linear(), (N, 4, 7), layout("p4", "c3"), "N,p4,c7"),
        (Linear(), (N, 3, 8), layout("c3", "p4*p5"), "N,c3,p8"),
        (Linear(), (N, 7), layout("c3*p4*p5"), "N,c7"),
        (AdaptiveAvgPool((1, 1)), (N, 3, 1, 1), layout("c3", "p4", "p5"), "N,c3,p1,p1"),
        (Pad(((0, 0), (0, 0), (1, 1))), (N, 3, 6), layout("c3", "p4"), "N,c3,p6"),
        (Relu(), (N, 4, 5, 3), layout("p4", "p5", "c3"), "N,p4,p5,c3"),
    ],
    ids=str,
)
def test_layout(operator: Operator, shape: tuple[int, ...], before: Layout, after: str) -> None:
    assert str(operator.layout(shape, before)) == after


def test_layout_where_values_meet() -> None:
    """What says more of an axis counts: several factors, and what varies."""
    tokens, mixed = layout("p4*p5", "c3"), layout("p20", "c3")
    assert str(Add().layout((N, 20, 3), mixed, tokens)) == "N,p4*p5,c3"
    gate = Expand((N, 3, 4, 5)).layout((N, 3, 4, 5), layout("c3", "p1", "p1"))
    assert gate.places == 1
    assert Multiply().layout((N, 3, 4, 5), layout("c3", "p4", "p5"), gate).places == 20
    joined = Cat(1).layout((N, 5, 4), layout("c3", "p4"), layout("c2", "p4"))
    assert str(joined) == "N,c5,p4"
    flattened = Cat(1).layout((N, 20), layout("c3*p2*p2"), layout("c2*p2*p2"))
    assert str(flattened) == "N,c5*p2*p2"
    tokens = Cat(1).layout((N, 7, 3), layout("1", "c3"), layout("p2*p3", "c3"))
    assert tokens.places == 7
    features = Cat(1).layout((N, 14), layout("c3*p2*p2"), layout("c2"))
    assert (str(features), features.places) == ("N,c14", 1)


# Source


@parametrize([case for case in CASES if overrides(case.operator, "source")])
def test_source(case: Case) -> None:
    """The printed torch source computes what `run` does."""
    operands = case.tensors()
    names = [f"operand_{index}" for index in range(len(operands))]
    known = {name: getattr(helpers, name) for name in case.operator.helpers}
    scope = {"torch": torch, "F": F, **known, **dict(zip(names, operands, strict=True))}
    source = case.operator.source(*names)
    found, expected = eval(source, scope), case.operator.run(*operands)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    for one, other in zip(found, expected, strict=True):
        # resizing runs as matrix products, and is printed as a call of torch's own
        assert_equal(one, other, 1e-6 if isinstance(case.operator, Upsample) else 1e-12)


@parametrize([case for case in CASES if "torch" in case.operator.levels])
def test_every_operator_of_the_torch_level_prints(case: Case) -> None:
    assert overrides(case.operator, "source") or isinstance(case.operator, Item)


# ONNX


def network_of(case: Case) -> Network:
    """A network of the one operator: an input for each operand with a batch, else a tensor."""
    network = Network(level="onnx")
    writer = Writer(network)
    operands: list[Any] = []
    names = iter(("x", "y", "z"))
    for index, value in enumerate(case.tensors(dtype=torch.float32)):
        if not isinstance(value, torch.Tensor):
            operands.append(value)
        elif case.is_batched(index):
            like = torch.empty(BATCH, *value.shape[1:], dtype=value.dtype, device="meta")
            operands.append(writer.placeholder(next(names), like))
        else:
            operands.append(writer.tensor(value, f"layer.{index}"))
    network.graph.output(writer.write(case.operator, tuple(operands)).node)
    verify(network)
    return network


def session_of(network: Network, **options: Any) -> onnxruntime.InferenceSession:
    """Emit a network, check the model strictly, and load it with ONNX Runtime."""
    proto = onnx_ir.to_proto(to_onnx(network, **options))
    onnx.checker.check_model(proto, full_check=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), settings)


def run(session: onnxruntime.InferenceSession, *inputs: torch.Tensor) -> list[torch.Tensor]:
    names = [value.name for value in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(np.asarray(found)) for found in session.run(None, feeds)]


def in_onnx(case: Case) -> bool:
    operator = case.operator
    if isinstance(operator, Resampling) and not operator.onnx_exact(case.shapes()[0]):
        return False
    # indices count over the whole tensor in ONNX: tested as a pair, below
    apart = isinstance(operator, Item | Route | Unpool | Collect) or getattr(
        operator, "indices", False
    )
    return "onnx" in operator.levels and not apart


@parametrize([case for case in CASES if in_onnx(case)])
def test_onnx(case: Case) -> None:
    """ONNX Runtime computes what `run` does, at every batch size."""
    session = session_of(network_of(case))
    for batch in (1, 2, 5):
        operands = case.tensors(batch, torch.float32)
        inputs = [value for i, value in enumerate(operands) if case.is_batched(i)]
        (found,) = run(session, *inputs)
        assert_equal(found, case.operator.run(*operands), 1e-5)


@parametrize([case for case in CASES if isinstance(case.operator, MaxPool | AdaptiveMaxPool)])
def test_onnx_routes_to_the_winners(case: Case) -> None:
    """A max pool with its indices, and relevance sent back by them."""
    network = Network(level="onnx")
    writer = Writer(network)
    size = case.tensors()[0].shape[2:]
    x = writer.placeholder("x", torch.empty(BATCH, 2, *size, device="meta"))
    pair = case.operator.with_indices(x)
    values, indices = Item(0)(pair), Item(1)(pair)
    routed = Route(tuple(size))(values * 0.5, indices)
    network.graph.output((values.node, routed.node, {}))
    verify(network)
    session = session_of(network)
    for batch in (1, 2, 5):
        (x,) = case.tensors(batch, torch.float32)
        values, indices = case.operator.with_indices(x)
        logits, relevance = run(session, x)
        assert_equal(logits, values, 0)
        assert_equal(relevance, helpers.route(values * 0.5, indices, size), 1e-6)


# The ONNX writer


def small_network(name: str = "features.0", dtype: torch.dtype = torch.float32) -> Network:
    """A convolution, doubled by a number, and its start: two results."""
    network = Network(level="onnx")
    writer = Writer(network)
    x = writer.placeholder("x", torch.empty(BATCH, 3, 5, dtype=dtype, device="meta"))
    target = writer.placeholder("target", torch.empty(BATCH, dtype=torch.int64, device="meta"))
    weight = torch.linspace(-1, 1, 60, dtype=dtype).reshape(4, 3, 5)
    with writer.at(prefix=name, label=name, rule="epsilon"):
        conv = Conv((1,), (0,), (1,))(x, writer.tensor(weight, f"{name}.weight")) * 2
    logits = writer.rename(Reshape((N, 4))(conv), "head")
    relevance = Start()(logits, target) * 2
    network.graph.output((logits.node, relevance.node, {name: conv.node}))
    return network


HOSTILE = "a\n';\u00e9\u4e2d\x00" + "b" * 10_000


@pytest.mark.parametrize("name", ["features.0", HOSTILE, "constant_2_0", "input", "\u4e2d"])
def test_onnx_names(name: str) -> None:
    """Names are readable where the user's are, and short, ASCII and unique whatever they are."""
    network = small_network(name)
    session_of(network)
    node = next(iter(network.output.args[0][2].values()))
    recorded = {name: node, name + "\u00e9": node, name + "\u4e2d": node}
    model = to_onnx(network, recorded)
    assert [value.name for value in model.graph.inputs] == ["input", "target"]
    outputs = [str(value.name) for value in model.graph.outputs]
    assert outputs[:2] == ["logits", "relevance"]
    assert all(re.fullmatch(r"relevance:[0-9A-Za-z_.#-]{1,90}", name) for name in outputs[2:])
    values = [str(v.name) for node in model.graph for v in node.outputs]
    values += [*map(str, model.graph.initializers), "input", "target"]
    assert len(values) == len(set(values))
    assert all(re.fullmatch(r"[0-9A-Za-z_]{1,100}", v) for v in set(values) - set(outputs))
    metadata = [text for node in model.graph for text in node.metadata_props.values()]
    assert all(text.isascii() and text.isprintable() for text in metadata)
    session_of(network, recorded=recorded)
    if name == "features.0":
        assert "features_0_weight" in values
        assert "features_0_conv" in values
        assert outputs[2] == "relevance:features.0"
        assert "features.0" in metadata


def test_onnx_is_single_precision() -> None:
    network = small_network(dtype=torch.float64)
    session = session_of(network)
    assert [value.type for value in session.get_inputs()] == ["tensor(float)", "tensor(int64)"]
    x, target = torch.randn(3, 3, 5), torch.tensor([0, 3, 2])
    logits, relevance = run(session, x, target)
    conv = F.conv1d(x, network.tensors["features.0.weight"].float())
    assert_equal(logits, 2 * conv.flatten(1), 1e-5)
    assert_equal(relevance, 2 * logits * helpers.at_target(logits, target), 1e-5)


def test_onnx_constants_are_written_once() -> None:
    names = list(to_onnx(small_network()).graph.initializers)
    assert names.count("constant_2") == 1
    assert len([name for name in names if name.startswith("constant_2")]) == 1


def test_onnx_writer_knows_the_shapes_of_what_it_writes() -> None:
    writer = OnnxWriter([])
    weight = writer.tensor(torch.zeros(4, 6), "weight")
    product = writer.node("MatMul", writer.node("Transpose", weight, perm=(1, 0)), weight)
    assert writer.shape(writer.node("Reshape", product, writer.integers((2, -1)))) == (2, 18)
    assert writer.dtype(writer.node("Equal", product, 0)) == onnx_ir.DataType.BOOL
    assert writer.dtype(writer.node("Shape", product)) == onnx_ir.DataType.INT64


@pytest.mark.parametrize("limit", [0, 2**20])
def test_saved_onnx_is_the_same_everywhere(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes don't depend on the folder; large weights lie beside the model."""
    monkeypatch.setattr("graphprop.emit.onnx.EXTERNAL_ABOVE", limit)
    monkeypatch.setattr("graphprop.emit.onnx.EMBEDDED_UP_TO", 100)
    written = []
    for folder in (tmp_path / "one", tmp_path / "another"):
        folder.mkdir()
        save(to_onnx(small_network()), folder / "explainer.onnx")
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
        onnxruntime.InferenceSession(str(folder / "explainer.onnx"))
    assert written[0] == written[1]
    data = {"explainer.onnx.data"} if limit == 0 else set()
    assert set(written[0]) == {"explainer.onnx"} | data
    assert str(tmp_path).encode() not in written[0]["explainer.onnx"]
    if data:
        assert len(written[0]["explainer.onnx.data"]) == 60 * 4


# Capture


def evaluate(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Run a network node by node."""
    values: dict[Any, Any] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "get_attr":
            values[node] = network.tensor(node)
        elif node.op == "call_function":
            operands = [values.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
            values[node] = node.target.run(*operands)
    result: torch.Tensor = values[network.output.args[0]]
    return result


@pytest.mark.parametrize(
    ("shape", "family"), [rest for _, *rest in CAPTURED], ids=[name for name, *_ in CAPTURED]
)
def test_captured_models_compute_what_the_modules_do(
    shape: tuple[int, ...], family: list[Captured]
) -> None:
    model = Together(family).eval()
    program = capture(model, torch.randn(2, *shape))
    targets = {node.target for node in program.graph.nodes}
    assert not [str(captured) for captured in family if captured.target not in targets]
    network = canonicalize(program)
    verify(network)
    for batch in (2, 3):
        x = torch.randn(batch, *shape)
        expected = model.results(x)
        found = evaluate(network, x).split([part.shape[1] for part in expected], 1)
        for captured, one, other in zip(family, found, expected, strict=True):
            # torch finds the weights of a resizing in single precision
            tolerance = 1e-5 if "upsample" in str(captured.target) else 1e-6
            assert one.shape == other.shape, captured
            assert torch.allclose(one, other, rtol=tolerance, atol=tolerance), captured


def test_every_captured_operator_has_a_model() -> None:
    covered = {captured.target for _, _, family in CAPTURED for captured in family}
    # other tests register operators of their own
    known = {target for target in ATEN if target.namespace == "aten"}
    assert not known - covered - DECOMPOSED - REFUSED, "add a model to tests/support/cases.py"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x - x.mean(), "along the batch axis mixes samples"),
        (lambda x: x.sum((0, 1)), "along the batch axis mixes samples"),
        (lambda x: F.softmax(x, 0) * x, "along the batch axis mixes samples"),
        (lambda x: x.flip(0), "along the batch axis mixes samples"),
        (lambda x: x + torch.arange(x.shape[0]).view(-1, 1, 1, 1), "with the number of samples"),
        (lambda x: x + torch.ones(x.shape[0], 1, 1, 1).cumsum(0), "differs from sample to sample"),
        (lambda x: x.permute(1, 0, 2, 3), "moves the batch away from the first axis"),
        (lambda x: x.flatten(0, 1), "is one for each frame that was folded into the batch"),
        (lambda x: x.int() * 0.5, "a cast to torch.int32 loses the fraction"),
        (lambda x: F.softplus(x, threshold=5), "leave its threshold at 20"),
        (lambda x: x.amax(), "along the batch axis mixes samples"),
        (lambda x: F.batch_norm(x, None, None, training=True), "mixes samples: give it running"),
        (lambda x: F.batch_norm(x, *torch.ones(2, 4), training=True), "mixes samples: give it"),
        (lambda x: 2**x, "the operator pow.Scalar at layer 'pow'"),
        (lambda x: (x + 9) ** x, "an exponent that depends on the input has no relevance rule"),
        (lambda x: (x + 9) ** torch.ones(8), "where its exponent is one number"),
        (lambda x: x.norm(1, 1), "a vector norm of order 1 has no relevance rule"),
        (lambda x: x @ x.mT, "attention is not supported yet"),
        (lambda x: x[:, 0].bmm(x[:, 1].mT), "attention is not supported yet"),
        (
            lambda x: F.scaled_dot_product_attention(x, x, x),
            "attention is not supported yet",
        ),
        (
            lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
            "attention is not supported yet: this is a product of two values that both depend on "
            "the input (einsum of 'nchw,ndhw->ncd')",
        ),
        (lambda x: torch.einsum("nchw->chw", x), "moves or sums the batch axis mixes samples"),
        (lambda x: torch.einsum("nccw->ncw", x[:, :, :4]), "takes a diagonal"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)), "along the batch axis adds samples"),
        (lambda x: x.gather(1, x.argmax(1, True)), "'argmax', line modules.py:"),
        (lambda x: x[:, 0, 0, x.argmax(1)[0, 0, 0]], "an index that depends on the input"),
        (
            lambda x: F.max_unpool2d(*F.max_pool2d(x, 3, 2, return_indices=True), 3, 2, 0, (6, 8)),
            "an unpooling of overlapping windows",
        ),
        (lambda x: torch.cumsum(x, 1), "the operator cumsum at layer 'cumsum'"),
    ],
)
def test_refused(function: Any, message: str) -> None:
    """What can't be explained is refused in words, never computed otherwise."""
    with pytest.raises(UnsupportedOperator, match=re.escape(message)):
        canonicalize(capture(Function(function).eval(), torch.randn(2, 4, 6, 8)))
