"""What torch computes in one pass over memory where ONNX takes two: a product and a sum.

Legalization for torch finds them. Entry by entry, arithmetic is as fast as memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphprop.ir.interval import Interval
from graphprop.ops.elementwise import Elementwise


@dataclass(frozen=True)
class AddProduct(Elementwise):
    """``x + factor * y * z``: ``AddProduct(factor)(x, y, z)``."""

    factor: float = 1.0
    levels: ClassVar[frozenset[str]] = frozenset({"torch"})

    def run(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(x, y, z, value=self.factor)

    def interval(self, *operands: Interval) -> Interval:
        x, y, z = operands
        return x + y * z * Interval.of(self.factor)

    def source(self, *operands: str) -> str:
        value = f", value={self.factor!r}" if self.factor != 1 else ""
        return f"torch.addcmul({', '.join(operands)}{value})"


@dataclass(frozen=True)
class AddMultiple(Elementwise):
    """``x + factor * y``: ``AddMultiple(factor)(x, y)``."""

    factor: float
    levels: ClassVar[frozenset[str]] = frozenset({"torch"})

    def run(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.add(x, y, alpha=self.factor)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] + operands[1] * Interval.of(self.factor)

    def source(self, *operands: str) -> str:
        return f"torch.add({', '.join(operands)}, alpha={self.factor!r})"
