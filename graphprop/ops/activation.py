"""Elementwise non-linearities. Relevance passes through them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ops.base import Operator, Shape, Sign, from_aten
from graphprop.ops.elementwise import (
    Divide,
    absolute,
    divide_or_zero,
    keep_where,
    negative,
    ones_like,
)
from graphprop.ops.shape import Reshape, Sum, axis_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation(Operator):
    """What all elementwise non-linearities share."""

    relevance: ClassVar[str | None] = "pass"
    bounded: ClassVar[bool] = False
    """Whether the result stays within fixed limits: then it can gate a signal."""
    keeps_sign: ClassVar[bool] = True
    """Whether the result has the sign of the operand."""

    def sign(self, *signs: Sign) -> Sign:
        return signs[0] if self.keeps_sign else Sign.MIXED

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (r * self.slope_at(*operands),)

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        """The derivative at x."""
        raise NotImplementedError(f"the derivative of {self.__name__}")


@dataclass(frozen=True)
class Relu(Activation):
    """``max(x, 0)``."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def sign(self, *signs: Sign) -> Sign:
        return signs[0] & Sign.POSITIVE

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (keep_where(operands[0], ">", r),)

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        return keep_where(x, ">", ones_like(x))

    def source(self, *operands: str) -> str:
        return f"F.relu({operands[0]})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Relu", *operands)


@dataclass(frozen=True)
class Clamp(Activation):
    """``min(max(x, low), high)``: ReLU6, hardtanh."""

    low: float | None = None
    high: float | None = None

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        return self.low is not None and self.high is not None

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high)

    def sign(self, *signs: Sign) -> Sign:
        result = signs[0]
        if self.low is not None:
            result = result & ~Sign.NEGATIVE if self.low >= 0 else result
            result = result | Sign.POSITIVE if self.low > 0 else result
        if self.high is not None:
            result = result & ~Sign.POSITIVE if self.high <= 0 else result
            result = result | Sign.NEGATIVE if self.high < 0 else result
        return result

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        x = operands[0]
        for limit, comparison in ((self.low, ">"), (self.high, "<")):
            if limit is not None:
                r = keep_where(x - limit if limit else x, comparison, r)
        return (r,)

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        return self.gradient(ones_like(x), (x,), ())[0]

    def source(self, *operands: str) -> str:
        limits = {"min": self.low, "max": self.high}
        shown = ", ".join(f"{k}={v!r}" for k, v in limits.items() if v is not None)
        return f"{operands[0]}.clamp({shown})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x = operands[0]
        limits = [None if v is None else graph.number(v, like=x) for v in (self.low, self.high)]
        return graph.node("Clip", x, *limits)


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """``x where x > 0, else slope * x``."""

    slope: float = 0.01

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, self.slope)

    def sign(self, *signs: Sign) -> Sign:
        return signs[0] if self.slope >= 0 else Sign.MIXED

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        one = ones_like(x)
        return keep_where(x, ">", one) + self.slope * keep_where(x, "<=", one)

    def source(self, *operands: str) -> str:
        return f"F.leaky_relu({operands[0]}, {self.slope!r})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("LeakyRelu", *operands, alpha=self.slope)


@dataclass(frozen=True)
class Prelu(Activation):
    """``x where x > 0, else slope * x`` with a learned slope per channel."""

    keeps_sign: ClassVar[bool] = False

    def run(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return F.prelu(x, slope)

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        rank = len(x.shape)
        shape = (-1,) if rank == 2 else (-1, *[1] * (rank - 2))
        one = ones_like(x)
        below = keep_where(x, "<=", one) * Reshape(shape)(parameters[0])
        return keep_where(x, ">", one) + below

    def source(self, *operands: str) -> str:
        return f"F.prelu({', '.join(operands)})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        below = EXP(negative(x) * self.input_scale) * (self.scale * self.alpha * self.input_scale)
        return keep_where(x, ">", ones_like(x)) * self.scale + keep_where(x, "<=", below)

    def source(self, *operands: str) -> str:
        numbers = f"{self.alpha!r}, {self.scale!r}, {self.input_scale!r}"
        return f"torch.ops.aten.elu({operands[0]}, {numbers})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x = operands[0]
        zero = graph.number(0.0, like=x)
        scaled = graph.node("Mul", x, graph.number(self.input_scale, like=x))
        below = graph.node("Elu", graph.node("Min", scaled, zero), alpha=self.alpha)
        total = graph.node("Add", graph.node("Relu", x), below)
        return graph.node("Mul", total, graph.number(self.scale, like=x))


@dataclass(frozen=True)
class Gelu(Activation):
    """``x * Phi(x)``, exact or by the tanh approximation."""

    approximate: str = "none"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate=self.approximate)

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        if self.approximate == "none":
            density = EXP(x * x * -0.5) * (1.0 / sqrt(2.0 * pi))
            return (ERF(x * sqrt(0.5)) + 1.0) * 0.5 + x * density
        factor, cubic = sqrt(2.0 / pi), 0.044715
        t = TANH((x + x * x * x * cubic) * factor)
        inner = (x * x * (3.0 * cubic) + 1.0) * factor
        return (t + 1.0) * 0.5 + x * ((t * t) * -1.0 + 1.0) * inner * 0.5

    def source(self, *operands: str) -> str:
        option = "" if self.approximate == "none" else f", approximate={self.approximate!r}"
        return f"F.gelu({operands[0]}{option})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Gelu", *operands, approximate=self.approximate)


