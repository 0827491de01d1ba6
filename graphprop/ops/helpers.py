"""The functions that generated modules carry with them.

An operator that has no short torch expression calls one of these, eagerly through `run` and, its
source text copied, in every generated module that needs it. They use torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F


def check_weights(weights: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse weights that are not those of this explainer."""
    advice = "give the weights that were written together with it"
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"the weights hold no {name!r} of shape {list(shape)}: {advice}")
        found = list(weights[name].shape)
        if found != list(shape):
            raise ValueError(f"{name!r} must have shape {list(shape)}, not {found}: {advice}")
    for name in sorted(weights.keys() - shapes.keys()):
        raise ValueError(f"the explainer has no use for the weights' {name!r}: {advice}")


def check_input(x: Any, shape: Sequence[int], dtype: torch.dtype, count: int | None = None) -> None:
    """Refuse an input that the explainer was not compiled for."""
    wanted = "[" + ", ".join(map(str, ["N", *shape])) + "]"
    if not isinstance(x, torch.Tensor):
        kind = type(x).__name__
        raise TypeError(f"an input must be a torch.Tensor {wanted} of {dtype}, not {kind}")
    if x.dim() == 0 or tuple(x.shape[1:]) != tuple(shape):
        advice = "resize it, or compile again for its shape"
        if tuple(x.shape) == tuple(shape):
            advice = "add the batch axis by x[None]"
        raise ValueError(f"an input must have shape {wanted}, not {list(x.shape)}: {advice}")
    if x.dtype != dtype:
        advice = "convert and scale it as for the model"
        raise TypeError(f"an input must be of {dtype}, not {x.dtype}: {advice}")
    if count is not None and x.shape[0] != count:
        raise ValueError(f"give as many samples of each input, not {count} and {x.shape[0]}")


def check_finite(*results: torch.Tensor) -> None:
    """Refuse NaN and infinity in results of half precision, but for those of compiled calls."""
    dtype = results[0].dtype
    half = dtype in (torch.float16, torch.bfloat16)
    if not half or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    for result in results:
        if not torch.all(torch.isfinite(result)):
            raise FloatingPointError(
                f"the result has NaN or infinity: {dtype} is too narrow for this network and "
                "method; load the explainer in another type"
            )


def check_target(target: Any, shape: Sequence[int]) -> Any:
    """Read a target for logits of a shape: None, classes (int64 [N]), or weights of the logits."""
    if target is None:
        return None
    kinds = "whole numbers (classes) or floating point (weights of the logits)"
    if not isinstance(target, torch.Tensor):
        try:
            target = torch.as_tensor(target)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"a target must be {kinds}, not {target!r:.40}") from None
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(f"a target must be {kinds}, not {target.dtype}")
    given, classes = list(target.shape), shape[1]
    if target.is_floating_point():
        if given != list(shape):
            advice = "or classes, which are int64"
            raise ValueError(f"give weights of shape {list(shape)}, not {given}, {advice}")
        return target
    if target.dim() > 1 or (given and given[0] not in (shape[0], 1)):
        number = f"one class for all, or one for each of the {shape[0]} samples"
        raise ValueError(f"a target must be {number}, not a tensor of shape {given}")
    target = target.to(torch.int64).reshape(-1)
    if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        wrong = target[(target < -1) | (target >= classes)]
        if wrong.numel():
            known = f"a class from 0 to {classes - 1}, or -1 for the largest logit"
            raise ValueError(f"a target must be {known}, not {wrong[0]}")
    return target.expand(shape[0])


def target_of(target: Any, logits: torch.Tensor) -> torch.Tensor:
    """What to explain: classes (int64 [N]), None and -1 being the largest logit, or weights."""
    target = check_target(target, logits.shape)
    if target is not None and target.is_floating_point():
        return target.to(logits.device, logits.dtype)
    # summed over all places, where there are any
    largest = logits.unsqueeze(2).flatten(2).sum(2).argmax(dim=1)
    if target is None:
        return largest
    target = target.to(logits.device)
    return torch.where(target == -1, largest, target)


def at_target(logits: torch.Tensor, target: Any) -> torch.Tensor:
    """1 at the class that `target_of` reads, 0 elsewhere; or the weights that it reads."""
    weights = target_of(target, logits)
    if weights.is_floating_point():
        return weights
    index = weights.reshape(-1, *[1] * (logits.dim() - 1)).expand(-1, -1, *logits.shape[2:])
    return torch.zeros_like(logits).scatter(1, index, 1.0)


