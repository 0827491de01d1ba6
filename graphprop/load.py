"""From what the user names to a model that can be captured.

A model is named by a SOURCE: ``path/model.py``, ``path/model.py:attribute`` or
``package.module:callable``. Its file is code and is run; its weights are data, and only tensors are
ever read from them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphprop.capture import first_line, is_user_file
from graphprop.errors import GraphpropError, InputError, LoadError, WeightsError, nearest

SHOWN = 5
"""How many keys of a state dict an error lists."""

STANDARD_NAMES = ("model", "build_model")
"""The names a file may give its model, in the order in which they are looked for."""


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
    example: torch.Tensor
    name: str
    source: str
    sha256: str | None
    notes: list[str]
    preprocessing: dict[str, list[Any]]


def load_source(
    source: str, *, weights: Path | None = None, input_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Build the model that ``source`` names.

    Without an attribute, a file's model is ``model``, else what ``build_model()`` returns, else the
    only subclass of ``torch.nn.Module`` defined there that can be built without arguments. The file
    may import its neighbours, and may define ``example_input`` and ``preprocessing``. It runs with
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
    folder = file.parent if file else None
    with importing_from(folder) if folder else nullcontext(), seeded(), redirect_stdout(sys.stderr):
        module = execute(file, code) if file else import_package(package)
        name, found = pick(module, attribute, file)
        model = unwrap(build(found, name, module, folder), notes)
        holders = (model, found, module)
        example = example_input(holders, input_shape, folder)
    make_ready(model, notes)
    if weights is not None:
        notes += load_weights(model, Path(weights))
    shown = f"{file.name}:{attribute}" if file and attribute else file.name if file else source
    return LoadedModel(
        model=model,
        example=example,
        name=name if attribute not in ("", *STANDARD_NAMES) else module_stem(file, package),
        source=shown,
        sha256=hashlib.sha256(code).hexdigest() if file else None,
        notes=notes,
        preprocessing=preprocessing_of(module, example, follow=input_shape is not None),
    )


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load a state dict into a model in place.

    Parameters
    ----------
    model
        The network. After an error it may be partly loaded.
    path
        A ``.safetensors`` file, or one written by ``torch.save``, which is read with
        ``weights_only=True`` and never otherwise. It holds a state dict, or a dictionary with one
        under ``state_dict``, ``model_state_dict`` or ``model``. A prefix that data parallelism or
        ``torch.compile`` has put before every key is removed.

    Returns
    -------
    list of str
        What was done to make the weights fit.

    Raises
    ------
    WeightsError
        If the file can't be read, holds anything but tensors, or doesn't fit the model.
    """
    path = Path(path)
    notes: list[str] = []
    state = state_dict_in(read_tensors(path), path, notes)
    own = model.state_dict()
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            if all(key.startswith(prefix) for key in own):
                break
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
            notes.append(f"the prefix {prefix!r} was removed from the keys of {path.name}")
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        text = misfit(own, state, own.keys() - state.keys(), state.keys() - own.keys())
        raise WeightsError(misfits(path, text or first_line(error))) from error
    text = misfit({}, {}, missing, unexpected)
    if text:
        raise WeightsError(misfits(path, text))
    return notes


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


def read_code(file: Path) -> bytes:
    """Read the user's file."""
    if not file.is_file():
        neighbours = (path.name for path in file.parent.glob("*.py"))
        raise LoadError(f"there is no file {shorten(file)}{suggest(file.name, neighbours)}")
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


def pick(module: ModuleType, attribute: str, file: Path | None) -> tuple[str, Any]:
    """Find the model, or what builds it, in a module."""
    where = file.name if file else module.__name__
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