@dataclass(frozen=True)
class Power(Activation):
    """``x ** exponent``, the exponent being a number above zero."""

    exponent: float

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.pow(self.exponent)

    def sign(self, *signs: Sign) -> Sign:
        return signs[0] if self.exponent % 2 == 1 else Sign.POSITIVE

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        if self.exponent == 2:
            return x * 2.0
        return Power(self.exponent - 1)(x) * self.exponent

    def source(self, *operands: str) -> str:
        return f"torch.pow({operands[0]}, {self.exponent!r})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Pow", *operands, self.exponent)


@dataclass(frozen=True)
class Simple(Activation):
    """A non-linearity without parameters that torch and ONNX both know by a name."""

    name: str

    # name: (function, its source, ONNX operator, bounded, keeps the sign, never negative)
    KNOWN: ClassVar[dict[str, tuple[Any, str, str | None, bool, bool, bool]]] = {
        "sigmoid": (torch.sigmoid, "torch.sigmoid", "Sigmoid", True, False, True),
        "tanh": (torch.tanh, "torch.tanh", "Tanh", True, True, False),
        "silu": (F.silu, "F.silu", None, False, True, False),
        "hardswish": (F.hardswish, "F.hardswish", "HardSwish", False, True, False),
        "hardsigmoid": (F.hardsigmoid, "F.hardsigmoid", None, True, False, True),
        "softplus": (F.softplus, "F.softplus", "Softplus", False, False, True),
        "mish": (F.mish, "F.mish", "Mish", False, True, False),
        "softsign": (F.softsign, "F.softsign", "Softsign", True, True, False),
        "exp": (torch.exp, "torch.exp", "Exp", False, False, True),
        "sqrt": (torch.sqrt, "torch.sqrt", "Sqrt", False, True, False),
        "absolute": (torch.abs, "torch.abs", "Abs", False, False, True),
        "erf": (torch.erf, "torch.erf", "Erf", True, True, False),
        "log": (torch.log, "torch.log", "Log", False, False, False),
    }

    def __post_init__(self) -> None:
        if self.name not in self.KNOWN:
            raise ValueError(f"no activation is called {self.name!r}")

    def __str__(self) -> str:
        return self.name

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        return self.KNOWN[self.name][3]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.KNOWN[self.name][0](x)
        return result

    def sign(self, *signs: Sign) -> Sign:
        *_, keeps_sign, never_negative = self.KNOWN[self.name]
        return Sign.POSITIVE if never_negative else signs[0] if keeps_sign else Sign.MIXED

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        return SLOPES[self.name](x)

    def source(self, *operands: str) -> str:
        return f"{self.KNOWN[self.name][1]}({operands[0]})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x = operands[0]
        if self.name == "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        if self.name == "hardsigmoid":
            return graph.node("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)
        return graph.node(self.KNOWN[self.name][2], x)


EXP, ERF, TANH = Simple("exp"), Simple("erf"), Simple("tanh")
SIGMOID, SOFTPLUS = Simple("sigmoid"), Simple("softplus")


def _between(x: Any, low: float, high: float, value: Any) -> Any:
    return keep_where(x - low, ">", keep_where(x - high, "<", value))


def _logistic(x: Any) -> Any:
    return SIGMOID(x) * SIGMOID(-x)


def _hardswish(x: Any) -> Any:
    return _between(x, -3.0, 3.0, x * (1.0 / 3.0) + 0.5) + keep_where(x - 3.0, ">=", ones_like(x))


def _mish(x: Any) -> Any:
    t = TANH(SOFTPLUS(x))
    return t + x * SIGMOID(x) * (1.0 - t * t)


def _softsign(x: Any) -> Any:
    width = absolute(x) + 1.0
    return ones_like(x) / (width * width)


SLOPES: dict[str, Callable[[Any], Any]] = {
    "sigmoid": _logistic,
    "tanh": lambda x: 1.0 - TANH(x) * TANH(x),
    "silu": lambda x: SIGMOID(x) + x * _logistic(x),
    "hardswish": _hardswish,
    "hardsigmoid": lambda x: _between(x, -3.0, 3.0, ones_like(x)) * (1.0 / 6.0),
    "softplus": SIGMOID,
    "mish": _mish,
    "softsign": _softsign,
    "exp": EXP,
    "sqrt": lambda x: divide_or_zero(ones_like(x), Simple("sqrt")(x)) * 0.5,
    "absolute": lambda x: keep_where(x, ">", ones_like(x)) - keep_where(x, "<", ones_like(x)),
    "erf": lambda x: EXP(x * x * -1.0) * (2.0 / sqrt(pi)),
    "log": lambda x: divide_or_zero(ones_like(x), x),
}
"""The derivatives of the non-linearities without parameters; where infinite, zero."""


@dataclass(frozen=True)
class Softmax(Operator):
    """``exp(x) / sum exp(x)`` along an axis: a gate, or the end of a network (then removed)."""

    axis: int
    relevance: ClassVar[str | None] = "pass"
    bounded: ClassVar[bool] = True

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.axis)

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        share = self(operands[0])
        return (share * (r - Sum((self.axis,))(share * r)),)

    def sign(self, *signs: Sign) -> Sign:
        return Sign.POSITIVE

    def source(self, *operands: str) -> str:
        return f"torch.softmax({operands[0]}, {self.axis})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Softmax", *operands, axis=self.axis)


