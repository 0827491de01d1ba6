"""Elementwise non-linearities with parameters: ReLU and its relatives, ELU, GELU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, expm1, inf, pi, sqrt, tanh
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from graphprop.ir.interval import (
    Interval,
)
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops.base import Array, from_aten
from graphprop.ops.elementwise import negative
from graphprop.ops.guarded import keep_where, mask
from graphprop.ops.ones import ones_like
from graphprop.ops.shape import Reshape
from graphprop.ops.simple import ERF, EXP, TANH, Activation
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Relu(Activation):
    """``max(x, 0)``."""

    slope_at_zero: bool = False
    """Whether its derivative at 0 is 1, as in ``where(x >= 0, x, 0)``, and not 0."""
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.RECTIFIER

    def __str__(self) -> str:
        return super().__str__() if self.slope_at_zero else "relu()"

    @property
    def passes(self) -> str:
        """How an input compares with zero where the derivative is 1."""
        return ">=" if self.slope_at_zero else ">"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].clipped(low=0.0)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (r * mask(operands[0], self.passes),)

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        return keep_where(x, self.passes, ones_like(x))

    def source(self, *operands: str) -> str:
        return f"F.relu({operands[0]})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Relu", *operands)


@dataclass(frozen=True)
class Clamp(Activation):
    """``min(max(x, low), high)``: ReLU6, hardtanh."""

    low: float | None = None
    high: float | None = None
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.ORDER_PRESERVING

    def has(self, trait: Trait) -> bool:
        if trait is Trait.RECTIFIER:
            return self.low == 0 and (self.high is None or self.high > 0)
        if trait is Trait.POOLED_ARITHMETIC:
            # it keeps a generalized pooling away from zero, where the root has no slope
            return self.high is None and self.low is not None and self.low > 0
        return super().has(trait)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high)

    def interval(self, *operands: Interval) -> Interval:
        low = -inf if self.low is None else self.low
        return operands[0].clipped(low, inf if self.high is None else self.high).widened()

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        x = operands[0]
        for limit, comparison in ((self.low, ">"), (self.high, "<")):
            if limit is not None:
                r = keep_where(x - limit if limit else x, comparison, r)
        return (r,)

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        return self.gradient(ones_like(x), (x,), ())[0]

    def source(self, *operands: str) -> str:
        limits = {"min": self.low, "max": self.high}
        shown = ", ".join(f"{k}={v!r}" for k, v in limits.items() if v is not None)
        return f"{operands[0]}.clamp({shown})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        limits = [None if v is None else graph.number(v, like=x) for v in (self.low, self.high)]
        return graph.node("Clip", x, *limits)


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """``x where x > 0, else slope * x``."""

    slope: float = 0.01

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, self.slope)

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        return x.clipped(low=0.0) | x.clipped(high=0.0).times(self.slope)

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        one = ones_like(x)
        return keep_where(x, ">", one) + self.slope * keep_where(x, "<=", one)

    def source(self, *operands: str) -> str:
        return f"F.leaky_relu({operands[0]}, {self.slope!r})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("LeakyRelu", *operands, alpha=self.slope)


@dataclass(frozen=True)
class Prelu(Activation):
    """``x where x > 0, else slope * x`` with a learned slope per channel."""

    def run(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return F.prelu(x, slope)

    def interval(self, *operands: Interval) -> Interval:
        x, slope = operands
        return x.clipped(low=0.0) | x.clipped(high=0.0) * slope

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        rank = len(x.shape)
        shape = (-1,) if rank == 2 else (-1, *[1] * (rank - 2))
        one = ones_like(x)
        below = keep_where(x, "<=", one) * Reshape(shape)(parameters[0])
        return keep_where(x, ">", one) + below

    def source(self, *operands: str) -> str:
        return f"F.prelu({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x, slope = operands
        rank = len(graph.shape(x))
        if rank > 2:
            target = graph.integers((-1, *[1] * (rank - 2)))
            slope = graph.node("Reshape", slope, target)
        return graph.node("PRelu", x, slope)


@dataclass(frozen=True)
class Elu(Activation):
    """``scale * x``, below zero ``scale * alpha * (exp(input_scale * x) - 1)``: ELU, SELU, CELU."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.elu(x, self.alpha, self.scale, self.input_scale)

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        factor = self.scale * self.alpha
        below = x.clipped(high=0.0).times(self.input_scale).monotone(expm1).times(factor)
        return x.clipped(low=0.0).times(self.scale) | below

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        below = EXP(negative(x) * self.input_scale) * (self.scale * self.alpha * self.input_scale)
        return keep_where(x, ">", ones_like(x)) * self.scale + keep_where(x, "<=", below)

    def source(self, *operands: str) -> str:
        numbers = f"{self.alpha!r}, {self.scale!r}, {self.input_scale!r}"
        return f"torch.ops.aten.elu({operands[0]}, {numbers})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        zero = graph.number(0.0, like=x)
        scaled = graph.node("Mul", x, graph.number(self.input_scale, like=x))
        below = graph.node("Elu", graph.node("Min", scaled, zero), alpha=self.alpha)
        total = graph.node("Add", graph.node("Relu", x), below)
        return graph.node("Mul", total, graph.number(self.scale, like=x))


