"""How maps are drawn: colors, scale, smoothing, and over what."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphprop.errors import InputError, MethodError, nearest
from graphprop.pictures.heatmap import seismic

Floats = NDArray[np.float64]
Colors = NDArray[np.uint8]

OWN = ("seismic", "colorblind")
SAFE_STOPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SAFE_COLORS = ((5, 48, 97), (53, 132, 197), (255, 255, 255), (238, 140, 44), (120, 47, 8))
"""Blue to orange, with zero exactly white: told apart with any color vision, and by lightness from
zero."""
DIVERGING = (
    "PiYG PRGn BrBG PuOr RdGy RdBu RdYlBu RdYlGn Spectral coolwarm bwr berlin managua vanimo"
).split()
"""Matplotlib's maps with a middle; others show a map without negative entries from zero on."""
LEAST_SIGMA, MOST_SIGMA = 0.1, 100.0
"""Below the first a Gaussian has nothing beside its middle."""
CREASES = 0.35
"""The sigma, in entries, by which a map that was enlarged linearly is smoothed."""
SIZES = (16, 4096)
"""Pixels of a panel's width."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn.

    Attributes
    ----------
    overlay, alpha
        Whether the map lies over the gray picture, and how opaque it is there.
    cmap
        ``"seismic"``, ``"colorblind"`` (blue and orange), or one of matplotlib's.
    percentile
        The scale ends at this percentile of the magnitudes; beyond it colors don't change.
    smooth
        The standard deviation of a Gaussian that the map is smoothed by, in pixels of the input.
    size
        The width of a panel in pixels; by default small pictures are enlarged.
    shared_scale
        Whether all maps have one scale.
    """

    overlay: bool = False
    alpha: float = 0.6
    cmap: str = "seismic"
    percentile: float = 100.0
    smooth: float = 0.0
    size: int | None = None
    shared_scale: bool = False

    @classmethod
    def of(cls, options: dict[str, Any]) -> Style:
        """The style that options name, by the names of the attributes.

        Raises
        ------
        MethodError
            If there is no such option.
        InputError
            If a value is none that it can have.
        """
        known = [one.name for one in fields(cls)]
        for name in options:
            if name not in known:
                raise MethodError(f"drawings have no option {name!r}: {nearest(name, known)}")
        found = cls(**{name: value for name, value in options.items() if value is not None})
        found.check()
        return found

    def check(self) -> None:
        """Refuse values that can't be."""
        for name, low, high in (
            ("alpha", 0.0, 1.0),
            ("percentile", 0.0, 100.0),
            ("smooth", 0.0, MOST_SIGMA),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name} is a number from {low:g} to {high:g}, not {value!r}")
        if not self.percentile:
            raise InputError("percentile is a number above 0")
        low, high = SIZES
        if self.size is not None and not (type(self.size) is int and low <= self.size <= high):
            raise InputError(f"size is a number of pixels from {low} to {high}, not {self.size!r}")
        if self.cmap not in OWN:
            from matplotlib import colormaps

            if self.cmap not in colormaps:
                raise InputError(
                    f"there is no color map {self.cmap!r}: {nearest(self.cmap, [*OWN, *colormaps])}"
                )

    @property
    def diverging(self) -> bool:
        """Whether the color map has a middle."""
        return self.cmap in OWN or self.cmap.removesuffix("_r") in DIVERGING

    def notes(self) -> list[str]:
        """What was done to the maps, in sentences."""
        said = []
        if self.smooth:
            said.append(f"Maps smoothed by a Gaussian (\u03c3 = {self.smooth:g} px).")
        if self.percentile < 100:
            said.append(
                f"Scales end at percentile {self.percentile:g} of the magnitudes; what is beyond "
                "has the color of the end."
            )
        if self.shared_scale:
            said.append("One scale for all maps.")
        return said

    def prepared(self, summed: Floats, width: int) -> Floats:
        """A map ``[H, W]`` as it is drawn: smoothed, where that is asked for.

        Parameters
        ----------
        width
            Of the picture: of a map that is coarser, sigma is so many pixels of the picture, too.
        """
        sigma = self.smooth * summed.shape[1] / width
        return smoothed(summed, sigma) if sigma > LEAST_SIGMA else summed

    def limit(self, prepared: Floats) -> float:
        """Where the scale of a map ends; infinite or NaN if an entry is."""
        magnitudes = np.abs(prepared)
        largest = float(magnitudes.max(initial=0.0))
        if self.percentile >= 100 or not np.isfinite(largest):
            return largest
        # of a map that is nearly all zero the percentile is zero: it would have no scale
        return float(np.percentile(magnitudes, self.percentile)) or largest

    def scale(self, prepared: Floats, limit: float) -> Scale:
        """The scale of a map that ends at a limit."""
        low = 0.0 if not self.diverging and prepared.min(initial=0.0) >= 0 else -limit
        return Scale(self.cmap, low, limit)


