"""The page: blocks one below the other in columns, framed by stages.

A stage is a run of blocks that make maps of one size. Columns are filled from the left; one ends
only where a single value passes, so that one line leads to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from math import log, prod

from graphprop.drawing.blocks import blocks_of
from graphprop.drawing.graph import Graph, Layer
from graphprop.drawing.routing import Point, Routed, route
from graphprop.drawing.text import times
from graphprop.drawing.units import BOX_WIDTH, Unit, units_of

MARGIN, COLUMN_GAP, FRAME, FRAME_TITLE = 20, 44, 10, 22
TALLEST_SINGLE, RATIO, MOST_COLUMNS, SMALLEST = 1000, 1.5, 16, 0.15
"""Up to this height one column is enough; beyond it, about this many times as wide as high. No
column is filled to less than a share of the height because the next block is large."""

PADDING = "pad"
"""The operator that puts zeros around a map."""


@dataclass(frozen=True)
class Box:
    """A unit in its place."""

    unit: Unit
    x: int
    y: int

    @property
    def width(self) -> int:
        """How wide it is."""
        return BOX_WIDTH

    @property
    def height(self) -> int:
        """How high it is."""
        return self.unit.height


@dataclass(frozen=True)
class Line:
    """An edge in its place: from the lower side of a box to the upper side of another."""

    source: Unit
    target: Unit
    carries: bool
    skips: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Frame:
    """The frame around the blocks of a stage in one column."""

    x: int
    y: int
    width: int
    height: int
    module: str
    size: str

    @property
    def middle(self) -> int:
        """Where the main path comes down."""
        return self.x + FRAME + BOX_WIDTH // 2


@dataclass
class Page:
    """Everything in its place."""

    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    width: int = 0
    height: int = 0

    @property
    def dots(self) -> list[Point]:
        """Where lines that belong together meet."""
        return junctions(self.lines)


@dataclass
class Stage:
    """A run of blocks, and whether there is a frame around it."""

    blocks: list[Routed]
    framed: bool = True

    @property
    def module(self) -> str:
        """The path that all its layers have in common."""
        return common_path([layer.label for layer in layers_of(self.blocks)])

    @property
    def size(self) -> str:
        """The size of its maps, and of the smallest between, where a U-Net grows them again."""
        places = self.blocks[-1].block.places
        if prod(places) < 2:
            return "vector"
        found = [
            layer.places
            for routed in self.blocks
            for unit in routed.block.units
            for layer in unit.layers
            if unit.slot == 0 and prod(layer.places) > 1 and layer.operator != PADDING
        ]
        smallest = min(found, key=prod, default=places)
        between = f" to {times(smallest)}" if prod(smallest) < prod(places) else ""
        return times(places) + between

    @property
    def height(self) -> int:
        """How high its frame is."""
        return sum(block.height for block in self.blocks) + self.around

    @property
    def around(self) -> int:
        """The height of what is around the blocks."""
        return FRAME_TITLE + FRAME * 2 if self.framed else FRAME


def lay_out(graph: Graph, columns: int | None = None) -> Page:
    """Give all boxes, edges and frames of a network their places.

    Parameters
    ----------
    graph
        The network.
    columns
        How many columns at most; by default as many as make a page of common shape.
    """
    stages = stages_of([route(block) for block in blocks_of(units_of(graph))])
    page = Page()
    x, before = MARGIN, None
    for column in split(stages, columns):
        before, x = place(page, column, x, before)
    page.width = x - COLUMN_GAP + MARGIN
    page.height = max((box.y + box.height for box in page.boxes), default=0) + FRAME + MARGIN
    return page


def stages_of(blocks: list[Routed]) -> list[Stage]:
    """Join blocks that make maps of one size; an input alone has no frame.

    Zeros put around a map belong to the layer that reads them.
    """
    keys: list[tuple[bool, tuple[int, ...]]] = []
    for routed in reversed(blocks):
        layers, places = layers_of([routed]), routed.block.places
        if keys and layers and all(layer.operator == PADDING for layer in layers):
            keys.append(keys[-1])
        else:
            keys.append((not layers, places if prod(places) > 1 else ()))
    pairs = groupby(zip(reversed(keys), blocks, strict=True), key=lambda pair: pair[0])
    return [Stage([routed for _, routed in group], not alone) for (alone, _), group in pairs]


def layers_of(blocks: list[Routed]) -> list[Layer]:
    """The layers of blocks."""
    return [layer for routed in blocks for unit in routed.block.units for layer in unit.layers]


def common_path(labels: list[str]) -> str:
    """The path that all labels begin with."""
    paths = [label.split(".")[:-1] for label in labels]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def split(stages: list[Stage], columns: int | None) -> list[list[Stage]]:
    """Distribute stages over columns; a long one is continued in the next."""
    total = sum(stage.height for stage in stages)
    if columns is None:
        if total <= TALLEST_SINGLE:
            return [stages]
        tries = [balanced(stages, count) for count in range(1, MOST_COLUMNS + 1)]
        return min(tries, key=lambda found: abs(log(ratio(found) / RATIO)))
    return balanced(stages, columns)


def balanced(stages: list[Stage], columns: int) -> list[list[Stage]]:
    """Fill so many columns or fewer, as evenly as it goes."""
    tallest = max(block.height + stage.around for stage in stages for block in stage.blocks)
    height = max(sum(stage.height for stage in stages) / columns, tallest)
    while len(found := filled(stages, height)) > columns:
        height *= 1.04
    return found


def ratio(columns: list[list[Stage]]) -> float:
    """Width by height."""
    width = sum(max(b.width for s in column for b in s.blocks) + COLUMN_GAP for column in columns)
    return width / max(sum(stage.height for stage in column) for column in columns)


def filled(stages: list[Stage], height: float) -> list[list[Stage]]:
    """Fill columns up to a height; a stage begins one rather than being cut near its start."""
    columns: list[list[Stage]] = [[]]
    used = 0.0
    for stage in stages:
        if used > 0.5 * height and used + stage.height > height:
            columns.append([])
            used = 0.0
        part = Stage([], stage.framed)
        columns[-1].append(part)
        used += part.around
        for block in stage.blocks:
            if part.blocks and used > SMALLEST * height and used + block.height > height:
                part = Stage([], stage.framed)
                columns.append([part])
                used = part.around
            part.blocks.append(block)
            used += block.height
    return columns


def place(page: Page, column: list[Stage], x: int, before: Box | None) -> tuple[Box | None, int]:
    """Put a column on the page; returns the last box of its main path, and where the next goes."""
    left, y = x + FRAME, MARGIN
    right = left
    first = True
    for stage in column:
        top = y
        y += FRAME_TITLE if stage.framed else 0
        for routed in stage.blocks:
            where = {
                unit: Box(unit, left + routed.lefts[unit.slot], y + routed.tops[unit.rank])
                for unit in routed.block.units
            }
            page.boxes += where.values()
            for one in routed.routes:
                points = [(left + px, y + py) for px, py in one.points]
                if one.source is routed.block.entry and before is not None:
                    points[:1] = lead(before, points[0], left - FRAME if first else None, MARGIN)
                page.lines.append(
                    Line(one.source, one.target, one.carries, one.lane, straightened(points))
                )
            before = where[routed.block.exit]
            first = False
            y += routed.height
            right = max(right, left + routed.width)
        if stage.framed:
            y += FRAME
            width = max(routed.width for routed in stage.blocks) + 2 * FRAME
            frame = Frame(x, top, width, y - top, stage.module, stage.size)
            page.frames.append(frame)
        y += FRAME
    return before, right + FRAME + COLUMN_GAP


def lead(before: Box, entry: Point, left: int | None, top: int) -> list[Point]:
    """The way from the box before to where its value enters a block, around to a new column."""
    start = (before.x + BOX_WIDTH // 2, before.y + before.height)
    if left is None:
        return [start, entry]
    below, beside, above = start[1] + FRAME + 12, left - COLUMN_GAP // 2, top - 10
    return [start, (start[0], below), (beside, below), (beside, above), (entry[0], above), entry]


def straightened(points: list[Point]) -> tuple[Point, ...]:
    """Leave out corners that are none."""
    found: list[Point] = []
    for point in points:
        if found and point == found[-1]:
            continue
        while len(found) > 1 and (
            found[-2][0] == found[-1][0] == point[0] or found[-2][1] == found[-1][1] == point[1]
        ):
            found.pop()
        found.append(point)
    return tuple(found)


def junctions(lines: list[Line]) -> list[Point]:
    """Where three or more ends of lines of one value, or to one box, meet."""
    groups: dict[tuple[int, bool], list[Line]] = {}
    for line in lines:
        groups.setdefault((id(line.source), True), []).append(line)
        groups.setdefault((id(line.target), False), []).append(line)
    found: set[Point] = set()
    for group in groups.values():
        if len(group) < 2:
            continue
        segments = {
            segment for line in group for segment in zip(line.points, line.points[1:], strict=False)
        }
        corners = {point for line in group for point in line.points[1:-1]}
        for corner in corners:
            directions = set()
            for begin, end in segments:
                directions |= directions_at(corner, begin, end)
            if len(directions) > 2:
                found.add(corner)
    return sorted(found)


def directions_at(point: Point, begin: Point, end: Point) -> set[Point]:
    """Which ways a segment leaves a point that it touches."""
    (x, y), (ax, ay), (bx, by) = point, begin, end
    if not (min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by)):
        return set()
    ways = {((ax > x) - (ax < x), (ay > y) - (ay < y)), ((bx > x) - (bx < x), (by > y) - (by < y))}
    return ways - {(0, 0)}
