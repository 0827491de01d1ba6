"""Where values meet: captured sums, differences, products and quotients, aligned by broadcasting.

A value that is broadcast is expanded by a node of its own, so that relevance finds its way back.
"""

from __future__ import annotations

from typing import Any

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ops.base import from_aten
from graphprop.ops.constants import one_sample
from graphprop.ops.elementwise import Add, Divide, Multiply, Negate, Subtract
from graphprop.ops.power import reciprocal
from graphprop.ops.simple import sigmoid_written_out
from graphprop.ops.sums import Expand

aten = torch.ops.aten


def aligned(*operands: Any) -> list[Any]:
    """Expand every value among the operands to the shape they have together."""
    dtype = next(operand.dtype for operand in operands if hasattr(operand, "tracer"))
    operands = tuple(
        one_sample(operand).to(dtype) if isinstance(operand, torch.Tensor) else operand
        for operand in operands
    )
    shapes = [tuple(operand.shape) for operand in operands if hasattr(operand, "shape")]
    rank = max(map(len, shapes))
    full = tuple(
        max((shape[axis - rank] for shape in shapes if len(shape) >= rank - axis), key=_length)
        for axis in range(rank)
    )
    return [_expanded(operand, full) for operand in operands]


def _length(size: int) -> int:
    return 2**31 if size == -1 else size


def _expanded(operand: Any, full: tuple[int, ...]) -> Any:
    if not hasattr(operand, "tracer") or tuple(operand.shape) == full:
        return operand
    if len(operand.shape) != len(full):
        raise UnsupportedOperator(
            f"values of shape {tuple(operand.shape)} and {full} meet, which moves the batch away "
            "from the first axis"
        )
    return Expand(full)(operand)


@from_aten(aten.add.Tensor)
def _add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return Add()(*aligned(x, y if alpha == 1 else Multiply()(y, alpha)))


@from_aten(aten.sub.Tensor)
def _sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return Subtract()(*aligned(x, y if alpha == 1 else Multiply()(y, alpha)))


@from_aten(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(x: Any, y: Any, alpha: float = 1) -> Any:
    return Subtract()(*aligned(y, x if alpha == 1 else Multiply()(x, alpha)))


@from_aten(aten.mul.Tensor)
def _mul(x: Any, y: Any) -> Any:
    return Multiply()(*aligned(x, y))


@from_aten(aten.div.Tensor)
def _div(x: Any, y: Any) -> Any:
    if isinstance(y, float | int):
        return Multiply()(x, 1.0 / y)
    sigmoid = sigmoid_written_out(x, y)
    return Divide()(*aligned(x, y)) if sigmoid is None else sigmoid


@from_aten(aten.neg.default)
def _neg(x: Any) -> Any:
    return Negate()(x)


@from_aten(aten.reciprocal.default)
def _reciprocal(x: Any) -> Any:
    return reciprocal(x)
