"""Rewrite rules and what applies them.

A :class:`RewriteTable` is a list of named rules. Each looks for certain operators, and gives the
replacement of a node (a value, a node or a number), or None where it does not apply. Tables are
applied until none of their rules fires, with equal subexpressions merged and dead code dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import fx

from graphprop.ir.facts import facts_of, origin_of
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation
from graphprop.ir.writer import Value, Writer, infer

Replacement: TypeAlias = "Value | fx.Node | float | None"
RewriteFunction = Callable[[fx.Node, Writer], Replacement]


@dataclass(frozen=True)
class Rewrite:
    """One rule: what it is called, which operators it looks at, and what it puts there."""

    name: str
    operators: tuple[type[Operation], ...]
    function: RewriteFunction


@dataclass
class RewriteTable:
    """Named rewrite rules, applied together."""

    rules: list[Rewrite] = field(default_factory=list)

    def __add__(self, other: RewriteTable) -> RewriteTable:
        return RewriteTable(self.rules + other.rules)

    def rule(self, name: str, *operators: type[Operation]) -> Callable[[RewriteFunction], Any]:
        """Add the decorated function to the table."""

        def register(function: RewriteFunction) -> RewriteFunction:
            self.rules.append(Rewrite(name, operators, function))
            return function

        return register

    def apply(self, network: Network) -> Counter[str]:
        """Rewrite a network in place until no rule fires; say how often each did."""
        fired: Counter[str] = Counter()
        by_operator: dict[type[Operation], list[Rewrite]] = {}
        for entry in self.rules:
            for kind in entry.operators:
                by_operator.setdefault(kind, []).append(entry)
        writer = Writer(network)
        before = -1
        while sum(fired.values()) != before:
            before = sum(fired.values())
            fired["equal subexpressions"] += merge_equal(network)
            eliminate(network)
            for node in network.graph.nodes:
                if node.op == "call_function":
                    for entry in by_operator.get(type(node.target), ()):
                        if apply_one(entry, node, writer):
                            fired[entry.name] += 1
                            break
        return +fired


def apply_one(entry: Rewrite, node: fx.Node, writer: Writer) -> bool:
    """Try one rule on one node; say whether it fired."""
    context = {**origin_of(node), "section": facts_of(node).section}
    with writer.graph.inserting_before(node), writer.at(prefix=node.name, **context):
        found = entry.function(node, writer)
    if found is None:
        return False
    found = found.node if isinstance(found, Value) else found
    if found is node:
        return False
    put(node, found, writer)
    return True


def put(node: fx.Node, found: fx.Node | float, writer: Writer) -> None:
    """Let all users of a node use what was found in its place."""
    users = list(node.users)
    if isinstance(found, fx.Node):
        if found.op == "call_function":
            hand_on_record(node, found)
            new = not found.users
            if new or (facts_of(node).named and not facts_of(found).named):
                writer.take_name(found, node)
        node.replace_all_uses_with(found)
    else:
        for user in users:
            user.args = fx.map_arg(user.args, lambda a: found if a is node else a)
    for user in users:
        if user.op == "call_function":
            infer(user)


def hand_on_record(node: fx.Node, replacement: fx.Node) -> None:
    """Let a replacement stand for the layer's result that a node stood for."""
    if facts_of(replacement).records is None:
        facts_of(replacement).records = facts_of(node).records


def merge_equal(network: Network) -> int:
    """Let equal subexpressions be computed once."""
    seen: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(network.graph.nodes):
        if node.op != "call_function":
            continue
        first = seen.setdefault((node.target, node.args), node)
        if first is not node:
            hand_on_record(node, first)
            node.replace_all_uses_with(first)
            network.graph.erase_node(node)
            merged += 1
    return merged


def eliminate(network: Network) -> None:
    """Drop what nothing uses, tensors included."""
    for node in reversed(list(network.graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            network.graph.erase_node(node)
    used = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    network.tensors = {name: t for name, t in network.tensors.items() if name in used}
