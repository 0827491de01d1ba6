"""Simplify: what need not be computed. One table, each entry with its reason.

Signs pay here: where x >= 0, its negative part is zero, and with it half of alpha-beta and gamma
disappears; where a denominator is known to be positive, its stabilizer is a plain sum.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from torch import fx

from graphprop.ir.facts import facts_of, range_of, shape_of
from graphprop.ir.interval import ZERO
from graphprop.ir.network import Network
from graphprop.ir.rewrite import Replacement, RewriteTable
from graphprop.ir.writer import Value, Writer
from graphprop.ops import (
    Absolute,
    AdaptiveMaxPool,
    Add,
    AddBias,
    Conv,
    ConvTranspose,
    Divide,
    DivideOrZero,
    Expand,
    Item,
    MaxPool,
    Multiply,
    Negative,
    Ones,
    OnesLike,
    Operator,
    Positive,
    Stabilize,
    Subtract,
    Sum,
)

SIMPLIFY = RewriteTable()


def simplify(network: Network) -> Counter[str]:
    """Simplify a lowered network in place; say how often each rule fired."""
    return SIMPLIFY.apply(network)


def is_zero(operand: Any) -> bool:
    """Whether an operand is zero everywhere."""
    return range_of(operand) == ZERO


def same_shape(operand: Any, node: fx.Node) -> bool:
    """Whether an operand alone already has a node's shape."""
    return isinstance(operand, fx.Node) and shape_of(operand) == shape_of(node)


@SIMPLIFY.rule("clamp of a known sign", Positive)
def _positive(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).low >= 0 else None


@SIMPLIFY.rule("clamp of a known sign", Negative)
def _negative(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).high <= 0 else None


@SIMPLIFY.rule("absolute value of a known sign", Absolute)
def _absolute(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).low >= 0 else None


@SIMPLIFY.rule("stabilizer of a known sign", Stabilize)
def _stabilize(node: fx.Node, writer: Writer) -> Replacement:
    z = node.args[0]
    if range_of(z).low < 0:
        return None
    return writer.write(Add(), (z, node.target.epsilon))


@SIMPLIFY.rule("sum with zero", Add)
def _add_zero(node: fx.Node, writer: Writer) -> Replacement:
    if len(node.args) != 2:
        return None
    first, second = node.args
    if is_zero(second) and same_shape(first, node):
        return first
    if is_zero(first) and same_shape(second, node):
        return second
    return None


@SIMPLIFY.rule("difference with zero", Subtract)
def _subtract_zero(node: fx.Node, writer: Writer) -> Replacement:
    first, second = node.args
    return first if is_zero(second) and same_shape(first, node) else None


@SIMPLIFY.rule("product with one", Multiply)
def _multiply_one(node: fx.Node, writer: Writer) -> Replacement:
    first, second = node.args
    if is_number(second, 1.0) and same_shape(first, node):
        return first
    if is_number(first, 1.0) and same_shape(second, node):
        return second
    return None


@SIMPLIFY.rule("common factor", Add, Subtract)
def _common_factor(node: fx.Node, writer: Writer) -> Replacement:
    if len(node.args) != 2:
        return None
    first, second = node.args
    if not (is_call(first, Multiply) and is_call(second, Multiply)):
        return None
    if len(first.users) > 1 or len(second.users) > 1 or first is second:
        return None
    for index, factor in enumerate(first.args):
        if isinstance(factor, fx.Node) and same_shape(factor, node) and factor in second.args:
            rest = first.args[1 - index], second.args[1 - second.args.index(factor)]
            inner = writer.write(node.target, tuple(_values(rest, writer)))
            return Value(factor, writer) * inner
    return None


@SIMPLIFY.rule("stabilizer inside the bias", Add)
def _stabilizer_inside(node: fx.Node, writer: Writer) -> Replacement:
    if len(node.args) != 2:
        return None
    z, epsilon = node.args
    if not isinstance(epsilon, float) or not isinstance(z, fx.Node) or len(z.users) > 1:
        return None
    if is_call(z, AddBias):
        inner, bias = _values(z.args, writer)
        return z.target(inner, bias + epsilon)
    if is_call(z, Conv) and len(z.args) == 2 and facts_of(z).batched:
        inner, weight = _values(z.args, writer)
        bias = Ones((shape_of(z)[1],))(weight) * epsilon
        return AddBias(z.target.channel_axis)(z.target(inner, weight), bias)
    return None


@SIMPLIFY.rule("channels summed before the quotient", Sum)
def _sum_first(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    if not (is_call(x, Divide) or is_call(x, DivideOrZero)) or len(x.users) > 1:
        return None
    numerator, denominator = x.args
    if not (isinstance(numerator, fx.Node) and isinstance(denominator, fx.Node)):
        return None
    narrow = all(shape_of(denominator)[axis] == 1 for axis in node.target.axes)
    if not narrow or shape_of(numerator) != shape_of(x):
        return None
    return x.target(node.target(Value(numerator, writer)), Value(denominator, writer))


def is_call(operand: Any, kind: type[Operator]) -> bool:
    """Whether an operand is the result of an operator."""
    return (
        isinstance(operand, fx.Node)
        and operand.op == "call_function"
        and isinstance(operand.target, kind)
    )


def _values(operands: Any, writer: Writer) -> list[Any]:
    return [Value(a, writer) if isinstance(a, fx.Node) else a for a in operands]


def is_number(operand: Any, number: float) -> bool:
    """Whether an operand is a given number."""
    return isinstance(operand, float | int) and operand == number


@SIMPLIFY.rule("winners that nobody asks for", Item)
def _without_indices(node: fx.Node, writer: Writer) -> Replacement:
    pool = node.args[0]
    if node.target.index != 0 or len(pool.users) > 1:
        return None
    if not isinstance(pool.target, MaxPool | AdaptiveMaxPool):
        return None
    return writer.write(replace(pool.target, indices=False), (Value(pool.args[0], writer),))


@SIMPLIFY.rule("ones through one channel", Conv)
def _ones_in(node: fx.Node, writer: Writer) -> Replacement:
    image, weight = node.args[:2]
    if not (is_call(image, Ones) and is_call(weight, OnesLike)):
        return None
    if len(node.args) > 2 or shape_of(weight)[0] == 1:
        return None
    size, kernel = shape_of(image)[2:], shape_of(weight)[2:]
    like = Value(weight.args[0], writer)
    one = Conv(node.target.stride, node.target.padding, node.target.dilation)
    counts = one(Ones((1, 1, *size))(like), Ones((1, 1, *kernel))(like))
    return counts * float(shape_of(weight)[1])


@SIMPLIFY.rule("ones back through one channel", ConvTranspose)
def _ones_back(node: fx.Node, writer: Writer) -> Replacement:
    r, weight = node.args[:2]
    if not is_call(weight, OnesLike) or node.target.groups != 1:
        return None
    if len(node.args) > 2 or shape_of(weight)[:2] == (1, 1):
        return None
    kernel = shape_of(weight)[2:]
    total = Sum((1,))(Value(r, writer))
    spread = node.target(total, Ones((1, 1, *kernel))(Value(weight.args[0], writer)))
    return Expand(shape_of(node))(spread)


@SIMPLIFY.rule("bias of nothing", AddBias)
def _no_bias(node: fx.Node, writer: Writer) -> Replacement:
    z, bias = node.args
    return z if is_zero(bias) and isinstance(z, fx.Node) else None
