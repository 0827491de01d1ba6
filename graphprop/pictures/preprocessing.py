"""From a picture's file to an input, by the preprocessing that a manifest records."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from graphprop.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read as a picture, by Pillow's names. EPS is left out: Ghostscript would run it."""
READABLE = "give a PNG, JPEG, BMP, GIF, WebP, TIFF or PPM"

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What the pictures of a folder are called."""

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> Pillow's mode."""

LONGEST_REASON = 200
"""Characters of Pillow's own error in a message: some hold bytes of the file."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input: the size ``(height, width)``, and mean and std by channel.

    Of signals and volumes, which are read from arrays, the size has another number of axes.
    """

    size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that a manifest records.

        Raises
        ------
        InputError
            If the explainer doesn't take pictures.
        """
        shapes = manifest.get("input_shapes", [manifest["input_shape"]])
        if len(shapes) > 1:
            raise InputError(
                f"the explainer takes {len(shapes)} inputs, and a picture is one: call load() of "
                "its explainer.py from Python instead"
            )
        shape = tuple(shapes[0])
        if len(shape) != 3 or shape[0] not in MODES:
            raise InputError(
                f"the explainer takes inputs of shape {shape}, and a picture has the shape "
                "(1, H, W) or (3, H, W): give an array of that shape, as an .npy"
            )
        return cls.of_arrays(manifest)

    @classmethod
    def of_arrays(cls, manifest: Mapping[str, Any]) -> Preprocessing:
        """The same of an explainer whose input may be a signal or a volume, ``[C, places ...]``.

        Raises
        ------
        InputError
            If it takes several inputs, or one without places.
        """
        shapes = manifest.get("input_shapes", [manifest["input_shape"]])
        if len(shapes) > 1 or not 2 <= len(shapes[0]) <= 4:
            shown = " and ".join(str(tuple(shape)) for shape in shapes)
            raise InputError(
                f"the explainer takes inputs of shape {shown}, and what is evaluated has one to "
                "three axes behind its channels: call graphprop.evaluate from Python instead"
            )
        channels, *size = shapes[0]
        given = manifest.get("preprocessing") or {}
        mean = tuple(given.get("mean") or [0.0] * channels)
        std = tuple(given.get("std") or [1.0] * channels)
        return cls(tuple(size), mean, std)

    def read(self, file: Path) -> tuple[Image.Image, list[str]]:
        """Read a picture at the size and in the channels of an input; returns warnings, too."""
        upright = opened(file)
        warned = []
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            if upright.getchannel("A").getextrema() != (255, 255):
                warned.append(f"{file} is transparent in places: laid on white")
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright)
        height, width = self.size
        upright = eight_bits(upright, file).convert(MODES[len(self.mean)])
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        return fitted, warned

    def tensor(self, shown: Image.Image) -> torch.Tensor:
        """Make the input ``[1, C, H, W]`` of a picture that `read` returned."""
        pixels = np.asarray(shown, dtype=np.float32) / np.float32(255)
        channels_first = pixels.reshape(*self.size, len(self.mean)).transpose(2, 0, 1)
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        x = torch.from_numpy(channels_first.copy())
        return ((x - mean[:, None, None]) / std[:, None, None]).unsqueeze(0)


def opened(file: Path) -> Image.Image:
    """Read a picture of one of the known formats, and set it upright."""
    if file.is_dir():
        raise InputError(f"{file} is a folder: give the pictures in it")
    if not file.exists():
        raise InputError(f"there is no picture {file}")
    if not file.is_file():
        raise InputError(f"{file} is no file, but a pipe or a device: give the picture's file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that don't matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                upright.load()
                return upright
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise InputError(
            f"the picture {file} has more than {Image.MAX_IMAGE_PIXELS} pixels: scale it down first"
        ) from error
    except Exception as error:  # Pillow has many ways to say that a file is damaged
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({reason_of(error, file)})"
        raise InputError(f"{file} can't be read as a picture{reason}: {READABLE}") from error


def reason_of(error: BaseException, file: Path) -> str:
    """An error's text on one line, without the name of the file."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text).replace(f" {str(file)!r}", "")[:LONGEST_REASON] or type(error).__name__


def eight_bits(image: Image.Image, file: Path) -> Image.Image:
    """Bring a picture of 16 bits to 8, which Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        # 65535 / 257 is 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"{file} holds numbers ({image.mode}), whose range isn't known: save it with 8 or 16 "
            "bits"
        )
    return image
