"""What an operator is: one frozen dataclass that says everything the compiler needs to know of it.

An operator's fields are its static attributes (stride, axis ...); what it is called with are its
operands (tensors). Calling an operator with tensors runs it; calling it with a
:class:`~graphprop.ir.writer.Value` writes a node into that value's graph. So one piece of
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphprop.ir.operation import Operation, Shape
from graphprop.ops import helpers
from graphprop.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True)
class Operator(Operation):
    """One operator: what a graph needs to know of it, its adjoint, and how it is printed."""

    inline: ClassVar[bool] = False
    """Whether the generated source may nest it in the expression that uses it."""

    helpers: ClassVar[tuple[str | Callable[..., Any], ...]] = ()
    """The functions that its source calls: names of `graphprop.ops.helpers`, or functions.

    Their source text is copied into generated modules, so that they can use nothing but ``torch``,
    ``F`` (`torch.nn.functional`), and other functions that are named here, too."""

    calls: ClassVar[tuple[str, ...]] = ()
    """The methods of tensors that its source, or that of its helpers, calls: ``("roll",)``.

    Generated source calls nothing but functions of torch, a few methods, and what is named here."""

    @classmethod
    def functions_of_source(cls) -> set[str]:
        """Return the names of the functions that its generated source calls."""
        if cls is Operator:
            return {name for name, value in vars(helpers).items() if inspect.isfunction(value)}
        return set(map(name_of, cls.helpers)) if isinstance(cls.helpers, tuple) else set()

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
        raise TypeError(f"{self.__name__} has no torch source: legalize it first")

    def onnx(self, graph: OnnxWriter, *operands: Any) -> Any:
        """Write the operator as ONNX nodes."""
        raise TypeError(f"{self.__name__} has no ONNX form: legalize it first")


def name_of(helper: str | Callable[..., Any]) -> str:
    """What a helper is called in generated source."""
    return helper if isinstance(helper, str) else helper.__name__


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
