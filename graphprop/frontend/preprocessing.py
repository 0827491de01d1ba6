"""How a picture becomes an input, read from whatever says it: into the form that manifests hold.

=================  =============================================================================
``size``           height and width of an input: what is left after the crop
``resize``         ``"cover"``: scaled so that it just covers the size; a number: the length of the
                   shorter side; ``[height, width]``: both. Then the center is cut out
``interpolation``  how it is scaled, by Pillow's names in lower case
``channels``       ``"RGB"`` or ``"BGR"``; ``"gray"`` for one channel
``mean``, ``std``  for each channel, in the order of the network's: ``(picture - mean) / std``, the
                   picture in [0, 1]
=================  =============================================================================

The order is that of torchvision's transforms: resize, center crop, mean and std. A crop larger than
the picture is filled with black, as there. Two more things can be said, and are recorded as others:
``range``, what black and white become before mean and std (``[0, 255]``), in the mean and std of
pictures in [0, 1]; ``crop``, the share of the shorter side that is kept, as the shorter side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphprop.errors import InputError, kind_of, nearest

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {**IMAGENET, "crop": 0.875},
    "zero-one": {"mean": 0.0, "std": 1.0},
    "minus-one-one": {"mean": 0.5, "std": 0.5},
}
"""What is known by name. The first is that of torchvision's networks: of a picture's shorter side
the middle 7/8 are used, 224 of 256 pixels."""
KEYS = ("size", "resize", "crop", "interpolation", "channels", "range", "mean", "std")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, which Hugging Face's files hold."""
ORDERS = {1: ("gray",), 3: ("RGB", "BGR")}
FORM = (
    "it must be a dictionary such as {'size': [224, 224], 'mean': [0.5, 0.5, 0.5], "
    "'std': [0.2, 0.2, 0.2]}"
)
"""What it looks like, for errors."""
FORMS = (
    f"Or give {', '.join(PRESETS)}, a dictionary with {', '.join(KEYS)}, a transform of "
    "torchvision, the data configuration of timm, or the processor of Hugging Face"
)
UNKNOWN = (
    "how a picture becomes an input is not known: pictures get values from 0 to 1, without mean "
    "and std, and logits and maps are wrong for a network that was trained otherwise. Say it by "
    "--preprocessing imagenet, zero-one, minus-one-one or FILE, or by preprocessing in the model's "
    "file (save(preprocessing=) in Python)"
)
"""What compile and explain say where nobody has said it."""


