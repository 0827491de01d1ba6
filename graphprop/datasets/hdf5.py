"""HDF5 in the layout that ViRelAy and CoRelAy read: ``attribution``, ``prediction``, ``label``.

It is written from a store that is complete: a file of HDF5 that a process was writing when it was
killed can't be read any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from graphprop.datasets.store import ATTRIBUTE, VERSION, Store
from graphprop.errors import OutputError

COPIED = ("target", "relevance_sum", "relevance_negative")
"""Arrays of the store that are there under the same name."""


def write(store: Store, path: Path) -> None:
    """Write the pictures of a store that did not fail.

    ``index`` has the row of each in the sorted ids. Where the data have no class for a picture,
    ``label`` is the class that was explained.
    """
    target = store.column("target")
    rows = np.flatnonzero(target >= 0)
    label = store.column("label") if "label" in store else np.full(len(target), -1)
    label = np.where(label >= 0, label, target)
    shape = store["relevance"].shape[1:]
    if store.attributes["run"]["reduce"] == "channels":
        shape = (1, *shape)  # readers take the first axis for channels
    with h5py.File(path, "w") as file:
        maps = file.create_dataset("attribution", (len(rows), *shape), "float32")
        at = 0
        for part, values in store.chunks():
            kept = values[target[part] >= 0]
            maps[at : at + len(kept)] = kept.reshape(len(kept), *shape)
            at += len(kept)
        file["prediction"] = store.column("logits")[rows]
        file["label"], file["index"] = label[rows], rows
        for name in COPIED:
            file[name] = store.column(name)[rows]
        ids = store.column("id")[rows].tolist()
        file.create_dataset("id", data=ids, dtype=h5py.string_dtype())
        # an attribute ends at 64 KiB, which a manifest of a large network exceeds
        file.create_dataset(ATTRIBUTE, data=json.dumps(store.attributes), dtype=h5py.string_dtype())


class Opened:
    """A file that `write` wrote, read as a `Store` is.

    Raises
    ------
    OutputError
        If it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.attributes = path, attributes_of(path)
        self.file = h5py.File(path, "r")
        self.count, self.chunk = self.file["target"].shape[0], 64

    def __contains__(self, name: str) -> bool:
        return name in self.file

    def column(self, name: str) -> NDArray[Any]:
        """An array with a number, or few, for each picture, whole."""
        if name == "id":
            return np.array(self.file["id"].asstr()[:], dtype=object)
        values: NDArray[Any] = self.file[{"logits": "prediction"}.get(name, name)][:]
        return values

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The maps, some at a time, with their rows."""
        for start in range(0, self.count, self.chunk):
            rows = slice(start, min(start + self.chunk, self.count))
            yield rows, self.file["attribution"][rows]


def attributes_of(path: Path) -> dict[str, Any]:
    """Where a file comes from.

    Raises
    ------
    OutputError
        If graphprop did not write it.
    """
    try:
        with h5py.File(path, "r") as file:
            found = json.loads(file[ATTRIBUTE].asstr()[()])
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{path} was not written by graphprop: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise OutputError(f"{path} was not written by this version of `graphprop explain`")
    return found
