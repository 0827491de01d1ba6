"""COCO: one JSON file with pictures, categories and annotations (boxes, polygons, RLE)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from graphprop.errors import InputError
from graphprop.evaluation.data.pictures import Entry, Pictures, Reading, boxed
from graphprop.evaluation.sample import Bools

FINE = 4
"""Polygons are drawn this many times larger: their corners lie between pixels, and a pixel belongs
to a polygon that covers half of it."""


def read_coco(path: Path, reading: Reading) -> Pictures:
    """The classes of the pictures of a COCO file, each with its objects' masks.

    An annotation's mask is its segmentation (polygons, or RLE by pycocotools), or its box where it
    has none. The objects of a class in a picture are one mask. Pictures without annotations are
    left out.

    Raises
    ------
    InputError
        If the file isn't a COCO file, a category is no class of the network, or a picture is
        missing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        sizes = {key: (int(e["height"]), int(e["width"])) for key, e in images.items()}
        files = {key: find_file(path, str(e["file_name"]), reading) for key, e in images.items()}
        objects: dict[Any, dict[Any, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for annotation in content["annotations"]:
            objects[annotation["image_id"]][annotation["category_id"]].append(annotation)
        used = sorted({names[category] for found in objects.values() for category in found})
        known = set(objects) <= set(images)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no COCO file: it needs images, categories and annotations, and lacks or "
            f"misspells {error}"
        ) from error
    if not known:
        raise InputError(f"{path} annotates a picture that it does not list")
    classes = reading.classes_of(used, path)
    entries = []
    for key in images:
        by_class: dict[int, list[Any]] = defaultdict(list)
        for category, found in objects.get(key, {}).items():
            by_class[classes[names[category]]] += found
        labels = frozenset(by_class)
        for target, found in sorted(by_class.items()):
            region = partial(region_of, found, sizes[key], path)
            entries.append(Entry(files[key], target, labels, region))
    return Pictures(entries, reading)


def find_file(path: Path, name: str, reading: Reading) -> Path:
    """Where a picture lies: in the folder given, beside the file, or in ``images`` beside it."""
    places = [reading.images] if reading.images else [path.parent, path.parent / "images"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise InputError(
        f"the picture {name} of {path} is not in {' or '.join(map(str, places))}: give --images DIR"
    )


def region_of(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], path: Path) -> Bools:
    """The union of annotations, as a mask of a picture's size ``(height, width)``."""
    found = np.zeros(size, dtype=bool)
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        try:
            if isinstance(segmentation, Mapping):
                found |= decoded(segmentation, size)
            elif segmentation:
                found |= drawn(segmentation, size)
            else:
                left, top, width, height = (float(number) for number in annotation["bbox"])
                found |= boxed([(left, top, left + width, top + height)], *size)
        except InputError:
            raise
        except Exception as error:  # of a list too short, text for a number, another size ...
            number = annotation.get("id")
            raise InputError(
                f"the annotation {number} of {path} can't be read: {type(error).__name__}: {error}"
            ) from error
    return found


def drawn(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Bools:
    """The union of polygons ``x, y, x, y ...``, in pixels from the upper left corner."""
    height, width = size
    image = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(image)
    for polygon in polygons:
        # ImageDraw takes integers for the centers of pixels
        corners = [float(number) * FINE - 0.5 for number in polygon]
        pen.polygon(corners, fill=1)
    fine = np.asarray(image).reshape(height, FINE, width, FINE)
    found: Bools = fine.sum((1, 3)) * 2 >= FINE**2
    return found


def decoded(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Bools:
    """Run-length encoding, with or without COCO's compression.

    Raises
    ------
    InputError
        If pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coder
    except ImportError:
        raise InputError(
            "masks in run-length encoding need pycocotools: pip install 'graphprop[evaluate]'"
        ) from None
    if isinstance(segmentation["counts"], list):
        segmentation = coder.frPyObjects(dict(segmentation), *size)
    found: Bools = coder.decode(segmentation).astype(bool)
    if found.shape != size:
        raise ValueError(f"its mask has the size {found.shape}, and the picture {size}")
    return found
