"""Captured operators that are written as several of graphprop's own: sums, products, gates, einsum.

What they compute and how relevance goes through them follows from the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from string import ascii_letters

import torch

from graphprop.errors import UnsupportedOperator
from graphprop.ops.base import Array, from_aten, is_value
from graphprop.ops.constants import one_sample
from graphprop.ops.linear import Conv, Linear
from graphprop.ops.merge import _add, _div, _mul, _sub
from graphprop.ops.shape import _permute, _squeeze, axis_of, reshaped
from graphprop.ops.simple import SIGMOID
from graphprop.ops.slices import Slice
from graphprop.ops.sums import Sum

aten = torch.ops.aten

ATTENTION = (
    "attention is not supported yet: this is a product of two values that both depend on the input "
    "({}). A product with a fixed tensor is; so is one of entries, value by value"
)


@from_aten(aten.addcmul.default)
def _addcmul(x: Array, first: Array, second: Array, *, value: float = 1) -> Array:
    return _add(x, _mul(first, second), alpha=value)


@from_aten(aten.addcdiv.default)
def _addcdiv(x: Array, first: Array, second: Array, *, value: float = 1) -> Array:
    return _add(x, _div(first, second), alpha=value)


@from_aten(aten.glu.default)
def _glu(x: Array, axis: int = -1) -> Array:
    axis = axis_of(axis, x)
    half = x.shape[axis] // 2
    return _mul(Slice(axis, 0, half)(x), SIGMOID(Slice(axis, half, 2 * half)(x)))


@from_aten(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(first: Array, second: Array, weight: Array) -> Array:
    """``(1 - weight) * first + weight * second``: a residual add of scaled values."""
    rest = 1 - weight if not is_value(weight) else _sub(torch.ones(()), weight)
    return _add(_mul(first, rest), _mul(second, weight))


# Products of matrices and tensors


@from_aten(aten.matmul.default, aten.mm.default, aten.bmm.default)
def _matmul(x: Array, y: Array) -> Array:
    if is_value(x) and is_value(y):
        raise UnsupportedOperator(ATTENTION.format("a matrix product"))
    if is_value(y):
        return _fixed_matrix_first(one_sample(x).to(y.dtype), y)
    y = one_sample(y).to(x.dtype)
    if y.dim() == 1:
        return _squeeze(Linear()(x, y.unsqueeze(0)), -1)
    while y.dim() > 2 and y.shape[0] == 1:
        y = y[0]
    if y.dim() == 2:
        return Linear()(x, y.T.contiguous())
    if y.dim() >= len(x.shape):
        raise UnsupportedOperator("a product with a matrix for each sample mixes samples")
    letters = ascii_letters[: len(x.shape)]
    y = y.expand(*x.shape[-y.dim() : -2], *y.shape[-2:])
    return contracted(x, letters, y, f"{letters[-y.dim() : -2]}{letters[-1]}Z", f"{letters[:-1]}Z")


def _fixed_matrix_first(matrix: torch.Tensor, x: Array) -> Array:
    """``matrix @ x``: the last axis but one of x is contracted."""
    while matrix.dim() > 2 and matrix.shape[0] == 1:
        matrix = matrix[0]
    if matrix.dim() >= len(x.shape):
        raise UnsupportedOperator("a product with a matrix for each sample mixes samples")
    letters = ascii_letters[: len(x.shape)]
    if matrix.dim() == 1:
        return contracted(x, letters, matrix, letters[-2], letters[:-2] + letters[-1])
    shared = letters[-matrix.dim() : -2]
    matrix = matrix.expand(*x.shape[-matrix.dim() : -2], *matrix.shape[-2:])
    names, result = f"{shared}Z{letters[-2]}", f"{letters[:-2]}Z{letters[-1]}"
    return contracted(x, letters, matrix, names, result)


@from_aten(aten.addmm.default, aten.baddbmm.default)
def _addmm(bias: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    fixed = isinstance(bias, torch.Tensor) and isinstance(y, torch.Tensor) and y.dim() == 2
    if fixed and bias.shape == y.shape[1:] and alpha == beta == 1:
        return Linear()(x, y.T.contiguous(), bias)
    return _add(_mul(_matmul(x, y), alpha), _mul(bias, beta))


@from_aten(aten.einsum.default)
def _einsum(equation: str, operands: Sequence[Array], *, path: object = None) -> Array:
    equation = equation.replace(" ", "")
    if "->" not in equation:
        inputs = equation.replace(",", "").replace("...", "")
        once = sorted(letter for letter in inputs if inputs.count(letter) == 1)
        equation += "->" + ("..." if "..." in equation else "") + "".join(once)
    left, result = equation.split("->")
    terms = left.split(",")
    ranks = [len(operand.shape) for operand in operands]
    unused = [letter for letter in ascii_letters if letter not in equation]
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    spread = "".join(unused[: max(hidden)])
    # axes behind "..." are counted from the last
    terms = [
        term.replace("...", spread[len(spread) - count :])
        for term, count in zip(terms, hidden, strict=True)
    ]
    result = result.replace("...", spread)
    if any(len(set(term)) < len(term) for term in (*terms, result)):
        raise UnsupportedOperator(
            f"einsum of {equation!r} takes a diagonal: it has no meaning here"
        )
    live = [index for index, operand in enumerate(operands) if is_value(operand)]
    x, letters = operands[live[0]], terms[live[0]]
    fixed = [(operands[i], terms[i]) for i in range(len(operands)) if i not in live]
    if len(live) == 1:
        if not fixed:
            return contracted(x, letters, None, "", result)
        needed = set(letters) | set(result)
        tensor, names = fixed[0]
        if len(fixed) > 1:
            names = "".join(sorted({c for _, term in fixed for c in term if c in needed}))
            inputs = ",".join(term for _, term in fixed)
            tensor = torch.einsum(f"{inputs}->{names}", *(tensor for tensor, _ in fixed))
        return contracted(x, letters, one_sample(tensor).to(x.dtype), names, result)
    if len(operands) == 2 and set(terms[0]) | set(terms[1]) == set(result):
        return _mul(*(axes_matched(o, t, result) for o, t in zip(operands, terms, strict=True)))
    raise UnsupportedOperator(ATTENTION.format(f"einsum of {equation!r}"))


def contracted(
    x: Array, letters: str, tensor: torch.Tensor | None, names: str, result: str
) -> Array:
    """``einsum("letters,names->result", x, tensor)`` as sums, a scale, a dense or a grouped layer.

    Letters of both and not of the result are contracted; letters of both and of the result are
    groups. The batch is the first letter of x and of the result, and not the tensor's.
    """
    if letters[:1] != result[:1] or letters[0] in names:
        raise UnsupportedOperator("an einsum that moves or sums the batch axis mixes samples")
    alone = [axis for axis, c in enumerate(letters) if c not in names and c not in result]
    if alone:
        x = _squeeze(Sum(tuple(alone))(x), alone)
        letters = "".join(c for axis, c in enumerate(letters) if axis not in alone)
    if tensor is None:
        return _permute(x, [letters.index(c) for c in result])
    kept = "".join(c for c in names if c in letters or c in result)
    if kept != names:
        tensor, names = torch.einsum(f"{names}->{kept}", tensor), kept
    summed = [c for c in letters if c in names and c not in result]
    made = [c for c in names if c not in letters]
    groups = [c for c in letters if c in names and c in result]
    if not summed and not made:
        return axes_matched(_mul(x, axes_matched(tensor, names, letters)), letters, result)
    size = dict(zip(letters, x.shape, strict=True)) | dict(zip(names, tensor.shape, strict=True))
    rest = [c for c in letters[1:] if c not in names]
    weight = tensor.permute([names.index(c) for c in (*groups, *made, *summed)])
    groups_, made_, summed_ = (prod(size[c] for c in part) for part in (groups, made, summed))
    if groups:
        x = _permute(x, [letters.index(c) for c in (letters[0], *groups, *summed, *rest)])
        x = reshaped(x, (-1, groups_ * summed_, prod(size[c] for c in rest)))
        weight = weight.reshape(groups_ * made_, summed_, 1).contiguous()
        y = Conv((1,), (0,), (1,), groups_)(x, weight)
        found = (letters[0], *groups, *made, *rest)
    else:
        x = _permute(x, [letters.index(c) for c in (letters[0], *rest, *summed)])
        x = reshaped(x, (*x.shape[: len(rest) + 1], summed_))
        y = Linear()(x, weight.reshape(made_, summed_).contiguous())
        found = (letters[0], *rest, *made)
    y = reshaped(y, (-1, *(size[c] for c in found[1:])))
    return _permute(y, [found.index(c) for c in result])


def axes_matched(operand: Array, names: str, result: str) -> Array:
    """An operand with its axes in the order of the result, of length 1 where it has none."""
    order = [names.index(c) for c in result if c in names]
    lengths = [operand.shape[names.index(c)] if c in names else 1 for c in result]
    if isinstance(operand, torch.Tensor):
        return operand.permute(order).reshape(lengths)
    return reshaped(_permute(operand, order), lengths)


@from_aten(
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_attention_math.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._native_multi_head_attention.default,
    aten._transformer_encoder_layer_fwd.default,
)
def _attention(*_: object, **__: object) -> Array:
    raise UnsupportedOperator(ATTENTION.format("scaled_dot_product_attention"))
