"""Facts that are inferred once for an operator and operands of some shapes, and used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from graphprop.errors import VerificationError
from graphprop.ir import writer as module
from graphprop.ir.facts import BATCH, facts_of
from graphprop.ir.network import Network
from graphprop.ir.writer import RESULTS, Writer, result_on_meta
from graphprop.ops import Add, Operator, Reshape


@dataclass(frozen=True)
class Counted(Operator):
    """An operator that counts its calls."""

    factor: Any = 1.0

    def run(self, *operands: Any) -> Any:
        CALLS.append(operands)
        return operands[0] * self.factor


CALLS: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RESULTS.clear()
    CALLS.clear()


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_a_result_is_computed_once_for_operands_of_the_same_shape() -> None:
    first = result_on_meta(Counted(2.0), [on_meta(2, 3)])
    assert result_on_meta(Counted(2.0), [on_meta(2, 3)]) is first
    assert len(CALLS) == 1


@pytest.mark.parametrize(
    ("operator", "operands"),
    [
        (Counted(3.0), [on_meta(2, 3)]),
        (Counted(2), [on_meta(2, 3)]),
        (Counted(2.0), [on_meta(3, 2)]),
        (Counted(2.0), [on_meta(2, 3, dtype=torch.int64)]),
        (Counted(2.0), [on_meta(3, 2).T]),
        (Counted(2.0), [on_meta(2, 3), 1.0]),
    ],
)
def test_whatever_the_result_can_depend_on_tells_results_apart(
    operator: Operator, operands: list[Any]
) -> None:
    result_on_meta(Counted(2.0), [on_meta(2, 3)])
    found = result_on_meta(operator, operands)
    assert len(CALLS) == 2
    assert isinstance(found, torch.Tensor)
    expected = operator.run(*operands)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


def test_numbers_of_other_types_tell_results_apart() -> None:
    x = on_meta(2, dtype=torch.int64)
    found = [result_on_meta(Add(), [x, number]) for number in (1, 1.0)]
    assert [result.dtype for result in found] == [torch.int64, torch.float32]


def test_an_operator_that_can_not_be_hashed_runs_every_time() -> None:
    for _ in range(2):
        result_on_meta(Listed([2.0]), [on_meta(2, 3)])
    assert len(CALLS) == 2


@dataclass(frozen=True)
class Listed(Counted):
    """One with a list for an attribute."""

    def run(self, *operands: Any) -> Any:
        CALLS.append(operands)
        return operands[0] * self.factor[0]


def test_results_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RESULTS", 5)
    for length in range(1, 12):
        result_on_meta(Counted(2.0), [on_meta(2, length)])
        assert len(RESULTS) <= 5


def test_what_does_not_fit_is_refused_every_time() -> None:
    for _ in range(2):
        writer = Writer(Network())
        x = writer.placeholder("x", on_meta(BATCH, 3))
        with pytest.raises(VerificationError, match="reshape"):
            Reshape((-1, 7))(x)
    y = Reshape((-1, 3, 1))(x)
    assert facts_of(y.node).value.shape == (BATCH, 3, 1)
