"""PatternNet and PatternAttribution: docs/methods.md, section 5.

A pattern is the direction in which a unit's input varies with its result. It is fitted to data, by
`graphprop.lowering.patterns`, and takes the place of the weight in the gradient.
"""

from __future__ import annotations

from graphprop.errors import MethodError
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.registry import rule

NEEDS_DATA = (
    "its patterns are fitted to data: give batches of the model's inputs, "
    "compile(..., fit=batches), or `graphprop compile --fit DATA`"
)
"""What a rule that reads patterns lacks, for errors."""


@rule(everywhere=True, fitted=True, fits=fits.WEIGHTED)
def pattern_attribution(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The gradient with ``w * a`` in the place of the weight: ``opT(w * a, r)``, a its pattern.

    References
    ----------
    Kindermans et al. 2018, sec. 4; docs/methods.md, section 5.
    """
    return (layer.opT(layer.weight * pattern_of(layer), r),)


@rule(everywhere=True, fitted=True, fits=fits.WEIGHTED)
def pattern_net(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The gradient with the pattern in the place of the weight: ``opT(a, r)``.

    References
    ----------
    Kindermans et al. 2018, sec. 4; docs/methods.md, section 5.
    """
    return (layer.opT(pattern_of(layer), r),)


def pattern_of(layer: Layer) -> Tensor:
    """The layer's pattern, of the shape of its weight.

    Raises
    ------
    MethodError
        If the layer has no weight, or nothing was fitted.
    """
    if layer.weight is None:
        raise MethodError("only a layer with weights has a pattern")
    if layer.pattern is None:
        raise MethodError(NEEDS_DATA)
    return layer.pattern
