"""Outline: sections that compute the same become calls of one function.

Two sections compute the same where they print as the same statements, once every constant in them
(strides, paddings, shapes, numbers) prints as a name. Constants that differ between sections become
parameters of the function, and what the sections read become its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from torch import fx

from graphprop.emit.block import Block, Statement
from graphprop.emit.documentation import docstring
from graphprop.emit.lifetimes import deleted_after
from graphprop.emit.sections import Part
from graphprop.emit.words import label_of, local_name, role_of, unlike
from graphprop.ir.facts import Applied, facts_of, shape_of
from graphprop.ir.names import identifier
from graphprop.ops.source import KINDS, Constant, named

LEAST = 2
"""How many statements a section has at least that becomes a function."""

DEFAULTS: Mapping[str, int] = {
    "stride": 1,
    "dilation": 1,
    "groups": 1,
    "padding": 0,
    "output_padding": 0,
}
"""What parameters are by default, as torch has them."""


@dataclass
class Section:
    """A part of a network that one rule computes at one layer.

    Attributes
    ----------
    nodes, applied
        As of `graphprop.emit.sections.Part`.
    leaves
        What it reads, and what each of them is to the layer.
    outputs
        The nodes that something outside of it reads, or that are to be returned.
    """

    nodes: tuple[fx.Node, ...]
    applied: Applied
    leaves: dict[fx.Node, str]
    outputs: tuple[fx.Node, ...]

    @cached_property
    def constants(self) -> list[tuple[fx.Node, str | int, Constant]]:
        """Every constant: the node, the attribute or the index of the operand, and the value."""
        found: list[tuple[fx.Node, str | int, Constant]] = []
        for node in self.nodes:
            for one in fields(node.target):
                value = getattr(node.target, one.name)
                if type(value) in KINDS and value != ():
                    found.append((node, one.name, value))
            found += [(node, i, a) for i, a in enumerate(node.args) if type(a) in (int, float)]
        return found

    def block(
        self,
        names: Mapping[fx.Node, str],
        constants: Mapping[tuple[fx.Node, object], Any],
        **how: Any,
    ) -> Block:
        """The section as statements."""
        return Block(self.nodes, names, self.outputs, constants, **how)

    def canonical(self, constants: Mapping[tuple[fx.Node, object], Any]) -> str:
        """The section as text that is the same wherever the same is computed."""
        names = {leaf: f"a{index}" for index, leaf in enumerate(self.leaves)}
        names |= {node: f"v{index}" for index, node in enumerate(self.nodes)}
        block = self.block(names, constants, nested=lambda node, user: False)
        lines = [statement.line for statement in block.statements()]
        roles = [f"{names[leaf]}: {role}" for leaf, role in self.leaves.items()]
        returned = ", ".join(names[node] for node in self.outputs)
        return "\n".join([*roles, *lines, f"return {returned}"])


@dataclass
class Call:
    """A section as a call of a function.

    Attributes
    ----------
    section
        What it computes.
    function
        What it calls.
    options
        The values of the function's parameters, as source, but for those that are the default.
    """

    section: Section
    function: Function
    options: dict[str, str]

    def statement(self, names: Mapping[fx.Node, str]) -> Statement:
        """The call as a statement of ``forward``."""
        section = self.section
        arguments = [names[leaf] for leaf in section.leaves]
        arguments += [f"{name}={value}" for name, value in self.options.items()]
        reads = tuple(leaf for leaf in section.leaves if facts_of(leaf).batched)
        targets = tuple(names[node] for node in section.outputs)
        text = f"{self.function.name}({', '.join(arguments)})"
        return Statement(targets, section.outputs, text, reads, section.nodes)

    def inner_names(self) -> dict[fx.Node, str]:
        """What the section's other values are called within the function."""
        places = {node: index for index, node in enumerate(self.section.nodes)}
        return {
            node: self.function.variables[index]
            for node, index in places.items()
            if index in self.function.variables and node not in self.section.outputs
        }


@dataclass
class Function:
    """A function that several sections are calls of.

    Attributes
    ----------
    name
        What it is called.
    lines
        Its source.
    variables
        The local variables it assigns, by the index of the node in the section.
    """

    name: str
    lines: list[str] = field(default_factory=list)
    variables: dict[int, str] = field(default_factory=dict)


