"""What an operator is: one frozen dataclass that says everything the compiler needs to know of it.

An operator's fields are its static attributes (stride, axis ...); what it is called with are its
operands (tensors). Calling an operator with tensors runs it; calling it with a
:class:`~graphprop.network.Value` writes a node into that value's graph. So one piece of
mathematics serves as eager reference and as code generator.

To add an operator: subclass :class:`Operator` in the file of this folder it belongs to, give it

- ``run``: what it computes, in torch;
- ``interval``: what the ranges of its operands say about the range of its result;
- ``layout``: what the axes of its result mean, where they are not those of its operands;
- ``adjoint``: where it is linear in its first operand, the operator of its transpose;
- ``gradient``: where it isn't, or depends on the input in other operands too;
- ``source``: the torch source text it prints as;
- ``onnx``: the ONNX nodes it becomes;
- ``relevance``: the name of the rule that carries relevance through it, if it has no weights;
- ``calls`` and ``helpers``: the methods of tensors, and the functions, that its source calls;
- a function decorated with :func:`from_aten` that builds it from what ``torch.export`` captured,

and a case in ``tests/cases.py``: the laws are then tested for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from graphprop.ops import helpers
from graphprop.ops.interval import UNBOUNDED, Interval
from graphprop.ops.layout import Layout, joined

if TYPE_CHECKING:
    from graphprop.emit.onnx_writer import OnnxWriter

Shape = tuple[int, ...]
"""A value's shape; the batch axis, always the first, is -1."""


LEVELS = ("canonical", "lowered", "torch", "onnx")
"""The levels of the intermediate representation that graphprop's own operators appear at."""


@dataclass(frozen=True)
class Operator:
    """One operator: static attributes as fields, meaning as methods."""

    levels: ClassVar[frozenset[str]] = frozenset(LEVELS)
    """The levels whose vocabulary the operator belongs to."""

    weighted: ClassVar[bool] = False
    """Called as (x, weight[, bias]) and linear in x: gets a rule from the method."""

    relevance: ClassVar[str | None] = None
    """For an operator without weights: the rule that carries relevance through it."""

    piecewise_constant: ClassVar[bool] = False
    """Whether the result only steps (masks, indices): no relevance flows to the operands."""

    inline: ClassVar[bool] = False
    """Whether the generated source may nest it in the expression that uses it."""

    helpers: ClassVar[tuple[str | Callable[..., Any], ...]] = ()
    """The functions that its source calls: names of `graphprop.ops.helpers`, or functions.

    Their source text is copied into generated modules, so that they can use nothing but ``torch``,
    ``F`` (`torch.nn.functional`), and other functions that are named here, too."""

    calls: ClassVar[tuple[str, ...]] = ()
    """The methods of tensors that its source, or that of its helpers, calls: ``("roll",)``.

    Generated source calls nothing but functions of torch, a few methods, and what is named here."""

    operands: ClassVar[tuple[str, ...]] = ("x",)
    """What the operands are called: names for tensors that have none of their own."""

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
        """What operand ``index`` is called."""
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
        """`interval`, for operators that have to know the shapes of their operands, too."""
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

    def adjoint(self, *shapes: Shape) -> Operator:
        """Transpose the linear map from the first operand to the result.

        ``shapes`` are the operands' shapes. The returned operator is called with the tensor to
        carry back in place of the first operand, and with the other operands unchanged.
        """
        raise TypeError(f"{self.__name__} is not linear")

    def gradient(self, r: Any, operands: Sequence[Any], shapes: Sequence[Shape]) -> tuple[Any, ...]:
        """Carry r back to the operands: the vector-Jacobian product, one entry for each.

        ``shapes`` are the shapes of the operands that have one. An entry may be left out at the
        end, or None, where the operator is never used with an operand there that depends on the
        input.
        """
        return (self.adjoint(*shapes)(r, *operands[1:]),)

    def lowered(self, *operands: Any) -> Any:
        """Write the operator's forward part into the lowered graph."""
        return self(*operands)

    def source(self, *operands: str) -> str:
        """Print the operator as torch source, the operands being expressions."""
        raise TypeError(f"{self.__name__} has no torch source: legalise it first")

    def onnx(self, graph: OnnxWriter, *operands: Any) -> Any:
        """Write the operator as ONNX nodes."""
        raise TypeError(f"{self.__name__} has no ONNX form: legalise it first")

    def verify(self, *shapes: Shape) -> str | None:
        """Say what is wrong with operands of these shapes, if anything is."""
        return None


def name_of(helper: str | Callable[..., Any]) -> str:
    """What a helper is called in generated source."""
    return helper if isinstance(helper, str) else helper.__name__


def functions_of_source() -> set[str]:
    """The names of the functions that generated source can hold: no variable may have them."""
    names = {name for name, function in vars(helpers).items() if inspect.isfunction(function)}
    kinds = [Operator]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if isinstance(kind.helpers, tuple):
            names |= {name_of(helper) for helper in kind.helpers}
    return names


def snake_case(name: str) -> str:
    """``MaxPool`` -> ``max_pool``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def source_tuple(numbers: Sequence[int]) -> str:
    """Print a per-axis attribute the way a person writes it: one number where all are equal."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    return "(" + ", ".join(map(str, numbers)) + ")"


def source_call(function: str, *arguments: str, **options: tuple[Any, Any]) -> str:
    """Print a call, leaving out every option (value, default) that has its default."""
    shown = list(arguments)
    for name, (value, default) in options.items():
        if value != default:
            printed = source_tuple(value) if isinstance(value, tuple) else repr(value)
            shown.append(f"{name}={printed}")
    return f"{function}({', '.join(shown)})"


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Spread an attribute given once, or once per axis, over ``rank`` spatial axes."""
    if isinstance(value, int):
        return (value,) * rank
    values = tuple(value)
    return values * rank if len(values) == 1 else values


ATEN: dict[Any, Callable[..., Any]] = {}
"""What each captured ATen operator means: a function that writes canonical operators."""


def from_aten(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the meaning of the captured operators ``targets``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for target in targets:
            ATEN[target] = function
        return function

    return register
