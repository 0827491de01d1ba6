"""Blocks: parts of a network between which one value passes, each laid out on a grid.

The rows of a block are its ranks: a box lies below all that it reads. Its slots are columns: slot 0
holds the main path (the most weighted layers on a way that relevance takes), and each other branch
has a slot of its own while it lasts, down to the row above the box that joins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from graphprop.drawing.graph import Shape
from graphprop.drawing.units import Unit


@dataclass
class Block:
    """Boxes in their places.

    Attributes
    ----------
    units
        In the order of computation.
    entry
        The box before the block whose value all of it comes from, None for the first block.
    exit
        The box whose value goes on.
    reach
        Unit -> the last rank that its value can pass straight down, below itself: no box lies
        in its slot until there.
    taken
        The ranks from and to which each slot is in use.
    ranks
        How many rows there are.
    """

    units: list[Unit]
    entry: Unit | None
    exit: Unit
    reach: dict[Unit, int] = field(default_factory=dict)
    taken: list[list[tuple[int, int]]] = field(default_factory=list)
    ranks: int = 1

    @property
    def slots(self) -> int:
        """How many columns there are."""
        return len(self.taken)

    def is_free(self, slot: int, rank: int) -> bool:
        """Whether nothing lies or passes in a cell of the grid."""
        return not any(first <= rank <= end for first, end in self.taken[slot])

    @property
    def places(self) -> Shape:
        """The lengths of the map that it makes."""
        return self.exit.layers[-1].places if self.exit.layers else ()

    def rank_of(self, unit: Unit) -> int:
        """The row of a box; the entry lies above all."""
        return -1 if unit is self.entry else unit.rank

    def slot_of(self, unit: Unit) -> int:
        """The column of a box; the entry comes down on the main path."""
        return 0 if unit is self.entry else unit.slot


def blocks_of(units: Sequence[Unit]) -> list[Block]:
    """Cut a network wherever the value of a single box passes, and lay out each part."""
    place = {unit: index for index, unit in enumerate(units)}
    last = [max((place[c] for c in unit.consumers), default=index)
            for index, unit in enumerate(units)]  # fmt: skip
    blocks: list[Block] = []
    begin, entry = 0, None
    open_values: set[int] = set()
    for index in range(len(units)):
        open_values.add(index)
        open_values = {value for value in open_values if last[value] > index}
        ends = index == len(units) - 1
        leaving = units[index if ends else min(open_values, default=index)]
        if not ends:
            if len(open_values) != 1 or place[leaving] < begin:
                continue
            # all else ends in the block, and joins what leaves it: that lies below all
            others = (unit for unit in units[begin : index + 1] if unit is not leaving)
            if any(place[unit] <= index for unit in leaving.consumers) or not all(
                unit.consumers for unit in others
            ):
                continue
        blocks.append(Block(list(units[begin : index + 1]), entry, leaving))
        arrange(blocks[-1])
        begin, entry = index + 1, leaving
    return blocks


def arrange(block: Block) -> None:
    """Give the boxes of a block their ranks and slots."""
    inside = set(block.units)
    for unit in block.units:
        before = [source.rank for source, _ in unit.sources if source in inside]
        unit.rank = max(before, default=-1) + 1
    block.ranks = max(unit.rank for unit in block.units) + 1
    main = main_path(block, inside)
    chains = [main, *branches(block, inside, set(main))]
    taken = block.taken
    for chain in chains:
        first, end = chain[0].rank, end_of(block, chain, inside)
        for upper, lower in pairwise(chain):
            block.reach[upper] = lower.rank - 1
        block.reach[chain[-1]] = end
        if chain is main:
            slot = 0
            # nothing comes down beside the main path, from the block's begin to its end
            taken.append([(-1, block.ranks)])
        else:
            free = (
                number
                for number, used in enumerate(taken)
                if all(end < begin or stop < first for begin, stop in used)
            )
            slot = next(free, len(taken))
            if slot == len(taken):
                taken.append([])
            taken[slot].append((first, end))
        for unit in chain:
            unit.slot = slot
    if block.entry is not None:
        block.reach[block.entry] = main[0].rank - 1


def main_path(block: Block, inside: set[Unit]) -> list[Unit]:
    """The way through a block with most weighted layers, one that relevance takes if there is."""
    # ways on which relevance is not carried come last; of the others the one with most layers
    best: dict[Unit, tuple[int, int, int]] = {}
    before: dict[Unit, Unit | None] = {}
    for unit in block.units:
        found, before[unit] = (0, 0, 0), None
        for source, carries in unit.sources:
            if source in inside or source is block.entry:
                gates, weight, length = best.get(source, (0, 0, 0))
                way = (gates - (not carries), weight, length)
                if before[unit] is None or way > found:
                    found, before[unit] = way, source
        gates, weight, length = found
        best[unit] = (gates, weight + unit.weight, length + 1)
    path: list[Unit] = []
    step: Unit | None = block.exit
    while step is not None and step is not block.entry:
        path.append(step)
        step = before[step]
    return path[::-1]


def branches(block: Block, inside: set[Unit], assigned: set[Unit]) -> list[list[Unit]]:
    """The other boxes as chains, each as long as it goes."""
    found = []
    for unit in block.units:
        if unit in assigned:
            continue
        chain = [unit]
        assigned.add(unit)
        while True:
            behind = [c for c in chain[-1].consumers if c in inside and c not in assigned]
            if not behind:
                break
            chain.append(max(behind, key=lambda c: (c.weight, -c.rank)))
            assigned.add(chain[-1])
        found.append(chain)
    return found


def end_of(block: Block, chain: list[Unit], inside: set[Unit]) -> int:
    """The last rank that a branch keeps its slot to: the one above the box that joins it."""
    joins = [unit.rank for unit in chain[-1].consumers if unit in inside]
    return min(joins, default=chain[-1].rank + 1) - 1
