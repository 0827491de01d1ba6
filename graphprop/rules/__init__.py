"""Rules (mathematics) and methods (tables of rules)."""

from graphprop.rules import comparisons, lrp, methods, rap, structure
from graphprop.rules.layer import Layer
from graphprop.rules.registry import (
    METHODS,
    RULES,
    BoundRule,
    Method,
    Rule,
    find_method,
    find_rule,
    method,
    rule,
)

__all__ = [
    "METHODS",
    "RULES",
    "BoundRule",
    "Layer",
    "Method",
    "Rule",
    "comparisons",
    "find_method",
    "find_rule",
    "lrp",
    "method",
    "methods",
    "rap",
    "rule",
    "structure",
]
