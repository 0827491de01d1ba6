"""Pictures with ground truth: which pixels show the class is known, because they were drawn.

    python tools/shapes.py single --count 500 -o build/shapes.npz
    python tools/shapes.py several --count 500 -o build/several

The first writes an ``.npz`` (``images``, ``labels``, ``masks``), the second a COCO folder
(``annotations.json``, ``images``, ``classes.json``). ``graphprop evaluate --data`` reads both.

A picture has 64 x 64 pixels and one to three objects of different classes. Each of the six classes
is a silhouette with a texture of its own. Distractors have the silhouette of a class, and one color
or random blocks for a texture, so that a silhouette alone says nothing. The background is one of
six scenes, one for each class: in training an object's scene is more frequent than chance, in the
tests the scene is independent of the objects, and in the split ``swapped`` it is the scene of a
class that is not there. A picture depends on split, number and seed alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from graphprop.evaluation import Case

CLASSES = ("disk", "square", "triangle", "cross", "ring", "diamond")
TEXTURES = ("horizontal", "vertical", "checkerboard", "dots", "diagonals", "rings")
"""The texture of each class."""

SIZE = 64
DIAMETERS = {"small": 16, "medium": 28, "large": 46}
"""Pixels across. The box of a large object covers half of the picture, that of a medium one a
fifth, and that of a small one a sixteenth."""
SPREAD = 0.1
"""Diameters differ from these by up to a tenth, so that object sizes fill a range."""
MARGIN = 2
"""Pixels between two objects, so that no texture touches another."""
TRIES = 20
"""How often a place is drawn at random before a smaller size is taken."""

MEAN, STD = 0.5, 0.25
"""What a network takes: ``(pixels / 255 - MEAN) / STD``."""

TINTS = np.array(
    [[96, 128, 152], [152, 120, 96], [104, 144, 104], [144, 136, 88], [136, 104, 144], [88, 88, 96]]
)
"""The color of each scene."""
NOISE = 6.0
"""Standard deviation of the noise on all pixels, of 255."""

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.uint8]
Place: TypeAlias = tuple[int, int, int]
"""Top, left, and size of a square."""


@dataclass(frozen=True)
class Split:
    """What the pictures of a split hold.

    Attributes
    ----------
    objects
        The least and the largest number of objects.
    sizes
        What the size of an object is drawn from.
    distractors
        The least and the largest number of distractors; those without a place are left out.
    scene
        ``"independent"``; ``"correlated"``: that of one of the objects' classes in a share
        `CORRELATED` of the pictures, otherwise independent; ``"swapped"``: that of a class that the
        picture does not show.
    """

    objects: tuple[int, int]
    sizes: tuple[str, ...]
    distractors: tuple[int, int]
    scene: str


CORRELATED = 0.6
"""So often is the scene of a training picture chosen by its objects: the scene alone then predicts
the class, though not well enough for a network to ignore the object."""

SPLITS = {
    "train": Split((1, 3), ("small", "medium", "large"), (0, 2), "correlated"),
    "single": Split((1, 1), ("small", "medium", "large"), (0, 2), "independent"),
    "several": Split((2, 3), ("small", "medium"), (0, 2), "independent"),
    "difficult": Split((2, 3), ("small",), (2, 4), "independent"),
    "swapped": Split((1, 3), ("small", "medium", "large"), (0, 2), "swapped"),
}


@dataclass(frozen=True)
class Object:
    """One object of a picture.

    Attributes
    ----------
    label
        Its class.
    mask
        ``[64, 64]``: the pixels that show it, all of them and no others.
    box
        ``left, top, width, height`` of the mask, in pixels.
    """

    label: int
    mask: Bools
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows.

    Attributes
    ----------
    image
        ``[64, 64, 3]``, bytes.
    context
        The same without the objects: scene and distractors.
    objects
        Of different classes; they don't overlap.
    scene
        The class whose scene the background is.
    """

    image: Pixels
    context: Pixels
    objects: tuple[Object, ...]
    scene: int

    @property
    def labels(self) -> frozenset[int]:
        """The classes that the picture shows."""
        return frozenset(one.label for one in self.objects)


