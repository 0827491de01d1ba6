"""Layouts: which axis of a value is the batch, which holds channels, and which hold places.

Places are positions in space: the pixels of a map, or the tokens of a sequence. A convolution
determines what the axes of its operand mean; permutations, flattening and token sequences are
followed from there. So channels and places are known in a network that is written with the channels
first, with the channels last, or over a sequence of tokens (docs/methods.md, section 0).

An axis is a product of factors, the outer one first: ``[N, C, H, W]`` flattened to ``[N, C*H*W]``
has an axis of three factors, and is split again where they are. A factor that does not *vary*
repeats the same entry: a value for the whole map, broadcast to its places, has one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

CHANNEL, PLACE = "channel", "place"


@dataclass(frozen=True)
class Factor:
    """A part of an axis: ``kind`` is `CHANNEL` or `PLACE`."""

    kind: str
    size: int
    varies: bool = True


Axis = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """The factors of each axis behind the batch, which is always the first."""

    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return "N," + ",".join(
            "*".join(f"{factor.kind[0]}{factor.size}" for factor in axis) or "1"
            for axis in self.axes
        )

    @property
    def places(self) -> int:
        """How many places the value has that can differ from each other."""
        return prod(self.extents)

    @property
    def extents(self) -> tuple[int, ...]:
        """The lengths along which the places lie that can differ, such as height and width."""
        return tuple(f.size for axis in self.axes for f in axis if f.kind == PLACE and f.varies)

    def kind(self, axis: int) -> str | None:
        """What an axis (counted with the batch) holds; None: both, or it has no factors."""
        kinds = {factor.kind for factor in self.axes[axis - 1]}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def channels_first(self) -> bool:
        """Whether axis 1 holds only channels, and every axis after it only places."""
        if not self.axes:
            return False
        first, *rest = self.axes
        return all(f.kind == CHANNEL or f.size == 1 for f in first) and all(
            len(axis) <= 1 and all(f.kind == PLACE or f.size == 1 for f in axis) for axis in rest
        )

    def permuted(self, order: Sequence[int]) -> Layout:
        """The axes in another order, which counts the batch."""
        return Layout(tuple(self.axes[axis - 1] for axis in order[1:]))

    def resized(self, axis: int, size: int, kind: str | None = None) -> Layout:
        """An axis (counted with the batch) with another number of entries."""
        old = self.axes[axis - 1]
        if prod(f.size for f in old) == size and kind is None:
            return self
        outer, inner = (old[:1], old[1:]) if kind is None else ((), ())
        rest = prod(f.size for f in inner)
        if outer and size % rest == 0:
            # a slice of the outer factor, or several of it one after another
            new: Axis = (replace(outer[0], size=size // rest), *inner)
        else:
            # a slice of flattened channels and places is a vector of features
            held = {f.kind for f in old}
            found = kind or (held.pop() if len(held) == 1 else CHANNEL)
            new = (Factor(found, size),)
        return Layout((*self.axes[: axis - 1], new, *self.axes[axis:]))

    def regrouped(self, shape: Sequence[int]) -> Layout:
        """The layout of the same entries in another shape, which begins with the batch."""
        left = [factor for axis in self.axes for factor in axis]
        axes: list[Axis] = []
        for size in shape[1:]:
            axis: list[Factor] = []
            missing = size
            if size == 1 and left and left[0].size == 1:
                axis.append(left.pop(0))
            while missing > 1:
                while left and left[0].size == 1:
                    left.pop(0)
                if not left:
                    return guessed(shape)
                factor = left.pop(0)
                if missing % factor.size == 0:
                    axis.append(factor)
                    missing //= factor.size
                elif factor.size % missing == 0:
                    axis.append(replace(factor, size=missing))
                    left.insert(0, replace(factor, size=factor.size // missing))
                    missing = 1
                else:
                    return guessed(shape)
            axes.append(tuple(axis))
        return Layout(tuple(axes)) if prod(f.size for f in left) == 1 else guessed(shape)


def guessed(shape: Sequence[int]) -> Layout:
    """The layout of a value of which nothing else is known: ``[N, C, ...]``."""
    kinds = [CHANNEL, *[PLACE] * (len(shape) - 2)]
    return Layout(tuple((Factor(k, size),) for k, size in zip(kinds, shape[1:], strict=False)))


def channels_last(shape: Sequence[int]) -> Layout:
    """The layout ``[N, ..., C]``."""
    kinds = [*[PLACE] * (len(shape) - 2), CHANNEL]
    return Layout(tuple((Factor(k, size),) for k, size in zip(kinds, shape[1:], strict=False)))


def joined(shape: Sequence[int], operands: Sequence[Layout | None]) -> Layout:
    """The layout of a value of this shape that is computed entry by entry from others.

    Where they disagree on an axis, a factor that varies takes precedence over one that does not,
    and an axis of several factors over one of a single factor.
    """
    known = [layout for layout in operands if layout is not None]
    fitting = [layout for layout in known if sizes(layout) == tuple(shape[1:])]
    if not fitting:
        return known[0].regrouped(shape) if len(known) == 1 else guessed(shape)
    return Layout(
        tuple(max(axes, key=_precedence) for axes in zip(*(f.axes for f in fitting), strict=True))
    )


def concatenated(shape: Sequence[int], operands: Sequence[Layout], axis: int) -> Layout:
    """The layout of values one after another along an axis.

    Flattened maps of the same places are one with more channels; any other vectors are features.
    """
    known = [layout for layout in operands if layout.axes[axis - 1]]
    inner = {layout.axes[axis - 1][1:] for layout in known}
    kinds = {layout.kind(axis) for layout in known}
    kind = None if len(inner) == 1 else kinds.pop() if len(kinds) == 1 else None
    if len(inner) > 1 and kind is None:
        kind = CHANNEL
    return joined(shape, [layout.resized(axis, shape[axis], kind) for layout in operands])


def resized_to(layout: Layout, shape: Sequence[int]) -> Layout:
    """A layout with the axes resized to the lengths of a shape, which begins with the batch."""
    for axis, size in enumerate(shape[1:], start=1):
        layout = layout.resized(axis, size)
    return layout


def sizes(layout: Layout) -> tuple[int, ...]:
    """The lengths of the axes behind the batch."""
    return tuple(prod(factor.size for factor in axis) for axis in layout.axes)


def _precedence(axis: Axis) -> tuple[int, int, int]:
    return (sum(f.varies for f in axis), len(axis), sum(f.kind == PLACE for f in axis))
