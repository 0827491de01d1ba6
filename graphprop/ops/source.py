"""Printing calls as torch source, the way a person writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def name_of(helper: str | Callable[..., Any]) -> str:
    """What a helper is called in generated source."""
    return helper if isinstance(helper, str) else helper.__name__


def source_tuple(numbers: Sequence[int]) -> str:
    """Print a per-axis attribute the way a person writes it: one number where all are equal."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    return "(" + ", ".join(map(str, numbers)) + ")"


def source_call(function: str, *arguments: str, **options: tuple[Any, Any]) -> str:
    """Print a call, leaving out every option (value, default) that has its default."""
    shown = list(arguments)
    for name, (value, default) in options.items():
        if value != default:
            printed = source_tuple(value) if isinstance(value, tuple) else repr(value)
            shown.append(f"{name}={printed}")
    return f"{function}({', '.join(shown)})"
