"""What the transforms and configurations of other libraries say of preprocessing.

None of these libraries is imported: a transform is known by the name of its class, and read by its
attributes. What can't be recorded (anything random, a function of the user's) is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from graphprop.errors import InputError, kind_of
from graphprop.frontend.preprocessing import FORM, FORMS, PILLOW, as_list

TIMM = ("crop_pct", "crop_mode", "input_size", "test_crop_pct")
HUGGING_FACE = (
    "image_mean",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_processor_type",
    "feature_extractor_type",
)
"""Keys by which a configuration is known."""

TO_NUMBERS = ("ToTensor", "MaybeToTensor")
TO_BYTES = ("PILToTensor", "MaybePILToTensor", "ToImage", "ToImageTensor", "ToNumpy")
NEUTRAL = ("RGB", "ToPureTensor", "Identity", "ToRGB")


def said_by_transform(transform: Any) -> dict[str, Any]:
    """Read an evaluation transform of torchvision or timm.

    Raises
    ------
    InputError
        If it is none, or holds a step that can't be recorded.
    """
    said: dict[str, Any] = {}
    bytes_left = True
    for step in steps_of(transform):
        name = type(step).__name__
        if name.startswith(("Random", "Auto", "Trivial", "AugMix", "ColorJitter")):
            raise InputError(
                f"{name} changes a picture at random: give the transform of evaluation, not that "
                "of training"
            )
        if name == "ImageClassification":
            mean, std = list(step.mean), list(step.std)
            (resize,), (crop,) = list(step.resize_size), list(step.crop_size)
            said = {"resize": resize, "crop": [crop, crop], "mean": mean, "std": std}
            said["interpolation"] = interpolation_of(step.interpolation)
            bytes_left = False
        elif name == "Resize":
            if said.keys() & {"resize", "crop"} or getattr(step, "max_size", None) is not None:
                raise unreadable(step, "it comes after another one, or has a max_size")
            said["resize"] = size_of(step.size)
            said["interpolation"] = interpolation_of(step.interpolation)
        elif name == "CenterCrop":
            if "resize" not in said or "crop" in said:
                raise unreadable(step, "a resize must come first, and one crop follow")
            size = size_of(step.size)
            said["crop"] = [size, size] if isinstance(size, int) else size
        elif name == "Normalize":
            if "mean" in said:
                raise unreadable(step, "there is another one before it")
            said |= {"mean": list(as_list(step.mean)), "std": list(as_list(step.std))}
        elif name in TO_NUMBERS:
            bytes_left = False
        elif name in ("ConvertImageDtype", "ConvertDtype", "ToDtype"):
            if getattr(step, "scale", True):
                bytes_left = False
        elif name == "Grayscale":
            said["channels"] = "gray" if step.num_output_channels == 1 else None
        elif name not in (*TO_BYTES, *NEUTRAL):
            raise unreadable(step, "what it does isn't known here")
    if isinstance(said.get("resize"), list) and said.get("crop") is None:
        said["size"] = said["resize"]
    if bytes_left:
        said["range"] = [0.0, 255.0]
    return said


def steps_of(transform: Any) -> Iterator[Any]:
    """The steps of a transform, those of transforms in it among them."""
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        for one in inner:
            yield from steps_of(one)
    elif type(transform).__name__ == "Sequential":
        for one in transform:
            yield from steps_of(one)
    elif not callable(transform):
        raise InputError(f"preprocessing is {kind_of(transform)}: {FORM}. {FORMS}")
    else:
        yield transform


def unreadable(step: Any, reason: str) -> InputError:
    """The error for a step that can't be recorded."""
    return InputError(
        f"the transform has a step {type(step).__name__} that can't be recorded: {reason}. Give "
        "preprocessing as a dictionary instead, or tensors that are inputs already"
    )


def size_of(size: Any) -> Any:
    """A size as torchvision holds it: a number, or height and width."""
    size = as_list(size)
    return size[0] if isinstance(size, list) and len(size) == 1 else size


