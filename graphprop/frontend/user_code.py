"""Running the user's code: its files, its imports, and errors in it by file and line."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from graphprop.errors import GraphpropError, LoadError, nearest

LIBRARY = Path(torch.__file__).parent
OWN = Path(__file__).parents[1]
STANDARD = Path(traceback.__file__).parent
"""Folders of code that isn't the user's: torch's, graphprop's and Python's."""

MOST_SUGGESTIONS = 12
"""How many names an error lists: more would hide what it says."""


# Files and modules


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
        with user_errors(f"{file.name} can't be run", file.parent):
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
        with user_errors(f"{package} can't be imported", None):
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


# Errors in it


@contextmanager
def user_errors(what: str, folder: Path | None) -> Iterator[None]:
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


@lru_cache(maxsize=4096)
def is_user_file(file: str) -> bool:
    """Whether a source file is the user's, not torch's, Python's or graphprop's."""
    path = Path(file)
    if file.startswith("<") or path.is_relative_to(LIBRARY) or path.is_relative_to(OWN):
        return False
    return not path.is_relative_to(STANDARD) or "site-packages" in path.parts


def user_line(error: BaseException) -> str | None:
    """The innermost line of the user's code on an error's way, as ``file:line``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_user_file(frame.filename)]
    forward = [frame for frame in own if frame.name != "<module>"]
    for frame in reversed(forward):
        return f"{Path(frame.filename).name}:{frame.lineno}"
    return None


def at_user_line(error: BaseException) -> str:
    """`user_line` as a clause."""
    line = user_line(error)
    return f" at {line}" if line else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def shorten(file: Path) -> str:
    """Show a path as the user would write it."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def suggest(name: str, known: Iterable[str]) -> str:
    """What the user may have meant, for the end of a message; nothing where there is too much."""
    names = list(known)
    if not names:
        return ""
    tail = nearest(name, names)
    return f": {tail}" if tail.startswith("did you mean") or len(names) <= MOST_SUGGESTIONS else ""
