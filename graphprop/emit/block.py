"""Statements from nodes: one for each, short expressions nested in others."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx

from graphprop.ir.facts import facts_of
from graphprop.ir.writer import Argument
from graphprop.ops import Item

WIDEST_INLINE = 72
"""How long a nested expression may be, in letters: with what it is nested in, it mostly fits on a
line."""

Constants = Mapping[tuple[fx.Node, object], Any]
"""What is printed in place of a node's constant: an attribute by its name, or an operand that is a
number by its index."""


@dataclass(frozen=True)
class Statement:
    """One statement: variables that get the value of an expression.

    Attributes
    ----------
    targets
        The variables; ``_`` for a result that nothing reads.
    results
        The nodes that the variables hold.
    text
        The expression.
    reads
        The nodes whose variables it reads.
    nodes
        The nodes that it computes: those nested in it, too.
    """

    targets: tuple[str, ...]
    results: tuple[fx.Node, ...]
    text: str
    reads: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]

    @property
    def line(self) -> str:
        """The statement."""
        return f"{', '.join(self.targets)} = {self.text}"


class Block:
    """The statements of some nodes.

    Parameters
    ----------
    nodes
        In the order of computation.
    names
        What each node's variable is called, and each operand's.
    kept
        The nodes that must have a variable.
    constants
        Which constants print as names.
    nested
        Whether a node may be nested in the statement of another.
    """

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        names: Mapping[fx.Node, str],
        kept: Collection[fx.Node],
        constants: Constants | None = None,
        nested: Callable[[fx.Node, fx.Node], bool] = lambda node, user: True,
    ) -> None:
        self.nodes, self.names, self.constants = nodes, names, constants or {}
        self.inlined: dict[fx.Node, str] = {}
        self.compound: set[fx.Node] = set()
        self._targets = {node: self._with_names(node) for node in nodes}
        self._choose_inlined(set(nodes), kept, nested)

    def _with_names(self, node: fx.Node) -> Any:
        """A node's operator with names in place of attributes."""
        given = {
            key: value
            for (other, key), value in self.constants.items()
            if other is node and isinstance(key, str)
        }
        if not given:
            return node.target
        target = object.__new__(type(node.target))
        target.__dict__.update(vars(node.target) | given)
        return target

    def _choose_inlined(
        self,
        members: set[fx.Node],
        kept: Collection[fx.Node],
        nested: Callable[[fx.Node, fx.Node], bool],
    ) -> None:
        """Nest an expression in the one statement that uses it, where it stays short."""
        for node in self.nodes:
            users = list(node.users)
            if not node.target.inline or node in kept or len(users) != 1:
                continue
            if users[0] not in members or not nested(node, users[0]):
                continue
            text = self.expression(node)
            if len(text) <= WIDEST_INLINE:
                self.inlined[node] = text
                if node.target.infix:
                    self.compound.add(node)

    def expression(self, node: fx.Node) -> str:
        """The source of one node, inlined operands nested in it."""
        marks = [f"\0{index}\0" for index in range(len(node.args))]
        text: str = self._targets[node].source(*marks)
        for index, (mark, operand) in enumerate(zip(marks, node.args, strict=True)):
            shown = self.constants.get((node, index), operand)
            text = re.sub(mark, partial(self._operand, shown), text)
        return text

    def _operand(self, operand: Argument, found: re.Match[str]) -> str:
        if not isinstance(operand, fx.Node):
            text = repr(operand)
            return f"({text})" if text.startswith("-") else text
        if operand not in self.inlined:
            return self.names[operand]
        text = self.inlined[operand]
        before, after = found.string[: found.start()], found.string[found.end() :]
        alone = before.endswith(("(", ", ", "[")) and after.startswith((")", ",", "]"))
        return text if alone or operand not in self.compound else f"({text})"

    def results_of(self, node: fx.Node) -> tuple[tuple[str, ...], tuple[fx.Node, ...]]:
        """The variables that a node's statement assigns, and what they hold."""
        if not isinstance(facts_of(node).value, tuple):
            return (self.names[node],), (node,)
        items = {user.target.index: user for user in node.users}
        names = tuple(
            self.names[items[index]] if index in items else "_"
            for index in range(len(facts_of(node).value))
        )
        return names, tuple(items.values())

    def statements(self) -> list[Statement]:
        """The statements, in order."""
        found = []
        for node in self.nodes:
            if node in self.inlined or isinstance(node.target, Item):
                continue
            inner = tuple(self._nested_in(node))
            reads = dict.fromkeys(
                operand
                for part in (*inner, node)
                for operand in part.all_input_nodes
                if operand not in self.inlined and facts_of(operand).batched
            )
            targets, results = self.results_of(node)
            found.append(
                Statement(targets, results, self.expression(node), tuple(reads), (*inner, node))
            )
        return found

    def _nested_in(self, node: fx.Node) -> Iterator[fx.Node]:
        for operand in node.all_input_nodes:
            if operand in self.inlined:
                yield from self._nested_in(operand)
                yield operand
