"""Padding with a constant, and with copies of the entries at the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import Interval
from graphprop.ir.layout import (
    Layout,
    resized_to,
)
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.shape import Rearrangement
from graphprop.ops.slices import Cat, Flip, Slice, entries
from graphprop.ops.sums import Expand

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Pad(Rearrangement):
    """A constant around the value, (before, after) per axis; negative amounts crop."""

    amounts: tuple[tuple[int, int], ...]
    value: float = 0.0

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, self._torch_amounts(), value=self.value)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | Interval.of(self.value)

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return resized_to(x, shape)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Pad(tuple((-before, -after) for before, after in self.amounts))

    def source(self, *operands: str) -> str:
        value = f", value={self.value!r}" if self.value else ""
        amounts = ", ".join(map(str, self._torch_amounts()))
        return f"F.pad({operands[0]}, ({amounts}){value})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        # onnx.reference can't crop by padding
        cropped = [axis for axis, pair in enumerate(self.amounts) if min(pair) < 0]
        if cropped:
            starts = [max(-self.amounts[axis][0], 0) for axis in cropped]
            # an end above any index: nothing is cut off there
            ends = [min(self.amounts[axis][1], 0) or 2**31 for axis in cropped]
            x = graph.node("Slice", x, *map(graph.integers, (starts, ends, cropped)))
        sides = [*zip(*self.amounts, strict=True)]
        amounts = [max(amount, 0) for side in sides for amount in side]
        if not any(amounts):
            return x
        return graph.node("Pad", x, graph.integers(amounts), graph.number(self.value, like=x))

    def _torch_amounts(self) -> list[int]:
        amounts = list(self.amounts)
        while amounts and amounts[0] == (0, 0):
            amounts.pop(0)
        return [amount for pair in reversed(amounts) for amount in pair]


@from_aten(aten.pad.default)
def _pad(
    x: Array, amounts: Sequence[int], mode: str = "constant", value: float | None = None
) -> Array:
    pairs = [(int(amounts[i]), int(amounts[i + 1])) for i in range(0, len(amounts), 2)]
    full = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs[::-1]
    if full[0] != (0, 0):
        raise UnsupportedOperator("padding along the batch axis adds samples")
    for axis, (before, after) in enumerate(full):
        # a negative amount crops: what is cut off is no part of the layer behind, as padding is
        x = entries(x, axis, max(-before, 0), x.shape[axis] - max(-after, 0)) if axis else x
    full = [(max(before, 0), max(after, 0)) for before, after in full]
    if mode == "constant":
        return Pad(tuple(full), float(value or 0.0))(x) if any(map(any, full)) else x
    for axis, (before, after) in enumerate(full):
        x = _pad_by_copying(x, axis, before, after, mode)
    return x


def _pad_by_copying(x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """Pad one axis with copies of its own entries: reflect, replicate, circular."""
    length = x.shape[axis]
    parts = [x]
    if before > 0:
        parts.insert(0, _border(x, axis, mode, before, length, front=True))
    if after > 0:
        parts.append(_border(x, axis, mode, after, length, front=False))
    return Cat(axis)(*parts) if len(parts) > 1 else x


def _border(x: Array, axis: int, mode: str, amount: int, length: int, *, front: bool) -> Array:
    if mode == "reflect":
        span = (1, amount + 1) if front else (length - amount - 1, length - 1)
        return Flip((axis,))(Slice(axis, *span)(x))
    if mode == "circular":
        return Slice(axis, *((length - amount, length) if front else (0, amount)))(x)
    if mode == "replicate":
        edge = Slice(axis, *((0, 1) if front else (length - 1, length)))(x)
        return Expand((*x.shape[:axis], amount, *x.shape[axis + 1 :]))(edge)
    raise UnsupportedOperator(f"padding of mode {mode!r} has no relevance rule")


@from_aten(aten.constant_pad_nd.default)
def _constant_pad(x: Array, amounts: Sequence[int], value: float = 0.0) -> Array:
    return _pad(x, amounts, "constant", value)
