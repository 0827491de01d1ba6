"""The pictures of a report: each explained by each directory, for several classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphprop.artifact.conservation import of_map
from graphprop.artifact.engines import Engine, engine_of
from graphprop.artifact.schema import Json
from graphprop.drawing.text import printable
from graphprop.errors import GraphpropError, InputError
from graphprop.pictures import heatmap
from graphprop.pictures.explain import explain_one
from graphprop.pictures.inputs import Input, central_slice, read_input
from graphprop.reporting.maps import PACKINGS, Packed, Packing, pack_all, tables

LARGEST_SHOWN = 512
"""Pixels along the longer side to which larger pictures are scaled for the page."""
LOSSLESS = 64 * 64
"""Pixels up to which a picture is stored as it is: JPEG would blur a digit."""


@dataclass
class Subject:
    """A compiled directory of a report.

    Attributes
    ----------
    directory
        Where it lies.
    name
        What it is called in the page, unlike all others.
    manifest
        What its manifest says.
    """

    directory: Path
    name: str
    manifest: Json

    @property
    def failed(self) -> bool:
        """Whether it failed its check when it was compiled."""
        check = self.manifest["check"]
        return bool(check) and not check["passed"]

    def class_name(self, number: int) -> str:
        """A class by its number, and by its name if it has one."""
        names = self.manifest.get("class_names")
        return f"{number}: {names[number]}" if names else f"class {number}"


@dataclass
class Map:
    """Relevance for one class: sums, and what is drawn; ``problem`` where nothing can be."""

    target: int
    logit: float
    summed: NDArray[np.float64]
    problem: str | None = None

    @property
    def parts(self) -> tuple[float, float]:
        """The sums of what is positive and of what is negative."""
        return float(self.summed.clip(min=0).sum()), float(self.summed.clip(max=0).sum())


@dataclass
class View:
    """One picture explained by one directory."""

    shown: Image.Image
    maps: dict[int, Map]
    predicted: int


@dataclass
class Picture:
    """One picture of a report; a view is None where a directory explains no pictures."""

    name: str
    classes: list[int]
    views: list[View | None]


@dataclass
class Gallery:
    """All pictures, and what the reader should know of them.

    Attributes
    ----------
    subjects
        By whom the pictures are explained.
    pictures
        In the order of the command line.
    reasons
        Why a directory explains none, by its name.
    warnings
        Such as relevance that vanishes.
    packing
        How finely the maps are stored.
    """

    subjects: Sequence[Subject]
    pictures: list[Picture] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    packing: Packing = PACKINGS[0]

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        drawable = [
            one
            for picture in self.pictures
            for view in picture.views
            if view is not None
            for one in view.maps.values()
            if one.problem is None
        ]
        self.packing, packed = pack_all([one.summed for one in drawable])
        stored = {id(one): content for one, content in zip(drawable, packed, strict=True)}
        images: dict[str, int] = {}
        pictures = [
            {
                "name": printable(picture.name),
                "classes": [[n, printable(self.name_of(n))] for n in picture.classes],
                "views": [view_data(view, stored, images) for view in picture.views],
            }
            for picture in self.pictures
        ]
        return {
            "levels": self.packing.levels,
            "methods": [printable(subject.name) for subject in self.subjects],
            "pictures": pictures,
            "images": list(images),
            "colors": tables(),
        }

    def name_of(self, target: int) -> str:
        """What a class is called: all directories that know it may agree."""
        names = {s.class_name(target) for s in self.subjects if target < s.manifest["classes"]}
        return " / ".join(sorted(names))


def view_data(
    view: View | None, stored: dict[int, Packed], images: dict[str, int]
) -> dict[str, Any] | None:
    """What the page's script reads of one view."""
    if view is None:
        return None
    image = images.setdefault(data_url(view.shown), len(images))
    maps = {}
    for target, one in view.maps.items():
        content: dict[str, Any] = {"logit": one.logit, "problem": one.problem}
        if not np.isfinite(one.logit):
            content["logit"] = None  # JSON has no NaN
        packed = stored.get(id(one))
        if packed is not None:
            content |= vars(packed)
            content["sum"] = float(one.summed.sum())
            content["positive"], content["negative"] = one.parts
        maps[str(target)] = content
    width, height = view.shown.size
    return {
        "image": image,
        "width": width,
        "height": height,
        "predicted": view.predicted,
        "maps": maps,
    }


