"""One seeded example of every operator, and of every combination of attributes that matters.

A new operator needs a case here; `tests/ops/test_operators.py` then tests its laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphprop.ops import (
    Absolute,
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    AddBias,
    AddMultiple,
    AddProduct,
    ApplyMatrix,
    AvgPool,
    BatchNorm,
    Cat,
    Clamp,
    Collect,
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
    GroupNorm,
    Item,
    KeepWhere,
    LayerNorm,
    LeakyRelu,
    Linear,
    LinearTranspose,
    LogSoftmax,
    LogSumExp,
    Mask,
    Maximum,
    MaxPool,
    Mean,
    Minimum,
    Multiply,
    Negate,
    Negative,
    Numbers,
    Ones,
    OnesLike,
    Operator,
    Pad,
    Permute,
    Places,
    PointwiseTranspose,
    Positive,
    Power,
    Prelu,
    Relu,
    ResampleTranspose,
    Reshape,
    RmsNorm,
    Route,
    Simple,
    Slice,
    Softmax,
    Spread,
    Stabilize,
    Start,
    Subtract,
    Sum,
    Total,
    TransposeWeight,
    Unpool,
    Unslice,
    Upsample,
    Where,
)
from support.modules import Function

aten = torch.ops.aten

N = -1
"""The batch axis in the shape of an operand; an operand without it is a constant."""

SIZES = {1: (7,), 2: (7, 6), 3: (5, 6, 4)}
"""Spatial sizes that differ, by rank."""


@dataclass(frozen=True)
class Given:
    """An operand that must have particular values, as a function of the batch size."""

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
        For each operand: a shape that begins with `N`, the shape of a constant, a number, or a
        `Given`.
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
        """The operands: normally distributed, an eighth of the entries zero, seeded."""
        made: list[Any] = []
        for index, operand in enumerate(self.operands):
            # one seed per operand, so that constants don't depend on the batch size
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
    for stride, more in (((1, 1), (0, 0)), ((2, 3), (0, 0)), ((2, 2), (1, 0))):
        yield Case(PointwiseTranspose(stride, more), ((N, 4, 3, 5), (4, 3, 1, 1)))
    yield Case(Dilate((2,), (8,)), ((N, 3, 4),))
    yield Case(Dilate((2, 3), (6, 7)), ((N, 3, 3, 3),))
    yield Case(Dilate((1, 2, 2), (3, 5, 4)), ((N, 3, 3, 3, 2),))


def normalizations() -> Iterator[Case]:
    for size in ((), (4,), (4, 5), (2, 3, 4)):
        yield Case(BatchNorm(), ((N, 3, *size), (3,), (3,)))
        x, parameters = (N, 6, *size), ((6,), (6,))
        for groups in (1, 2, 6) if size else (1, 2):
            yield Case(GroupNorm(groups), (x,))
            yield Case(GroupNorm(groups, 0.1), (x, *parameters))
        yield Case(GroupNorm(3), (x, (6,)), "no bias")
        for shape in (x[-1:], x[1:]):
            yield Case(LayerNorm(shape), (x,))
            yield Case(LayerNorm(shape), (x, shape), "no bias")
            yield Case(LayerNorm(shape, 0.1), (x, shape, shape))
            yield Case(RmsNorm(shape, 1e-6), (x,))
            yield Case(RmsNorm(shape, 0.1), (x, shape))


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
    halves = MaxPool((2, 2), (2, 2), (0, 0), (1, 1), indices=True)

    def halved(batch: int) -> Any:
        return halves.run(torch.randn(batch, 2, 6, 8, dtype=torch.float64))[1]

    yield Case(Unpool((6, 8)), ((N, 2, 3, 4), Given(halved)))
    yield Case(Collect(), ((N, 2, 6, 8), Given(halved)))
    yield Case(Places(MaxPool((2, 2), (2, 2), (0, 0), (1, 1))), ((N, 2, 6, 8),))
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
        if rank > 1:
            yield Case(AvgPool(three, two, none, divisor=-5), (x,), "turns the sign")
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
    for size in ((9, 13), (3, 4)):
        for corners, smooth in ((False, False), (True, False), (False, True)):
            yield Case(Upsample("cubic", size, corners, None, smooth), ((N, 2, 7, 6),))
        yield Case(Upsample("linear", size, False, None, True), ((N, 2, 7, 6),))
    yield Case(Upsample("cubic", (11, 15), False, (1.7, 2.5)), ((N, 2, 7, 6),))
    yield Case(Upsample("cubic", (11, 15), False, (1.7, 2.5), True), ((N, 2, 7, 6),))
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
    yield Case(Expand((N, 2, 3)), ((N, 2, 3),), "nothing repeated")
    yield Case(Expand((N, 2, 3)), ((N, 1, 3),))
    yield Case(Sum((1,)), ((N, 2, 3),))
    yield Case(Sum((2, 3)), ((N, 2, 3, 4),))
    yield Case(Mean((1,)), ((N, 2, 3),))
    yield Case(Mean((1, 3)), ((N, 2, 3, 4),))
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
    yield Case(Elu(-0.5), (x,), "of both signs")
    yield Case(Gelu(), (x,))
    yield Case(Gelu("tanh"), (x,))
    for name in Simple.KNOWN:
        yield Case(Simple(name), (x,))
    for exponent in (2.0, 3.0, 0.75, 2.5, -1.0, -2.0, -3.0, -0.5):
        yield Case(Power(exponent), (x,))
    yield Case(LogSumExp((2, 3)), (x,))
    yield Case(LogSumExp((1,)), (x,))
    yield Case(Softmax(1), (x,))
    yield Case(Softmax(3), (x,))
    yield Case(LogSoftmax(1), (x,))


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
    yield Case(Stabilize(0.25), (x,))
    yield Case(DivideOrZero(), (x, x))
    yield Case(DivideOrZero(), (x, (N, 1, 1)))
    yield Case(DivideOrZero(), (2.0, x))
    yield Case(AddMultiple(-2.0), (x, x))
    yield Case(AddMultiple(0.5), (x, (N, 1, 1)))
    yield Case(AddProduct(), (x, x, x))
    yield Case(AddProduct(-1.0), (x, x, (N, 1, 1)))
    for comparison in KeepWhere.KNOWN:
        yield Case(KeepWhere(comparison), (x, x))
    yield Case(Ones((1, 3, 1)), ((4, 3, 2),))
    yield Case(Numbers((1.0, 0.5, 0.25), (1, 3, 1)), ((4, 3, 2),))
    yield Case(Numbers((-1.0,), (1, 1)), ((4, 3),))
    for which in ("min", "max"):
        yield Case(Extreme(which), (x,))
    yield Case(Total(), (x,))


def choices() -> Iterator[Case]:
    x = (N, 3, 4)
    for extremum in (Maximum(), Minimum()):
        yield Case(extremum, (x, x))
        yield Case(extremum, (x, (3, 1)), "of a constant")
    for comparison in Mask.NAMES:
        yield Case(Mask(comparison), (x,))
    mask = Given(lambda batch: torch.randint(2, (batch, 3, 4)).double())
    fixed = Given(lambda _: torch.randint(2, (1, 3, 1)).double(), False)
    for activation in (False, True):
        yield Case(Where(activation), (mask, x, x))
        yield Case(Where(activation), (mask, x, 0.5))
        yield Case(Where(activation), (mask, -0.5, x))
        yield Case(Where(activation), (mask, x, (3, 1)), "of a constant")
    yield Case(Where(), (fixed, x, x), "fixed mask")


def starts() -> Iterator[Case]:
    target = Given(lambda batch: torch.arange(batch) % 4)
    for kind in Start.KNOWN:
        yield Case(Start(kind), ((N, 4), target))
        yield Case(Start(kind), ((N, 4, 3, 2), target))


CASES: list[Case] = [
    case
    for family in (
        convolutions,
        transposed_convolutions,
        dense_layers,
        normalizations,
        max_poolings,
        routes,
        average_poolings,
        resizings,
        rearrangements,
        activations,
        elementwise,
        choices,
        starts,
    )
    for case in family()
]


# Models to capture


@dataclass(frozen=True)
class Captured:
    """A small model, and the ATen operator that ``torch.export`` captures from it."""

    target: Any
    model: nn.Module
    note: str = ""

    def __str__(self) -> str:
        return f"{self.target} {self.note}".strip()


class Together(nn.Module):
    """Many models as one that returns all their results: capturing it takes little longer."""

    def __init__(self, captured: list[Captured]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part.model for part in captured)

    def results(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [part(x).flatten(1) for part in self.parts]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.results(x), 1)


def of(target: Any, function: Callable[[torch.Tensor], torch.Tensor], note: str = "") -> Captured:
    """A function, as a model."""
    return Captured(target, Function(function), note)


def normalized(norm: Any) -> nn.Module:
    """A batch norm with statistics as training leaves them."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(norm)


