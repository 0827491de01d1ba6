"""Weights: tensors and nothing else, from a file into a model.

A weight file is data, and is never run: what can't be read as tensors alone is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from graphprop.errors import WeightsError, kind_of
from graphprop.frontend.user_code import first_line

SHOWN = 5
"""How many keys of a state dict an error lists: enough to see what they have in common."""


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load a state dict into a model in place.

    Parameters
    ----------
    model
        The network. After an error it may be partly loaded.
    path
        A ``.safetensors`` file, or one written by ``torch.save``, which is read with
        ``weights_only=True`` and never otherwise. It holds a state dict, or a dictionary with one
        under ``state_dict``, ``model_state_dict`` or ``model``. Tensors of half precision are
        taken to the model's own. A prefix that data parallelism or
        ``torch.compile`` has put before every key is removed; so is that of the attribute in which
        a training framework keeps the network (``model.``, ``net.``), where one alone fits.

    Returns
    -------
    list of str
        What was done to make the weights fit.

    Raises
    ------
    WeightsError
        If the file can't be read, holds anything but tensors, or doesn't fit the model.
    """
    path = Path(path)
    notes: list[str] = []
    state = state_dict_in(read_tensors(path), path, notes)
    own = model.state_dict()
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            if all(key.startswith(prefix) for key in own):
                break
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
            notes.append(f"the prefix {prefix!r} was removed from the keys of {path.name}")
    state = without_prefix(state, own, path, notes)
    refuse_whole_numbers(state, own, path)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        text = misfit(own, state, own.keys() - state.keys(), state.keys() - own.keys())
        raise WeightsError(misfits(path, text or first_line(error))) from error
    text = misfit({}, {}, missing, unexpected)
    if text:
        raise WeightsError(misfits(path, text))
    return notes


def refuse_whole_numbers(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Refuse whole numbers for what is floating point: weights of quantized layers lack a scale."""
    wrong = [
        key
        for key, tensor in state.items()
        if key in own and own[key].is_floating_point() and not tensor.is_floating_point()
    ]
    if wrong:
        kind = str(state[wrong[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"{path.name} holds whole or complex numbers ({kind}) for {some(map(repr, wrong))}, "
            "which are floating point in the model: save the weights before they are quantized"
        )


def without_prefix(
    state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: Path, notes: list[str]
) -> dict[str, torch.Tensor]:
    """Take the weights under a prefix where these are the model's, and the only such ones."""
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    if not needed or needed & state.keys():
        return state
    one = min(needed)
    prefixes = sorted(key.removesuffix(one) for key in state if key.endswith(f".{one}"))
    fitting = {}
    for prefix in prefixes:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        fits = needed <= inner.keys() <= own.keys()
        if fits and all(inner[key].shape == own[key].shape for key in needed):
            fitting[prefix] = inner
    if len(fitting) > 1:
        raise WeightsError(
            f"{path.name} holds weights that fit the model under {len(fitting)} prefixes, "
            f"{some(map(repr, fitting))}: save those you mean alone, under their plain keys"
        )
    for prefix, inner in fitting.items():
        others = sorted(key for key in state if not key.startswith(prefix))
        left = f"; {len(others)} others are left out: {some(map(repr, others))}" if others else ""
        notes.append(f"the prefix {prefix!r} was removed from the keys of {path.name}{left}")
        return inner
    return state


def read_tensors(path: Path) -> object:
    """Read a weight file without ever running what is in it."""
    if not path.exists():
        raise WeightsError(f"there is no weight file {path}")
    if not path.is_file():
        raise WeightsError(f"{path} is a folder: give the weight file in it")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to unpickle after all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Why a file gives no weights: it holds other things than tensors, or is no weight file."""
    text = str(error)
    save = "torch.save(model.state_dict(), path)"
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80" and path.suffix != ".safetensors"
    if "TorchScript" in text:
        return f"{path.name} is a TorchScript archive: save the weights of it alone, {save}"
    if is_pickle or "GLOBAL" in text:
        found = re.search(r"GLOBAL ([\w.]+)", text)
        return (
            f"{path.name} is refused: it is a pickle that holds other things than tensors"
            f"{f' ({found.group(1)})' if found else ''}, and only tensors are loaded, as "
            f"unpickling can run any code. Save the weights alone: {save}"
        )
    line = "" if isinstance(error, pickle.UnpicklingError | EOFError) else first_line(error)
    # a single word is the name of an exception, and no reason
    reason = f" ({line.partition('. ')[0]})" if " " in line else ""
    return (
        f"{path.name} can't be read as weights{reason}: give a .safetensors file, or one written "
        f"by {save}"
    )


def state_dict_in(content: object, path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """Find the state dict in what a weight file holds."""
    if isinstance(content, Mapping):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                notes.append(f"the weights are those under {key!r} in {path.name}")
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path.name} holds {kind_of(content)}, not a state dict: save the weights by "
            "torch.save(model.state_dict(), path)"
        )
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path.name} holds other things than tensors, under {some(map(repr, others))}: save "
            "the weights alone, torch.save(model.state_dict(), path)"
        )
    return dict(content)


def misfit(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> str:
    """Which keys are missing, unexpected, or of another shape; "" where there are none."""
    # How many batches a batch norm has seen matters in training only.
    missing = sorted(key for key in missing if not key.endswith("num_batches_tracked"))
    unexpected = sorted(unexpected)
    wrong = [
        f"{key!r} ({list(state[key].shape)} in the file, {list(tensor.shape)} in the model)"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    groups = (
        ("missing", [repr(key) for key in missing]),
        ("unexpected", [repr(key) for key in unexpected]),
        ("of another shape", wrong),
    )
    return "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in groups if keys)


def misfits(path: Path, text: str) -> str:
    """The message that weights don't fit, with what to do."""
    return (
        f"{path.name} doesn't fit the model: {text}. Give the weights of this very architecture, "
        "or the model that they belong to (SOURCE:NAME)"
    )


def some(names: Iterable[str]) -> str:
    """List the first few of many names."""
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
