"""From what the user names to a model that can be captured.

A model is named by a SOURCE: ``path/model.py``, ``path/model.py:attribute`` or
``package.module:callable``. Its file is code and is run; its weights are data (`weights`).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphprop.errors import GraphpropError, InputError, LoadError, kind_of, nearest
from graphprop.frontend.capture import Example, first_line, is_user_file, unwrapped
from graphprop.frontend.weights import load_weights

STANDARD_NAMES = ("model", "build_model")
"""The names a file may give its model, in the order in which they are looked for."""

PREPROCESSING = (
    "it must be a dictionary such as {'size': [224, 224], 'mean': [0.5, 0.5, 0.5], "
    "'std': [0.2, 0.2, 0.2]}"
)
"""What a file's ``preprocessing`` looks like, for errors."""


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
        ``size`` (the spatial shape of an input), and ``mean`` and ``std`` per channel, by which a
        picture with values in [0, 1] becomes an input: ``(picture - mean) / std``.
    """

    model: nn.Module
    example: Example
    name: str
    source: str
    sha256: str | None
    notes: list[str]
    preprocessing: dict[str, list[Any]] | None


def load_source(
    source: str, *, weights: Path | None = None, input_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Build the model that ``source`` names.

    Without an attribute, a file's model is ``model``, else what ``build_model()`` returns, else the
    only subclass of ``torch.nn.Module`` defined there that can be built without arguments. The file
    may import its neighbors, and may define ``example_input`` and ``preprocessing``. It runs with
    torch's random numbers seeded, so that a model without weights is the same each time.

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


def read_code(file: Path) -> bytes:
    """Read the user's file."""
    if not file.is_file():
        neighbors = (path.name for path in file.parent.glob("*.py"))
        raise LoadError(f"there is no file {shorten(file)}{suggest(file.name, neighbors)}")
    return file.read_bytes()


