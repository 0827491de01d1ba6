"""Constants of the shape or type of a value, and captured operators that change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH, facts_of
from graphprop.ops.base import Array, from_aten

aten = torch.ops.aten


def one_sample(constant: torch.Tensor) -> torch.Tensor:
    """A constant that has a row for each sample, as one row."""
    if constant.dim() == 0 or not constant.shape[0] or constant.shape[0] % BATCH:
        return constant
    if constant.stride(0) and not torch.equal(constant, constant[:1].expand_as(constant)):
        raise UnsupportedOperator("a constant that differs from sample to sample mixes samples")
    return constant[:1].clone()


@from_aten(
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.type_as.default,
)
def _identity(x: Array, *arguments: Array, **options: object) -> Array:
    for option in (*arguments, *options.values()):
        if not facts_of(x.node).varies:
            break  # a mask has no fraction
        if isinstance(option, torch.dtype) and not option.is_floating_point:
            raise UnsupportedOperator(
                f"a cast to {option} loses the fraction: it has no relevance rule"
            )
    return x


def filled(like: Array, shape: Sequence[int], value: float, dtype: torch.dtype) -> torch.Tensor:
    """A constant: one row, repeated for the batch without memory where that leads the shape."""
    lengths = [BATCH if length == -1 else int(length) for length in shape]
    rows = lengths and lengths[0] and lengths[0] % BATCH == 0
    kept = [1, *lengths[1:]] if rows else lengths
    full: torch.Tensor = torch.full(kept, value, dtype=dtype or like.dtype)
    return full.expand(lengths)


@from_aten(aten.zeros_like.default, aten.new_zeros.default)
def _zeros(
    x: Array, shape: Sequence[int] | None = None, *, dtype: torch.dtype | None = None, **_: object
) -> Array:
    return filled(x, x.shape if shape is None else shape, 0, dtype)


@from_aten(aten.ones_like.default, aten.new_ones.default)
def _ones(
    x: Array, shape: Sequence[int] | None = None, *, dtype: torch.dtype | None = None, **_: object
) -> Array:
    return filled(x, x.shape if shape is None else shape, 1, dtype)


@from_aten(aten.full_like.default)
def _full_like(x: Array, value: float, *, dtype: torch.dtype | None = None, **_: object) -> Array:
    return filled(x, x.shape, value, dtype)


@from_aten(aten.new_full.default)
def _new_full(
    x: Array, shape: Sequence[int], value: float, *, dtype: torch.dtype | None = None, **_: object
) -> Array:
    return filled(x, shape, value, dtype)


LIKE = (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default),
)
"""What makes a constant of the shape or type of a value."""


@from_aten(aten._assert_tensor_metadata.default)
def _nothing(*_: object, **__: object) -> None:
    return None
