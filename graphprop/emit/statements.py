"""The statements of generated source: one for each node, short expressions nested in others.

What depends on the input becomes a variable of ``forward``, which is deleted after its last use;
what does not becomes an attribute of the module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import fx

from graphprop.emit.text import comment, heading_of
from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.ir.writer import Argument
from graphprop.ops import Item

WIDEST_INLINE = 72
"""How long a nested expression may be, in letters: with what it is nested in, it stays on the 88
letters of a line that the formatter allows."""


class Statements:
    """The statements of ``forward``, from the nodes of a legal network.

    Attributes
    ----------
    names
        The variable of each node; weights are attributes of the module.
    """

    def __init__(self, network: Network, record: Mapping[str, fx.Node]) -> None:
        self.network = network
        self.record = record
        self.logits, _, self.relevances = network.output.args[0]
        self.maps = network.maps
        self.kept = {self.logits, *self.maps, *self.relevances.values()}
        self.names = self._names()
        self.inlined: dict[fx.Node, str] = {}
        self.compound: set[fx.Node] = set()

    def _names(self) -> dict[fx.Node, str]:
        """The variable of each node; weights are attributes of the module."""
        names: dict[fx.Node, str] = {}
        taken = {node.name for node in self.network.graph.nodes}
        for node in self.network.graph.nodes:
            if node.op == "output":
                continue
            if node.op == "placeholder":
                names[node] = node.name
            elif not facts_of(node).batched:
                name = node.name
                while hasattr(torch.nn.Module, name) or name in ("training", "recorded"):
                    name += "_"
                names[node] = name if self.is_temporary(node) else f"self.{name}"
            elif isinstance(node.target, Item) and node.target.index > 0:
                names[node] = f"{self._first_item(node.args[0])}_indices"
            else:
                names[node] = node.name
        for number, node in enumerate(self.maps, 1):
            name = "relevance" if number == 1 else f"relevance_{number}"
            if node.op == "call_function" and name not in taken:
                names[node] = name
        return names

    def _first_item(self, pair: fx.Node) -> str:
        first = [user for user in pair.users if user.target == Item(0)]
        return first[0].name if first else pair.name

    def body(self) -> list[str]:
        """The statements of ``forward``, with headings, and what is no longer needed deleted."""
        nodes = [n for n in self.network.layers if facts_of(n).batched]
        last_use = self._last_uses(nodes)
        lines: list[str] = []
        heading = None
        pending: list[str] = []
        for node in nodes:
            section, statement = heading_of(node), self._statement(node)
            if statement and section is not None and section != heading:
                lines += self._deleted(pending)
                pending = []
                lines += ["", f"# {comment(section)}"]
                heading = section
            lines += statement
            pending += [self.names[dead] for dead in last_use.get(node, ())]
        return lines

    def _deleted(self, names: list[str]) -> list[str]:
        return [f"del {', '.join(names)}"] if names else []

    def _last_uses(self, nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
        """For each node, the variables that nothing behind it needs."""
        self._choose_inlined(nodes)
        seen: set[fx.Node] = set()
        result: dict[fx.Node, list[fx.Node]] = {}
        returned = {self.logits, *self.maps, *self.record.values()}
        for node in reversed(nodes):
            for operand in self._variables(node):
                if operand not in seen:
                    seen.add(operand)
                    if operand.op == "call_function" and operand not in returned:
                        result.setdefault(node, []).append(operand)
        for node in result:
            result[node].sort(key=nodes.index)
        return result

    def _variables(self, node: fx.Node) -> Iterator[fx.Node]:
        """The variables that a node's statement reads, those of inlined operands included."""
        if node in self.inlined:
            return
        for operand in node.all_input_nodes:
            if operand in self.inlined:
                yield from self._inner_variables(operand)
            elif facts_of(operand).batched and not isinstance(facts_of(operand).value, tuple):
                yield operand

    def _inner_variables(self, node: fx.Node) -> Iterator[fx.Node]:
        for operand in node.all_input_nodes:
            if operand in self.inlined:
                yield from self._inner_variables(operand)
            elif facts_of(operand).batched:
                yield operand

    def _choose_inlined(self, nodes: list[fx.Node]) -> None:
        """Nest an expression in the one statement that uses it, where it stays short."""
        for node in nodes:
            users = list(node.users)
            if not node.target.inline or node in self.kept or len(users) != 1:
                continue
            user = users[0]
            if user.op == "output" or heading_of(user) not in (heading_of(node), None):
                continue
            text = self.expression(node)
            if len(text) <= WIDEST_INLINE:
                self.inlined[node] = text
                if node.target.infix:
                    self.compound.add(node)

    def expression(self, node: fx.Node) -> str:
        """The source of one node, inlined operands nested in it."""
        marks = [f"\0{index}\0" for index in range(len(node.args))]
        text = node.target.source(*marks)
        for mark, operand in zip(marks, node.args, strict=True):
            text = re.sub(mark, partial(self._operand, operand), text)
        return text

    def _operand(self, operand: Argument, found: re.Match[str]) -> str:
        if not isinstance(operand, fx.Node):
            return f"({operand!r})" if operand < 0 else repr(operand)
        if operand not in self.inlined:
            return self.names[operand]
        text = self.inlined[operand]
        before, after = found.string[: found.start()], found.string[found.end() :]
        alone = before.endswith(("(", ", ", "[")) and after.startswith((")", ",", "]"))
        return text if alone or operand not in self.compound else f"({text})"

    def _targets(self, node: fx.Node) -> list[str]:
        """The variables that a node's statement assigns; none if it has no statement."""
        if node in self.inlined or isinstance(node.target, Item):
            return []
        if isinstance(facts_of(node).value, tuple):
            items = {user.target.index: self.names[user] for user in node.users}
            return [items.get(i, "_") for i in range(len(facts_of(node).value))]
        return [self.names[node]]

    def _statement(self, node: fx.Node) -> list[str]:
        targets = self._targets(node)
        return [f"{', '.join(targets)} = {self.expression(node)}"] if targets else []

    def variables(self) -> tuple[str, ...]:
        """The local variables that ``forward`` assigns, each once, in order; after `body`."""
        if self.network.samples is not None:
            return ("logits", "_", *["recorded"] * bool(self.record), "relevance")
        nodes = (n for n in self.network.layers if facts_of(n).batched)
        assigned = (name for node in nodes for name in self._targets(node))
        return tuple(dict.fromkeys([*(node.name for node in self.reordered), *assigned]))

    @property
    def images(self) -> list[fx.Node]:
        """The model's inputs."""
        return [node for node in self.network.inputs if node.name != "target"]

    @property
    def reordered(self) -> list[fx.Node]:
        """The inputs that ``forward`` reorders in memory, their channels last."""
        images = (node for node in self.images if len(facts_of(node).value.shape) == 4)
        return list(images) if self.is_planar() else []

    def is_planar(self) -> bool:
        """Whether the network has two-dimensional convolutions.

        On a CPU they run up to a third faster with the channels last in memory, where nothing
        needs reordering between them.
        """
        return any(node.target.channels_last_in_memory for node in self.network.layers)

    def is_temporary(self, node: fx.Node) -> bool:
        """Whether a constant only serves to make others."""
        return node.op == "call_function" and not any(facts_of(u).batched for u in node.users)
