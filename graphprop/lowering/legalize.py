"""Legalize: turn a lowered graph into one that a target prints, in the form that is fastest there.

- A bias goes into its layer's call where nothing else reads the sum without it.
- Adjoints of averages and resizing become a division where all results are equal, else one matrix
  product per axis.
- torch: a 1x1 transposed convolution is a product with the matrix of its channels, or, in one or
  three dimensions or with groups, a convolution with them exchanged; dilated where it has a stride.
- ONNX: a transposed convolution of stride 1 and 8 or more channels is a convolution with flipped
  weights; resizing and irregular averages are matrix products.
"""

from __future__ import annotations

from math import prod

import torch
from torch import fx

from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.rewrite import (
    Refusal,
    Replacement,
    RewriteTable,
    eliminate,
    is_call,
    same_shape,
)
from graphprop.ir.writer import Value, Writer
from graphprop.ops import (
    AdaptiveAvgPool,
    Add,
    AddBias,
    AddMultiple,
    AddProduct,
    ApplyMatrix,
    AvgPool,
    Cat,
    Conv,
    ConvTranspose,
    Dilate,
    Divide,
    Expand,
    Linear,
    Multiply,
    PointwiseTranspose,
    ResampleTranspose,
    Resampling,
    Reshape,
    Slice,
    Spread,
    Subtract,
    TransposeWeight,
    Upsample,
)

LEGALIZE, LEGALIZE_TORCH, LEGALIZE_ONNX = RewriteTable(), RewriteTable(), RewriteTable()

ONNX_CONV_CHANNELS = 8
"""The number of channels from which on ONNX Runtime's Conv is faster than its ConvTranspose."""


def legalize(network: Network, target: str) -> Network:
    """Turn a copy of a lowered network into one that ``target`` ("torch" or "onnx") prints."""
    legal = network.copy()
    (LEGALIZE + (LEGALIZE_TORCH if target == "torch" else LEGALIZE_ONNX)).apply(legal)
    legal.level = target
    eliminate(legal)
    return legal


@LEGALIZE.rule("bias inside the call", AddBias)
def _bias_inside(node: fx.Node, writer: Writer) -> Replacement:
    z, bias = node.args
    own = is_call(z, Conv, ConvTranspose, Linear) and len(z.args) == 2
    if own and len(z.users) == 1:
        return writer.write(z.target, (*(writer.value(a) for a in z.args), writer.value(bias)))
    rank = len(shape_of(z))
    return writer.value(z) + Reshape(node.target.bias_shape(rank))(writer.value(bias))


@LEGALIZE.rule("even spread", Spread)
def _spread(node: fx.Node, writer: Writer) -> Replacement:
    r, count = writer.value(node.args[0]), node.target.count
    # ONNX Runtime 1.31 drops a product with 1 where a broadcast that changes nothing follows it
    return Expand(node.target.shape)(r * (1.0 / count) if count > 1 else r)


@LEGALIZE.rule("transposed average as division or matrix products", ResampleTranspose)
def _resample_transpose(node: fx.Node, writer: Writer) -> Replacement:
    r, target = writer.value(node.args[0]), node.target
    matrices = target.matrices()
    if all(matrix.shape[1] == 1 and matrix.unique().numel() == 1 for matrix in matrices):
        share = prod(float(matrix[0, 0]) for matrix in matrices)
        return Expand(shape_of(node))(r * share)
    return products(r, tuple(m.T for m in matrices), node, writer)


def products(
    x: Value, matrices: tuple[torch.Tensor, ...], node: fx.Node, writer: Writer
) -> Replacement:
    """One matrix product ``[in, out]`` per spatial axis, leaving out those that change nothing."""
    rank = len(shape_of(node))
    for axis, matrix in enumerate(matrices, start=2 - rank):
        identity = matrix.shape[0] == matrix.shape[1]
        if identity and torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
            continue
        constant = writer.tensor(matrix.to(x.dtype).contiguous(), f"{node.name}.axis{axis + rank}")
        x = ApplyMatrix(axis)(x, constant)
    return x


