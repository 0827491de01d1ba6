"""The docstrings of generated functions: what their rule says of itself."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence

from graphprop.emit.text import escaped
from graphprop.ir.facts import Applied
from graphprop.rules.registry import BoundRule, assignments

WIDTH = 112
"""How long a line of a docstring is, in letters."""


def docstring(applied: Sequence[Applied]) -> list[str]:
    """The docstring of a function that computes a rule at several layers, as lines."""
    rule = applied[0].rule
    text = ""
    if isinstance(rule, BoundRule):
        text = inspect.getdoc(rule.rule.function) or ""
    summary, *paragraphs = plain_paragraphs(text) or [f"Rule {rule.name}."]
    notes = source_of(text)
    flows = sorted({one.flow for one in applied if one.flow})
    settings = {str(one.rule) for one in applied}
    if isinstance(rule, BoundRule) and len(settings) == 1 and rule.parameters:
        notes.append(f"Here {assignments(rule.parameters)}.")
    if len(flows) == 1:
        notes.append(f"In the {flows[0]} flow.")
    paragraphs += [" ".join(notes)] if notes else []
    first, *rest = wrapped(summary, '"""')
    lines = [first, *rest]
    for paragraph in paragraphs:
        lines += ["", *wrapped(paragraph)]
    if not paragraphs and len(lines) == 1 and len(first) + 3 <= WIDTH:
        return [first + '"""']
    return [*lines, '"""']


def plain_paragraphs(text: str) -> list[str]:
    """The paragraphs before the first heading of a docstring."""
    plain, *_ = re.split(r"\n+[^\n]+\n-{3,}\n", text, maxsplit=1)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", plain) if part.strip()]


def source_of(text: str) -> list[str]:
    """Where a rule comes from, by its docstring."""
    found = re.search(r"\n+References\n-{3,}\n(.*?)(?:\n\s*\n[^\n]+\n-{3,}|\Z)", text, re.DOTALL)
    return [f"Source: {' '.join(found[1].split())}"] if found else []


def wrapped(text: str, opening: str = "") -> list[str]:
    """Text as lines of printable ASCII that can't end a docstring, behind what opens it."""
    shown = opening + escaped(text)
    return textwrap.wrap(shown, WIDTH, break_long_words=False, break_on_hyphens=False)
