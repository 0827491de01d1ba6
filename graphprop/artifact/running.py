"""Running a directory's ``explainer.py``: the same in this process and in one without graphprop.

`graphprop.checking.runner` loads this file by its path, so that it imports nothing of graphprop.
"""

from __future__ import annotations

import ast
import traceback
from pathlib import Path
from types import ModuleType


def run_file(file: Path, code: ast.Module | bytes | None = None, **names: object) -> ModuleType:
    """Execute an ``explainer.py`` as a module of its own.

    It is not imported: that would leave a ``__pycache__`` in the directory.

    Parameters
    ----------
    file
        The file, which errors are reported in.
    code
        What to execute in its place.
    names
        Globals that the code finds.
    """
    module = ModuleType("explainer")
    module.__file__ = str(file)
    module.__dict__.update(names)
    code = file.read_bytes() if code is None else code
    exec(compile(code, str(file), "exec", dont_inherit=True), module.__dict__)
    return module


def line_of(error: BaseException, file: Path) -> int | None:
    """The line of a file that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(file)), None)
