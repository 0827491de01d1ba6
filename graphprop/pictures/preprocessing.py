"""From a picture's file to an input, by the preprocessing that a manifest records."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
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


RESAMPLING = {
    name: getattr(Image.Resampling, name.upper())
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}
"""Interpolation -> Pillow's."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an input; see `graphprop.frontend.preprocessing`.

    Attributes
    ----------
    size
        ``(height, width)`` of an input. Of signals and volumes, which are read from arrays, it has
        another number of axes.
    mean, std
        By channel, in the order of the network's: ``(picture - mean) / std``.
    resize
        None: a picture is scaled so that it just covers the size. A number: its shorter side is
        scaled to that; ``(height, width)``: both sides are. The center is then cut out.
    interpolation
        A key of `RESAMPLING`.
    channels
        ``"RGB"``, ``"BGR"`` or ``"gray"``.
    known
        Whether someone has said all this; else values are in [0, 1].
    """

    size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    channels: str = "RGB"
    known: bool = field(default=True, compare=False)

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
        resize = given.get("resize", "cover")
        return cls(
            tuple(size),
            mean,
            std,
            None if resize == "cover" else tuple(resize) if isinstance(resize, list) else resize,
            given.get("interpolation", "bilinear"),
            given.get("channels") or ("gray" if channels == 1 else "RGB"),
            known=bool(given),
        )

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        return RESAMPLING[self.interpolation]

    def describe(self) -> str:
        """What it does, on one line."""
        height, width = self.size
        scaled = {
            "NoneType": "scaled to cover",
            "int": f"shorter side to {self.resize},",
            "tuple": f"both sides to {self.resize},",
        }[type(self.resize).__name__]
        center = f"{self.interpolation}, center {height} x {width}"
        if self.resize == self.size:
            scaled, center = f"both sides to {height} x {width},", self.interpolation
        numbers = (", ".join(f"{v:.4g}" for v in dict.fromkeys(n)) for n in (self.mean, self.std))
        return f"{scaled} {center}; {self.channels}; mean %s, std %s" % tuple(numbers)

    def read(self, file: Path, content: bytes | None = None) -> tuple[Image.Image, list[str]]:
        """Read a picture at the size and in the channels of an input; returns warnings, too.

        With ``content``, it is read from there, and ``file`` is what it is called.
        """
        return self.fitted(opened(file, content), str(file))

    def fitted(self, picture: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
        """A picture at the size and in the channels of an input; returns warnings, too."""
        converted, warned = self.converted(picture, name)
        if isinstance(self.resize, int) and min(self.size) and self.crop_exceeds(converted.size):
            warned.append(f"{name} is smaller than the crop once it is resized: filled with black")
        return self.placed(converted, self.resampling), warned

    def converted(self, picture: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
        """A picture in the channels of an input, of its own size; returns warnings, too."""
        warned = []
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            if picture.getchannel("A").getextrema() != (255, 255):
                warned.append(f"{name} is transparent in places: laid on white")
            ground = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(ground, picture)
        return eight_bits(picture, name).convert(MODES[len(self.mean)]), warned

    def placed(self, picture: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Scale a picture, or the mask of one, and cut out its center: ``size``."""
        height, width = self.size
        if self.resize is None:
            return ImageOps.fit(picture, (width, height), resample)
        scaled = picture.resize(self.scaled(picture.size), resample)
        left, top = (
            # as torchvision rounds; what is smaller has half of the rest before it
            round((have - want) / 2) if have >= want else -((want - have) // 2)
            for have, want in zip(scaled.size, (width, height), strict=True)
        )
        return scaled.crop((left, top, left + width, top + height))

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of a picture of a width and height, once it is scaled."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        width, height = size
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def crop_exceeds(self, size: tuple[int, int]) -> bool:
        """Whether the crop is larger than a scaled picture."""
        width, height = self.scaled(size)
        return self.size[0] > height or self.size[1] > width

    def tensor(self, shown: Image.Image) -> torch.Tensor:
        """Make the input ``[1, C, H, W]`` of a picture that `read` returned."""
        pixels = np.asarray(shown, dtype=np.float32) / np.float32(255)
        channels_first = pixels.reshape(*self.size, len(self.mean)).transpose(2, 0, 1)
        return self.normalized(torch.from_numpy(channels_first.copy())[None])

    def normalized(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures ``[N, C, ...]`` with values in [0, 1], red first, as inputs."""
        if self.channels == "BGR":
            x = x.flip(1)
        axes = [1] * (x.dim() - 2)
        mean, std = (
            torch.tensor(v, dtype=torch.float32).reshape(-1, *axes) for v in (self.mean, self.std)
        )
        return (x - mean) / std

    def restored(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs ``[N, C, ...]`` as pictures with values in [0, 1], red first."""
        axes = [1] * (x.dim() - 2)
        mean, std = (
            torch.tensor(v, dtype=x.dtype).reshape(-1, *axes) for v in (self.mean, self.std)
        )
        picture = x * std + mean
        return picture.flip(1) if self.channels == "BGR" else picture


def opened(file: Path, content: bytes | None = None) -> Image.Image:
    """Read a picture of one of the known formats, from its file or its bytes; set it upright."""
    if content is None:
        check_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that don't matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            given = file if content is None else BytesIO(content)
            with Image.open(given, formats=FORMATS) as image:
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


def check_file(file: Path) -> None:
    """Refuse what is no file."""
    if file.is_dir():
        raise InputError(f"{file} is a folder: give the pictures in it")
    if not file.exists():
        raise InputError(f"there is no picture {file}")
    if not file.is_file():
        raise InputError(f"{file} is no file, but a pipe or a device: give the picture's file")


def reason_of(error: BaseException, file: Path) -> str:
    """An error's text on one line, without the name of the file."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text).replace(f" {str(file)!r}", "")[:LONGEST_REASON] or type(error).__name__


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Bring a picture of 16 bits to 8, which Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        # 65535 / 257 is 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"{name} holds numbers ({image.mode}), whose range isn't known: save it with 8 or 16 "
            "bits"
        )
    return image
