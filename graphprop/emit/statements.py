"""The statements of ``forward``: one for each node, or a call for what many layers compute alike.

What depends on the input becomes a variable of ``forward``, which is deleted right behind its last
use; what does not becomes an attribute of the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import fx

from graphprop.emit.block import Block, Statement
from graphprop.emit.headings import headings_of
from graphprop.emit.layout import deleting, filled
from graphprop.emit.lifetimes import deleted_after
from graphprop.emit.outline import Call, Function, elements, outlined
from graphprop.emit.sections import Part, parts_of
from graphprop.emit.text import comment, heading_of
from graphprop.ir.facts import facts_of
from graphprop.ir.names import RESERVED
from graphprop.ir.network import Network
from graphprop.ir.operation import reserved_names
from graphprop.ops import Item

WORTH_DELETING = 1 / 30
"""How much of all values together, at least, is deleted by a statement of its own."""


class Statements:
    """The statements of ``forward``, from the nodes of a legal network.

    Attributes
    ----------
    names
        The variable of each node; weights are attributes of the module.
    parts
        The nodes that depend on the input, in the order in which they are printed.
    calls, functions
        The parts that are calls, and the functions that they call.
    """

    def __init__(self, network: Network, record: Mapping[str, fx.Node]) -> None:
        self.network = network
        self.record = record
        self.logits, _, self.relevances = network.output.args[0]
        self.maps = network.maps
        self.names = self._names()
        returned = {self.logits, *self.maps, *record.values()}
        self.kept = returned | set(self.relevances.values())
        self.returned = returned
        self.parts = parts_of([n for n in network.layers if facts_of(n).batched])
        taken = {node.name for node in network.graph.nodes} | RESERVED | reserved_names()
        self.calls: dict[Part, Call]
        self.functions: list[Function]
        self.calls, self.functions = outlined(self.parts, returned, self.relevances, taken)

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

    @cached_property
    def printed(self) -> list[tuple[Part, Statement]]:
        """The statements, with the parts they belong to."""
        order = [node for part in self.parts if part not in self.calls for node in part.nodes]
        place = {node: part for part in self.parts for node in part.nodes}

        def nested(node: fx.Node, user: fx.Node) -> bool:
            alone = place[node].applied is None and place[user].applied is None
            return place[node] is place[user] or (alone and heading_of(node) == heading_of(user))

        block = Block(order, self.names, self.kept, nested=nested)
        own = {statement.nodes[-1]: statement for statement in block.statements()}
        found = []
        for part in self.parts:
            if part in self.calls:
                found.append((part, self.calls[part].statement(self.names)))
            else:
                found += [(part, own[node]) for node in part.nodes if node in own]
        return found

    def body(self) -> list[str]:
        """The statements of ``forward``, with headings, and what is no longer needed deleted."""
        statements = [statement for _, statement in self.printed]
        sizes = [float(elements(n)) for s in statements for n in s.results]
        dead = deleted_after(statements, self.returned, elements, WORTH_DELETING * sum(sizes))
        lines: list[str] = []
        before = None
        headings = headings_of([(part, s, part in self.calls) for part, s in self.printed])
        for statement, heading, gone in zip(statements, headings, dead, strict=True):
            if heading is not before:
                listed = before is not None and heading.listed and before.listed
                if not (listed and before is not None and heading.block == before.block):
                    lines.append("")
                lines.append(f"# {comment(heading.text)}")
                before = heading
            lines += filled(statement.line)
            if gone:
                lines += deleting(self.names[node] for node in gone)
        return lines

    def variables(self) -> tuple[str, ...]:
        """The local variables that ``forward`` assigns, each once, in order."""
        if self.network.samples is not None:
            return ("logits", "_", *["recorded"] * bool(self.record), "relevance")
        assigned = (name for _, statement in self.printed for name in statement.targets)
        return tuple(dict.fromkeys([*(node.name for node in self.reordered), *assigned]))

    def places(self) -> dict[fx.Node, str]:
        """Where each node's value is found: a variable of ``forward``, or of a function it calls.

        The latter as ``result.variable``, by the first result of the call.
        """
        found: dict[fx.Node, str] = {}
        for part, statement in self.printed:
            if part in self.calls:
                inner = self.calls[part].inner_names()
                found |= {node: f"{statement.targets[0]}.{name}" for node, name in inner.items()}
            found |= {node: self.names[node] for node in statement.results}
        return found

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
