"""Assign rules: every layer that relevance passes ends with exactly one rule.

The user's map comes first, then the method's table, first match wins; a layer without weights
that neither names gets its operator's own rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any

from torch import fx

from graphprop.errors import MethodError, nearest
from graphprop.ir.facts import facts_of, where
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation
from graphprop.ops import Pad, Trait
from graphprop.passes.tag_roles import ROLES, adds_depth, dead_end, live_operands, matches
from graphprop.rules.registry import RULES, BoundRule, Method, find_rule

RuleMap = Mapping[str, str | BoundRule | tuple[str, Mapping[str, Any]]]


def assign_rules(
    network: Network,
    method: Method,
    parameters: Mapping[str, Any],
    user_rules: RuleMap | None = None,
) -> Network:
    """Give each layer its rule.

    Parameters
    ----------
    parameters
        The method's parameters, defaults filled in.
    user_rules
        Pattern -> rule, as a name, ``(name, parameters)`` or a bound rule.

    Raises
    ------
    MethodError
        If a rule or parameter doesn't exist, a pattern matches no layer, or a weighted layer ends
        without a rule.
    """
    chosen = []
    for pattern, rule in (user_rules or {}).items():
        named = layers_named(pattern, network)
        if not named:
            known = [facts_of(node).label for node in network.weighted]
            raise MethodError(
                f"the rule pattern {pattern!r} matches no layer: {nearest(pattern, known)}"
            )
        chosen.append((named, bind_rule(rule, parameters)))
    count_in_stack(network)
    reached = {network.output.args[0]}
    for node in reversed(network.layers):
        facts_of(node).rule = None
        if node not in reached or is_beside(node, network, method):
            continue
        hits = [rule for named, rule in chosen if node in named]
        found = hits[0] if hits else from_method(node, method, parameters)
        if found.rule.everywhere:
            facts_of(node).signal = live_operands(node)
        elif not facts_of(node).signal:
            raise dead_end(node)
        kind = found.rule.fits
        if kind is not None and not kind.test(node.target):
            raise MethodError(
                f"the rule {found.name!r} does not fit {where(node)} ({node.target.__name__}): it "
                f"is for {kind.what}. {rules_that_fit(node)}"
            )
        facts_of(node).rule = found
        reached |= {node.args[index] for index in facts_of(node).signal}
    if method.needs is not None and not any(map(method.needs.test, operators_of(network))):
        raise MethodError(
            f"{method.name!r} differs from the gradient at {method.needs.what} alone, and the "
            "network has none that relevance passes: use 'gradient', or another method"
        )
    network.notes += totals_changed(network)
    return network


def operators_of(network: Network) -> list[Operation]:
    """The operators that relevance passes."""
    return [node.target for node in network.layers if facts_of(node).rule is not None]


def rules_that_fit(node: fx.Node) -> str:
    """Name the rules that are for a layer of this kind, for messages."""
    kinds = {name: one.fits for name, one in RULES.items() if one.fits is not None}
    fitting = {
        name
        for name, kind in kinds.items()
        if kind.test(node.target) and not kind.refuses(node.target)
    }
    own = {node.target.relevance} if node.target.relevance else set()
    return f"Rules that fit there: {', '.join(sorted({*fitting, *own, 'gradient'}))}"


def count_in_stack(network: Network) -> None:
    """Count the layers with weights before each layer of the conv stack, and before each pool.

    They are counted along the longest way. A pool is as far as the next layer with weights behind
    it; those behind the whole stack are as far as its last layer. The head is at infinity.
    """
    before: dict[fx.Node, float] = {}
    for node in network.layers:
        ways = [node.args[index] for index in facts_of(node).signal]
        counts = [before[way] + way.target.weighted for way in ways if way in before]
        head = node.target.weighted and "conv_stack" not in facts_of(node).roles
        before[node] = inf if head else max(counts, default=0)
    counted = [before[node] for node in network.weighted if before[node] < inf]
    for node in network.layers:
        place = before[node]
        if not counted or not adds_depth(node):
            place = inf
        facts_of(node).place_in_stack = place if place == inf else min(place, max(counted))


def totals_changed(network: Network) -> list[str]:
    """The note on what becomes of the total where alpha and beta do not differ by 1."""
    factors: dict[fx.Node, float] = {}
    longest: dict[fx.Node, int] = {}
    for node in network.layers:
        rule = facts_of(node).rule
        if rule is not None and rule.name == "alpha_beta":
            alpha, beta = rule.parameters["alpha"], rule.parameters["beta"]
            if alpha - beta != 1:
                factors[node] = alpha - beta
        before = (longest.get(node.args[index], 0) for index in facts_of(node).signal)
        longest[node] = max(before, default=0) + (node in factors)
    if not factors:
        return []
    names = [facts_of(node).label for node in factors]
    shown = ", ".join(map(repr, names[:3])) + f" and {len(names) - 3} more" * (len(names) > 3)
    text = (
        f"alpha - beta is not 1 at {shown}: where a unit has excitatory and inhibitory inputs, the "
        f"rule multiplies its total by {', '.join(f'{f:g}' for f in sorted(set(factors.values())))}"
    )
    row = max(longest.values())
    if row > 1 and len(set(factors.values())) == 1:
        (factor,) = set(factors.values())
        text += f", by {factor**row:g} after the {row} layers that follow one another"
    return [f"{text}; where alpha - beta is 1 it is conserved"]


def is_beside(node: fx.Node, network: Network, method: Method) -> bool:
    """Whether no flow passes a layer that relevance could reach.

    That is so beside the way to the layer where a method makes its map, and, where the map is what
    it ends with, before that layer.
    """
    if network.map_layer is None or facts_of(node).above:
        return False
    return not (method.continues_to_input and facts_of(node).below)


def layers_named(pattern: str, network: Network) -> list[fx.Node]:
    """The layers that a user's pattern is meant for.

    What a wildcard matches is restricted to layers with weights, if there are any among it:
    ``classifier.*`` is meant for the layers between the activations. Padding that is of a
    convolution's own module (``padding="same"``) is no layer beside it.
    """
    found = [node for node in network.layers if matches(pattern, node)]
    weighted = [node for node in found if node.target.weighted]
    if weighted and any(c in pattern for c in "*?["):
        return weighted
    paths = {facts_of(node).path for node in weighted}
    return [n for n in found if not (isinstance(n.target, Pad) and facts_of(n).path in paths)]


def from_method(node: fx.Node, method: Method, parameters: Mapping[str, Any]) -> BoundRule:
    """The rule that a method's table, or else the operator itself, gives a layer."""
    for entry in method.table:
        if applies(entry[0], node, parameters):
            own = dict(entry[2]) if len(entry) > 2 else {}
            return bind_rule((entry[1], own), parameters)
    if node.target.weighted:
        raise MethodError(
            f"the method {method.name!r} has no rule for {where(node)}: name one with --rule"
        )
    own_rule = node.target.rule_for(parameters)
    if own_rule is None:
        raise MethodError(f"{node.target.__name__} at {where(node)} has no rule of its own")
    return bind_rule(own_rule, parameters)