@dataclass(frozen=True)
class Scale:
    """Colors of numbers from ``low`` to ``high``; those beyond have the color of the end."""

    cmap: str
    low: float
    high: float

    def colors(self, values: Floats) -> Colors:
        """Colors ``[..., 3]``."""
        within = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        if self.cmap == "seismic":
            return seismic(2 * within - 1)
        if self.cmap == "colorblind":
            parts = [
                np.interp(2 * within - 1, SAFE_STOPS, part)
                for part in zip(*SAFE_COLORS, strict=True)
            ]
            return np.stack(parts, axis=-1).round().astype(np.uint8)
        from matplotlib import colormaps

        found: Colors = colormaps[self.cmap](within, bytes=True)[..., :3]
        return found

    @property
    def labels(self) -> tuple[str, str, str]:
        """What stands at its beginning, its middle and its end."""
        middle = (self.low + self.high) / 2
        return number(self.low), number(middle), number(self.high)


def number(value: float) -> str:
    """A number with a sign, in three digits; zero without one."""
    return f"{value:+.3g}".replace("-", "\u2212") if value else "0"


def smoothed(values: Floats, sigma: float) -> Floats:
    """Smooth a map by a Gaussian; at the edges it is mirrored, so that its sum stays."""
    reach = max(1, int(4 * sigma + 0.5))
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        length = values.shape[axis]
        # a mirror at each edge, as often as the reach asks for
        mirrored = np.arange(-reach, length + reach) % (2 * length)
        index = np.minimum(mirrored, 2 * length - 1 - mirrored)
        padded = np.take(values, index, axis=axis)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        values = windows @ weights
    return values


def enlarged(values: Floats, size: tuple[int, int]) -> Floats:
    """Bring a coarse map to ``(height, width)``: linearly between its entries, without creases.

    No value lies outside those of the map, as with a cubic interpolation.
    """
    if values.shape == size:
        return values
    height, width = size
    image = Image.fromarray(values.astype(np.float32))
    found = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)
    sigma = CREASES * min(height / values.shape[0], width / values.shape[1])
    return smoothed(found, sigma) if sigma > 1 else found


def fitted(colors: Colors, width: int) -> Colors:
    """Bring colors to a width that is no multiple of theirs; entries stay squares otherwise."""
    if width % colors.shape[1] == 0:
        return colors
    height = max(1, round(colors.shape[0] * width / colors.shape[1]))
    return np.asarray(Image.fromarray(colors).resize((width, height), Image.Resampling.BILINEAR))


def blended(shown: Image.Image, colors: Colors, alpha: float) -> Colors:
    """Colors over the gray of a picture of the same size."""
    gray = np.asarray(shown.convert("L"), dtype=np.float64)[..., None]
    found: Colors = ((1 - alpha) * gray + alpha * colors).round().astype(np.uint8)
    return found