def section_of(part: Part, kept: Iterable[fx.Node], relevances: Mapping[str, fx.Node]) -> Section:
    """A part with what it reads and what it gives."""
    applied, members, kept = part.applied, set(part.nodes), set(kept)
    assert applied is not None
    found: dict[fx.Node, str] = {}
    for node in part.nodes:
        for operand in node.all_input_nodes:
            if operand not in members and operand not in found:
                found[operand] = role_of(operand, applied, relevances)
    order = {"x": 0, "y": 0, "indices": 0}
    leaves = sorted(
        found, key=lambda leaf: order.get(found[leaf], 1 if facts_of(leaf).batched else 2)
    )
    outputs = tuple(
        node
        for node in part.nodes
        if not isinstance(facts_of(node).value, tuple)
        and (node in kept or any(user not in members for user in node.users))
    )
    return Section(part.nodes, applied, {leaf: found[leaf] for leaf in leaves}, outputs)


def outlined(
    parts: Sequence[Part],
    kept: Iterable[fx.Node],
    relevances: Mapping[str, fx.Node],
    taken: Iterable[str],
) -> tuple[dict[Part, Call], list[Function]]:
    """Find the parts that compute the same, and the functions that they become calls of.

    Parameters
    ----------
    parts
        In the order of computation.
    kept
        The nodes that must stay variables of ``forward``.
    relevances
        Label -> the relevance of the layer's result.
    taken
        Names that no function can have.
    """
    kept = set(kept)
    groups: dict[tuple[str, str, str], list[tuple[Part, Section]]] = {}
    for part in parts:
        if part.applied is None:
            continue
        section = section_of(part, kept, relevances)
        text = section.canonical(all_named(section))
        key = (part.applied.rule.name, part.applied.operator, text)
        groups.setdefault(key, []).append((part, section))
    several = [
        group for group in groups.values() if len(group) > 1 and statements_of(group) >= LEAST
    ]
    names = unlike([[section for _, section in group] for group in several], taken)
    calls: dict[Part, Call] = {}
    functions = []
    for group, name in zip(several, names, strict=True):
        made = function_of([section for _, section in group], name)
        if made is not None:
            functions.append(made[0].function)
            calls |= {part: call for (part, _), call in zip(group, made, strict=True)}
    return calls, functions


def all_named(section: Section) -> dict[tuple[fx.Node, object], Any]:
    """Every constant of a section as a name, by place."""
    return {
        (node, place): named(f"k{index}", value)
        for index, (node, place, value) in enumerate(section.constants)
    }


def statements_of(group: Sequence[tuple[Part, Section]]) -> int:
    """How many statements the first of the sections would be."""
    _, section = group[0]
    return len(
        section.block(dict.fromkeys((*section.leaves, *section.nodes), "value"), {}).statements()
    )


@dataclass
class Parameter:
    """A parameter of a function: constants that are the same in each section.

    Attributes
    ----------
    name
        What it is called.
    indices
        Which of a section's constants it stands for.
    values
        Its value in each section.
    as_number
        Whether one number may stand for equal ones of all axes.
    """

    name: str
    indices: list[int]
    values: tuple[Constant, ...]
    as_number: bool = True

    def text(self, index: int) -> str | None:
        """The value in a section as source; None where it is the default."""
        value = self.values[index]
        if self.as_number and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        return None if value == self.default else repr(value)

    @property
    def default(self) -> Constant | None:
        """What it is where nothing is said; None where something must be said."""
        default = DEFAULTS.get(self.name)
        if default is None or self.as_number:
            return default
        first = self.values[0]
        return (default,) * len(first) if isinstance(first, tuple) else default


def parameters_of(sections: Sequence[Section], taken: set[str]) -> list[Parameter]:
    """The constants in which sections differ."""
    every = [section.constants for section in sections]
    found: dict[tuple[object, ...], Parameter] = {}
    for index, (_, place, value) in enumerate(every[0]):
        values = tuple(constants[index][2] for constants in every)
        if all(other == value and type(other) is type(value) for other in values):
            continue
        stem = place if isinstance(place, str) else "factor"
        known = found.get((stem, values))
        if known is not None:
            known.indices.append(index)
            continue
        name, count = identifier(stem), 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        found[stem, values] = Parameter(name, [index], values)
    return list(found.values())