def data_url(shown: Image.Image) -> str:
    """A picture as text: small ones as they are, others as a photograph is stored."""
    image = shown.convert("L" if shown.mode == "L" else "RGB")
    image.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    content = io.BytesIO()
    small = image.width * image.height <= LOSSLESS
    options = {"format": "PNG"} if small else {"format": "JPEG", "quality": 88}
    image.save(content, **options)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def explain_all(
    subjects: Sequence[Subject],
    files: Sequence[Path],
    *,
    targets: Sequence[int] = (),
    top: int = 3,
    backend: str = "python",
    progress: Callable[[str], None],
) -> Gallery:
    """Explain pictures by every directory that can.

    Parameters
    ----------
    subjects, files
        By whom, and what.
    targets
        The classes to explain; by default those of the ``top`` largest logits, of any directory.
    backend
        ``"python"`` or ``"onnxruntime"``.
    progress
        Called with what is about to be done.

    Raises
    ------
    GraphpropError
        If a picture can't be read, a target is no class, or no directory can explain pictures.
    """
    gallery = Gallery(subjects)
    if not files:
        return gallery
    engines: list[Engine | None] = []
    first: GraphpropError | None = None
    for subject in subjects:
        try:
            engines.append(loaded(subject, targets, backend))
        except InputError as error:
            first = first or error
            gallery.reasons[subject.name] = str(error)
            engines.append(None)
    if not any(engines):
        raise first or InputError("there is no directory to explain pictures by")
    for file in files:
        progress(f"explain {file.name}")
        gallery.pictures.append(explained(gallery, engines, file, targets, top))
    return gallery


def loaded(subject: Subject, targets: Sequence[int], backend: str) -> Engine:
    """What explains by a directory.

    Raises
    ------
    InputError
        If it explains no pictures, failed its check, or lacks one of the classes.
    """
    manifest = subject.manifest
    if subject.failed:
        raise InputError(
            f"{subject.directory} failed its check when it was compiled, so that its maps are wrong"
        )
    if len(manifest["relevance_shape"]) not in (3, 4):
        raise InputError(
            f"the maps of {subject.directory} have the shape {tuple(manifest['relevance_shape'])}, "
            "and one that can be drawn has (C, H, W) or (C, D, H, W)"
        )
    for target in targets:
        if not 0 <= target < manifest["classes"]:
            raise InputError(
                f"{subject.directory} has the classes 0 to {manifest['classes'] - 1}, and no "
                f"{target}"
            )
    return engine_of(subject.directory, manifest, backend)


def explained(
    gallery: Gallery,
    engines: Sequence[Engine | None],
    file: Path,
    targets: Sequence[int],
    top: int,
) -> Picture:
    """Explain one picture by all directories, each for the classes of all."""
    inputs: list[Input | None] = []
    predictions: list[NDArray[Any]] = []
    classes: dict[int, None] = dict.fromkeys(targets)
    largest: dict[int, Map] = {}
    for place, (subject, engine) in enumerate(zip(gallery.subjects, engines, strict=True)):
        if engine is None:
            inputs.append(None)
            predictions.append(np.empty(0))
            continue
        given = read_input(file, subject.manifest)
        gallery.warnings += [text for text in given.warnings if text not in gallery.warnings]
        inputs.append(given)
        logits, relevance, chosen = explain_one(engine, given.x, None)
        predictions.append(logits)
        largest[place] = map_of(gallery, subject, file, logits, relevance, chosen)
        if not targets:
            classes |= dict.fromkeys(np.argsort(-logits, kind="stable")[:top].tolist())
    views: list[View | None] = []
    for place, (subject, engine) in enumerate(zip(gallery.subjects, engines, strict=True)):
        given_or_none = inputs[place]
        if engine is None or given_or_none is None:
            views.append(None)
            continue
        maps = {}
        for target in classes:
            if target == largest[place].target:
                maps[target] = largest[place]
            elif target < subject.manifest["classes"]:
                logits, relevance, _ = explain_one(engine, given_or_none.x, target)
                maps[target] = map_of(gallery, subject, file, logits, relevance, target)
        views.append(View(given_or_none.shown, maps, largest[place].target))
    return Picture(file.name, list(classes), views)


def map_of(
    gallery: Gallery,
    subject: Subject,
    file: Path,
    logits: NDArray[Any],
    relevance: NDArray[Any],
    target: int,
) -> Map:
    """One map, with what is wrong with it."""
    summed = heatmap.sum_channels(central_slice(relevance))
    one = Map(target, float(logits[target]), summed)
    where = f"{subject.name}, {file.name}, class {target}"
    if not np.isfinite(summed).all():
        one.problem = "it holds NaN or infinity"
    elif not summed.any():
        one.problem = "it is zero everywhere"
    lost = of_map(subject.manifest, logits, target, relevance)
    for text in (one.problem and f"the map is not drawn: {one.problem}", lost):
        if text:
            gallery.warnings.append(f"{where}: {text}")
    return one
