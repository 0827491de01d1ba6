"""Methods by pictures and classes: a row for each class of each picture, a column for a method."""

from __future__ import annotations

from typing import Any

from graphprop.errors import InputError
from graphprop.evaluation.figures.subjects import Scene
from graphprop.pictures.sheet import Row, draw, map_cell

SCALE = (
    "Relevance summed over channels: red positive, blue negative, white zero. Each map has a scale "
    "of its own, which ends at the number below it."
)


def panel(scene: Scene, *, columns: int = 8) -> Any:
    """Draw the maps of all methods, a row for each class of each picture.

    Parameters
    ----------
    scene
        Explainers and cases.
    columns
        How many methods stand beside each other at most; the others follow below.
    """
    if columns < 1:
        raise InputError(f"columns is a number from 1, not {columns}")
    names = list(scene.explainers)
    columns = -(-len(names) // -(-len(names) // columns))  # blocks of about equal width
    rows = []
    for start in range(0, len(names), columns):
        for number, subject in enumerate(scene.subjects):
            first = number == 0  # names stand above the first row only
            cells = [subject.cell("picture" if first else "")]
            for name in names[start : start + columns]:
                cells.append(map_cell(scene.map(name, subject), name if first else ""))
            rows.append(Row(scene.label_of(subject), cells))
    count = len(scene.subjects)
    title = f"{len(names)} methods" if len(names) > 1 else names[0]
    return draw(rows, f"Relevance by {title}" + (f", {count} cases" if count > 1 else ""), SCALE)
