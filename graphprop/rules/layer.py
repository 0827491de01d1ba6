"""A layer as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from graphprop.ir.writer import Value
from graphprop.ops import AddBias, Layout, Operator, Shape

Tensor: TypeAlias = torch.Tensor | Value
"""What rules compute with: a tensor, or a value of the network that is being compiled."""


@dataclass
class Layer:
    """What a rule computes with: ``op``, ``opT``, ``w`` and ``b`` of docs/methods.md, section 0.

    Attributes
    ----------
    operator
        The operator, without bias. None for a rule that makes a map of what arrives at the model's
        input.
    weight, bias
        The parameters of a weighted layer (each an `Tensor`), or None.
    pattern
        What was fitted for the layer, of the shape of its weight; None where nothing was.
    shapes
        The operands' shapes, -1 standing for the batch.
    label
        The user's name for the layer, for messages.
    signal
        For an operator where values meet: which of its operands relevance flows to.
    operands
        All of them, as the layer is called.
    reference
        The operands where the model's input is the method's baseline, if it has one.
    budget
        tau of docs/methods.md, section 4: what relevance is normalized to, in methods that keep
        count of it.
    image
        The shape of the model's input.
    final
        Whether the layer's result is the model's output.
    layout
        What the axes of the layer's result are: for a map made at a layer, of the layer's value.
        None stands for ``[N, C, places ...]``.
    before
        Zero padding that the model applies first: a part of ``op``, so that x has no padding.
    rename
        What gives a value a name in the compiled graph; None when run on tensors.
    """

    operator: Any  # rules read fields that only their own operators have
    weight: Any = None
    bias: Any = None
    shapes: Sequence[Shape] = ()
    label: str = "layer"
    signal: tuple[int, ...] = (0,)
    operands: tuple[Any, ...] = ()
    reference: tuple[Any, ...] = ()
    budget: Any = None
    image: Shape = ()
    final: bool = True
    layout: Layout | None = None
    before: Operator | None = None
    rename: Callable[[Tensor, str, bool], Tensor] | None = None
    pattern: Any = None

    @classmethod
    def of(
        cls,
        operator: Operator,
        x: Tensor | tuple[Tensor, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Layer:
        """A layer for eager use, the shapes being taken from the tensors.

        Parameters
        ----------
        operator
            The operator, without bias.
        x
            The layer's input ``[N, ...]``; for an operator where values meet, a tuple of all.
        weight, bias
            The parameters of a weighted layer.
        """
        operands = x if isinstance(x, tuple) else (x,) if weight is None else (x, weight)
        shapes = [(-1, *operand.shape[1:]) for operand in operands]
        if weight is not None:
            shapes[1] = tuple(weight.shape)
        signal = tuple(range(len(operands)))
        return cls(operator, weight, bias, shapes, signal=signal, operands=operands)

    @property
    def constants(self) -> tuple[Any, ...]:
        """The operands behind the first."""
        return self.operands[1:]

    def op(self, x: Tensor, w: Tensor | None = None) -> Tensor:
        """Apply the layer without bias: ``op(x, w)``."""
        x = x if self.before is None else self.before(x)
        return self.operator(x) if w is None else self.operator(x, w)

    def opT(self, w: Tensor | None, r: Tensor) -> Tensor:
        """Apply the adjoint in x: ``opT(w, r)``, of the shape of x."""
        adjoint = self.operator.adjoint(*self.shapes)
        back = adjoint(r) if w is None else adjoint(r, w)
        return back if self.before is None else self.before.adjoint()(back)

    def plus_bias(self, z: Tensor, bias: Tensor | None) -> Tensor:
        """Add a bias along the layer's channels; None adds nothing."""
        if bias is None:
            return z
        return AddBias(getattr(self.operator, "channel_axis", 1))(z, bias)

    def named(self, name: str, value: Tensor, *, shared: bool = False) -> Tensor:
        """Give a value a name in the compiled graph and source: ``<layer>_<name>``.

        Where a method has several flows the name bears the flow's too, unless the value is
        ``shared``: the same in all of them.
        """
        return value if self.rename is None else self.rename(value, name, shared)
