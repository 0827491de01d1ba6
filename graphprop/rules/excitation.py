"""Excitation backprop, and maps that say why this class and not the others (methods.md, 5)."""

from __future__ import annotations

from typing import Any

from graphprop.ops import divide_or_zero, positive, total
from graphprop.rules.registry import Layer, rule


@rule
def excitation(layer: Layer, x: Any, r: Any) -> Any:
    """Excitation: ``J(x+, w+, r)``, up the excitatory connections (Zhang et al. 2016, eq. 5).

    z-plus with x clamped at 0, bias ignored.
    """
    return excited(layer, x, r, positive(layer.weight))


@rule
def excitation_top(layer: Layer, x: Any, r: Any, *, negated: bool = False) -> Any:
    """Excitation at the logit layer, its weights ``negated`` in the contrast."""
    return excited(layer, x, r, positive(-layer.weight if negated else layer.weight))


def excited(layer: Layer, x: Any, r: Any, weight: Any) -> Any:
    """``J(x+, w, r)``."""
    above = positive(x)
    return above * layer.opT(weight, divide_or_zero(r, layer.op(above, weight)))


@rule
def difference(layer: Layer, x: Any, r: Any) -> Any:
    """One flow less the other."""
    first, second = r
    return first - second


@rule
def contrast(layer: Layer, x: Any, r: Any) -> Any:
    """Contrastive LRP: ``R_t - R_o * sum R_t / sum R_o`` (Gu et al. 2018, eq. 5)."""
    target, others = r
    return target - others * divide_or_zero(total(target), total(others))


@rule
def above_zero(layer: Layer, x: Any, r: Any) -> Any:
    """What of a map is positive."""
    return positive(r)
