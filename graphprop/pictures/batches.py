"""Batches of inputs from a folder of pictures, or from arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.errors import InputError
from graphprop.pictures.preprocessing import READABLE, SUFFIXES, Preprocessing

BATCH = 32
"""How many inputs are read at once: as a DataLoader often has them."""


def read_batches(
    data: Path, manifest: Mapping[str, Any], dtype: torch.dtype
) -> Iterable[torch.Tensor]:
    """Return the inputs that a path holds.

    Parameters
    ----------
    data
        A picture; a folder of pictures, or of folders of them; an ``.npy``; or an ``.npz`` with the
        array ``images``, or one array alone.
    manifest
        ``input_shapes`` and ``preprocessing``, as a manifest has them.
    dtype
        The type of an input.

    Raises
    ------
    InputError
        If it holds no inputs of the model.
    """
    shapes = manifest["input_shapes"]
    if len(shapes) > 1:
        raise InputError(
            f"the model takes {len(shapes)} inputs, and {data} holds one: call graphprop.compile "
            "with fit=, batches of all inputs, from Python instead"
        )
    if data.suffix.lower() in (".npy", ".npz"):
        return Arrays(data, manifest, dtype)
    return Files(data, Preprocessing.of(manifest), dtype)


class Files:
    """Batches of pictures, each prepared as `graphprop explain` does."""

    def __init__(self, data: Path, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        self.preprocessing, self.dtype = preprocessing, dtype
        self.files = pictures_in(data) if data.is_dir() else [data]
        if not self.files:
            raise InputError(f"there is no picture in {data}: {READABLE}")

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self.files), BATCH):
            shown = [self.preprocessing.read(file)[0] for file in self.files[start : start + BATCH]]
            yield torch.cat([self.preprocessing.tensor(one) for one in shown]).to(self.dtype)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, in the order of their names."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


class Arrays:
    """Batches of an array: floating-point numbers are inputs, bytes are pictures.

    Attributes
    ----------
    array
        ``[N, ...]``; of an ``.npy`` what is used of it is read from the file. With ``alone``, an
        array of the shape of one input is one.
    """

    def __init__(
        self,
        data: Path,
        manifest: Mapping[str, Any],
        dtype: torch.dtype,
        *,
        alone: bool = False,
    ) -> None:
        self.dtype = dtype
        shape = tuple(manifest["input_shapes"][0])
        self.array = array_in(data)
        if alone and self.array.ndim == len(shape):
            self.array = self.array[None]
        self.scaled = self.array.dtype == np.uint8 and dtype.is_floating_point
        if self.scaled and len(shape) == 3 and self.array.shape[1:] == (*shape[1:], shape[0]):
            self.array = np.moveaxis(self.array, -1, 1)
        if self.scaled and len(shape) == 3 and (1, *self.array.shape[1:]) == shape:
            self.array = self.array[:, None]
        if (
            not self.array.ndim
            or self.array.shape[1:] != shape
            or self.array.dtype.kind not in "fiu"
        ):
            raise InputError(
                f"the array of {data} has the shape {self.array.shape} and the type "
                f"{self.array.dtype}: give numbers of the shape (N, {', '.join(map(str, shape))})"
            )
        if not len(self.array):
            raise InputError(f"the array of {data} holds no sample")
        if self.scaled:
            self.preprocessing = Preprocessing.of_arrays(manifest)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self.array), BATCH):
            part = np.ascontiguousarray(self.array[start : start + BATCH])
            if part.dtype.kind == "u" and part.dtype != np.uint8:
                part = part.astype(np.int64)
            x = torch.from_numpy(part.copy())
            if self.scaled:
                x = self.preprocessing.normalized(x / 255)
            yield x.to(self.dtype)


def array_in(data: Path) -> NDArray[Any]:
    """Read an array; an ``.npy`` is mapped, so that it need not fit into memory."""
    try:
        if data.suffix.lower() == ".npy":
            mapped: NDArray[Any] = np.load(data, mmap_mode="r", allow_pickle=False)
            return mapped
        with np.load(data, allow_pickle=False) as file:
            names = list(file)
            name = "images" if "images" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise InputError(
                    f"{data} has no array 'images', but {', '.join(names) or 'none at all'}"
                )
            array: NDArray[Any] = file[name]
            return array
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{data} can't be read as an array: {error}") from error
