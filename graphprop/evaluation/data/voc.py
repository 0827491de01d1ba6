"""Pascal VOC: an XML file a picture, and for some of them a PNG of its segmentation."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from graphprop.errors import InputError
from graphprop.evaluation.data.pictures import Entry, Pictures, Reading, boxed
from graphprop.evaluation.sample import Bools

ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()
"""The classes of Pascal VOC in the order of its segmentations, where they are 1 to 20."""
LARGEST_XML = 2**24
"""Bytes of an annotation; a larger one is none."""


@dataclass(frozen=True)
class Object:
    """An object of an annotation: its name, its number from 1, its box, whether it is difficult."""

    name: str
    number: int
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(folder: Path, reading: Reading) -> Pictures:
    """The classes of the pictures of a Pascal VOC folder, each with its objects' masks.

    A mask is taken from ``SegmentationObject``, else from ``SegmentationClass``, else it is made of
    the boxes. A class all of whose objects in a picture are marked as difficult is left out there,
    as in the pointing game. Without names of the network's classes, a network with 20 classes has
    those of Pascal VOC.

    Raises
    ------
    InputError
        If an annotation can't be read, an object's name is no class of the network, or a picture
        is missing.
    """
    annotated = {file: objects_of(file) for file in sorted((folder / ANNOTATIONS).glob("*.xml"))}
    if not annotated:
        raise InputError(f"there is no annotation in {folder / ANNOTATIONS}")
    names = sorted({one.name for _, objects in annotated.values() for one in objects})
    standard = reading.class_names is None and not reading.named and reading.classes == len(NAMES)
    if standard and set(names) <= set(NAMES):
        classes = {name: NAMES.index(name) for name in names}
    else:
        classes = reading.classes_of(names, folder)
    entries = []
    for file, (picture, objects) in annotated.items():
        image = picture_of(folder, file.stem, picture)
        by_class: dict[int, list[Object]] = defaultdict(list)
        for one in objects:
            by_class[classes[one.name]].append(one)
        labels = frozenset(by_class)
        for target, found in sorted(by_class.items()):
            if not all(one.difficult for one in found):
                region = partial(region_of, folder, file.stem, found, image)
                entries.append(Entry(image, target, labels, region))
    return Pictures(entries, reading)


def objects_of(file: Path) -> tuple[str, list[Object]]:
    """The picture's name and the objects of an annotation."""
    try:
        if file.stat().st_size > LARGEST_XML:
            raise ValueError("it is too large")
        text = file.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ValueError("it defines entities, which no annotation does")
        root = ElementTree.fromstring(text)
        found = []
        for number, node in enumerate(root.iter("object"), 1):
            box = node.find("bndbox")
            sides = [float(text_of(box, side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            # VOC counts pixels from 1, and the last one belongs to the box
            corners = (sides[0] - 1, sides[1] - 1, sides[2], sides[3])
            difficult = (node.findtext("difficult") or "0").strip() == "1"
            found.append(Object(text_of(node, "name"), number, corners, difficult))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(f"the annotation {file} can't be read: {error}") from error
    return (root.findtext("filename") or "").strip(), found


def text_of(node: ElementTree.Element | None, name: str) -> str:
    """The text of an inner element."""
    text = None if node is None else node.findtext(name)
    if text is None:
        raise ValueError(f"an object has no {name}")
    return text.strip()


def picture_of(folder: Path, stem: str, name: str) -> Path:
    """The picture of an annotation, which is called as in it, or as the annotation."""
    for candidate in (name, f"{stem}.jpg", f"{stem}.png"):
        if candidate and (folder / IMAGES / Path(candidate).name).is_file():
            return folder / IMAGES / Path(candidate).name
    raise InputError(f"the picture of {stem}.xml is not in {folder / IMAGES}")


def region_of(folder: Path, stem: str, objects: list[Object], image: Path) -> Bools:
    """Where objects of one class are, at the size of the picture."""
    by_object, by_class = (folder / kind / f"{stem}.png" for kind in (OBJECTS, CLASSES))
    if by_object.is_file():
        return np.isin(indices(by_object), [one.number for one in objects])
    if by_class.is_file() and objects[0].name in NAMES:
        found: Bools = indices(by_class) == NAMES.index(objects[0].name) + 1
        return found
    with Image.open(image) as opened:
        width, height = opened.size
    return boxed([one.box for one in objects], height, width)


def indices(file: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The entries of a segmentation: an index into a palette each, 255 being a border."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"its mode is {image.mode}, and it should have a palette")
            return np.asarray(image)
    except (OSError, ValueError) as error:
        raise InputError(f"the segmentation {file} can't be read: {error}") from error