def randomized(model: nn.Module) -> nn.Module:
    """The model with random parameters: those of a new norm are ones and zeros."""
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def captured_by_rank(rank: int) -> Iterator[Captured]:
    def layer(name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(nn, f"{name}{rank}d")(*arguments, **options)

    def target(name: str, overload: str = "default") -> Any:
        return getattr(getattr(aten, name.replace("*", f"{rank}d")), overload)

    yield Captured(target("conv*"), layer("Conv", 4, 6, 3, padding=1))
    yield Captured(target("conv*", "padding"), layer("Conv", 4, 6, 3, padding="same"), "same")
    yield Captured(target("conv*", "padding"), layer("Conv", 4, 6, 2, padding="same"), "same, even")
    yield Captured(target("conv*", "padding"), layer("Conv", 4, 6, 3, 2, "valid"), "valid")
    yield Captured(
        target("conv_transpose*", "default" if rank == 1 else "input"),
        layer("ConvTranspose", 4, 6, 3, 2, 1, 1, groups=2),
    )
    yield Captured(target("max_pool*"), layer("MaxPool", 3, 2, 1, ceil_mode=True))
    function = getattr(F, f"max_pool{rank}d")
    yield of(target("max_pool*_with_indices"), lambda x: function(x, 2, return_indices=True)[0])
    if rank > 1:
        undo = getattr(F, f"max_unpool{rank}d")
        whole = {2: (6, 8), 3: (4, 6, 4)}[rank]
        yield of(
            target("max_unpool*"),
            lambda x: undo(*function(x, 2, return_indices=True), 2, output_size=whole),
        )
    yield Captured(target("avg_pool*"), layer("AvgPool", 3, 2, 1, ceil_mode=True))
    yield Captured(target("avg_pool*"), layer("AvgPool", 2), "stride as kernel")
    for size, note in ((3, "uneven"), (2, "even"), (1, "global")):
        yield Captured(target("adaptive_max_pool*"), layer("AdaptiveMaxPool", size), note)
        yield Captured(target("adaptive_avg_pool*"), layer("AdaptiveAvgPool", size), note)
    norm = aten._native_batch_norm_legit_no_training.default
    yield Captured(norm, normalized(layer("BatchNorm", 4)))
    yield Captured(norm, normalized(layer("BatchNorm", 4, affine=False)), "not affine")
    norm = aten.instance_norm.default
    yield Captured(norm, layer("InstanceNorm", 4))
    yield Captured(norm, randomized(layer("InstanceNorm", 4, 0.1, affine=True)), "affine")
    kept = layer("InstanceNorm", 4, track_running_stats=True)
    yield Captured(norm, normalized(kept), "kept statistics")
    yield Captured(aten.group_norm.default, randomized(nn.GroupNorm(2, 4)))
    # torch composes it: squares, padded and averaged over channels, to a power
    yield Captured(aten.pow.Tensor_Scalar, nn.LocalResponseNorm(3, 0.1), "local response norm")
    yield Captured(aten.pow.Tensor_Scalar, nn.LocalResponseNorm(2, 0.1, 0.5, 2), "even window")
    linear = Upsample.MODES[rank]
    for name, mode, corners in (
        ("upsample_nearest*", "nearest", None),
        ("_upsample_nearest_exact*", "nearest-exact", None),
        (f"upsample_{linear}*", linear, False),
        (f"upsample_{linear}*", linear, True),
    ):
        if rank == 2 and name.startswith("upsample_bilinear"):
            for mode_, name_, smooth in (
                ("bicubic", "upsample_bicubic2d", False),
                ("bicubic", "_upsample_bicubic2d_aa", True),
                ("bilinear", "_upsample_bilinear2d_aa", True),
            ):
                for size in ({"size": (5, 9)}, {"scale_factor": 1.6}):
                    yield of(
                        target(name_, "vec"),
                        lambda x, s=size, m=mode_, a=smooth, c=corners: F.interpolate(
                            x, **s, mode=m, antialias=a, align_corners=c
                        ),
                    )
        for options in ({"size": 5}, {"scale_factor": 1.6}):
            resize = nn.Upsample(**options, mode=mode, align_corners=corners)
            yield Captured(target(name, "vec"), resize, f"{options}, align_corners={corners}")


def captured_activations() -> Iterator[Captured]:
    for name in (
        *("relu", "hardtanh", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "softplus"),
        *("sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "mish"),
    ):
        yield of(getattr(aten, name).default, getattr(F, name))
    yield of(aten.relu.default, lambda x: F.relu(x * 2, inplace=True), "in place")
    yield of(aten.gelu.default, lambda x: F.gelu(x, approximate="tanh"), "tanh")
    yield of(aten.softplus.default, lambda x: F.softplus(x, beta=2.0), "scaled")
    yield of(aten.celu.default, lambda x: F.celu(x, alpha=0.5), "alpha")
    yield of(aten.elu.default, lambda x: F.elu(x, alpha=0.5), "alpha")
    yield of(aten.abs.default, F.softsign, "softsign")
    yield of(aten.exp.default, torch.exp)
    yield of(aten.sqrt.default, lambda x: x.abs().sqrt())
    yield of(aten.erf.default, torch.erf)
    yield of(aten.expm1.default, torch.expm1)
    yield of(aten.log1p.default, lambda x: x.abs().log1p())
    yield of(aten.log_sigmoid.default, F.logsigmoid)
    yield of(aten.rrelu.default, lambda x: F.rrelu(x, 0.1, 0.5))
    yield of(aten.threshold.default, lambda x: F.threshold(x, 0.1, 2.0))
    yield of(aten.threshold.default, lambda x: F.threshold(x, 0.0, 0.0), "as relu")
    yield of(aten.where.self, F.softshrink, "softshrink")
    yield of(aten.sign.default, lambda x: x * x.sign())
    yield of(aten.where.ScalarSelf, F.hardshrink, "hardshrink")
    yield of(aten.log.default, lambda x: (x.abs() + 1).log())
    yield of(aten.rsqrt.default, lambda x: (x.abs() + 1).rsqrt())
    yield of(aten.square.default, torch.square)
    for exponent in (2, -2, 1, 0.5, -0.5, 3):
        yield of(
            aten.pow.Tensor_Scalar, lambda x, e=exponent: (x.abs() + 1) ** e, f"to the {exponent}"
        )
    yield of(aten.pow.Tensor_Tensor, lambda x: x.clamp(min=0.1) ** torch.tensor([2.5]))
    yield of(aten.clamp.default, lambda x: x.clamp(-0.5, 1), "both")
    yield of(aten.clamp.default, lambda x: x.clamp(min=0), "as relu")
    yield of(aten.clamp_min.default, lambda x: x.clamp_min(0.1))
    yield of(aten.clamp_max.default, lambda x: x.clamp_max(0.1))
    yield Captured(aten.prelu.default, nn.PReLU(4))
    yield of(aten.softmax.int, lambda x: x * F.softmax(x, -1))
    yield of(aten.log_softmax.int, lambda x: x + F.log_softmax(x, -1))


def captured_arithmetic() -> Iterator[Captured]:
    yield of(aten.add.Tensor, lambda x: x + x * x, "two values")
    yield of(aten.add.Tensor, lambda x: 1 + x, "a number")
    yield of(aten.add.Tensor, lambda x: torch.add(x, x * x, alpha=2), "alpha")
    yield of(aten.add.Tensor, lambda x: x + torch.ones(x.shape[0], 1, 1, 1), "made for the batch")
    yield of(aten.sub.Tensor, lambda x: torch.sub(x, x * x, alpha=2))
    yield of(aten.rsub.Scalar, lambda x: 1 - x)
    yield of(aten.rsub.Tensor, lambda x: torch.rsub(x, x * x, alpha=2))
    yield of(aten.mul.Tensor, lambda x: x.clone().mul_(2).add_(x), "in place")
    yield of(aten.mul.Tensor, lambda x: x * x.mean((2, 3), keepdim=True), "gate")
    yield of(aten.mul.Tensor, lambda x: x * torch.arange(4).view(4, 1, 1), "integers")
    yield of(aten.div.Tensor, lambda x: x / 3, "a number")
    yield of(aten.div.Tensor, lambda x: x / (x * x + 1), "two values")
    yield of(aten.reciprocal.default, lambda x: 1 / (x * x + 1))
    yield of(aten.reciprocal.default, lambda x: 1 / (1 + (-x).exp()), "a sigmoid")
    yield of(aten.div.Tensor, lambda x: x.exp() / (x.exp() + 1), "not one exponential")
    yield of(aten.addcmul.default, lambda x: torch.addcmul(x, x, x.tanh(), value=0.5))
    yield of(aten.addcdiv.default, lambda x: torch.addcdiv(x, x, x * x + 1))
    yield of(aten.glu.default, lambda x: F.glu(x, 1))
    yield of(aten.lerp.Scalar, lambda x: torch.lerp(x, x * x, 0.3))
    yield of(aten.lerp.Tensor, lambda x: torch.lerp(x, x * x, torch.tensor(0.3)))
    yield of(aten.lerp.Tensor, lambda x: torch.lerp(x, x * x, x.sigmoid()), "a gate")
    yield of(aten.neg.default, lambda x: -x)
    yield Captured(aten.linear.default, nn.Linear(8, 3))
    yield Captured(aten.linear.default, nn.Linear(8, 3, bias=False), "no bias")
    yield of(aten.matmul.default, lambda x: x @ torch.ones(8, 2))
    matrix, stack = torch.randn(8, 8), torch.randn(4, 8, 8)
    yield of(aten.matmul.default, lambda x: x @ matrix[0], "of a vector")
    yield of(aten.matmul.default, lambda x: x @ stack, "a matrix for each channel")
    yield of(aten.matmul.default, lambda x: matrix[:, :6] @ x, "fixed matrix first")
    yield of(aten.matmul.default, lambda x: stack[:, :, :6] @ x, "fixed matrices first")
    yield of(aten.bmm.default, lambda x: torch.bmm(x[:, 0], matrix.expand(x.shape[0], 8, 8)))
    yield of(
        aten.baddbmm.default,
        lambda x: torch.baddbmm(x[:, 0], x[:, 1], matrix.expand(x.shape[0], 8, 8), beta=2),
    )
    for equation, tensor in (
        ("nchw,oc->nohw", matrix[:, :4]),
        ("n...w,wk->nk...", matrix),
        ("nchw,chk->nckw", stack[:, :6]),
        ("nchw,wck->nkw", torch.randn(8, 4, 3)),
        ("c,nchw->nwhc", matrix[0, :4]),
        ("nchw->nw", None),
        ("nchw->nhcw", None),
    ):
        terms = [] if tensor is None else [tensor]
        first = equation.startswith("c")
        yield of(
            aten.einsum.default,
            lambda x, e=equation, t=terms, f=first: torch.einsum(e, *((*t, x) if f else (x, *t))),
            equation,
        )
    yield of(
        aten.einsum.default, lambda x: torch.einsum("nchw,nc->nchw", x, x.mean((2, 3))), "a gate"
    )
    yield of(aten.mm.default, lambda x: torch.mm(x[:, 0, 0], torch.ones(8, 2)))
    yield of(aten.addmm.default, lambda x: torch.addmm(torch.ones(2), x[:, 0, 0], torch.ones(8, 2)))


def captured_choices() -> Iterator[Captured]:
    fixed, row = torch.rand(6, 8) > 0.5, torch.randn(8)
    yield of(aten.where.self, lambda x: torch.where(fixed, x, -2 * x), "fixed mask")
    yield of(aten.where.self, lambda x: torch.where(fixed, x, row), "fixed mask and value")
    yield of(aten.where.ScalarOther, lambda x: torch.where(x.mT.mT > x[:, :1], x, 0.5))
    yield of(aten.where.Scalar, lambda x: x * torch.where(x > 0, 2.0, 0.5))
    yield of(aten.where.self, lambda x: torch.where(x > x.mean(1, keepdim=True), x, x * x))
    yield of(aten.masked_fill.Scalar, lambda x: x.masked_fill(x < 0, 0.25))
    yield of(aten.masked_fill.Tensor, lambda x: x.masked_fill(fixed, torch.tensor(0.25)))
    yield of(aten.index_put.default, lambda x: written(x, (slice(None), [0, 2]), 1.0))
    yield of(aten.index_put.default, lambda x: written(x, x < 0, 0.5), "a mask")
    for name in ("gt", "ge", "lt", "le", "eq", "ne"):
        compare = getattr(torch, name)
        yield of(getattr(aten, name).Scalar, lambda x, c=compare: x * c(x, 0.5))
        yield of(getattr(aten, name).Tensor, lambda x, c=compare: x * c(x, x.mean(1, True)).float())
        yield of(getattr(aten, name).Tensor, lambda x, c=compare: x * c(row, x), "a constant first")
    yield of(aten.logical_and.default, lambda x: x * torch.logical_and(x > 0, x < 1))
    yield of(aten.logical_and.default, lambda x: x * ((x > 0) & fixed))
    yield of(aten.logical_or.default, lambda x: x * torch.logical_or(x < 0, x > 1))
    yield of(aten.logical_or.default, lambda x: x * (fixed | (x > 0)))
    yield of(aten.logical_xor.default, lambda x: x * torch.logical_xor(x < 0, x < 1))
    yield of(aten.logical_xor.default, lambda x: x * ((x < 0) ^ fixed))
    yield of(aten.logical_not.default, lambda x: x * torch.logical_not(x))
    yield of(aten.bitwise_not.default, lambda x: x * ~(x > 0))
    yield of(aten.maximum.default, lambda x: torch.maximum(x, x * x))
    yield of(aten.maximum.default, lambda x: torch.maximum(row, x), "a constant first")
    yield of(aten.max.other, lambda x: torch.max(x, x[:, :1]))
    yield of(aten.fmax.default, lambda x: torch.fmax(x, -x))
    yield of(aten.minimum.default, lambda x: torch.minimum(x, x * x))
    yield of(aten.min.other, lambda x: torch.min(x, x[:, :, :1]))
    yield of(aten.fmin.default, lambda x: torch.fmin(x, row))
    yield of(aten.clamp.Tensor, lambda x: x.clamp(row - 1, row))
    yield of(aten.clamp_min.Tensor, lambda x: x.clamp_min(row))
    yield of(aten.clamp_max.Tensor, lambda x: x.clamp_max(row))


def captured_norms() -> Iterator[Captured]:
    layer, rms = aten.layer_norm.default, aten.rms_norm.default
    weight, bias = torch.randn(8), torch.randn(8)
    yield Captured(layer, randomized(nn.LayerNorm((4, 6, 8), 0.1)), "of all axes")
    yield Captured(layer, randomized(nn.LayerNorm(8, bias=False)), "no bias")
    yield of(layer, lambda x: F.layer_norm(x, (8,)), "no parameters")
    yield of(layer, lambda x: F.layer_norm(x, (8,), bias=bias), "no weight")
    yield of(layer, lambda x: F.layer_norm(x.mT, (6,)).mT, "of an axis moved to the end")
    yield Captured(aten.group_norm.default, randomized(nn.GroupNorm(2, 4, 0.1)))
    yield Captured(aten.group_norm.default, nn.GroupNorm(4, 4, affine=False), "no parameters")
    yield of(aten.group_norm.default, lambda x: F.group_norm(x, 2, bias=bias[:4]), "no weight")
    yield Captured(rms, randomized(nn.RMSNorm((6, 8), 0.1)))
    yield Captured(rms, nn.RMSNorm(8, elementwise_affine=False), "torch's own epsilon")
    norm = aten._native_batch_norm_legit_no_training.default
    mean, variance = torch.randn(4), torch.rand(4) + 0.5
    yield of(norm, lambda x: F.batch_norm(x, mean, variance, weight[:4], eps=0.1), "no bias")
    yield of(norm, lambda x: F.batch_norm(x, mean, variance, None, bias[:4]), "no weight")
    yield of(norm, lambda x: F.batch_norm(x, mean, variance.exp(), weight[:4] * 2), "computed")
    axes = (1, -1)
    yield of(aten.var.dim, lambda x: x.var(axes))
    yield of(aten.var.dim, lambda x: x.var((2, 3), unbiased=False, keepdim=True), "biased")
    yield of(aten.var.correction, lambda x: x.var(1, correction=0))
    yield of(aten.std.dim, lambda x: x.std(axes))
    yield of(aten.std.correction, lambda x: x.std((2, 3), correction=2, keepdim=True))
    yield of(aten.var_mean.dim, lambda x: torch.cat(torch.var_mean(x, 1), 1))
    yield of(aten.var_mean.correction, lambda x: torch.stack(torch.var_mean(x, 1, correction=0), 1))
    yield of(aten.linalg_vector_norm.default, lambda x: F.normalize(x))
    yield of(aten.linalg_vector_norm.default, lambda x: x.norm(dim=(2, 3)))


def written(x: torch.Tensor, place: Any, value: Any) -> torch.Tensor:
    """A copy of x that is changed in place."""
    x = x.clone()
    x[place] = value(x[place]) if callable(value) else value
    return x


def captured_shapes() -> Iterator[Captured]:
    every = slice(None)
    yield of(aten.slice_scatter.default, lambda x: written(x, (every, slice(3)), lambda y: y + 1))
    step = (every, every, slice(1, None, 2))
    yield of(aten.slice_scatter.default, lambda x: written(x, step, lambda y: y * 2), "a step")
    yield of(aten.copy.default, lambda x: written(x, (every, 0), x[:, 1] * 2))
    yield of(aten.copy.default, lambda x: written(x, (every, 0), x[:, 1, :1] * 2), "broadcast")
    yield of(aten.select_scatter.default, lambda x: written(x, (every, 1), torch.ones(6, 8)))
    yield of(aten.fill.Tensor, lambda x: written(x, (every, 1), 5.0))
    yield of(aten.zeros_like.default, lambda x: written(torch.zeros_like(x), (every, 1), x[:, 0]))
    yield of(aten.ones_like.default, lambda x: x + torch.ones_like(x))
    yield of(aten.full_like.default, lambda x: x + torch.full_like(x, 2.0))
    yield of(aten.new_zeros.default, lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1, 6, 8)], 1))
    yield of(aten.new_ones.default, lambda x: x * x.new_ones(8))
    yield of(aten.new_full.default, lambda x: x + x.new_full((8,), 3.0))
    yield of(aten.view.default, lambda x: x.flatten(1), "flatten")
    yield of(aten.view.default, lambda x: x.view(-1, 4, 48), "batch as -1")
    yield of(aten.view.default, lambda x: x.reshape(x.shape[0], 2, 2, -1), "rest as -1")
    yield of(aten.view.default, lambda x: x.unflatten(1, (2, -1)), "unflatten")
    yield of(aten._unsafe_view.default, lambda x: x.permute(0, 2, 3, 1).flatten(1))
    yield of(aten.unsqueeze.default, lambda x: x.unsqueeze(-1))
    yield of(aten.squeeze.default, lambda x: x[:, :1].squeeze().reshape(x.shape[0], -1))
    yield of(aten.squeeze.dim, lambda x: x[:, :1].squeeze(1))
    yield of(aten.squeeze.dims, lambda x: x[:, :1, :1].squeeze((1, -2)))
    yield of(aten.permute.default, lambda x: x.permute(0, 2, -1, 1))
    yield of(aten.transpose.int, lambda x: x.mT)
    yield of(aten.slice.Tensor, lambda x: x[:, 1:-1, ::2])
    yield of(aten.select.int, lambda x: x[..., -1])
    yield of(aten.split.Tensor, lambda x: x.chunk(3, 2)[1])
    yield of(aten.split_with_sizes.default, lambda x: x.split([1, 3], 1)[1])
    yield of(aten.unbind.int, lambda x: x.unbind(1)[2])
    yield of(aten.cat.default, lambda x: torch.cat([x, -x], -1))
    yield of(
        aten.cat.default,
        lambda x: torch.cat([x, torch.arange(8.0).expand(x.shape[0], 1, 6, 8)], 1),
        "with a constant",
    )
    yield of(aten.stack.default, lambda x: torch.stack([x, -x], -1))
    yield of(aten.im2col.default, lambda x: F.unfold(x, (3, 2), 2, (1, 0), (2, 1)))
    yield of(aten.col2im.default, lambda x: F.fold(F.unfold(x, 2, stride=2), (6, 8), 2, stride=2))
    yield of(
        aten.col2im.default,
        lambda x: F.fold(F.unfold(x, 3, 2, 1, (2, 1)), (6, 8), 3, 2, 1, (2, 1)),
        "overlapping",
    )
    yield of(aten.unfold.default, lambda x: x.unfold(2, 3, 2))
    yield of(aten.index_select.default, lambda x: x.index_select(1, torch.tensor([3, 0, 1, 1])))
    yield of(aten.index.Tensor, lambda x: x[:, [2, -1, 1]])
    yield of(aten.index.Tensor, lambda x: x[:, :, torch.tensor([[0, 1], [3, 2]])], "a matrix")
    yield of(aten.index.Tensor, lambda x: x[..., torch.arange(8) > 3], "a mask")
    yield of(aten.flip.default, lambda x: x.flip(1, 3))
    yield of(aten.roll.default, lambda x: x.roll((1, -2), (2, 3)))
    yield of(aten.expand.default, lambda x: x[:, :1].expand_as(x))
    yield of(aten.repeat.default, lambda x: x.repeat(1, 2, 1, 3))
    yield of(aten.tile.default, lambda x: x.tile(2, 3))
    yield of(aten.pixel_shuffle.default, lambda x: F.pixel_shuffle(x, 2))
    yield of(aten.pixel_unshuffle.default, lambda x: F.pixel_unshuffle(x, 2))
    yield of(aten.channel_shuffle.default, lambda x: F.channel_shuffle(x, 2))
    yield of(aten.pad.default, lambda x: F.pad(x, (-1, 2, 0, -2), value=3.0), "crops")
    yield of(
        aten.pad.default, lambda x: F.pad(x, (-1, 2, 0, 0), mode="circular"), "crops, circular"
    )
    yield of(aten.constant_pad_nd.default, lambda x: torch.constant_pad_nd(x, (1, 0, -1, 2), 1.5))
    for mode in ("constant", "reflect", "replicate", "circular"):
        yield of(aten.pad.default, lambda x, m=mode: F.pad(x, (1, 2, 3, 0), mode=m), mode)
    yield of(aten.sum.dim_IntList, lambda x: x.sum((1, -1)))
    yield of(aten.mean.dim, lambda x: x.mean((-1, -2)), "spatial")
    yield of(aten.mean.dim, lambda x: x.mean(1, keepdim=True), "channels")
    yield of(aten.logsumexp.default, lambda x: torch.logsumexp(x, (2, 3)))
    yield of(aten.amax.default, lambda x: x.amax((-1, -2)))
    yield of(aten.amax.default, lambda x: x.amax((2, 3), keepdim=True), "kept")
    yield of(aten.amax.default, lambda x: x.amax(1, keepdim=True), "channels")
    yield of(aten.amax.default, lambda x: x.amax((-1, 1)), "some axes")
    yield of(aten.amax.default, lambda x: x.flatten(1).amax(1, keepdim=True), "of a vector")
    yield of(aten.max.dim, lambda x: x.max(1).values, "channels")
    yield of(aten.max.dim, lambda x: x.flatten(2).max(2).values)
    yield of(aten.clone.default, lambda x: x.clone() * 2)
    yield of(aten.detach.default, lambda x: x.detach() * 2)
    yield of(aten.alias.default, lambda x: aten.alias(x) * 2)
    yield of(aten.type_as.default, lambda x: (x * 2).type_as(x))
    yield of(aten._to_copy.default, lambda x: x.double().float() * 2)
    yield of(aten._assert_tensor_metadata.default, lambda x: x.double().float() * 2)


