"""What the lowering passes ensure: conditions on the networks that they return."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from graphprop.ir.facts import facts_of, has_shape, shape_of
from graphprop.ir.names import is_keyword
from graphprop.ir.network import Network
from graphprop.ir.rewrite import may_be_one
from graphprop.ir.verify import Condition, Fault, for_each_layer
from graphprop.lowering.flow import in_flow
from graphprop.ops import Operator
from graphprop.rules.registry import Method

PRINTERS = {"torch": Operator.source, "onnx": Operator.onnx}
"""The method by which an operator is printed for a target; that of the base class prints none."""


def relevances_written(method: Method) -> Condition:
    """The relevance of each layer's result, in each flow, has the shape of that result."""

    def faults(network: Network) -> Iterator[Fault]:
        relevances = network.output.args[0][2]
        for node in network.layers:
            label = facts_of(node).records
            for flow in method.flow_names:
                r = None if label is None else relevances.get(in_flow(label, flow))
                if r is not None and shape_of(r) != shape_of(node):
                    yield Fault(r, f"it has the shape {shape_of(r)}, {node.name} {shape_of(node)}")

    return Condition("the relevance of every layer has the shape of the layer's result", faults)


def _repeated(network: Network) -> Iterator[Fault]:
    seen: dict[object, list[fx.Node]] = {}
    for node in network.layers:
        if not node.users:
            yield Fault(node, "nothing reads it")
        known = seen.setdefault((node.target, node.args), [])
        for first in known:
            if may_be_one(first, node):
                yield Fault(node, f"{first.name} is the same")
        known.append(node)


SIMPLIFIED = Condition("nothing is computed twice, or in vain", _repeated)


def printable(target: str) -> Condition:
    """Every operator prints as source or ONNX of the target."""
    missing = PRINTERS[target]

    def complaint(node: fx.Node) -> str | None:
        if any(not has_shape(operand) for operand in node.all_input_nodes):
            # one of several results is named where they are computed, and needs no text of its own
            return None
        own = getattr(type(node.target), missing.__name__)
        name = node.target.__name__
        return f"{name} has no method {missing.__name__!r}" if own is missing else None

    return for_each_layer(f"every operator can be printed for {target}", complaint)


def _misnamed(node: fx.Node) -> str | None:
    if not node.name.isidentifier() or is_keyword(node.name):
        return "its name can't be that of a variable"
    return None


NAMED = for_each_layer("every name can be that of a variable", _misnamed)
