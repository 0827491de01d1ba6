"""The attributes of a generated module: its weights, and what follows from them.

Weights are registered in a loop over a table of their shapes. What is computed alike from many of
them is computed in a loop over their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from graphprop.emit.block import Block
from graphprop.emit.layout import filled, names_in_lines, table
from graphprop.ir.facts import facts_of
from graphprop.ir.names import RESERVED
from graphprop.ir.network import Network
from graphprop.ir.operation import reserved_names

LEAST = 2
"""From how many weights on a loop takes the place of single statements."""


def attribute_of(name: str) -> str:
    """The attribute that a weight becomes where nothing else is said, as the source computes it."""
    return name.replace(".", "_")


def tables(network: Network, names: Mapping[fx.Node, str]) -> list[str]:
    """The shapes of all weights by name, and the attributes that are not called like them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.stored.items()}
    own = {
        n.target: names[n].removeprefix("self.") for n in network.graph.nodes if n.op == "get_attr"
    }
    if network.samples is not None:
        own |= {name: name.rpartition(".")[2] for name in network.samples.tensors}
    unlike = {name: other for name, other in own.items() if other != attribute_of(name)}
    lines = ["# fmt: off", "SHAPES = {"]
    lines += table(f"{name!a}: {shape}" for name, shape in shapes.items())
    lines += ["}"]
    if unlike:
        lines += ["ATTRIBUTES = {"]
        lines += table(f"{name!a}: {other!r}" for name, other in unlike.items())
        lines += ["}"]
    return [*lines, "# fmt: on"]


def registering(lines: Sequence[str]) -> list[str]:
    """The statements of ``__init__`` that register the weights of the tables."""
    attribute = 'name.replace(".", "_")'
    if "ATTRIBUTES = {" in lines:
        attribute = f"ATTRIBUTES.get(name, {attribute})"
    return ["for name in SHAPES:", f"    self.register_buffer({attribute}, weights[name])"]


@dataclass(frozen=True)
class Recipe:
    """How something that follows from one weight alone is computed.

    Attributes
    ----------
    name
        The local variable.
    suffix
        What follows the weight's name in that of the attribute.
    text
        The expression, of ``weight`` and other recipes' names.
    stored
        Whether it becomes an attribute.
    """

    name: str
    suffix: str
    text: str
    stored: bool


def deriving(network: Network, names: Mapping[fx.Node, str]) -> list[str]:
    """The statements that compute what follows from the weights."""
    nodes = [node for node in network.layers if not facts_of(node).batched]
    by_root: dict[fx.Node, list[fx.Node]] = {}
    alone: list[fx.Node] = []
    root_of: dict[fx.Node, fx.Node | None] = {}
    for node in nodes:
        roots = {root_of.get(source, source) for source in node.all_input_nodes}
        root_of[node] = roots.pop() if len(roots) == 1 else None
    for node in nodes:
        root = root_of[node]
        by_root.setdefault(root, []).append(node) if root is not None else alone.append(node)
    groups: dict[tuple[Recipe, ...], list[fx.Node]] = {}
    for root, members in by_root.items():
        recipes = recipes_of(root, members, names, set(alone))
        if recipes is None:
            alone += members
        else:
            groups.setdefault(recipes, []).append(root)
    lines: list[str] = []
    for recipes, weights in groups.items():
        if len(weights) < LEAST:
            alone += by_root[weights[0]]
        else:
            lines += loop(recipes, [names[w].removeprefix("self.") for w in weights])
    order = {node: index for index, node in enumerate(nodes)}
    alone.sort(key=order.__getitem__)
    block = Block(alone, names, set(alone))
    lines.append("# fmt: off")
    for node in alone:
        name, value = names[node], block.expression(node)
        if name.startswith("self."):
            name = name.removeprefix("self.")
            lines += filled(f'self.register_buffer("{name}", {value}, persistent=False)')
        else:
            lines += filled(f"{name} = {value}")
    return [*lines, "# fmt: on"] if nodes else []


def recipes_of(
    root: fx.Node, members: Sequence[fx.Node], names: Mapping[fx.Node, str], others: set[fx.Node]
) -> tuple[Recipe, ...] | None:
    """How what follows from a weight is computed; None where it is not called after the weight."""
    stem = names[root].removeprefix("self.")
    local: dict[fx.Node, str] = {root: "weight"}
    suffixes: dict[fx.Node, str] = {}
    reserved = reserved_names() | RESERVED
    for node in members:
        full = names[node].removeprefix("self.")
        temporary = not names[node].startswith("self.")
        if any(user in others for user in node.users) and temporary:
            return None
        if not full.startswith(f"{stem}_") or not full[len(stem) + 1 :].isidentifier():
            return None
        suffixes[node] = full[len(stem) + 1 :]
        local[node] = suffixes[node] + "_" * (suffixes[node] in reserved)
    if len(set(local.values())) < len(local) or "name" in local.values():
        return None
    block = Block(members, local, {n for n in members if names[n].startswith("self.")})
    return tuple(
        Recipe(local[node], suffixes[node], block.expression(node), names[node].startswith("self."))
        for node in members
        if node not in block.inlined
    )


def loop(recipes: Sequence[Recipe], weights: Sequence[str]) -> Iterator[str]:
    """A loop over weights, and what it computes of each."""
    yield "for name in ("
    yield from names_in_lines(weights, indent=12)
    yield ").split():"
    yield "    weight = self._buffers[name]"
    for index, recipe in enumerate(recipes):
        value = recipe.text
        if not recipe.stored or any(mentions(other, recipe) for other in recipes[index + 1 :]):
            yield f"    {recipe.name} = {value}"
            value = recipe.name
        if recipe.stored:
            attribute = f'name + "_{recipe.suffix}"'
            yield f"    self.register_buffer({attribute}, {value}, persistent=False)"


def mentions(other: Recipe, recipe: Recipe) -> bool:
    """Whether one recipe reads the result of another."""
    return re.search(rf"(?<![\w.]){recipe.name}\b", other.text) is not None
