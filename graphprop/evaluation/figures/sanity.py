"""Maps of two classes, and maps after the network lost its weights: do they differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphprop.errors import InputError
from graphprop.evaluation.figures.panel import SCALE
from graphprop.evaluation.figures.subjects import Scene, central
from graphprop.evaluation.registry import NotApplicable
from graphprop.evaluation.sample import Floats, Sample
from graphprop.evaluation.sensitivity import (
    another_class,
    layers_of,
    permuted,
    similarity_of,
    state_of,
)
from graphprop.pictures.sheet import Cell, Row, draw, map_cell


def sanity(scene: Scene, *, other: int | None = None, depths: int = 4) -> Any:
    """Draw the maps of two classes side by side, and maps after layers lost their weights.

    From the last layer to the first, the entries of each layer's weights are permuted, and stay so,
    as the metric ``randomisation`` does. Below each map stands how alike it is to the first: the
    magnitude of the correlation over pixels, for the other class Pearson's, as in
    ``class_sensitivity``, for the weights Spearman's, as in ``randomisation``.

    Parameters
    ----------
    scene
        Explainers and cases.
    other
        The second class; by default another one that the picture shows, or else that of the next
        largest logit.
    depths
        After how many numbers of layers a map is drawn, the last one and all among them.
    """
    if depths < 1:
        raise InputError(f"depths is a number from 1, not {depths}")
    rows: list[Row] = []
    for subject in scene.subjects:
        for name in scene.explainers:
            sample = scene.sample(name, subject)
            second = other_class(sample) if other is None else other
            if not 0 <= second < len(sample.logits):
                raise InputError(
                    f"the other class must be one from 0 to {len(sample.logits) - 1}, not {second}"
                )
            first = not rows
            heads = ("picture", "its class", "another class") if first else ("", "", "")
            own = map_cell(central(sample.map), heads[1], scene.class_of(sample.target))
            changed = scene.sample(name, subject, second).map
            caption = f"{scene.class_of(second)}\nr {similar(sample, changed, 'pearson')}"
            cells = [
                subject.cell(heads[0]),
                own,
                map_cell(central(changed), heads[2], caption),
            ]
            rows.append(
                Row(scene.label_of(subject, name), cells + randomized(sample, depths, first))
            )
    return draw(
        rows,
        "Maps for two classes, and after the weights of the last layers were permuted",
        f"{SCALE} r: magnitude of Pearson's correlation with the first map, \u03c1: of Spearman's.",
    )


def other_class(sample: Sample) -> int:
    """Another class that the picture shows; else the next largest logit."""
    if len(sample.logits) < 2:
        raise InputError("the network has one class, and two are to be compared")
    shown = sorted(sample.labels - {sample.target})
    if shown:
        return max(shown, key=lambda index: sample.logits[index])
    return another_class(sample, "next")


def similar(sample: Sample, values: Floats, similarity: str) -> str:
    """How alike a map is to a sample's, as text."""
    if not np.isfinite(values).all() or not sample.finite:
        return "undefined"
    found = similarity_of(sample.map, values, similarity, False, float("nan"))
    return "undefined" if np.isnan(found) else f"{found:.2f}"


def randomized(sample: Sample, depths: int, first: bool) -> list[Cell]:
    """Cells of the maps after the weights of more and more layers were permuted."""
    try:
        found = list(cascade(sample, depths))
    except NotApplicable as reason:
        return [Cell(head="weights permuted" if first else "", note=str(reason))]
    cells: list[Cell] = []
    for number, count, values in found:
        layers = "the last layer" if number == 1 else f"the last {number} layers"
        head = "weights permuted" if first and not cells else ""
        caption = f"{'all' if number == count else layers} of {count}"
        caption += f"\n\u03c1 {similar(sample, values, 'spearman')}"
        cells.append(map_cell(central(values), head, caption))
    return cells


def cascade(sample: Sample, depths: int) -> Iterator[tuple[int, int, Floats]]:
    """How many layers lost their weights, of how many, and the map then.

    The weights are put back afterwards.

    Raises
    ------
    NotApplicable
        If the explainer has no weights that can be replaced.
    """
    explainer: Any = sample.explainer
    original = state_of(explainer)
    groups = list(layers_of(original).values())
    if not groups:
        raise NotApplicable("the explainer's state has no layers to randomize")
    wanted = set(np.linspace(1, len(groups), min(depths, len(groups))).round().astype(int).tolist())
    if depths == 1:
        wanted = {len(groups)}
    changed = dict(original)
    try:
        for number, names in enumerate(reversed(groups), 1):
            for name in names:
                changed[name] = permuted(original[name], name, sample.seed)
            if number in wanted:
                explainer.load_state_dict(changed)
                yield number, len(groups), sample.explain([sample.image])[0]
    finally:
        explainer.load_state_dict(original)
