"""Averages and resizing: separable linear maps with fixed weights.

A matrix per axis is found by probing the one-dimensional operator with the identity, so that the
adjoint is exact for every padding, ceil mode and size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.ir.facts import facts_of
from graphprop.ir.interval import NON_NEGATIVE, NON_POSITIVE, ZERO, Interval
from graphprop.ir.operation import Shape
from graphprop.ops.base import Operator, from_aten, per_axis, source_call
from graphprop.ops.shape import Mean, _squeeze, axes_of
from graphprop.ops.windows import Pooling, divides, full_size, overhang

aten = torch.ops.aten

AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


ADAPTIVE_AVG_POOL = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class Resampling(Pooling):
    """A separable linear map with fixed weights over the spatial axes."""

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        """Apply the one-dimensional map of a spatial axis to the last axis of x ``[1, C, L]``."""
        raise TypeError(f"{self.__name__} is not separable")

    def adjoint(self, *shapes: Shape) -> Operator:
        return ResampleTranspose(self, tuple(shapes[0][2:]))

    def mean(self) -> Resampling:
        """Itself, as a max pool gives the average over the same windows."""
        return self

    @property
    def weights(self) -> Interval:
        """The signs that the weights of the map have."""
        return NON_NEGATIVE

    def even(self, shape: Shape) -> Operator:
        """Spread each result evenly over the in-image cells it is made from."""
        return ResampleTranspose(self, tuple(shape[2:]), even=True)

    def onnx_exact(self, shape: Shape) -> bool:
        """Whether ONNX has an operator that computes this on operands of the given shape."""
        return False

    def matrices(self, size: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """The map as a float64 matrix ``[out, in]`` per spatial axis."""
        return _matrices(self, tuple(size))


@lru_cache(maxsize=256)
def _matrices(operator: Resampling, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    found = []
    for axis, length in enumerate(size):
        # one input per batch entry: rows of the identity
        probe = torch.eye(length, dtype=torch.float64).unsqueeze(1)
        found.append(operator.axis_map(axis, probe).squeeze(1).T.contiguous())
    return tuple(found)


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

    def onnx(self, graph: Any, *operands: Any) -> Any:
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

    def onnx(self, graph: Any, *operands: Any) -> Any:
        if self.onnx_exact(()):
            return graph.node("GlobalAveragePool", *operands)
        raise TypeError("an adaptive average is written as matrix products: legalize it first")


@dataclass(frozen=True)
class Upsample(Resampling):
    """Nearest, linear or cubic resizing to ``size``; ``smooth``: torch's ``antialias``.

    The weights of cubic resizing are of both signs.
    """

    mode: str
    size: tuple[int, ...]
    align_corners: bool = False
    scales: tuple[float, ...] | None = None
    smooth: bool = False
    levels: ClassVar[frozenset[str]] = frozenset({"canonical", "lowered", "torch"})

    MODES: ClassVar[dict[int, str]] = {1: "linear", 2: "bilinear", 3: "trilinear"}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        for axis, matrix in enumerate(self.matrices(x.shape[2:])):
            x = apply_along(x, matrix.to(x), axis + 2)
        return x

    def interval(self, *operands: Interval) -> Interval:
        if self.mode != "cubic":
            return operands[0].widened()
        # weights of an axis add up to 1, their sizes to less than 1.4: so much it overshoots
        x, share = operands[0], (1.4 ** len(self.size) - 1) / 2
        if x.high - x.low == inf:
            return Interval()
        beyond = (x.high - x.low) * share
        return x + Interval(-beyond, beyond)

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        size = self.size[axis]
        scale = None if self.scales is None else self.scales[axis]
        if self.mode == "cubic" or self.smooth:
            plane, full = x.unsqueeze(2), [1, size]
            name = "bicubic" if self.mode == "cubic" else "bilinear"
            function = getattr(
                aten, f"_upsample_{name}2d_aa" if self.smooth else f"upsample_{name}2d"
            )
            return function(plane, full, self.align_corners, 1.0 if scale else None, scale).squeeze(
                2
            )
        if self.mode == "nearest":
            return aten.upsample_nearest1d(x, [size], scale)
        if self.mode == "nearest-exact":
            return aten._upsample_nearest_exact1d(x, [size], scale)
        return aten.upsample_linear1d(x, [size], self.align_corners, scale)

    def source(self, *operands: str) -> str:
        mode = self.MODES[len(self.size)] if self.mode == "linear" else self.mode
        mode = "bicubic" if mode == "cubic" else mode
        return source_call(
            "F.interpolate",
            *operands,
            size=(self.size if self.scales is None else None, None),
            scale_factor=(self.scales, None),
            mode=(mode, "nearest"),
            align_corners=(self.align_corners, False),
            antialias=(self.smooth, False),
        )


def apply_along(x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply ``matrix [out, in]`` along one axis of x."""
    return torch.matmul(x.movedim(axis, -1), matrix.T).movedim(-1, axis)


