"""A network as a plain list of layers: what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprop.errors import OutputError

Shape = tuple[int, ...]
Operand = str | int
"""The label of a layer, or the index of an input."""


@dataclass(frozen=True)
class Layer:
    """A layer as it is drawn.

    Attributes
    ----------
    label
        The path in the user's model, made unique.
    operator
        graphprop's operator.
    shape
        Of the result, without the batch.
    operands
        What it reads: labels of layers before it, or the index of an input.
    signal
        Those of them that relevance flows to; None for an input, whichever it is.
    role, roles
        The most specific role, and all of them; none for a layer without weights.
    rule
        The rule with its parameters; None where no relevance arrives.
    sign
        Which signs its input can have.
    places
        The lengths of the axes along which a map extends: the stage that it belongs to.
    kind, details, line
        The class of the user's module, kernel and stride, and the source line.
    folded
        The batch norms that were merged into it, with what was done.
    """

    label: str
    operator: str
    shape: Shape
    operands: tuple[Operand, ...]
    signal: tuple[str | None, ...] = ()
    role: str = ""
    roles: tuple[str, ...] = ()
    rule: str | None = None
    sign: str = ""
    places: Shape = ()
    kind: str = ""
    details: str = ""
    line: str | None = None
    folded: tuple[str, ...] = ()

    @property
    def gate(self) -> bool:
        """Whether no relevance arrives: it only scales a signal."""
        return self.rule is None

    def carries(self, operand: Operand) -> bool:
        """Whether relevance flows to an operand."""
        return not self.gate and (operand if isinstance(operand, str) else None) in self.signal


@dataclass(frozen=True)
class Graph:
    """A network as it is drawn.

    Attributes
    ----------
    title
        What the picture is called.
    inputs
        The shapes of the inputs, without the batch.
    layers
        The layers in the order of computation.
    notes
        What stands under the title, one line each.
    """

    title: str
    inputs: tuple[Shape, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = field(default=())


def graph_of(
    title: str,
    inputs: Iterable[Sequence[int]],
    layers: Iterable[Mapping[str, Any]],
    batch_norms: Mapping[str, str],
    notes: Iterable[str] = (),
) -> Graph:
    """Read the layers as a manifest lists them; the batch norms by what was done with each.

    Parameters
    ----------
    title, inputs, notes
        As in `Graph`.
    layers
        The entries of ``layers`` in a manifest. Without ``operands``, which graphprop 0.2 did not
        write, the ways of relevance are drawn alone.
    batch_norms
        Label of a batch norm -> what was done with it, and why.

    Raises
    ------
    OutputError
        If a layer has another's label, or reads what is no layer before it and no input.
    """
    shapes = tuple(tuple(shape) for shape in inputs)
    folded: dict[str, list[str]] = {}
    entries = list(layers)
    targets = {f"merged into {entry['label']}{end}": entry["label"] for entry in entries
               for end in ("", ", which follows it")}  # fmt: skip
    for name, decision in batch_norms.items():
        if decision in targets:
            folded.setdefault(targets[decision], []).append(name)
    found: dict[str, Layer] = {}
    for entry in entries:
        label = entry["label"]
        signal = tuple(entry.get("signal", ()))
        operands = entry.get("operands")
        if operands is None:
            operands = [0 if one is None else one for one in signal]
        for operand in operands:
            known = operand in found if isinstance(operand, str) else operand < len(shapes)
            if not known:
                raise OutputError(
                    f"the layer {label!r} reads {operand!r}, which is no layer before it and no "
                    "input"
                )
        if label in found:
            raise OutputError(f"two layers are called {label!r}")
        found[label] = Layer(
            label=label,
            operator=entry.get("operator", ""),
            shape=tuple(entry["shape"]),
            operands=tuple(dict.fromkeys(operands)),
            signal=signal,
            role=entry.get("role", ""),
            roles=tuple(entry.get("roles", ())),
            rule=entry["rule"],
            sign=entry.get("sign", ""),
            places=tuple(entry.get("places", ())),
            kind=entry.get("kind", ""),
            details=entry.get("details", ""),
            line=entry.get("line"),
            folded=tuple(folded.get(label, ())),
        )
    return Graph(title, shapes, tuple(found.values()), tuple(notes))


def graph_of_manifest(manifest: Mapping[str, Any]) -> Graph:
    """The network that a manifest describes; see `graphprop.artifact.manifest.read_manifest`."""
    return graph_of(
        f"{manifest['model']}, {manifest['method']}",
        manifest["input_shapes"],
        manifest["layers"],
        manifest.get("batch_norms", {}),
    )
