"""The gradient as a rule, its relatives, and the maps made of it: docs/methods.md, section 5.

The first rules return something for every operand that depends on the input, gates and denominators
among them. The rules at the end make a map of what arrives at a layer or at the input.
"""

from __future__ import annotations

from itertools import product
from math import prod
from operator import mul

from graphprop.errors import MethodError
from graphprop.ops import (
    Activation,
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AddBias,
    BatchNorm,
    Divide,
    Extremum,
    Item,
    MaxPool,
    Multiply,
    Numbers,
    Reshape,
    Route,
    Sum,
    Upsample,
    Where,
    absolute,
    divide_or_zero,
    keep_where,
    largest,
    positive,
    smallest,
)
from graphprop.ops.arrange import channels_first
from graphprop.rules import fits
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.registry import rule

TILT = 1e-6
"""By how much of the largest entry one place is lowered against the one before it: by more than
float32 rounds (6e-8, several times in a sum), and by so little that no other entry wins."""


def carried_back(layer: Layer, r: Tensor) -> tuple[Tensor, ...]:
    """The vector-Jacobian product of r, for the operands that depend on the input."""
    if layer.weight is not None:
        return (layer.opT(layer.weight, r),)
    parts = layer.operator.gradient(r, layer.operands, layer.shapes)
    return tuple(parts[index] for index in layer.signal)


