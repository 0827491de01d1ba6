"""Printing calls as torch source, the way a person writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias


class Named:
    """A constant that prints as a name, and is its value in everything else.

    An operator with such constants as attributes prints as source in which they are variables.

    Attributes
    ----------
    name
        The variable.
    value
        The constant.
    as_number
        Whether one number may stand for equal ones of all axes, wherever the name was printed.
    """

    name: str
    value: Any
    as_number: bool

    def __repr__(self) -> str:
        self.as_number = False
        return self.name

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, form: str) -> str:
        return repr(self)


class NamedTuple(Named, tuple[Any, ...]):
    """A tuple that prints as a name."""


class NamedInt(Named, int):
    """A whole number that prints as a name."""


class NamedFloat(Named, float):
    """A number that prints as a name."""


Constant: TypeAlias = int | float | tuple[Any, ...]

KINDS: dict[type, type[Any]] = {tuple: NamedTuple, int: NamedInt, float: NamedFloat}


def named(name: str, value: Constant) -> Any:
    """A constant that prints as a name; its type must be a key of `KINDS`."""
    found = KINDS[type(value)](value)
    found.name, found.value, found.as_number = name, value, True
    return found


def name_of(helper: str | Callable[..., Any]) -> str:
    """What a helper is called in generated source."""
    return helper if isinstance(helper, str) else helper.__name__


def source_tuple(numbers: Sequence[int]) -> str:
    """Print a per-axis attribute the way a person writes it: one number where all are equal."""
    if isinstance(numbers, Named):
        return numbers.name
    if len(set(numbers)) == 1:
        return str(numbers[0])
    return "(" + ", ".join(map(str, numbers)) + ")"


def source_call(function: str, *arguments: str, **options: tuple[Any, Any]) -> str:
    """Print a call, leaving out every option (value, default) that has its default."""
    shown = list(arguments)
    for name, (value, default) in options.items():
        if isinstance(value, Named) or value != default:
            printed = source_tuple(value) if isinstance(value, tuple) else repr(value)
            shown.append(f"{name}={printed}")
    return f"{function}({', '.join(shown)})"
