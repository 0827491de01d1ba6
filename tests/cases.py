"""One seeded example of every operator, and of every combination of attributes that matters.

A new operator needs a case here; `tests/test_operators.py` then holds it to the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from graphprop.ops import (
    Absolute,
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    AddBias,
    ApplyMatrix,
    AvgPool,
    BatchNorm,
    Cat,
    Clamp,
    Conv,
    ConvTranspose,
    Dilate,
    Divide,
    DivideOrZero,
    Elu,
    Expand,
    Extreme,
    Flip,
    Gelu,
    Item,
    KeepWhere,
    LeakyRelu,
    Linear,
    LinearTranspose,
    MaxPool,
    Multiply,
    Negate,
    Negative,
    Numbers,
    Ones,
    OnesLike,
    Operator,
    Pad,
    Permute,
    Positive,
    Prelu,
    Relu,
    ResampleTranspose,
    Reshape,
    Route,
    Simple,
    Slice,
    Softmax,
    Spread,
    Stabilise,
    Start,
    Subtract,
    Sum,
    TransposeWeight,
    Unslice,
    Upsample,
)

N = -1
"""The batch axis in the shape of an operand; an operand without it is a constant."""

SIZES = {1: (7,), 2: (7, 6), 3: (5, 6, 4)}
"""Uneven spatial sizes, by their number."""


@dataclass(frozen=True)
class Given:
    """An operand that can't be any tensor of a shape, made for a batch size."""

    make: Callable[[int], Any]
    batched: bool = True


