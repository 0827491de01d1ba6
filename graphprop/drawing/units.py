"""Units: the boxes of a picture, each a layer with the activations and reshapes behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from graphprop.drawing.graph import Graph, Layer

BOX_WIDTH = 208
HEAD_HEIGHT, FOLDED_HEIGHT, ROW_HEIGHT, INPUT_HEIGHT = 52, 14, 17, 36


@dataclass
class Unit:
    """A box: a layer, and layers that follow it alone and keep its size.

    Attributes
    ----------
    layers
        From the first to the last; none for an input.
    image
        The index of the input, or None.
    sources
        What its first layer reads: units, and whether relevance flows there.
    """

    layers: list[Layer]
    image: int | None = None
    sources: list[tuple[Unit, bool]] = field(default_factory=list)
    consumers: list[Unit] = field(default_factory=list)
    rank: int = 0
    slot: int = 0

    # Units are nodes of a graph: two are equal where they are the same.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def height(self) -> int:
        """How high its box is."""
        if not self.layers:
            return INPUT_HEIGHT
        first, *rest = self.layers
        return HEAD_HEIGHT + FOLDED_HEIGHT * len(first.folded) + ROW_HEIGHT * len(rest)

    @property
    def weight(self) -> int:
        """How many weighted layers it holds."""
        return sum(bool(layer.role) for layer in self.layers)


def units_of(graph: Graph) -> list[Unit]:
    """The units of a network in an order of computation, an input before what reads it first."""
    readers: dict[str | int, list[Layer]] = {}
    for layer in graph.layers:
        for operand in layer.operands:
            readers.setdefault(operand, []).append(layer)
    sizes = {layer.label: prod(layer.shape) for layer in graph.layers}
    owner: dict[str | int, Unit] = {}
    units: list[Unit] = []
    for layer in graph.layers:
        for operand in layer.operands:
            if isinstance(operand, int) and operand not in owner:
                units.append(Unit([], image=operand))
                owner[operand] = units[-1]
        before = layer.operands[0] if len(layer.operands) == 1 else 0
        if (
            isinstance(before, str)
            and not layer.role
            and len(readers[before]) == 1
            and sizes[before] == prod(layer.shape)
        ):
            unit = owner[before]
            unit.layers.append(layer)
        else:
            unit = Unit([layer])
            for operand in layer.operands:
                unit.sources.append((owner[operand], layer.carries(operand)))
                owner[operand].consumers.append(unit)
            units.append(unit)
        owner[layer.label] = unit
    return units
