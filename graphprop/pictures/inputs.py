"""What is explained, from a file: a picture, or an array of what the network takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from graphprop.errors import InputError
from graphprop.pictures.batches import Arrays
from graphprop.pictures.preprocessing import Preprocessing

ARRAY_SUFFIXES = (".npy", ".npz")


def is_picture(file: Path) -> bool:
    """Whether a file is read as a picture."""
    return file.suffix.lower() not in ARRAY_SUFFIXES


class Input(NamedTuple):
    """One input, and how it is drawn.

    Attributes
    ----------
    x
        ``[1, C, H, W]``, or of volumes ``[1, C, D, H, W]``.
    shown
        The picture, before mean and std; of a volume its central slice.
    warnings
        What the user should know.
    """

    x: torch.Tensor
    shown: Image.Image
    warnings: list[str]


def read_input(file: Path, manifest: Mapping[str, Any]) -> Input:
    """Read what is to be explained.

    Parameters
    ----------
    file
        A picture; or an ``.npy``, or an ``.npz`` with one array or an array ``images``, of the
        shape of one input: floating-point numbers are taken as they are, bytes as a picture.
    manifest
        ``input_shape`` and ``preprocessing``.

    Raises
    ------
    InputError
        If it can't be read, or isn't an input of the network.
    """
    if not is_picture(file):
        return read_array(file, manifest)
    preprocessing = Preprocessing.of(manifest)
    shown, warnings = preprocessing.read(file)
    return Input(preprocessing.tensor(shown), shown, warnings)


def read_array(file: Path, manifest: Mapping[str, Any]) -> Input:
    """Read an input from an array."""
    if not file.exists():
        raise InputError(f"there is no file {file}")
    shapes = {"input_shapes": [manifest["input_shape"]]}
    arrays = Arrays(file, {**manifest, **shapes}, torch.float32, alone=True)
    if len(arrays.array) != 1:
        raise InputError(
            f"{file} holds {len(arrays.array)} inputs, and one is explained at a time: give each a "
            "file of its own, or call load() of explainer.py from Python"
        )
    (x,) = arrays
    return checked(x, str(file), manifest)


def input_of(x: torch.Tensor, name: str, manifest: Mapping[str, Any]) -> Input:
    """An input, with the batch or without it, as it is."""
    shape = tuple(manifest["input_shape"])
    if tuple(x.shape) == shape:
        x = x[None]
    if tuple(x.shape) != (1, *shape):
        raise InputError(
            f"{name} has the shape {tuple(x.shape)}, and an input the shape {shape}: give each "
            "input by itself; pictures are arrays of bytes (H, W, 3)"
        )
    return checked(x.detach().cpu().float(), name, manifest)


def checked(x: torch.Tensor, name: str, manifest: Mapping[str, Any]) -> Input:
    """An input ``[1, ...]`` with how it is drawn, if all of it are numbers."""
    if not torch.isfinite(x).all():
        raise InputError(f"{name} holds NaN or infinite numbers")
    return Input(x, drawn(x[0], Preprocessing.of_arrays(manifest)), [])


def drawn(x: torch.Tensor, preprocessing: Preprocessing) -> Image.Image:
    """An input ``[C, H, W]`` or ``[C, D, H, W]`` as a picture.

    With mean and std undone, where it then is one: numbers from 0 to 1, in one channel or three.
    Otherwise the mean of the channels, from its smallest number black to its largest white.
    """
    values = central_slice(preprocessing.restored(x[None])[0].double().numpy())
    rounding = 1e-4
    if len(values) in (1, 3) and values.min() >= -rounding and values.max() <= 1 + rounding:
        pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    gray = values.mean(0)
    span = gray.max() - gray.min() or 1.0
    return Image.fromarray(((gray - gray.min()) / span * 255).round().astype(np.uint8))


def central_slice(values: NDArray[Any]) -> NDArray[Any]:
    """The slice ``[C, H, W]`` in the middle of ``[C, D, H, W]``; pictures as they are."""
    return values[:, values.shape[1] // 2] if values.ndim == 4 else values
