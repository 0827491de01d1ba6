"""Loading a model: from what the user names to a module that can be captured.

A model is named by a SOURCE: ``path/model.py``, ``path/model.py:attribute`` or
``package.module:callable``. Its file is code and is run; its weights are data (`weights`).
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphprop.errors import LoadError, kind_of
from graphprop.frontend.capture import Example, unwrapped
from graphprop.frontend.inputs import (
    check_shape,
    class_names_of,
    example_input,
    preprocessing_of,
    refuse_batch,
)
from graphprop.frontend.user_code import (
    execute,
    import_package,
    importing_from,
    read_code,
    seeded,
    suggest,
    user_errors,
)
from graphprop.frontend.weights import load_weights

STANDARD_NAMES = ("model", "build_model")
"""The names of a file's model, in the order in which they are looked for."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be captured, and what is known about it.

    Attributes
    ----------
    model
        The network: float32, on the CPU, in evaluation mode.
    example
        An input, float32 ``[2, ...]``; only its shape matters.
    name
        A short name, such as ``"vgg16"``: the attribute's or the file's.
    source
        The SOURCE as given, without directories.
    sha256
        The hash of the model file, None where the model comes from a package.
    notes
        What was done to the model that the user should know.
    preprocessing
        How a picture becomes an input, as `graphprop.frontend.preprocessing` records it; None where
        the file doesn't say.
    class_names
        What the classes are called, in order, where the file says so.
    """

    model: nn.Module
    example: Example
    name: str
    source: str
    sha256: str | None
    notes: list[str]
    preprocessing: dict[str, Any] | None
    class_names: tuple[str, ...] | None = None


def load_source(
    source: str, *, weights: Path | None = None, input_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Build the model that ``source`` names.

    Without an attribute, a file's model is ``model``, else what ``build_model()`` returns, else the
    only subclass of ``torch.nn.Module`` defined there that can be built without arguments. The file
    may import its neighbors, and may define ``example_input``, ``preprocessing`` and
    ``class_names``. It runs with torch's random numbers seeded, so that a model without weights is
    the same each time.

    Parameters
    ----------
    source
        ``path/model.py``, ``path/model.py:attribute`` or ``package.module:callable``. An attribute
        is a module, a class or a function, the latter two being called without arguments.
    weights
        A state dict to load into the model, see `load_weights`.
    input_shape
        The shape of one input, without the batch; it goes before the file's ``example_input``.

    Raises
    ------
    LoadError
        If the source names no model, several, or one that can't be built.
    InputError
        If the shape of an input is unknown or isn't one.
    WeightsError
        If the weights can't be read or don't fit.
    """
    file, package, attribute = parse(source)
    if input_shape is not None:
        check_shape(input_shape)
    code = read_code(file) if file else b""
    notes: list[str] = []
    where, folder = (file.name, file.parent) if file else (package, None)
    with importing_from(folder) if folder else nullcontext(), seeded(), redirect_stdout(sys.stderr):
        module = execute(file, code) if file else import_package(package)
        name, found = pick(module, attribute, where)
        model = unwrap(build(found, name, where, folder), notes)
        example = example_input((model, found, module), input_shape, folder)
        class_names = class_names_of(module, where, folder)
    make_ready(model, notes)
    if input_shape is not None:
        refuse_batch(model, example, input_shape)
    if weights is not None:
        notes += load_weights(model, Path(weights))
    stem = file.stem if file else package.rpartition(".")[2]
    return LoadedModel(
        model=model,
        example=example,
        name=stem if attribute in ("", *STANDARD_NAMES) else name,
        source=f"{where}:{attribute}" if attribute else where,
        sha256=hashlib.sha256(code).hexdigest() if file else None,
        notes=notes,
        preprocessing=preprocessing_of(module, example, follow=input_shape is not None),
        class_names=class_names,
    )


# The source: which file or package, and which attribute of it.


def parse(source: str) -> tuple[Path | None, str, str]:
    """Split a SOURCE into a file or a package, and an attribute ("" for none)."""
    if source.endswith(".py"):
        return Path(source).absolute(), "", ""
    left, colon, attribute = source.rpartition(":")
    if not colon or "/" in attribute or "\\" in attribute:
        left, attribute = source, ""
    if left.endswith(".py"):
        if not attribute:
            raise LoadError(f"{source!r} names nothing after the colon: give {left}:NAME or {left}")
        return Path(left).absolute(), "", attribute
    if not left.endswith("/") and Path(f"{left}.py").is_file():
        raise LoadError(f"{left} is not a .py file: did you mean {left}.py?")
    if "/" in left or Path(left).is_file() or left.endswith((".pt", ".pth", ".onnx")):
        raise LoadError(
            f"{left} is not a .py file: graphprop compiles the Python code of a model. Give the "
            "file that defines it, and trained weights by --weights"
        )
    if not attribute or not all(part.isidentifier() for part in left.split(".")):
        raise LoadError(
            f"{source!r} is neither a .py file nor of the form package.module:callable, such as "
            "torchvision.models:resnet50"
        )
    return None, left, attribute


