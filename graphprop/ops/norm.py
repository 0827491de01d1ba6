"""Normalization layers.

Batch norm at inference is a fixed scale and shift per channel. The other norms take a mean m and a
deviation s from the sample itself: ``(x - m) / s * weight + bias``. Relevance passes through them.
The rule ``affine`` takes m and s for constants instead, so that the layer is affine in x with the
slope ``weight / s`` (docs/methods.md, section 0).
Instance norm is group norm with a group for each channel, or batch norm where it has kept
statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from graphprop.errors import UnsupportedOperator
from graphprop.ir.interval import Interval
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand
from graphprop.ops import helpers
from graphprop.ops.base import Array, Operator, from_aten
from graphprop.ops.power import Power
from graphprop.ops.shape import Reshape
from graphprop.ops.simple import Simple
from graphprop.ops.source import source_call
from graphprop.ops.sums import Expand, Sum
from graphprop.ops.traits import Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class BatchNorm(Operator):
    """``scale * x + shift`` per channel: batch norm at inference, its statistics folded in."""

    relevance: ClassVar[str | None] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "scale", "shift")
    traits: ClassVar[Trait] = Trait.NORM
    helpers: ClassVar[tuple[str, ...]] = ("batch_norm",)

    def run(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return helpers.batch_norm(x, scale, shift)

    def rule_for(self, parameters: Mapping[str, Any]) -> str | None:
        strategy = str(parameters.get("batch_norm"))
        return strategy if strategy in ("affine", "compensate") else self.relevance

    def coefficient(self, x: Array, *parameters: Array) -> Array:
        return per_channel(parameters[0], x)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        return (r * self.coefficient(*operands),)

    def source(self, *operands: str) -> str:
        x, scale, shift = operands
        return f"batch_norm({x}, {scale}, {shift})"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x, scale, shift = operands
        return onnx_affine(graph, x, channel_shape(len(graph.shape(x))), scale, shift)


@dataclass(frozen=True)
class SampleNorm(Operator):
    """What the norms share whose statistics are the sample's: called ``(x[, weight[, bias]])``."""

    relevance: ClassVar[str | None] = "pass"
    operands: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")
    traits: ClassVar[Trait] = Trait.NORM

    def rule_for(self, parameters: Mapping[str, Any]) -> str | None:
        return "affine" if parameters.get("norm") == "affine" else self.relevance

    def averaged(self, x: Array) -> Array:
        """The mean over what the statistics are taken over, shaped to meet x."""
        raise NotImplementedError

    def mean_taken_off(self, x: Array) -> Array:
        """``x - m``."""
        return x - self.averaged(x)

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        # the statistics depend on x, too: what moves along with them is taken off
        normal, weighted = self(operands[0]), r * self.coefficient(*operands)
        return (self.mean_taken_off(weighted) - normal * self.averaged(weighted * normal),)


