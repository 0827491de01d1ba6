"""Which variables nothing needs any more, after each statement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import fx

from graphprop.emit.block import Statement

NOT_WORTH = 1 / 20
"""Which part of what is worth a statement a value is at least that is deleted at all."""


def deleted_after(
    statements: Sequence[Statement],
    kept: Collection[fx.Node],
    size: Callable[[fx.Node], float],
    least: float,
) -> list[list[fx.Node]]:
    """The variables to delete after each statement, in the order in which they were assigned.

    Parameters
    ----------
    kept
        The nodes whose variables stay.
    size
        How much memory a node's value takes.
    least
        How much must have come together to be deleted: what is smaller waits for more, and is not
        deleted where no more comes. What is smaller by `NOT_WORTH` by itself is not deleted.
    """
    last: dict[fx.Node, int] = {}
    for index, statement in enumerate(statements):
        for node in (*statement.reads, *statement.results):
            last[node] = index
    place = {node: index for index, s in enumerate(statements) for node in s.results}
    found: list[list[fx.Node]] = [[] for _ in statements]
    pending: list[fx.Node] = []
    for index, statement in enumerate(statements):
        pending += [
            node
            for node in dict.fromkeys((*statement.reads, *statement.results))
            if last[node] == index
            and node in place
            and node not in kept
            and size(node) >= least * NOT_WORTH
        ]
        if index < len(statements) - 1 and sum(map(size, pending)) >= least:
            found[index] = sorted(pending, key=place.__getitem__)
            pending = []
    return found
