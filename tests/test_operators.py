"""The laws that every operator keeps, on the examples of `tests/cases.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, Case, N

from graphprop.emit.onnx import to_onnx
from graphprop.errors import UnsupportedOperator
from graphprop.network import BATCH, Network, Writer, verify
from graphprop.ops import (
    AdaptiveMaxPool,
    Cat,
    ConvTranspose,
    Item,
    MaxPool,
    Operator,
    Pad,
    ResampleTranspose,
    Resampling,
    Route,
    Sign,
    Sum,
    Upsample,
    helpers,
)


def parametrise(cases: list[Case]) -> pytest.MarkDecorator:
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
    assert not missing, "add a case to tests/cases.py"


# Adjoints


LINEAR = [
    case
    for case in CASES
    if overrides(case.operator, "adjoint")
    and case.is_batched(0)
    and not (isinstance(case.operator, ResampleTranspose) and case.operator.even)
]


@parametrise(LINEAR)
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


@parametrise([case for case in CASES if isinstance(case.operator, Cat)])
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


@parametrise([case for case in CASES if isinstance(case.operator, Resampling | Sum)])
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


# Signs


WITH_SIGN = {
    Sign.ZERO: torch.zeros_like,
    Sign.POSITIVE: torch.abs,
    Sign.NEGATIVE: lambda x: -x.abs(),
    Sign.MIXED: lambda x: x,
}


def sign_of(value: Any) -> Sign:
    """Which signs the entries have."""
    if isinstance(value, tuple):
        return sign_of(value[0])
    if not isinstance(value, torch.Tensor):
        return Sign.of(value)
    positive = Sign.POSITIVE if bool((value > 0).any()) else Sign.ZERO
    return positive | (Sign.NEGATIVE if bool((value < 0).any()) else Sign.ZERO)


@parametrise(CASES)
def test_sign(case: Case) -> None:
    """The result has no signs but those inferred, whatever signs the operands have."""
    choices: list[list[tuple[Sign, Any]]] = []
    for operand, value in zip(case.operands, case.tensors(), strict=True):
        if isinstance(operand, tuple):
            choices.append([(sign, give(value)) for sign, give in WITH_SIGN.items()])
        else:
            choices.append([(sign_of(value), value)])
    for combination in product(*choices):
        signs, values = zip(*combination, strict=True)
        inferred = case.operator.sign(*signs)
        found = sign_of(case.operator.run(*values))
        assert found & ~inferred == Sign.ZERO, f"{signs} gave {found}, inferred {inferred}"


# Source


@parametrise([case for case in CASES if overrides(case.operator, "source")])
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


@parametrise([case for case in CASES if "torch" in case.operator.levels])
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
    apart = isinstance(operator, Item | Route) or getattr(operator, "indices", False)
    return "onnx" in operator.levels and not apart


@parametrise([case for case in CASES if in_onnx(case)])
def test_onnx(case: Case) -> None:
    """ONNX Runtime computes what `run` does, at every batch size."""
    session = session_of(network_of(case))
    for batch in (1, 2, 5):
        operands = case.tensors(batch, torch.float32)
        inputs = [value for i, value in enumerate(operands) if case.is_batched(i)]
        (found,) = run(session, *inputs)
        assert_equal(found, case.operator.run(*operands), 1e-5)


@parametrise([case for case in CASES if isinstance(case.operator, MaxPool | AdaptiveMaxPool)])
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
