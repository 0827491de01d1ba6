"""What an operator is: one frozen dataclass that declares everything the compiler needs of it.

An operator's fields are its static attributes (stride, axis ...); what it is called with are its
operands (tensors). Calling an operator with tensors runs it; calling it with a
:class:`~graphprop.ir.writer.Value` writes a node into that value's graph. So one piece of
mathematics serves as eager reference and as code generator.

To add an operator, subclass :class:`Operator`, in this package or outside it, and give it

========================= =====================================================================
``run``                   what it computes, in torch
``interval``              the range of its result, from the ranges of its operands
``layout_from``           what the axes of its result mean, if it does not act entry by entry
``relevance``             the rule that carries relevance through it, if it has no weights
``signal``                which operands relevance flows to, if not to the first alone
``traits``                what passes may take it for: a pooling, a norm, a sum ...
``adjoint``               where it is linear in its first operand, the operator of its transpose
``gradient``              where it isn't, or has other operands that depend on the input
``source``                the torch source that it prints as
``calls``, ``helpers``    the methods of tensors, and the functions, that its source calls
``onnx``                  the ONNX nodes that it becomes
========================= =====================================================================

and a function decorated with :func:`from_aten` that builds it from what ``torch.export`` captured.
No pass, rule or printer has to be changed: they ask for these declarations, not for classes. The
laws that every operator obeys are tested for each case in the tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeGuard

import torch

from graphprop.ir.layout import Layout, joined
from graphprop.ir.operation import Operation, Shape
from graphprop.ir.writer import Operand, Value
from graphprop.ops import helpers
from graphprop.ops.source import name_of
from graphprop.ops.traits import Signal, Trait

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprop.ops.onnx_writer import OnnxWriter

Array: TypeAlias = "Value | torch.Tensor"
"""What the mathematics is applied to: a value being written, or a tensor."""


def is_value(operand: object) -> TypeGuard[Value]:
    """Whether an operand is a value being written: what depends on the input is one."""
    return isinstance(operand, Value)


Ints: TypeAlias = int | Sequence[int]
"""An attribute given once for all axes, or once per axis."""


@dataclass(frozen=True)
class Window:
    """The windows of a convolution, per spatial axis: how many places they span, and the padding.

    Attributes
    ----------
    spans
        From the first to the last place of a window, dilation included.
    padding
        Zeros around the map.
    """

    spans: tuple[int, ...]
    padding: tuple[int, ...]


@dataclass(frozen=True)
class Operator(Operation):
    """One operator: what a graph needs of it, how relevance passes it, and how it is printed."""

    traits: ClassVar[Trait] = Trait.NONE
    """What passes may take the operator for, see `Trait`."""

    signal: ClassVar[Signal | tuple[int, ...]] = Signal.FIRST
    """The operands that relevance flows to, where they depend on the input.

    A tuple names them by index; every other operand is a gate or a parameter, and gets none."""

    channel_axis: ClassVar[int] = 1
    """For a layer with weights: the axis of its result that holds channels, 1 or -1."""

    inline: ClassVar[bool] = False
    """Whether the generated source may nest it in the expression that uses it."""

    infix: ClassVar[bool] = False
    """Whether its source needs parentheses where it is nested in another expression."""

    squashes: ClassVar[str] = ""
    """What users call it, if it turns logits into probabilities or their logarithms.

    It is removed at the end of a network: relevance explains the logits."""

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

    def has(self, trait: Trait) -> bool:
        """Whether it has a trait; overridden where that depends on the operator's fields."""
        return trait in self.traits

    @property
    def channels_last_in_memory(self) -> bool:
        """Whether torch runs it faster on tensors with the channels last in memory."""
        return False

    def rule_for(self, parameters: Mapping[str, Any]) -> str | None:
        """Name the rule of its own, by a method's parameters: `relevance`, or another one."""
        return self.relevance

    def layout(self, shape: Shape, *operands: Layout | None) -> Layout:
        """Infer the layout of the result: see `Operation.layout`.

        Overridden by operators that ask the layouts of several operands. That of one whose first
        operand does not depend on the input, or that acts entry by entry, is what its operands
        have in common.
        """
        first = operands[0] if operands else None
        found = None if first is None else self.layout_from(shape, first)
        return joined(shape, operands) if found is None else found

    def layout_from(self, shape: Shape, x: Layout) -> Layout | None:
        """Infer what the axes of a result of a shape mean from those of the first operand.

        None, the default, means that the operator acts entry by entry.
        """
        return None

    def window(self, *shapes: Shape) -> Window | None:
        """The windows that results are computed from; None for an operator without windows."""
        return None

    def with_results_scaled(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """The weight by which each channel of the result is scaled; None where there is none.

        That is how a batch norm is merged into the layer before it.
        """
        return None

    def with_operand_scaled(
        self, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | str | None:
        """Take over ``scale * x + shift`` per channel of the first operand.

        That is how a batch norm is merged into the layer behind it.

        Returns
        -------
        tuple of Tensor, str or None
            The new weight, and what is added to the bias; or why that can't be; or None for an
            operator that is no linear layer.
        """
        return None

    def adjoint(self, *shapes: Shape) -> Operator:
        """Transpose the linear map from the first operand to the result.

        ``shapes`` are the operands' shapes. The returned operator is called with the tensor to
        carry back in place of the first operand, and with the other operands unchanged.
        """
        raise TypeError(f"{self.__name__} is not linear")

    def gradient(
        self, r: Array, operands: Sequence[Operand], shapes: Sequence[Shape]
    ) -> tuple[Array | None, ...]:
        """Carry r back to the operands: the vector-Jacobian product, one entry for each.

        ``shapes`` are the shapes of the operands that have one. An entry may be left out at the
        end, or None, where the operator is never used with an operand there that depends on the
        input.
        """
        return (self.adjoint(*shapes)(r, *operands[1:]),)

    def coefficient(self, x: Array, *parameters: Array) -> Array:
        """The slope of a map that is affine in x, shaped to multiply x: for the rule ``affine``."""
        raise TypeError(f"{self.__name__} is not affine")

    def lowered(self, *operands: Operand) -> Array:
        """Write the operator's forward part into the lowered graph."""
        return self(*operands)

    def source(self, *operands: str) -> str:
        """Print the operator as torch source, the operands being expressions."""
        raise TypeError(f"{self.__name__} has no torch source: legalize it first")

    def onnx(self, graph: OnnxWriter, *operands: ir.Value) -> ir.Value | tuple[ir.Value, ...]:
        """Write the operator as ONNX nodes; returns its result, or several.

        An operand that is a number stays one: `OnnxWriter.node` makes a constant of it.
        """
        raise TypeError(f"{self.__name__} has no ONNX form: legalize it first")


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
