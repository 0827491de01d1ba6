"""Texts about a node in generated source: headings, shapes, and comments that can't be code."""

from __future__ import annotations

from itertools import accumulate

from torch import fx

from graphprop.ir.facts import facts_of

LONGEST_COMMENT = 90
"""How long a comment or a line of a docstring may be, in letters: with what stands before it, it
fits on a line of most editors."""


def text_of(node: fx.Node) -> str:
    """A value's shape as people write it: ``[N, 3, 224, 224]``."""
    return "[N, " + ", ".join(map(str, facts_of(node).value.shape[1:])) + "]"


def heading_of(node: fx.Node) -> str | None:
    """The heading that a node stands under; None where it belongs to the one before."""
    section = facts_of(node).section
    if section == "forward":
        kind = facts_of(node).kind or ""
        operator_name = str(node.target.__name__)
        named_like_module = facts_of(node).label.split("#")[0] == facts_of(node).path
        shown = kind if kind and named_like_module else operator_name
        return f"{facts_of(node).label}: {shown}"
    if section == "start":
        return "Relevance, from the logits back to the input"
    return section or None


def escaped(text: str) -> str:
    """Text as printable ASCII on one line that can't end a comment or a docstring."""
    return "".join(pieces_of(text))


def pieces_of(text: str) -> list[str]:
    """The letters of a text, each escaped."""
    return ["'" if letter == '"' else ascii(letter)[1:-1] for letter in text]


def comment(text: str) -> str:
    """Text as one line of printable ASCII that can't end a comment or a docstring."""
    pieces = pieces_of(text)
    shown = "".join(pieces)
    if len(shown) <= LONGEST_COMMENT:
        return shown
    # cut between letters: half an escape is a syntax error in a docstring
    count = sum(end <= LONGEST_COMMENT - 3 for end in accumulate(map(len, pieces)))
    return "".join(pieces[:count]) + "..."
