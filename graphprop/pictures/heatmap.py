"""The colors of a map, and PNG files that say what is drawn.

Relevance is summed over channels and drawn on one scale that is symmetric around zero: zero is
white, positive red, negative blue, darkest at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from graphprop.artifact.atomic import replacing

STOPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
COLORS = ((0, 0, 77), (0, 0, 255), (255, 255, 255), (255, 0, 0), (128, 0, 0))
"""The seismic color map, with zero exactly white."""

SMALLEST = 256
"""Smaller pictures are enlarged to at least so many pixels along their longer side: a digit of 8x8
pixels would be a dot on a screen."""
SOFTWARE = "graphprop"
"""What the metadata of a drawing names as its origin, by which it is recognized later."""


def sum_channels(relevance: NDArray[Any]) -> NDArray[np.float64]:
    """Sum relevance ``[C, H, W]`` over channels: ``[H, W]``."""
    summed: NDArray[np.float64] = relevance.astype(np.float64).sum(axis=0)
    return summed


def limit_of(summed: NDArray[np.float64]) -> float:
    """The largest magnitude of a map: where its scale ends; infinite or NaN if an entry is."""
    return float(np.abs(summed).max(initial=0.0))


def seismic(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colors ``[..., 3]`` of values from -1 to 1."""
    channels = [np.interp(values, STOPS, channel) for channel in zip(*COLORS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heatmap(summed: NDArray[np.float64], limit: float) -> Image.Image:
    """Draw a map ``[H, W]``, a pixel an entry, on a scale from -limit to limit."""
    return Image.fromarray(seismic(np.clip(summed / limit, -1, 1)))


def enlargement(size: tuple[int, int]) -> int:
    """How many pixels wide an entry of a map of this size is drawn."""
    return max(1, -(-SMALLEST // max(size)))


def write_png(image: Image.Image, path: Path, text: Mapping[str, str]) -> None:
    """Write a picture with text in its metadata; a reader never sees half a file."""
    info = PngInfo()
    for key, value in {"Software": SOFTWARE, **text}.items():
        value = value.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair
        info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
    with replacing(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def is_drawing(path: Path) -> bool:
    """Whether a file is a picture that `write_png` wrote."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:  # Pillow has many ways to say that a file is damaged
        return False
