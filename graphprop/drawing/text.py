"""Text in a picture: how wide it is about, cut to fit, and with nothing in it but letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

NARROW = frozenset("iljtf.,:;|!'`()[]{}/\\ -")
WIDE = frozenset("mwMW@%&")
KNOWN = frozenset("×≥≤→")

WIDTHS = {"narrow": 0.36, "letter": 0.57, "capital": 0.70, "wide": 0.95}
"""Widths of characters in units of the font's size, those of common sans-serif fonts rounded up."""


def printable(text: str) -> str:
    """Text on one line with what can't be seen, or reorders what can, escaped.

    Control characters, line ends, surrogates and marks of direction are no letters of a name, and
    most of them may not stand in XML.
    """
    return "".join(
        letter if not hidden(letter) else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def hidden(letter: str) -> bool:
    """Whether a character is not shown as one: controls, formats, unassigned, separators."""
    return unicodedata.category(letter)[0] == "C" or unicodedata.category(letter) in ("Zl", "Zp")


def width_of(text: str, size: float) -> float:
    """About how wide a text is, rather too wide than too narrow."""
    return size * sum(map(width_of_letter, text))


def width_of_letter(letter: str) -> float:
    """The width of one character in units of the font's size."""
    if letter in NARROW:
        return WIDTHS["narrow"]
    if letter in WIDE:
        return WIDTHS["wide"]
    if not letter.isascii() and letter not in KNOWN:
        return 1.0
    return WIDTHS["capital" if letter.isupper() else "letter"]


def fitted(text: str, width: float, size: float, *, keep_end: bool = False) -> str:
    """A printable text that is no wider than so: a part is replaced by an ellipsis.

    Parameters
    ----------
    keep_end
        Cut the beginning: of a path, the end tells layers apart.
    """
    text = printable(text)
    if width_of(text, size) <= width:
        return text
    letters = text[::-1] if keep_end else text
    room, kept = width - size, 0  # the ellipsis is as wide as the font is high
    for letter in letters:
        room -= size * width_of_letter(letter)
        if room < 0:
            break
        kept += 1
    return f"…{text[len(text) - kept :].removeprefix('.')}" if keep_end else f"{text[:kept]}…"


def times(lengths: Sequence[int]) -> str:
    """A shape: ``64 × 56 × 56``."""
    return " × ".join(map(str, lengths)) or "1"
