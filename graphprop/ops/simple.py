"""Elementwise non-linearities without parameters. Relevance passes through them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import copysign, erf, exp, expm1, inf, log, log1p, pi, sqrt, tanh
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import Interval
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand, Value
from graphprop.ops.base import Array, Operator, from_aten, is_value
from graphprop.ops.elementwise import absolute
from graphprop.ops.guarded import divide_or_zero, keep_where
from graphprop.ops.ones import ones_like
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation(Operator):
    """What all elementwise non-linearities share."""

    relevance: ClassVar[str | None] = "pass"
    traits: ClassVar[Trait] = Trait.ENTRYWISE

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (r * self.slope_at(*operands),)

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        """The derivative at x."""
        raise NotImplementedError(f"the derivative of {self.__name__}")


@dataclass(frozen=True)
class Function:
    """All that is known of one non-linearity.

    Attributes
    ----------
    run, source
        The function of torch, and how generated source calls it.
    onnx
        The ONNX operator, or what writes its nodes.
    interval
        Its image of an interval.
    slope
        Its derivative; 0 where that is infinite.
    traits, squashes
        As in `Operator`.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    source: str
    onnx: str | Callable[[OnnxWriter, ir.Value], ir.Value]
    interval: Callable[[Interval], Interval]
    slope: Callable[[Array], Array]
    traits: Trait = Trait.ENTRYWISE
    squashes: str = ""


@dataclass(frozen=True)
class Simple(Activation):
    """A non-linearity without parameters, by its name in `KNOWN`."""

    name: str

    KNOWN: ClassVar[dict[str, Function]] = {}

    def __post_init__(self) -> None:
        if self.name not in self.KNOWN:
            raise ValueError(f"no activation is called {self.name!r}")

    def __str__(self) -> str:
        return self.name

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def function(self) -> Function:
        """What is known of it."""
        return self.KNOWN[self.name]

    @property
    def squashes(self) -> str:  # type: ignore[override]
        return self.function.squashes

    def has(self, trait: Trait) -> bool:
        return trait in self.function.traits

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self.function.run(x)

    def interval(self, *operands: Interval) -> Interval:
        return self.function.interval(operands[0])

    def slope_at(self, x: Array, *parameters: Array) -> Array:
        return self.function.slope(x)

    def source(self, *operands: str) -> str:
        return f"{self.function.source}({operands[0]})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        form = self.function.onnx
        return graph.node(form, operands[0]) if isinstance(form, str) else form(graph, operands[0])


# What the functions are at one number, for the bounds of an interval; at infinity, their limits.


def _sigmoid_of(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x >= 0 else exp(x) / (1.0 + exp(x))


def _silu_of(x: float) -> float:
    return x * _sigmoid_of(x)


def _hardswish_of(x: float) -> float:
    return x * _hardsigmoid_of(x)


def _hardsigmoid_of(x: float) -> float:
    return min(max(x / 6.0 + 0.5, 0.0), 1.0)


def _softplus_of(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))


def _mish_of(x: float) -> float:
    return x * tanh(_softplus_of(x))


def _softsign_of(x: float) -> float:
    return x / (1.0 + abs(x)) if abs(x) < inf else copysign(1.0, x)


def _log_of(x: float) -> float:
    return log(x) if x > 0 else -inf


def _log1p_of(x: float) -> float:
    return log1p(x) if x > -1 else -inf


# The lowest points of functions that dip below zero, rounded down in the last digit shown; that of
# hardswish, at -1.5, is exact.

LOWEST_SILU, LOWEST_HARDSWISH, LOWEST_MISH = -0.27847, -0.375, -0.30885


# Derivatives


def _between(x: Array, low: float, high: float, value: Array) -> Array:
    return keep_where(x - low, ">", keep_where(x - high, "<", value))


def _logistic(x: Array) -> Array:
    return SIGMOID(x) * SIGMOID(-x)


def _hardswish(x: Array) -> Array:
    return _between(x, -3.0, 3.0, x * (1.0 / 3.0) + 0.5) + keep_where(x - 3.0, ">=", ones_like(x))


def _mish(x: Array) -> Array:
    t = TANH(SOFTPLUS(x))
    return t + x * SIGMOID(x) * (1.0 - t * t)


def _softsign(x: Array) -> Array:
    width = absolute(x) + 1.0
    return ones_like(x) / (width * width)


# ONNX, where there is no operator of that name in the opset, or it is less exact