@dataclass(frozen=True)
class LogSoftmax(Softmax):
    """The logarithm of `Softmax`; no gate."""

    bounded: ClassVar[bool] = False

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, self.axis)

    def sign(self, *signs: Sign) -> Sign:
        return Sign.NEGATIVE

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (r - Softmax(self.axis)(operands[0]) * Sum((self.axis,))(r),)

    def source(self, *operands: str) -> str:
        return f"torch.log_softmax({operands[0]}, {self.axis})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("LogSoftmax", *operands, axis=self.axis)


@from_aten(aten.relu.default)
def _relu(x: Any) -> Any:
    return Relu()(x)


@from_aten(aten.hardtanh.default)
def _hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    return Clamp(float(low), float(high))(x)


@from_aten(aten.relu6.default)
def _relu6(x: Any) -> Any:
    return Clamp(0.0, 6.0)(x)


@from_aten(aten.clamp.default)
def _clamp(x: Any, low: float | None = None, high: float | None = None) -> Any:
    if low == 0 and high is None:
        return Relu()(x)
    return Clamp(None if low is None else float(low), None if high is None else float(high))(x)


@from_aten(aten.clamp_min.default)
def _clamp_min(x: Any, low: float) -> Any:
    return _clamp(x, low)


@from_aten(aten.clamp_max.default)
def _clamp_max(x: Any, high: float) -> Any:
    return _clamp(x, None, high)


@from_aten(aten.leaky_relu.default)
def _leaky_relu(x: Any, slope: float = 0.01) -> Any:
    return LeakyRelu(float(slope))(x)


@from_aten(aten.prelu.default)
def _prelu(x: Any, slope: Any) -> Any:
    return Prelu()(x, slope)


@from_aten(aten.elu.default)
def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    return Elu(float(alpha), float(scale), float(input_scale))(x)


@from_aten(aten.selu.default)
def _selu(x: Any) -> Any:
    return Elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)(x)


@from_aten(aten.celu.default)
def _celu(x: Any, alpha: float = 1.0) -> Any:
    return Elu(float(alpha), 1.0, 1.0 / alpha)(x)


@from_aten(aten.gelu.default)
def _gelu(x: Any, *, approximate: str = "none") -> Any:
    return Gelu(approximate)(x)


@from_aten(aten.softplus.default)
def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if threshold < 20:
        raise UnsupportedOperator(
            f"a softplus that is cut to the identity at {threshold} has a jump there: "
            "leave its threshold at 20"
        )
    if beta == 1:
        return Simple("softplus")(x)
    return Simple("softplus")(x * float(beta)) * (1.0 / beta)


def _simple(name: str) -> Any:
    return lambda x: Simple(name)(x)


for _name in (
    *("sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "mish"),
    *("exp", "log", "sqrt", "erf"),
):
    from_aten(getattr(aten, _name).default)(_simple(_name))
from_aten(aten.abs.default)(_simple("absolute"))


@from_aten(aten.pow.Tensor_Scalar)
def _pow(x: Any, exponent: float) -> Any:
    if exponent < 0:
        return Divide()(1.0, _pow(x, -exponent))
    if exponent == 0.5:
        return Simple("sqrt")(x)
    return x if exponent == 1 else Power(float(exponent))(x)


@from_aten(aten.pow.Tensor_Tensor)
def _pow_tensor(x: Any, exponent: Any) -> Any:
    if isinstance(x, torch.Tensor) or not isinstance(exponent, torch.Tensor):
        raise UnsupportedOperator("an exponent that depends on the input has no relevance rule")
    if exponent.numel() > 1:
        raise UnsupportedOperator("a power has a relevance rule where its exponent is one number")
    return _pow(x, exponent.item())


@from_aten(aten.square.default)
def _square(x: Any) -> Any:
    return Power(2.0)(x)


@from_aten(aten.rsqrt.default)
def _rsqrt(x: Any) -> Any:
    return Divide()(1.0, Simple("sqrt")(x))


@from_aten(aten.softmax.int, aten._softmax.default)
def _softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return Softmax(axis_of(axis, x))(x)


@from_aten(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return LogSoftmax(axis_of(axis, x))(x)
