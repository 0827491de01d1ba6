"""The picture of an explanation: the input, and beside it its relevance.

Relevance is summed over channels and drawn on one scale that is symmetric around zero: zero is
white, positive red, negative blue, darkest at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from graphprop.artifact.atomic import replacing

STOPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
COLORS = ((0, 0, 77), (0, 0, 255), (255, 255, 255), (255, 0, 0), (128, 0, 0))
"""The seismic color map, with zero exactly white."""

SMALLEST = 256
"""Smaller pictures are enlarged to at least so many pixels along their longer side: a digit of 8x8
pixels would be a dot on a screen."""
MARGIN, GAP, BAR, TEXT = 12, 8, 12, 13
"""Pixels: around the picture, between its parts, the width of the scale, the size of letters."""
INK, FRAME = (40, 40, 40), (150, 150, 150)
"""Colors of letters and frames: grays, which the color map doesn't have."""
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


def side_by_side(
    shown: Image.Image,
    summed: NDArray[np.float64],
    limit: float,
    captions: tuple[str, str] = ("input", "relevance"),
) -> Image.Image:
    """Draw the input and its relevance, each over its caption, and the scale.

    Parameters
    ----------
    shown
        The input as the network got it, before mean and std, of the size of the map.
    summed
        Relevance ``[H, W]``, summed over channels.
    limit
        Where the scale ends, above zero.
    captions
        Of the input and of the relevance.
    """
    factor = enlargement(shown.size)
    width, height = (length * factor for length in shown.size)
    panels = [
        part.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        for part in (shown, heatmap(summed, limit))
    ]
    font = ImageFont.load_default(size=TEXT)
    columns = [max(width, round(font.getlength(caption))) for caption in captions]
    labels = (f"{limit:+.3g}", "0", f"{-limit:+.3g}")
    left_of_bar = MARGIN + sum(columns) + 2 * GAP
    left_of_labels = left_of_bar + BAR + GAP // 2
    longest = max(round(font.getlength(label)) for label in labels)
    body = max(height, 5 * TEXT)
    canvas = Image.new(
        "RGB", (left_of_labels + longest + MARGIN, body + TEXT + 2 * MARGIN + GAP), "white"
    )
    pen = ImageDraw.Draw(canvas)
    left = MARGIN
    for panel, column, caption in zip(panels, columns, captions, strict=True):
        place_framed(canvas, pen, panel, (left, MARGIN))
        pen.text((left, MARGIN + body + GAP), caption, INK, font, anchor="lt")
        left += column + GAP
    scale = seismic(np.linspace(1.0, -1.0, body)).reshape(body, 1, 3).repeat(BAR, axis=1)
    place_framed(canvas, pen, Image.fromarray(scale), (left_of_bar, MARGIN))
    for label, down, anchor in zip(labels, (0, body // 2, body), ("lt", "lm", "lb"), strict=True):
        pen.text((left_of_labels, MARGIN + down), label, INK, font, anchor=anchor)
    return canvas


def place_framed(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, part: Image.Image, corner: tuple[int, int]
) -> None:
    """Paste a part, with a thin frame around it: white would run into the ground otherwise."""
    left, top = corner
    pen.rectangle((left - 1, top - 1, left + part.width, top + part.height), outline=FRAME)
    canvas.paste(part, corner)


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