LOWEST_GELU = -0.17005
"""The lowest point of GELU, and of its tanh approximation, rounded down in the last digit."""

CUBIC = 0.044715
"""The coefficient in the tanh approximation of GELU (Hendrycks and Gimpel 2016)."""


@dataclass(frozen=True)
class Gelu(Activation):
    """``x * Phi(x)``, exact or by the tanh approximation."""

    approximate: str = "none"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate=self.approximate)

    def interval(self, *operands: Interval) -> Interval:
        exact = self.approximate == "none"
        return operands[0].valley(_gelu_of if exact else _tanh_gelu_of, LOWEST_GELU)

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        if self.approximate == "none":
            density = EXP(x * x * -0.5) * (1.0 / sqrt(2.0 * pi))
            return (ERF(x * sqrt(0.5)) + 1.0) * 0.5 + x * density
        factor, cubic = sqrt(2.0 / pi), CUBIC
        t = TANH((x + x * x * x * cubic) * factor)
        inner = (x * x * (3.0 * cubic) + 1.0) * factor
        return (t + 1.0) * 0.5 + x * ((t * t) * -1.0 + 1.0) * inner * 0.5

    def source(self, *operands: str) -> str:
        option = "" if self.approximate == "none" else f", approximate={self.approximate!r}"
        return f"F.gelu({operands[0]}{option})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("Gelu", *operands, approximate=self.approximate)


def _gelu_of(x: float) -> float:
    return x * (1.0 + erf(x / sqrt(2.0))) / 2.0


def _tanh_gelu_of(x: float) -> float:
    return x * (1.0 + tanh(sqrt(2.0 / pi) * (x + CUBIC * x**3))) / 2.0


@from_aten(aten.relu.default)
def _relu(x: Array) -> Array:
    return Relu()(x)


@from_aten(aten.hardtanh.default)
def _hardtanh(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    return Clamp(float(low), float(high))(x)


@from_aten(aten.relu6.default)
def _relu6(x: Array) -> Array:
    return Clamp(0.0, 6.0)(x)


@from_aten(aten.clamp.default)
def _clamp(x: Array, low: float | None = None, high: float | None = None) -> Array:
    if low == 0 and high is None:
        return Relu()(x)
    return Clamp(None if low is None else float(low), None if high is None else float(high))(x)


@from_aten(aten.clamp_min.default)
def _clamp_min(x: Array, low: float) -> Array:
    return _clamp(x, low)


@from_aten(aten.clamp_max.default)
def _clamp_max(x: Array, high: float) -> Array:
    return _clamp(x, None, high)


@from_aten(aten.leaky_relu.default)
def _leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return LeakyRelu(float(slope))(x)


@from_aten(aten.prelu.default)
def _prelu(x: Array, slope: Array) -> Array:
    return Prelu()(x, slope)


@from_aten(aten.elu.default)
def _elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    return Elu(float(alpha), float(scale), float(input_scale))(x)


@from_aten(aten.selu.default)
def _selu(x: Array) -> Array:
    # alpha and lambda of Klambauer et al. 2017, in the digits that torch has
    return Elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)(x)


@from_aten(aten.celu.default)
def _celu(x: Array, alpha: float = 1.0) -> Array:
    return Elu(float(alpha), 1.0, 1.0 / alpha)(x)


@from_aten(aten.gelu.default)
def _gelu(x: Array, *, approximate: str = "none") -> Array:
    return Gelu(approximate)(x)


@from_aten(aten.rrelu.default)
def _rrelu(x: Array, low: float = 1.0 / 8, high: float = 1.0 / 3, training: bool = False) -> Array:
    return LeakyRelu((low + high) / 2)(x)