@dataclass(frozen=True)
class ResampleTranspose(Pooling):
    """The adjoint of a `Resampling` of inputs of ``size``; or the even spread over its cells."""

    operator: Resampling
    size: tuple[int, ...]
    even: bool = False
    levels: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def __str__(self) -> str:
        return f"{'even' if self.even else 'transposed'} {self.operator} of {self.size}"

    def run(self, r: torch.Tensor) -> torch.Tensor:
        for axis, matrix in enumerate(self.matrices()):
            r = apply_along(r, matrix.to(r), axis + 2)
        return r

    def interval(self, *operands: Interval) -> Interval:
        r = operands[0].cone()
        return r if self.even else (r * self.operator.weights).cone()

    def adjoint(self, *shapes: Shape) -> Operator:
        if self.even:
            raise TypeError("an even spread has no adjoint in the vocabulary")
        return self.operator

    def matrices(self) -> tuple[torch.Tensor, ...]:
        """One matrix ``[in, out]`` per spatial axis."""
        found = [matrix.T for matrix in self.operator.matrices(self.size)]
        if self.even:
            found = [(m != 0).double() for m in found]
            found = [m / m.sum(0, keepdim=True).clamp(min=1) for m in found]
        return tuple(found)


@dataclass(frozen=True)
class ApplyMatrix(Operator):
    """``ApplyMatrix(axis)(x, matrix [in, out])``: a matrix product along one axis."""

    axis: int
    levels: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})

    def run(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return apply_along(x, matrix.T, self.axis)

    def interval(self, *operands: Interval) -> Interval:
        return (operands[0] * operands[1]).cone()

    def source(self, *operands: str) -> str:
        x, matrix = operands
        if self.axis == -1:
            return f"torch.matmul({x}, {matrix})"
        if self.axis == -2:
            return f"torch.matmul({matrix}.T, {x})"
        return f"torch.matmul({x}.transpose({self.axis}, -1), {matrix}).transpose({self.axis}, -1)"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x, matrix = operands
        if self.axis == -1:
            return graph.node("MatMul", x, matrix)
        if self.axis == -2:
            return graph.node("MatMul", graph.node("Transpose", matrix, perm=(1, 0)), x)
        order = list(range(len(graph.shape(x))))
        order[self.axis], order[-1] = order[-1], order[self.axis]
        exchanged = graph.node("Transpose", x, perm=order)
        return graph.node("Transpose", graph.node("MatMul", exchanged, matrix), perm=order)


@from_aten(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Any:
    rank = len(x.shape) - 2
    kernel, stride = per_axis(kernel, rank), per_axis(stride or kernel, rank)
    return AvgPool(kernel, stride, per_axis(padding, rank), ceil, count_padding, divisor)(x)


@from_aten(
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
def _adaptive_avg_pool(x: Any, size: Any) -> Any:
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
    x: Any, axes: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    rank = len(x.shape)
    chosen = axes_of(axes, x)
    if rank > 2 and chosen == tuple(range(2, rank)):
        mean = AdaptiveAvgPool((1,) * (rank - 2))(x)
    else:
        mean = Mean(chosen)(x)
    return mean if keepdim else _squeeze(mean, chosen)


def _upsample(mode: str, smooth: bool = False) -> Any:
    def capture(x: Any, size: Any, *rest: Any) -> Any:
        *corners, scales = rest
        align = bool(corners[0]) if corners else False
        lengths = x.shape[2:]
        if size is None:
            size = [int(length * s) for length, s in zip(lengths, scales, strict=True)]
            kept = tuple(map(float, scales))
        else:
            kept = None
        return Upsample(mode, tuple(size), align, kept, smooth)(x)

    return capture


from_aten(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)(
    _upsample("linear")
)


from_aten(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)(
    _upsample("nearest")
)


from_aten(
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
)(_upsample("nearest-exact"))


from_aten(aten.upsample_bicubic2d.vec)(_upsample("cubic"))
from_aten(aten._upsample_bicubic2d_aa.vec)(_upsample("cubic", smooth=True))
from_aten(aten._upsample_bilinear2d_aa.vec)(_upsample("linear", smooth=True))