def captured_together() -> Iterator[tuple[str, tuple[int, ...], list[Captured]]]:
    """Families of models: a name, the shape of their input, and the models."""
    torch.manual_seed(0)
    for rank, size in {1: (8,), 2: (6, 8), 3: (4, 6, 4)}.items():
        yield f"{rank}-d", (4, *size), list(captured_by_rank(rank))
    for family in (
        captured_activations,
        captured_choices,
        captured_arithmetic,
        captured_norms,
        captured_shapes,
    ):
        yield family.__name__, (4, 6, 8), list(family())


CAPTURED = list(captured_together())

DECOMPOSED: set[Any] = {
    aten.sgn.default,
    aten.bitwise_and.Tensor,
    aten.__and__.Tensor,
    aten.bitwise_or.Tensor,
    aten.__or__.Tensor,
    aten.bitwise_xor.Tensor,
    aten.__xor__.Tensor,
    aten.fill.Scalar,
    aten._softmax.default,
    aten._log_softmax.default,
    aten.alpha_dropout.default,
    aten.chunk.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.flatten.using_ints,
    aten.lift_fresh_copy.default,
    aten.narrow.default,
    aten.reshape.default,
    aten.split.sizes,
    aten.to.dtype,
    aten.unflatten.int,
}
"""Supported operators that ``torch.export`` decomposes in the versions tested."""

REFUSED: set[Any] = {
    *(aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.default),
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_attention_math.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._native_multi_head_attention.default,
    aten._transformer_encoder_layer_fwd.default,
    aten.mean.default,
    aten._native_batch_norm_legit.no_stats,
    aten._native_batch_norm_legit_functional.default,
}
"""Operators that are registered only to be refused with a better error message."""
