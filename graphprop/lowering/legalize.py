"""Legalize: to what the target prints, each adjoint in the form that is fastest there.

- A bias goes into its layer's call where nothing else reads the sum without it.
- Adjoints of averages and resizing become a division where one result stands for all, else one
  matrix product per axis.
- torch: a 1x1 transposed convolution is a convolution with its channels exchanged, dilated where
  it has a stride.
- ONNX: a transposed convolution of stride 1 and 8 or more channels is a convolution with flipped
  weights; resizing and irregular averages are matrix products.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod

import torch
from torch import fx

from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.rewrite import Replacement, RewriteTable, eliminate
from graphprop.ir.writer import Value, Writer
from graphprop.ops import (
    AdaptiveAvgPool,
    AddBias,
    ApplyMatrix,
    AvgPool,
    Conv,
    ConvTranspose,
    Dilate,
    Divide,
    Expand,
    Linear,
    Multiply,
    ResampleTranspose,
    Resampling,
    Reshape,
    Spread,
    TransposeWeight,
    Upsample,
)

BOTH, TORCH, ONNX = RewriteTable(), RewriteTable(), RewriteTable()

ONNX_CONV_CHANNELS = 8
"""From how many channels on ONNX Runtime's Conv beats its ConvTranspose."""


def legalize(network: Network, target: str) -> tuple[Network, Counter[str]]:
    """Turn a lowered network into one that ``target`` ("torch" or "onnx") prints.

    Returns
    -------
    Network
        A legalized copy.
    Counter
        How often each rule fired.
    """
    legal = network.copy()
    fired = (BOTH + (TORCH if target == "torch" else ONNX)).apply(legal)
    legal.level = target
    eliminate(legal)
    tidy_names(legal)
    return legal, fired


def tidy_names(network: Network) -> None:
    """Drop the numbers from names whose first bearer has been simplified away.

    A name that was given on purpose keeps its number: it is the layer's.
    """
    names = {node.name for node in network.graph.nodes}
    for node in network.graph.nodes:
        stem = re.sub(r"_\d+$", "", node.name)
        given = facts_of(node).records is not None or facts_of(node).named
        if node.op == "call_function" and not given and stem not in names:
            names = names - {node.name} | {stem}
            node.name = stem


def value(node: fx.Node, writer: Writer) -> Value:
    """A node as a value to write with."""
    return Value(node, writer)


@BOTH.rule("bias inside the call", AddBias)
def _bias_inside(node: fx.Node, writer: Writer) -> Replacement:
    z, bias = node.args
    own = isinstance(z.target, Conv | ConvTranspose | Linear) and len(z.args) == 2
    if own and len(z.users) == 1:
        return writer.write(z.target, (*(value(a, writer) for a in z.args), value(bias, writer)))
    rank = len(shape_of(z))
    return value(z, writer) + Reshape(node.target.bias_shape(rank))(value(bias, writer))


@BOTH.rule("even spread", Spread)
def _spread(node: fx.Node, writer: Writer) -> Replacement:
    r, count = value(node.args[0], writer), node.target.count
    # a product with 1 is lost by ONNX Runtime 1.31 where a broadcast that changes nothing follows
    return Expand(node.target.shape)(r * (1.0 / count) if count > 1 else r)


@BOTH.rule("transposed average as division or matrix products", ResampleTranspose)
def _resample_transpose(node: fx.Node, writer: Writer) -> Replacement:
    r, target = value(node.args[0], writer), node.target
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


@BOTH.rule("broadcast of what has the shape already", Expand)
def _expand_nothing(node: fx.Node, writer: Writer) -> Replacement:
    x = node.args[0]
    # ONNX Runtime 1.31 loses the result of such a one, where the batch is not known
    return x if shape_of(x) == shape_of(node) else None


@BOTH.rule("gate broadcast by the product itself", Multiply, Divide)
def _expanded_operand(node: fx.Node, writer: Writer) -> Replacement:
    for index, operand in enumerate(node.args):
        other = node.args[1 - index]
        if not (isinstance(operand, fx.Node) and isinstance(other, fx.Node)):
            continue
        expanded = operand.op == "call_function" and isinstance(operand.target, Expand)
        if expanded and shape_of(other) == shape_of(node):
            narrow = value(operand.args[0], writer)
            pair = [value(other, writer), value(other, writer)]
            pair[index] = narrow
            return writer.write(node.target, tuple(pair))
    return None


@BOTH.rule("scaling moved before a broadcast", Multiply)
def _scale_inside(node: fx.Node, writer: Writer) -> Replacement:
    x, factor = node.args
    if not isinstance(factor, float | int) or not isinstance(x, fx.Node):
        return None
    if x.op == "call_function" and isinstance(x.target, Expand) and len(x.users) == 1:
        return x.target(value(x.args[0], writer) * factor)
    return None


def is_pointwise(target: ConvTranspose, kernel: tuple[int, ...]) -> bool:
    """Whether a transposed convolution looks at one place at a time."""
    return all(length == 1 for length in kernel) and not any(target.padding)


@TORCH.rule("1x1 transposed convolution as convolution", ConvTranspose)
def _pointwise(node: fx.Node, writer: Writer) -> Replacement:
    target, kernel = node.target, shape_of(node.args[1])[2:]
    if not is_pointwise(target, kernel):
        return None
    strided = any(step > 1 for step in target.stride)
    if strided and len(node.args) > 2:
        return None
    x, weight, *bias = (value(a, writer) for a in node.args)
    ones = (1,) * len(kernel)
    exchanged = TransposeWeight(target.groups, flip=False)(weight)
    plain = Conv(ones, (0,) * len(kernel), ones, target.groups)(x, exchanged, *bias)
    return Dilate(target.stride, shape_of(node)[2:])(plain) if strided else plain


@ONNX.rule("transposed convolution as convolution with flipped weights", ConvTranspose)
def _flipped(node: fx.Node, writer: Writer) -> Replacement:
    target, kernel = node.target, shape_of(node.args[1])[2:]
    channels = shape_of(node.args[0])[1]
    reach = [d * (k - 1) for d, k in zip(target.dilation, kernel, strict=True)]
    padding = tuple(r - p for r, p in zip(reach, target.padding, strict=True))
    plain = all(step == 1 for step in target.stride) and not any(target.output_padding)
    if not plain or channels < ONNX_CONV_CHANNELS or any(amount < 0 for amount in padding):
        return None
    x, weight, *bias = (value(a, writer) for a in node.args)
    flipped = TransposeWeight(target.groups, flip=True)(weight)
    return Conv(target.stride, padding, target.dilation, target.groups)(x, flipped, *bias)


@ONNX.rule("resampling as matrix products", Upsample, AdaptiveAvgPool, AvgPool)
def _resampling(node: fx.Node, writer: Writer) -> Replacement:
    target: Resampling = node.target
    if target.onnx_exact(shape_of(node.args[0])):
        return None
    matrices = target.matrices(shape_of(node.args[0])[2:])
    return products(value(node.args[0], writer), tuple(m.T for m in matrices), node, writer)
