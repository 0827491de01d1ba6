"""Pictures in files, brought to the size of an input together with their masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from PIL import Image

from graphprop.errors import InputError
from graphprop.evaluation.sample import Bools, Case
from graphprop.pictures.classes import check_class, class_of
from graphprop.pictures.preprocessing import Preprocessing, opened

RESIZES = ("cover", "stretch")
MASKS = ("objects", "boxes")
Region: TypeAlias = Callable[[], Bools]
"""Returns where the objects of a class are, ``[H, W]`` at the size of the picture's file."""


@dataclass(frozen=True)
class Reading:
    """How pictures become inputs, and which class a name stands for.

    Attributes
    ----------
    preprocessing
        Size, mean and standard deviation of an input.
    classes
        How many classes the network has.
    class_names
        Their names, in order, where they are known.
    named
        A name to a class, before ``class_names``.
    resize
        ``"cover"``: scaled to cover the input's size, and cropped to its center; ``"stretch"``:
        scaled to it in each direction. Masks and boxes go with their picture.
    masks
        ``"objects"``: as exact as the data has them; ``"boxes"``: the boxes of the objects.
    images
        Where the pictures of a COCO file lie; by default beside it, or in ``images`` beside it.
    """

    preprocessing: Preprocessing
    classes: int
    class_names: Sequence[str] | None = None
    named: Mapping[str, int] = field(default_factory=dict)
    resize: str = "cover"
    masks: str = "objects"
    images: Path | None = None

    def __post_init__(self) -> None:
        for name, known in (("resize", RESIZES), ("masks", MASKS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {' or '.join(map(repr, known))}")

    def class_of(self, name: str) -> int | None:
        """The class that a name stands for, by the names given or as a number; else None."""
        if name in self.named:
            return check_class(name, self.named[name], self.classes)
        return class_of(name, self.classes, self.class_names)

    def classes_of(self, names: Sequence[str], where: Path) -> dict[str, int]:
        """The classes of all names of a data set.

        Raises
        ------
        InputError
            If one of them stands for no class of the network.
        """
        found = {name: self.class_of(name) for name in names}
        unknown = [name for name, number in found.items() if number is None]
        if unknown:
            raise InputError(
                f"{where} has the class {unknown[0]!r}, and which of the network's "
                f"{self.classes} classes that is, is not known: compile with class names, or give "
                f'--classes FILE, a JSON file such as {{"{unknown[0]}": 0}}'
            )
        return {name: number for name, number in found.items() if number is not None}


@dataclass(frozen=True)
class Entry:
    """A class of a picture that was not read yet.

    Attributes
    ----------
    file
        The picture.
    target
        The class, -1 for the predicted one.
    labels
        All classes in the picture.
    region
        Where the objects of the class are, or None.
    """

    file: Path
    target: int
    labels: frozenset[int] = frozenset()
    region: Region | None = None


@dataclass(frozen=True)
class Pictures(Sequence[Case]):
    """The cases of a data set, each read when it is asked for."""

    entries: Sequence[Entry]
    reading: Reading

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...

    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return Pictures(self.entries[index], self.reading)
        entry = self.entries[index]
        preprocessing, resize = self.reading.preprocessing, self.reading.resize
        # of its own size first: picture and mask then go through the same geometry
        picture, _ = preprocessing.converted(opened(entry.file), str(entry.file))
        width, height = picture.size
        shown = fitted(picture, preprocessing, resize, preprocessing.resampling)
        mask = None
        if entry.region is not None:
            region = entry.region()
            if region.shape != (height, width):
                raise InputError(
                    f"{entry.file} has {width} x {height} pixels, and its mask "
                    f"{region.shape[1]} x {region.shape[0]}"
                )
            if self.reading.masks == "boxes":
                region = box_of(region)
            mask = fitted_mask(region, preprocessing, resize)
        image = preprocessing.tensor(shown)[0]
        return Case(image, entry.target, mask, entry.labels, str(entry.file))

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))


def fitted(
    image: Image.Image, preprocessing: Preprocessing, resize: str, resample: Image.Resampling
) -> Image.Image:
    """Bring a picture to the size of an input, as its preprocessing does, or by stretching."""
    if resize == "stretch":
        height, width = preprocessing.size
        return image.resize((width, height), resample)
    return preprocessing.placed(image, resample)


def fitted_mask(mask: Bools, preprocessing: Preprocessing, resize: str) -> Bools:
    """Bring a mask to the size of its picture; a pixel that is half covered belongs."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    scaled = np.asarray(fitted(image, preprocessing, resize, Image.Resampling.BOX))
    result: Bools = scaled >= 128
    return result


def box_of(mask: Bools) -> Bools:
    """The smallest box around a mask, filled; an empty mask stays empty."""
    found = np.zeros_like(mask)
    if mask.any():
        spans = [(places.min(), places.max() + 1) for places in np.nonzero(mask)]
        found[tuple(slice(*span) for span in spans)] = True
    return found


def boxed(boxes: Sequence[tuple[float, float, float, float]], height: int, width: int) -> Bools:
    """The union of boxes ``left, top, right, bottom``, in pixels from the upper left corner.

    A pixel belongs to a box that covers it by half or more in each direction; a box thinner than
    that has one pixel.
    """
    found = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        spans = []
        for low, high, size in ((top, bottom, height), (left, right, width)):
            first = int(np.clip(np.floor(low + 0.5), 0, size))
            last = int(np.clip(np.floor(high + 0.5), 0, size))
            spans.append(slice(first, max(last, first + 1)))
        found[spans[0], spans[1]] = True
    return found
