"""Simplify: leave out what need not be computed. One table of rewrites.

Known signs pay off here: where x >= 0, its negative part is zero, and half of alpha-beta and gamma
disappears; where a denominator is known to be positive, its stabilizer is a plain sum.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from graphprop.ir.facts import facts_of, range_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.rewrite import (
    Refusal,
    Replacement,
    RewriteTable,
    is_call,
    is_number,
    is_zero,
    same_shape,
)
from graphprop.ir.writer import Writer
from graphprop.lowering.naming import name_values
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
    KeepWhere,
    Mask,
    MaxPool,
    Multiply,
    Negative,
    Ones,
    OnesLike,
    Positive,
    Stabilize,
    Subtract,
    Sum,
)

SIMPLIFY = RewriteTable()


def simplify(network: Network) -> Network:
    """Simplify a lowered network in place, and name what is left by what it is."""
    SIMPLIFY.apply(network)
    name_values(network)
    return network


def sign_unknown(x: fx.Node) -> Refusal | None:
    """Refuse what needs a sign; of a parameter it is never known, and that is not worth a line."""
    return Refusal(f"its operand lies in {range_of(x)}") if facts_of(x).batched else None


@SIMPLIFY.rule("clamp of a known sign", Positive)
def _positive(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).low >= 0 else sign_unknown(x)


@SIMPLIFY.rule("clamp of a known sign", Negative)
def _negative(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).high <= 0 else sign_unknown(x)


@SIMPLIFY.rule("absolute value of a known sign", Absolute)
def _absolute(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    return x if range_of(x).low >= 0 else sign_unknown(x)


@SIMPLIFY.rule("stabilizer of a known sign", Stabilize)
def _stabilize(node: fx.Node, writer: Writer) -> Replacement:
    z = node.args[0]
    if range_of(z).low < 0:
        return Refusal(f"the denominator lies in {range_of(z)}")
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
    if not (is_call(first, Multiply) and is_call(second, Multiply)) or first is second:
        return None
    for index, factor in enumerate(first.args):
        if same_shape(factor, node) and factor in second.args:
            if len(first.users) > 1 or len(second.users) > 1:
                return Refusal("one of the products is read elsewhere, too")
            rest = first.args[1 - index], second.args[1 - second.args.index(factor)]
            inner = writer.write(node.target, tuple(writer.values(rest)))
            return writer.value(factor) * inner
    return None


@SIMPLIFY.rule("stabilizer inside the bias", Add)
def _stabilizer_inside(node: fx.Node, writer: Writer) -> Replacement:
    if len(node.args) != 2:
        return None
    z, epsilon = node.args
    if not isinstance(epsilon, float) or not is_call(z, AddBias, Conv):
        return None
    if len(z.users) > 1:
        return Refusal("the sum without the stabilizer is read elsewhere, too")
    if is_call(z, AddBias):
        inner, bias = writer.values(z.args)
        return z.target(inner, bias + epsilon)
    if len(z.args) == 2 and facts_of(z).batched:
        inner, weight = writer.values(z.args)
        bias = Ones((shape_of(z)[1],))(weight) * epsilon
        return AddBias(z.target.channel_axis)(z.target(inner, weight), bias)
    return None


@SIMPLIFY.rule("channels summed before the quotient", Sum)
def _sum_first(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    if not is_call(x, Divide, DivideOrZero):
        return None
    numerator, denominator = x.args
    if not (same_shape(numerator, x) and isinstance(denominator, fx.Node)):
        return None
    if any(shape_of(denominator)[axis] != 1 for axis in node.target.axes):
        return Refusal("the denominator varies along the axes that are summed")
    if len(x.users) > 1:
        return Refusal("the quotient is read elsewhere, too")
    return x.target(node.target(writer.value(numerator)), writer.value(denominator))


@SIMPLIFY.rule("ones kept by a comparison are a mask", KeepWhere)
def _mask(node: fx.Node, writer: Writer) -> Replacement:
    c, x = node.args
    if is_call(x, OnesLike) and same_shape(c, node):
        return writer.write(Mask(node.target.comparison), (writer.value(c),))
    return None


@SIMPLIFY.rule("comparison of a known sign", Mask)
def _mask_of_known_sign(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    # "!=" takes one node more in ONNX
    if node.target.comparison == "!=" and range_of(x).low >= 0:
        return writer.write(Mask(">"), (writer.value(x),))
    return None


@SIMPLIFY.rule("indices that nothing reads", Item)
def _without_indices(node: fx.Node, writer: Writer) -> Replacement:
    pool = node.args[0]
    if node.target.index != 0 or not is_call(pool, MaxPool, AdaptiveMaxPool):
        return None
    if len(pool.users) > 1:
        return Refusal("the indices are read")
    return writer.write(replace(pool.target, indices=False), (writer.value(pool.args[0]),))


@SIMPLIFY.rule("ones through one channel", Conv)
def _ones_in(node: fx.Node, writer: Writer) -> Replacement:
    image, weight = node.args[:2]
    if not (is_call(image, Ones) and is_call(weight, OnesLike)):
        return None
    if len(node.args) > 2 or shape_of(weight)[0] == 1:
        return None
    size, kernel = shape_of(image)[2:], shape_of(weight)[2:]
    like = writer.value(weight.args[0])
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
    total = Sum((1,))(writer.value(r))
    spread = node.target(total, Ones((1, 1, *kernel))(writer.value(weight.args[0])))
    return Expand(shape_of(node))(spread)


@SIMPLIFY.rule("bias of zero", AddBias)
def _no_bias(node: fx.Node, writer: Writer) -> Replacement:
    z, bias = node.args
    return z if is_zero(bias) and isinstance(z, fx.Node) else None
