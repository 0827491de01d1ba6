"""From a module to a captured graph: ``torch.export``, with errors in the user's terms."""

from __future__ import annotations

import gc
import inspect
import io
import keyword
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
import torch.fx.graph as fx_graph
from torch import nn
from torch.export import Dim, ExportedProgram

from graphprop.errors import CaptureError, InputError, WeightsError
from graphprop.frontend.user_code import at_user_line, first_line, is_user_file, user_line
from graphprop.ir.facts import facts_of
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network

LOGITS_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How far the captured network's result may be off, relative to its size, by type.

Rounding alone can exceed the one of float32, where activations cancel: what does is computed once
more in float64, whose tolerance it can't reach."""

OTHER_TOLERANCE = 0.1
"""The same of other types: half precision, whose rounding says little."""

LARGEST_WHOLE = 255
"""The largest random number for an input of whole numbers: bytes of a picture."""

LEAST_NORM = 1e-30
"""What a result of zeros is divided by, so that a difference from it counts as large."""

CONTROL_FLOW = (
    "graphprop compiles one graph for every input, so what is computed may not depend on {what}. "
    "Replace the branch by arithmetic (torch.where), or export the branch you need as a model of "
    "its own."
)


Example: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
"""An example input, or one for each of the model's inputs, in order or by name."""


def inputs_of(example: Example) -> tuple[torch.Tensor, ...]:
    """The examples of all inputs."""
    if isinstance(example, Mapping):
        return tuple(example.values())
    return (example,) if isinstance(example, torch.Tensor) else tuple(example)


def arguments_of(
    model: nn.Module, example: Example, given: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with: positional and keyword arguments.

    Parameters
    ----------
    model
        The network.
    example
        Decides how: names that ``forward`` has are keywords, other names belong to one argument
        that is a dict.
    given
        What to put in the place of each input of the example.
    """
    if not isinstance(example, Mapping):
        return tuple(given), {}
    named = dict(zip(example, given, strict=True))
    accepted = inspect.signature(model.forward).parameters.values()
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
    if anything or set(named) <= {parameter.name for parameter in accepted}:
        return (), named
    return (named,), {}


def call(model: nn.Module, example: Example, given: Sequence[torch.Tensor]) -> Any:
    """Run a model on copies of what it is given: it may change its inputs in place."""
    arguments, keywords = arguments_of(model, example, [part.clone() for part in given])
    return model(*arguments, **keywords)


def ordered(model: nn.Module, example: Example) -> Example:
    """An example with its names in the order of ``forward``: that of the captured inputs."""
    if not isinstance(example, Mapping):
        return example
    parameters = list(inspect.signature(model.forward).parameters)
    if not set(example) <= set(parameters):
        return example
    return {name: example[name] for name in sorted(example, key=parameters.index)}


def capture(model: nn.Module, example: Example) -> ExportedProgram:
    """Capture a model in evaluation mode as functional ATen operators, for any batch size.

    Parameters
    ----------
    model
        The network, in evaluation mode.
    example
        An input ``[N, ...]``; of its samples only the shape and type matter.

    Raises
    ------
    CaptureError
        If the model is in training mode, can't run on the example, or has control flow that
        depends on the data or on the batch size. The message names the user's line.
    WeightsError
        If a parameter or buffer holds NaN or infinity.
    """
    check_ready(model)
    example = ordered(model, example)
    batch = tuple(part[:1].repeat(2, *[1] * (part.dim() - 1)) for part in inputs_of(example))
    run_eagerly(model, example, batch)
    check_batch_independent(model, example, batch)
    arguments, keywords = arguments_of(model, example, batch)
    length = Dim("batch", min=1)
    dynamic = arguments_of(model, example, [{0: length}] * len(batch))
    with quiet(), names_escaped():
        try:
            program = torch.export.export(
                model, arguments, keywords, strict=False, dynamic_shapes=dynamic[1] or dynamic[0]
            )
            return program.run_decompositions({})
        except Exception as error:
            raise CaptureError(explain_export_error(error)) from error


def unwrapped(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """The model inside what spreads it over devices or compiles it, and a note on each wrapper."""
    notes: list[str] = []
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            wrapper, inner = f"in {type(model).__name__}", model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            wrapper, inner = "by torch.compile", model._orig_mod
        else:
            return model, notes
        notes.append(f"the model was wrapped {wrapper}; compiled without it")
        model = inner


def check_logits(model: nn.Module, network: Network, example: Example) -> None:
    """Compare the canonical network's result with the model's own, on one random batch.

    Raises
    ------
    CaptureError
        If they differ: the model is not a function of its input alone, or was misunderstood.
    """
    generator = torch.Generator().manual_seed(0)
    example = ordered(model, example)
    given = [random_like(part, generator) for part in inputs_of(example)]
    dtype = facts_of(network.inputs[0]).value.dtype
    off = relative_difference(model, network, example, given, dtype)
    if off > LOGITS_TOLERANCE.get(dtype, OTHER_TOLERANCE):
        if all(part.is_floating_point() for part in given):
            exact = [part.double() for part in given]
            off = relative_difference(
                deepcopy(model).double(), network, example, exact, torch.float64
            )
        if off > LOGITS_TOLERANCE[torch.float64]:
            raise CaptureError(
                f"the captured network's result differs from the model's by {off:.1e} on the same "
                "input: the model draws random numbers, keeps state between calls, or does what "
                "torch.export does not see. graphprop explains functions of the input alone"
            )


def random_like(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two random samples of the shape and type of an example: noise, or whole numbers."""
    shape = (2, *part.shape[1:])
    if part.is_floating_point():
        return torch.randn(shape, generator=generator).to(part.dtype)
    if part.dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).to(part.dtype)
    most = min(torch.iinfo(part.dtype).max, LARGEST_WHOLE)
    return torch.randint(most + 1, shape, generator=generator).to(part.dtype)


