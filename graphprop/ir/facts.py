"""What the compiler knows about each node of a graph.

A node of a ``torch.fx`` graph says what is computed, and from what. Everything else (the shape of
its value, where in the user's model it comes from, what an analysis found out about it) is in one
:class:`Facts`, which `facts_of` returns:

>>> facts_of(node).label
'features.0'

Shape, batch and range are inferred when a node is written (`graphprop.ir.writer.infer`); the other
facts are set by the pass that the list below names, and inherited when a graph is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

import torch
from torch import fx

from graphprop.ir.interval import UNBOUNDED, Interval, Sign
from graphprop.ir.layout import Layout
from graphprop.ir.operation import Shape

BATCH = 7919
"""The batch size that stands for any while shapes are inferred.

A large prime: it is no size or product of sizes of a layer, so that an axis of this length is the
batch, and an operator that splits or merges the batch with another axis is found out.
"""


class AssignedRule(Protocol):
    """How relevance is carried through a node: a rule with its parameters."""

    @property
    def name(self) -> str:
        """The rule's name."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The values of its parameters."""

    def in_flow(self, parameters: Mapping[str, Any]) -> AssignedRule:
        """Replace the parameters that one of several flows of relevance sets."""

    def __call__(self, layer: Any, x: Any, r: Any) -> Any:
        """Compute the relevance of x, see `graphprop.rules.registry.Rule`."""


@dataclass(frozen=True)
class Applied:
    """A rule applied to a layer: what a part of a lowered graph computes.

    Attributes
    ----------
    label, operator
        The layer's label, and the name of its operator.
    rule
        The rule with its parameters in the flow.
    flow
        Which flow of relevance, where a method has several.
    prefix
        What the names of its nodes begin with.
    """

    label: str
    operator: str
    rule: AssignedRule
    flow: str
    prefix: str


@dataclass(slots=True)
class Facts:
    """What is known about a node.

    Attributes
    ----------
    value
        A tensor on the meta device: shape and dtype, with `BATCH` samples; a tuple of them for an
        operator with several results.
    batched
        Whether the value depends on the input; its axis 0 is then the batch.
    varies
        Whether a small change of the input changes the value: masks and indices do not vary.
    range
        An interval that holds all entries, whatever the input is.
    layout
        Which axes hold channels and which places, from `passes.infer_layouts`.
    path, label, kind, line
        The user's module path (``""`` for the root), the path made unique, the class of the
        module, and the source line as ``file:number``.
    roles, depth
        What the layer is there for, and how many weighted and pooling layers lie before it, from
        `passes.tag_roles`.
    pooled
        Whether an average pooling that changed nothing was left out after the node.
    signal
        The indices of the operands that relevance flows to.
    rule
        How relevance is carried through the node, from `passes.assign_rules`; None: not at all.
    pattern
        The name of the tensor that was fitted for the layer, from `lowering.patterns`.
    map_layer, above, below
        Whether the method makes its map at this node, or the node lies between that layer and the
        logits, or between the input and that layer, from `passes.find_layer`.
    place_in_stack
        The number of weighted layers of the convolution stack before the node, from
        `passes.assign_rules`.
    section
        In a lowered graph: the heading under which the node is printed.
    applied
        In a lowered graph: the rule that the node was written by, and the layer it was applied to.
    named
        Whether the name was chosen, and must not be simplified.
    records
        In a lowered graph: the label of the layer whose result this node is.
    """

    value: Any = None
    batched: bool = False
    varies: bool = False
    range: Interval = UNBOUNDED
    layout: Layout | None = None
    path: str = ""
    label: str = ""
    kind: str = ""
    line: str | None = None
    roles: frozenset[str] = frozenset()
    depth: int = 0
    pooled: bool = False
    signal: tuple[int, ...] = ()
    rule: AssignedRule | None = None
    pattern: str | None = None
    map_layer: bool = False
    above: bool = False
    below: bool = False
    place_in_stack: float = inf
    section: str = ""
    applied: Applied | None = None
    named: bool = False
    records: str | None = None

    def update(self, **facts: Any) -> None:
        """Set several facts."""
        for name, fact in facts.items():
            setattr(self, name, fact)


ORIGIN = ("path", "label", "kind", "line")
"""The facts that say where in the user's model a node comes from."""

INHERITED = (*ORIGIN, "roles", "signal", "depth", "rule")
"""The facts that the nodes of a lowered graph have from the node they are written for."""


def facts_of(node: fx.Node) -> Facts:
    """Return the facts of a node; without any yet, it gets empty ones."""
    facts: Facts | None = node.meta.get("facts")
    if facts is None:
        facts = node.meta["facts"] = Facts()
    return facts


def origin_of(node: fx.Node) -> dict[str, Any]:
    """Return the facts that say where a node comes from, for those written in its place."""
    return {name: getattr(facts_of(node), name) for name in ORIGIN}


def inherited_facts(node: fx.Node) -> dict[str, Any]:
    """Return the facts that the nodes of a lowered graph have from the node they are for."""
    return {name: getattr(facts_of(node), name) for name in INHERITED}


def copy_facts(source: fx.Node, destination: fx.Node) -> None:
    """Give a node a copy of the facts of another."""
    destination.meta["facts"] = replace(facts_of(source))


def shape_of(node: fx.Node) -> Shape:
    """Return the shape of a node's value, -1 standing for the batch."""
    size = tuple(facts_of(node).value.shape)
    return (-1, *size[1:]) if facts_of(node).batched else size


def where(node: fx.Node) -> str:
    """Name a node by its label and the user's source line, for messages."""
    named = repr(facts_of(node).label or node.name)
    line = facts_of(node).line
    return f"{named} ({line})" if line else named


def has_shape(node: fx.Node) -> bool:
    """Whether a node stands for one tensor (and not for several results)."""
    return isinstance(facts_of(node).value, torch.Tensor)


def range_of(operand: fx.Node | float) -> Interval:
    """Return the range of an operand: a node or a number."""
    if isinstance(operand, fx.Node):
        return facts_of(operand).range
    return Interval.of(operand)


def sign_of(operand: fx.Node | float) -> Sign:
    """Return the signs of an operand: a node or a number."""
    return range_of(operand).sign


def layout_of(node: fx.Node) -> Layout | None:
    """Return the layout of a node's value; None where it does not depend on the input."""
    return facts_of(node).layout