def stabilize(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Move z away from zero by epsilon: up where z >= 0, else down."""
    half = z.clone().ge_(0).sub_(0.5)
    return torch.add(z, half, alpha=2 * epsilon)


def divide_or_zero(a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Divide a by c, giving exactly 0 where c is 0, or so small that the quotient is infinite."""
    inverse = c.reciprocal().nan_to_num_(torch.nan, posinf=0.0, neginf=0.0)
    wider = isinstance(a, torch.Tensor) and a.shape != c.shape
    quotient = a * inverse if wider else inverse.mul_(a)
    return quotient.nan_to_num_(torch.nan, posinf=0.0, neginf=0.0)


def batch_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Scale and shift each channel: batch norm at inference, its statistics folded in."""
    shape = [-1] + [1] * (x.dim() - 2)
    return torch.addcmul(shift.reshape(shape), x, scale.reshape(shape))


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over each sample."""
    return x.sum(tuple(range(1, x.dim())), keepdim=True)


def smallest(x: torch.Tensor) -> torch.Tensor:
    """The smallest entry of each sample."""
    return x.amin(tuple(range(1, x.dim())), keepdim=True)


def largest(x: torch.Tensor) -> torch.Tensor:
    """The largest entry of each sample."""
    return x.amax(tuple(range(1, x.dim())), keepdim=True)


def dilate(x: torch.Tensor, stride: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Put the entries of x ``stride`` apart on a grid of zeros of the given size."""
    shape = list(x.shape[:2])
    gaps: list[int] = []
    fit: list[int] = []
    for length, step, wanted in zip(x.shape[2:], stride, size, strict=True):
        shape += [length, 1]
        gaps = [0, step - 1, 0, 0, *gaps]
        fit = [0, wanted - length * step, *fit]
    spread = F.pad(x.reshape(shape), gaps).flatten(2)
    grid = [length * step for length, step in zip(x.shape[2:], stride, strict=True)]
    return F.pad(spread.reshape(*x.shape[:2], *grid), fit)


def pointwise_transpose(
    r: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int] = (1, 1),
    output_padding: Sequence[int] = (0, 0),
) -> torch.Tensor:
    """The adjoint of a 1x1 convolution: r times the matrix of its channels, ``stride`` apart."""
    back = (r.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2)
    if tuple(stride) == (1, 1):
        return back
    rest = zip(back.shape[2:], stride, output_padding, strict=True)
    return dilate(back, stride, [(n - 1) * step + 1 + more for n, step, more in rest])


def unslice(x: torch.Tensor, axis: int, start: int, step: int, size: int) -> torch.Tensor:
    """Put the entries of x in places start, start + step ... of an axis of zeros."""
    behind = x.dim() - 1 - axis
    if step > 1:
        spread = F.pad(x.unsqueeze(axis + 1), [0, 0] * behind + [0, step - 1])
        x = spread.flatten(axis, axis + 1)
    return F.pad(x, [0, 0] * behind + [start, size - start - x.shape[axis]])


def transpose_weight(weight: torch.Tensor, groups: int, flip: bool) -> torch.Tensor:
    """Exchange the channels in and out of a convolution's weight, group by group."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    exchanged = grouped.transpose(1, 2).flatten(0, 1)
    return exchanged.flip(*range(2, weight.dim())) if flip else exchanged


def route(r: torch.Tensor, indices: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Send r to the winners of a max pooling; what meets at one winner adds up."""
    places = torch.Size(size).numel()
    if r.dim() != 4:
        planes = r.new_zeros(*r.shape[:2], places)
        planes.scatter_add_(2, indices.flatten(2), r.flatten(2))
        return planes.reshape(*r.shape[:2], *size)
    # images lie in memory with the channels last
    planes = r.new_zeros(r.shape[0], places, r.shape[1])
    where = indices.permute(0, 2, 3, 1).flatten(1, 2)
    planes.scatter_add_(1, where, r.permute(0, 2, 3, 1).flatten(1, 2))
    return planes.reshape(r.shape[0], *size, r.shape[1]).permute(0, 3, 1, 2)


def collect(r: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Take the entries of r at the winners of a max pooling."""
    return r.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)


def mean_over_samples(
    explain: Any,
    x: torch.Tensor,
    target: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    chunk: int,
) -> torch.Tensor:
    """Explain scale * x + offset for each entry of scale, a chunk at a time; sum up by weight."""
    column = [-1] + [1] * x.dim()
    result = torch.zeros_like(x)
    for first in range(0, scale.shape[0], chunk):
        rows = slice(first, first + chunk)
        points = scale[rows].reshape(column) * x + offset[rows].unsqueeze(1)
        targets = target.expand(points.shape[0], *target.shape).flatten(0, 1)
        _, found = explain(points.flatten(0, 1), targets)
        result = result + (weight[rows].reshape(column) * found.reshape(points.shape)).sum(0)
    return result
