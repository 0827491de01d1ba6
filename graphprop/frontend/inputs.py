"""What a file says beside its model: the input, how a picture becomes one, names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import isfunction, signature
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from graphprop.errors import InputError, LoadError, kind_of
from graphprop.frontend.capture import Example
from graphprop.frontend.preprocessing import recorded
from graphprop.frontend.user_code import user_errors


def example_input(
    holders: Iterable[Any], input_shape: tuple[int, ...] | None, folder: Path | None
) -> Example:
    """Find or make two samples of the model's input."""
    for holder in holders:
        example = getattr(holder, "example_input", None)
        if input_shape is not None and not isinstance(example, torch.Tensor):
            continue
        if callable(example):
            with user_errors("example_input() fails", folder):
                example = example()
        if example is not None and input_shape is not None:
            return torch.zeros(2, *input_shape, dtype=two_samples_of_one(example).dtype)
        if example is not None:
            return two_samples(example)
    if input_shape is not None:
        return torch.zeros(2, *input_shape)
    raise InputError(
        "the shape of the model's input is unknown: give it without the batch, "
        "--input-shape C,H,W, or define example_input (a tensor of shape [N, C, H, W]) in the file"
    )


def two_samples(example: Any) -> Example:
    """Check an ``example_input`` and make a batch of two of it."""
    if isinstance(example, Mapping) and example:
        return {str(name): two_samples_of_one(part) for name, part in example.items()}
    if isinstance(example, tuple | list) and example:
        parts = tuple(two_samples_of_one(part) for part in example)
        return parts[0] if len(parts) == 1 else parts
    return two_samples_of_one(example)


def two_samples_of_one(example: Any) -> torch.Tensor:
    """Check an example of one input and make a batch of two of it."""
    if not isinstance(example, torch.Tensor):
        raise InputError(
            f"example_input is {kind_of(example)}: it must be a tensor, or one for each input of "
            "the model in a tuple or by name in a dict, or a function that returns that"
        )
    if example.is_complex() or example.dtype == torch.bool or example.is_quantized:
        kind = str(example.dtype).removeprefix("torch.")
        raise InputError(f"example_input is of type {kind}: it must hold numbers, as images do")
    if example.dim() < 2 or example.numel() == 0:
        raise InputError(
            f"example_input has the shape {tuple(example.shape)}: it must hold at least one "
            "sample, the batch being the first axis, as in [N, C, H, W]"
        )
    two = example[:2] if example.shape[0] >= 2 else example.repeat(2, *[1] * (example.dim() - 1))
    dtype = torch.float32 if two.is_floating_point() else two.dtype
    return two.detach().to("cpu", dtype).clone()


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what isn't the shape of one sample."""
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(
            f"the input shape {','.join(map(str, shape)) or '()'} must be whole numbers above "
            "zero, without the batch: --input-shape C,H,W, such as 3,224,224"
        )


def refuse_batch(model: nn.Module, example: Example, shape: tuple[int, ...]) -> None:
    """Refuse a shape that begins with the batch: the model runs without that length alone."""
    if len(shape) < 3 or not isinstance(example, torch.Tensor):
        return
    if not runs(model, example) and runs(model, example.new_zeros(2, *shape[1:])):
        text = ",".join(map(str, shape))
        raise InputError(
            f"the input shape {text} begins with the batch, {shape[0]}: give it without, "
            f"--input-shape {','.join(map(str, shape[1:]))}"
        )


def runs(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether a model runs on an input."""
    try:
        with torch.no_grad():
            model(x)
    except Exception:
        return False
    return True


def preprocessing_of(
    module: ModuleType, example: Example, *, follow: bool
) -> dict[str, Any] | None:
    """Read the file's ``preprocessing``; ``follow``: its size gives way to the example's.

    None where the file says nothing, and for a model with several inputs. One that takes whole
    numbers, bytes of a picture, gets them as they are unless the file says otherwise.

    Raises
    ------
    LoadError
        If it can't be read, or makes inputs of another size.
    """
    if not isinstance(example, torch.Tensor):
        return None
    given = getattr(module, "preprocessing", None)
    whole = not example.is_floating_point()
    if given is None or isinstance(given, ModuleType):
        if not whole:
            return None
        given = {}
    if isinstance(given, Mapping) and follow:
        given = {key: value for key, value in given.items() if key != "size"}
    try:
        return recorded(given, example.shape[1:], whole=whole)
    except InputError as error:
        raise LoadError(str(error)) from error


def class_names_of(module: ModuleType, where: str, folder: Path | None) -> tuple[str, ...] | None:
    """Read the file's ``class_names``, else its ``classes``: a list of texts, or what returns one.

    ``classes`` of another kind (their number, the indices of some) are no names, and not read.

    Raises
    ------
    LoadError
        If ``class_names`` are of another kind, or a function fails.
    """
    for name in ("class_names", "classes"):
        given = getattr(module, name, None)
        if isfunction(given) and not signature(given).parameters:
            with user_errors(f"{name}() in {where} fails", folder):
                given = given()
        if isinstance(given, list | tuple) and given and all(isinstance(n, str) for n in given):
            return tuple(given)
        if name == "class_names" and given is not None and not isinstance(given, ModuleType):
            raise LoadError(
                f"class_names in {where} is {kind_of(given)}: it must be a list of texts, one for "
                "each class, or a function without arguments that returns one"
            )
    return None