# Silhouettes and textures


def offsets(diameter: int) -> tuple[Floats, Floats]:
    """Row and column of each pixel of a square, from its center."""
    along = np.arange(diameter) - (diameter - 1) / 2
    return along[:, None], along[None, :]


@cache
def silhouette(label: int, diameter: int) -> Bools:
    """The pixels of an object of a class, ``[diameter, diameter]``."""
    y, x = offsets(diameter)
    radius = diameter / 2
    distance = np.hypot(y, x)
    found: Bools = {
        "disk": lambda: distance <= radius,
        "square": lambda: np.maximum(abs(y), abs(x)) <= radius,
        "triangle": lambda: abs(x) <= (y + radius) / 2,
        "cross": lambda: np.minimum(abs(y), abs(x)) <= radius * 0.4,
        "ring": lambda: (distance <= radius) & (distance >= radius * 0.45),
        "diamond": lambda: abs(y) + abs(x) <= radius,
    }[CLASSES[label]]()
    found.setflags(write=False)
    return found


@cache
def texture(label: int, diameter: int, phase: int) -> Bools:
    """Which pixels have the first of two colors.

    Textures repeat every four pixels (diagonals every six, which is 4.2 across them), whatever the
    size of the object.
    """
    y, x = np.indices((diameter, diameter)) + phase
    distance = np.hypot(*offsets(diameter)) + phase
    found: Bools = {
        "horizontal": lambda: y % 4 < 2,
        "vertical": lambda: x % 4 < 2,
        "checkerboard": lambda: (y // 2 + x // 2) % 2 == 0,
        "dots": lambda: (y % 4 < 2) & (x % 4 < 2),
        "diagonals": lambda: (y + x) % 6 < 3,
        "rings": lambda: distance % 4 < 2,
    }[TEXTURES[label]]()
    found.setflags(write=False)
    return found


def two_colors(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A dark and a bright color, in either order."""
    dark, bright = rng.uniform(0, 90, 3), rng.uniform(150, 255, 3)
    return (dark, bright) if rng.random() < 0.5 else (bright, dark)


# Scenes


def scene_of(label: int, rng: np.random.Generator) -> Floats:
    """A background ``[64, 64, 3]``: large smooth forms in the color of a scene.

    All forms are larger than the period of a texture by far, so that no texture is in them.
    """
    y, x = offsets(SIZE)
    y, x = y / SIZE * 2, x / SIZE * 2
    turn, shift = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)
    if label == 0:
        form = y + turn * x
    elif label == 1:
        form = x + turn * y
    elif label == 2:
        form = 1 - 1.5 * np.hypot(y - turn, x - shift)
    elif label == 3:
        form = np.sin(3 * (x + y) + 6 * shift)
    elif label == 4:
        form = np.sin(4 * x + 6 * shift) * np.sin(4 * y + 6 * turn)
    else:
        coarse = Image.fromarray(rng.uniform(-1, 1, (5, 5)).astype(np.float32))
        form = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    brightness = 1 + 0.35 * np.clip(form, -1, 1) + rng.uniform(-0.15, 0.15)
    tint = TINTS[label] + rng.uniform(-12, 12, 3)
    return brightness[..., None] * tint


def scene_label(split: Split, labels: list[int], rng: np.random.Generator) -> int:
    """Choose the scene of a picture with objects of these classes."""
    if split.scene == "correlated" and rng.random() < CORRELATED:
        return labels[rng.integers(len(labels))]
    others = [c for c in range(len(CLASSES)) if split.scene != "swapped" or c not in labels]
    return others[rng.integers(len(others))]


# Pictures


def draw(split: str, index: int, seed: int = 0) -> Picture:
    """Draw one picture of a split: the same for the same numbers.

    Parameters
    ----------
    split
        A name in `SPLITS`.
    index
        Its number in the split, from 0 on. It does not depend on how many are drawn.
    seed
        Another seed draws another data set. Splits of one seed share no random numbers.
    """
    kind = SPLITS[split]
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    count = int(rng.integers(kind.objects[0], kind.objects[1] + 1))
    labels = rng.permutation(len(CLASSES))[:count].tolist()
    scene = scene_label(kind, labels, rng)
    pixels = scene_of(scene, rng)
    # beside a large object there is no place for another one
    sizes = [size for size in kind.sizes if size != "large" or count == 1]
    taken: list[Place] = []
    while len(taken) < count:
        taken.clear()
        for size in sorted(rng.choice(sizes, count).tolist(), key=DIAMETERS.get, reverse=True):
            find_place(size, taken, rng)
    # objects are placed first, so that a distractor takes no object's place, and drawn last
    places = rng.permutation(taken).tolist()
    for _ in range(int(rng.integers(kind.distractors[0], kind.distractors[1] + 1))):
        place = find_place("small", taken, rng)
        if place is not None:
            distract(pixels, place, rng)
    noise = rng.normal(0, NOISE, (SIZE, SIZE, 3))
    context = to_bytes(pixels + noise)
    objects = []
    for label, (top, left, diameter) in zip(labels, places, strict=True):
        inside = silhouette(label, diameter)
        first = texture(label, diameter, int(rng.integers(4)))
        colors = two_colors(rng)
        part = pixels[top : top + diameter, left : left + diameter]
        part[inside] = np.where(first[..., None], *colors)[inside]
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[top : top + diameter, left : left + diameter] = inside
        objects.append(Object(label, mask, box_of(mask)))
    return Picture(to_bytes(pixels + noise), context, tuple(objects), scene)


def find_place(size: str, taken: list[Place], rng: np.random.Generator) -> Place | None:
    """Draw ``top, left, diameter`` of a square that overlaps none of those taken, and take it.

    Where no place is found, smaller squares are tried; None if there is none for a small one.
    """
    diameter = round(DIAMETERS[size] * rng.uniform(1 - SPREAD, 1 + SPREAD))
    least = round(DIAMETERS["small"] * (1 - SPREAD))
    while diameter >= least:
        for top, left in rng.integers(0, SIZE - diameter + 1, (TRIES, 2)).tolist():
            if all(
                top + diameter + MARGIN <= other_top
                or other_top + other + MARGIN <= top
                or left + diameter + MARGIN <= other_left
                or other_left + other + MARGIN <= left
                for other_top, other_left, other in taken
            ):
                taken.append((top, left, diameter))
                return taken[-1]
        diameter -= 4
    return None


def distract(pixels: Floats, place: Place, rng: np.random.Generator) -> None:
    """Draw the silhouette of a class in one color, or filled with blocks of 2 x 2 at random."""
    top, left, diameter = place
    inside = silhouette(int(rng.integers(len(CLASSES))), diameter)
    colors = two_colors(rng)
    part = pixels[top : top + diameter, left : left + diameter]
    if rng.random() < 0.5:
        part[inside] = colors[0]
        return
    blocks = rng.random((diameter // 2 + 1, diameter // 2 + 1)) < 0.5
    first = blocks.repeat(2, 0).repeat(2, 1)[:diameter, :diameter]
    part[inside] = np.where(first[..., None], *colors)[inside]


def to_bytes(pixels: Floats) -> Pixels:
    """Round to bytes."""
    return np.clip(pixels, 0, 255).astype(np.uint8)


def box_of(mask: Bools) -> tuple[int, int, int, int]:
    """The smallest box around a mask: ``left, top, width, height``."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


# What is made of pictures


def pictures(split: str, count: int, seed: int = 0) -> Iterator[Picture]:
    """The first pictures of a split."""
    return (draw(split, index, seed) for index in range(count))


def to_input(image: Pixels) -> torch.Tensor:
    """Bytes ``[..., H, W, 3]`` as what a network takes, ``[..., 3, H, W]``."""
    pixels = torch.from_numpy(np.moveaxis(image, -1, -3).astype(np.float32))
    return (pixels / 255 - MEAN) / STD


def cases(split: str, count: int, seed: int = 0) -> Iterator[Case]:
    """Each class of each picture as a case of `graphprop.evaluate`."""
    from graphprop.evaluation import Case

    for index, picture in enumerate(pictures(split, count, seed)):
        image = to_input(picture.image)
        for one in picture.objects:
            name = f"{split}/{index}"
            yield Case(image, one.label, one.mask, labels=picture.labels, name=name)


def arrays(split: str, count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """All pictures of a split as arrays.

    Returns
    -------
    dict
        ``images`` ``[N, 64, 64, 3]`` bytes, ``labels`` ``[N, 6]`` of zeros and ones, ``masks``
        ``[N, 6, 64, 64]``, ``contexts`` (the images without objects), and ``scenes`` ``[N]``.
    """
    images = np.zeros((count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.zeros((count, len(CLASSES)), dtype=np.uint8)
    masks = np.zeros((count, len(CLASSES), SIZE, SIZE), dtype=bool)
    contexts = np.zeros_like(images)
    scenes = np.zeros(count, dtype=np.int64)
    for index, picture in enumerate(pictures(split, count, seed)):
        images[index] = picture.image
        contexts[index] = picture.context
        scenes[index] = picture.scene
        for one in picture.objects:
            labels[index, one.label] = 1
            masks[index, one.label] = one.mask
    return {
        "images": images,
        "labels": labels,
        "masks": masks,
        "contexts": contexts,
        "scenes": scenes,
    }


def write_npz(path: Path, split: str, count: int, seed: int = 0) -> None:
    """Write a split as ``.npz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = arrays(split, count, seed)
    np.savez_compressed(path, **{key: found[key] for key in ("images", "labels", "masks")})


def write_coco(folder: Path, split: str, count: int, seed: int = 0) -> None:
    """Write a split as a COCO folder: PNGs, annotations with exact masks, and names of classes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures(split, count, seed)):
        name = f"{index:05}.png"
        Image.fromarray(picture.image).save(folder / "images" / name)
        images.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
        for one in picture.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCO's tools take 0 for none
                    "image_id": index,
                    "category_id": one.label + 1,
                    "bbox": list(one.box),
                    "area": int(one.mask.sum()),
                    "segmentation": {"size": [SIZE, SIZE], "counts": run_lengths(one.mask)},
                    "iscrowd": 0,
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")


def run_lengths(mask: Bools) -> list[int]:
    """COCO's run-length encoding: runs down the columns, of zeros and ones in turn."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


# How well a network does


def mean_average_precision(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """The mean over classes of the average precision, both ``[N, classes]``.

    ``sum_k (recall_k - recall_(k-1)) precision_k`` over pictures in order of their score. A class
    that no picture shows does not count.
    """
    found = []
    for column, shown in zip(np.asarray(scores).T, np.asarray(labels).T, strict=True):
        if not shown.any():
            continue
        hits = shown[np.argsort(-column, kind="stable")].astype(bool)
        precision = hits.cumsum() / np.arange(1, len(hits) + 1)
        found.append(precision[hits].mean())
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", choices=list(SPLITS))
    parser.add_argument("-n", "--count", type=int, default=500, help="pictures (default: 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="an .npz, or else a folder for COCO"
    )
    given = parser.parse_args()
    write = write_npz if given.output.suffix == ".npz" else write_coco
    write(given.output, given.split, given.count, given.seed)
    data = given.output if given.output.suffix == ".npz" else given.output / "annotations.json"
    print(f"{given.count} pictures of the split {given.split}: {data}")


if __name__ == "__main__":
    main()
