"""The most relevant pixels, and what the network says of a picture that has only these left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from graphprop.errors import InputError
from graphprop.evaluation.figures.subjects import Scene, central
from graphprop.evaluation.fills import FILLS, filler
from graphprop.evaluation.perturbation import VALUES, first, values_of
from graphprop.evaluation.registry import NotApplicable, choice
from graphprop.evaluation.sample import Bools, Floats, Sample
from graphprop.pictures.sheet import Cell, Row, draw

SCORES = VALUES[1:]  # accuracy is of many pictures


@dataclass(frozen=True)
class Kept:
    """The most relevant pixels of a map, and the picture that they leave.

    Attributes
    ----------
    mask
        ``[H, W]``: the pixels that are kept.
    image
        ``[C, H, W]``: the picture, the others replaced.
    logits
        ``[classes]``: what the network says of it.
    """

    mask: Bools
    image: torch.Tensor
    logits: Floats


def keep(sample: Sample, count: int, fill: str) -> Kept:
    """Keep so many of the most relevant pixels, and classify what is left."""
    mask = first(sample, sample.order, count)
    image = filler(sample, fill)(~mask)
    return Kept(mask, image, sample.predict([image])[0])


def without_all(sample: Sample, fill: str) -> torch.Tensor:
    """The picture of which nothing is kept.

    Raises
    ------
    InputError
        If the fill is not defined for it: a volume can't be blurred.
    """
    try:
        return filler(sample, fill)(np.ones_like(sample.map, dtype=bool))
    except NotApplicable as reason:
        raise InputError(str(reason)) from None


def topk(
    scene: Scene, *, top: float | Sequence[float] = 10.0, fill: str = "blur", value: str = "score"
) -> Any:
    """Draw which pixels are the most relevant, the picture that they leave, and its prediction.

    Equal pixels are taken in random order, the same for all methods.

    Parameters
    ----------
    scene
        Explainers and cases.
    top
        How many pixels are kept, in percent; several for more rows.
    fill
        What replaces the others: ``"zero"``, ``"minimum"``, ``"mean"``, ``"noise"``, ``"shuffle"``,
        ``"blur"`` or ``"road"``, as in `graphprop.evaluation.perturbation`.
    value
        What is written of a prediction: ``"score"`` (softmax probability), ``"sigmoid"`` (of a
        network for several labels) or ``"logit"``.
    """
    choice("fill", fill, FILLS)
    choice("value", value, SCORES)
    shares = [float(top)] if isinstance(top, int | float) else [float(one) for one in top]
    for share in shares:
        if not 0 < share <= 100:
            raise InputError(f"top is a percentage above 0 and at most 100, not {share:g}")
    rows = []
    for subject in scene.subjects:
        samples = {name: scene.sample(name, subject) for name in scene.explainers}
        reference = next(iter(samples.values()))
        before = prediction(scene, reference, reference.logits, value)
        for share in shares:
            count = max(1, round(share / 100 * reference.pixels))
            emptied = without_all(reference, fill)
            without = prediction(scene, reference, reference.predict([emptied])[0], value)
            masks = [subject.cell("picture", before)]
            left = [Cell(subject.show(emptied), "", f"nothing kept\n{without}")]
            for name, sample in samples.items():
                if not sample.finite:
                    masks.append(Cell(head=name, note="the map has NaN or infinite entries"))
                    left.append(Cell(note="nothing can be kept"))
                    continue
                kept = keep(sample, count, fill)
                black = np.where(central(kept.mask)[..., None], 255, 0).repeat(3, -1)
                note = "a constant map: pixels at random" if sample.constant else ""
                masks.append(Cell(black.astype(np.uint8), name, note))
                after = prediction(scene, sample, kept.logits, value)
                left.append(Cell(subject.show(kept.image), "", after))
            label = scene.label_of(subject, f"top {share:g} %: {count} pixels")
            rows += [Row(label, masks), Row("what is left", left)]
    return draw(
        rows,
        f"The most relevant pixels, and the picture that they leave ({fill} in place of the rest)",
        f"White: the pixels that are kept. Below each picture: the class of its largest logit, and "
        f"where that is another one the class explained, with the {NAMED[value]}.",
    )


NAMED = {"score": "softmax probability", "sigmoid": "sigmoid of the logit", "logit": "logit"}


def prediction(scene: Scene, sample: Sample, logits: Floats, value: str) -> str:
    """The class of the largest logit and, if it is another one, the class explained."""
    if not np.isfinite(logits).all():
        return "the network returns NaN"
    numbers = dict.fromkeys([int(logits.argmax()), sample.target])
    return "\n".join(
        f"{scene.class_of(number)}: {score_of(sample, logits, number, value):.3g}"
        for number in numbers
    )


def score_of(sample: Sample, logits: Floats, number: int, value: str) -> float:
    """What is written of a class."""
    return float(values_of(replace(sample, target=number), logits[None], value)[0])
