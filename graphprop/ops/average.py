"""Average pooling, and means over places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from graphprop.ir.facts import facts_of
from graphprop.ir.interval import NON_NEGATIVE, NON_POSITIVE, ZERO, Interval
from graphprop.ir.operation import Shape
from graphprop.ops.base import Array, Ints, from_aten, per_axis
from graphprop.ops.resample import Resampling
from graphprop.ops.shape import _squeeze, axes_of
from graphprop.ops.source import source_call
from graphprop.ops.sums import Mean
from graphprop.ops.windows import divides, full_size, overhang

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


ADAPTIVE_AVG_POOL = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class AvgPool(Resampling):
    """The average of each window."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool = False
    count_padding: bool = True
    divisor: int | None = None

    def run(self, x: torch.Tensor) -> torch.Tensor:
        rank = len(self.kernel)
        arguments = self.kernel, self.stride, self.padding, self.ceil, self.count_padding
        if rank == 1:
            return F.avg_pool1d(x, *arguments)
        return AVG_POOL[rank](x, *arguments, self.divisor)

    @property
    def weights(self) -> Interval:
        return NON_POSITIVE if self.divisor is not None and self.divisor < 0 else NON_NEGATIVE

    def interval(self, *operands: Interval) -> Interval:
        x = operands[0]
        if self.divisor is not None:
            # windows of every size up to the kernel's, where some reach beyond the image
            return x.times(prod(self.kernel) / self.divisor) | ZERO
        return (x | ZERO if any(self.padding) and self.count_padding else x).widened()

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        window = (1, self.kernel[axis]), (1, self.stride[axis]), (0, self.padding[axis])
        # a divisor replaces the count over all axes: sum up instead, and divide on the first
        divisor = None if self.divisor is None else self.divisor if axis == 0 else 1
        plane = x.unsqueeze(2)
        return F.avg_pool2d(plane, *window, self.ceil, self.count_padding, divisor).squeeze(2)

    def source(self, *operands: str) -> str:
        rank = len(self.kernel)
        return source_call(
            f"F.avg_pool{rank}d",
            *operands,
            kernel_size=(self.kernel, None),
            stride=(self.stride, self.kernel),
            padding=(self.padding, per_axis(0, rank)),
            ceil_mode=(self.ceil, False),
            count_include_pad=(self.count_padding, True),
            divisor_override=(self.divisor, None),
        )

    def onnx_exact(self, shape: Shape) -> bool:
        return True

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x = operands[0]
        lengths = graph.shape(x)[2:]
        behind = overhang(lengths, self.kernel, self)
        before, count = self.padding, self.count_padding or self.divisor is not None
        if any(behind) and self.count_padding and self.divisor is None:
            # the padding counts, what lies beyond it does not: make it part of the image
            amounts = [0, 0, *before, 0, 0, *before]
            x = graph.node("Pad", x, graph.integers(amounts))
            before, count = per_axis(0, len(before)), False
            after = behind
        else:
            after = tuple(map(sum, zip(before, behind, strict=True)))
        average = graph.node(
            "AveragePool",
            x,
            kernel_shape=self.kernel,
            strides=self.stride,
            pads=[*before, *after],
            count_include_pad=int(count),
        )
        if self.divisor is None:
            return average
        return graph.node("Mul", average, prod(self.kernel) / self.divisor)


@dataclass(frozen=True)
class AdaptiveAvgPool(Resampling):
    """The average of each of ``size`` windows that need not be equally long."""

    size: tuple[int, ...]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return ADAPTIVE_AVG_POOL[len(self.size)](x, self.size)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].widened()

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool1d(x, self.size[axis])

    def source(self, *operands: str) -> str:
        return f"F.adaptive_avg_pool{len(self.size)}d({operands[0]}, {self.size})"

    def onnx_exact(self, shape: Shape) -> bool:
        return all(length == 1 for length in self.size)

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        if self.onnx_exact(()):
            return graph.node("GlobalAveragePool", *operands)
        raise TypeError("an adaptive average is written as matrix products: legalize it first")


@from_aten(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(
    x: Array,
    kernel: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Array:
    rank = len(x.shape) - 2
    kernel, stride = per_axis(kernel, rank), per_axis(stride or kernel, rank)
    return AvgPool(kernel, stride, per_axis(padding, rank), ceil, count_padding, divisor)(x)


@from_aten(
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
def _adaptive_avg_pool(x: Array, size: Ints) -> Array:
    size = full_size(x, size)
    lengths = tuple(x.shape[2:])
    if size == lengths:
        # nothing to do; but what follows is behind a pooling
        facts_of(x.node).pooled = True
        return x
    if divides(lengths, size) and any(cells != 1 for cells in size):
        kernel = tuple(length // cells for length, cells in zip(lengths, size, strict=True))
        return AvgPool(kernel, kernel, per_axis(0, len(size)))(x)
    return AdaptiveAvgPool(size)(x)


@from_aten(aten.mean.dim, aten.mean.default)
def _mean(
    x: Array,
    axes: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Array:
    rank = len(x.shape)
    chosen = axes_of(axes, x)
    if rank > 2 and chosen == tuple(range(2, rank)):
        mean = AdaptiveAvgPool((1,) * (rank - 2))(x)
    else:
        mean = Mean(chosen)(x)
    return mean if keepdim else _squeeze(mean, chosen)
