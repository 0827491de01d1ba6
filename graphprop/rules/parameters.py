"""The parameters of methods and rules: which values they can have, and what the user's come to."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from graphprop.errors import MethodError, nearest
from graphprop.rules.registry import Method

CHOICES: Mapping[str, tuple[str, ...]] = {
    "active": ("input", "support"),
    "bias": ("sink", "ignored"),
    "input": ("zB", "flow"),
    "lost": ("drop", "spread"),
    "negative": ("both", "inhibitory"),
    "norm": ("pass", "affine"),
    "nu": ("inhibitory", "printed"),
    "residual": ("signed", "absolute"),
    "units": ("active", "all"),
}
"""Parameters whose values are words, and the words.

A parameter of a user's own rule can have one of these names and another meaning: the words are
enforced only where its default is one of them.
"""


def one_of(name: str, value: object) -> None:
    """Refuse a value that is none of a parameter's words.

    Raises
    ------
    MethodError
        Naming the words.
    """
    if value not in CHOICES[name]:
        known = " or ".join(map(repr, CHOICES[name]))
        raise MethodError(f"{name} is {known}, not {value!r}")


def resolve_parameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's parameters: its defaults, the user's values, and what switches set.

    Parameters
    ----------
    method
        Declares the parameters, their defaults and limits (see `Method`).
    given
        The user's values. They take precedence over what a switch sets.

    Raises
    ------
    MethodError
        If the method has no such parameter, or the value is of the wrong kind.
    """
    parameters = method.defaults
    for name, value in given.items():
        if name not in parameters:
            raise MethodError(
                f"the method {method.name!r} has no parameter {name!r}: {nearest(name, parameters)}"
            )
        parameters[name] = checked_value(method, name, parameters[name], value)
    for switch, settings in method.switches.items():
        if parameters[switch]:
            parameters.update({k: v for k, v in settings.items() if k not in given})
    return parameters


def checked_value(method: Method, name: str, default: Any, value: Any) -> Any:
    """One value, converted to the type of the default.

    Raises
    ------
    MethodError
        If it is of another kind, outside the parameter's limits, or refused by the method.
    """
    if name == "start" and value == 1 and isinstance(value, int):
        value = "one"  # "start = 1" is how papers write it
    if default in CHOICES.get(name, ()):
        one_of(name, value)
    if isinstance(value, str) and (name, value) in method.refused:
        reason = method.refused[name, value]
        raise MethodError(f"{method.name!r} can't have {name}={value}: {reason}")
    number = is_number(default) and name not in method.arrays
    if number and not is_number(value):
        raise MethodError(f"the parameter {name!r} is a number, not {value!r}")
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if name in method.limits and isinstance(default, int) and value % 1:
        raise MethodError(f"{name} is a whole number, not {value:g}")
    low, high = method.limits.get(name, (-inf, inf))
    if number and not low <= value <= high:
        raise MethodError(f"{name} lies between {low:g} and {high:g}, not {value:g}")
    return value


def is_number(value: object) -> bool:
    """Whether a value is a number; a truth value is none, though Python counts it as an int."""
    return isinstance(value, int | float) and not isinstance(value, bool)
