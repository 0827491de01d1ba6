"""Time-distributed layers: values whose leading axis holds the frames of every sample.

A network can fold an axis into the batch, ``x.view(N * T, C, H, W)``, apply layers to each frame,
and take the axis out again, ``y.view(N, T, -1)``. Here no value has N * T samples: a `Folded` value
keeps the frames along an axis of their own, and what is applied to it is translated to the operator
that does the same with that axis there: a convolution to one with a kernel of length 1 along it.
So a sample stays a sample: what the rules reduce over it, they reduce over all of its frames.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH
from graphprop.ir.operation import Shape
from graphprop.ir.writer import Operand, Value
from graphprop.ops import ATEN
from graphprop.ops.base import Ints
from graphprop.ops.constants import LIKE, one_sample
from graphprop.ops.shape import Permute, reshaped
from graphprop.ops.sums import Expand

aten = torch.ops.aten

BETWEEN = "between folding the time into the batch and taking it out again"

VIEWS = {
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default),
    *(aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default),
    *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
}
"""What gives the same entries, in the same order, another shape."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A captured value ``[N * T, ...]``, by one that has an axis of T frames.

    Attributes
    ----------
    inner
        ``[N, C, T, *places]`` for ``[N * T, C, *places]``, ``[N, T, F]`` for ``[N * T, F]``.
    frames
        T.
    """

    inner: Value
    frames: int

    @property
    def shape(self) -> Shape:
        """The captured shape, with `BATCH` samples."""
        rest = list(self.inner.shape[1:])
        del rest[self.time_axis - 1]
        return (BATCH * self.frames, *rest)

    @property
    def dtype(self) -> torch.dtype:
        """The data type."""
        return self.inner.dtype

    @property
    def rank(self) -> int:
        """How many axes the captured value has."""
        return len(self.inner.shape) - 1

    @property
    def time_axis(self) -> int:
        """Which axis of the inner value holds the frames."""
        return time_axis(self.rank)

    def axis(self, axis: int) -> int:
        """Where an axis of the captured value lies in the inner one."""
        axis = axis % self.rank
        return axis + 1 if axis >= self.time_axis else axis

    def full(self, shape: Sequence[int]) -> Shape:
        """The inner shape of a captured one."""
        rest = list(shape[1:])
        rest.insert(time_axis(len(shape)) - 1, self.frames)
        return (-1, *rest)

    def plain(self) -> Value:
        """The value as ``[N, T, ...]``."""
        return frames_exchanged(self.inner) if self.rank > 2 else self.inner

    def of(self, inner: Value) -> Folded:
        """Another value of as many frames."""
        return Folded(inner, self.frames)


def time_axis(rank: int) -> int:
    """Which axis the frames of a value of this rank lie on: behind the channels of maps."""
    return 2 if rank > 2 else 1


def frames_exchanged(x: Value) -> Value:
    """``[N, T, C, *places]`` to ``[N, C, T, *places]``, or back."""
    return permuted(x, (0, 2, 1, *range(3, len(x.shape))))


def permuted(x: Value, order: tuple[int, ...]) -> Value:
    """Permute axes; a permutation of a permutation is one, or none at all."""
    if isinstance(x.node.target, Permute):
        order = tuple(x.node.target.axes[axis] for axis in order)
        x = Value(x.node.args[0], x.tracer)
    return x if order == tuple(range(len(order))) else Permute(order)(x)


def captured_shape(value: torch.Tensor) -> Shape:
    """The shape of a captured tensor, with `BATCH` samples."""
    return tuple(
        size
        if isinstance(size, int)
        else int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, BATCH)))
        for size in value.shape
    )


@dataclass(frozen=True)
class Call:
    """A captured call: what it means for a value that isn't folded, and the shape of its result."""

    function: Callable[..., Any]
    shape: Shape
    target: Any


Captured: TypeAlias = "Folded | Value | torch.Tensor | float | int | None"
"""What a captured node means: a value of frames or of samples, a constant, a number."""


def named_arguments(function: Callable[..., Any], *given: Any, **options: Any) -> dict[str, Any]:
    """The arguments of a call by name, defaults filled in."""
    bound = inspect.signature(function).bind(*given, **options)
    bound.apply_defaults()
    return dict(bound.arguments)


HANDLERS: dict[Any, Callable[..., Any]] = {}
"""What captured operators mean for folded values: called with a `Call` and the arguments."""


