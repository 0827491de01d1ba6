"""The generated module in half precision, and on other devices than the processor.

In half precision a map has three digits, or two, and relevance divides by small numbers: of some
networks and methods nothing is left. What is to be expected follows from the error of float32: the
same steps round by 2^13 (float16) or 2^16 (bfloat16) as much. A map that is off by more than that,
or by more than `LARGEST`, or that is no numbers at all, can't be computed in that type; the first
layer where it fails is named.

On another device the module is judged as on the processor, by its error and by every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphprop.checking.arbiter import FLOOR, MARGIN, errors
from graphprop.checking.backends import BackendError, OnnxRuntime, Step, run_module
from graphprop.checking.compare import Session, timed
from graphprop.checking.compared import OnnxBackend, PythonBackend
from graphprop.checking.probes import LARGEST_BATCH, Batch
from graphprop.checking.report import BackendResult, Comparison, number
from graphprop.checking.stages import stage_name
from graphprop.errors import InputError, MethodError, nearest

TYPES: Mapping[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The types of half precision, by name."""

LARGEST = 0.2
"""An error above this is never allowed: up to it the cosine with the right map is at least 0.98,
and the largest entries stay the largest."""


def check_variants(
    dtypes: Sequence[str | torch.dtype], device: str | None, backends: Sequence[str]
) -> tuple[str, ...]:
    """The names of types; refuses unknown types and devices, before the work rather than after it.

    Raises
    ------
    MethodError
        If there is no such type, or the backend that has it isn't to be checked.
    InputError
        If there is no such device here.
    """
    given = [dtypes] if isinstance(dtypes, str | torch.dtype) else dtypes
    names = tuple(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in given))
    for name in names:
        if name not in TYPES:
            raise MethodError(
                f"a check knows what to expect of {' and '.join(TYPES)}, not of {name!r}: "
                f"{nearest(name, TYPES)}"
            )
    if names and "python" not in backends:
        raise MethodError(
            "explainer.onnx computes in single precision: a type is checked on the backend 'python'"
        )
    if device is not None:
        check_device(device)
    return names


def check_device(device: str) -> None:
    """Refuse a device that torch doesn't have here."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"there is no device {device!r}: give 'cpu' or 'cuda'") from None
    if kind not in ("cpu", "cuda"):
        raise InputError(f"a check runs on 'cpu' or 'cuda', not on {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        reason = "has no CUDA" if torch.version.cuda is None else "finds no GPU"
        raise InputError(f"there is no device {device!r} here: this torch {reason}")


def compare_variants(
    session: Session, dtypes: Sequence[str], device: str | None, backends: Sequence[str]
) -> None:
    """Compare the module in each type, and all backends on a device; the results are reported."""
    if device is not None:
        if "python" in backends:
            session.compare(f"python {device}", PythonBackend(session.directory, device=device))
        if "onnxruntime" in backends:
            compare_onnxruntime(session, device)
    for name in dtypes:
        compare_in_half(session, name, device or "cpu")


def compare_onnxruntime(session: Session, device: str) -> None:
    """Compare ``explainer.onnx`` on a device."""
    name, path = f"onnxruntime {device}", session.directory / "explainer.onnx"
    provider = OnnxRuntime.provider_of(device)
    if not OnnxRuntime.has(provider):
        skipped = f"this onnxruntime has no {provider}"
        session.report.backends.append(BackendResult(name, skipped=skipped))
        return
    session.compare(name, OnnxBackend("onnxruntime", path, device))


def compare_in_half(session: Session, name: str, device: str) -> BackendResult:
    """Compare the module in half precision."""
    result = BackendResult(f"python {name}" + f" {device}" * (device != "cpu"))
    session.report.backends.append(result)
    session.say(f"check: {result.name}")
    samples = session.truth.samples
    batches = [
        Batch(rows[start : start + LARGEST_BATCH], target)
        for rows, target in ((samples.by_class, "class"), (samples.weighted, "weights"))
        for start in range(0, len(rows), LARGEST_BATCH)
    ]
    step = Step("half", name, batches=batches, guard=False, device=device)
    with timed(result):
        try:
            found = run_module(session.directory, samples.tensors, [step], samples.shapes)
            rows = [row for batch in batches for row in batch.rows]
            judge(result, session, name, rows, found["half/logits"], found["half/relevance"])
            worst = result.samples.index(result.worst) if result.worst else 0
            if not result.passed:
                place = first_beyond(session, name, device, rows[worst])
                result.problem = f"{result.problem}{place}"
        except BackendError as error:
            result.problem = str(error)
    return result


def judge(
    result: BackendResult,
    session: Session,
    name: str,
    rows: Sequence[int],
    logits: torch.Tensor,
    relevance: torch.Tensor,
) -> None:
    """Note how far each row is off, and what is wrong if that is too much.

    Of inputs whose entries are equal only that the map holds numbers is asked: rounding chooses
    the largest of equals.
    """
    truth = session.truth
    result.rows = [truth.samples.name(row) for row in rows]
    off = errors(relevance, truth.relevance[list(rows)])
    logits_off = errors(logits, truth.logits[list(rows)])
    for place, row in enumerate(rows):
        flat = truth.samples.is_flat(row)
        finite = bool(relevance[place].isfinite().all()) and bool(logits[place].isfinite().all())
        e32 = {key: values[row] for key, values in truth.float32.items()}
        result.samples.append(
            Comparison(
                0.0 if flat and finite else off[place],
                expected(name, e32["relevance"]),
                logits_off[place],
                expected(name, e32["logits"]),
            )
        )
    wrong = result.worst
    if wrong is None or wrong.passed:
        return
    why = f"the result of {result.worst_row} has NaN or infinity"
    if wrong.nearness < float("inf"):
        why = f"the map of {result.worst_row} is off by {number(wrong.error)}"
    if wrong.error <= wrong.allowed:
        why = f"the logits of {result.worst_row} are off by {number(wrong.logits_error)}"
    result.problem = f"this network and method can't be computed in {name}: {why}"


def expected(name: str, e32: float) -> float:
    """How far a result in half precision may be off where that in float32 is off by ``e32``."""
    ratio = torch.finfo(TYPES[name]).eps / torch.finfo(torch.float32).eps
    known = e32 if e32 == e32 else 0.0
    return min(max(FLOOR, MARGIN * known) * ratio, LARGEST)


def first_beyond(session: Session, name: str, device: str, row: int) -> str:
    """Where a map is first off by more than a tenth, or no numbers: a clause, empty if nowhere."""
    stages, samples = session.stages, session.truth.samples
    watch = list(dict.fromkeys(stage.name for stage in stages if stage.name))
    more: dict[str, Any] = {"batches": [Batch([row], "auto")], "watch": watch, "keep": True}
    steps = [Step("exact", "float64", **more)]
    steps += [Step("half", name, guard=False, device=device, **more)]
    found = run_module(session.directory, samples.tensors, steps, samples.shapes)
    for stage in stages:
        key = f"value/{watch.index(stage.name)}" if stage.name else ""
        exact, half = found.get(f"exact/{key}"), found.get(f"half/{key}")
        if exact is None or half is None or exact.shape != half.shape:
            continue
        (off,) = errors(half, exact)
        if not off <= LARGEST / 2:
            size = f"by {number(off)}" if off == off and off != float("inf") else "to no number"
            return f"; it first goes wrong, {size}, at {stage_name(stage)}"
    return ""
