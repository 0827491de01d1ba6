"""What is explained, as the library takes it: files, folders, globs, pictures, arrays, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from graphprop.errors import InputError, kind_of
from graphprop.pictures.arguments import sort_paths
from graphprop.pictures.inputs import Input, input_of, is_picture, read_input
from graphprop.pictures.preprocessing import Preprocessing

if TYPE_CHECKING:
    from graphprop.pictures.sources import Source


@dataclass(frozen=True)
class Given:
    """One thing to explain.

    Attributes
    ----------
    name
        The file, or what it is called.
    content
        The file; a picture; or a tensor, one input without the batch.
    """

    name: Path
    content: Any = field(repr=False)

    @property
    def is_picture(self) -> bool:
        """Whether it has to be prepared."""
        if isinstance(self.content, Path):
            return is_picture(self.content)
        return isinstance(self.content, Image.Image)

    def read(self, source: Source) -> Input:
        """The input of a source."""
        if isinstance(self.content, Path):
            return read_input(self.content, source.facts)
        if isinstance(self.content, Image.Image):
            preprocessing = Preprocessing.of(source.facts)
            shown, warnings = preprocessing.fitted(self.content, str(self.name))
            return Input(preprocessing.tensor(shown), shown, warnings)
        return input_of(self.content, str(self.name), source.facts)


def gathered(given: Any) -> list[Given]:
    """Everything to explain, each one.

    Raises
    ------
    InputError
        If something is neither a picture nor an input, or there is nothing.
    """
    if isinstance(given, Mapping):
        pairs = [(str(name), part) for name, part in given.items()]
    elif isinstance(given, list | tuple):
        pairs = [("", part) for part in given]
    else:
        pairs = [("", given)]
    found: list[Given] = []
    for name, part in pairs:
        found += parts_of(part, name, len(found))
    if not found:
        raise InputError("there is no picture to explain")
    return found


def parts_of(given: Any, name: str, number: int) -> list[Given]:
    """What one argument holds: a folder has several pictures, a batch several inputs."""
    if isinstance(given, Given):
        return [given]
    if isinstance(given, str | Path):
        named = sort_paths([given])
        if named.directories:
            raise InputError(f"{named.directories[0]} is a compiled directory, and no picture")
        files = named.pictures
        own = Path(name) if name and len(files) == 1 else None
        return [Given(own or file, file) for file in files]
    called = Path(name or f"picture {number + 1}")
    if isinstance(given, Image.Image):
        return [Given(called, ImageOps.exif_transpose(given))]
    if isinstance(given, np.ndarray):
        colors = given.ndim == 2 or (given.ndim == 3 and given.shape[-1] in (3, 4))
        if given.dtype == np.uint8 and colors:
            return [Given(called, Image.fromarray(given))]
        if given.dtype.kind not in "fiu":
            raise InputError(f"{called} is an array of {given.dtype}: give numbers")
        given = torch.from_numpy(np.ascontiguousarray(given))
    if isinstance(given, torch.Tensor):
        return [Given(called, given)]
    raise InputError(
        f"{kind_of(given)} can't be explained: give a file, a folder, a picture of Pillow, an "
        "array or a tensor"
    )
