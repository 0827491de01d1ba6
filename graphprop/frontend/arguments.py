"""Checks of the arguments of `graphprop.compile`: errors name what to pass instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from graphprop.errors import GraphpropError, InputError, LoadError, MethodError, kind_of
from graphprop.frontend.capture import Example
from graphprop.rules import Method
from graphprop.rules.registry import RULES, BoundRule


def check_model(model: object) -> None:
    """Refuse what is no model.

    Raises
    ------
    LoadError
        Saying what to pass in its place.
    """
    if isinstance(model, torch.jit.ScriptModule):
        advice = "pass the Python module that it was made from"
    elif isinstance(model, nn.Module):
        return
    elif isinstance(model, type):
        advice = f"pass an instance, made as by {model.__name__}()"
    elif isinstance(model, Mapping):
        advice = "that holds weights alone: build the model, call load_state_dict, and pass it"
    elif isinstance(model, ExportedProgram):
        advice = "pass the module that it was exported from"
    elif isinstance(model, str | PurePath):
        advice = "build the model from it first, or use `graphprop compile` on the command line"
    elif callable(model):
        advice = "pass a torch.nn.Module whose forward calls it"
    else:
        advice = "pass the network itself"
    raise LoadError(f"the model must be a torch.nn.Module, not {kind_of(model)}: {advice}")


def check_example(example: object) -> None:
    """Refuse what is no example input.

    Raises
    ------
    InputError
        Saying what to pass in its place.
    """
    wanted = "example_input must be a torch.Tensor [N, ...]"
    if isinstance(example, torch.Tensor):
        parts = [example]
    elif isinstance(example, Mapping):
        parts = list(example.values())
    elif isinstance(example, list | tuple):
        parts = list(example)
        if parts and all(isinstance(part, int) for part in parts):
            shape = ", ".join(map(str, parts))
            raise InputError(f"{wanted}, not a shape: pass torch.zeros({shape}), batch included")
    else:
        raise InputError(f"{wanted}, not {kind_of(example)}{as_tensor(example)}")
    if not parts:
        raise InputError(f"{wanted}, or several of them, not {kind_of(example)} without any")
    for part in parts:
        if not isinstance(part, torch.Tensor):
            raise InputError(
                f"{wanted}, or one for each input, not {kind_of(example)} of "
                f"{kind_of(part)}{as_tensor(part)}"
            )
        if part.dim() == 0:
            raise InputError(f"{wanted}, not a number: an input has a batch axis")


def as_tensor(value: object) -> str:
    """How an array becomes a tensor, for messages."""
    return ": pass torch.from_numpy of it" if type(value).__module__ == "numpy" else ""


def runs_with_batch(model: nn.Module, example: Example) -> bool:
    """Whether a model runs on an example once that has a batch axis, which it lacks."""
    parts = (example,) if isinstance(example, torch.Tensor) else example
    if isinstance(parts, Mapping):
        return False
    try:
        with torch.no_grad():
            model(*(part[None].clone() for part in parts))
    except Exception:
        return False
    return True


def check_method(method: object) -> None:
    """Refuse what is neither a method nor the name of one."""
    if not isinstance(method, str | Method):
        raise MethodError(
            f"a method is given by its name, as 'rap', or as a graphprop.Method, not as "
            f"{kind_of(method)}"
        )


def check_rules(rules: Any) -> None:
    """Refuse rules that are no mapping from patterns to rules."""
    check_mapping("rules", rules, "{'features.0': 'w_square'}")
    for pattern, rule in (rules or {}).items():
        if isinstance(rule, str | BoundRule) or is_rule_with_parameters(rule):
            continue
        names = [name for name, known in RULES.items() if rule in (known, known.function)]
        wanted = f"its name, {names[0]!r}" if names else "a name, as 'epsilon'"
        raise MethodError(
            f"the rule for {pattern!r} must be {wanted}, or a name with parameters, as "
            f"('epsilon', {{'epsilon': 0.1}}), not {kind_of(rule)}"
        )


def is_rule_with_parameters(rule: object) -> bool:
    """Whether something is ``(name, parameters)``."""
    if not isinstance(rule, list | tuple) or len(rule) != 2:
        return False
    return isinstance(rule[0], str) and isinstance(rule[1], Mapping)


def check_roles(roles: Any) -> None:
    """Refuse roles that are no mapping from patterns to roles."""
    check_mapping("roles", roles, "{'head.*': 'dense_head'}")
    for pattern, role in (roles or {}).items():
        if not isinstance(role, str):
            raise MethodError(
                f"the role for {pattern!r} must be a name, as 'dense_head', not {kind_of(role)}"
            )


def check_mapping(name: str, value: object, example: str) -> None:
    """Refuse what is no mapping whose keys are patterns."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise MethodError(f"{name} must be a dict, as {name}={example}, not {kind_of(value)}")
    for pattern in value:
        if not isinstance(pattern, str):
            raise MethodError(
                f"{name} must name layers by text, as {name}={example}, not by {kind_of(pattern)}"
            )


def check_names(
    name: str, value: object, example: str, error: type[GraphpropError] = MethodError
) -> None:
    """Refuse what is no list of names; a single name without a list, too."""
    if isinstance(value, str):
        raise error(f"{name} must be a list, as {name}=[{value!r}], not one text")
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, bytes):
        raise error(f"{name} must be a list, as {name}={example}, not {kind_of(value)}")
    for entry in value:
        if not isinstance(entry, str):
            raise error(f"{name} must be a list of texts, not of {kind_of(entry)}")


def check_class_names(names: Any, classes: int) -> None:
    """Refuse names that are not one for each class."""
    check_names("class_names", names, "['cat', 'dog']", InputError)
    if len(names) != classes:
        raise InputError(
            f"give one name for each of the {classes} classes, not {len(names)} (class_names; in a "
            "model's file also classes)"
        )