def takes_pictures(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether inputs of these shapes, without the batch, are pictures, gray or in color."""
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] in ORDERS


def recorded(given: Any, shape: Sequence[int], *, whole: bool = False) -> dict[str, Any] | None:
    """Bring what says how a picture becomes an input into the form that manifests hold.

    Parameters
    ----------
    given
        A name (`PRESETS`); a dictionary with some of `KEYS`; an evaluation transform of torchvision
        or timm; timm's data configuration; the processor of Hugging Face, or what its
        ``preprocessor_config.json`` holds; or the path of a JSON file with one of these. None for
        what isn't known.
    shape
        The shape of an input, without the batch.
    whole
        Whether inputs are whole numbers, which the bytes of a picture are given to as they are.

    Raises
    ------
    InputError
        If it can't be read, or makes inputs of another shape.
    """
    if given is None:
        return None
    said = said_by(given)
    channels, *spatial = shape
    for key in said:
        if key not in KEYS:
            raise InputError(f"preprocessing has no {key!r}: {nearest(str(key), KEYS)}")
    said = {key: as_list(value) for key, value in said.items() if value is not None}
    crop = said.get("crop")
    for size in (said.get("size"), crop if isinstance(crop, list) else None):
        if size is not None and numbers("size", size, len(spatial), "axes") != list(spatial):
            raise InputError(
                f"preprocessing makes inputs of size {size}, but the model's input has the size "
                f"{list(spatial)}: make them equal, or leave the size out"
            )
    mean = numbers("mean", said.get("mean", 0.0), channels, "channels")
    unit = 1 / 255 if whole and "range" not in said else 1.0
    std = numbers("std", said.get("std", unit), channels, "channels")
    if min(std) <= 0:
        raise InputError(f"the std of preprocessing is {said['std']}: every one must be above zero")
    if "range" in said:
        low, high = range_of(said["range"])
        mean = [(value - low) / (high - low) for value in mean]
        std = [value / (high - low) for value in std]
    found = {"size": list(spatial), "mean": mean, "std": std}
    if not takes_pictures([shape]):
        for key in ("resize", "interpolation", "channels", "crop"):
            if key in said:
                raise InputError(
                    f"preprocessing has {key!r}, which is of pictures, but the model's input has "
                    f"the shape {tuple(shape)}"
                )
        return found
    return {
        **found,
        "resize": resize_of(said, spatial),
        "interpolation": chosen("interpolation", said.get("interpolation"), INTERPOLATIONS),
        "channels": chosen("channels", said.get("channels"), ORDERS[channels]),
    }


def changed(
    given: Any,
    single: Mapping[str, Any],
    shape: Sequence[int],
    *,
    whole: bool = False,
) -> dict[str, Any] | None:
    """What is said, with some of it said otherwise: by single options.

    Parameters
    ----------
    given, shape, whole
        As for `recorded`.
    single
        Some of `KEYS`. A resize takes the place of a crop, and the other way round.
    """
    if not single:
        return recorded(given, shape, whole=whole)
    said = {} if given is None else dict(said_by(given))
    if single.keys() & {"resize", "crop"}:
        said = {key: value for key, value in said.items() if key not in ("resize", "crop")}
    return recorded({**said, **single}, shape, whole=whole)


def said_by(given: Any) -> Mapping[str, Any]:
    """What anything says of preprocessing, under our names."""
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given]
    if isinstance(given, str | Path):
        return said_by_mapping(read_file(Path(given)))
    if isinstance(given, Mapping):
        return said_by_mapping(given)
    if callable(getattr(given, "to_dict", None)):  # Hugging Face's, timm's PretrainedCfg
        return said_by_mapping(given.to_dict())
    from graphprop.frontend.transforms import said_by_transform

    return said_by_transform(given)


def read_file(file: Path) -> Mapping[str, Any]:
    """Read a JSON file."""
    if not file.is_file():
        raise InputError(
            f"there is no preprocessing {str(file)!r}: give {', '.join(PRESETS)}, or a JSON file "
            f"with {', '.join(KEYS)}, or of timm or Hugging Face"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} can't be read as JSON ({error})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds {kind_of(content)}: {FORM}")
    return content


def said_by_mapping(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a dictionary says: our own, timm's, or Hugging Face's."""
    from graphprop.frontend import transforms

    inner = given.get("pretrained_cfg")  # the config.json of a network of timm
    given = inner if isinstance(inner, Mapping) else given
    if any(key in given for key in transforms.HUGGING_FACE):
        return transforms.said_by_hugging_face(given)
    if any(key in given for key in transforms.TIMM):
        return transforms.said_by_timm(given)
    return given


def as_list(value: Any) -> Any:
    """Tensors, arrays and tuples as lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def numbers(key: str, value: Any, count: int, of: str) -> list[Any]:
    """Finite numbers, as many as there are axes or channels; one number stands for all."""
    if is_number(value) and key != "size":
        value = [value] * count
    if not isinstance(value, list) or not all(map(is_number, value)):
        raise InputError(f"the {key} of preprocessing is {value!r}: {FORM}")
    if len(value) != count:
        raise InputError(
            f"the {key} of preprocessing has {len(value)} values, but the input has {count} {of}"
        )
    return value if key == "size" else [float(v) for v in value]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def chosen(key: str, value: Any, known: Sequence[str]) -> str:
    """A word of those that there are; the first where none is given."""
    if value is None:
        return known[0]
    for word in known:
        if str(value).lower() == word.lower():
            return word
    raise InputError(f"the {key} of preprocessing is {value!r}: " + nearest(str(value), known))


def range_of(value: Any) -> list[float]:
    """What black and white become."""
    if not isinstance(value, list) or len(value) != 2 or not all(map(is_number, value)):
        raise InputError(
            f"the range of preprocessing is {value!r}: give what black and white become, such as "
            "[0, 255]"
        )
    low, high = map(float, value)
    if low >= high:
        raise InputError(f"the range of preprocessing is {value!r}: black comes first")
    return [low, high]


def resize_of(said: Mapping[str, Any], size: Sequence[int]) -> Any:
    """How a picture is scaled before its center is cut out."""
    resize, crop = said.get("resize"), said.get("crop")
    share = None if isinstance(crop, list) else crop
    if share is not None and resize is not None:
        raise InputError(
            "preprocessing has a share to crop and a resize, of which each says the other: give "
            "one of them"
        )
    if share is not None:
        if not is_number(share) or not 0 < share <= 1:
            raise InputError(
                f"the crop of preprocessing is {share!r}: give the share of the shorter side that "
                "is kept, above 0 and at most 1"
            )
        if size[0] != size[1]:
            raise InputError(
                "a share to crop is of square inputs: give preprocessing resize, the length of the "
                "shorter side"
            )
        return math.floor(size[0] / share)
    if resize is None or resize == "cover":
        return "cover"
    if isinstance(resize, list) and len(resize) == 1:
        resize = resize[0]
    lengths = resize if isinstance(resize, list) else [resize]
    if len(lengths) > 2 or not all(type(n) is int and 1 <= n <= LARGEST for n in lengths):
        raise InputError(
            f"the resize of preprocessing is {resize!r}: give 'cover', the length of the shorter "
            "side, or [height, width]"
        )
    return resize


LARGEST = 65_536
"""Pixels: no network's input is larger, and a picture enlarged to it would fill the memory."""
