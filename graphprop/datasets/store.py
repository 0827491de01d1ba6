"""The Zarr store: arrays in the order of the sorted ids, written chunk by chunk.

A chunk of an array is a file of its own. It is written under another name, flushed to the disk and
renamed, so that a reader never sees half of it; what a crash leaves of a chunk that was not
recorded as done is written again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from graphprop.datasets.layout import Field, unpacked
from graphprop.datasets.plan import Plan
from graphprop.errors import OutputError

ATTRIBUTE = "graphprop"
"""The attribute of the store that holds where it comes from."""
VERSION = 1
"""The version of the layout: raised when an array or an attribute changes its meaning or goes."""
LEVEL = 1
"""Of Zstandard: maps are noise to it, and higher levels take time for a percent."""
NAMES_AT_ONCE = 65536
"""Ids in a chunk of their array."""


def create(
    path: Path,
    fields: Mapping[str, Field],
    plan: Plan,
    ids: Sequence[str],
    labels: NDArray[np.int64] | None,
    attributes: Mapping[str, Any],
) -> None:
    """Write a store without the chunks that are to be computed."""
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    for name, field in fields.items():
        group.create_array(
            name,
            shape=(plan.count, *field.shape),
            chunks=(plan.chunk, *field.shape),
            dtype=field.dtype,
            fill_value=field.empty,
            compressors=ZstdCodec(level=LEVEL, checksum=True),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
    names = np.array(ids, dtype=object)
    several = {"id": names} if labels is None else {"id": names, "label": labels}
    for name, values in several.items():
        array = group.create_array(
            name,
            shape=(plan.count,),
            chunks=(min(NAMES_AT_ONCE, plan.count),),
            dtype=str if name == "id" else "int64",
            compressors=ZstdCodec(level=LEVEL, checksum=True),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        array[:] = values
    group.attrs[ATTRIBUTE] = dict(attributes)
    for folder, _, files in os.walk(path):
        for file in files:
            flush(Path(folder) / file)
        flush(Path(folder))


class Writer:
    """Writes the chunks of a store.

    Parameters
    ----------
    path
        The store, as `create` wrote it.
    names
        The arrays that are computed.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        group = zarr.open_group(path, mode="r+")
        # a chunk in which every picture failed is a file, too
        known: dict[str, Any] = {name: group[name] for name in names}
        self.arrays = {
            name: array.with_config({"write_empty_chunks": True}) for name, array in known.items()
        }

    def write(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a chunk of all arrays to the disk.

        Raises
        ------
        OSError
            If the system refuses.
        """
        for name, array in self.arrays.items():
            file = self.file(name, number)
            file.unlink(missing_ok=True)  # what is left of a crash would be read before it goes
            start = number * array.chunks[0]
            array[start : start + len(arrays[name])] = arrays[name]
            flush(file)
            flush(file.parent)

    def file(self, name: str, number: int) -> Path:
        """The file of a chunk of an array."""
        inner = ".0" * (self.arrays[name].ndim - 1)
        return self.path / name / f"c.{number}{inner}"


def flush(path: Path) -> None:
    """Let the system write a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:  # some file systems have no such thing for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(number)


class Store:
    """A store that is read.

    Attributes
    ----------
    group
        The arrays by name.
    attributes
        Where it comes from: see ``docs/formats.md``.

    Raises
    ------
    OutputError
        If it is none that graphprop wrote.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.group = zarr.open_group(path, mode="r", zarr_format=3)
            found = self.group.attrs.get(ATTRIBUTE)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} can't be read as a Zarr store: {error}") from error
        if not isinstance(found, Mapping) or found.get("version") != VERSION:
            raise OutputError(f"{path} was not written by this version of `graphprop explain`")
        self.path = path
        self.attributes: dict[str, Any] = dict(found)
        self.count, self.chunk = self["target"].shape[0], self["target"].chunks[0]

    def __getitem__(self, name: str) -> Any:
        return self.group[name]

    def __contains__(self, name: str) -> bool:
        return name in self.group

    def column(self, name: str) -> NDArray[Any]:
        """An array with a number, or few, for each picture, whole."""
        values: NDArray[Any] = self[name][:]
        return values

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The maps, chunk by chunk, in float32, with their rows."""
        relevance = self["relevance"]
        scale = self["scale"] if "scale" in self else None  # noqa: SIM401
        for start in range(0, self.count, self.chunk):
            rows = slice(start, min(start + self.chunk, self.count))
            yield rows, unpacked(relevance[rows], None if scale is None else scale[rows])