def applies(pattern: str, node: fx.Node, parameters: Mapping[str, Any]) -> bool:
    """Whether an entry of a method's table is meant for a layer."""
    if pattern == "*":
        return bool(node.target.weighted)
    if pattern == "**":
        return True
    if pattern == "rectifier":
        return bool(node.target.has(Trait.RECTIFIER))
    if pattern == "above":
        return bool(facts_of(node).above)
    if pattern in ROLES:
        return pattern in facts_of(node).roles
    if pattern.startswith("depth:"):
        return facts_of(node).place_in_stack < parameters[pattern[6:]]
    return matches(pattern, node)


def bind_rule(
    rule: str | BoundRule | tuple[str, Mapping[str, Any]], parameters: Mapping[str, Any]
) -> BoundRule:
    """A rule with its own parameters, and those of the method that it has, too."""
    if isinstance(rule, BoundRule):
        return rule
    name, own = (rule, {}) if isinstance(rule, str) else rule
    found = find_rule(name)
    shared = {key: value for key, value in parameters.items() if key in found.parameters}
    return found.bind(**{**shared, **own})


def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``RULE[:key=value,...]`` as the command line gives it."""
    name, _, rest = text.partition(":")
    own: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=\w+=)", rest)):
        key, equals, value = part.partition("=")
        if not equals:
            raise MethodError(f"write a rule's parameters as key=value, not {part!r}")
        own[key.strip()] = parse_value(value)
    return name.strip(), own


def parse_value(text: str) -> Any:
    """Read a parameter's value: a number, several separated by commas, or a word."""
    parts = text.split(",")
    if len(parts) > 1:
        return tuple(parse_value(part) for part in parts)
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
