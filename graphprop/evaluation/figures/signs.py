"""Two signs side by side: what excites and what inhibits, what is positive and what is negative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphprop.errors import InputError, nearest
from graphprop.evaluation.figures.panel import SCALE
from graphprop.evaluation.figures.subjects import Scene
from graphprop.evaluation.perturbation import correlation, patch_sums
from graphprop.evaluation.sample import Floats
from graphprop.pictures.sheet import Cell, Row, draw, map_cell

GRID = 8
"""Patches along the longer side: parts of a map never share a pixel, but can share a place."""


def signs(scene: Scene, *, pairs: Sequence[tuple[str, str]] = ()) -> Any:
    """Draw two maps side by side, with the correlation of their magnitudes.

    A row for each pair of explainers (alpha-beta(1, 0) against alpha-beta(0, 1), say); and for each
    explainer that is in no pair, the positive and the negative part of its map. The correlation is
    Pearson's, over pixels and over the sums in patches, 8 along the longer side: the two parts of
    one map have no pixel in common, but they can light the same places.

    Parameters
    ----------
    scene
        Explainers and cases.
    pairs
        Names of two explainers each.
    """
    for name in [name for pair in pairs for name in pair]:
        if name not in scene.explainers:
            raise InputError(
                f"there is no explainer {name!r} for a pair: {nearest(name, scene.explainers)}"
            )
    paired = {name for pair in pairs for name in pair}
    rows = []
    for subject in scene.subjects:
        for one, other in pairs:
            maps = scene.map(one, subject), scene.map(other, subject)
            cells = [map_cell(m, name) for m, name in zip(maps, (one, other), strict=True)]
            label = scene.label_of(subject)
            rows.append(Row(label, [subject.cell(), *cells, correlated(*maps)]))
        for name in scene.explainers:
            if name in paired:
                continue
            values = scene.map(name, subject)
            maps = np.maximum(values, 0), np.minimum(values, 0)
            cells = [
                map_cell(m, head)
                for m, head in zip(maps, (f"{name}, positive", f"{name}, negative"), strict=True)
            ]
            label = scene.label_of(subject, name)
            rows.append(Row(label, [subject.cell(), *cells, correlated(*maps)]))
    title = "Excitatory and inhibitory, positive and negative relevance"
    return draw(rows, title, f"{SCALE} Correlation: Pearson's, of the magnitudes of the two maps.")


def correlated(one: Floats, other: Floats) -> Cell:
    """What two maps have in common, as text."""
    found = correlations(one, other)
    side = f"{GRID} x {GRID}"
    lines = [
        f"over {parts}: " + ("undefined" if np.isnan(value) else f"{value:.2f}")
        for parts, value in zip(("pixels", f"{side} patches"), found, strict=True)
    ]
    return Cell(head="correlation", note="\n".join(lines))


def correlations(one: Floats, other: Floats) -> tuple[float, float]:
    """Pearson's correlation of magnitudes over pixels, and over sums in patches.

    NaN where one of the two is constant, or holds NaN.
    """
    one, other = np.abs(one), np.abs(other)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan"), float("nan")
    side = -(-max(one.shape) // GRID)
    sums = [patch_sums(values, side)[1] for values in (one, other)]
    undefined = float("nan")
    return correlation(one, other, undefined), correlation(sums[0], sums[1], undefined)
