"""Sections of a legal network: what one rule computes at one layer, in one piece.

A rule writes its nodes one after the other, but rewrites move them, and the table of equal
subexpressions lets layers share some. `parts_of` puts them in an order in which each section stands
together again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from graphprop.ir.facts import Applied, facts_of
from graphprop.ops import Item


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes that are printed together.

    Attributes
    ----------
    nodes
        In the order of computation.
    applied
        Which rule at which layer they compute; None for a node that stands alone.
    """

    nodes: tuple[fx.Node, ...]
    applied: Applied | None = None


def parts_of(nodes: Sequence[fx.Node]) -> list[Part]:
    """Arrange the nodes that depend on the input, so that sections stand together.

    A section that something outside of it both reads and is read by can't stand together: its nodes
    stay single.
    """
    place = {node: index for index, node in enumerate(nodes)}
    single: set[tuple[str, str]] = set()
    while True:
        groups = grouped(nodes, single)
        order = ordered(groups, place)
        if len(order) == len(groups):
            return [part_of(group, single) for group in order]
        stuck = [group for group in groups if group not in order and len(group) > 1]
        single.add(section_of(stuck[0][0]))


def section_of(node: fx.Node) -> tuple[str, str]:
    """The layer and the flow that a node's rule was applied in."""
    applied = facts_of(node).applied
    assert applied is not None
    return applied.label, applied.flow


def part_of(group: tuple[fx.Node, ...], single: set[tuple[str, str]]) -> Part:
    """A group with the rule that it computes."""
    applied = facts_of(group[0]).applied
    if applied is None or section_of(group[0]) in single:
        return Part(group)
    return Part(group, applied)


def grouped(nodes: Sequence[fx.Node], single: set[tuple[str, str]]) -> list[tuple[fx.Node, ...]]:
    """The nodes of each section, and every other node alone, with what unpacks its results."""
    groups: dict[object, list[fx.Node]] = {}
    keys: dict[fx.Node, object] = {}
    for node in nodes:
        if isinstance(node.target, Item):
            key = keys[node.args[0]]
        elif facts_of(node).applied is None or section_of(node) in single:
            key = node
        else:
            key = section_of(node)
        keys[node] = key
        groups.setdefault(key, []).append(node)
    return [tuple(group) for group in groups.values()]


def ordered(
    groups: Sequence[tuple[fx.Node, ...]], place: dict[fx.Node, int]
) -> list[tuple[fx.Node, ...]]:
    """The groups, each behind those that it reads; without those that read each other."""
    group_of = {node: index for index, group in enumerate(groups) for node in group}
    readers: list[set[int]] = [set() for _ in groups]
    missing = [0] * len(groups)
    for index, group in enumerate(groups):
        sources = {
            group_of[operand]
            for node in group
            for operand in node.all_input_nodes
            if operand in group_of
        }
        for source in sources - {index}:
            readers[source].add(index)
            missing[index] += 1
    last = [max(place[node] for node in group) for group in groups]
    ready = [(last[index], index) for index, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(groups[index])
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (last[reader], reader))
    return order