def function_of(sections: Sequence[Section], name: str) -> list[Call] | None:
    """The function that sections which compute the same are calls of, and the calls.

    None where an operator prints otherwise once some of its constants are names.
    """
    first = sections[0]
    taken: set[str] = set()
    names = {leaf: local_name(role, taken) for leaf, role in first.leaves.items()}
    parameters = parameters_of(sections, taken)
    texts = set()
    for index, section in enumerate(sections):
        constants = constants_as(parameters, section, index)
        texts.add(section.canonical(constants))
        for parameter in parameters:
            used = [constants[section.constants[i][:2]] for i in parameter.indices]
            parameter.as_number &= all(one.as_number for one in used)
    if len(texts) > 1:
        return None
    for node in first.nodes:
        names[node] = local_name(label_of(node, first.applied), taken)
    function = Function(name)
    constants = constants_as(parameters, first, 0)
    block = first.block(names, constants)
    statements = block.statements()
    index_of = {node: index for index, node in enumerate(first.nodes)}
    function.variables = {
        index_of[node]: names[node] for statement in statements for node in statement.results
    }
    arguments = [names[leaf] for leaf in first.leaves]
    ordered = sorted(parameters, key=lambda one: one.default is not None)
    if any(one.default is None for one in ordered):
        arguments.append("*")
    arguments += [
        one.name if one.default is None else f"{one.name}={one.default}" for one in ordered
    ]
    function.lines = [
        f"def {name}({', '.join(arguments)}):",
        *(f"    {line}" if line else "" for line in docstring([s.applied for s in sections])),
        *(f"    {line}" for line in body_of(statements, first, sections, names)),
    ]
    calls = []
    for index, section in enumerate(sections):
        texts_of = {one.name: one.text(index) for one in ordered}
        given = {key: value for key, value in texts_of.items() if value is not None}
        calls.append(Call(section, function, given))
    return calls


def constants_as(
    parameters: Sequence[Parameter], section: Section, index: int
) -> dict[tuple[fx.Node, object], Any]:
    """The constants of a section that are parameters, as names."""
    found: dict[tuple[fx.Node, object], Any] = {}
    for parameter in parameters:
        for place in parameter.indices:
            node, key, value = section.constants[place]
            found[node, key] = named(parameter.name, value)
    return found


def body_of(
    statements: list[Statement],
    first: Section,
    sections: Sequence[Section],
    names: Mapping[fx.Node, str],
) -> list[str]:
    """The statements of a function, what nothing needs any more deleted, and what it returns."""
    returned = {node: names[node] for node in first.outputs}
    rest = list(statements)
    while rest and len(rest[-1].results) == 1 and rest[-1].results[0] in returned:
        node = rest[-1].results[0]
        read = any(node in other.reads for other in statements)
        if read or returned[node] != names[node]:
            break
        returned[node] = rest.pop().text
    ends = {node for statement in statements[len(rest) :] for node in statement.reads}
    place = {node: index for index, node in enumerate(first.nodes)}

    def size(node: fx.Node) -> float:
        index = place.get(node)
        # what is read belongs to the caller
        if index is None:
            return 0.0
        return max(share_of(section, index) for section in sections)

    lines = []
    dead = deleted_after(rest, ends | set(returned), size, least=1 / 64)
    for statement, gone in zip(rest, dead, strict=True):
        lines.append(statement.line)
        if gone:
            lines.append(f"del {', '.join(names[node] for node in gone)}")
    return [*lines, f"return {', '.join(returned.values())}"]


def share_of(section: Section, index: int) -> float:
    """How large a value of a section is, relative to its largest."""
    return elements(section.nodes[index]) / max(map(elements, section.nodes))


def elements(node: fx.Node) -> int:
    """How many entries a sample of a value has."""
    value = facts_of(node).value
    if isinstance(value, tuple):
        return 1
    count = 1
    for length in shape_of(node)[1:]:
        count *= length
    return count
