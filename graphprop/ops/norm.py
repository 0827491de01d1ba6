"""Normalization layers, and the statistics that normalizations written by hand are made of.

Batch norm at inference is a fixed scale and shift per channel. The other norms take a mean m and a
deviation s from the sample itself: ``(x - m) / s * weight + bias``. Relevance passes through them.
The rule ``affine`` takes m and s for constants instead, so that the layer is affine in x with the
slope ``weight / s`` (methods.md, section 0).
Instance norm is group norm with a group for each channel, or batch norm where it has kept
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import Interval
from graphprop.ir.operation import Shape
from graphprop.ops import helpers
from graphprop.ops.activation import Power, Simple
from graphprop.ops.base import Operator, from_aten, source_call
from graphprop.ops.elementwise import Subtract
from graphprop.ops.merge import aligned
from graphprop.ops.resample import _mean
from graphprop.ops.shape import Expand, Reshape, Sum, _squeeze, axes_of

aten = torch.ops.aten


@dataclass(frozen=True)
class BatchNorm(Operator):
    """``scale * x + shift`` per channel: batch norm at inference, its statistics folded in."""

    relevance: ClassVar[str | None] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "scale", "shift")
    helpers: ClassVar[tuple[str, ...]] = ("batch_norm",)

    def run(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return helpers.batch_norm(x, scale, shift)

    def coefficient(self, x: Any, scale: Any, shift: Any) -> Any:
        """The slope of the affine map, shaped to multiply x."""
        return per_channel(scale, x)

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        return (r * self.coefficient(*operands),)

    def source(self, *operands: str) -> str:
        x, scale, shift = operands
        return f"batch_norm({x}, {scale}, {shift})"

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x, scale, shift = operands
        return onnx_affine(graph, x, channel_shape(len(graph.shape(x))), scale, shift)


@dataclass(frozen=True)
class SampleNorm(Operator):
    """What the norms share whose statistics are the sample's: called ``(x[, weight[, bias]])``."""

    relevance: ClassVar[str | None] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    def coefficient(self, x: Any, *parameters: Any) -> Any:
        """The slope ``weight / s`` of the map that is affine in x, shaped to multiply x."""
        raise NotImplementedError

    def averaged(self, x: Any) -> Any:
        """The mean over what the statistics are taken over, shaped to meet x."""
        raise NotImplementedError

    def mean_taken_off(self, x: Any) -> Any:
        """``x - m``."""
        return x - self.averaged(x)

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        # the statistics depend on x, too: what moves along with them is taken off
        normal, weighted = self(operands[0]), r * self.coefficient(*operands)
        return (self.mean_taken_off(weighted) - normal * self.averaged(weighted * normal),)


@dataclass(frozen=True)
class LayerNorm(SampleNorm):
    """``(x - m) / s * weight + bias``, m and s being taken over the last axes, of this shape."""

    shape: tuple[int, ...]
    epsilon: float = 1e-5

    def run(self, x: torch.Tensor, weight: Any = None, bias: Any = None) -> torch.Tensor:
        return F.layer_norm(x, self.shape, weight, bias, self.epsilon)

    def coefficient(self, x: Any, *parameters: Any) -> Any:
        weight = parameters[0] if parameters else 1.0
        return weight / deviation(x, last_axes(self.shape, x), self.epsilon)

    def averaged(self, x: Any) -> Any:
        return mean_over(x, last_axes(self.shape, x))

    def source(self, *operands: str) -> str:
        x, *parameters = operands
        epsilon = (self.epsilon, 1e-5)
        return source_call("F.layer_norm", x, str(self.shape), *parameters, eps=epsilon)

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x, *parameters = operands
        if not parameters:
            parameters = [graph.filled(1.0, graph.integers(self.shape), like=x)]
        attributes = {"axis": -len(self.shape), "epsilon": self.epsilon}
        return graph.node("LayerNormalization", x, *parameters, **attributes)

    def verify(self, *shapes: Shape) -> str | None:
        return wrong_axes(self.shape, shapes[0])


