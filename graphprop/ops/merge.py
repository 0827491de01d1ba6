"""Where values meet: captured sums, differences, products and quotients, aligned by broadcasting.

A value that is broadcast is expanded by a node of its own, so that relevance finds its way back.
"""

from __future__ import annotations

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.writer import Operand, Value
from graphprop.ops.base import Array, from_aten, is_value
from graphprop.ops.constants import one_sample
from graphprop.ops.elementwise import Add, Divide, Multiply, Negate, Subtract
from graphprop.ops.power import reciprocal
from graphprop.ops.simple import sigmoid_written_out
from graphprop.ops.sums import Expand

aten = torch.ops.aten


def aligned(*operands: Operand) -> list[Operand]:
    """Expand every value among the operands to the shape they have together."""
    dtype = next(operand.dtype for operand in operands if is_value(operand))
    operands = tuple(
        one_sample(operand).to(dtype) if isinstance(operand, torch.Tensor) else operand
        for operand in operands
    )
    shapes = [tuple(x.shape) for x in operands if not isinstance(x, float | int)]
    rank = max(map(len, shapes))
    full = tuple(
        max((shape[axis - rank] for shape in shapes if len(shape) >= rank - axis), key=_length)
        for axis in range(rank)
    )
    return [_expanded(operand, full) for operand in operands]


def _length(size: int) -> int:
    # the batch is larger than any length: it stays the batch where it meets a length of 1
    return 2**31 if size == -1 else size


def _expanded(operand: Operand, full: tuple[int, ...]) -> Operand:
    if not is_value(operand) or tuple(operand.shape) == full:
        return operand
    if len(operand.shape) != len(full):
        raise UnsupportedOperator(
            f"values of shape {tuple(operand.shape)} and {full} meet, which moves the batch away "
            "from the first axis"
        )
    expanded: Value = Expand(full)(operand)
    return expanded


@from_aten(aten.add.Tensor)
def _add(x: Operand, y: Operand, *, alpha: float = 1) -> Array:
    return Add()(*aligned(x, y if alpha == 1 else Multiply()(y, alpha)))


@from_aten(aten.sub.Tensor)
def _sub(x: Operand, y: Operand, *, alpha: float = 1) -> Array:
    return Subtract()(*aligned(x, y if alpha == 1 else Multiply()(y, alpha)))


@from_aten(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(x: Operand, y: Operand, alpha: float = 1) -> Array:
    return Subtract()(*aligned(y, x if alpha == 1 else Multiply()(x, alpha)))


@from_aten(aten.mul.Tensor)
def _mul(x: Operand, y: Operand) -> Array:
    return Multiply()(*aligned(x, y))


@from_aten(aten.div.Tensor)
def _div(x: Operand, y: Operand) -> Array:
    if isinstance(y, float | int):
        return Multiply()(x, 1.0 / y)
    sigmoid = sigmoid_written_out(x, y)
    return Divide()(*aligned(x, y)) if sigmoid is None else sigmoid


@from_aten(aten.neg.default)
def _neg(x: Array) -> Array:
    return Negate()(x)


@from_aten(aten.reciprocal.default)
def _reciprocal(x: Array) -> Array:
    return reciprocal(x)
