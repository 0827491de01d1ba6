"""A network: a ``torch.fx.Graph`` of graphprop's operators, and the tensors it refers to.

What a graph holds depends on its level. A *canonical* network computes the model's logits; passes
analyze it, and give each layer a rule. A *lowered* one computes logits and relevance, by adjoints
and arithmetic that the rules wrote. At the levels *torch* and *onnx* it holds only operators that
the target prints. Which operators a level allows is declared by the operators themselves
(`graphprop.ir.operation.Operation.levels`), and checked by `graphprop.ir.verify`.

Every node carries facts, see `graphprop.ir.facts`. Nodes are written through a
`graphprop.ir.writer.Writer`, which infers shape, batch and range.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from graphprop.ir.facts import copy_facts, facts_of
from graphprop.ir.operation import Operation
from graphprop.ir.samples import Samples


class Place(int):
    """The index of the node that an operand is, while a network is pickled.

    A class of its own, so that it differs from operands that are numbers.
    """


@dataclass
class RewriteLog:
    """What the rules of a `RewriteTable` did to a network.

    Attributes
    ----------
    fired
        ``"rule: node (operator) -> node (operator)"``, in order.
    refused
        ``"rule: node (operator): reason"``, for nodes that are still there.
    """

    fired: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass
class Network:
    """A graph at one level of the compiler, with its tensors and what passes noted.

    Attributes
    ----------
    graph
        The nodes. Inputs are placeholders, tensors are ``get_attr`` nodes naming an entry of
        `tensors`, everything else calls an `Operator`. The output is the logits, or in a lowered
        graph ``(logits, relevance, {label: relevance of that layer's result})``, where relevance is
        a tuple if there are several inputs.
    tensors
        Parameters, buffers and constants by name.
    level
        ``"canonical"``, ``"lowered"``, ``"torch"`` or ``"onnx"``.
    notes
        What the user should know: a softmax was removed, the model was put into evaluation mode.
    decisions
        What was done with each batch norm, and why, by its label.
    tail
        What the model ends with, from a removed softmax or sigmoid on, in order: each operator,
        and its operands after the first. Its rearrangements (a selection of classes) are still in
        the graph.
    output_name
        Which of the model's results is explained; empty where it returns one alone.
    samples
        In a lowered graph: the inputs whose maps are averaged, if the map is such a mean.
    log
        What rewrite rules did since the pass before.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    level: str = "canonical"
    notes: list[str] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)
    tail: tuple[tuple[Operation, tuple[Any, ...]], ...] = ()
    output_name: str = ""
    samples: Samples | None = None
    log: RewriteLog = field(default_factory=RewriteLog)

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders, in the order of the model's arguments."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def output(self) -> fx.Node:
        """The output node."""
        return next(node for node in reversed(self.graph.nodes) if node.op == "output")

    @property
    def layers(self) -> list[fx.Node]:
        """The operator nodes in the order of computation."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def weighted(self) -> list[fx.Node]:
        """The layers with weights, in the order of computation."""
        return [node for node in self.layers if node.target.weighted]

    @property
    def logits_before_tail(self) -> fx.Node:
        """In a canonical network: the logits that the `tail` was applied to."""
        node = self.output.args[0]
        for target, _ in reversed(self.tail):
            if target.relevance == "rearrange":
                assert node.target == target
                node = node.args[0]
        return node

    def with_tail(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the `tail` to the logits before it: the model's own result."""
        for target, rest in self.tail:
            logits = target.run(logits, *rest)
        return logits

    @property
    def map_layer(self) -> fx.Node | None:
        """The layer at which the method makes its map, from `passes.find_layer`."""
        return next((node for node in self.layers if facts_of(node).map_layer), None)

    @property
    def maps(self) -> tuple[fx.Node, ...]:
        """In a lowered graph: the relevance of each input."""
        _, maps, _ = self.output.args[0]
        return maps if isinstance(maps, tuple) else (maps,)

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        """All tensors that the explainer needs: the network's, and those of its samples."""
        return self.tensors if self.samples is None else self.tensors | self.samples.tensors

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The tensor that a ``get_attr`` node names."""
        return self.tensors[node.target]

    def __getstate__(self) -> dict[str, Any]:
        """The graph as a list of its nodes: pickled by their links, they would nest too deep."""
        nodes = list(self.graph.nodes)
        places = {node: Place(index) for index, node in enumerate(nodes)}
        listed = [
            (node.op, node.target, fx.map_arg(node.args, places.__getitem__), node.name, node.meta)
            for node in nodes
        ]
        return {**self.__dict__, "graph": listed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the graph from the list."""
        self.__dict__.update(state)
        self.graph = fx.Graph()
        nodes: list[fx.Node] = []
        for op, target, args, name, meta in state["graph"]:
            args = fx.node.map_aggregate(args, lambda a: nodes[a] if isinstance(a, Place) else a)
            node = self.graph.create_node(op, target, args, name=name)
            node.name, node.meta = name, meta
            nodes.append(node)

    def copy(self) -> Network:
        """Copy the graph and its facts; tensors are shared."""
        graph = fx.Graph()
        mapping: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self.graph, mapping)
        graph.output(result)
        names = {node.name for node in self.graph.nodes}
        copied = replace(
            self,
            graph=graph,
            tensors=dict(self.tensors),
            notes=list(self.notes),
            decisions=dict(self.decisions),
            log=RewriteLog(list(self.log.fired), list(self.log.refused)),
        )
        for node, copy in mapping.items():
            copy_facts(node, copy)
        assert {node.name for node in graph.nodes} <= names | {"output"}
        return copied
