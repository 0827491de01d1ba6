"""What poolings and resizing share: how windows lie on a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphprop.ir.interval import Interval
from graphprop.ir.layout import Layout, resized_to
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Ints, Operator, per_axis
from graphprop.ops.traits import Trait

aten = torch.ops.aten


@dataclass(frozen=True)
class Pooling(Operator):
    """What all poolings share."""

    relevance: ClassVar[str | None] = "proportional"
    traits: ClassVar[Trait] = Trait.POOLING

    def interval(self, *operands: Interval) -> Interval:
        return operands[0]

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return resized_to(x, shape)


def overhang(size: Sequence[int], reach: Sequence[int], pool: Array) -> tuple[int, ...]:
    """How far the last windows of a pooling in ceil mode reach beyond the padding, per axis.

    Written as padding, this says in ONNX what torch's ceil mode does: ONNX Runtime's own counts
    otherwise, and keeps windows that torch drops because they begin in the padding behind.
    """
    found = []
    for length, span, stride, padding in zip(size, reach, pool.stride, pool.padding, strict=True):
        last = -(-(length + 2 * padding - span) // stride) * stride if pool.ceil else 0
        if last >= length + padding:
            last -= stride
        found.append(max(0, last + span - length - 2 * padding))
    return tuple(found)


def divides(size: Sequence[int], out: Sequence[int]) -> bool:
    """Whether an adaptive pooling has windows of one length."""
    return all(length % cells == 0 for length, cells in zip(size, out, strict=True))


def full_size(x: Array, size: Ints) -> tuple[int, ...]:
    """An adaptive pooling's size for every spatial axis."""
    return per_axis(size, len(x.shape) - 2)
