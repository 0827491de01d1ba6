"""Layers between folding the time into the batch and taking it out again.

Each is translated to the layer that does the same to every frame of a `folded.Folded` value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH
from graphprop.ir.names import tensor_name
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Value
from graphprop.ops import ATEN
from graphprop.ops.base import Array, Ints, per_axis
from graphprop.passes.folded import (
    BETWEEN,
    HANDLERS,
    VIEWS,
    Call,
    Captured,
    Folded,
    captured_shape,
    entry_by_entry,
    frames_exchanged,
    handles,
    named_arguments,
    viewed,
)

aten = torch.ops.aten


def spatial(x: Folded, what: str) -> int:
    """The number of axes of places, which may be 1 or 2: the frames take one more axis."""
    rank = x.rank - 2
    if rank not in (1, 2):
        raise UnsupportedOperator(
            f"a {what} over {max(rank, 0)} axes of places can't be applied {BETWEEN}: over 1 or 2 "
            "it can"
        )
    return rank


ALONG_FRAMES = {"kernel": 1, "stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
"""What the arguments of a layer with windows are along the axis of frames, so that no window
reaches from one frame to another."""


def along_frames(arguments: Mapping[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
    """The arguments of windows over ``rank`` axes of places, with the axis of frames before them.

    Padding that is given by name (``"same"``) follows from the kernel, and stays.
    """
    return {
        name: (along, *per_axis(arguments[name], rank))
        for name, along in ALONG_FRAMES.items()
        if name in arguments and not isinstance(arguments[name], str)
    }


@handles(
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
    *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
)
def _conv(call: Call, x: Folded, weight: Array, *rest: Any, **options: Any) -> Folded:
    arguments = named_arguments(call.function, x.inner, weight, *rest, **options)
    transposed = "output_padding" in arguments
    rank = spatial(x, "transposed convolution" if transposed else "convolution")
    arguments |= {**along_frames(arguments, rank), "weight": weight_of_frames(weight, x.inner)}
    return x.of(call.function(**arguments))


def weight_of_frames(weight: Array, x: Value) -> torch.Tensor:
    """The weight of a convolution, of length 1 along the frames; one tensor for all its uses."""
    if not isinstance(weight, torch.Tensor):
        raise UnsupportedOperator("a convolution with a weight that depends on the input")
    writer = x.tracer
    path = writer.facts.get("path") or writer.facts.get("label")
    tensors = writer.network.tensors
    known = next((name for name, tensor in tensors.items() if tensor is weight), None)
    name = tensor_name(f"{known or f'{path}.weight'}_of_frames")
    if known is None or name not in tensors:
        kernel = weight.unsqueeze(2).clone()
        if name in tensors:
            return kernel
        writer.register(kernel, name)
    return tensors[name]


@handles(aten.linear.default)
def _linear(call: Call, x: Folded, weight: Array, bias: Array | None = None) -> Folded:
    return x.of(call.function(x.inner, weight, bias))


@handles(aten.matmul.default, aten.mm.default)
def _matmul(call: Call, x: Captured, matrix: Array) -> Folded:
    if not (isinstance(x, Folded) and isinstance(matrix, torch.Tensor) and matrix.dim() == 2):
        raise UnsupportedOperator(f"only a product with a fixed matrix is explained {BETWEEN}")
    return x.of(call.function(x.inner, matrix))


@handles(aten.addmm.default)
def _addmm(call: Call, bias: Array, x: Captured, matrix: Array, **options: float) -> Folded:
    fixed = isinstance(bias, torch.Tensor) and isinstance(matrix, torch.Tensor)
    if not (isinstance(x, Folded) and fixed and bias.dim() == 1):
        raise UnsupportedOperator(f"only a product with a fixed matrix is explained {BETWEEN}")
    return x.of(call.function(bias, x.inner, matrix, **options))


@handles(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(call: Call, x: Folded, *parameters: Any) -> tuple[Folded, None, None]:
    return (channels_second(x, lambda inner: call.function(inner, *parameters)[0]), None, None)


@handles(aten.prelu.default)
def _prelu(call: Call, x: Folded, slope: Array) -> Folded:
    return channels_second(x, lambda inner: call.function(inner, slope))


def channels_second(x: Folded, function: Callable[[Value], Value]) -> Folded:
    """Apply what acts on channels, which lie on axis 1."""
    if x.rank == 2:
        return x.of(frames_exchanged(function(frames_exchanged(x.inner))))
    return x.of(function(x.inner))


@handles(aten.layer_norm.default, aten.rms_norm.default)
def _norm(call: Call, x: Folded, shape: Sequence[int], *rest: Any, **options: Any) -> Folded:
    if len(shape) > x.rank - x.time_axis:
        raise UnsupportedOperator(
            f"a norm over the channels and places of each frame can't be applied {BETWEEN}: over "
            "the last axes alone it can"
        )
    return x.of(call.function(x.inner, shape, *rest, **options))


@handles(
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
)
def _pool(call: Call, x: Folded, *rest: Any, **options: Any) -> Folded:
    arguments = named_arguments(call.function, x.inner, *rest, **options)
    arguments["stride"] = arguments["stride"] or arguments["kernel"]
    arguments |= along_frames(arguments, spatial(x, "pooling"))
    return x.of(call.function(**arguments))


@handles(
    *(aten.max_pool1d_with_indices.default, aten.max_pool2d_with_indices.default),
    aten.max_pool3d_with_indices.default,
)
def _max_pool_with_indices(call: Call, x: Folded, *rest: Any) -> tuple[Folded, None]:
    # the places of the largest entries are those in one frame: nothing here can use them
    pool = aten.max_pool3d.default
    return _pool(Call(ATEN[pool], call.shape, pool), x, *rest), None


@handles(
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    *(aten.adaptive_avg_pool3d.default, aten.adaptive_max_pool1d.default),
    *(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default),
)
def _adaptive_pool(call: Call, x: Folded, size: Ints) -> Folded | tuple[Folded, None]:
    rank = spatial(x, "pooling")
    found = call.function(x.inner, (x.frames, *per_axis(size, rank)))
    return (x.of(found[0]), None) if isinstance(found, tuple) else x.of(found)


UPSAMPLE = {
    aten.upsample_linear1d.vec: aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.vec: aten.upsample_trilinear3d.vec,
    aten.upsample_nearest1d.vec: aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.vec: aten.upsample_nearest3d.vec,
    aten._upsample_nearest_exact1d.vec: aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact2d.vec: aten._upsample_nearest_exact3d.vec,
}
"""What resizes maps, and what does so with one more axis, that of the frames."""


@handles(*UPSAMPLE)
def _upsample(call: Call, x: Folded, size: Sequence[int] | None, *rest: Any) -> Folded:
    *corners, scales = rest
    size = None if size is None else (x.frames, *size)
    scales = None if scales is None else (1.0, *scales)
    return x.of(ATEN[UPSAMPLE[call.target]](x.inner, size, *corners, scales))


@handles(
    *(aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.amax.default),
    *(aten.max.dim, aten.logsumexp.default),
)
def _reduce(
    call: Call,
    x: Folded,
    axes: Ints | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Folded | Value | tuple[Folded | Value, None]:
    listed = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    chosen = sorted(axis % x.rank for axis in listed)
    pool = POOLED.get(call.target)
    if pool and x.rank in (3, 4) and chosen == list(range(2, x.rank)):
        found = ATEN[pool](x.inner, (x.frames, *[1] * len(chosen)))
    else:
        moved = [x.axis(axis) for axis in chosen]
        found = call.function(x.inner, moved[0] if call.target is aten.max.dim else moved, True)
    result = viewed(x.of(found[0] if isinstance(found, tuple) else found), call.shape)
    return (result, None) if call.target is aten.max.dim else result


POOLED = {
    aten.mean.dim: aten.adaptive_avg_pool3d.default,
    aten.amax.default: aten.adaptive_max_pool3d.default,
}
"""What pools maps to one place, where a reduction is over all places of each frame."""


def is_folded(node: fx.Node, arguments: Sequence[object], leaves: Sequence[object]) -> bool:
    """Whether a captured node folds an axis into the batch, or computes with what is folded."""
    if any(isinstance(leaf, Folded) for leaf in leaves):
        return True
    if node.target not in VIEWS or not isinstance(arguments[0], Value):
        return False
    samples, *_ = *captured_shape(node.meta["val"]), 0
    return samples > BATCH and samples % BATCH == 0


def over_frames(node: fx.Node) -> Callable[..., Any]:
    """What the operator of a captured node means for folded values.

    Raises
    ------
    UnsupportedOperator
        When called, if it has no such meaning.
    """
    function = HANDLERS.get(node.target)
    if function is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        function = entry_by_entry
    if function is None:
        name = str(node.target).removeprefix("aten.").removesuffix(".default")
        raise UnsupportedOperator(f"the operator {name} can't be applied {BETWEEN}")
    values = node.meta["val"]
    values = list(values) if isinstance(values, list | tuple) else [values]
    shapes = [captured_shape(v) if isinstance(v, torch.Tensor) else () for v in values]
    return partial(checked, function, Call(ATEN[node.target], shapes[0], node.target), shapes)


def checked(
    function: Callable[..., Any], call: Call, shapes: list[Shape], *args: Any, **options: Any
) -> Any:
    """The result of a handler, whose shape has to be what was captured."""
    result = function(call, *args, **options)
    parts = result if isinstance(result, list | tuple) else [result]
    for part, expected in zip(parts, shapes, strict=False):
        if not isinstance(part, Folded | Value):
            continue
        found = tuple(BATCH if size == -1 else size for size in part.shape)
        if found != expected:
            shown = [
                ", ".join([f"{shape[0] // BATCH} * N" if shape else "", *map(str, shape[1:])])
                for shape in (expected, found)
            ]
            raise UnsupportedOperator(
                f"a result of shape ({shown[0]}) would become ({shown[1]}) {BETWEEN}"
            )
    return result
