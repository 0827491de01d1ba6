"""Text that is measured and wrapped before it is drawn. Widths and heights are in inches."""

from __future__ import annotations

LINE = 1.25
"""The distance of lines, in sizes of letters."""
HINTED = 1.08
"""How much wider than its outlines say a text can be drawn, where letters are fitted to pixels."""
LONGEST = 6
"""The most lines that one text gets; the rest of it is cut."""


def width_of(text: str, size: float) -> float:
    """The width of a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    return HINTED * float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Break text into lines of at most a width, in inches; what is too long is cut.

    Lines end at spaces where they can, else behind punctuation, else anywhere.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        rest = "".join(c if c.isprintable() else "\ufffd" for c in line)
        while rest and len(lines) <= LONGEST:
            count = fitting(rest, width, size)
            if count < len(rest):
                ends = [i for i in range(1, count + 1) if rest[i - 1] in " _.,/-[(#="]
                spaces = [i for i in ends if rest[i - 1] == " "]
                # a break near the beginning would waste the line
                for places in (spaces, ends):
                    if places and places[-1] > count / 3:
                        count = places[-1]
                        break
            lines.append(rest[:count].rstrip())
            rest = rest[count:].lstrip()
    if len(lines) > LONGEST:
        lines[LONGEST - 1 :] = ["\u2026"]
    return lines


def fitting(text: str, width: float, size: float) -> int:
    """How many of the first letters fit into a width; one at least."""
    if width_of(text, size) <= width:
        return len(text)
    low, high = 1, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width_of(text[:middle], size) <= width else (low, middle)
    return low


def height_of(lines: int, size: float) -> float:
    """The height of lines of text, in inches."""
    return lines * size * LINE / 72
