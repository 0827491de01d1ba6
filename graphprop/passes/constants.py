"""What a captured graph computes without its input: parameters, buffers, constants.

A constant can be made as large as the batch (``torch.ones(x.shape[0], ...)``). It is the same for
every sample, or it is refused: so it is computed for two samples and for three, and kept as one
row, repeated without memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ir.facts import BATCH

aten = torch.ops.aten

CASTS = {aten._to_copy.default, aten.to.dtype, aten.type_as.default}


def evaluated(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    dtype: torch.dtype,
) -> Any:
    """What doesn't depend on the input, computed; floating-point numbers in the input's type."""
    if target is aten._assert_tensor_metadata.default:
        return None
    per_sample = isinstance(target, torch._ops.OpOverload) and mentions_batch((arguments, options))
    if per_sample:
        result = for_every_batch(target, arguments, options)
    else:
        result = target(*arguments, **options)
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return result
    if target in CASTS and arguments[0].is_floating_point():
        return arguments[0]
    if per_sample and is_batch(result):
        return result[:1].to(dtype).expand(result.shape)
    return result.to(dtype)


def mentions_batch(tree: object) -> bool:
    """Whether a size or a tensor among arguments is as large as the batch."""
    return any(map(is_batch, torch.utils._pytree.tree_leaves(tree)))


def is_batch(leaf: object) -> bool:
    """Whether a size is a multiple of the batch's, or a tensor has as many rows."""
    if isinstance(leaf, torch.Tensor):
        return leaf.dim() > 0 and is_batch(leaf.shape[0])
    return isinstance(leaf, int) and not isinstance(leaf, bool) and leaf > 0 and leaf % BATCH == 0


def for_every_batch(
    target: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Compute with few samples what is the same for each, and for any number of them.

    Raises
    ------
    UnsupportedOperator
        If it isn't.
    """
    two, three = (target(*fewer(arguments, count), **fewer(options, count)) for count in (2, 3))
    if not isinstance(two, torch.Tensor):
        return target(*arguments, **options)
    if two.shape == three.shape:
        if not torch.equal(two, three):
            raise UnsupportedOperator("a constant that depends on the number of samples mixes them")
        return two
    sizes = list(zip(two.shape, three.shape, strict=False))
    grown = [axis for axis, (small, large) in enumerate(sizes) if small != large]
    if len(grown) == 1 and two.dim() == three.dim():
        (axis,) = grown
        row = two.narrow(axis, 0, 1)
        if all(torch.equal(rows, row.expand_as(rows)) for rows in (two, three)):
            size = two.shape[axis] // 2 * BATCH
            return row.expand(*two.shape[:axis], size, *two.shape[axis + 1 :])
    raise UnsupportedOperator("a constant that differs from sample to sample mixes samples")


def fewer(tree: Any, count: int) -> Any:
    """Arguments for ``count`` samples in the place of `BATCH`."""

    def changed(leaf: torch.Tensor | int) -> torch.Tensor | int:
        if not is_batch(leaf):
            return leaf
        if isinstance(leaf, torch.Tensor):
            return leaf[: leaf.shape[0] // BATCH * count]
        return leaf // BATCH * count

    return torch.utils._pytree.tree_map(changed, tree)