@dataclass(frozen=True)
class RmsNorm(SampleNorm):
    """``x / s * weight``, s being the root of the mean square over the last axes."""

    shape: tuple[int, ...]
    epsilon: float

    def run(self, x: torch.Tensor, weight: Any = None) -> torch.Tensor:
        return F.rms_norm(x, self.shape, weight, self.epsilon)

    def interval(self, *operands: Interval) -> Interval:
        x, *weight = operands
        return (x * weight[0]).cone() if weight else x.cone()

    def coefficient(self, x: Any, *parameters: Any) -> Any:
        weight = parameters[0] if parameters else 1.0
        return weight / deviation(x, last_axes(self.shape, x), self.epsilon, center=False)

    def averaged(self, x: Any) -> Any:
        return mean_over(x, last_axes(self.shape, x))

    def mean_taken_off(self, x: Any) -> Any:
        return x

    def source(self, *operands: str) -> str:
        x, *parameters = operands
        epsilon = (self.epsilon, None)
        return source_call("F.rms_norm", x, str(self.shape), *parameters, eps=epsilon)

    def onnx(self, graph: Any, *operands: Any) -> Any:
        x, *parameters = operands
        axes = range(-len(self.shape), 0)
        normal = onnx_normal(graph, x, axes, self.epsilon, center=False)
        return graph.node("Mul", normal, *parameters) if parameters else normal

    def verify(self, *shapes: Shape) -> str | None:
        return wrong_axes(self.shape, shapes[0])


