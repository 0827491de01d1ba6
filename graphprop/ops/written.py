"""Captured operators that put values together: concatenation, and slices written over."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from graphprop.ir.facts import BATCH
from graphprop.ir.writer import Value
from graphprop.ops.base import Array, from_aten
from graphprop.ops.constants import filled, one_sample
from graphprop.ops.elementwise import Multiply
from graphprop.ops.padding import Pad
from graphprop.ops.shape import Reshape, _unsqueeze, axis_of
from graphprop.ops.slices import Cat, Slice, entries
from graphprop.ops.sums import Expand

aten = torch.ops.aten


@from_aten(aten.slice_scatter.default)
def _slice_scatter(
    x: Array,
    new: Array,
    axis: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Array:
    """A slice written anew: what lies before it, the new entries, and what lies behind."""
    axis = axis % len(x.shape)
    if start in (None, 0) and (stop is None or stop > 2**31) and step == 1:
        return new
    axis = axis_of(axis, x)
    length = x.shape[axis]
    first, last, step = slice(start, stop, step).indices(length)
    if step != 1:
        return _every_written(x, new, axis, range(first, last, step))
    parts = [entries(x, axis, 0, first), new, entries(x, axis, last, length)]
    return _cat([part for part in parts if part.shape[axis]], axis)


def _every_written(x: Array, new: Array, axis: int, places: range) -> Array:
    """Entries in some places written anew: one after another."""
    parts, done = [], 0
    for count, place in enumerate(places):
        parts += [entries(x, axis, done, place), entries(new, axis, count, count + 1)]
        done = place + 1
    parts.append(entries(x, axis, done, x.shape[axis]))
    return _cat([part for part in parts if part.shape[axis]], axis)


@from_aten(aten.select_scatter.default)
def _select_scatter(x: Array, new: Array, axis: int, index: int) -> Array:
    axis = axis_of(axis, x)
    index = index % x.shape[axis]
    new = new.unsqueeze(axis) if isinstance(new, torch.Tensor) else _unsqueeze(new, axis)
    return _slice_scatter(x, new, axis, index, index + 1)


@from_aten(aten.copy.default)
def _copy(x: Array, new: Array, non_blocking: bool = False) -> Array:
    """What is written over x: another value or constant, broadcast to its shape."""
    if isinstance(new, torch.Tensor):
        return new.expand([BATCH if length == -1 else length for length in x.shape])
    while len(new.shape) < len(x.shape):
        new = Reshape((-1, 1, *new.shape[1:]))(new)
    wanted = (-1, *x.shape[1:])
    return new if tuple(new.shape) == wanted else Expand(wanted)(new)


@from_aten(aten.fill.Scalar, aten.fill.Tensor)
def _fill(x: Array, value: Array) -> Array:
    return filled(x, x.shape, float(value), None)


@from_aten(aten.cat.default)
def _cat(values: Sequence[Array], axis: int = 0) -> Array:
    first = next(value for value in values if isinstance(value, Value))
    axis = axis_of(axis, first)
    if any(not isinstance(value, Value) for value in values):
        # a constant among values: give it the batch
        values = [v if isinstance(v, Value) else _with_batch(v, first) for v in values]
    return Cat(axis)(*values)


def _with_batch(constant: torch.Tensor, like: Array) -> Array:
    """A constant as a value: added to a zero that has the batch of ``like``.

    The zero is a piece of padding, so that no operand gets its relevance.
    """
    constant = one_sample(constant).to(like.dtype)
    one = Slice(1, 0, 1)(like)
    if len(one.shape) > 2:
        one = Slice(2, 0, 1)(Reshape((-1, 1, prod(one.shape[2:])))(one))
    one = Reshape((-1, 1))(one)
    padding = Slice(1, 0, 1)(Pad(((0, 0), (1, 0)), 0.0)(one))
    zero = Multiply()(Reshape((-1, *[1] * (constant.dim() - 1)))(padding), 0.0)
    return Expand((-1, *constant.shape[1:]))(zero) + constant


@from_aten(aten.stack.default)
def _stack(values: Sequence[Array], axis: int = 0) -> Array:
    return _cat(
        [_unsqueeze(v, axis % (len(v.shape) + 1)) for v in values],
        axis % (len(values[0].shape) + 1),
    )