def build(found: Any, name: str, module: ModuleType, folder: Path | None) -> nn.Module:
    """Make a model of a module, a class or a function."""
    where = Path(module.__file__ or "").name if folder else module.__name__
    if isinstance(found, nn.Module):
        return found
    if not callable(found) or (isinstance(found, type) and not is_module_class(found)):
        raise LoadError(
            f"{name!r} in {where} is {described(found)}: it must be a torch.nn.Module, or a class "
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
        raise LoadError(f"{name}() in {where} returns {described(model)}, not a torch.nn.Module")
    return model


def unwrap(model: nn.Module, notes: list[str]) -> nn.Module:
    """Take a model out of what only changes how it is run."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            notes.append(f"the model was wrapped in {type(model).__name__}; compiled without it")
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            notes.append("the model was wrapped by torch.compile; compiled without it")
            model = inner
        else:
            break
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
) -> torch.Tensor:
    """Find or make two samples of the model's input."""
    if input_shape is not None:
        return torch.zeros(2, *input_shape)
    for holder in holders:
        example = getattr(holder, "example_input", None)
        if callable(example) and not isinstance(example, torch.Tensor):
            with user_code("example_input() fails", folder):
                example = example()
        if example is not None:
            return two_samples(example)
    raise InputError(
        "the shape of the model's input is unknown: give it without the batch, "
        "--input-shape C,H,W, or define example_input (a tensor of shape [N, C, H, W]) in the file"
    )


def two_samples(example: Any) -> torch.Tensor:
    """Check an ``example_input`` and make a batch of two of it."""
    if not isinstance(example, torch.Tensor):
        raise InputError(
            f"example_input is {described(example)}: it must be one tensor, or a function that "
            "returns one; models with several inputs can't be compiled"
        )
    if not example.is_floating_point():
        kind = str(example.dtype).removeprefix("torch.")
        raise InputError(f"example_input is of type {kind}: it must be floating point, as images")
    if example.dim() < 2 or example.numel() == 0:
        raise InputError(
            f"example_input has the shape {tuple(example.shape)}: it must hold at least one "
            "sample, the batch being the first axis, as in [N, C, H, W]"
        )
    two = example[:2] if example.shape[0] >= 2 else example.repeat(2, *[1] * (example.dim() - 1))
    return two.detach().to("cpu", torch.float32).clone()


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what isn't the shape of one sample."""
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(
            f"the input shape {','.join(map(str, shape)) or '()'} must be whole numbers above "
            "zero, without the batch: --input-shape C,H,W, such as 3,224,224"
        )


def preprocessing_of(
    module: ModuleType, example: torch.Tensor, *, follow: bool
) -> dict[str, list[Any]]:
    """Read the file's ``preprocessing``; ``follow``: its size gives way to the example's."""
    given = getattr(module, "preprocessing", None)
    given = {} if given is None or isinstance(given, ModuleType) else given
    if not isinstance(given, Mapping):
        raise LoadError(f"preprocessing is {described(given)}: {PREPROCESSING}")
    known = ("size", "mean", "std")
    for key in given:
        if key not in known:
            raise LoadError(f"preprocessing has no {key!r}: {nearest(str(key), known)}")
    channels, *spatial = example.shape[1:]
    size = numbers(given, "size", spatial, len(spatial), "axes")
    mean = numbers(given, "mean", [0.0] * channels, channels, "channels")
    std = numbers(given, "std", [1.0] * channels, channels, "channels")
    if size != spatial and not follow:
        raise LoadError(
            f"preprocessing makes inputs of size {size}, but the model's input has the size "
            f"{spatial}: make them equal, or leave the size out"
        )
    if min(std) <= 0:
        raise LoadError(f"the std of preprocessing is {std}: every one must be above zero")
    return {"size": spatial, "mean": [float(m) for m in mean], "std": [float(s) for s in std]}


PREPROCESSING = (
    "it must be a dictionary such as {'size': [224, 224], 'mean': [0.5, 0.5, 0.5], "
    "'std': [0.2, 0.2, 0.2]}"
)


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


# The weights: tensors and nothing else.


def read_tensors(path: Path) -> Any:
    """Read a weight file without ever running what is in it."""
    if not path.exists():
        raise WeightsError(f"there is no weight file {path}")
    if not path.is_file():
        raise WeightsError(f"{path} is a folder: give the weight file in it")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to unpickle after all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Say why a file gives no weights: it holds other things than tensors, or isn't one at all."""
    text = str(error)
    save = "torch.save(model.state_dict(), path)"
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80" and path.suffix != ".safetensors"
    if "TorchScript" in text:
        return f"{path.name} is a TorchScript archive: save the weights of it alone, {save}"
    if is_pickle or "GLOBAL" in text:
        found = re.search(r"GLOBAL ([\w.]+)", text)
        return (
            f"{path.name} is refused: it is a pickle that holds other things than tensors"
            f"{f' ({found.group(1)})' if found else ''}, and only tensors are loaded, as "
            f"unpickling can run any code. Save the weights alone: {save}"
        )
    said = "" if isinstance(error, pickle.UnpicklingError | EOFError) else first_line(error)
    reason = f" ({said.partition('. ')[0]})" if " " in said else ""
    return (
        f"{path.name} can't be read as weights{reason}: give a .safetensors file, or one written "
        f"by {save}"
    )


def state_dict_in(content: Any, path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """Find the state dict in what a weight file holds."""
    if isinstance(content, Mapping):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                notes.append(f"the weights are those under {key!r} in {path.name}")
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path.name} holds {described(content)}, not a state dict: save the weights by "
            "torch.save(model.state_dict(), path)"
        )
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path.name} holds other things than tensors, under {some(map(repr, others))}: save "
            "the weights alone, torch.save(model.state_dict(), path)"
        )
    return dict(content)