@dataclass(frozen=True)
class Case:
    """An operator and what to call it with.

    Attributes
    ----------
    operator
        The operator.
    operands
        For each operand: a shape that leads with `N`, the shape of a constant, a number, or how it
        is `Given`.
    note
        What is particular about it, where the attributes don't say.
    """

    operator: Operator
    operands: tuple[Any, ...]
    note: str = ""

    def __str__(self) -> str:
        name = type(self.operator).__name__
        shapes = [str(o).replace("-1", "N") for o in self.operands if not isinstance(o, Given)]
        return " ".join([f"{name}: {self.operator}", "of", *shapes, self.note]).strip()

    def tensors(self, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Any]:
        """Make the operands: normal numbers, an eighth of them zero; the same every time."""
        made: list[Any] = []
        for index, operand in enumerate(self.operands):
            # each from its own seed: constants don't depend on the batch size
            torch.manual_seed(index)
            if isinstance(operand, Given):
                value = operand.make(batch)
                floating = isinstance(value, torch.Tensor) and value.is_floating_point()
                made.append(value.to(dtype) if floating else value)
            elif isinstance(operand, tuple):
                shape = [batch if length == N else length for length in operand]
                tensor = torch.randn(shape, dtype=torch.float64)
                made.append(tensor.masked_fill(torch.rand(shape) < 1 / 8, 0.0).to(dtype))
            else:
                made.append(operand)
        return made

    def is_batched(self, index: int) -> bool:
        """Whether an operand has the batch as its first axis."""
        operand = self.operands[index]
        if isinstance(operand, Given):
            return operand.batched
        return isinstance(operand, tuple) and operand[:1] == (N,)

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the operands that are tensors, N standing for the batch."""
        return [
            (N, *tensor.shape[1:]) if self.is_batched(index) else tuple(tensor.shape)
            for index, tensor in enumerate(self.tensors())
            if isinstance(tensor, torch.Tensor)
        ]


def convolutions() -> Iterator[Case]:
    for rank, size in SIZES.items():
        weight = (4, 3, 3, 2, 3)[: rank + 2]
        one, two = (1,) * rank, (2,) * rank
        uneven, none = (2, 1, 3)[:rank], (0,) * rank
        x = (N, 3, *size)
        yield Case(Conv(one, none, one), (x, weight))
        yield Case(Conv(one, one, one), (x, weight, (4,)))
        yield Case(Conv(two, none, one), (x, weight))
        yield Case(Conv(uneven, one, one), (x, weight))
        yield Case(Conv(one, two, two), (x, weight))
        yield Case(Conv(two, one, one, 3), (x, (6, 1, *weight[2:])), "depthwise")
        yield Case(Conv(two, one, one, 2), ((N, 4, *size), (6, 2, *weight[2:]), (6,)))
        yield Case(Conv(uneven, none, one), (x, (4, 3, *one)), "pointwise")


def transposed_convolutions() -> Iterator[Case]:
    for rank, size in SIZES.items():
        weight = (3, 4, 3, 2, 3)[: rank + 2]
        one, two, three = (1,) * rank, (2,) * rank, (3,) * rank
        uneven, none = (2, 1, 3)[:rank], (0,) * rank
        x = (N, 3, *(length // 2 for length in size))
        yield Case(ConvTranspose(one, none, one, 1, none), (x, weight))
        yield Case(ConvTranspose(two, none, one, 1, none), (x, weight, (4,)))
        yield Case(ConvTranspose(two, one, one, 1, one), (x, weight))
        yield Case(ConvTranspose(three, none, one, 1, two), (x, weight))
        yield Case(ConvTranspose(uneven, none, two, 1, none), (x, weight))
        grouped = (4, 3, *weight[2:])
        yield Case(ConvTranspose(two, none, one, 2, none), ((N, 4, *x[2:]), grouped, (6,)))
        yield Case(ConvTranspose(two, none, one, 4, one), ((N, 4, *x[2:]), grouped), "depthwise")


def dense_layers() -> Iterator[Case]:
    yield Case(Linear(), ((N, 5), (3, 5)))
    yield Case(Linear(), ((N, 5), (3, 5), (3,)))
    yield Case(Linear(), ((N, 4, 5), (3, 5), (3,)))
    yield Case(LinearTranspose(), ((N, 3), (3, 5)))
    yield Case(LinearTranspose(), ((N, 2, 3), (3, 5)))
    yield Case(AddBias(1), ((N, 3, 4, 5), (3,)))
    yield Case(AddBias(-1), ((N, 4, 5), (5,)))
    for groups, flip, rank in product((1, 2), (False, True), (1, 2, 3)):
        yield Case(TransposeWeight(groups, flip), ((4, 3, 3, 2, 3)[: rank + 2],))
    yield Case(TransposeWeight(1, True), ((4, 3, 1, 1),), "pointwise")
    yield Case(Dilate((2,), (8,)), ((N, 3, 4),))
    yield Case(Dilate((2, 3), (6, 7)), ((N, 3, 3, 3),))
    yield Case(Dilate((1, 2, 2), (3, 5, 4)), ((N, 3, 3, 3, 2),))


def normalisations() -> Iterator[Case]:
    for size in ((), (4,), (4, 5), (2, 3, 4)):
        yield Case(BatchNorm(), ((N, 3, *size), (3,), (3,)))


def ties(*shape: int) -> Given:
    """Few different values, as after a ReLU: many windows have several winners, or all zeros."""
    return Given(lambda batch: torch.randint(-2, 3, (batch, *shape)).clamp(min=0).double())


def max_poolings() -> Iterator[Case]:
    for rank, size in SIZES.items():
        one, two, three, none = ((k,) * rank for k in (1, 2, 3, 0))
        uneven = (2, 3, 2)[:rank]
        x = (N, 2, *size)
        yield Case(MaxPool(two, two, none, one), (x,))
        yield Case(MaxPool(three, two, one, one), (x,))
        yield Case(MaxPool(three, two, one, one), (ties(2, *size),), "ties")
        yield Case(MaxPool(three, two, one, one, ceil=True), (x,))
        yield Case(MaxPool(two, three, one, one, ceil=True), (x,), "last window dropped")
        yield Case(MaxPool(two, one, one, two), (x,))
        yield Case(MaxPool(two, three, one, three, ceil=True), (x,), "reaches far behind")
        yield Case(MaxPool(uneven, uneven, none, one), (x,))
        yield Case(AdaptiveMaxPool((3, 4, 3)[:rank]), (x,))
        yield Case(AdaptiveMaxPool((3, 4, 3)[:rank]), (ties(2, *size),), "ties")
        yield Case(AdaptiveMaxPool(one), (x,))


def routes() -> Iterator[Case]:
    pool = MaxPool((3, 3), (2, 2), (1, 1), (1, 1), indices=True)

    def pooled(batch: int) -> Any:
        return pool.run(torch.randn(batch, 2, 7, 6, dtype=torch.float64))

    yield Case(Route((7, 6)), ((N, 2, 4, 3), Given(lambda batch: pooled(batch)[1])))
    yield Case(Item(0), (Given(pooled),))
    yield Case(Item(1), (Given(pooled),))


def average_poolings() -> Iterator[Case]:
    for rank, size in SIZES.items():
        three, two, none = ((k,) * rank for k in (3, 2, 0))
        x = (N, 2, *size)
        for padding, ceil, counted in product((0, 1), (False, True), (True, False)):
            for divisor in (None, 5) if rank > 1 else (None,):
                pads = (padding,) * rank
                yield Case(AvgPool(three, two, pads, ceil, counted, divisor), (x,))
        uneven = (2, 3, 2)[:rank]
        yield Case(AvgPool(uneven, uneven, none), (x,))
        yield Case(AvgPool(two, three, (1,) * rank, True, True), (x,), "last window dropped")
        yield Case(AdaptiveAvgPool((1,) * rank), (x,))
        yield Case(AdaptiveAvgPool((3, 4, 3)[:rank]), (x,))
        yield Case(AdaptiveAvgPool((9, 8, 7)[:rank]), (x,), "enlarging")
        for pool in (AvgPool(three, two, none), AdaptiveAvgPool((3, 4, 3)[:rank])):
            r = (N, 2, *pool.run(torch.zeros(1, 1, *size)).shape[2:])
            yield Case(ResampleTranspose(pool, size), (r,))
            yield Case(ResampleTranspose(pool, size, even=True), (r,))


def resizings() -> Iterator[Case]:
    for rank, size in SIZES.items():
        larger, smaller = (9, 8, 5)[:rank], (3, 4, 2)[:rank]
        scales = (1.7, 2.5, 0.8)[:rank]
        scaled = tuple(int(length * scale) for length, scale in zip(size, scales, strict=True))
        for mode, corners in (
            ("nearest", False),
            ("nearest-exact", False),
            ("linear", False),
            ("linear", True),
        ):
            yield Case(Upsample(mode, larger, corners), ((N, 2, *size),))
            yield Case(Upsample(mode, smaller, corners), ((N, 2, *size),))
            yield Case(Upsample(mode, scaled, corners, scales), ((N, 2, *size),))
    for axis in (-1, -2, -3):
        length = (3, 4, 5)[axis]
        yield Case(
            ApplyMatrix(axis),
            ((N, 2, 3, 4, 5), Given(lambda _, length=length: torch.rand(length, 6), False)),
        )


def rearrangements() -> Iterator[Case]:
    yield Case(Reshape((N, 24)), ((N, 2, 3, 4),))
    yield Case(Reshape((N, 3, 1, 8)), ((N, 4, 6),))
    yield Case(Reshape((-1, 1, 1)), ((4,),), "of a constant")
    yield Case(Permute((0, 2, 3, 1)), ((N, 2, 3, 4),))
    yield Case(Permute((0, 2, 1)), ((N, 2, 3),))
    for axis, start, stop, step in ((1, 1, 3, 1), (2, 0, 7, 2), (2, 1, 7, 3), (3, 2, 5, 2)):
        x = (N, 3, 7, 5)
        yield Case(Slice(axis, start, stop, step), (x,))
        part = (N, *Slice(axis, start, stop, step).run(torch.zeros(1, *x[1:])).shape[1:])
        yield Case(Unslice(axis, start, stop, step, x[axis]), (part,))
    yield Case(Pad(((0, 0), (0, 0), (1, 2), (0, 3))), ((N, 2, 3, 4),))
    yield Case(Pad(((0, 0), (1, 0), (0, 0), (0, 0))), ((N, 2, 3, 4),))
    yield Case(Pad(((0, 0), (0, 0), (-1, 2), (1, -2))), ((N, 2, 3, 4),))
    yield Case(Pad(((0, 0), (0, 0), (-1, -1))), ((N, 2, 4),))
    for value in (1.5, -2.0):
        yield Case(Pad(((0, 0), (0, 1), (2, 0)), value), ((N, 2, 3),))
    yield Case(Cat(1), ((N, 2, 3), (N, 1, 3), (N, 3, 3)))
    yield Case(Cat(2), ((N, 2, 3), (N, 2, 1)))
    yield Case(Flip((2,)), ((N, 2, 3, 4),))
    yield Case(Flip((1, 3)), ((N, 2, 3, 4),))
    yield Case(Expand((N, 2, 3, 4)), ((N, 2, 1, 1),))
    yield Case(Expand((N, 2, 3)), ((N, 1, 3),))
    yield Case(Sum((1,)), ((N, 2, 3),))
    yield Case(Sum((2, 3)), ((N, 2, 3, 4),))
    yield Case(Spread((N, 2, 3, 4), 12), ((N, 2, 1, 1),))


def activations() -> Iterator[Case]:
    x = (N, 2, 3, 4)
    yield Case(Relu(), (x,))
    for low, high in ((0.0, 6.0), (-1.0, 1.0), (None, 0.5), (0.2, None), (None, -0.5), (-0.3, 2.0)):
        yield Case(Clamp(low, high), (x,))
    yield Case(LeakyRelu(0.2), (x,))
    yield Case(LeakyRelu(-0.2), (x,))
    yield Case(Prelu(), (x, (2,)))
    yield Case(Prelu(), ((N, 5), (5,)))
    yield Case(Prelu(), (x, (1,)), "one slope")
    yield Case(Elu(), (x,))
    yield Case(Elu(1.6732632423543772, 1.0507009873554805), (x,), "selu")
    yield Case(Elu(0.5, 1.0, 2.0), (x,), "celu")
    yield Case(Gelu(), (x,))
    yield Case(Gelu("tanh"), (x,))
    for name in Simple.KNOWN:
        yield Case(Simple(name), (x,))
    yield Case(Softmax(1), (x,))
    yield Case(Softmax(3), (x,))


def elementwise() -> Iterator[Case]:
    x = (N, 3, 4)
    nonzero = Given(lambda batch: torch.randn(batch, 3, 4, dtype=torch.float64).exp())
    for operator in (Add(), Subtract(), Multiply()):
        yield Case(operator, (x, x))
        yield Case(operator, (x, (3, 1)), "of a constant")
        yield Case(operator, (x, 1.5))
        yield Case(operator, (-2, x))
    yield Case(Divide(), (x, nonzero))
    yield Case(Divide(), (1.0, nonzero))
    yield Case(Divide(), (x, -4.0))
    for operator in (Negate(), Positive(), Negative(), Absolute(), OnesLike()):
        yield Case(operator, (x,))
    yield Case(Stabilise(0.25), (x,))
    yield Case(DivideOrZero(), (x, x))
    yield Case(DivideOrZero(), (x, (N, 1, 1)))
    yield Case(DivideOrZero(), (2.0, x))
    for comparison in KeepWhere.KNOWN:
        yield Case(KeepWhere(comparison), (x, x))
    yield Case(Ones((1, 3, 1)), ((4, 3, 2),))
    yield Case(Numbers((1.0, 0.5, 0.25), (1, 3, 1)), ((4, 3, 2),))
    yield Case(Numbers((-1.0,), (1, 1)), ((4, 3),))
    for which in ("min", "max"):
        yield Case(Extreme(which), (x,))


def starts() -> Iterator[Case]:
    target = Given(lambda batch: torch.arange(batch) % 4)
    for unit in (False, True):
        yield Case(Start(unit), ((N, 4), target))


CASES: list[Case] = [
    case
    for family in (
        convolutions,
        transposed_convolutions,
        dense_layers,
        normalisations,
        max_poolings,
        routes,
        average_poolings,
        resizings,
        rearrangements,
        activations,
        elementwise,
        starts,
    )
    for case in family()
]
