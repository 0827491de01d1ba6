"""Routes: how edges are led between and beside the boxes of a block.

An edge leaves a box at the middle of its lower side and enters one from above. Between two rows is
a channel, where it runs sideways on a track; past rows that it skips it goes down in a lane beside
the main path, or in its own slot as long as no box lies there. So no edge passes a box, and two
edges share a line only where they are of one value, or meet at one box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from graphprop.drawing.blocks import Block
from graphprop.drawing.units import BOX_WIDTH, Unit

LANE, TRACK, PORT = 8, 8, 26
SLOT_GAP, GUTTER, CHANNEL_TOP, CHANNEL_BOTTOM = 18, 12, 8, 14

Point = tuple[int, int]
Key = tuple[str, int, bool]
"""What runs on a track: a value, or what meets above a box (with and without relevance)."""


@dataclass
class Route:
    """An edge of a block.

    Attributes
    ----------
    source, target, carries
        Two boxes, and whether relevance flows between them.
    straight
        Whether it goes straight down.
    lane
        Whether it goes past rows in a lane.
    key
        What it shares its track above the target with.
    port
        Where it enters the target, from the left of the block.
    points
        Its corners.
    """

    source: Unit
    target: Unit
    carries: bool
    straight: bool = False
    lane: bool = False
    key: Key = ("", 0, True)
    port: int = 0
    points: list[Point] = field(default_factory=list)


@dataclass
class Routed:
    """A block with its edges, in coordinates from its upper left corner.

    Attributes
    ----------
    block, routes
        The block and its edges; those from its entry begin at its upper side.
    tops
        The upper side of each row.
    lefts
        The left side of each slot.
    width, height
        Of the whole.
    """

    block: Block
    routes: list[Route]
    tops: list[int]
    lefts: list[int]
    width: int
    height: int


def route(block: Block) -> Routed:
    """Lead the edges of a block."""
    routes = [
        Route(source, unit, carries) for unit in block.units for source, carries in unit.sources
    ]
    for one in routes:
        reach = block.reach.get(one.source, -1)
        passes = reach >= one.target.rank - 1
        one.straight = passes and block.slot_of(one.source) == one.target.slot
        one.lane = not passes
    lanes = lanes_of(block, routes)
    gutter = GUTTER * 2 + LANE * (max(lanes.values(), default=-1) + 1) if lanes else SLOT_GAP
    lefts = [0, *(BOX_WIDTH + gutter + slot * (BOX_WIDTH + SLOT_GAP)
                  for slot in range(block.slots - 1))]  # fmt: skip
    middles = [left + BOX_WIDTH // 2 for left in lefts]
    lane_at = {unit: BOX_WIDTH + GUTTER + LANE * lane + LANE // 2 for unit, lane in lanes.items()}

    def comes_at(one: Route) -> int:
        """Where an edge comes down into the channel above its target."""
        return lane_at[one.source] if one.lane else middles[block.slot_of(one.source)]

    choose_ports(block, routes, middles, comes_at)
    spans: dict[tuple[int, Key], list[int]] = {}
    for one in routes:
        if not one.straight:
            spans.setdefault((one.target.rank, one.key), []).extend((comes_at(one), one.port))
        if one.lane:
            drop = spans.setdefault((block.rank_of(one.source) + 1, value_key(block, one)), [])
            drop.extend((middles[block.slot_of(one.source)], lane_at[one.source]))
    levels = {
        channel: levels_of({key: xs for (c, key), xs in spans.items() if c == channel})
        for channel in {channel for channel, _ in spans}
    }
    tops, y = [], 0
    heights = [0] * block.ranks
    for unit in block.units:
        heights[unit.rank] = max(heights[unit.rank], unit.height)
    channels = []
    for rank in range(block.ranks):
        channels.append(y + CHANNEL_TOP)
        used = levels.get(rank, {})
        y += CHANNEL_TOP + TRACK * (max(used.values(), default=-1) + 1) + CHANNEL_BOTTOM
        tops.append(y)
        y += heights[rank]

    def track(channel: int, key: Key) -> int:
        return channels[channel] + TRACK * levels[channel][key] + TRACK // 2

    for one in routes:
        rank = block.rank_of(one.source)
        x = middles[block.slot_of(one.source)]
        points = [(x, tops[rank] + one.source.height if rank >= 0 else 0)]
        if one.lane:
            down = track(rank + 1, value_key(block, one))
            points += [(x, down), (lane_at[one.source], down)]
        if not one.straight:
            across = track(one.target.rank, one.key)
            points += [(points[-1][0], across), (one.port, across)]
        one.points = [*points, (one.port, tops[one.target.rank])]
    width = lefts[-1] + BOX_WIDTH
    if block.slots == 1 and lanes:
        width += gutter
    return Routed(block, routes, tops, lefts, width, y)


def value_key(block: Block, one: Route) -> Key:
    """The track of a value itself."""
    return ("value", -1 if one.source is block.entry else block.units.index(one.source), True)


def lanes_of(block: Block, routes: Iterable[Route]) -> dict[Unit, int]:
    """The lane of each value that needs one: from its box to the last that reads it there."""
    spans: dict[Unit, tuple[int, int]] = {}
    for one in routes:
        if one.lane:
            first, last = spans.get(one.source, (block.rank_of(one.source) + 1, 0))
            spans[one.source] = first, max(last, one.target.rank)
    lanes: dict[Unit, int] = {}
    taken: list[list[tuple[int, int]]] = []
    for unit, (first, last) in sorted(spans.items(), key=lambda item: item[1][1] - item[1][0]):
        lane = next(
            (n for n, used in enumerate(taken) if all(last < a or b < first for a, b in used)),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, last))
        lanes[unit] = lane
    return lanes


def choose_ports(
    block: Block, routes: list[Route], middles: list[int], comes_at: Callable[[Route], int]
) -> None:
    """Say where each edge enters its target, and which track leads there.

    What goes straight down enters in the middle. So does another where the cell above is empty; or
    else it enters beside the middle, on the side that it comes from. Edges with relevance and those
    without have an entrance each.
    """
    groups: dict[tuple[int, bool], list[Route]] = {}
    straight = set()
    for one in routes:
        if one.straight:
            one.port = middles[one.target.slot]
            straight.add(one.target)
        else:
            groups.setdefault((block.units.index(one.target), one.carries), []).append(one)
    for (index, carries), group in sorted(
        groups.items(), key=lambda item: (item[0][0], -item[0][1])
    ):
        target = block.units[index]
        middle = middles[target.slot]
        both = (index, True) in groups and (index, False) in groups
        free = target.slot > 0 and block.is_free(target.slot, target.rank - 1)
        if free and target not in straight and (carries or not both):
            port = middle
        else:
            left = all(comes_at(one) < middle for one in group)
            port = middle + (-1 if left else 1) * PORT * (1 if carries or not both else 2)
        sources = {id(one.source) for one in group}
        key = value_key(block, group[0]) if len(sources) == 1 else ("join", index, carries)
        for one in group:
            one.port, one.key = port, key


def levels_of(spans: dict[Key, list[int]]) -> dict[Key, int]:
    """The level of each track in a channel, such that none touches another."""
    levels: dict[Key, int] = {}
    taken: list[list[tuple[int, int]]] = []
    order = sorted(spans.items(), key=lambda item: (item[0][0] == "join", min(item[1]), item[0]))
    for key, xs in order:
        first, last = min(xs), max(xs)
        level = next(
            (n for n, used in enumerate(taken) if all(last < a or b < first for a, b in used)),
            len(taken),
        )
        if level == len(taken):
            taken.append([])
        taken[level].append((first, last))
        levels[key] = level
    return levels
