"""Arrays: an ``.npz`` with images, labels and masks."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.errors import InputError
from graphprop.evaluation.data.pictures import Reading, box_of
from graphprop.evaluation.sample import PREDICTED, Case


@dataclass(frozen=True)
class Arrays(Sequence[Case]):
    """The cases of an ``.npz``.

    Attributes
    ----------
    images
        ``[N, C, H, W]`` or ``[N, H, W, C]`` of bytes, which are normalized as pictures are, or
        ``[N, C, H, W]`` of floating-point numbers, which are inputs as they stand. Of signals and
        volumes ``[N, C, places ...]``.
    labels
        ``[N]`` classes, -1 for the predicted one; or ``[N, classes]`` of zeros and ones, of
        pictures with several.
    masks
        ``[N, H, W]``, or with several labels ``[N, classes, H, W]``, of the image's places; or
        None.
    pairs
        Picture and class of each case.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    masks: NDArray[Any] | None
    pairs: Sequence[tuple[int, int]]
    reading: Reading
    name: str

    @classmethod
    def read(cls, path: Path, reading: Reading) -> Arrays:
        """Read and check a file.

        Raises
        ------
        InputError
            If an array is missing or of another shape than the network and the others need.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in ("images", "labels", "masks") if key in file}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{path} can't be read as an .npz: {error}") from error
        if "images" not in arrays:
            raise InputError(f"{path} has no array 'images'")
        images = arrays["images"]
        size, channels = reading.preprocessing.size, len(reading.preprocessing.mean)
        first, last = (channels, *size), (*size, channels)
        bytes_given = images.dtype == np.uint8
        if bytes_given and images.ndim == len(first) and channels == 1:
            images = images[:, None]
        if bytes_given and images.shape[1:] == last != first:
            images = np.moveaxis(images, -1, 1)
        if (
            images.ndim != 1 + len(first)
            or images.shape[1:] != first
            or not (bytes_given or images.dtype.kind == "f")
        ):
            raise InputError(
                f"the images of {path} have the shape {images.shape} and the type {images.dtype}: "
                f"give [N, {', '.join(map(str, first))}] of uint8 or floating-point numbers"
            )
        count = len(images)
        labels = arrays.get("labels", np.full(count, PREDICTED))
        pairs = pairs_of(labels, count, reading, path)
        masks = arrays.get("masks")
        shape = (count, *size) if labels.ndim == 1 else (*labels.shape, *size)
        if masks is not None and masks.shape != shape:
            raise InputError(f"the masks of {path} have the shape {masks.shape}: give {shape}")
        return cls(images, labels, masks, pairs, reading, path.name)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...

    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, target = self.pairs[index]
        image = torch.from_numpy(np.ascontiguousarray(self.images[number]))
        if image.dtype == torch.uint8:
            image = self.reading.preprocessing.normalized(image[None] / 255)[0]
        several = self.labels.ndim == 2
        labels = np.flatnonzero(self.labels[number]).tolist() if several else []
        mask = None
        if self.masks is not None:
            mask = self.masks[number, target] if several else self.masks[number]
            mask = mask.astype(bool)
            if self.reading.masks == "boxes":
                mask = box_of(mask)
        name = f"{self.name}[{number}]"
        return Case(image.float(), target, mask, frozenset(labels), name)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))


def pairs_of(
    labels: NDArray[Any], count: int, reading: Reading, path: Path
) -> list[tuple[int, int]]:
    """Picture and class of each case."""
    if labels.shape == (count,) and labels.dtype.kind in "iu":
        wrong = labels[(labels < PREDICTED) | (labels >= reading.classes)]
        if not len(wrong):
            return [(number, int(target)) for number, target in enumerate(labels)]
        raise InputError(
            f"{path} has the label {wrong[0]}, and the network has the classes 0 to "
            f"{reading.classes - 1}"
        )
    if labels.shape == (count, reading.classes) and labels.dtype.kind in "biu":
        return [(int(number), int(target)) for number, target in np.argwhere(labels)]
    raise InputError(
        f"the labels of {path} have the shape {labels.shape} and the type {labels.dtype}: give "
        f"({count},) classes, or ({count}, {reading.classes}) of zeros and ones"
    )
