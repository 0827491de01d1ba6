"""Rewrite rules and what applies them.

A :class:`RewriteTable` is a list of named rules. Each looks for certain operators, and gives the
replacement of a node (a value, a node or a number), or None where it does not apply. Tables are
applied until none of their rules fires, with equal subexpressions merged and dead code dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import fx

from graphprop.ir.facts import facts_of, origin_of, range_of, shape_of
from graphprop.ir.interval import ZERO
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation
from graphprop.ir.writer import Argument, Value, Writer, infer


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply to a node that it might be expected to apply to.

    Returned in place of None where the reason is worth reading in a dump.
    """

    reason: str


Replacement: TypeAlias = "Value | fx.Node | float | Refusal | None"
RewriteFunction: TypeAlias = Callable[[fx.Node, Writer], Replacement]


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

    def rule(
        self, name: str, *operators: type[Operation]
    ) -> Callable[[RewriteFunction], RewriteFunction]:
        """Add the decorated function to the table.

        Parameters
        ----------
        name
            What the rule is called in dumps.
        operators
            The operators whose nodes the function is called with: those classes themselves, not
            classes derived from them. Of several rules, the first that applies is taken.
        """

        def register(function: RewriteFunction) -> RewriteFunction:
            self.rules.append(Rewrite(name, operators, function))
            return function

        return register

    def remove(self, function: RewriteFunction) -> None:
        """Remove the rules of a function from the table."""
        self.rules[:] = [entry for entry in self.rules if entry.function is not function]

    def apply(self, network: Network) -> None:
        """Rewrite a network in place until no rule fires; its log says what was done."""
        by_operator: dict[type[Operation], list[Rewrite]] = {}
        for entry in self.rules:
            for kind in entry.operators:
                by_operator.setdefault(kind, []).append(entry)
        writer = Writer(network)
        changed = True
        while changed:
            # what the last sweep refuses is what stays
            refused: list[str] = []
            changed = merge_equal(network)
            eliminate(network)
            for node in network.graph.nodes:
                if node.op != "call_function":
                    continue
                for entry in by_operator.get(type(node.target), ()):
                    before = node.name
                    found = apply_one(entry, node, writer)
                    if isinstance(found, Refusal):
                        refused.append(f"{entry.name}: {described(node)}: {found.reason}")
                    elif found is not None:
                        # its name may be that of what took its place
                        change = f"{described(node, before)} -> {described(found)}"
                        network.log.fired.append(f"{entry.name}: {change}")
                        changed = True
                        break
        network.log.refused += refused


def apply_one(entry: Rewrite, node: fx.Node, writer: Writer) -> Argument | Refusal | None:
    """Try one rule on one node; return what took its place, a refusal, or None."""
    facts = facts_of(node)
    context = {**origin_of(node), "section": facts.section, "applied": facts.applied}
    with writer.graph.inserting_before(node), writer.at(prefix=node.name, **context):
        found = entry.function(node, writer)
    if found is None or isinstance(found, Refusal):
        return found
    found = found.node if isinstance(found, Value) else found
    if found is node:
        return None
    put(node, found, writer)
    return found


def put(node: fx.Node, found: Argument, writer: Writer) -> None:
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


def merge_equal(network: Network) -> bool:
    """Let equal subexpressions be computed once; say whether there were any.

    What rules compute entry by entry at different layers stays apart: it costs little, and a layer
    that reads another's values could not be printed as a function of its own.
    """
    seen: dict[tuple[Operation, tuple[Argument, ...]], list[fx.Node]] = {}
    merged = False
    for node in network.layers:
        known = seen.setdefault((node.target, node.args), [])
        first = next((other for other in known if may_be_one(other, node)), node)
        if first is node:
            known.append(node)
        else:
            network.log.fired.append(
                f"equal subexpressions: {described(node)} -> {described(first)}"
            )
            hand_on_record(node, first)
            node.replace_all_uses_with(first)
            network.graph.erase_node(node)
            merged = True
    return merged


def may_be_one(first: fx.Node, second: fx.Node) -> bool:
    """Whether two nodes that compute the same are to be computed once."""
    owners = facts_of(first).applied, facts_of(second).applied
    if owners[0] is None or owners[1] is None or owners[0].label == owners[1].label:
        return True
    return first.target.weighted or not facts_of(first).batched


def eliminate(network: Network) -> None:
    """Drop what nothing uses, tensors included."""
    for node in reversed(list(network.graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            network.graph.erase_node(node)
    used = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    network.tensors = {name: t for name, t in network.tensors.items() if name in used}


# What rules ask of operands


def is_call(operand: Argument, *kinds: type[Operation]) -> bool:
    """Whether an operand is the result of an operator of one of these classes."""
    return (
        isinstance(operand, fx.Node)
        and operand.op == "call_function"
        and isinstance(operand.target, kinds)
    )


def is_number(operand: Argument, number: float) -> bool:
    """Whether an operand is a given number."""
    return isinstance(operand, float | int) and operand == number


def is_zero(operand: Argument) -> bool:
    """Whether an operand is zero everywhere."""
    return range_of(operand) == ZERO


def same_shape(operand: Argument, node: fx.Node) -> bool:
    """Whether an operand alone already has a node's shape."""
    return isinstance(operand, fx.Node) and shape_of(operand) == shape_of(node)


def described(operand: Argument, name: str | None = None) -> str:
    """Name an operand for the log: ``r_conv (conv_transpose)``."""
    if not isinstance(operand, fx.Node):
        return f"{operand:g}"
    kind = operand.target.__name__ if operand.op == "call_function" else operand.op
    return f"{name or operand.name} ({kind})"
