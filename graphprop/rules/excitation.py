"""Excitation backprop, and maps that contrast a class with others: docs/methods.md, section 5."""

from __future__ import annotations

from graphprop.ops import divide_or_zero, positive, total
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.registry import rule


@rule(fits=fits.WEIGHTED)
def excitation(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Excitation: relevance by the excitatory connections alone, ``J(x+, w+, r)``.

    That is z-plus with x clamped at 0, and the bias ignored.

    References
    ----------
    Zhang et al. 2016, eq. 5; docs/methods.md, section 5.
    """
    return excited(layer, x, r, positive(layer.weight))


@rule(fits=fits.WEIGHTED)
def excitation_top(layer: Layer, x: Tensor, r: Tensor, *, negated: bool = False) -> Tensor:
    """Excitation at the logit layer, ``J(x+, w+, r)``, or of the negated weights.

    Parameters
    ----------
    negated
        Whether ``(-w)+`` stands in the place of w+: the contrast of contrastive excitation
        backprop.

    References
    ----------
    Zhang et al. 2016, section 3.4; docs/methods.md, section 5.
    """
    return excited(layer, x, r, positive(-layer.weight if negated else layer.weight))


def excited(layer: Layer, x: Tensor, r: Tensor, weight: Tensor) -> Tensor:
    """``J(x+, w, r)``."""
    above = positive(x)
    return above * layer.opT(weight, divide_or_zero(r, layer.op(above, weight)))


@rule(fits=fits.MAPS)
def difference(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The first flow of relevance less the second, ``r_1 - r_2``.

    References
    ----------
    Zhang et al. 2016, section 3.4; docs/methods.md, section 5.
    """
    first, second = r
    return first - second


@rule(fits=fits.MAPS)
def contrast(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Contrastive LRP: the target's map less the others', ``R_t - R_o * sum R_t / sum R_o``.

    References
    ----------
    Gu et al. 2018, eq. 5; docs/methods.md, section 5.
    """
    target, others = r
    return target - others * divide_or_zero(total(target), total(others))


@rule(fits=fits.MAPS)
def above_zero(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The positive part of a map, ``r+``.

    References
    ----------
    Zhang et al. 2016, section 3.4; docs/methods.md, section 5.
    """
    return positive(r)