def _onnx_silu(graph: OnnxWriter, x: ir.Value) -> ir.Value:
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _onnx_hardsigmoid(graph: OnnxWriter, x: ir.Value) -> ir.Value:
    return graph.node("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)


def _onnx_logsigmoid(graph: OnnxWriter, x: ir.Value) -> ir.Value:
    return graph.node("Neg", graph.node("Softplus", graph.node("Neg", x)))


def _onnx_expm1(graph: OnnxWriter, x: ir.Value) -> ir.Value:
    """``tanh(x / 2) * (exp(x) + 1)``: exp(x) - 1 loses the digits of a small x."""
    half = graph.node("Tanh", graph.node("Mul", x, 0.5))
    return graph.node("Mul", half, graph.node("Add", graph.node("Exp", x), 1.0))


def _onnx_log1p(graph: OnnxWriter, x: ir.Value) -> ir.Value:
    """``log(u) * x / (u - 1)`` with u = 1 + x rounded, or x: log(1 + x) loses its digits."""
    one = graph.number(1.0, like=x)
    u = graph.node("Add", x, one)
    quotient = graph.node("Div", x, graph.node("Sub", u, one))
    product = graph.node("Mul", graph.node("Log", u), quotient)
    return graph.node("Where", graph.node("Equal", u, one), x, product)


ORDERED = Trait.ENTRYWISE | Trait.ORDER_PRESERVING
POOLED = Trait.ENTRYWISE | Trait.POOLED_ARITHMETIC

Simple.KNOWN.update(
    sigmoid=Function(
        torch.sigmoid,
        "torch.sigmoid",
        "Sigmoid",
        lambda x: x.monotone(_sigmoid_of, 0.0, 1.0),
        _logistic,
        squashes="sigmoid",
    ),
    tanh=Function(
        torch.tanh,
        "torch.tanh",
        "Tanh",
        lambda x: x.monotone(tanh, -1.0, 1.0),
        lambda x: 1.0 - TANH(x) * TANH(x),
    ),
    silu=Function(
        F.silu,
        "F.silu",
        _onnx_silu,
        lambda x: x.valley(_silu_of, LOWEST_SILU),
        lambda x: SIGMOID(x) + x * _logistic(x),
    ),
    hardswish=Function(
        F.hardswish,
        "F.hardswish",
        "HardSwish",
        lambda x: x.valley(_hardswish_of, LOWEST_HARDSWISH),
        _hardswish,
    ),
    hardsigmoid=Function(
        F.hardsigmoid,
        "F.hardsigmoid",
        _onnx_hardsigmoid,
        lambda x: x.monotone(_hardsigmoid_of, 0.0, 1.0),
        lambda x: _between(x, -3.0, 3.0, ones_like(x)) * (1.0 / 6.0),
    ),
    softplus=Function(
        F.softplus,
        "F.softplus",
        "Softplus",
        lambda x: x.monotone(_softplus_of, 0.0),
        lambda x: SIGMOID(x),
    ),
    mish=Function(F.mish, "F.mish", "Mish", lambda x: x.valley(_mish_of, LOWEST_MISH), _mish),
    softsign=Function(
        F.softsign,
        "F.softsign",
        "Softsign",
        lambda x: x.monotone(_softsign_of, -1.0, 1.0),
        _softsign,
    ),
    exp=Function(
        torch.exp, "torch.exp", "Exp", lambda x: x.monotone(exp, 0.0), lambda x: EXP(x), POOLED
    ),
    sqrt=Function(
        torch.sqrt,
        "torch.sqrt",
        "Sqrt",
        lambda x: x.clipped(low=0.0).monotone(sqrt),
        lambda x: divide_or_zero(ones_like(x), Simple("sqrt")(x)) * 0.5,
        ORDERED | POOLED,
    ),
    absolute=Function(
        torch.abs,
        "torch.abs",
        "Abs",
        Interval.size,
        lambda x: keep_where(x, ">", ones_like(x)) - keep_where(x, "<", ones_like(x)),
        POOLED,
    ),
    erf=Function(
        torch.erf,
        "torch.erf",
        "Erf",
        lambda x: x.monotone(erf, -1.0, 1.0),
        lambda x: EXP(x * x * -1.0) * (2.0 / sqrt(pi)),
    ),
    log1p=Function(
        torch.log1p,
        "torch.log1p",
        _onnx_log1p,
        lambda x: x.clipped(low=-1.0).monotone(_log1p_of),
        lambda x: divide_or_zero(ones_like(x), x + 1.0),
        ORDERED,
    ),
    expm1=Function(
        torch.expm1,
        "torch.expm1",
        _onnx_expm1,
        lambda x: x.monotone(expm1, -1.0),
        lambda x: EXP(x),
    ),
    logsigmoid=Function(
        F.logsigmoid,
        "F.logsigmoid",
        _onnx_logsigmoid,
        lambda x: x.monotone(lambda v: -_softplus_of(-v), high=0.0),
        lambda x: SIGMOID(-x),
        squashes="log-sigmoid",
    ),
    log=Function(
        torch.log,
        "torch.log",
        "Log",
        lambda x: x.clipped(low=0.0).monotone(_log_of),
        lambda x: divide_or_zero(ones_like(x), x),
        ORDERED | POOLED,
    ),
)

EXP: Simple = Simple("exp")
ERF: Simple = Simple("erf")
TANH: Simple = Simple("tanh")
SIGMOID: Simple = Simple("sigmoid")
SOFTPLUS: Simple = Simple("softplus")


def _simple(name: str) -> Callable[[Array], Array]:
    return lambda x: Simple(name)(x)


for _name in (
    *("sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "mish"),
    *("exp", "log", "sqrt", "erf", "log1p", "expm1"),
):
    from_aten(getattr(aten, _name).default)(_simple(_name))
from_aten(aten.abs.default)(_simple("absolute"))
from_aten(aten.log_sigmoid.default)(_simple("logsigmoid"))


@from_aten(aten.softplus.default)
def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    # torch's default: above 20 the softplus equals the identity in float32, and log1p(exp(x)) is it
    if threshold < 20:
        raise UnsupportedOperator(
            f"a softplus that is cut to the identity at {threshold} has a jump there: "
            "leave its threshold at 20"
        )
    if beta == 1:
        return SOFTPLUS(x)
    return SOFTPLUS(x * float(beta)) * (1.0 / beta)


# The sigmoid in arithmetic


def sigmoid_written_out(numerator: Operand, denominator: Operand) -> Value | None:
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


def exponential_plus_one(x: Operand) -> Value | None:
    """The exponential e of ``1 + e``, or None."""
    if not is_value(x) or getattr(x.node.target, "__name__", "") != "add":
        return None
    numbers = [a for a in x.node.args if isinstance(a, float | int)]
    values = [a for a in x.node.args if getattr(a, "target", None) == EXP]
    if numbers != [1] or len(values) != 1:
        return None
    return Value(values[0], x.tracer)


def operand_of(x: Value) -> Value:
    """The first operand of a value's operator, as a value."""
    return Value(x.node.args[0], x.tracer)
