"""Elementwise non-linearities. Relevance passes through them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import copysign, erf, exp, expm1, inf, log, log1p, pi, sqrt, tanh
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import (
    NON_POSITIVE,
    ONE,
    UNIT,
    Interval,
)
from graphprop.ir.operation import Shape
from graphprop.ops.base import Operator, from_aten
from graphprop.ops.elementwise import (
    Divide,
    absolute,
    divide_or_zero,
    keep_where,
    negative,
    ones_like,
)
from graphprop.ops.shape import Reshape, Sum, axis_of, filled
from graphprop.ops.traits import Trait

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation(Operator):
    """What all elementwise non-linearities share."""

    relevance: ClassVar[str | None] = "pass"
    traits: ClassVar[Trait] = Trait.ENTRYWISE

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

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].clipped(low=0.0)

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
    traits: ClassVar[Trait] = Trait.ENTRYWISE | Trait.ORDER_PRESERVING

    def has(self, trait: Trait) -> bool:
        if trait is Trait.POOLED_ARITHMETIC:
            # it keeps a generalized pooling away from zero, where the root has no slope
            return self.high is None and self.low is not None and self.low > 0
        return super().has(trait)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high)

    def interval(self, *operands: Interval) -> Interval:
        low = -inf if self.low is None else self.low
        return operands[0].clipped(low, inf if self.high is None else self.high).widened()

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

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        return x.clipped(low=0.0) | x.clipped(high=0.0).times(self.slope)

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

    def run(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return F.prelu(x, slope)

    def interval(self, *operands: Interval) -> Interval:
        x, slope = operands
        return x.clipped(low=0.0) | x.clipped(high=0.0) * slope

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

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        factor = self.scale * self.alpha
        below = x.clipped(high=0.0).times(self.input_scale).monotone(expm1).times(factor)
        return x.clipped(low=0.0).times(self.scale) | below

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

    def interval(self, *operands: Interval) -> Interval:
        exact = self.approximate == "none"
        return operands[0].valley(_gelu_of if exact else _tanh_gelu_of, -0.17005)

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

    def slope_at(self, x: Any, *parameters: Any) -> Any:
        if self.exponent == 2:
            return x * 2.0
        return Power(self.exponent - 1)(x) * self.exponent

    def source(self, *operands: str) -> str:
        return f"torch.pow({operands[0]}, {self.exponent!r})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Pow", *operands, self.exponent)


# What the functions are at one number, for the bounds of an interval; at infinity, their limits.


def _sigmoid_of(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x >= 0 else exp(x) / (1.0 + exp(x))


def _silu_of(x: float) -> float:
    return x * _sigmoid_of(x)


def _gelu_of(x: float) -> float:
    return x * (1.0 + erf(x / sqrt(2.0))) / 2.0


def _tanh_gelu_of(x: float) -> float:
    return x * (1.0 + tanh(sqrt(2.0 / pi) * (x + 0.044715 * x**3))) / 2.0


def _hardswish_of(x: float) -> float:
    return x * min(max(x / 6.0 + 0.5, 0.0), 1.0)


def _softplus_of(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))


def _mish_of(x: float) -> float:
    return x * tanh(_softplus_of(x))


def _softsign_of(x: float) -> float:
    return x / (1.0 + abs(x)) if abs(x) < inf else copysign(1.0, x)


def _log_of(x: float) -> float:
    return log(x) if x > 0 else -inf


@dataclass(frozen=True)
class Simple(Activation):
    """A non-linearity without parameters that torch and ONNX both know by a name."""

    name: str

    # name: (function, its source, ONNX operator, interval)
    KNOWN: ClassVar[dict[str, tuple[Any, str, str | None, Callable[[Interval], Interval]]]] = {
        "sigmoid": (
            torch.sigmoid,
            "torch.sigmoid",
            "Sigmoid",
            lambda x: x.monotone(_sigmoid_of, 0.0, 1.0),
        ),
        "tanh": (torch.tanh, "torch.tanh", "Tanh", lambda x: x.monotone(tanh, -1.0, 1.0)),
        "silu": (F.silu, "F.silu", None, lambda x: x.valley(_silu_of, -0.27847)),
        "hardswish": (
            F.hardswish,
            "F.hardswish",
            "HardSwish",
            lambda x: x.valley(_hardswish_of, -0.375),
        ),
        "hardsigmoid": (
            F.hardsigmoid,
            "F.hardsigmoid",
            None,
            lambda x: x.monotone(lambda v: min(max(v / 6 + 0.5, 0.0), 1.0), 0.0, 1.0),
        ),
        "softplus": (
            F.softplus,
            "F.softplus",
            "Softplus",
            lambda x: x.monotone(_softplus_of, 0.0),
        ),
        "mish": (F.mish, "F.mish", "Mish", lambda x: x.valley(_mish_of, -0.30885)),
        "softsign": (
            F.softsign,
            "F.softsign",
            "Softsign",
            lambda x: x.monotone(_softsign_of, -1.0, 1.0),
        ),
        "exp": (torch.exp, "torch.exp", "Exp", lambda x: x.monotone(exp, 0.0)),
        "sqrt": (torch.sqrt, "torch.sqrt", "Sqrt", lambda x: x.clipped(low=0.0).monotone(sqrt)),
        "absolute": (torch.abs, "torch.abs", "Abs", Interval.size),
        "erf": (torch.erf, "torch.erf", "Erf", lambda x: x.monotone(erf, -1.0, 1.0)),
        "log1p": (
            torch.log1p,
            "torch.log1p",
            None,
            lambda x: x.clipped(low=-1.0).monotone(lambda v: log1p(v) if v > -1 else -inf),
        ),
        "expm1": (torch.expm1, "torch.expm1", None, lambda x: x.monotone(expm1, -1.0)),
        "logsigmoid": (
            F.logsigmoid,
            "F.logsigmoid",
            None,
            lambda x: x.monotone(lambda v: -_softplus_of(-v), high=0.0),
        ),
        "log": (torch.log, "torch.log", "Log", lambda x: x.clipped(low=0.0).monotone(_log_of)),
    }

    def __post_init__(self) -> None:
        if self.name not in self.KNOWN:
            raise ValueError(f"no activation is called {self.name!r}")

    def __str__(self) -> str:
        return self.name

    @property
    def __name__(self) -> str:
        return self.name

    def run(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.KNOWN[self.name][0](x)
        return result

    def interval(self, *operands: Interval) -> Interval:
        return self.KNOWN[self.name][3](operands[0])

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
        if self.name == "logsigmoid":
            return graph.node("Neg", graph.node("Softplus", graph.node("Neg", x)))
        if self.name == "expm1":
            # exp(x) - 1 loses the digits of a small x
            half = graph.node("Tanh", graph.node("Mul", x, 0.5))
            return graph.node("Mul", half, graph.node("Add", graph.node("Exp", x), 1.0))
        if self.name == "log1p":
            return self._onnx_log1p(graph, x)
        return graph.node(self.KNOWN[self.name][2], x)

    def _onnx_log1p(self, graph: Any, x: Any) -> Any:
        """``log(u) * x / (u - 1)`` with u = 1 + x rounded, or x: log(1 + x) loses its digits."""
        one = graph.number(1.0, like=x)
        u = graph.node("Add", x, one)
        quotient = graph.node("Div", x, graph.node("Sub", u, one))
        product = graph.node("Mul", graph.node("Log", u), quotient)
        return graph.node("Where", graph.node("Equal", u, one), x, product)


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
    "log1p": lambda x: divide_or_zero(ones_like(x), x + 1.0),
    "expm1": EXP,
    "logsigmoid": lambda x: SIGMOID(-x),
}
"""The derivatives of the non-linearities without parameters; where infinite, zero."""


@dataclass(frozen=True)
class Softmax(Operator):
    """``exp(x) / sum exp(x)`` along an axis: a gate, or the end of a network (then removed)."""

    axis: int
    relevance: ClassVar[str | None] = "pass"
    squashes: ClassVar[str] = "softmax"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, self.axis)

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        share = self(operands[0])
        return (share * (r - Sum((self.axis,))(share * r)),)

    def interval(self, *operands: Interval) -> Interval:
        return UNIT

    def source(self, *operands: str) -> str:
        return f"torch.softmax({operands[0]}, {self.axis})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return graph.node("Softmax", *operands, axis=self.axis)


@dataclass(frozen=True)
class LogSoftmax(Softmax):
    """The logarithm of `Softmax`; no gate."""

    squashes: ClassVar[str] = "log-softmax"

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, self.axis)

    def interval(self, *operands: Interval) -> Interval:
        return NON_POSITIVE

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
    *("exp", "log", "sqrt", "erf", "log1p", "expm1"),
):
    from_aten(getattr(aten, _name).default)(_simple(_name))
from_aten(aten.abs.default)(_simple("absolute"))
from_aten(aten.log_sigmoid.default)(_simple("logsigmoid"))


@from_aten(aten.rrelu.default)
def _rrelu(x: Any, low: float = 1.0 / 8, high: float = 1.0 / 3, training: bool = False) -> Any:
    return LeakyRelu((low + high) / 2)(x)


@from_aten(aten.pow.Tensor_Scalar)
def _pow(x: Any, exponent: float) -> Any:
    if exponent == -1:
        return reciprocal(x)
    if exponent == 0:
        return filled(x, x.shape, 1, None)
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
    return Power(-0.5)(x)


def reciprocal(x: Any) -> Any:
    """``1 / x``, or what it spells: a sigmoid, a power."""
    found = sigmoid_written_out(1.0, x)
    return Divide()(1.0, x) if found is None else found


def sigmoid_written_out(numerator: Any, denominator: Any) -> Any:
    """The sigmoid that ``1 / (1 + exp(-x))`` or ``exp(x) / (1 + exp(x))`` spells, or None."""
    exponential = exponential_plus_one(denominator)
    if exponential is None:
        return None
    if getattr(numerator, "node", None) is exponential.node:
        return SIGMOID(operand_of(exponential))
    is_one = numerator == 1 if isinstance(numerator, float | int) else False
    if isinstance(numerator, torch.Tensor):
        is_one = numerator.numel() == 1 and bool((numerator == 1).all())
    x = operand_of(exponential)
    target, operands = x.node.target, x.node.args
    negated = getattr(target, "__name__", "") == "negate"
    negated = negated or (getattr(target, "__name__", "") == "multiply" and operands[1] == -1)
    return SIGMOID(operand_of(x)) if is_one and negated else None


def exponential_plus_one(x: Any) -> Any:
    """The exponential e of ``1 + e``, or None."""
    if not hasattr(x, "tracer") or getattr(x.node.target, "__name__", "") != "add":
        return None
    numbers = [a for a in x.node.args if isinstance(a, float | int)]
    values = [a for a in x.node.args if getattr(a, "target", None) == EXP]
    if numbers != [1] or len(values) != 1:
        return None
    return type(x)(values[0], x.tracer)


def operand_of(x: Any) -> Any:
    """The first operand of a value's operator, as a value."""
    return type(x)(x.node.args[0], x.tracer)


@from_aten(aten.softmax.int, aten._softmax.default)
def _softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return Softmax(axis_of(axis, x))(x)


@from_aten(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return LogSoftmax(axis_of(axis, x))(x)
