"""Powers with a fixed exponent, and reciprocals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import (
    ONE,
    Interval,
)
from graphprop.ops.base import Array, from_aten
from graphprop.ops.constants import filled
from graphprop.ops.elementwise import Divide
from graphprop.ops.simple import Activation, Simple, sigmoid_written_out
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Power(Activation):
    """``x ** exponent``, the exponent being a number other than zero.

    A power that is not a whole number has no value below zero.
    """

    exponent: float
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.POOLED_ARITHMETIC

    def has(self, trait: Trait) -> bool:
        if trait is Trait.NEGATIVE_POWER:
            return self.exponent < 0
        return super().has(trait)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.pow(self.exponent)

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        if self.exponent % 2 == 1:
            size = x
        elif self.exponent % 2 == 0:
            size = x.size()
        else:
            size = x.clipped(low=0.0)
        power = abs(self.exponent)
        if self.exponent < 0 and size.low < 0 and size.holds(0):
            return Interval()  # on either side of 0, and at it of either sign
        found = size.monotone(lambda number: number**power)
        return found if self.exponent > 0 else ONE / found

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        if self.exponent == 2:
            return x * 2.0
        return Power(self.exponent - 1)(x) * self.exponent

    def source(self, *operands: str) -> str:
        return f"torch.pow({operands[0]}, {self.exponent!r})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Pow", *operands, self.exponent)


@from_aten(aten.pow.Tensor_Scalar)
def _pow(x: Array, exponent: float) -> Array:
    if exponent == -1:
        return reciprocal(x)
    if exponent == 0:
        return filled(x, x.shape, 1, None)
    if exponent == 0.5:
        return Simple("sqrt")(x)
    return x if exponent == 1 else Power(float(exponent))(x)


@from_aten(aten.pow.Tensor_Tensor)
def _pow_tensor(x: Array, exponent: Array) -> Array:
    if isinstance(x, torch.Tensor) or not isinstance(exponent, torch.Tensor):
        raise UnsupportedOperator("an exponent that depends on the input has no relevance rule")
    if exponent.numel() > 1:
        raise UnsupportedOperator("a power has a relevance rule where its exponent is one number")
    return _pow(x, exponent.item())


@from_aten(aten.square.default)
def _square(x: Array) -> Array:
    return Power(2.0)(x)


@from_aten(aten.rsqrt.default)
def _rsqrt(x: Array) -> Array:
    return Power(-0.5)(x)


def reciprocal(x: Array) -> Array:
    """``1 / x``, or what it spells: a sigmoid, a power."""
    found = sigmoid_written_out(1.0, x)
    return Divide()(1.0, x) if found is None else found