def misfit(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> str:
    """Say which keys are missing, unexpected, or of another shape; "" where all is well."""
    # How many batches a batch norm has seen matters in training only.
    missing = sorted(key for key in missing if not key.endswith("num_batches_tracked"))
    unexpected = sorted(unexpected)
    wrong = [
        f"{key!r} ({list(state[key].shape)} in the file, {list(tensor.shape)} in the model)"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    groups = (
        ("missing", [repr(key) for key in missing]),
        ("unexpected", [repr(key) for key in unexpected]),
        ("of another shape", wrong),
    )
    return "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in groups if keys)


def misfits(path: Path, text: str) -> str:
    """Say that weights don't fit, and what to do."""
    return (
        f"{path.name} doesn't fit the model: {text}. Give the weights of this very architecture, "
        "or the model that they belong to (SOURCE:NAME)"
    )


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
            hint = ". Import neighbours by their plain names, or give package.module:callable"
        raise LoadError(
            f"{what}{f' ({line})' if line else ''}: {type(error).__name__}: "
            f"{error.msg if isinstance(error, SyntaxError) else first_line(error)}{hint}"
        ) from error


def location(error: BaseException, folder: Path | None) -> str:
    """The innermost line of the user's code on an error's way, as ``file:line``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if folder is None:
            own = True
        elif own := file.is_relative_to(folder):
            own = "site-packages" not in file.relative_to(folder).parts
        if own and is_user_file(frame.filename):
            return f"{file.name}:{frame.lineno}"
    return ""


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Let the user's file import its neighbours, and forget them afterwards.

    Another model's neighbours may have the same names: both are to get their own.
    """
    neighbours = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    neighbours |= {path.parent.name for path in folder.glob("*/__init__.py")}
    neighbours -= {*sys.stdlib_module_names, "graphprop"}
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    foreign = {
        name: sys.modules.pop(name)
        for name, file in files.items()
        if name.partition(".")[0] in neighbours
        and file
        and "site-packages" not in file
        and not Path(file).is_relative_to(folder)
    }
    kept = set(sys.modules)
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        for name in set(sys.modules) - kept:
            top = name.partition(".")[0]
            if top in neighbours and top not in kept:
                del sys.modules[name]
        sys.modules.update(foreign)


@contextmanager
def seeded() -> Iterator[None]:
    """Seed torch's random numbers, and leave them afterwards as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


# Words.


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


def module_stem(file: Path | None, package: str) -> str:
    """The last part of a file's or a package's name."""
    return file.stem if file else package.rpartition(".")[2]


def shorten(file: Path) -> str:
    """Show a path as the user would write it."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def described(value: Any) -> str:
    """Name a value by its type."""
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {kind}"
    if isinstance(value, Mapping) and not value:
        return f"an empty {kind}"
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def listed(names: list[str]) -> str:
    """Name arguments."""
    return f"{'the arguments' if len(names) > 1 else 'the argument'} {', '.join(names)}"


def some(names: Iterable[str]) -> str:
    """List the first few of many names."""
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what the user may have meant, unless that would be a long list."""
    names = list(known)
    if not names:
        return ""
    tail = nearest(name, names)
    return f": {tail}" if tail.startswith("did you mean") or len(names) <= 12 else ""
