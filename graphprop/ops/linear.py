"""Layers with weights: convolution, transposed convolution, linear, and their bias.

Each is called as ``op(x, weight)`` or ``op(x, weight, bias)``. Only the first is linear in x, and
that is what rules use: the lowered graph adds the bias by an operator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import ZERO, Interval
from graphprop.ir.layout import CHANNEL, PLACE, Layout, guessed, sizes
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops import helpers
from graphprop.ops.base import Array, Ints, Operator, Window, from_aten, per_axis
from graphprop.ops.padding import Pad
from graphprop.ops.source import Named, source_call
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Weighted(Operator):
    """What all layers with weights share: a bias of their own, and the range of a weighted sum."""

    weighted: ClassVar[bool] = True
    operands: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    def lowered(self, *operands: Operand) -> Array:
        x, weight, *bias = operands
        product = self(x, weight)
        return AddBias(self.channel_axis)(product, *bias) if bias else product

    def interval(self, *operands: Interval) -> Interval:
        product = (operands[0] * operands[1]).cone()
        return product + operands[2] if len(operands) > 2 else product

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        # by the definition of a convolution; but where it runs over the axis of the channels, as in
        # ECA, its result has no places
        found = guessed(shape)
        if sizes(x)[0] > 1:
            return found
        for axis in range(2, len(shape)):
            if x.kind(axis) == CHANNEL:
                found = found.resized(axis, shape[axis], CHANNEL)
        return found


@dataclass(frozen=True)
class Conv(Weighted):
    """Convolution in 1, 2 or 3 dimensions: ``Conv(...)(x, weight[, bias])``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    traits: ClassVar[Trait] = Trait.CHANNELS_SECOND

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        x, weight, bias = (*operands, None)[:3]
        function = CONV[len(self.stride)]
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def window(self, *shapes: Shape) -> Window | None:
        kernel = shapes[1][2:]
        spans = (d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True))
        return Window(tuple(spans), self.padding)

    @property
    def channels_last_in_memory(self) -> bool:
        # on a CPU a third faster, where nothing needs reordering between convolutions
        return len(self.stride) == 2

    def with_results_scaled(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))

    def with_operand_scaled(
        self, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | str | None:
        if any(self.padding):
            return "has padding"
        if self.groups > 1:
            return "has groups"
        axes = tuple(range(2, weight.dim()))
        return weight * scale.reshape(1, -1, *[1] * len(axes)), weight.sum(axes) @ shift

    def adjoint(self, *shapes: Shape) -> Operator:
        size, kernel = shapes[0][2:], shapes[1][2:]
        rest = []
        for i, length in enumerate(size):
            reach = self.dilation[i] * (kernel[i] - 1) + 1
            rest.append((length + 2 * self.padding[i] - reach) % self.stride[i])
        return ConvTranspose(self.stride, self.padding, self.dilation, self.groups, tuple(rest))

    def source(self, *operands: str) -> str:
        return source_call(
            f"F.conv{len(self.stride)}d",
            *operands,
            stride=(self.stride, per_axis(1, len(self.stride))),
            padding=(self.padding, per_axis(0, len(self.stride))),
            dilation=(self.dilation, per_axis(1, len(self.stride))),
            groups=(self.groups, 1),
        )

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node(
            "Conv",
            *operands,
            strides=self.stride,
            pads=self.padding * 2,
            dilations=self.dilation,
            group=self.groups,
        )


@dataclass(frozen=True)
class ConvTranspose(Weighted):
    """Transposed convolution: ``ConvTranspose(...)(x, weight[, bias])``; the adjoint of `Conv`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        x, weight, bias = (*operands, None)[:3]
        return CONV_TRANSPOSE[len(self.stride)](
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def adjoint(self, *shapes: Shape) -> Operator:
        if any(o >= s for o, s in zip(self.output_padding, self.stride, strict=True)):
            raise UnsupportedOperator(
                "a transposed convolution whose output padding is not below its stride "
                f"({self.output_padding} against {self.stride}) can't be explained: "
                "pad its result instead"
            )
        return Conv(self.stride, self.padding, self.dilation, self.groups)

    def with_results_scaled(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        # [in, out / groups, ...]: the group of an output channel is that of its input channels
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        factors = scale.reshape(self.groups, 1, -1, *[1] * (weight.dim() - 2))
        return (grouped * factors).reshape(weight.shape)

    def source(self, *operands: str) -> str:
        rank = len(self.stride)
        return source_call(
            f"F.conv_transpose{rank}d",
            *operands,
            stride=(self.stride, per_axis(1, rank)),
            padding=(self.padding, per_axis(0, rank)),
            output_padding=(self.output_padding, per_axis(0, rank)),
            groups=(self.groups, 1),
            dilation=(self.dilation, per_axis(1, rank)),
        )

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node(
            "ConvTranspose",
            *operands,
            strides=self.stride,
            pads=self.padding * 2,
            dilations=self.dilation,
            group=self.groups,
            output_padding=self.output_padding,
        )


@dataclass(frozen=True)
class Linear(Weighted):
    """``x @ weight.T (+ bias)`` along the last axis."""

    channel_axis: ClassVar[int] = -1
    traits: ClassVar[Trait] = Trait.DENSE

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        return F.linear(*operands)

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        axis = len(shape) - 1
        # over the places where the channels lie on another axis: it mixes tokens
        mixes = x.kind(axis) == PLACE and any(
            factor.kind == CHANNEL and factor.size > 1 for other in x.axes[:-1] for factor in other
        )
        return x.resized(axis, shape[axis], PLACE if mixes else CHANNEL)

    def with_results_scaled(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        return weight * scale.reshape(-1, 1)

    def with_operand_scaled(
        self, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | str | None:
        return weight * scale.reshape(1, -1), weight @ shift

    def adjoint(self, *shapes: Shape) -> Operator:
        return LinearTranspose()

    def source(self, *operands: str) -> str:
        return f"F.linear({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x, weight, *bias = operands
        if len(graph.shape(x)) == 2:
            return graph.node("Gemm", x, weight, *bias, transB=1)
        product = graph.node("MatMul", x, graph.node("Transpose", weight, perm=(1, 0)))
        return graph.node("Add", product, *bias) if bias else product


@dataclass(frozen=True)
class LinearTranspose(Weighted):
    """``x @ weight`` along the last axis: the adjoint of `Linear`."""

    channel_axis: ClassVar[int] = -1
    traits: ClassVar[Trait] = Trait.DENSE

    def run(self, *operands: torch.Tensor) -> torch.Tensor:
        return operands[0] @ operands[1]

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return Linear().layout_from(shape, x)

    def adjoint(self, *shapes: Shape) -> Operator:
        return Linear()

    def source(self, *operands: str) -> str:
        return f"torch.matmul({', '.join(operands)})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("MatMul", *operands)


@dataclass(frozen=True)
class AddBias(Operator):
    """``z + b``, b lying along one axis of z."""

    axis: int
    levels: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def run(self, z: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return z + bias.reshape(self.bias_shape(z.dim()))

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] + operands[1]

    def bias_shape(self, rank: int) -> Shape:
        """The shape in which the bias meets a value of this rank."""
        return (-1,) if self.axis == -1 else (-1, *[1] * (rank - 1 - self.axis))


@dataclass(frozen=True)
class TransposeWeight(Operator):
    """A convolution's weight with its channels in and out exchanged, group by group."""

    groups: int
    flip: bool
    levels: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("transpose_weight",)

    def run(self, weight: torch.Tensor) -> torch.Tensor:
        return helpers.transpose_weight(weight, self.groups, self.flip)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0]

    def source(self, *operands: str) -> str:
        return f"transpose_weight({operands[0]}, groups={self.groups}, flip={self.flip})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        weight = operands[0]
        out, inner, *kernel = graph.shape(weight)
        rank, groups = len(kernel), self.groups
        if groups > 1:
            split = graph.integers((groups, out // groups, inner, *kernel))
            weight = graph.node("Reshape", weight, split)
            weight = graph.node("Transpose", weight, perm=(0, 2, 1, *range(3, rank + 3)))
            weight = graph.node(
                "Reshape", weight, graph.integers((groups * inner, out // groups, *kernel))
            )
        else:
            weight = graph.node("Transpose", weight, perm=(1, 0, *range(2, rank + 2)))
        if self.flip and any(length > 1 for length in kernel):
            axes = graph.integers(range(2, rank + 2))
            backward = graph.integers([graph.FROM_THE_END] * rank)
            lowest = graph.integers([graph.TO_THE_FRONT] * rank)
            weight = graph.node("Slice", weight, backward, lowest, axes, backward)
        return weight


@dataclass(frozen=True)
class PointwiseTranspose(Operator):
    """The adjoint of a two-dimensional 1x1 convolution, ``PointwiseTranspose(...)(r, weight)``.

    The weight is that of the convolution, as it is: its matrix is multiplied with the channels.
    """

    stride: tuple[int, ...]
    output_padding: tuple[int, ...]
    levels: ClassVar[frozenset[str]] = frozenset({"torch"})
    operands: ClassVar[tuple[str, ...]] = ("x", "weight")
    helpers: ClassVar[tuple[str, ...]] = ("pointwise_transpose", "dilate")

    def run(self, r: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return helpers.pointwise_transpose(r, weight, self.stride, self.output_padding)

    def interval(self, *operands: Interval) -> Interval:
        return (operands[0] * operands[1]).cone()

    @property
    def channels_last_in_memory(self) -> bool:
        return True

    def source(self, *operands: str) -> str:
        shown = list(operands)
        for name, value, default in (
            ("stride", self.stride, (1, 1)),
            ("output_padding", self.output_padding, (0, 0)),
        ):
            if isinstance(value, Named) or value != default:
                shown.append(f"{name}={value}")
        return f"pointwise_transpose({', '.join(shown)})"


@dataclass(frozen=True)
class Dilate(Operator):
    """Entries put ``stride`` apart on a grid of zeros of the given size."""

    stride: tuple[int, ...]
    size: tuple[int, ...]
    levels: ClassVar[frozenset[str]] = frozenset({"torch"})
    helpers: ClassVar[tuple[str, ...]] = ("dilate",)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return helpers.dilate(x, self.stride, self.size)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] | ZERO

    def source(self, *operands: str) -> str:
        return f"dilate({operands[0]}, stride={self.stride}, size={self.size})"


@from_aten(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    rank = len(weight.shape) - 2
    operands = (x, weight) if bias is None else (x, weight, bias)
    stride, padding, dilation = (per_axis(value, rank) for value in (stride, padding, dilation))
    return Conv(stride, padding, dilation, groups)(*operands)


@from_aten(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
def _conv_named_padding(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: str = "valid",
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    rank = len(weight.shape) - 2
    if padding == "valid":
        return _conv(x, weight, bias, stride, 0, dilation, groups)
    dilation = per_axis(dilation, rank)
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(t % 2 for t in total):
        amounts = ((0, 0), (0, 0), *((0, t % 2) for t in total))
        x = Pad(amounts, 0.0)(x)
    return _conv(x, weight, bias, stride, [t // 2 for t in total], dilation, groups)


@from_aten(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def _conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Array:
    rank = len(weight.shape) - 2
    operands = (x, weight) if bias is None else (x, weight, bias)
    stride, padding, dilation = (per_axis(value, rank) for value in (stride, padding, dilation))
    rest = per_axis(output_padding, rank)
    return ConvTranspose(stride, padding, dilation, groups, rest)(*operands)


@from_aten(aten.linear.default)
def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return Linear()(x, weight) if bias is None else Linear()(x, weight, bias)