def interpolation_of(value: Any) -> str:
    """An interpolation by its name: of torchvision's and Pillow's enumerations, or as a number."""
    if isinstance(value, int) and not hasattr(value, "name"):
        return PILLOW.get(value, str(value))
    value = getattr(value, "value", value) if isinstance(getattr(value, "value", 0), str) else value
    return str(getattr(value, "name", value)).lower().removesuffix("-exact")


def said_by_timm(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read timm's data configuration: what ``resolve_data_config`` and ``pretrained_cfg`` hold."""
    size = as_list(given.get("input_size"))
    said: dict[str, Any] = {
        "mean": given.get("mean"),
        "std": given.get("std"),
        "interpolation": given.get("interpolation"),
    }
    if not isinstance(size, list) or len(size) != 3:
        raise InputError("timm's configuration has no input_size of three numbers")
    height, width = size[1:]
    said["size"] = [height, width]
    mode, share = given.get("crop_mode") or "center", given.get("crop_pct") or 0.875
    lengths = [math.floor(length / share) for length in (height, width)]
    if mode == "squash":
        said["resize"] = lengths
    elif mode == "center" and height == width:
        said["resize"] = lengths[0]
    else:
        raise InputError(
            f"timm's crop_mode {mode!r} of inputs {height} x {width} can't be recorded: give "
            "preprocessing as a dictionary, or tensors that are inputs already"
        )
    return said


def said_by_hugging_face(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the processor of Hugging Face, as its ``to_dict()`` and its JSON file have it."""
    said: dict[str, Any] = {}
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    if given.get("do_pad"):
        raise InputError(
            "a processor with do_pad can't be recorded: give tensors as inputs instead"
        )
    crops = bool(given.get("do_center_crop"))
    if given.get("do_resize", True) and given.get("size") is not None:
        said |= hugging_face_size(given, crops, kind)
    if crops:
        crop = given.get("crop_size", given.get("size"))
        said["crop"] = both_of(crop)
    if given.get("resample") is not None:
        said["interpolation"] = interpolation_of(given["resample"])
    low, high = 0.0, 255.0
    if given.get("do_rescale", True):
        high *= float(given.get("rescale_factor") or 1 / 255)
        if given.get("rescale_offset") or given.get("offset"):
            low, high = low - 1, high - 1
    said["range"] = [low, round(high, 9)]
    if given.get("do_normalize", True) and given.get("image_mean") is not None:
        said |= {"mean": given["image_mean"], "std": given["image_std"]}
    if given.get("do_flip_channel_order"):
        said["channels"] = "BGR"
    if given.get("include_top") and "std" in said:  # EfficientNet's divides a second time
        said["std"] = [value * value for value in said["std"]]
    return said


def hugging_face_size(given: Mapping[str, Any], crops: bool, kind: str) -> dict[str, Any]:
    """What ``size`` says: both sides, or the shorter one."""
    size = given["size"]
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int):
        edge = size if crops or "ConvNext" in kind else None
    if edge is None:
        both = both_of(size)
        return {"resize": both, **({} if crops else {"size": both})}
    if isinstance(size, Mapping) and size.get("longest_edge") is not None:
        raise InputError("a processor with a longest_edge can't be recorded: give tensors instead")
    share = given.get("crop_pct")
    if share is None:
        return {"resize": edge}
    if "ConvNext" not in kind:
        raise InputError(
            f"the crop_pct of {kind or 'the processor'} can't be recorded: give preprocessing as a "
            "dictionary instead"
        )
    if edge >= 384:  # it then stretches, and crops nothing
        return {"resize": [edge, edge], "size": [edge, edge]}
    return {"resize": int(edge / share), "crop": [edge, edge]}


def both_of(size: Any) -> list[int]:
    """Height and width."""
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return [size["height"], size["width"]]
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return [size["shortest_edge"]] * 2
    if isinstance(size, int):
        return [size, size]
    found = as_list(size)
    if isinstance(found, list) and len(found) == 2:
        return found
    raise InputError(f"the size of the processor is {size!r}: height and width are expected")
