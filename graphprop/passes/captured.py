"""The results of a captured program, and what they are computed from."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from graphprop.errors import CaptureError
from graphprop.frontend.capture import named_leaves
from graphprop.ir.writer import Value
from graphprop.ops.constants import LIKE

aten = torch.ops.aten


SHAPE_ONLY = {aten.sym_size.int, *LIKE}
"""What reads the shape and type of a tensor, not its values."""


def needed_for(result: fx.Node) -> set[fx.Node]:
    """The captured nodes that a result is computed from."""
    found: set[fx.Node] = set()
    waiting = [result]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def leaves(tree: Any) -> list[Any]:
    """Everything in nested lists, tuples and dicts."""
    return torch.utils._pytree.tree_leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Value))


def choose_output(program: ExportedProgram, wanted: str | int | None) -> tuple[str, fx.Node]:
    """The result to explain: the one that is named, or the only one that depends on the input."""
    values = {
        name: node
        for name, node in named_results(program).items()
        if isinstance(node, fx.Node) and depends_on_input(node, program)
    }
    shown = ", ".join(
        f"{name!r} of shape ({', '.join(map(str, ('N', *node.meta['val'].shape[1:])))})"
        for name, node in values.items()
    )
    if wanted is not None:
        if str(wanted) not in values:
            raise CaptureError(f"the model has no result {str(wanted)!r}: it returns {shown}")
        return str(wanted), values[str(wanted)]
    if len(values) != 1:
        raise CaptureError(
            f"the model returns {len(values)} results that depend on the input"
            f"{f': {shown}' if shown else ''}; graphprop explains one: choose it by --output NAME "
            "(in Python: output=NAME)"
        )
    return next(iter(values.items()))


def named_results(program: ExportedProgram) -> dict[str, Any]:
    """The model's results by name: keys and indices, joined by dots where they are nested.

    What it changes in place, inputs or buffers, is no result.
    """
    (found,) = next(n for n in program.graph.nodes if n.op == "output").args
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    found = [
        leaf
        for leaf, kind in zip(leaves(found), kinds, strict=True)
        if kind == OutputKind.USER_OUTPUT
    ]
    spec = program.call_spec.out_spec
    if spec is None:
        return {str(index): value for index, value in enumerate(found)}
    tree = torch.utils._pytree.tree_unflatten(range(len(found)), spec)
    return {name: found[place] for name, place in named_leaves(tree).items()}


def depends_on_input(node: fx.Node, program: ExportedProgram) -> bool:
    """Whether a captured tensor is computed from the values of an input, not from its shape."""
    inputs = set(program.graph_signature.user_inputs)
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        if current.name in inputs:
            return True
        if current.target in SHAPE_ONLY:
            continue
        waiting += [n for n in current.all_input_nodes if n not in seen]
        seen.update(current.all_input_nodes)
    return False
