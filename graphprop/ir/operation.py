"""What a graph needs to know of an operator: how it runs, and what it infers.

An operator is a value: two with the same attributes are equal, and nodes that call equal operators
on the same operands are the same computation. `graphprop.ops.base.Operator` adds how relevance
passes through it and how it is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from graphprop.ir.interval import UNBOUNDED, Interval
from graphprop.ir.layout import Layout, joined
from graphprop.ir.names import snake_case

Shape = tuple[int, ...]
"""A value's shape; the batch axis, always the first, is -1."""

LEVELS = ("canonical", "lowered", "torch", "onnx")
"""The levels of the intermediate representation that graphprop's own operators appear at."""


@dataclass(frozen=True)
class Operation:
    """An operator as a graph sees it: static attributes as fields, meaning as methods."""

    levels: ClassVar[frozenset[str]] = frozenset(LEVELS)
    """The levels whose vocabulary the operator belongs to."""

    weighted: ClassVar[bool] = False
    """Called as (x, weight[, bias]) and linear in x: gets a rule from the method."""

    relevance: ClassVar[str | None] = None
    """For an operator without weights: the rule that carries relevance through it."""

    piecewise_constant: ClassVar[bool] = False
    """Whether small changes of the operands leave the result as it is, as of masks and indices: no
    relevance flows to the operands."""

    operands: ClassVar[tuple[str, ...]] = ("x",)
    """The names of the operands: what tensors are called that have no name of their own."""

    def __call__(self, *operands: Any) -> Any:
        for operand in operands:
            writer = getattr(operand, "tracer", None)
            if writer is not None:
                return writer.write(self, operands)
        return self.run(*operands)

    @property
    def __name__(self) -> str:
        return snake_case(type(self).__qualname__.rpartition(".")[2])

    def __str__(self) -> str:
        attributes = (f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        return f"{self.__name__}({', '.join(attributes)})"

    def operand_name(self, index: int) -> str:
        """Return the name of operand ``index``."""
        return self.operands[index] if index < len(self.operands) else "constant"

    def run(self, *operands: Any) -> Any:
        """Compute the operator on tensors."""
        raise TypeError(f"{self.__name__} does not run on tensors")

    def interval(self, *operands: Interval) -> Interval:
        """Infer an interval that holds the result from intervals that hold the operands.

        It must hold for every value of the operator's fields, and whatever the input is. An
        operand is the interval of its value; parameters of the model have none (`UNBOUNDED`),
        because other weights may be loaded.
        """
        return UNBOUNDED

    def interval_at(self, shapes: Sequence[Shape], *operands: Interval) -> Interval:
        """Infer the interval by the shapes of the operands, too; by default, by `interval`."""
        return self.interval(*operands)

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        """Infer what the axes of the result mean from what those of the operands mean.

        Parameters
        ----------
        shape
            Of the result.
        operands
            The layout of each operand; None for one that does not depend on the input.

        By default the operator acts on each entry, or keeps the axes of its operands.
        """
        return joined(shape, operands)

    @classmethod
    def functions_of_source(cls) -> set[str]:
        """Return the names of the functions that its generated source calls."""
        return set()

    def verify(self, *shapes: Shape) -> str | None:
        """Say what is wrong with operands of these shapes, if anything is."""
        return None


def reserved_names() -> set[str]:
    """Return the names of the functions in generated source: no variable may have them."""
    names: set[str] = set()
    kinds: list[type[Operation]] = [Operation]
    for kind in kinds:
        kinds += kind.__subclasses__()
        names |= kind.functions_of_source()
    return names
