"""Choices between values: maxima, minima, masks and ``torch.where``.

A mask (``x > 0``, and what logic makes of such) is 1 or 0 and steps between: it has no derivative,
and no relevance flows to it; nor does any to what it is computed from. ``where`` hands relevance to
the value that it chose, entry by entry. Where a constant stands in for the other values of the very
value that the mask is computed from (``where(x > 0, x, 0)``, a threshold), the choice is a
non-linearity of that value like ReLU, and relevance passes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import fx

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import facts_of
from graphprop.ir.interval import Interval
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops.activation import Relu
from graphprop.ops.base import Array, Operator, from_aten, is_value
from graphprop.ops.constants import one_sample
from graphprop.ops.elementwise import Subtract
from graphprop.ops.guarded import Mask, keep_where
from graphprop.ops.merge import _add, _mul, _sub, aligned
from graphprop.ops.traits import Signal, Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Extremum(Operator):
    """What the larger and the smaller of two values share; the first wins where they are equal."""

    relevance: ClassVar[str | None] = "winner"
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.ALL
    traits: ClassVar[Trait] = Trait.ENTRYWISE

    wins: ClassVar[str]
    """How ``x - y`` compares with zero where x wins."""

    loses: ClassVar[str]
    """How ``x - y`` compares with zero where y wins."""

    of_two: ClassVar[Callable[[float, float], float]]
    """What it is of two numbers."""

    torch_name: ClassVar[str]
    onnx_name: ClassVar[str]

    def run(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return getattr(torch, self.torch_name)(x, y)

    def interval(self, *operands: Interval) -> Interval:
        x, y = operands
        of_two = type(self).of_two
        return Interval(of_two(x.low, y.low), of_two(x.high, y.high))

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        difference = operands[0] - operands[1]
        return keep_where(difference, self.wins, r), keep_where(difference, self.loses, r)

    def source(self, *operands: str) -> str:
        return f"torch.{self.torch_name}({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node(self.onnx_name, *operands)


@dataclass(frozen=True)
class Maximum(Extremum):
    """The larger of two values, entry by entry."""

    wins: ClassVar[str] = ">="
    loses: ClassVar[str] = "<"
    of_two: ClassVar[Callable[[float, float], float]] = max
    torch_name: ClassVar[str] = "maximum"
    onnx_name: ClassVar[str] = "Max"


@dataclass(frozen=True)
class Minimum(Extremum):
    """The smaller of two values, entry by entry."""

    wins: ClassVar[str] = "<="
    loses: ClassVar[str] = ">"
    of_two: ClassVar[Callable[[float, float], float]] = min
    torch_name: ClassVar[str] = "minimum"
    onnx_name: ClassVar[str] = "Min"


@dataclass(frozen=True)
class Where(Operator):
    """``Where()(mask, x, y)``: x where the mask is not zero, else y."""

    activation: bool = False
    """Whether it is a non-linearity of the value that the mask is computed from."""
    operands: ClassVar[tuple[str, ...]] = ("mask", "x", "y")
    signal: ClassVar[Signal | tuple[int, ...]] = Signal.ALL
    traits: ClassVar[Trait] = Trait.ENTRYWISE

    @property
    def relevance(self) -> str | None:  # type: ignore[override]
        return "pass" if self.activation else "rearrange"

    def run(self, mask: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(mask != 0, x, y)

    def interval(self, *operands: Interval) -> Interval:
        return operands[1] | operands[2]

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        mask = operands[0]
        return mask * 0.0, keep_where(mask, "!=", r), keep_where(mask, "==", r)

    def source(self, *operands: str) -> str:
        mask, x, y = operands
        return f"torch.where(torch.ne({mask}, 0), {x}, {y})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        mask, x, y = operands
        return graph.node("Where", graph.node("Equal", mask, graph.number(0.0, like=mask)), y, x)


def is_constant(operand: Operand) -> bool:
    """Whether an operand does not change with the input, or only in steps."""
    return not is_value(operand) or not facts_of(operand.node).varies


def roots(node: fx.Node) -> set[fx.Node]:
    """The values that a value is computed from entry by entry."""
    found, waiting, seen = set(), [node], {node}
    while waiting:
        current = waiting.pop()
        operands = [a for a in current.all_input_nodes if facts_of(a).batched]
        entrywise = current.op == "call_function" and current.target.has(Trait.ENTRYWISE)
        if entrywise and operands:
            waiting += [a for a in operands if a not in seen]
            seen.update(operands)
        else:
            found.add(current)
    return found


def where(mask: Array, x: Operand, y: Operand) -> Array:
    """The operator for ``torch.where``, or arithmetic where both values are constants."""
    if is_constant(x) and is_constant(y):
        if not is_value(mask):
            raise UnsupportedOperator("a choice between values that do not depend on the input")
        return _add(_mul(mask, _difference(x, y)), y)
    if (rectifier := rectifier_of(mask, x, y)) is not None:
        return rectifier(x if is_value(x) else y)
    live = [value for value in (x, y) if is_value(value) and not is_constant(value)]
    activation = (
        is_value(mask)
        and len(live) == 1
        and len(roots(mask.node)) == 1
        and roots(mask.node) == roots(live[0].node)
    )
    if isinstance(mask, torch.Tensor):
        mask = one_sample(mask).to(live[0].dtype)
    return Where(activation)(*aligned(mask, x, y))


def rectifier_of(mask: Array, x: Operand, y: Operand) -> Relu | None:
    """The ReLU that a choice spells out: ``where(x > 0, x, 0)`` or ``where(x < 0, 0, x)``."""
    kept, other = (x, y) if is_value(x) else (y, x)
    if not (
        is_value(kept)
        and is_zero_beside(kept, other)
        and is_value(mask)
        and isinstance(mask.node.target, Mask)
        and mask.node.args[0] is kept.node
    ):
        return None
    slopes = {">": False, ">=": True} if kept is x else {"<=": False, "<": True}
    slope = slopes.get(mask.node.target.comparison)
    return None if slope is None else Relu(slope)


def is_zero_beside(x: Array, operand: Operand) -> bool:
    """Whether an operand is the number zero, and leaves the shape of x as it is."""
    if isinstance(operand, torch.Tensor):
        return operand.numel() == 1 and operand.dim() <= len(x.shape) and not operand.any()
    return not is_value(operand) and operand == 0


def _difference(x: Operand, y: Operand) -> Array:
    if is_value(x) or is_value(y):
        return _sub(x, y) if is_value(x) else _add(_mul(y, -1), x)
    return x - y


@from_aten(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def _where(mask: Array, x: Operand, y: Operand) -> Array:
    return where(mask, number_of(x), number_of(y))


@from_aten(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(x: Array, mask: Array, value: Operand) -> Array:
    return where(mask, number_of(value), x)


@from_aten(aten.threshold.default)
def _threshold(x: Array, limit: float, value: float) -> Array:
    return where(Mask(">")(x - float(limit) if limit else x), x, float(value))


@from_aten(aten.index_put.default)
def _index_put(
    x: Array, indices: Sequence[Array | None], value: Array, accumulate: bool = False
) -> Array:
    """Constants written to the places that a mask or fixed indices select."""
    given = [index for index in indices if index is not None]
    fixed = not is_value(x) or not any(map(is_value, given))
    if accumulate or is_value(value) or not is_value(x):
        raise UnsupportedOperator("values written by indices: write them by slices")
    if not fixed:
        (mask,) = given
        if not isinstance(mask.node.target, Mask) or value.numel() != 1:
            raise UnsupportedOperator("values written by indices that depend on the input")
        return where(mask, value.reshape(()), x)
    if indices[0] is not None:
        raise UnsupportedOperator("an index along the batch axis mixes samples")
    blank = torch.zeros(1, *x.shape[1:], dtype=x.dtype)
    places = tuple(slice(None) if index is None else index for index in indices)
    mask, new = blank.clone(), blank.clone()
    mask[places], new[places] = 1.0, value.to(x.dtype)
    return where(mask, new, x)


def number_of(operand: Operand) -> Operand:
    """A whole number or truth value as a floating-point number."""
    return float(operand) if isinstance(operand, bool | int) else operand


# Comparisons and logic


def _comparison(comparison: str) -> Callable[..., Array]:
    def capture(x: Operand, y: Operand) -> Array:
        x, y = number_of(x), number_of(y)
        if is_value(x):
            difference = x if not is_value(y) and not torch.is_tensor(y) and y == 0 else _sub(x, y)
            return Mask(comparison)(difference)
        return Mask(REVERSED[comparison])(_sub(y, x))

    return capture


REVERSED = {"==": "==", "!=": "!=", ">": "<", ">=": "<=", "<": ">", "<=": ">="}

for _comparison_sign, _name in Mask.NAMES.items():
    _packet = getattr(aten, _name)
    from_aten(_packet.Scalar, _packet.Tensor)(_comparison(_comparison_sign))


def truth(operand: Array) -> Array:
    """A mask of where an operand is not zero."""
    if not is_value(operand):
        return one_sample(operand).bool()
    return operand if isinstance(operand.node.target, Mask) else Mask("!=")(operand)


@from_aten(aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor)
def _and(x: Operand, y: Operand) -> Array:
    return Mask("!=")(_mul(truth(x), truth(y)))


@from_aten(aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor)
def _or(x: Operand, y: Operand) -> Array:
    x, y = sorted((truth(x), truth(y)), key=is_value, reverse=True)
    return Mask("!=")(_add(x, y))


@from_aten(aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.__xor__.Tensor)
def _xor(x: Operand, y: Operand) -> Array:
    x, y = sorted((truth(x), truth(y)), key=is_value, reverse=True)
    return Mask("!=")(_sub(x, y))


@from_aten(aten.logical_not.default, aten.bitwise_not.default)
def _not(x: Array) -> Array:
    return Mask("==")(x)


@from_aten(aten.sign.default, aten.sgn.default)
def _sign(x: Array) -> Array:
    return Subtract()(Mask(">")(x), Mask("<")(x))


# Maxima and minima


@from_aten(aten.maximum.default, aten.max.other, aten.fmax.default)
def _maximum(x: Operand, y: Operand) -> Array:
    return _extremum(Maximum(), x, y)


@from_aten(aten.minimum.default, aten.min.other, aten.fmin.default)
def _minimum(x: Operand, y: Operand) -> Array:
    return _extremum(Minimum(), x, y)


def _extremum(operator: Extremum, x: Array, y: Array) -> Array:
    """A constant stands second: then it is a non-linearity of the first."""
    x, y = (x, y) if is_value(x) else (y, x)
    if isinstance(y, torch.Tensor):
        y = one_sample(y)
    if isinstance(operator, Maximum) and is_zero_beside(x, y):
        return Relu(slope_at_zero=True)(x)  # the first wins
    return operator(*aligned(x, y))


@from_aten(aten.clamp.Tensor)
def _clamp(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    x = x if low is None else _maximum(x, low)
    return x if high is None else _minimum(x, high)


@from_aten(aten.clamp_min.Tensor)
def _clamp_min(x: Array, low: Array) -> Array:
    return _maximum(x, low)


@from_aten(aten.clamp_max.Tensor)
def _clamp_max(x: Array, high: Array) -> Array:
    return _minimum(x, high)
