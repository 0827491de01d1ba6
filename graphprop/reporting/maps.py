"""Maps of relevance in a page: few bytes, and values that can be read back.

An entry v of a map with the limit m is stored as the whole number n nearest to
``levels * sqrt(|v| / m)``, with the sign of v, and read as ``m * (n / levels)**2``: small values,
which most are, keep more digits than even steps would leave them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FINE, COARSE = 32767, 127
"""The most levels of two bytes, and of one."""

BUDGET = 3_400_000
"""Characters that all maps of a page may take: with pictures, tables and charts it stays below
5 MB."""

SMALLEST = 64
"""Maps are not made smaller than this along their longer side."""


class Packing(NamedTuple):
    """How maps are stored: how many levels, and over how many entries along each axis is summed."""

    levels: int
    factor: int


PACKINGS = (Packing(FINE, 1), *(Packing(COARSE, factor) for factor in range(1, 17)))
"""From the finest on: the first is taken by which all maps fit."""


@dataclass(frozen=True)
class Packed:
    """A map as it is stored.

    Attributes
    ----------
    data
        Base64 of the deflated numbers; of two bytes first all lower ones, then all upper ones.
    width, height
        Of what is stored.
    limit
        The largest magnitude.
    factor
        Over how many entries along each axis was summed.
    """

    data: str
    width: int
    height: int
    limit: float
    factor: int


def pack_all(maps: Sequence[NDArray[np.float64]]) -> tuple[Packing, list[Packed]]:
    """Pack finite maps ``[H, W]`` as finely as the budget allows."""
    packed: list[Packed] = []
    packing = PACKINGS[0]
    for packing in PACKINGS:
        packed = [pack(one, packing) for one in maps]
        if sum(len(one.data) for one in packed) <= BUDGET:
            break
    return packing, packed


def pack(summed: NDArray[np.float64], packing: Packing) -> Packed:
    """Pack one map."""
    factor = max(1, min(packing.factor, max(summed.shape) // SMALLEST))
    values = block_sums(summed, factor)
    limit = float(np.abs(values).max(initial=0.0))
    scaled = np.abs(values) / limit if limit else np.zeros_like(values)
    codes = np.copysign(np.rint(packing.levels * np.sqrt(scaled)), values)
    raw = codes.astype("<i2" if packing.levels > COARSE else "i1")
    planes = raw.view(np.uint8).reshape(-1, raw.itemsize).T  # each compresses better by itself
    data = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")
    return Packed(data, values.shape[1], values.shape[0], limit, factor)


def unpacked(packed: Packed, levels: int) -> NDArray[np.float64]:
    """The map that was packed, as the page reads it."""
    raw = zlib.decompress(base64.b64decode(packed.data))
    size = 2 if levels > COARSE else 1
    planes = np.frombuffer(raw, np.uint8).reshape(size, -1).T
    codes = np.ascontiguousarray(planes).view("<i2" if size == 2 else "i1")
    shares = codes.reshape(packed.height, packed.width) / levels
    return np.sign(shares) * shares**2 * packed.limit


def block_sums(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Sums over blocks of ``factor`` by ``factor`` entries: relevance adds up, and none is lost."""
    if factor == 1:
        return values
    rows, columns = (np.arange(0, length, factor) for length in values.shape)
    summed: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1)
    return summed


def tables() -> list[tuple[str, str]]:
    """The color tables to choose from: names, and base64 of 256 colors, from the lowest value."""
    from matplotlib import colormaps

    found = []
    for shown, name in COLOR_TABLES:
        colors = colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
        packed = base64.b64encode(np.ascontiguousarray(colors).tobytes())
        found.append((shown, packed.decode("ascii")))
    return found


COLOR_TABLES: Iterable[tuple[str, str]] = (
    ("seismic (blue, white, red)", "seismic"),
    ("orange and purple (color-blind safe)", "PuOr_r"),
    ("cool to warm", "coolwarm"),
    ("blue, black, red (berlin)", "berlin"),
    ("gray", "gray"),
)
"""What a table is called in the page, and by matplotlib."""