def source_file(source: str) -> Path | None:
    """The file that a SOURCE names, None where it names a package."""
    return parse(source)[0]


def pick(module: ModuleType, attribute: str, where: str) -> tuple[str, Any]:
    """Find the model, or what builds it, in a module."""
    if attribute:
        if not hasattr(module, attribute):
            known = [name for name in vars(module) if is_candidate(module, name)]
            raise LoadError(f"{where} has no {attribute!r}{suggest(attribute, known)}")
        return attribute, getattr(module, attribute)
    for name in STANDARD_NAMES:
        if hasattr(module, name):
            return name, getattr(module, name)
    classes = {
        value.__name__: value
        for value in vars(module).values()
        if is_module_class(value) and value.__module__ == module.__name__
    }
    ready = [name for name, value in classes.items() if not required(value)]
    if len(ready) == 1:
        return ready[0], classes[ready[0]]
    if ready:
        raise LoadError(
            f"{where} defines several models: {', '.join(ready)}. Say which by "
            f"{where}:NAME, or name one of them: model = {ready[-1]}()"
        )
    if classes:
        which = "; ".join(
            f"{name} needs {arguments_text(required(c))}" for name, c in classes.items()
        )
        raise LoadError(
            f"{where} defines no model that can be built without arguments ({which}): "
            "add a function build_model() that returns the model"
        )
    raise LoadError(
        f"{where} defines no model: it needs a torch.nn.Module called model, a function "
        "build_model() that returns one, or a subclass of torch.nn.Module"
    )


def build(found: Any, name: str, where: str, folder: Path | None) -> nn.Module:
    """Make a model of a module, a class or a function."""
    if isinstance(found, nn.Module):
        return found
    if not callable(found) or (isinstance(found, type) and not is_module_class(found)):
        raise LoadError(
            f"{name!r} in {where} is {kind_of(found)}: it must be a torch.nn.Module, or a class "
            "or function that makes one"
        )
    if required(found):
        raise LoadError(
            f"{name!r} in {where} needs {arguments_text(required(found))}: give "
            f"{'them defaults' if len(required(found)) > 1 else 'it a default'}, or write a "
            "function without arguments, build_model(), that returns the model"
        )
    with user_errors(f"{name}() in {where} fails", folder):
        model = found()
    if not isinstance(model, nn.Module):
        raise LoadError(f"{name}() in {where} returns {kind_of(model)}, not a torch.nn.Module")
    return model


def unwrap(model: nn.Module, notes: list[str]) -> nn.Module:
    """Take a model out of what only changes how it is run."""
    model, wrappers = unwrapped(model)
    notes += wrappers
    for module in model.modules():
        if module._compiled_call_impl is not None:  # what module.compile() sets
            notes.append(f"{type(module).__name__} was compiled in place; taken uncompiled")
            module._compiled_call_impl = None
    if isinstance(model, torch.jit.ScriptModule):
        raise LoadError(
            "the model is a TorchScript module, which has no Python code to capture: give the "
            "module that was scripted, and its weights by --weights"
        )
    return model


def make_ready(model: nn.Module, notes: list[str]) -> None:
    """Bring a model to the CPU, to float32 and into evaluation mode."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise LoadError(
            "the model has lazy layers whose size isn't known yet: run it once on an input where "
            "it is built"
        )
    if any(tensor.is_meta for tensor in tensors):
        raise LoadError(
            "the model lies on the meta device, without weights: call to_empty(device='cpu') and "
            "load its weights, or build it on the CPU"
        )
    if any(tensor.device.type != "cpu" for tensor in tensors):
        model.to("cpu")
        notes.append("the model was on another device; compiled for the CPU")
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
        model.float()
        notes.append("the model was not in float32; compiled in float32")
    if any(module.training for module in model.modules()):
        model.eval()
        notes.append("the model was in training mode; compiled in evaluation mode")


# What the user's objects are


def is_module_class(value: Any) -> bool:
    """Whether a value is a class of modules."""
    return isinstance(value, type) and issubclass(value, nn.Module)


def is_candidate(module: ModuleType, name: str) -> bool:
    """Whether a name may be what a user meant."""
    value = getattr(module, name)
    makes = is_module_class(value) or inspect.isfunction(value)
    return not name.startswith("_") and (makes or isinstance(value, nn.Module))


def required(function: Callable[..., Any]) -> list[str]:
    """The arguments without which a class or function can't be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def arguments_text(names: list[str]) -> str:
    """The names of arguments, for messages."""
    return f"{'the arguments' if len(names) > 1 else 'the argument'} {', '.join(names)}"
