"""Run a network node by node on tensors: the reference that every backend is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from graphprop.ir.network import Network


def interpret(
    network: Network,
    inputs: Mapping[str, torch.Tensor | int | None],
    *,
    dtype: torch.dtype = torch.float64,
    keep: Mapping[str, fx.Node] | None = None,
    observe: Callable[[fx.Node, torch.Tensor], torch.Tensor | None] | None = None,
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Compute a network's output, its floating-point tensors and inputs cast to ``dtype``.

    Parameters
    ----------
    inputs
        Placeholder -> tensor (``x``, ``target``).
    keep
        Name -> node whose value to return, too.
    observe
        Called with each operator node and its value; what it returns, unless that is None, takes
        the value's place.

    Returns
    -------
    output
        What the output node names, tensors in place of nodes.
    kept
        The values asked for.
    """
    values: dict[fx.Node, torch.Tensor | tuple[torch.Tensor, ...]] = {}
    wanted = set((keep or {}).values())
    needed = set(network.output.all_input_nodes)
    last = {operand: node for node in network.graph.nodes for operand in node.all_input_nodes}

    def cast(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floating else value

    with torch.no_grad():
        for node in network.graph.nodes:
            if node.op == "placeholder":
                values[node] = cast(inputs[node.target])
            elif node.op == "get_attr":
                values[node] = cast(network.tensors[node.target])
            elif node.op == "call_function":
                operands = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
                values[node] = node.target.run(*operands)
                if observe is not None:
                    replaced = observe(node, values[node])
                    values[node] = values[node] if replaced is None else replaced
            for operand in node.all_input_nodes:
                if last[operand] is node and operand not in wanted and operand not in needed:
                    del values[operand]
    output = fx.map_arg(network.output.args[0], lambda node: values[node])
    return output, {name: values[node] for name, node in (keep or {}).items()}
