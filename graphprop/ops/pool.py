"""Pooling and resizing.

A max pool routes relevance to its winners. Averages and resizing are separable linear maps with
fixed weights: a matrix per axis, found by probing the one-dimensional operator with the identity,
so that their adjoint is exact for every padding, ceil mode and size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ops import helpers
from graphprop.ops.base import Operator, Shape, Sign, from_aten, per_axis, source_call
from graphprop.ops.shape import Reshape, Sum, _permute, _squeeze, axes_of

aten = torch.ops.aten

MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
ADAPTIVE_MAX_POOL: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_AVG_POOL = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class Pooling(Operator):
    """What all poolings share."""

    relevance: ClassVar[str | None] = "proportional"

    def sign(self, *signs: Sign) -> Sign:
        return signs[0]


@dataclass(frozen=True)
class Winners(Pooling):
    """What the poolings share that let the largest entry of each window through."""

    relevance: ClassVar[str | None] = "winner"

    def with_indices(self, x: Any) -> Any:
        """The pooling as a pair: largest entries, and their places."""
        raise NotImplementedError

    def lowered(self, *operands: Any) -> Any:
        return Item(0)(self.with_indices(*operands))

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        indices = Item(1)(self.with_indices(operands[0]))
        return (Route(tuple(shapes[0][2:]))(r, indices),)


@dataclass(frozen=True)
class MaxPool(Winners):
    """The largest entry of each window; with ``indices`` also where it was (see `Item`)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False
    indices: bool = False

    def run(self, x: torch.Tensor) -> Any:
        function = MAX_POOL[len(self.kernel)]
        result = function(
            x,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil,
            self.indices,
        )
        return result

    def with_indices(self, x: Any) -> Any:
        attributes = self.kernel, self.stride, self.padding, self.dilation, self.ceil
        return MaxPool(*attributes, indices=True)(x)

    def mean(self) -> AvgPool:
        """The average over the same windows, padding left out."""
        if any(d != 1 for d in self.dilation):
            raise UnsupportedOperator("a dilated max pool has no average of the same windows")
        return AvgPool(self.kernel, self.stride, self.padding, self.ceil, False, None)

    def source(self, *operands: str) -> str:
        rank = len(self.kernel)
        shown = source_call(
            f"F.max_pool{rank}d",
            *operands,
            kernel_size=(self.kernel, None),
            stride=(self.stride, self.kernel),
            padding=(self.padding, per_axis(0, rank)),
            dilation=(self.dilation, per_axis(1, rank)),
            ceil_mode=(self.ceil, False),
            return_indices=(self.indices, False),
        )
        return shown

    def onnx(self, graph: Any, *operands: Any) -> Any:
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        behind = _overhang(graph.shape(operands[0])[2:], reach, self)
        after = tuple(map(sum, zip(self.padding, behind, strict=True)))
        # ONNX Runtime pads by less than the kernel's length, even where the kernel is dilated
        fits = all(amount < length for amount, length in zip(after, self.kernel, strict=True))
        return graph.node(
            "MaxPool",
            *operands,
            outputs=2 if self.indices else 1,
            kernel_shape=self.kernel,
            strides=self.stride,
            pads=self.padding + (after if fits else self.padding),
            dilations=self.dilation,
            ceil_mode=int(not fits),
        )


@dataclass(frozen=True)
class AdaptiveMaxPool(Winners):
    """The largest entry of each of ``size`` windows that need not be equally long."""

    size: tuple[int, ...]
    indices: bool = False

    def run(self, x: torch.Tensor) -> Any:
        return ADAPTIVE_MAX_POOL[len(self.size)](x, self.size, self.indices)

    def with_indices(self, x: Any) -> Any:
        return AdaptiveMaxPool(self.size, indices=True)(x)

    def mean(self) -> AdaptiveAvgPool:
        """The average over the same windows."""
        return AdaptiveAvgPool(self.size)

    def source(self, *operands: str) -> str:
        return source_call(
            f"F.adaptive_max_pool{len(self.size)}d",
            *operands,
            str(self.size),
            return_indices=(self.indices, False),
        )

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x = operands[0]
        shape = graph.shape(x)
        batch, channels, size = shape[0], shape[1], shape[2:]
        windows = _adaptive_windows(size, self.size)
        cells, longest = len(windows), max(map(len, windows))
        # a short window repeats its first cell: the largest entry and its first place stay
        table = [[*window, *[window[0]] * (longest - len(window))] for window in windows]
        flat = graph.node("Reshape", x, graph.integers((batch, channels, prod(size))))
        places = graph.integers([place for row in table for place in row])
        taken = graph.node("Gather", flat, places, axis=2)
        taken = graph.node("Reshape", taken, graph.integers((batch, channels, cells, longest)))
        out = graph.integers((batch, channels, *self.size))
        values = graph.node("Reshape", graph.node("ReduceMax", taken, graph.integers([3])), out)
        if not self.indices:
            return values
        choice = graph.node("ArgMax", taken, axis=3, keepdims=0)
        offsets = graph.node("Add", choice, graph.integers([i * longest for i in range(cells)]))
        place = graph.node("Gather", places, offsets)
        # like MaxPool's own, the places count over the whole tensor
        counts = graph.node("Shape", flat)
        number = graph.node(
            "Mul", *(graph.node("Gather", counts, graph.integer(i)) for i in (0, 1))
        )
        planes = graph.node("Range", graph.integer(0), number, graph.integer(1))
        planes = graph.node("Mul", planes, graph.integer(prod(size)))
        planes = graph.node("Reshape", planes, graph.integers((batch, channels, 1)))
        places = graph.node("Reshape", graph.node("Add", place, planes), out)
        return values, places


