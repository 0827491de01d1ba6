"""Separable linear maps with fixed weights: what averages and resizing share.

A matrix per axis is found by probing the one-dimensional operator with the identity, so that the
adjoint is exact for every padding, ceil mode and size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch

from graphprop.ir.interval import NON_NEGATIVE, Interval
from graphprop.ir.operation import Shape
from graphprop.ops.base import Operator
from graphprop.ops.windows import Pooling

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

aten = torch.ops.aten


@dataclass(frozen=True)
class Resampling(Pooling):
    """A separable linear map with fixed weights over the spatial axes."""

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        """Apply the one-dimensional map of a spatial axis to the last axis of x ``[1, C, L]``."""
        raise TypeError(f"{self.__name__} is not separable")

    def adjoint(self, *shapes: Shape) -> Operator:
        return ResampleTranspose(self, tuple(shapes[0][2:]))

    def mean(self) -> Resampling:
        """Itself, as a max pool gives the average over the same windows."""
        return self

    @property
    def weights(self) -> Interval:
        """The signs that the weights of the map have."""
        return NON_NEGATIVE

    def even(self, shape: Shape) -> Operator:
        """Spread each result evenly over the in-image cells it is made from."""
        return ResampleTranspose(self, tuple(shape[2:]), even=True)

    def onnx_exact(self, shape: Shape) -> bool:
        """Whether ONNX has an operator that computes this on operands of the given shape."""
        return False

    def matrices(self, size: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """The map as a float64 matrix ``[out, in]`` per spatial axis."""
        return _matrices(self, tuple(size))


# a large network has some dozen resamplings, and each is probed at every level and check
@lru_cache(maxsize=256)
def _matrices(operator: Resampling, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    found = []
    for axis, length in enumerate(size):
        # one input per batch entry: rows of the identity
        probe = torch.eye(length, dtype=torch.float64).unsqueeze(1)
        found.append(operator.axis_map(axis, probe).squeeze(1).T.contiguous())
    return tuple(found)


def apply_along(x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply ``matrix [out, in]`` along one axis of x."""
    return torch.matmul(x.movedim(axis, -1), matrix.T).movedim(-1, axis)


@dataclass(frozen=True)
class ResampleTranspose(Pooling):
    """The adjoint of a `Resampling` of inputs of ``size``; or the even spread over its cells."""

    operator: Resampling
    size: tuple[int, ...]
    even: bool = False
    levels: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def __str__(self) -> str:
        return f"{'even' if self.even else 'transposed'} {self.operator} of {self.size}"

    def run(self, r: torch.Tensor) -> torch.Tensor:
        for axis, matrix in enumerate(self.matrices()):
            r = apply_along(r, matrix.to(r), axis + 2)
        return r

    def interval(self, *operands: Interval) -> Interval:
        r = operands[0].cone()
        return r if self.even else (r * self.operator.weights).cone()

    def adjoint(self, *shapes: Shape) -> Operator:
        if self.even:
            raise TypeError("an even spread has no adjoint in the vocabulary")
        return self.operator

    def matrices(self) -> tuple[torch.Tensor, ...]:
        """One matrix ``[in, out]`` per spatial axis."""
        found = [matrix.T for matrix in self.operator.matrices(self.size)]
        if self.even:
            found = [(m != 0).double() for m in found]
            found = [m / m.sum(0, keepdim=True).clamp(min=1) for m in found]
        return tuple(found)


@dataclass(frozen=True)
class ApplyMatrix(Operator):
    """``ApplyMatrix(axis)(x, matrix [in, out])``: a matrix product along one axis."""

    axis: int
    levels: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})

    def run(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return apply_along(x, matrix.T, self.axis)

    def interval(self, *operands: Interval) -> Interval:
        return (operands[0] * operands[1]).cone()

    def source(self, *operands: str) -> str:
        x, matrix = operands
        if self.axis == -1:
            return f"torch.matmul({x}, {matrix})"
        if self.axis == -2:
            return f"torch.matmul({matrix}.T, {x})"
        return f"torch.matmul({x}.transpose({self.axis}, -1), {matrix}).transpose({self.axis}, -1)"

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value:
        x, matrix = operands
        if self.axis == -1:
            return graph.node("MatMul", x, matrix)
        if self.axis == -2:
            return graph.node("MatMul", graph.node("Transpose", matrix, perm=(1, 0)), x)
        order = list(range(len(graph.shape(x))))
        order[self.axis], order[-1] = order[-1], order[self.axis]
        exchanged = graph.node("Transpose", x, perm=order)
        return graph.node("Transpose", graph.node("MatMul", exchanged, matrix), perm=order)