def handles(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function for captured operators."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        HANDLERS.update(dict.fromkeys(targets, function))
        return function

    return register


# The shape


@handles(*VIEWS)
def _view(call: Call, x: Folded | Value, *_: object, **__: object) -> Folded | Value:
    return viewed(x, call.shape)


def viewed(x: Folded | Value, shape: Shape) -> Folded | Value:
    """The same entries in another captured shape, which folds the axis of frames or takes it out.

    As the frames of a sample follow one another, ``[N * T, ...]`` is always ``[N, T, ...]``.
    """
    if isinstance(x, Folded):
        maps = x.rank > 2 and len(shape) > 2
        if x.shape == shape or (maps and x.shape[:2] == shape[:2]):
            return x.of(reshaped(x.inner, x.full(shape)))
    value = x.plain() if isinstance(x, Folded) else x
    if not shape or shape[0] % BATCH:
        raise UnsupportedOperator("a reshape moves the batch away from the first axis")
    frames = shape[0] // BATCH
    if frames == 1:
        whole: Value = reshaped(value, shape)
        return whole
    value = reshaped(value, (-1, frames, *shape[1:]))
    return Folded(frames_exchanged(value) if len(shape) > 2 else value, frames)


@handles(aten.permute.default)
def _permute(call: Call, x: Folded, axes: Sequence[int]) -> Folded:
    order = [axis % x.rank for axis in axes]
    if order[0] != 0:
        raise UnsupportedOperator("a permutation moves the batch away from the first axis")
    full = [x.axis(axis) for axis in order]
    full.insert(x.time_axis, x.time_axis)
    return x.of(permuted(x.inner, tuple(full)))


@handles(aten.transpose.int)
def _transpose(call: Call, x: Folded, first: int, second: int) -> Folded:
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return _permute(call, x, order)


@handles(aten.expand.default)
def _expand(call: Call, x: Folded, *_: object, **__: object) -> Folded:
    if len(call.shape) != x.rank or call.shape[0] != x.shape[0]:
        raise UnsupportedOperator("an expand that adds axes in front moves the batch")
    return x if call.shape == x.shape else x.of(Expand(x.full(call.shape))(x.inner))


@handles(
    *(aten.slice.Tensor, aten.narrow.default, aten.glu.default),
    *(aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default),
)
def _along(call: Call, x: Folded, axis: int | None = None, *rest: Any, **options: Any) -> Folded:
    if axis is None:
        axis = -1 if call.target is aten.glu.default else 0
    return x.of(call.function(x.inner, x.axis(axis), *rest, **options))


@handles(aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default)
def _split(call: Call, x: Folded, size: Ints, axis: int = 0) -> list[Folded]:
    return [x.of(part) for part in call.function(x.inner, size, x.axis(axis))]


@handles(aten.select.int)
def _select(call: Call, x: Folded, axis: int, index: int) -> Folded | Value:
    index = index % x.shape[axis]
    part = ATEN[aten.narrow.default](x.inner, x.axis(axis), index, 1)
    return viewed(x.of(part), call.shape)


@handles(aten.flip.default)
def _flip(call: Call, x: Folded, axes: Sequence[int]) -> Folded:
    return x.of(call.function(x.inner, [x.axis(axis) for axis in axes]))


@handles(aten.cat.default)
def _cat(call: Call, parts: Sequence[Captured], axis: int = 0) -> Folded:
    first = next(part for part in parts if isinstance(part, Folded))
    inner = [lifted(part, first.rank, first.frames, repeat=True) for part in parts]
    return first.of(call.function(inner, first.axis(axis)))


@handles(aten.pad.default, aten.constant_pad_nd.default)
def _pad(call: Call, x: Folded, amounts: Sequence[int], *rest: Any, **options: Any) -> Folded:
    before_time = 2 * (x.rank - x.time_axis)
    amounts = list(amounts)
    if len(amounts) > before_time:
        amounts[before_time:before_time] = [0, 0]
    return x.of(call.function(x.inner, amounts, *rest, **options))


# Entry by entry


def lifted(operand: Captured, rank: int, frames: int, *, repeat: bool = False) -> Operand | None:
    """An operand of what is computed entry by entry, with an axis for the frames."""
    if isinstance(operand, Folded):
        if (operand.rank, operand.frames) != (rank, frames):
            raise UnsupportedOperator(f"values of different numbers of axes meet {BETWEEN}")
        return operand.inner
    if isinstance(operand, Value):
        raise UnsupportedOperator(f"a value of whole samples meets one of frames {BETWEEN}")
    if isinstance(operand, torch.Tensor):
        return for_frames(operand, rank, frames, repeat=repeat)
    return operand


def for_frames(constant: torch.Tensor, rank: int, frames: int, *, repeat: bool) -> torch.Tensor:
    """A constant with an axis for the frames; with ``repeat``, it holds an entry for each."""
    if not constant.dim():
        return constant
    constant = one_sample(constant)
    missing = rank - constant.dim()
    if missing < 0 or (not missing and constant.shape[0] != 1):
        raise UnsupportedOperator(f"a constant that differs from frame to frame, {BETWEEN}")
    axis = time_axis(rank)
    constant = constant.reshape(*[1] * missing, *constant.shape).unsqueeze(axis)
    lengths = [-1] * constant.dim()
    lengths[axis] = frames
    return constant.expand(lengths) if repeat else constant


@handles(
    *(aten.hardswish.default, aten.log_sigmoid.default, aten.rsub.Tensor, aten.masked_fill.Tensor),
    *(aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar),
    *(aten.__and__.Tensor, aten.__or__.Tensor, aten.alias.default, aten.contiguous.default),
    *(aten.detach.default, aten.lift_fresh_copy.default, aten.dropout.default),
    *(aten.feature_dropout.default, aten.alpha_dropout.default, aten._to_copy.default),
    *(aten.to.dtype, aten.type_as.default),
)
def entry_by_entry(call: Call, *arguments: Captured, **options: Captured) -> Folded:
    """What acts on each entry acts on those of all frames."""
    first = next(part for part in arguments if isinstance(part, Folded))
    lift = partial(lifted, rank=first.rank, frames=first.frames)
    return first.of(
        call.function(*map(lift, arguments), **{key: lift(part) for key, part in options.items()})
    )


@handles(*LIKE)
def _like(call: Call, *arguments: Any, **options: Any) -> torch.Tensor:
    return call.function(*arguments, **options)


@handles(aten._assert_tensor_metadata.default)
def _nothing(*_: object, **__: object) -> None:
    return None