@dataclass(frozen=True)
class Item(Operator):
    """One of the results of an operator that has several."""

    index: int
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, results: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return results[self.index]

    def sign(self, *signs: Sign) -> Sign:
        return signs[0] if self.index == 0 else Sign.POSITIVE

    def onnx(self, graph: Any, *operands: Any) -> Any:
        return operands[0][self.index]


@dataclass(frozen=True)
class Route(Operator):
    """Relevance of a max pool sent to the winners: ``Route(size)(r, indices)``."""

    size: tuple[int, ...]
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("route",)

    def run(self, r: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return helpers.route(r, indices, self.size)

    def sign(self, *signs: Sign) -> Sign:
        return signs[0]

    def source(self, *operands: str) -> str:
        return f"route({operands[0]}, {operands[1]}, size={self.size})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        r, indices = operands
        shape = graph.shape(r)
        flat = graph.integers([-1])
        sizes = graph.node("Shape", r)
        planes = graph.node("Slice", sizes, graph.integers([0]), graph.integers([2]))
        whole = graph.node("Concat", planes, graph.integers(self.size), axis=0)
        zeros = graph.filled(0.0, graph.node("ReduceProd", whole, keepdims=1), like=r)
        added = graph.node(
            "ScatterElements",
            zeros,
            graph.node("Reshape", indices, flat),
            graph.node("Reshape", r, flat),
            axis=0,
            reduction="add",
        )
        return graph.node("Reshape", added, graph.integers((-1, shape[1], *self.size)))


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
        behind = _overhang(lengths, self.kernel, self)
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

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool1d(x, self.size[axis])

    def source(self, *operands: str) -> str:
        return f"F.adaptive_avg_pool{len(self.size)}d({operands[0]}, {self.size})"

    def onnx_exact(self, shape: Shape) -> bool:
        return all(length == 1 for length in self.size)

    def onnx(self, graph: Any, *operands: Any) -> Any:
        if self.onnx_exact(()):
            return graph.node("GlobalAveragePool", *operands)
        raise TypeError("an adaptive average is written as matrix products: legalise it first")


@dataclass(frozen=True)
class Upsample(Resampling):
    """Nearest or linear resizing to ``size``."""

    mode: str
    size: tuple[int, ...]
    align_corners: bool = False
    scales: tuple[float, ...] | None = None
    levels: ClassVar[frozenset[str]] = frozenset({"canonical", "lowered", "torch"})

    MODES: ClassVar[dict[int, str]] = {1: "linear", 2: "bilinear", 3: "trilinear"}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        for axis, matrix in enumerate(self.matrices(x.shape[2:])):
            x = apply_along(x, matrix.to(x), axis + 2)
        return x

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        size = self.size[axis]
        scale = None if self.scales is None else self.scales[axis]
        if self.mode == "nearest":
            return aten.upsample_nearest1d(x, [size], scale)
        if self.mode == "nearest-exact":
            return aten._upsample_nearest_exact1d(x, [size], scale)
        return aten.upsample_linear1d(x, [size], self.align_corners, scale)

    def source(self, *operands: str) -> str:
        mode = self.MODES[len(self.size)] if self.mode == "linear" else self.mode
        return source_call(
            "F.interpolate",
            *operands,
            size=(self.size if self.scales is None else None, None),
            scale_factor=(self.scales, None),
            mode=(mode, "nearest"),
            align_corners=(self.align_corners, False),
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

    def sign(self, *signs: Sign) -> Sign:
        return signs[0]

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


def _overhang(
    size: Sequence[int], reach: Sequence[int], pool: MaxPool | AvgPool
) -> tuple[int, ...]:
    """How far the last windows of a pooling in ceil mode reach beyond the padding, per axis.

    Written as padding, this says in ONNX what torch's ceil mode does: ONNX Runtime's own counts
    otherwise, and keeps windows that torch drops because they begin in the padding behind.
    """
    found = []
    for length, span, stride, padding in zip(size, reach, pool.stride, pool.padding, strict=True):
        last = -(-(length + 2 * padding - span) // stride) * stride if pool.ceil else 0
        if last >= length + padding:
            last -= stride
        found.append(max(0, last + span - length - 2 * padding))
    return tuple(found)


def _adaptive_windows(size: Sequence[int], out: Sequence[int]) -> list[list[int]]:
    """The cells of each window of an adaptive pooling, counted over the plane."""
    spans = [
        [range(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]
        for length, cells in zip(size, out, strict=True)
    ]
    # the product over the axes of the spans, each cell numbered row by row
    result: list[list[int]] = [[0]]
    for length, axis_spans in zip(size, spans, strict=True):
        result = [
            [base * length + place for base in window for place in span]
            for window in result
            for span in axis_spans
        ]
    return result


def _divides(size: Sequence[int], out: Sequence[int]) -> bool:
    return all(length % cells == 0 for length, cells in zip(size, out, strict=True))


def _full_size(x: Any, size: Any) -> tuple[int, ...]:
    return per_axis(size, len(x.shape) - 2)


@from_aten(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def _max_pool(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    rank = len(x.shape) - 2
    kernel, stride = per_axis(kernel, rank), per_axis(stride or kernel, rank)
    return MaxPool(kernel, stride, per_axis(padding, rank), per_axis(dilation, rank), ceil)(x)


@from_aten(
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.max_pool1d_with_indices.default,
)
def _max_pool_with_indices(*arguments: Any) -> Any:
    return (_max_pool(*arguments), None)


@from_aten(
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
)
def _adaptive_max_pool(x: Any, size: Any) -> Any:
    size = _full_size(x, size)
    lengths = x.shape[2:]
    if _divides(lengths, size):
        kernel = tuple(length // cells for length, cells in zip(lengths, size, strict=True))
        rank = len(size)
        pool = MaxPool(kernel, kernel, per_axis(0, rank), per_axis(1, rank))
        return (pool(x), None)
    return (AdaptiveMaxPool(size)(x), None)


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
    size = _full_size(x, size)
    lengths = tuple(x.shape[2:])
    if size == lengths:
        return x
    if _divides(lengths, size) and any(cells != 1 for cells in size):
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
        mean = Sum(chosen)(x) * (1.0 / prod(x.shape[axis] for axis in chosen))
    return mean if keepdim else _squeeze(mean, chosen)


@from_aten(aten.amax.default)
def _amax(x: Any, axes: Sequence[int] = (), keepdim: bool = False) -> Any:
    rank = len(x.shape)
    chosen = axes_of(axes, x)
    kept = tuple(1 if axis in chosen else length for axis, length in enumerate(x.shape))
    if chosen == tuple(range(2, rank)):
        pooled = _adaptive_max_pool(x, (1,) * (rank - 2))[0]
    else:
        # the axes in question last, as one: then it is a pooling
        rest = tuple(axis for axis in range(1, rank) if axis not in chosen)
        places = prod(x.shape[axis] for axis in chosen)
        last = Reshape((-1, prod(kept[1:]), places))(_permute(x, (0, *rest, *chosen)))
        pooled = Reshape(kept)(_adaptive_max_pool(last, (1,))[0])
    return pooled if keepdim else _squeeze(pooled, chosen)


@from_aten(aten.max.dim)
def _max(x: Any, axis: int, keepdim: bool = False) -> Any:
    return (_amax(x, (axis,), keepdim), None)


def _upsample(mode: str) -> Any:
    def capture(x: Any, size: Any, *rest: Any) -> Any:
        *corners, scales = rest
        align = bool(corners[0]) if corners else False
        lengths = x.shape[2:]
        if size is None:
            size = [int(length * s) for length, s in zip(lengths, scales, strict=True)]
            kept = tuple(map(float, scales))
        else:
            kept = None
        return Upsample(mode, tuple(size), align, kept)(x)

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
