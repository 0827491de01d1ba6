"""Tag roles: what each layer is for, found by data flow.

========== ==================================================================================
``input``      weighted layers that read the graph's input through nothing weighted
``dense_head`` weighted layers that follow the last spatial activation
``conv_stack`` the other weighted layers on the way of relevance
``logits``     the last weighted layers
``shortcut``   weighted layers on the shallower branch of a residual add
``gate``       weighted layers that only scale a signal: no relevance reaches them
========== ==================================================================================

The first four can hold together: a layer has the set of its roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import networkx as nx
from torch import fx

from graphprop.errors import MethodError, nearest
from graphprop.network import Network, shape_of
from graphprop.ops import (
    Activation,
    Add,
    Cat,
    Clamp,
    Conv,
    ConvTranspose,
    Divide,
    Multiply,
    Softmax,
    Subtract,
)
from graphprop.ops.windows import Pooling

ROLES = ("gate", "input", "dense_head", "conv_stack", "shortcut", "logits")


def tag_roles(network: Network, overrides: Mapping[str, str] | None = None) -> Network:
    """Give every node its roles, its depth and the operands that relevance flows to.

    Parameters
    ----------
    overrides
        Pattern of a layer's path or label -> role; replaces the role that was found.

    Raises
    ------
    MethodError
        If an override names no role, or matches no weighted layer.
    """
    for node in network.layers:
        node.meta["signal"] = signal_operands(node)
    flow = signal_flow(network)
    relevant = nx.ancestors(flow, network.output) if network.output in flow else set()
    flow = flow.subgraph([*relevant, network.output])
    weighted = [node for node in network.weighted if node in relevant]
    roles: dict[fx.Node, set[str]] = {node: set() for node in network.layers}
    for node in network.weighted:
        if node not in relevant:
            roles[node].add("gate")
    head = dense_head(flow, weighted)
    for node in weighted:
        roles[node].add("dense_head" if node in head else "conv_stack")
        if not any(other in weighted for other in nx.ancestors(flow, node)):
            roles[node].add("input")
        if not any(other in weighted for other in nx.descendants(flow, node)):
            roles[node].add("logits")
    for node in shortcuts(flow, network):
        if node in weighted:
            roles[node].add("shortcut")
    depths = depths_of(flow)
    for node in network.layers:
        node.meta["roles"] = frozenset(roles[node])
        node.meta["depth"] = depths.get(node, 0)
    override(network, overrides or {})
    return network


def primary_role(roles: frozenset[str]) -> str:
    """The one role to show where there is room for one."""
    return next((role for role in ROLES if role in roles), "")


def live_operands(node: fx.Node) -> tuple[int, ...]:
    """The operands of a node that depend on the input."""
    return tuple(
        index
        for index, argument in enumerate(node.args)
        if isinstance(argument, fx.Node) and argument.meta["batched"]
    )


def signal_operands(node: fx.Node) -> tuple[int, ...]:
    """The operands of a node that relevance flows to."""
    live = live_operands(node)
    if isinstance(node.target, Divide):
        return (0,) if 0 in live else ()
    if isinstance(node.target, Multiply) and len(live) == 2:
        strength = [gating(node.args[index]) for index in live]
        if strength[0] == strength[1]:
            return live
        return (live[0] if strength[0] < strength[1] else live[1],)
    if isinstance(node.target, Add | Subtract | Multiply | Cat):
        return live
    return live[:1]


def gating(node: fx.Node) -> int:
    """How much a value looks like a gate: 2 after a sigmoid and its like, 1 after a clamp, else 0.

    A clamp (ReLU6) also serves as a plain non-linearity, so a sigmoid beside it is the gate. To
    multiply by a reciprocal is to divide, and so a gate.
    """
    while node.op == "call_function":
        target = node.target
        if isinstance(target, Clamp):
            return int(target.bounded)
        if isinstance(target, Softmax):
            return 2 if target.bounded else 0
        if isinstance(target, Activation):
            return 2 if target.bounded else 0
        live = [a for a in node.args if isinstance(a, fx.Node) and a.meta["batched"]]
        if isinstance(target, Divide) and node.args[0] not in live:
            return 2
        if target.weighted or len(live) != 1:
            return 0
        node = live[0]
    return 0


def signal_flow(network: Network) -> nx.DiGraph:
    """The graph of the ways that relevance takes, drawn in the direction of computation."""
    flow = nx.DiGraph()
    for node in network.layers:
        flow.add_node(node)
        for index in node.meta["signal"]:
            flow.add_edge(node.args[index], node)
    result = network.output.args[0]
    flow.add_edge(result, network.output)
    return flow


def spatial_extent(node: fx.Node) -> int:
    """How many places a value has beside batch and channels."""
    extent = 1
    for length in shape_of(node)[2:]:
        extent *= length
    return extent


def dense_head(flow: nx.DiGraph, weighted: list[fx.Node]) -> set[fx.Node]:
    """The weighted layers that follow the last spatial activation.

    A convolution on a map of one place counts only behind a pooling that made it so: at a small
    image size, the last convolutions of any network see one place.
    """
    spatial = {n for n in flow if n.op != "output" and spatial_extent(n) > 1}
    wide = {
        n
        for n in weighted
        if isinstance(n.target, Conv | ConvTranspose)
        and any(length > 1 for length in shape_of(n.args[1])[2:])
    }
    blocked = spatial | wide
    pooled = {
        n
        for n in flow
        if n.op == "call_function"
        and isinstance(n.target, Pooling)
        and spatial_extent(n) == 1 < spatial_extent(n.args[0])
    }
    head = set()
    for node in weighted:
        if node in wide or node.args[0] in spatial:
            continue
        if any(other in blocked for other in nx.descendants(flow, node)):
            continue
        convolution = isinstance(node.target, Conv | ConvTranspose)
        if convolution and not (nx.ancestors(flow, node) & pooled):
            continue
        head.add(node)
    return head


def shortcuts(flow: nx.DiGraph, network: Network) -> set[fx.Node]:
    """The nodes on the shallower branch of each residual add."""
    joins = [n for n in flow if n.op == "call_function" and isinstance(n.target, Add | Subtract)]
    joins = [n for n in joins if len(set(flow.predecessors(n))) == 2]
    if not joins:
        return set()
    roots = [n for n in flow if flow.in_degree(n) == 0]
    rooted = nx.DiGraph(flow)
    rooted.add_edges_from(("root", node) for node in roots)
    dominators = nx.immediate_dominators(rooted, "root")
    depths = depths_of(flow)
    found: set[fx.Node] = set()
    for join in joins:
        fork = dominators[join]
        first, second = (flow_branch(rooted, fork, branch) for branch in rooted.predecessors(join))
        depth_of = [max((depths.get(n, 0) for n in b), default=-1) for b in (first, second)]
        if depth_of[0] != depth_of[1]:
            found |= first if depth_of[0] < depth_of[1] else second
    return found


def flow_branch(flow: nx.DiGraph, fork: Any, end: fx.Node) -> set[fx.Node]:
    """The nodes on the ways from a fork to the end of one of its branches."""
    if end is fork:
        return set()
    return (nx.descendants(flow, fork) & nx.ancestors(flow, end)) | {end}


def depths_of(flow: nx.DiGraph) -> dict[fx.Node, int]:
    """How many weighted and pooling layers lie on the longest way to each node."""
    depths: dict[fx.Node, int] = {}
    for node in nx.topological_sort(flow):
        before = [
            depths[p] + (p.op == "call_function" and (p.target.weighted or _is_pool(p)))
            for p in flow.predecessors(node)
        ]
        depths[node] = max(before, default=0)
    return depths


def _is_pool(node: fx.Node) -> bool:
    return isinstance(node.target, Pooling)


def override(network: Network, overrides: Mapping[str, str]) -> None:
    """Apply the user's roles."""
    for pattern, role in overrides.items():
        if role not in ROLES:
            raise MethodError(f"there is no role {role!r}: {nearest(role, ROLES)}")
        if role == "gate":
            raise MethodError(f"{pattern!r} can't be made a gate: that follows from the data flow")
        hits = [node for node in network.weighted if matches(pattern, node)]
        if not hits:
            known = (node.meta["label"] for node in network.weighted)
            raise MethodError(
                f"the role pattern {pattern!r} matches no layer: {nearest(pattern, known)}"
            )
        for node in hits:
            kept = node.meta["roles"] - {"dense_head", "conv_stack", "gate", "input"}
            base = node.meta["roles"] & {"dense_head", "conv_stack"} if role == "input" else set()
            node.meta["roles"] = frozenset(kept | base | {role})


def matches(pattern: str, node: fx.Node) -> bool:
    """Whether a pattern names a node: by path, label, operator, class of module, or role.

    A plain pattern is compared with the path and label (``features.*``), the operator (``conv``)
    and the class of the user's module (``Conv2d``); ``role:NAME`` and ``type:NAME`` say which.
    """
    kind, colon, rest = pattern.partition(":")
    if colon and kind == "role":
        return rest in node.meta["roles"]
    types = (node.target.__name__, node.meta.get("kind", ""))
    if colon and kind == "type":
        return any(fnmatchcase(name, rest) for name in types)
    names = (node.meta.get("path", ""), node.meta.get("label", ""), *types)
    return any(name == pattern or fnmatchcase(name, pattern) for name in names if name)
