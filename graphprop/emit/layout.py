"""How the lines of ``forward`` and of its tables are laid out: a layer a line.

The formatter would put each argument of a long call on a line of its own. So that a network reads
as a list, long lines are filled instead, and the formatter is told to leave them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

WIDTH = 120
"""How long a line is, in letters: a call with two weights fits on it."""


def filled(line: str, indent: int = 8) -> list[str]:
    """A statement on as many lines as it needs, broken behind the commas of one bracket."""
    room = WIDTH - indent
    if len(line) <= room:
        return [line]
    opening = widest_bracket(line)
    if opening is None:
        return [line]
    start, commas, _ = opening
    pieces = [line[: commas[0] + 1]]
    bounds = [*commas[1:], len(line) - 1]
    pieces += [
        line[first + 1 : last + 1].strip() for first, last in zip(commas, bounds, strict=True)
    ]
    column = start + 1 if start < room // 2 else 4
    if column == 4:
        head, pieces[0] = pieces[0][: start + 1], pieces[0][start + 1 :]
        lines, current = [head], " " * 4 + pieces[0]
    else:
        lines, current = [], pieces[0]
    for piece in pieces[1:]:
        if len(current) + 1 + len(piece) > room:
            lines.append(current)
            current = " " * column + piece
        else:
            current += f" {piece}"
    return [*lines, current]


def deleting(names: Iterable[str], indent: int = 8) -> list[str]:
    """Statements that delete variables, as many as fit on a line by each."""
    lines: list[str] = []
    for name in names:
        if lines and indent + len(lines[-1]) + 2 + len(name) <= WIDTH:
            lines[-1] += f", {name}"
        else:
            lines.append(f"del {name}")
    return lines


def widest_bracket(line: str) -> tuple[int, list[int], int] | None:
    """The bracket with commas in it that spans most: where it opens, its commas, where it ends."""
    stack: list[tuple[int, list[int]]] = []
    found: list[tuple[int, list[int], int]] = []
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[place - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            stack.append((place, []))
        elif letter in ")]}":
            opened, commas = stack.pop()
            if commas:
                found.append((opened, commas, place))
        elif letter == "," and stack:
            stack[-1][1].append(place)
    return max(found, key=lambda one: one[2] - one[0], default=None)


def table(entries: Iterable[str], indent: int = 4) -> Iterator[str]:
    """Entries of a table, as many to a line as fit."""
    current = ""
    for entry in entries:
        if current and indent + len(current) + len(entry) + 2 > WIDTH:
            yield " " * indent + current
            current = ""
        current += f"{' ' if current else ''}{entry},"
    if current:
        yield " " * indent + current


def names_in_lines(names: Iterable[str], indent: int) -> list[str]:
    """Names with spaces between them as strings that follow each other, which the formatter leaves.

    ``indent`` is how far in they will stand.
    """
    lines: list[str] = []
    current = ""
    for name in names:
        if current and indent + len(current) + len(name) + 4 > WIDTH:
            lines.append(f'    "{current} "')
            current = ""
        current += f"{' ' if current else ''}{name}"
    return [*lines, f'    "{current}"']
