"""Which class of each picture is explained: one for all, its label, its largest logits, a list."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.artifact.manifest import sha256
from graphprop.datasets.sources import Source
from graphprop.errors import GraphpropError, InputError
from graphprop.pictures.classes import class_of

PREDICTED = -1
"""The class of the largest logit, as an explainer takes it."""
FORMS = (
    "give a class, 'label' for that of the data, 'top:K' for the K largest logits, or a .csv or "
    ".json file that names a class for each id"
)

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """What is explained.

    Attributes
    ----------
    text
        How it was asked for, without the place of a file: what a run is continued by.
    classes
        ``[n]``, -1 for the largest logit.
    top
        How many maps of each picture, of its largest logits; None for one, of ``classes``.
    """

    text: str
    classes: Int64s
    top: int | None = None


def targets_of(
    target: int | str | Path | None,
    source: Source,
    labels: Int64s | None,
    manifest: Mapping[str, Any],
) -> Targets:
    """Find out which class of each picture is explained.

    Parameters
    ----------
    target
        None for the largest logit; a class by its number or its name; ``"label"``; ``"top:K"``; or
        a ``.csv`` file of ids and classes, or a ``.json`` file that maps ids to classes.
    labels
        The classes of the pictures, -1 where they have none; None where the data have none.

    Raises
    ------
    InputError
        If the network has no such class, or a picture none.
    """
    count, classes = len(source.ids), int(manifest["classes"])
    if target is None:
        return Targets("largest logit", np.full(count, PREDICTED, dtype=np.int64))
    text = str(target)
    top = re.fullmatch(r"top:(\d+)", text)
    if top:
        most = int(top[1])
        if not 1 <= most <= classes:
            raise InputError(f"the target {text} must be from top:1 to top:{classes}")
        return Targets(text, np.full(count, PREDICTED, dtype=np.int64), most)
    if text == "label":
        return Targets(text, labels_for(source, labels, manifest))
    path = Path(text)
    if path.suffix.lower() in (".csv", ".json"):
        named = read_targets(path)
        missing = next((name for name in source.ids if name not in named), None)
        if missing is not None:
            raise InputError(f"{path} names no class for the picture {missing!r}")
        found = [class_in(named[name], manifest, path) for name in source.ids]
        return Targets(f"file {sha256(path)}", np.array(found, dtype=np.int64))
    number = class_in(text, manifest, None)
    return Targets(str(number), np.full(count, number, dtype=np.int64))


def class_in(name: str, manifest: Mapping[str, Any], path: Path | None) -> int:
    """The class that a name or a number stands for."""
    classes, where = manifest["classes"], "" if path is None else f" of {path}"
    try:
        found = class_of(name, classes, manifest.get("class_names"))
    except InputError:
        found = None
    if found is None:
        advice = f"; {FORMS}" if path is None else ""
        raise InputError(
            f"the target {name!r}{where} must be a class from 0 to {classes - 1}, by its number or "
            f"its name{advice}"
        )
    return found


def read_targets(path: Path) -> dict[str, str]:
    """The classes that a file names: ids and classes as text.

    Raises
    ------
    InputError
        If it can't be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".json":
                content = json.load(file)
                if not isinstance(content, dict):
                    raise InputError(f"{path} holds no object that maps ids to classes")
                return {name: str(value) for name, value in content.items()}
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"the targets {path} can't be read: {error}") from error
    if any(len(row) != 2 for row in rows):
        raise InputError(f"the lines of {path} must be an id and a class, with a comma between")
    return {name: number.strip() for name, number in rows}


def labels_of(source: Source, manifest: Mapping[str, Any]) -> tuple[Int64s | None, str | None]:
    """The classes of the pictures, -1 where one has none; or None, and why.

    Where the network's classes have no names, and there are as many names of classes in the data,
    none of which is a number of a class, they are the classes in alphabetical order.
    """
    names = sorted({label for label in source.labels if label is not None})
    if not names:
        return None, "the data have no classes"
    known: dict[str, int] = {}
    class_names = manifest.get("class_names")
    for name in names:
        try:
            found = class_of(name, manifest["classes"], class_names)
        except GraphpropError as error:
            return None, str(error).partition(": say which")[0]
        if found is not None:
            known[name] = found
    if not known and class_names is None and len(names) == manifest["classes"]:
        known = {name: number for number, name in enumerate(names)}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        return None, (
            f"which of the network's {manifest['classes']} classes {unknown!r} is, isn't known"
        )
    found_labels = [-1 if label is None else known[label] for label in source.labels]
    return np.array(found_labels, dtype=np.int64), None


def labels_for(source: Source, labels: Int64s | None, manifest: Mapping[str, Any]) -> Int64s:
    """The labels, if every picture has one."""
    if labels is None:
        _, trouble = labels_of(source, manifest)
        raise InputError(
            f"the target is to be the label, and {trouble}: give the class of each id by "
            "--target FILE, a .csv or .json"
        )
    without = first_without(source.ids, labels)
    if without is not None:
        raise InputError(f"the target is to be the label, and the picture {without!r} has none")
    return labels


def first_without(ids: Sequence[str], labels: Int64s) -> str | None:
    """The first picture without a label."""
    rows = np.flatnonzero(labels < 0)
    return ids[int(rows[0])] if len(rows) else None