def execute(file: Path, code: bytes) -> ModuleType:
    """Run the user's file as a module with a name of its own."""
    stem = re.sub(r"\W", "_", file.stem)
    name = f"_graphprop_source_{stem}_{hashlib.sha256(code).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        with user_code(f"{file.name} can't be run", file.parent):
            exec(compile(code, str(file), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_extension(name: str) -> None:
    """Run a file or import a module for what it registers: rules and methods.

    Parameters
    ----------
    name
        ``path/rules.py``, which may import its neighbors, or a module as Python would import it.

    Raises
    ------
    LoadError
        If there is no such file or module, or it fails.
    """
    if name.endswith(".py"):
        file = Path(name).absolute()
        code = read_code(file)
        with importing_from(file.parent), redirect_stdout(sys.stderr):
            execute(file, code)
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise LoadError(f"{name!r} is neither a .py file nor the name of a module")
    try:
        with redirect_stdout(sys.stderr):
            import_package(name)
    except LoadError as error:
        beside = Path(*name.split(".")).with_suffix(".py")
        if str(error).startswith("there is no module") and beside.is_file():
            raise LoadError(f"there is no module {name!r}: did you mean {beside}?") from error
        raise


def import_package(package: str) -> ModuleType:
    """Import the module that holds the user's callable."""
    try:
        with user_code(f"{package} can't be imported", None):
            return importlib.import_module(package)
    except LoadError as error:
        cause = error.__cause__
        absent = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if absent and f"{package}.".startswith(f"{absent}."):
            what = f"{package!r} (no {absent!r})" if absent != package else repr(package)
            raise LoadError(
                f"there is no module {what}: install the package into this environment, or give "
                "the path of a .py file"
            ) from cause
        raise


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
        which = "; ".join(f"{name} needs {listed(required(c))}" for name, c in classes.items())
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
            f"{name!r} in {where} needs {listed(required(found))}: give "
            f"{'them defaults' if len(required(found)) > 1 else 'it a default'}, or write a "
            "function without arguments, build_model(), that returns the model"
        )
    with user_code(f"{name}() in {where} fails", folder):
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


# The input: its shape, and how a picture becomes one.


def example_input(
    holders: Iterable[Any], input_shape: tuple[int, ...] | None, folder: Path | None
) -> Example:
    """Find or make two samples of the model's input."""
    for holder in holders:
        example = getattr(holder, "example_input", None)
        if input_shape is not None and not isinstance(example, torch.Tensor):
            continue
        if callable(example):
            with user_code("example_input() fails", folder):
                example = example()
        if example is not None and input_shape is not None:
            return torch.zeros(2, *input_shape, dtype=two_samples_of_one(example).dtype)
        if example is not None:
            return two_samples(example)
    if input_shape is not None:
        return torch.zeros(2, *input_shape)
    raise InputError(
        "the shape of the model's input is unknown: give it without the batch, "
        "--input-shape C,H,W, or define example_input (a tensor of shape [N, C, H, W]) in the file"
    )


def two_samples(example: Any) -> Example:
    """Check an ``example_input`` and make a batch of two of it."""
    if isinstance(example, Mapping) and example:
        return {str(name): two_samples_of_one(part) for name, part in example.items()}
    if isinstance(example, tuple | list) and example:
        parts = tuple(two_samples_of_one(part) for part in example)
        return parts[0] if len(parts) == 1 else parts
    return two_samples_of_one(example)


def two_samples_of_one(example: Any) -> torch.Tensor:
    """Check an example of one input and make a batch of two of it."""
    if not isinstance(example, torch.Tensor):
        raise InputError(
            f"example_input is {kind_of(example)}: it must be a tensor, or one for each input of "
            "the model in a tuple or by name in a dict, or a function that returns that"
        )
    if example.is_complex() or example.dtype == torch.bool or example.is_quantized:
        kind = str(example.dtype).removeprefix("torch.")
        raise InputError(f"example_input is of type {kind}: it must hold numbers, as images do")
    if example.dim() < 2 or example.numel() == 0:
        raise InputError(
            f"example_input has the shape {tuple(example.shape)}: it must hold at least one "
            "sample, the batch being the first axis, as in [N, C, H, W]"
        )
    two = example[:2] if example.shape[0] >= 2 else example.repeat(2, *[1] * (example.dim() - 1))
    dtype = torch.float32 if two.is_floating_point() else two.dtype
    return two.detach().to("cpu", dtype).clone()


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what isn't the shape of one sample."""
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(
            f"the input shape {','.join(map(str, shape)) or '()'} must be whole numbers above "
            "zero, without the batch: --input-shape C,H,W, such as 3,224,224"
        )


def refuse_batch(model: nn.Module, example: Example, shape: tuple[int, ...]) -> None:
    """Refuse a shape that begins with the batch: the model runs without that length alone."""
    if len(shape) < 3 or not isinstance(example, torch.Tensor):
        return
    if not runs(model, example) and runs(model, example.new_zeros(2, *shape[1:])):
        text = ",".join(map(str, shape))
        raise InputError(
            f"the input shape {text} begins with the batch, {shape[0]}: give it without, "
            f"--input-shape {','.join(map(str, shape[1:]))}"
        )


def runs(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether a model runs on an input."""
    try:
        with torch.no_grad():
            model(x)
    except Exception:
        return False
    return True


def preprocessing_of(
    module: ModuleType, example: Example, *, follow: bool
) -> dict[str, list[Any]] | None:
    """Read the file's ``preprocessing``; ``follow``: its size gives way to the example's.

    There is none for a model with several inputs. One that takes whole numbers, bytes of a picture,
    gets them as they are unless the file says otherwise.
    """
    if not isinstance(example, torch.Tensor):
        return None
    given = getattr(module, "preprocessing", None)
    given = {} if given is None or isinstance(given, ModuleType) else given
    if not isinstance(given, Mapping):
        raise LoadError(f"preprocessing is {kind_of(given)}: {PREPROCESSING}")
    known = ("size", "mean", "std")
    for key in given:
        if key not in known:
            raise LoadError(f"preprocessing has no {key!r}: {nearest(str(key), known)}")
    channels, *spatial = example.shape[1:]
    size = numbers(given, "size", spatial, len(spatial), "axes")
    mean = numbers(given, "mean", [0.0] * channels, channels, "channels")
    unit = 1.0 if example.is_floating_point() else 1 / 255
    std = numbers(given, "std", [unit] * channels, channels, "channels")
    if size != spatial and not follow:
        raise LoadError(
            f"preprocessing makes inputs of size {size}, but the model's input has the size "
            f"{spatial}: make them equal, or leave the size out"
        )
    if min(std) <= 0:
        raise LoadError(f"the std of preprocessing is {std}: every one must be above zero")
    return {"size": spatial, "mean": [float(m) for m in mean], "std": [float(s) for s in std]}


def numbers(
    given: Mapping[str, Any], key: str, default: list[Any], count: int, of: str
) -> list[Any]:
    """One entry of ``preprocessing``: a list of finite numbers, as many as there are axes."""
    if key not in given:
        return default
    value = given[key]
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple) or not all(
        isinstance(v, int | float) and math.isfinite(v) for v in value
    ):
        raise LoadError(f"the {key} of preprocessing is {value!r}: {PREPROCESSING}")
    if len(value) != count:
        raise LoadError(
            f"the {key} of preprocessing has {len(value)} values, but the input has {count} {of}"
        )
    return list(value)


# How the user's code is run.


@contextmanager
def user_code(what: str, folder: Path | None) -> Iterator[None]:
    """Report an error in the user's code with its file and line."""
    try:
        yield
    except GraphpropError:
        raise
    except (Exception, SystemExit) as error:
        line = location(error, folder)
        hint = ""
        if "relative import" in str(error):
            hint = ". Import neighbors by their plain names, or give package.module:callable"
        raise LoadError(
            f"{what}{f' ({line})' if line else ''}: {type(error).__name__}: "
            f"{error.msg if isinstance(error, SyntaxError) else first_line(error)}{hint}"
        ) from error


def location(error: BaseException, folder: Path | None) -> str:
    """The innermost line of the user's code on an error's way, as ``file:line``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_user_file(frame.filename) and (folder is None or lies_in(folder, frame.filename)):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return ""


def lies_in(folder: Path, file: str) -> bool:
    """Whether a file is the user's own, in this folder, and not installed into it."""
    path = Path(file)
    return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Let the user's file import its neighbors, and forget them afterwards.

    Another model's neighbors may have the same names: both are to get their own.
    """
    neighbors = {path.stem for path in folder.glob("*.py")}
    neighbors |= {path.parent.name for path in folder.glob("*/__init__.py")}
    neighbors -= {"__init__", "__main__", "graphprop", *sys.stdlib_module_names}
    foreign = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in neighbors and is_elsewhere(module, folder)
    }
    for name in foreign:
        del sys.modules[name]
    before = set(sys.modules)
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in neighbors - before:
                del sys.modules[name]
        sys.modules.update(foreign)


def is_elsewhere(module: ModuleType, folder: Path) -> bool:
    """Whether a module comes from a file that is neither in the folder nor installed."""
    file = getattr(module, "__file__", None)
    if not file:
        return False
    return "site-packages" not in file and not Path(file).is_relative_to(folder)


@contextmanager
def seeded() -> Iterator[None]:
    """Seed torch's random numbers, and leave them afterwards as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


# Questions to ask of the user's objects, and words for the answers.


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


def shorten(file: Path) -> str:
    """Show a path as the user would write it."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def listed(names: list[str]) -> str:
    """Name arguments."""
    return f"{'the arguments' if len(names) > 1 else 'the argument'} {', '.join(names)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what the user may have meant, unless that would be a long list."""
    names = list(known)
    if not names:
        return ""
    tail = nearest(name, names)
    return f": {tail}" if tail.startswith("did you mean") or len(names) <= 12 else ""
