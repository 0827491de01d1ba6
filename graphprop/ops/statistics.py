"""Variance, deviation and norm: what normalizations written by hand are composed of.

They mostly end in a denominator, which is a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ops.average import _mean
from graphprop.ops.base import Array, from_aten
from graphprop.ops.elementwise import Subtract
from graphprop.ops.merge import aligned
from graphprop.ops.power import Power
from graphprop.ops.shape import _squeeze, axes_of
from graphprop.ops.simple import Simple
from graphprop.ops.sums import Sum

aten = torch.ops.aten


@from_aten(aten.var.dim, aten.var.correction)
def _variance(
    x: Array,
    axes: Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Array:
    chosen = axes_of(axes, x)
    count = prod(x.shape[axis] for axis in chosen)
    less = float(unbiased) if correction is None else correction
    centered = Subtract()(*aligned(x, _mean(x, chosen, True)))
    variance = Sum(chosen)(Power(2.0)(centered)) * (1.0 / (count - less))
    return variance if keepdim else _squeeze(variance, chosen)


@from_aten(aten.var_mean.dim, aten.var_mean.correction)
def _variance_and_mean(
    x: Array,
    axes: Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    **options: object,
) -> tuple[Array, Array]:
    return _variance(x, axes, unbiased, keepdim, **options), _mean(x, axes, keepdim)


@from_aten(aten.std.dim, aten.std.correction)
def _standard_deviation(*arguments: Array, **options: object) -> Array:
    return Simple("sqrt")(_variance(*arguments, **options))


@from_aten(aten.linalg_vector_norm.default)
def _vector_norm(
    x: Array,
    order: float = 2,
    axes: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Array:
    if order != 2:
        raise UnsupportedOperator(f"a vector norm of order {order} has no relevance rule; 2 has")
    chosen = axes_of(axes, x)
    norm = Simple("sqrt")(Sum(chosen)(Power(2.0)(x)))
    return norm if keepdim else _squeeze(norm, chosen)
