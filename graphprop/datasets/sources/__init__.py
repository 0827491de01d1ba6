"""The pictures of a data set: where they lie, what they are called, and which class they have.

`open_source` finds out what DATA is, and lists it without reading a picture. What comes out is
sorted by id, so that a data set has one order however it was listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphprop.datasets.sources import folders
from graphprop.datasets.sources.base import Source
from graphprop.errors import InputError
from graphprop.pictures.inputs import ARRAY_SUFFIXES
from graphprop.pictures.preprocessing import SUFFIXES

__all__ = ["KINDS", "Source", "is_collection", "open_source"]

KINDS = (
    "give a folder of pictures, a folder with a folder for each class, a .txt with a path on each "
    "line, .tar shards of WebDataset, or .parquet files with a column of pictures"
)
TEXT, TAR, PARQUET = ".txt", ".tar", ".parquet"
COMPRESSED = (".tgz", ".gz", ".bz2", ".xz", ".zst")


def is_collection(data: Path) -> bool:
    """Whether a path is called as a file that holds many pictures."""
    return data.suffix.lower() in (TEXT, TAR, PARQUET, *COMPRESSED)


def open_source(data: str | Path | Sequence[str | Path], *, arrays: bool = False) -> Source:
    """List a data set.

    Parameters
    ----------
    data
        A folder, searched with all folders in it; a ``.txt``; a ``.tar``, or several as
        ``shard-{000..009}.tar``; a ``.parquet``; a folder of ``.tar`` or ``.parquet`` files; or
        several shards, or several pictures.
    arrays
        Whether the network takes no pictures: the ``.npy`` of a folder are listed in their place.

    Returns
    -------
    Source
        The pictures, sorted by id; none has been opened.

    Raises
    ------
    InputError
        If it is none of these, holds no picture, or two have the same id.
    """
    given = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
    if not given:
        raise InputError(f"no data are named: {KINDS}")
    path = given[0]
    files = [file for one in given for file in expanded(one)]
    kinds = {file.suffix.lower() for file in files}
    source: Source
    if kinds & {TAR, PARQUET, TEXT, *COMPRESSED} and len(kinds) > 1:
        raise InputError(f"{path} and what is named beside it are of several kinds: {KINDS}")
    if kinds == {TAR}:
        from graphprop.datasets.sources.tars import Shards

        source = Shards(files)
    elif kinds == {PARQUET}:
        from graphprop.datasets.sources.parquet import Tables

        source = Tables(files)
    elif kinds & {*COMPRESSED}:
        raise InputError(
            f"{path} is compressed, and pictures are read from the middle of a shard: unpack it "
            "to a .tar first"
        )
    elif len(given) == 1 and path.is_dir():
        source = folders.folder(path, arrays=arrays)
    elif len(given) == 1 and kinds == {TEXT}:
        source = folders.listed(path)
    elif all(is_input(file) for file in files):
        source = folders.named(files)
    else:
        raise InputError(f"the data {path} are of an unknown kind: {KINDS}")
    if not source.ids:
        raise InputError(f"there is no picture in {path}: {KINDS}")
    return source


def is_input(file: Path) -> bool:
    """Whether a file is called as a picture or an array is."""
    return file.suffix.lower() in (*SUFFIXES, *ARRAY_SUFFIXES)


def expanded(path: Path) -> list[Path]:
    """The files that a path names: those of braces, the shards of a folder, or itself.

    Raises
    ------
    InputError
        If one of them doesn't exist.
    """
    files = [path]
    if "{" in path.name and not path.exists():
        import braceexpand

        try:
            files = [Path(name) for name in braceexpand.braceexpand(str(path))]
        except ValueError as error:
            raise InputError(f"the braces of {path} can't be read: {error}") from error
    for file in files:
        if not file.exists():
            raise InputError(f"there is no data {file}: {KINDS}")
    if path.is_dir():
        for kind in (TAR, PARQUET):
            inner = sorted(file for file in path.rglob(f"*{kind}") if file.is_file())
            if inner:
                return inner
    return files
