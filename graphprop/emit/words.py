"""What values and functions are called in generated source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import fx

from graphprop.ir.facts import Applied, facts_of, shape_of
from graphprop.ir.names import RESERVED, identifier
from graphprop.ir.operation import reserved_names
from graphprop.lowering import in_flow
from graphprop.ops import Conv, ConvTranspose, Item

if TYPE_CHECKING:
    from graphprop.emit.outline import Section


def without_number(name: str) -> str:
    """A name without the number that made it unique."""
    return re.sub(r"(_\d+)+$", "", name)


def role_of(leaf: fx.Node, applied: Applied, relevances: Mapping[str, fx.Node]) -> str:
    """What a section calls something that it reads."""
    facts = facts_of(leaf)
    if not facts.batched:
        return parameter_role(leaf, applied)
    if leaf is relevances.get(in_flow(applied.label, applied.flow)):
        return "r"
    if facts.section == "forward" or leaf.op == "placeholder":
        if isinstance(leaf.target, Item) and leaf.target.index > 0:
            return "indices"
        return "y" if facts.records == applied.label else "x"
    if facts.applied is not None:
        return without_number(label_of(leaf, facts.applied))
    return "budget" if "budget" in leaf.name else "value"


def parameter_role(leaf: fx.Node, applied: Applied) -> str:
    """What a section calls a parameter, or what follows from one: ``weight_positive``."""
    stem = applied.prefix.removesuffix(f"_{applied.flow}") if applied.flow else applied.prefix
    if leaf.name.startswith(f"{stem}_"):
        return without_number(leaf.name[len(stem) + 1 :]) or "constant"
    root = leaf
    while root.op == "call_function" and root.all_input_nodes:
        root = root.all_input_nodes[0]
    own = identifier(str(root.target).rpartition(".")[2]) if root.op == "get_attr" else "constant"
    rest = leaf.name[len(root.name) :] if leaf.name.startswith(root.name) else ""
    return without_number(own + rest)


def label_of(node: fx.Node, applied: Applied) -> str:
    """What a value is called within its section: its name without the layer's."""
    stem = applied.prefix.removesuffix(f"_{applied.flow}") if applied.flow else applied.prefix
    for prefix in (f"{applied.prefix}_", f"{stem}_"):
        if node.name.startswith(prefix):
            return node.name[len(prefix) :]
    return "relevance" if re.match("r_|relevance", node.name) else node.name


def local_name(name: str, taken: set[str]) -> str:
    """A name for a variable of a function, added to those that are taken."""
    stem = identifier(name)
    if stem in RESERVED - {"x"} or stem in reserved_names():
        stem += "_of_sample" if stem in ("total", "smallest", "largest") else "_"
    candidate, count = stem, 1
    while candidate in taken:
        count += 1
        candidate = f"{without_number(stem)}_{count}"
    taken.add(candidate)
    return candidate


def unlike(groups: Sequence[Sequence[Section]], taken: Iterable[str]) -> list[str]:
    """A name for the function of each group: its rule, its operator, and what sets it apart."""
    stems = [identifier(f"{g[0].applied.rule.name}_{g[0].applied.operator}") for g in groups]
    used, found = set(taken), []
    for stem, group in zip(stems, groups, strict=True):
        alike = [g for s, g in zip(stems, groups, strict=True) if s == stem]
        shared = set.intersection(*(common_words(other) for other in alike))
        own = common_words(group) - shared
        words = [word for word in words_of(group[0]) if word in own]
        whole = "_".join([stem, *words])
        name, count = whole, 1
        while name in used:
            count += 1
            name = f"{whole}_{count}"
        used.add(name)
        found.append(name)
    return found


def common_words(group: Sequence[Section]) -> set[str]:
    """The words that are true of all sections of a group."""
    return set.intersection(*(set(words_of(section)) for section in group))


def words_of(section: Section) -> list[str]:
    """What can be said about a section in a word."""
    found = [section.applied.flow] if section.applied.flow else []
    weights = [shape_of(leaf)[2:] for leaf in section.leaves if not facts_of(leaf).batched]
    kernels = [shape for shape in weights if shape]
    layers = [n.target for n in section.nodes if isinstance(n.target, Conv | ConvTranspose)]
    if kernels and all(set(shape) == {1} for shape in kernels):
        found.append("x".join("1" * len(kernels[0])))
    if any(layer.groups > 1 for layer in layers):
        found.append("grouped")
    if any(set(layer.stride) != {1} for layer in layers):
        found.append("strided")
    if not any(re.match("r_|relevance", node.name) for node in section.outputs):
        # something outside adds to it before it is relevance of a layer
        found.append("part")
    return found
