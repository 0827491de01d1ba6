"""Which of the paths of a command line are compiled directories, and which pictures they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import NamedTuple

from graphprop.artifact.manifest import MANIFEST
from graphprop.errors import InputError
from graphprop.pictures.batches import pictures_in
from graphprop.pictures.heatmap import is_drawing
from graphprop.pictures.preprocessing import READABLE


class Named(NamedTuple):
    """What paths name.

    Attributes
    ----------
    directories
        Those that `graphprop compile` wrote.
    pictures
        The files of pictures and arrays.
    """

    directories: list[Path]
    pictures: list[Path]


def is_compiled(path: Path) -> bool:
    """Whether a path is a directory with a manifest: what lies there says so, not its name."""
    return path.is_dir() and os.path.lexists(path / MANIFEST)


def sort_paths(paths: Iterable[str | Path]) -> Named:
    """Tell compiled directories from pictures, and find the pictures of folders and globs.

    Parameters
    ----------
    paths
        Compiled directories (with a ``manifest.json``), files, folders of pictures (those in their
        folders, too), and globs (``*``, ``?``, ``[...]``, ``**``) that the shell left as they are.
        In any order; each directory and file counts once.

    Raises
    ------
    InputError
        If a path doesn't exist, a glob matches nothing, or a folder is neither a compiled directory
        nor holds a picture.
    """
    directories: dict[Path, None] = {}
    pictures: dict[Path, None] = {}
    for given in paths:
        for path in matches(Path(given)):
            if is_compiled(path):
                directories[path] = None
            elif path.is_dir():
                pictures |= dict.fromkeys(pictures_of(path))
            else:
                pictures[path] = None
    return Named(list(directories), list(pictures))


def matches(path: Path) -> Iterator[Path]:
    """The path itself if it exists, else what it matches as a glob."""
    if os.path.lexists(path):
        yield path
        return
    text = str(path)
    if not any(letter in text for letter in "*?["):
        raise InputError(f"there is neither a compiled directory nor a picture {path}")
    found = sorted(glob(text, recursive=True))
    if not found:
        raise InputError(f"nothing matches {path}")
    # "**" matches a folder and what is in it
    yield from (Path(one) for one in found if "**" not in text or not os.path.isdir(one))


def pictures_of(folder: Path) -> list[Path]:
    """The pictures in a folder, but for drawings that graphprop wrote there."""
    found = pictures_in(folder)
    own = [file for file in found if not is_drawing(file)]
    if not own:
        drawn = f": the {len(found)} there were drawn by graphprop" * bool(found)
        raise InputError(
            f"{folder} holds no {MANIFEST}, as a compiled directory does, and no picture either"
            f"{drawn or f': {READABLE}'}"
        )
    return own
