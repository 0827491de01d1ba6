"""The arrays of a store, and what of a map is stored: its channels or their sum, in which type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.errors import InputError

DTYPES = ("float32", "float16")
REDUCTIONS = ("channels",)
HIGHEST = 15
"""The largest entry of a map in float16 is below 2 to this power: float16 ends at 65504."""
BELOW = 2.0**HIGHEST - 2.0 ** (HIGHEST - 11)
"""The largest number of float16 below that power."""
EXPONENTS = (-126, 127)
"""The powers of two that a scale can be: the normal numbers of float32."""


@dataclass(frozen=True)
class Field:
    """An array: what there is of each picture.

    Attributes
    ----------
    shape
        Of one picture.
    dtype
        The type of its entries.
    empty
        What stands there of a picture that failed.
    """

    shape: tuple[int, ...]
    dtype: str
    empty: float | int


def map_shape(manifest: Mapping[str, Any], reduce: str | None, top: int | None) -> tuple[int, ...]:
    """The shape of what is stored of one picture's maps."""
    shape = tuple(manifest["relevance_shape"])
    if reduce is not None:
        if len(shape) < 2:
            raise InputError(
                f"the explainer's maps have the shape {shape}: there are no channels to sum over"
            )
        shape = shape[1:]
    return shape if top is None else (top, *shape)


def fields_of(
    manifest: Mapping[str, Any], dtype: str, reduce: str | None, top: int | None
) -> dict[str, Field]:
    """The arrays that are computed: see ``docs/formats.md``."""
    several = () if top is None else (top,)
    fields = {
        "relevance": Field(map_shape(manifest, reduce, top), dtype, math.nan),
        "logits": Field((manifest["classes"],), "float32", math.nan),
        "target": Field(several, "int64", -1),
        "relevance_sum": Field(several, "float64", math.nan),
        "relevance_negative": Field(several, "float64", math.nan),
    }
    if dtype == "float16":
        fields["scale"] = Field(several, "float32", math.nan)
    return fields


def stored(maps: NDArray[Any], dtype: str, reduce: str | None) -> dict[str, NDArray[Any]]:
    """What is stored of maps.

    Parameters
    ----------
    maps
        ``[b, C, ...]``, as computed.

    Returns
    -------
    dict
        ``relevance``; ``relevance_sum`` and ``relevance_negative``, the sums of all entries and of
        the negative ones, of the maps as computed; in float16 the ``scale``.
    """
    axes = tuple(range(1, maps.ndim))
    found: dict[str, NDArray[Any]] = {
        "relevance_sum": maps.sum(axis=axes, dtype=np.float64),
        "relevance_negative": np.minimum(maps, 0).sum(axis=axes, dtype=np.float64),
    }
    kept = maps.sum(axis=1, dtype=np.float64) if reduce == "channels" else maps
    if dtype == "float16":
        found["relevance"], found["scale"] = packed(kept)
    else:
        found["relevance"] = kept.astype(dtype)
    return found


def packed(maps: NDArray[Any]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Maps ``[b, ...]`` in float16, and by what to multiply each.

    The scale is a power of two, so that it changes no digit, by which the largest magnitude comes
    to lie between 2^14 and 2^15: entries down to 2^-29 of it keep the eleven digits of float16,
    smaller ones are off by at most 2^-40 of it.
    """
    flat = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    largest = np.where(np.isfinite(flat), flat, 0.0).max(axis=1, initial=0.0)
    _, exponent = np.frexp(largest)  # largest < 2 ** exponent
    power = np.clip(np.where(largest > 0, exponent - HIGHEST, 0), *EXPONENTS)
    scale = np.ldexp(1.0, power)
    scaled = maps / scale.reshape(-1, *[1] * (maps.ndim - 1))
    # what would be rounded up to 2^15 could be above the range of float32 when it is scaled back
    kept = np.where(np.isfinite(scaled), np.clip(scaled, -BELOW, BELOW), scaled)
    return kept.astype(np.float16), scale.astype(np.float32)


def unpacked(relevance: NDArray[Any], scale: NDArray[Any] | None) -> NDArray[np.float32]:
    """Maps as they were, in float32."""
    if scale is None:
        return relevance.astype(np.float32)
    axes = [1] * (relevance.ndim - scale.ndim)
    return relevance.astype(np.float32) * scale.reshape(*scale.shape, *axes)