@dataclass(frozen=True)
class LayerNorm(SampleNorm):
    """``(x - m) / s * weight + bias``, m and s being taken over the last axes, of this shape."""

    shape: tuple[int, ...]
    epsilon: float = 1e-5

    def run(
        self, x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return F.layer_norm(x, self.shape, weight, bias, self.epsilon)

    def coefficient(self, x: Array, *parameters: Array) -> Array:
        weight = parameters[0] if parameters else 1.0
        return weight / deviation(x, last_axes(self.shape, x), self.epsilon)

    def averaged(self, x: Array) -> Array:
        return mean_over(x, last_axes(self.shape, x))

    def source(self, *operands: str) -> str:
        x, *parameters = operands
        epsilon = (self.epsilon, 1e-5)
        return source_call("F.layer_norm", x, str(self.shape), *parameters, eps=epsilon)

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x, *parameters = operands
        if not parameters:
            parameters = [graph.filled(1.0, graph.integers(self.shape), like=x)]
        axis = -len(self.shape)
        return graph.node("LayerNormalization", x, *parameters, axis=axis, epsilon=self.epsilon)

    def verify(self, *shapes: Shape) -> str | None:
        return wrong_axes(self.shape, shapes[0])


@dataclass(frozen=True)
class RmsNorm(SampleNorm):
    """``x / s * weight``, s being the root of the mean square over the last axes."""

    shape: tuple[int, ...]
    epsilon: float

    def run(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return F.rms_norm(x, self.shape, weight, self.epsilon)

    def interval(self, *operands: Interval) -> Interval:
        x, *weight = operands
        return (x * weight[0]).cone() if weight else x.cone()

    def coefficient(self, x: Array, *parameters: Array) -> Array:
        weight = parameters[0] if parameters else 1.0
        return weight / deviation(x, last_axes(self.shape, x), self.epsilon, center=False)

    def averaged(self, x: Array) -> Array:
        return mean_over(x, last_axes(self.shape, x))

    def mean_taken_off(self, x: Array) -> Array:
        return x

    def source(self, *operands: str) -> str:
        x, *parameters = operands
        epsilon = (self.epsilon, None)
        return source_call("F.rms_norm", x, str(self.shape), *parameters, eps=epsilon)

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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

    def run(
        self, x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return F.group_norm(x, self.groups, weight, bias, self.epsilon)

    def coefficient(self, x: Array, *parameters: Array) -> Array:
        channels, size = x.shape[1], len(x.shape) - 2
        s = deviation(Reshape(self.grouped(x.shape))(x), (2,), self.epsilon)
        s = Expand((-1, self.groups, channels // self.groups))(s)
        weight = per_channel(parameters[0], x) if parameters else 1.0
        return weight / Reshape((-1, channels, *[1] * size))(s)

    def averaged(self, x: Array) -> Array:
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

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
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


def deviation(x: Array, axes: Sequence[int], epsilon: float, *, center: bool = True) -> Array:
    """``s = sqrt(mean((x - m)^2) + epsilon)`` over axes, with m the mean, or 0."""
    if center:
        x = x - mean_over(x, axes)
    return Simple("sqrt")(mean_over(Power(2.0)(x), axes) + epsilon)


def mean_over(x: Array, axes: Sequence[int]) -> Array:
    """The mean over axes, which stay with length 1."""
    axes = tuple(axes)
    return Sum(axes)(x) * (1.0 / prod(x.shape[axis] for axis in axes))


def last_axes(shape: Shape, x: Array) -> range:
    """The last axes of x, as many as a shape has."""
    return range(len(x.shape) - len(shape), len(x.shape))


def wrong_axes(shape: Shape, whole: Shape) -> str | None:
    """What is wrong with a norm that is not over the last axes, or is over the batch."""
    if len(shape) >= len(whole) or whole[-len(shape) :] != shape:
        return f"the norm is over {shape}, which are not the last axes of {whole}"
    return None


def channel_shape(rank: int) -> Shape:
    """The shape in which a vector per channel meets a value of this rank."""
    return (-1, *[1] * (rank - 2))


def per_channel(vector: Array, x: Array) -> Array:
    """A vector with an entry for each channel, shaped to meet x."""
    return Reshape(channel_shape(len(x.shape)))(vector)


def onnx_normal(
    graph: OnnxWriter, x: ir.Value, axes: Sequence[int], epsilon: float, *, center: bool = True
) -> ir.Value:
    """Write ``(x - m) / s`` over axes as ONNX nodes, with m the mean, or 0."""
    over = graph.integers(axes)
    if center:
        x = graph.node("Sub", x, graph.node("ReduceMean", x, over, keepdims=1))
    square = graph.node("ReduceMean", graph.node("Mul", x, x), over, keepdims=1)
    return graph.node("Div", x, graph.node("Sqrt", graph.node("Add", square, epsilon)))


def onnx_affine(graph: OnnxWriter, x: ir.Value, shape: Shape, *parameters: ir.Value) -> ir.Value:
    """Write ``x * weight + bias`` as ONNX nodes, each of them where given, and of this shape."""
    for operator, parameter in zip(("Mul", "Add"), parameters, strict=False):
        x = graph.node(operator, x, graph.node("Reshape", parameter, graph.integers(shape)))
    return x


def parameters_for(
    x: Array, weight: Array, bias: Array, shape: Sequence[int]
) -> list[torch.Tensor]:
    """The weight and bias that a norm is called with, those behind the last one left out."""
    if weight is None and bias is not None:
        weight = torch.ones(tuple(shape))
    return [tensor.to(x.dtype) for tensor in (weight, bias) if tensor is not None]


@from_aten(aten.layer_norm.default)
def _layer_norm(
    x: Array,
    shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    epsilon: float = 1e-5,
    *_: object,
) -> Array:
    return LayerNorm(tuple(shape), epsilon)(x, *parameters_for(x, weight, bias, shape))


@from_aten(aten.rms_norm.default)
def _rms_norm(
    x: Array, shape: Sequence[int], weight: Array | None = None, epsilon: float | None = None
) -> Array:
    if epsilon is None:
        # torch computes the norm of half precision in single precision
        epsilon = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return RmsNorm(tuple(shape), epsilon)(x, *parameters_for(x, weight, None, shape))


@from_aten(aten.group_norm.default)
def _group_norm(
    x: Array,
    groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    epsilon: float = 1e-5,
    *_: object,
) -> Array:
    return GroupNorm(groups, epsilon)(x, *parameters_for(x, weight, bias, x.shape[1:2]))


@from_aten(aten.instance_norm.default)
def _instance_norm(
    x: Array,
    weight: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    use_input: bool,
    momentum: float,
    epsilon: float,
    *_: object,
) -> Array:
    if use_input:
        return _group_norm(x, x.shape[1], weight, bias, epsilon)
    return _batch_norm(x, weight, bias, mean, variance, momentum, epsilon)[0]


@from_aten(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Array,
    weight: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    momentum: float,
    epsilon: float,
) -> tuple[Array, None, None]:
    deviation = (variance.double() + epsilon).sqrt()
    scale = 1.0 / deviation if weight is None else weight.double() / deviation
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return (BatchNorm()(x, scale.to(x.dtype), shift.to(x.dtype)), None, None)


@from_aten(aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit_functional.default)
def _batch_norm_of_the_batch(*_: object) -> Array:
    raise UnsupportedOperator(
        "a batch norm by the statistics of the batch mixes samples: give it running statistics "
        "(track_running_stats=True, training=False)"
    )
