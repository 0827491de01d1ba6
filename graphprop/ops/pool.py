"""Pooling by maxima: relevance is routed to the winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import NON_NEGATIVE, Interval
from graphprop.ir.layout import Layout, resized_to
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops import helpers
from graphprop.ops.average import AdaptiveAvgPool, AvgPool
from graphprop.ops.base import Array, Ints, Operator, from_aten, per_axis
from graphprop.ops.shape import Reshape, _permute, _squeeze, axes_of
from graphprop.ops.simple import Simple
from graphprop.ops.source import source_call
from graphprop.ops.traits import Trait
from graphprop.ops.windows import Pooling, divides, full_size, overhang

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten

MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


ADAPTIVE_MAX_POOL: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


@dataclass(frozen=True)
class Winners(Pooling):
    """What the poolings share that let the largest entry of each window through."""

    relevance: ClassVar[str | None] = "winner"

    def with_indices(self, x: Array) -> Array:
        """The pooling as a pair: largest entries, and their places."""
        raise NotImplementedError

    def lowered(self, *operands: Operand) -> Array:
        return Item(0)(self.with_indices(*operands))

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
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

    def run(self, x: torch.Tensor) -> torch.Tensor:
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

    def with_indices(self, x: Array) -> Array:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value | tuple[ir.Value, ...]:
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        behind = overhang(graph.shape(operands[0])[2:], reach, self)
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

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return ADAPTIVE_MAX_POOL[len(self.size)](x, self.size, self.indices)

    def with_indices(self, x: Array) -> Array:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value | tuple[ir.Value, ...]:
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
class Places(Operator):
    """Where the winners of a max pool were: what an unpooling needs."""

    pool: MaxPool
    levels: ClassVar[frozenset[str]] = frozenset({"canonical"})
    piecewise_constant: ClassVar[bool] = True

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool.with_indices(x)[1]

    def interval(self, *operands: Interval) -> Interval:
        return NON_NEGATIVE

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return self.pool.layout_from(shape, x)

    def lowered(self, *operands: Operand) -> Array:
        return Item(1)(self.pool.with_indices(*operands))


@dataclass(frozen=True)
class Item(Operator):
    """One of the results of an operator that has several."""

    index: int
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})

    def run(self, results: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return results[self.index]

    def interval(self, *operands: Interval) -> Interval:
        return operands[0] if self.index == 0 else NON_NEGATIVE

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        # the one operand that stands for several results
        results: Any = operands[0]
        item: ir.Value = results[self.index]
        return item


@dataclass(frozen=True)
class Route(Operator):
    """Relevance of a max pool sent to the winners: ``Route(size)(r, indices)``."""

    size: tuple[int, ...]
    levels: ClassVar[frozenset[str]] = frozenset({"lowered", "torch", "onnx"})
    helpers: ClassVar[tuple[str, ...]] = ("route",)

    def run(self, r: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return helpers.route(r, indices, self.size)

    def interval(self, *operands: Interval) -> Interval:
        return operands[0].cone()

    def source(self, *operands: str) -> str:
        return f"route({operands[0]}, {operands[1]}, size={self.size})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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
class LogSumExp(Operator):
    """``log sum exp(x)`` along axes, which stay with length 1: a soft maximum.

    Each entry has a share ``exp(x) / sum exp(x)`` of the relevance, as in the sum that it is.
    """

    axes: tuple[int, ...]
    relevance: ClassVar[str | None] = "winner"
    traits: ClassVar[Trait] = Trait.REDUCTION

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(x, self.axes, keepdim=True)

    def interval_at(self, shapes: Sequence[Shape], *operands: Interval) -> Interval:
        count = prod(shapes[0][axis] for axis in self.axes)
        return (operands[0] + Interval(0.0, log(count))).widened()

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        return resized_to(x, shape)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        x = operands[0]
        return (Simple("exp")(x - self(x)) * r,)

    def source(self, *operands: str) -> str:
        return f"torch.logsumexp({operands[0]}, {self.axes}, keepdim=True)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        return graph.node("ReduceLogSumExp", operands[0], graph.integers(self.axes), keepdims=1)


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


@from_aten(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def _max_pool(
    x: Array,
    kernel: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil: bool = False,
) -> Array:
    rank = len(x.shape) - 2
    kernel, stride = per_axis(kernel, rank), per_axis(stride or kernel, rank)
    return MaxPool(kernel, stride, per_axis(padding, rank), per_axis(dilation, rank), ceil)(x)


@from_aten(
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.max_pool1d_with_indices.default,
)
def _max_pool_with_indices(x: Array, *arguments: Array) -> tuple[Array, Array]:
    pooled = _max_pool(x, *arguments)
    return (pooled, Places(pooled.node.target)(x))


@from_aten(
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
)
def _adaptive_max_pool(x: Array, size: Ints) -> tuple[Array, None]:
    size = full_size(x, size)
    lengths = x.shape[2:]
    if divides(lengths, size):
        kernel = tuple(length // cells for length, cells in zip(lengths, size, strict=True))
        rank = len(size)
        pool = MaxPool(kernel, kernel, per_axis(0, rank), per_axis(1, rank))
        return (pool(x), None)
    return (AdaptiveMaxPool(size)(x), None)


@from_aten(aten.amax.default)
def _amax(x: Array, axes: Sequence[int] = (), keepdim: bool = False) -> Array:
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
def _max(x: Array, axis: int, keepdim: bool = False) -> tuple[Array, None]:
    return (_amax(x, (axis,), keepdim), None)


@from_aten(aten.logsumexp.default)
def _logsumexp(x: Array, axes: Sequence[int], keepdim: bool = False) -> Array:
    chosen = axes_of(axes, x)
    found = LogSumExp(chosen)(x)
    return found if keepdim else _squeeze(found, chosen)
