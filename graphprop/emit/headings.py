"""The comments that ``forward`` is divided by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphprop.emit.block import Statement
from graphprop.emit.sections import Part
from graphprop.emit.text import heading_of
from graphprop.ir.facts import facts_of

FORWARD = "forward"


@dataclass(eq=False)
class Heading:
    """A comment above one or more statements.

    Attributes
    ----------
    text
        What it says.
    block
        The module that the layer belongs to.
    names
        What the text lists, where that is several things.
    listed
        Whether one statement stands below it: such follow each other without a blank line.
    """

    text: str
    block: str
    names: list[str] = field(default_factory=list)
    listed: bool = False


def headings_of(printed: Sequence[tuple[Part, Statement, bool]]) -> list[Heading]:
    """The heading of each statement.

    The forward part has one for each block of layers. Relevance has one for each rule at a layer,
    or for all that are called one after the other in a block that is itself part of another. What
    no rule has written belongs to what is above.

    Parameters
    ----------
    printed
        Each statement with the part it belongs to, and whether that is a call.
    """
    found: list[Heading] = []
    before: object = None
    for part, statement, is_call in printed:
        key = key_of(part, statement, is_call)
        if not found or key not in (before, None):
            found.append(heading_for(part, statement, is_call))
            before = key
        else:
            found.append(found[-1])
            add(found[-1], part, statement)
    return found


def key_of(part: Part, statement: Statement, is_call: bool) -> object:
    """What statements under one heading have in common; None: they belong to what is above."""
    facts, applied = facts_of(statement.nodes[-1]), part.applied
    if applied is not None:
        block = block_of(applied.label)
        return (applied.flow, block) if is_call and "." in block else part
    if facts.section == FORWARD:
        return FORWARD, block_of(facts.label)
    return facts.section or None


def heading_for(part: Part, statement: Statement, is_call: bool) -> Heading:
    """The heading above a statement."""
    facts, applied = facts_of(statement.nodes[-1]), part.applied
    if applied is not None:
        block = block_of(applied.label)
        flow = f"{applied.flow} flow, " if applied.flow else ""
        rule = applied.rule.name if is_call else str(applied.rule)
        if is_call and "." in block:
            return Heading(f"{flow}{block}: {rule}", f"{applied.flow} {block}", [rule])
        text = f"{flow}{applied.label}: {applied.operator}, {rule}"
        return Heading(text, f"{applied.flow} {block}", listed=True)
    if facts.section == FORWARD:
        block = block_of(facts.label)
        return Heading(block or facts.label, block, [facts.label])
    return Heading(heading_of(statement.nodes[-1]) or "", "")


def add(heading: Heading, part: Part, statement: Statement) -> None:
    """Let one more statement stand below a heading."""
    facts, applied = facts_of(statement.nodes[-1]), part.applied
    if applied is not None and applied.rule.name not in heading.names and heading.names:
        heading.names.append(applied.rule.name)
        heading.text += f", {applied.rule.name}"
    elif applied is not None:
        heading.listed = False
    elif facts.section == FORWARD and not heading.block and facts.label not in heading.names:
        heading.names.append(facts.label)
        heading.text = ", ".join(heading.names)


def block_of(label: str) -> str:
    """The block of layers that a layer is part of: of ``layer1.0.downsample.0``, ``layer1.0``."""
    parents = label.split(".")[:-1]
    depth = next((i for i, name in enumerate(parents, 1) if name.isdigit()), len(parents))
    return ".".join(parents[:depth])