@LEGALIZE.rule("broadcast to the same shape", Expand)
def _expand_nothing(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    # ONNX Runtime 1.31 loses the result of such a broadcast where the batch size is not known
    return x if shape_of(x) == shape_of(node) else None


@LEGALIZE.rule("broadcast left to the product or quotient", Multiply, Divide)
def _expanded_operand(node: fx.Node, writer: Writer) -> Replacement:
    for index, operand in enumerate(node.args):
        other = node.args[1 - index]
        if is_call(operand, Expand) and same_shape(other, node):
            pair = [writer.value(other), writer.value(other)]
            pair[index] = writer.value(operand.args[0])
            return writer.write(node.target, tuple(pair))
    return None


@LEGALIZE.rule("scaling moved before a broadcast", Multiply)
def _scale_inside(node: fx.Node, writer: Writer) -> Replacement:
    x, factor = node.args
    if not isinstance(factor, float | int) or not is_call(x, Expand):
        return None
    if len(x.users) > 1:
        return Refusal("the broadcast is read elsewhere, too")
    return x.target(writer.value(x.args[0]) * factor)


def is_pointwise(target: ConvTranspose, kernel: tuple[int, ...]) -> bool:
    """Whether a transposed convolution reads one place at a time."""
    return all(length == 1 for length in kernel) and not any(target.padding)


@LEGALIZE_TORCH.rule("1x1 transposed convolution as matrix product", ConvTranspose)
def _pointwise_product(node: fx.Node, writer: Writer) -> Replacement:
    target, kernel = node.target, shape_of(node.args[1])[2:]
    if len(kernel) != 2 or target.groups > 1 or len(node.args) > 2:
        return None
    if not is_pointwise(target, kernel):
        return None
    x, weight = (writer.value(a) for a in node.args)
    return PointwiseTranspose(target.stride, target.output_padding)(x, weight)


@LEGALIZE_TORCH.rule("1x1 transposed convolution as convolution", ConvTranspose)
def _pointwise(node: fx.Node, writer: Writer) -> Replacement:
    target, kernel = node.target, shape_of(node.args[1])[2:]
    if not is_pointwise(target, kernel):
        return None
    strided = any(step > 1 for step in target.stride)
    if strided and len(node.args) > 2:
        return Refusal("it has a bias, which the places that its stride skips have, too")
    x, weight, *bias = (writer.value(a) for a in node.args)
    ones = (1,) * len(kernel)
    exchanged = TransposeWeight(target.groups, flip=False)(weight)
    plain = Conv(ones, (0,) * len(kernel), ones, target.groups)(x, exchanged, *bias)
    return Dilate(target.stride, shape_of(node)[2:])(plain) if strided else plain


@LEGALIZE_TORCH.rule("product added in one pass", Add, Subtract)
def _add_product(node: fx.Node, writer: Writer) -> Replacement:
    if len(node.args) != 2:
        return None
    sign = -1.0 if is_call(node, Subtract) else 1.0
    pairs = [node.args] if sign < 0 else [node.args, node.args[::-1]]
    for x, product in pairs:
        if not (is_call(product, Multiply) and same_shape(x, node)) or x is product:
            continue
        if len(product.users) > 1 or facts_of(product).named or facts_of(product).records:
            continue
        first, second = product.args
        if not isinstance(first, fx.Node):
            first, second = second, first
        if isinstance(second, fx.Node):
            return writer.write(AddProduct(sign), tuple(writer.values((x, first, second))))
        return writer.write(AddMultiple(sign * second), tuple(writer.values((x, first))))
    return None


@LEGALIZE_TORCH.rule("two adjoints to few channels as one", ConvTranspose)
def _side_by_side(node: fx.Node, writer: Writer) -> Replacement:
    """``opT(w1, q)`` and ``opT(w2, q)`` at an input layer, as ``opT([w1, w2], q)``.

    A convolution to 3 channels takes as long as one to 6.
    """
    if not is_narrow(node):
        return None
    q, weight = node.args
    channels = shape_of(weight)[1]
    for other in q.users:
        if other.target != node.target or len(other.args) != 2 or not other < node:
            continue
        weights = other.args[1]
        if is_call(weights, Cat) and weight in weights.args:
            index = weights.args.index(weight)
            return Slice(1, index * channels, (index + 1) * channels)(writer.value(other))
    for other in q.users:
        if other.target != node.target or not is_narrow(other) or not node < other:
            continue  # the two are computed where the first one was
        if shape_of(other.args[1]) == shape_of(weight) and other.args[1] < node:
            both = Cat(1)(*writer.values((weight, other.args[1])))
            return Slice(1, 0, channels)(node.target(writer.value(q), both))
    return None


NARROW = 4
"""The number of channels up to which two adjoints are computed as one: those of pictures."""


def is_narrow(node: fx.Node) -> bool:
    """Whether a node is a transposed convolution to few channels, and no other part of it."""
    return (
        is_call(node, ConvTranspose)
        and len(node.args) == 2
        and node.target.groups == 1
        and not is_call(node.args[1], Cat)
        and shape_of(node.args[1])[1] <= NARROW
    )


@LEGALIZE_ONNX.rule("transposed convolution as convolution with flipped weights", ConvTranspose)
def _flipped(node: fx.Node, writer: Writer) -> Replacement:
    target, kernel = node.target, shape_of(node.args[1])[2:]
    channels = shape_of(node.args[0])[1]
    reach = [d * (k - 1) for d, k in zip(target.dilation, kernel, strict=True)]
    padding = tuple(r - p for r, p in zip(reach, target.padding, strict=True))
    if any(step != 1 for step in target.stride) or any(target.output_padding):
        return Refusal("it has a stride")
    if channels < ONNX_CONV_CHANNELS:
        return Refusal(f"it has fewer than {ONNX_CONV_CHANNELS} channels")
    if any(amount < 0 for amount in padding):
        return Refusal("its padding is larger than its kernel's reach")
    x, weight, *bias = (writer.value(a) for a in node.args)
    flipped = TransposeWeight(target.groups, flip=True)(weight)
    return Conv(target.stride, padding, target.dilation, target.groups)(x, flipped, *bias)


@LEGALIZE_ONNX.rule("resampling as matrix products", Upsample, AdaptiveAvgPool, AvgPool)
def _resampling(node: fx.Node, writer: Writer) -> Replacement:
    target: Resampling = node.target
    if target.onnx_exact(shape_of(node.args[0])):
        return Refusal("an operator of ONNX computes the same")
    matrices = target.matrices(shape_of(node.args[0])[2:])
    return products(writer.value(node.args[0]), tuple(m.T for m in matrices), node, writer)