def relative_difference(
    model: nn.Module,
    network: Network,
    example: Example,
    given: Sequence[torch.Tensor],
    dtype: torch.dtype,
) -> float:
    """How far the captured network's result is from the model's own, relative to its size."""
    with torch.no_grad():
        results = named_leaves(call(model, example, given))
    numbers = [part.to(dtype) for part in given]
    named = dict(zip((node.target for node in network.inputs), numbers, strict=True))
    logits = network.logits_before_tail
    _, kept = interpret(network, named, dtype=dtype, keep={"logits": logits})
    expected, found = results[network.output_name].double(), network.with_tail(kept["logits"])
    found = found.double()
    fine = torch.isfinite(expected)
    off = (found - expected)[fine].norm() / expected[fine].norm().clamp(min=LEAST_NORM)
    return float(off) if bool(torch.isfinite(off)) else inf


def named_leaves(tree: Any) -> dict[str, Any]:
    """What a model returns, by name: keys and indices, joined by dots where they are nested."""
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(tree)
    keystr = torch.utils._pytree.keystr
    return {".".join(re.findall(r"\w+", keystr(path))): leaf for path, leaf in leaves}


def check_ready(model: nn.Module) -> None:
    """Refuse a model in training mode, or with weights that aren't numbers."""
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        which = "the model" if "" in training else repr(training[0])
        raise CaptureError(
            f"{which} is in training mode, in which dropout and batch norm act at random or on "
            "the batch: call model.eval() first"
        )
    for kind, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                count = int((~torch.isfinite(tensor)).sum())
                raise WeightsError(
                    f"{kind} {name!r} holds {count} values that are NaN or infinite: "
                    "train or load the model again"
                )


def run_eagerly(model: nn.Module, example: Example, batch: tuple[torch.Tensor, ...]) -> Any:
    """Run the model once as it is, to refuse a wrong input shape in the user's terms."""
    try:
        with torch.no_grad():
            return call(model, example, batch)
    except Exception as error:
        line = user_line(error)
        shapes = " and ".join(str(tuple(part.shape[1:])) for part in batch)
        raise InputError(
            f"the model does not run on {'an input' if len(batch) == 1 else 'inputs'} of shape "
            f"{shapes}"
            f"{f' ({line})' if line else ''}: {first_line(error)}. "
            "Give the shape it was made for, without the batch, by example_input or --input-shape"
        ) from error


def check_batch_independent(
    model: nn.Module, example: Example, batch: tuple[torch.Tensor, ...]
) -> None:
    """Refuse a model that takes other lines of code for one sample than for two."""
    single = tuple(part[:1] for part in batch)
    with torch.no_grad():
        try:
            one, two = (lines_taken(model, example, part) for part in (single, batch))
        except Exception as error:
            raise CaptureError(
                f"the model runs on two samples but not on one: {first_line(error)}"
                f"{at_user_line(error)}. graphprop needs a model that works at every batch size"
            ) from error
    if one != two:
        before = next(
            (i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]),
            min(len(one), len(two)),
        )
        file, line = one[max(before - 1, 0)]
        raise CaptureError(
            f"control flow at {Path(file).name}:{line} depends on the batch size: "
            + CONTROL_FLOW.format(what="the number of samples")
        )


def lines_taken(
    model: nn.Module, example: Example, batch: tuple[torch.Tensor, ...]
) -> list[tuple[str, int]]:
    """The lines of the user's own code that the model runs, in order."""
    lines: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not is_user_file(frame.f_code.co_filename):
            return None
        if event == "line":
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # what runs as garbage is collected isn't the model's
    sys.settrace(trace)
    try:
        call(model, example, batch)
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return lines


def explain_export_error(error: BaseException) -> str:
    """Why ``torch.export`` failed, in terms of the user's code."""
    name = type(error).__name__
    text = str(error)
    if "DataDependent" in name or "data-dependent" in text:
        return f"control flow{at_user_line(error)} depends on the data: " + CONTROL_FLOW.format(
            what="the values in the input"
        )
    if "Constraints violated" in text or "ConstraintViolation" in name:
        guard = re.search(r"generated guard (.*)", text)
        condition = f" ({guard.group(1).strip()})" if guard else ""
        return f"the model works for some batch sizes only{condition}: " + CONTROL_FLOW.format(
            what="the number of samples"
        )
    return (
        f"torch.export can't capture the model{at_user_line(error)}: {first_line(error)}. "
        "graphprop compiles what torch.export captures; the text above is its reason"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own warnings and logs off the user's screen."""
    logger = logging.getLogger("torch")
    sink = io.StringIO()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(sink), redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def names_escaped() -> Iterator[None]:
    """Keep module names from becoming code: torch.fx quotes them, but escapes nothing."""

    def attribute(base: str, path: str) -> str:
        for name in path.split("."):
            plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
            base = f"{base}.{name}" if plain else f"getattr({base}, {name!a})"
        return base

    before = fx_graph._format_target
    fx_graph._format_target = attribute
    try:
        yield
    finally:
        fx_graph._format_target = before
