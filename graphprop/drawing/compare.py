"""Two printed graphs side by side: which lines a pass changed, added and removed.

Lines are those of `graphprop.ir.show`: a node's name, ``=``, and what it computes. Lines of one
name are one node, before and after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

SAME, CHANGED, ADDED, REMOVED, REPLACED = "same", "changed", "added", "removed", "replaced"
MARKS = {CHANGED: "~", ADDED: "+", REMOVED: "−", REPLACED: "≠"}
"""Kind of a row -> the sign before it."""

FEWEST = 6
"""So many unchanged lines in a row are folded away; fewer stay, as the surroundings of a change."""

Piece = tuple[str, bool]
"""A part of a line, and whether the other side has it differently."""


@dataclass(frozen=True)
class Row:
    """A line before and the line after, or lines that are the same on both sides.

    Attributes
    ----------
    kind
        A key of `MARKS`, or `SAME`.
    old, new
        Their pieces; none where there is no such line. Of the same lines, ``old`` is not filled.
    folded
        Unchanged lines that are too many to be shown at once.
    """

    kind: str
    old: tuple[Piece, ...] = ()
    new: tuple[Piece, ...] = ()
    folded: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """The sign before it."""
        return MARKS.get(self.kind, "")


def rows_of(old: str, new: str) -> list[Row]:
    """Compare two printed graphs, line by line."""
    before, after = (text.splitlines()[1:] for text in (old, new))  # without the level
    rows: list[Row] = []
    matcher = SequenceMatcher(None, names_of(before), names_of(after), autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            rows += paired(before[a:b], after[c:d])
        else:
            rows += replaced(before[a:b], after[c:d])
    return list(folded(rows))


def names_of(lines: Iterable[str]) -> list[str]:
    """The nodes that lines are of."""
    return [line.partition(" = ")[0] for line in lines]


def paired(before: Sequence[str], after: Sequence[str]) -> Iterator[Row]:
    """Lines of the same nodes."""
    for one, other in zip(before, after, strict=True):
        if one == other:
            yield Row(SAME, new=((other, False),))
        else:
            yield Row(CHANGED, *pieces_of(one, other))


def replaced(before: Sequence[str], after: Sequence[str]) -> Iterator[Row]:
    """Lines of other nodes: those that went beside those that came."""
    for number in range(max(len(before), len(after))):
        old = ((before[number], False),) if number < len(before) else ()
        new = ((after[number], False),) if number < len(after) else ()
        yield Row(REPLACED if old and new else REMOVED if old else ADDED, old, new)


def pieces_of(one: str, other: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Two lines in pieces, those that differ marked."""
    first, second = (re.findall(r"\w+|\s+|[^\w\s]", line) for line in (one, other))
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for side, part in zip(sides, (first[a:b], second[c:d]), strict=True):
            if part:
                side.append(("".join(part), tag != "equal"))
    return tuple(sides[0]), tuple(sides[1])


def folded(rows: Iterable[Row]) -> Iterator[Row]:
    """Fold unchanged lines away where there are many in a row."""
    same: list[Row] = []
    for row in [*rows, None]:
        if row is not None and row.kind == SAME:
            same.append(row)
            continue
        if len(same) < FEWEST:
            yield from same
        else:
            yield Row(SAME, folded=tuple(line.new[0][0] for line in same))
        same = []
        if row is not None:
            yield row


def grouped(log: Iterable[str]) -> Mapping[str, list[str]]:
    """What rewrites did, by the rewrite's name."""
    found: dict[str, list[str]] = {}
    for text in log:
        name, _, what = text.partition(": ")
        found.setdefault(name, []).append(what)
    return found