@rule(everywhere=True)
def gradient(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The vector-Jacobian product, ``(dy/dx)^T r``; a ReLU gates by ``x > 0``.

    References
    ----------
    Simonyan et al. 2014, eq. 4; docs/methods.md, section 5.
    """
    return carried_back(layer, r)


@rule(everywhere=True, fits=fits.RECTIFIERS)
def guided(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Guided backpropagation: at a ReLU what is positive, where it was active, ``r+ where x > 0``.

    At a rectifier with an upper limit (ReLU6) it is active below that, too: as in the gradient.

    References
    ----------
    Springenberg et al. 2015, fig. 1; docs/methods.md, section 5.
    """
    return carried_back(layer, positive(r))


@rule(everywhere=True, fits=fits.RECTIFIERS)
def deconvnet(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """Deconvnet: at a ReLU what is positive, whatever its input was, ``r+``.

    So at one with an upper limit (ReLU6).

    References
    ----------
    Zeiler and Fergus 2014, sec. 2.1; docs/methods.md, section 5.
    """
    return (positive(r),)


@rule(everywhere=True)
def deeplift(layer: Layer, x: Tensor, r: Tensor, *, nearest: float = 1e-7) -> Tensor:
    """DeepLIFT's rescale rule: a non-linearity has the multiplier ``dy / dx``.

    dx and dy are how far its input and result are from where the baseline puts them. A product of
    two values has the other factor's mean as multiplier; a max pool passes ``max(y, y0) - y0`` to
    the winner and ``y - max(y, y0)`` to the baseline's. Norms have their derivative.

    Parameters
    ----------
    nearest
        Where ``|dx|`` is below it, the derivative stands in the place of the quotient.

    References
    ----------
    Shrikumar et al. 2017, eq. 12; docs/methods.md, section 5.
    """
    operator = layer.operator
    if isinstance(operator, Activation):
        return (rescaled(layer, x, r, nearest),)
    if isinstance(operator, MaxPool | AdaptiveMaxPool):
        return (rescaled_maximum(layer, x, r, nearest),)
    if isinstance(operator, Where | Extremum) and len(layer.signal) == 1:
        return (rescaled_choice(layer, r, nearest),)
    if isinstance(operator, Extremum):
        return rescaled_extremum(layer, r, nearest)
    if len(layer.signal) == 2 and isinstance(operator, Multiply | Divide):
        (a, b), (a0, b0) = layer.operands, at_baseline(layer)
        if isinstance(operator, Multiply):
            return r * (b + b0) * 0.5, r * (a + a0) * 0.5
        return r * (1.0 / b + 1.0 / b0) * 0.5, -r * (a + a0) * 0.5 / (b * b0)
    if isinstance(operator, Divide) and layer.signal == (1,):
        b, b0 = layer.operands[1], at_baseline(layer)[1]
        return (-r * layer.operands[0] / (b * b0),)
    return carried_back(layer, r)


def rescaled(layer: Layer, x: Tensor, r: Tensor, nearest: float) -> Tensor:
    """``r * dy / dx`` through a non-linearity."""
    parameters = layer.operands[1:]
    dx = x - at_baseline(layer)[0]
    dy = layer.operator(x, *parameters) - layer.operator(at_baseline(layer)[0], *parameters)
    return chosen(
        dx, divide_or_zero(r * dy, where_far(dx, nearest)), carried_back(layer, r)[0], nearest
    )


def rescaled_maximum(layer: Layer, x: Tensor, r: Tensor, nearest: float) -> Tensor:
    """What a max pool's multipliers come to, at its winners and at the baseline's."""
    reference = at_baseline(layer)[0]
    x0 = x * 0.0 + reference  # as many as there are samples
    y, indices = (Item(index)(layer.operator.with_indices(x)) for index in (0, 1))
    y0 = Item(0)(layer.operator.with_indices(x0))
    indices0 = Item(1)(layer.operator.with_indices(x * 0.0 + tilted(layer, reference)))
    above = y0 + positive(y - y0)
    route = Route(tuple(x.shape[2:]))
    moved = route(r * (above - y0), indices) + route(r * (y - above), indices0)
    dx = x - x0
    return chosen(dx, divide_or_zero(moved, where_far(dx, nearest)), route(r, indices), nearest)


def tilted(layer: Layer, x: Tensor) -> Tensor:
    """Lower x a little from place to place, so that of equal entries in a window the first wins.

    A baseline of one color has equal entries in most windows. Which of them is computed as a little
    larger depends on how a backend rounds, and a map must not depend on that.
    """
    size, operator = tuple(x.shape[2:]), layer.operator
    if isinstance(operator, MaxPool):
        steps = zip(operator.kernel, operator.dilation, strict=True)
        window = [gap * (length - 1) + 1 for length, gap in steps]
    else:  # adaptive windows
        window = [
            -(-length // count) + 1 for length, count in zip(size, operator.size, strict=True)
        ]
    # how far each corner lies behind the first place, where a row of a window follows another
    slopes = [prod(window[axis + 1 :]) for axis in range(len(size))]
    ends = [(0, length - 1) if length > 1 else (0,) for length in size]
    far = [float(sum(map(mul, corner, slopes))) for corner in product(*ends)]
    corners = Numbers(tuple(far), (1, 1, *map(len, ends)))(x)
    return x - largest(absolute(x)) * TILT * Upsample("linear", size, align_corners=True)(corners)


def rescaled_choice(layer: Layer, r: Tensor, nearest: float) -> Tensor:
    """``r * dy / dx`` through a choice between one value and constants."""
    (index,) = layer.signal
    dx = layer.operands[index] - at_baseline(layer)[index]
    dy = layer.operator(*layer.operands) - layer.operator(*at_baseline(layer))
    return chosen(
        dx, divide_or_zero(r * dy, where_far(dx, nearest)), carried_back(layer, r)[0], nearest
    )


def rescaled_extremum(layer: Layer, r: Tensor, nearest: float) -> tuple[Tensor, ...]:
    """The multipliers of two values: each one's change, the mean over which changes first."""
    (x, y), (x0, y0) = layer.operands, at_baseline(layer)
    of, derivatives = layer.operator, carried_back(layer, r)
    moved = (
        (of(x, y) - of(x0, y) + of(x, y0) - of(x0, y0)) * 0.5,
        (of(x, y) - of(x, y0) + of(x0, y) - of(x0, y0)) * 0.5,
    )
    return tuple(
        chosen(dx, divide_or_zero(r * dy, where_far(dx, nearest)), derivative, nearest)
        for dx, dy, derivative in zip((x - x0, y - y0), moved, derivatives, strict=True)
    )


def at_baseline(layer: Layer) -> tuple[Tensor, ...]:
    """The operands at the baseline.

    Raises
    ------
    MethodError
        If the method has no baseline.
    """
    if not layer.reference:
        raise MethodError(
            "it compares with the values at a baseline, and the method has none: use the method "
            "'deeplift', or another rule"
        )
    return tuple(layer.reference)


def where_far(dx: Tensor, nearest: float) -> Tensor:
    """The difference dx where it isn't too small to be divided by, else 0."""
    return keep_where(absolute(dx) - nearest, ">=", dx)


def chosen(dx: Tensor, quotient: Tensor, derivative: Tensor, nearest: float) -> Tensor:
    """The quotient, or the derivative where dx is too small."""
    return quotient + keep_where(absolute(dx) - nearest, "<", derivative)


@rule(everywhere=True, fits=fits.MAPS)
def bias_map(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """What a layer's bias adds to FullGrad's map: ``psi(b * df/dy)``.

    psi takes the size, rescales it to [0, 1] per sample, enlarges it to the image, and sums over
    channels. Biases of dense layers have no place in the image, and are left out, as in the
    authors' code.

    References
    ----------
    Srinivas and Fleuret 2019, eqs. 5-6; docs/methods.md, section 5.
    """
    if len(r.shape) <= 2:
        return None
    bias = layer.operands[2] if isinstance(layer.operator, BatchNorm) else layer.bias
    if bias is None:
        return None
    axis = getattr(layer.operator, "channel_axis", 1)
    gradient = r * Reshape(AddBias(axis).bias_shape(len(r.shape)))(bias)
    return psi(layer, channels_first(gradient, layer.layout))


def psi(layer: Layer, r: Tensor) -> Tensor:
    """FullGrad's psi: see `bias_map`."""
    size = absolute(r)
    low = smallest(size)
    rescaled = divide_or_zero(size - low, largest(size - low))
    return Sum((1,))(resized(rescaled, layer, "linear", align=True))


def resized(x: Tensor, layer: Layer, mode: str, *, align: bool = False) -> Tensor:
    """A map at the size of the model's input."""
    size = tuple(layer.image[2:])
    if len(size) != len(x.shape) - 2:
        raise MethodError(
            f"a value of shape {tuple(x.shape)} can't be enlarged to the input's {layer.image}"
        )
    return x if tuple(x.shape[2:]) == size else Upsample(mode, size, align and min(size) > 1)(x)


# Maps


@rule(fits=fits.MAPS)
def times_input(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The map ``x * r``.

    References
    ----------
    Shrikumar et al. 2016, sec. 2; docs/methods.md, section 5.
    """
    return x * r


@rule(fits=fits.MAPS)
def times_difference(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """The map ``(x - baseline) * r``.

    References
    ----------
    Shrikumar et al. 2017; docs/methods.md, section 5.
    """
    return (x - layer.reference[0]) * r


@rule(fits=fits.MAPS)
def full_gradient(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """FullGrad's term of the input: ``psi(x * df/dx)``, psi as in `bias_map`.

    References
    ----------
    Srinivas and Fleuret 2019, eq. 6; docs/methods.md, section 5.
    """
    return psi(layer, x * r)


@rule(fits=fits.MAPS)
def gradient_cam(layer: Layer, x: Tensor, r: Tensor, *, upsample: str = "none") -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient, ``relu(sum_c A_c mean_hw(dy/dA_c))``.

    Parameters
    ----------
    upsample
        ``"none"``: the map has the size of the layer, ``[N, 1, h, w]``. ``"linear"`` or
        ``"nearest"``: it is enlarged to that of the image.

    References
    ----------
    Selvaraju et al. 2017, eqs. 1-2; docs/methods.md, section 5.
    """
    return enlarged(layer, positive(weighted_sum(layer, x, r)), upsample)


@rule(fits=fits.MAPS)
def relevance_cam(layer: Layer, x: Tensor, r: Tensor, *, upsample: str = "none") -> Tensor:
    """Relevance-CAM: channels weighted by their mean relevance, ``sum_c A_c mean_hw(R_c)``.

    Parameters
    ----------
    upsample
        See `gradient_cam`.

    References
    ----------
    Lee et al. 2021, eqs. 8-9; docs/methods.md, section 5.
    """
    return enlarged(layer, weighted_sum(layer, x, r), upsample)


@rule(fits=fits.MAPS)
def gradient_cam_plus_plus(layer: Layer, x: Tensor, r: Tensor, *, upsample: str = "none") -> Tensor:
    """Grad-CAM++: channels weighted by ``sum_hw(alpha g+)``, ``relu(sum_c A_c sum_hw(alpha g+))``.

    With g = dy/dA and the score ``exp(y)``, whose derivatives of second and third order are
    ``exp(y) g^2`` and ``exp(y) g^3``, ``alpha = g^2 / (2 g^2 + g^3 sum_hw A)``: that is
    ``1 / (2 + g sum_hw A)``, which doesn't underflow. The factor ``exp(y)`` of the weights, one of
    a sample, is left out. Where the denominator is 0, alpha is 0.

    Parameters
    ----------
    upsample
        See `gradient_cam`.

    References
    ----------
    Chattopadhay et al. 2018, eqs. 9-11 and 19; docs/methods.md, section 5.
    """
    a, g = (channels_first(value, layer.layout) for value in (x, r))
    refuse_without_places(a)
    places = Sum(tuple(range(2, len(a.shape))))
    weights = places(divide_or_zero(positive(g), g * places(a) + 2.0))
    return enlarged(layer, positive(Sum((1,))(a * weights)), upsample)


def weighted_sum(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
    """``sum_c x_c mean_hw(r_c)``, of the shape ``[N, 1, places ...]`` in every layout."""
    x, r = (channels_first(value, layer.layout) for value in (x, r))
    return Sum((1,))(x * mean_over_places(r))


def mean_over_places(r: Tensor) -> Tensor:
    """``mean_hw(r_c)`` of a value ``[N, C, places ...]``; one without places makes no map."""
    refuse_without_places(r)
    return AdaptiveAvgPool((1,) * (len(r.shape) - 2))(r)


def refuse_without_places(r: Tensor) -> None:
    """Refuse to make a map of a value that has no places."""
    if len(r.shape) <= 2:
        raise MethodError(
            f"a value of shape ('N', {', '.join(map(str, r.shape[1:]))}) has no places to make a "
            "map of: choose a layer in front of the flattening"
        )


def enlarged(layer: Layer, r: Tensor, upsample: str) -> Tensor:
    """A map as it is, or at the image's size."""
    if upsample not in ("none", "linear", "nearest"):
        raise MethodError(f"upsample is 'none', 'linear' or 'nearest', not {upsample!r}")
    return r if upsample == "none" else resized(r, layer, upsample)