@dataclass(frozen=True)
class GroupNorm(SampleNorm):
    """``(x - m) / s * weight + bias``, m and s being taken over each group of channels."""

    groups: int
    epsilon: float = 1e-5

    def run(self, x: torch.Tensor, weight: Any = None, bias: Any = None) -> torch.Tensor:
        return F.group_norm(x, self.groups, weight, bias, self.epsilon)

    def coefficient(self, x: Any, *parameters: Any) -> Any:
        channels, size = x.shape[1], len(x.shape) - 2
        s = deviation(Reshape(self.grouped(x.shape))(x), (2,), self.epsilon)
        s = Expand((-1, self.groups, channels // self.groups))(s)
        weight = per_channel(parameters[0], x) if parameters else 1.0
        return weight / Reshape((-1, channels, *[1] * size))(s)

    def averaged(self, x: Any) -> Any:
        channels, size = x.shape[1], len(x.shape) - 2
        mean = mean_over(Reshape(self.grouped(x.shape))(x), (2,))
        mean = Expand((-1, self.groups, channels // self.groups))(mean)
        return Reshape((-1, channels, *[1] * size))(mean)

    def grouped(self, shape: Shape) -> Shape:
        """The shape in which the entries of each group lie along the last axis."""
        return (-1, self.groups, prod(shape[1:]) // self.groups)

    def source(self, *operands: str) -> str:
        x, *parameters = operands
        epsilon = (self.epsilon, 1e-5)
        return source_call("F.group_norm", x, str(self.groups), *parameters, eps=epsilon)

    def onnx(self, graph: Any, *operands: Any) -> Any:
        # not GroupNormalization: ONNX Runtime's is off by percents where the mean is large
        x, *parameters = operands
        shape = graph.shape(x)
        groups = graph.node("Reshape", x, graph.integers(self.grouped(shape)))
        normal = onnx_normal(graph, groups, (2,), self.epsilon)
        whole = graph.node("Reshape", normal, graph.integers(shape))
        return onnx_affine(graph, whole, channel_shape(len(shape)), *parameters)

    def verify(self, *shapes: Shape) -> str | None:
        channels = shapes[0][1]
        if channels % self.groups:
            return f"{channels} channels can't be divided into {self.groups} groups"
        return None


def deviation(x: Any, axes: Sequence[int], epsilon: float, *, center: bool = True) -> Any:
    """``s = sqrt(mean((x - m)^2) + epsilon)`` over axes, with m the mean, or 0."""
    if center:
        x = x - mean_over(x, axes)
    return Simple("sqrt")(mean_over(Power(2.0)(x), axes) + epsilon)


def mean_over(x: Any, axes: Sequence[int]) -> Any:
    """The mean over axes, which stay with length 1."""
    axes = tuple(axes)
    return Sum(axes)(x) * (1.0 / prod(x.shape[axis] for axis in axes))


def last_axes(shape: Shape, x: Any) -> range:
    """The last axes of x, as many as a shape has."""
    return range(len(x.shape) - len(shape), len(x.shape))


def wrong_axes(shape: Shape, whole: Shape) -> str | None:
    """Say so where a norm is not over the last axes of its operand, or over the batch."""
    if len(shape) >= len(whole) or whole[-len(shape) :] != shape:
        return f"the norm is over {shape}, which are not the last axes of {whole}"
    return None


def channel_shape(rank: int) -> Shape:
    """The shape in which a vector per channel meets a value of this rank."""
    return (-1, *[1] * (rank - 2))


def per_channel(vector: Any, x: Any) -> Any:
    """A vector with an entry for each channel, shaped to meet x."""
    return Reshape(channel_shape(len(x.shape)))(vector)


def onnx_normal(
    graph: Any, x: Any, axes: Sequence[int], epsilon: float, *, center: bool = True
) -> Any:
    """Write ``(x - m) / s`` over axes as ONNX nodes, with m the mean, or 0."""
    over = graph.integers(axes)
    if center:
        x = graph.node("Sub", x, graph.node("ReduceMean", x, over, keepdims=1))
    square = graph.node("ReduceMean", graph.node("Mul", x, x), over, keepdims=1)
    return graph.node("Div", x, graph.node("Sqrt", graph.node("Add", square, epsilon)))


def onnx_affine(graph: Any, x: Any, shape: Shape, *parameters: Any) -> Any:
    """Write ``x * weight + bias`` as ONNX nodes, each of them where given, and of this shape."""
    for operator, parameter in zip(("Mul", "Add"), parameters, strict=False):
        x = graph.node(operator, x, graph.node("Reshape", parameter, graph.integers(shape)))
    return x


def parameters_for(x: Any, weight: Any, bias: Any, shape: Sequence[int]) -> list[torch.Tensor]:
    """The weight and bias that a norm is called with, those behind the last one left out."""
    if weight is None and bias is not None:
        weight = torch.ones(tuple(shape))
    return [tensor.to(x.dtype) for tensor in (weight, bias) if tensor is not None]


@from_aten(aten.layer_norm.default)
def _layer_norm(
    x: Any,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    *_: Any,
) -> Any:
    return LayerNorm(tuple(shape), epsilon)(x, *parameters_for(x, weight, bias, shape))


@from_aten(aten.rms_norm.default)
def _rms_norm(
    x: Any, shape: Sequence[int], weight: Any = None, epsilon: float | None = None
) -> Any:
    if epsilon is None:
        # torch computes the norm of half precision in single precision
        epsilon = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return RmsNorm(tuple(shape), epsilon)(x, *parameters_for(x, weight, None, shape))


@from_aten(aten.group_norm.default)
def _group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, epsilon: float = 1e-5, *_: Any
) -> Any:
    return GroupNorm(groups, epsilon)(x, *parameters_for(x, weight, bias, x.shape[1:2]))


@from_aten(aten.instance_norm.default)
def _instance_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    use_input: bool,
    momentum: float,
    epsilon: float,
    *_: Any,
) -> Any:
    if use_input:
        return _group_norm(x, x.shape[1], weight, bias, epsilon)
    return _batch_norm(x, weight, bias, mean, variance, momentum, epsilon)[0]


@from_aten(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> Any:
    deviation = (variance.double() + epsilon).sqrt()
    scale = 1.0 / deviation if weight is None else weight.double() / deviation
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return (BatchNorm()(x, scale.to(x.dtype), shift.to(x.dtype)), None, None)


@from_aten(aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit_functional.default)
def _batch_norm_of_the_batch(*_: Any) -> Any:
    raise UnsupportedOperator(
        "a batch norm by the statistics of the batch mixes samples: give it running statistics "
        "(track_running_stats=True, training=False)"
    )


# Statistics: they mostly end in a denominator, which is a gate.


@from_aten(aten.var.dim, aten.var.correction)
def _variance(
    x: Any,
    axes: Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    chosen = axes_of(axes, x)
    count = prod(x.shape[axis] for axis in chosen)
    less = float(unbiased) if correction is None else correction
    centered = Subtract()(*aligned(x, _mean(x, chosen, True)))
    variance = Sum(chosen)(Power(2.0)(centered)) * (1.0 / (count - less))
    return variance if keepdim else _squeeze(variance, chosen)


@from_aten(aten.var_mean.dim, aten.var_mean.correction)
def _variance_and_mean(
    x: Any,
    axes: Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    **options: Any,
) -> Any:
    return _variance(x, axes, unbiased, keepdim, **options), _mean(x, axes, keepdim)


@from_aten(aten.std.dim, aten.std.correction)
def _standard_deviation(*arguments: Any, **options: Any) -> Any:
    return Simple("sqrt")(_variance(*arguments, **options))


@from_aten(aten.linalg_vector_norm.default)
def _vector_norm(
    x: Any,
    order: float = 2,
    axes: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    if order != 2:
        raise UnsupportedOperator(f"a vector norm of order {order} has no relevance rule; 2 has")
    chosen = axes_of(axes, x)
    norm = Simple("sqrt")(Sum(chosen)(Power(2.0)(x)))
    return norm if keepdim else _squeeze(norm, chosen)
