"""Assign rules: every layer that relevance passes ends with exactly one rule.

The user's map comes first, then the method's table, first match wins; a layer without weights
that neither names gets its operator's own rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import fx

from graphprop.errors import MethodError, UnsupportedOperator, nearest
from graphprop.network import Network, where
from graphprop.ops import BatchNorm
from graphprop.ops.norm import SampleNorm
from graphprop.ops.windows import Pooling
from graphprop.passes.tag_roles import ROLES, live_operands, matches
from graphprop.rules.registry import BoundRule, Method, find_rule

BATCH_NORM_RULES = {"affine": "affine", "compensate": "compensate"}

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
            known = [node.meta["label"] for node in network.weighted]
            raise MethodError(
                f"the rule pattern {pattern!r} matches no layer: {nearest(pattern, known)}"
            )
        chosen.append((named, bound(rule, parameters)))
    reached = {network.output.args[0]}
    for node in reversed(network.layers):
        node.meta["rule"] = None
        if node not in reached or is_beside(node, network, method):
            continue
        hits = [rule for named, rule in chosen if node in named]
        found = hits[0] if hits else from_method(node, method, parameters)
        if found.rule.everywhere:
            node.meta["signal"] = live_operands(node)
        elif not node.meta["signal"]:
            raise UnsupportedOperator(
                f"the quotient at {where(node)} has a constant numerator: its divisor scales no "
                "signal, so that there is nothing to hand its relevance to. Divide the signal "
                "itself, or explain the layer before by a gradient method"
            )
        node.meta["rule"] = found
        reached |= {node.args[index] for index in node.meta["signal"]}
    return network


def is_beside(node: fx.Node, network: Network, method: Method) -> bool:
    """Whether no flow passes a layer that relevance could reach.

    That is so beside the way to the layer where a method makes its map, and, where the map is what
    it ends with, before that layer.
    """
    if network.middle is None or node.meta["above"]:
        return False
    return not (method.goes_on and node.meta["below"])


def layers_named(pattern: str, network: Network) -> list[fx.Node]:
    """The layers that a user's pattern is meant for.

    What a wildcard matches is restricted to layers with weights, if there are any among it:
    ``classifier.*`` is meant for the layers between the activations.
    """
    found = [node for node in network.layers if matches(pattern, node)]
    weighted = [node for node in found if node.target.weighted]
    return weighted if weighted and any(c in pattern for c in "*?[") else found


def from_method(node: fx.Node, method: Method, parameters: Mapping[str, Any]) -> BoundRule:
    """The rule that a method's table, or else the operator itself, gives a layer."""
    for entry in method.table:
        if applies(entry[0], node, parameters):
            own = dict(entry[2]) if len(entry) > 2 else {}
            return bound((entry[1], own), parameters)
    if node.target.weighted:
        raise MethodError(
            f"the method {method.name!r} has no rule for {where(node)}: name one with --rule"
        )
    own_rule = node.target.relevance
    if isinstance(node.target, BatchNorm):
        own_rule = BATCH_NORM_RULES.get(str(parameters.get("batch_norm")), own_rule)
    if isinstance(node.target, SampleNorm) and parameters.get("norm") == "affine":
        own_rule = "affine"
    if own_rule is None:
        raise MethodError(f"{node.target.__name__} at {where(node)} has no rule of its own")
    return bound(own_rule, parameters)


def applies(pattern: str, node: fx.Node, parameters: Mapping[str, Any]) -> bool:
    """Whether an entry of a method's table is meant for a layer."""
    if pattern == "*":
        return bool(node.target.weighted)
    if pattern == "**":
        return True
    if pattern == "above":
        return bool(node.meta["above"])
    if pattern in ROLES:
        return pattern in node.meta["roles"]
    if pattern.startswith("depth:"):
        layer = node.target.weighted or isinstance(node.target, Pooling)
        in_stack = not {"dense_head", "gate"} & node.meta["roles"]
        return bool(layer and in_stack and node.meta["depth"] < parameters[pattern[6:]])
    return matches(pattern, node)


def bound(
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
