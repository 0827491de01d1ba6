"""Tag roles: what each layer is for, found by data flow.

========== ==================================================================================
``input``      weighted layers that read the graph's input through nothing weighted
``dense_head`` weighted layers behind the last value with more than one place
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

import networkx as nx
from torch import fx

from graphprop.errors import MethodError, UnsupportedOperator, nearest
from graphprop.ir.facts import facts_of, layout_of, range_of, shape_of, where
from graphprop.ir.network import Network
from graphprop.ir.writer import Argument
from graphprop.ops import Pad, Signal, Trait
from graphprop.ops.base import Window

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
        facts_of(node).signal = signal_operands(node)
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
        facts_of(node).roles = frozenset(roles[node])
        facts_of(node).depth = depths.get(node, 0)
    override(network, overrides or {})
    return network


def primary_role(roles: frozenset[str]) -> str:
    """The one role to show where there is room for one."""
    return next((role for role in ROLES if role in roles), "")


def live_operands(node: fx.Node) -> tuple[int, ...]:
    """The operands of a node that depend on the input, those left out that only step."""
    return tuple(
        index
        for index, argument in enumerate(node.args)
        if isinstance(argument, fx.Node)
        and facts_of(argument).batched
        and facts_of(argument).varies
    )


def signal_operands(node: fx.Node) -> tuple[int, ...]:
    """The operands of a node that relevance flows to, by what its operator declares."""
    live, declared = live_operands(node), node.target.signal
    if isinstance(declared, tuple):
        return tuple(index for index in live if index in declared)
    if declared is Signal.FACTORS and len(live) == 2:
        gate = gate_operand(node)
        return tuple(index for index in live if index != gate)
    return live[:1] if declared is Signal.FIRST else live


def dead_end(node: fx.Node) -> UnsupportedOperator:
    """The refusal of a node that relevance reaches, and none of whose operands it flows to."""
    if not facts_of(node).varies:
        return UnsupportedOperator(
            f"the value at {where(node)} only steps (a comparison, an index), so that there is "
            "nothing to hand its relevance to. Let it choose between values, or scale one"
        )
    return UnsupportedOperator(
        f"the quotient at {where(node)} has a constant numerator: its divisor scales no "
        "signal, so that there is nothing to hand its relevance to. Divide the signal "
        "itself, or explain the layer before by a gradient method"
    )


def gate_operand(node: fx.Node) -> int | None:
    """Which of the two operands of a product is a gate, None where neither is.

    The first that decides: exactly one is a reciprocal (then the product is a quotient); exactly
    one lies within [0, 2]; exactly one lies within [-2, 2]; exactly one has one place where the
    other has more, having been computed from the whole map (docs/methods.md, section 0).
    """
    ranges = [range_of(operand) for operand in node.args]
    places = [places_of(operand) for operand in node.args]
    for found in (
        [is_reciprocal(operand) for operand in node.args],
        [found.within(0.0, GATE_LIMIT) for found in ranges],
        [found.within(-GATE_LIMIT, GATE_LIMIT) for found in ranges],
        [count == 1 for count in places],
    ):
        if sum(found) == 1:
            return found.index(True)
    return None


GATE_LIMIT = 2.0
"""How large a gate can be: 1 + erf and 2 * sigmoid, as in GELU and SE written out, reach 2."""


def is_reciprocal(operand: Argument) -> bool:
    """Whether a value is ``c / x`` with a constant c, broadcast or scaled by constants."""
    while isinstance(operand, fx.Node) and operand.op == "call_function":
        target, live = operand.target, live_operands(operand)
        if target.has(Trait.NEGATIVE_POWER) or (target.has(Trait.QUOTIENT) and 0 not in live):
            return True
        if len(live) != 1 or not (target.has(Trait.ALIGNMENT) or target.has(Trait.PRODUCT)):
            return False
        operand = operand.args[live[0]]
    return False


def places_of(operand: Argument) -> int:
    """How many places a value has that can differ from each other."""
    layout = layout_of(operand) if isinstance(operand, fx.Node) else None
    return 1 if layout is None else layout.places


def signal_flow(network: Network) -> nx.DiGraph:
    """The graph of the ways that relevance takes, drawn in the direction of computation."""
    flow = nx.DiGraph()
    for node in network.layers:
        flow.add_node(node)
        for index in facts_of(node).signal:
            flow.add_edge(node.args[index], node)
    result = network.output.args[0]
    flow.add_edge(result, network.output)
    return flow


def dense_head(flow: nx.DiGraph, weighted: list[fx.Node]) -> set[fx.Node]:
    """The weighted layers after the last value with several places (docs/methods.md, section 0).

    The first of them may read that value: a dense layer behind a flattening, or a convolution whose
    kernel covers the map without padding. At a small picture, convolutions see one place that would
    see more at a larger one; a padded kernel that is wider than its map shows that. What lies
    before such a layer, or beside it, is no head, and neither are the convolutions behind it up to
    a pooling.
    """
    overlapping = [node for node in weighted if is_wider_than_map(node)]
    pooled = [node for node in flow if node.op != "output" and is_pooled(node)]
    head = set()
    for node in weighted:
        if node in overlapping or not (places_of(node.args[0]) == 1 or covers_map(node)):
            continue
        behind = nx.descendants(flow, node)
        if any(places_of(other) > 1 for other in (node, *behind) if other.op != "output"):
            continue
        before = nx.ancestors(flow, node)
        beside = {wide for wide in overlapping if nx.ancestors(flow, wide) & before}
        if beside and not node.target.has(Trait.DENSE):
            ends = [pool for pool in pooled if pool in before]
        else:
            ends = [node]
        if any(beside <= nx.ancestors(flow, end) | {end} for end in ends):
            head.add(node)
    return head


def is_pooled(node: fx.Node) -> bool:
    """Whether a value has one place because it was pooled, be it from a map of one place."""
    if node.op != "call_function" or places_of(node) > 1 or len(shape_of(node)) < 3:
        return False
    pools = node.target.has(Trait.POOLING) or node.target.has(Trait.REDUCTION)
    return facts_of(node).pooled or pools


def covers_map(node: fx.Node) -> bool:
    """Whether each result of a weighted layer reads its entire map, and no padding."""
    window = window_of(node)
    if window is None:
        return node.target.has(Trait.DENSE) and places_of(node) == 1
    return window.spans == lengths_of_map(node) and not any(window.padding)


def is_wider_than_map(node: fx.Node) -> bool:
    """Whether a layer has a padded kernel that is wider than the map it reads."""
    window, lengths = window_of(node), lengths_of_map(node)
    if window is None:
        return False
    axes = zip(window.spans, window.padding, lengths, strict=True)
    return any(padding and span > length for span, padding, length in axes)


def window_of(node: fx.Node) -> Window | None:
    """The windows of a convolution; None for any other layer.

    Zeros that the model puts around the map in a layer of its own count as padding.
    """
    window: Window | None = node.target.window(*map(shape_of, node.all_input_nodes))
    source = node.args[0]
    if window is None or not isinstance(source.target, Pad):
        return window
    around = source.target.amounts[2:]
    return Window(
        window.spans, tuple(p + max(*a, 0) for p, a in zip(window.padding, around, strict=True))
    )


def lengths_of_map(node: fx.Node) -> tuple[int, ...]:
    """The lengths of the map that a layer reads, without the zeros of a `Pad` before it."""
    source = node.args[0]
    source = source.args[0] if isinstance(source.target, Pad) else source
    return shape_of(source)[2:]


def shortcuts(flow: nx.DiGraph, network: Network) -> set[fx.Node]:
    """The nodes on the shallower branch of each residual add."""
    joins = [n for n in flow if n.op == "call_function" and n.target.has(Trait.SUM)]
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


def flow_branch(flow: nx.DiGraph, fork: fx.Node | str, end: fx.Node) -> set[fx.Node]:
    """The nodes on the ways from a fork to the end of one of its branches."""
    if end is fork:
        return set()
    return (nx.descendants(flow, fork) & nx.ancestors(flow, end)) | {end}


def depths_of(flow: nx.DiGraph) -> dict[fx.Node, int]:
    """How many weighted and pooling layers lie on the longest way to each node."""
    depths: dict[fx.Node, int] = {}
    for node in nx.topological_sort(flow):
        before = [
            depths[p] + (p.op == "call_function" and adds_depth(p)) for p in flow.predecessors(node)
        ]
        depths[node] = max(before, default=0)
    return depths


def adds_depth(node: fx.Node) -> bool:
    """Whether an operator counts as a layer: those with weights, and poolings."""
    return node.target.weighted or node.target.has(Trait.POOLING)


def override(network: Network, overrides: Mapping[str, str]) -> None:
    """Apply the user's roles."""
    for pattern, role in overrides.items():
        if role not in ROLES:
            raise MethodError(f"there is no role {role!r}: {nearest(role, ROLES)}")
        if role == "gate":
            raise MethodError(f"{pattern!r} can't be made a gate: that follows from the data flow")
        hits = [node for node in network.weighted if matches(pattern, node)]
        if not hits:
            known = (facts_of(node).label for node in network.weighted)
            raise MethodError(
                f"the role pattern {pattern!r} matches no layer: {nearest(pattern, known)}"
            )
        for node in hits:
            kept = facts_of(node).roles - {"dense_head", "conv_stack", "gate", "input"}
            base = facts_of(node).roles & {"dense_head", "conv_stack"} if role == "input" else set()
            facts_of(node).roles = frozenset(kept | base | {role})


def matches(pattern: str, node: fx.Node) -> bool:
    """Whether a pattern names a node: by path, label, operator, class of module, or role.

    A plain pattern is compared with the path and label (``features.*``), the operator (``conv``)
    and the class of the user's module (``Conv2d``); ``role:NAME`` and ``type:NAME`` say which.
    """
    kind, colon, rest = pattern.partition(":")
    if colon and kind == "role":
        return rest in facts_of(node).roles
    types = (node.target.__name__, facts_of(node).kind)
    if colon and kind == "type":
        return any(fnmatchcase(name, rest) for name in types)
    names = (facts_of(node).path, facts_of(node).label, *types)
    return any(name == pattern or fnmatchcase(name, pattern) for name in names if name)
