"""Check that every backend computes the same: backends, arbiter, steps, files, ledger.

Relevance divides by small numbers, so that two correct backends differ by more than rounding, and a
fixed tolerance would be too tight for one network and too loose for another. The arbiter is the
same graph in float64; ``e32`` is the error of torch in float32 relative to it. A backend passes
where the error of every sample is at most ``max(1e-5, 10 * e32)``, and 1e-4. Where one is off by
more, intermediate values are exposed, and each step is computed in float64 from that backend's own
values before it, with a bound of what rounding can do (`graphprop.checking.bounds`). The first step
that is wrong is named. If none is, what differs is rounding that the map magnifies (another winner
of a max pool, say), and the backend passes, with a note that says so.

What is judged is what users run: the module as ``load()`` gives it, and the ONNX file on its
engines, on inputs of several kinds, alone and in batches, with every kind of target
(`graphprop.checking.probes`). In a directory the files must be those that were written.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from graphprop.artifact.engines import refuse_forbidden
from graphprop.artifact.manifest import read_manifest
from graphprop.artifact.schema import Json
from graphprop.artifact.write import layer_entries, onnx_names, write_files
from graphprop.checking import conservation
from graphprop.checking.accounts import accounts_of
from graphprop.checking.arbiter import GraphArbiter, ModuleArbiter, Truth
from graphprop.checking.backends import BackendError
from graphprop.checking.compare import Session, Tolerance
from graphprop.checking.compared import ENGINES, PythonBackend
from graphprop.checking.files import changes
from graphprop.checking.fingerprint import (
    PREPROCESSING,
    deviations,
    fingerprint,
    first_deviation,
    other_inputs,
    recorded_error,
    recorded_rows,
    same_noise,
)
from graphprop.checking.probes import Probes, picture_in, probes, read_inputs
from graphprop.checking.recorded import compare_recorded
from graphprop.checking.report import BackendResult, Divergence, Report
from graphprop.checking.rounding import errors_by_stage, traced_row
from graphprop.checking.stages import Stage, stage_name, stages_of
from graphprop.checking.variants import check_variants, compare_variants
from graphprop.errors import MethodError, nearest
from graphprop.explainer import Compiled

__all__ = ["BACKENDS", "Report", "check_directory", "check_explainer"]

DEFAULT_BACKENDS = ("python", "onnxruntime", "onnx.reference")
BACKENDS = (*DEFAULT_BACKENDS, "web", "webgpu")
"""All there are; a browser is started only where it is asked for."""


def check_explainer(
    compiled: Compiled,
    *,
    samples: int | None = None,
    backends: Sequence[str] | None = None,
    directory: Path | None = None,
    preprocessing: Json | None = None,
    dtypes: Sequence[str | torch.dtype] = (),
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check what is generated from an explainer against its graph in float64.

    Parameters
    ----------
    samples
        How many inputs of normal noise to explain, beside one of every other kind: by default 2,
        and of a large network 1.
    backends
        Which to check: by default ``"python"`` (the generated module, in a process without
        graphprop), ``"onnxruntime"``, and ``"onnx.reference"`` for small networks; also ``"web"``
        and ``"webgpu"``, onnxruntime-web in a browser.
    directory
        Where the files already lie; by default they are written to a temporary folder.
    preprocessing
        How a picture becomes an input, if that is known.
    dtypes, device
        Check the generated module in these types, too (``"float16"``, ``"bfloat16"``), and all on
        this device, too (``"cuda"``); see `graphprop.checking.variants`.
    progress
        Called with what is about to be done.

    Raises
    ------
    MethodError
        If there is no such backend or type.
    InputError
        If there is no such device.
    """
    say = progress or (lambda text: None)
    chosen = choose(backends)
    types = check_variants(dtypes, device, chosen)
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
            write_files(compiled, Path(scratch), onnx=any(name in ENGINES for name in chosen))
            return check_explainer(
                compiled,
                samples=samples,
                backends=backends,
                directory=Path(scratch),
                preprocessing=preprocessing,
                dtypes=types,
                device=device,
                progress=progress,
            )
    stages = stages_of(layer_entries(compiled), onnx_names(compiled))
    explained = probes(
        compiled.input_shapes,
        compiled.logits_shape,
        samples,
        size=sum(math.prod(layer.shape) for layer in compiled.layers),
        preprocessing=preprocessing,
    )
    arbiter = GraphArbiter(compiled, stages, explained)
    say("check: explain in float64")
    session = Session(directory, stages, arbiter, arbiter.truth(), say)
    report = session.begin()
    arbiter.follow(session.truth)
    if session.sound:
        session.judge_conditioning()
        report.fingerprint = fingerprint(session.truth, stages)
        row = traced_row(session, arbiter)
        watch = [stage.name for stage in stages if stage.name]
        python = PythonBackend(directory, trace=None if row is None else (row, watch))
        if "python" in chosen:
            session.compare("python", python)
        written = (directory / "explainer.onnx").exists() or backends is not None
        session.compare_onnx(chosen if written else (), explicit=backends is not None)
        compare_variants(session, types, device, chosen if written else ("python",))

        def sample(index: int) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
            row = report.samples.index(report.ledger["samples"][index])
            inputs, _ = session.truth.samples.part([row])
            return inputs, session.truth.samples.target[[row]]

        report.conservation, found = conservation.of_explainer(compiled, report.ledger, sample)
        report.warnings += found
        if row is not None:
            say("check: follow rounding and relevance from layer to layer")
            report.stages = errors_by_stage(session, arbiter, row, python)
            report.ledger["accounts"] = accounts_of(compiled, report.ledger, *sample(0))
    return report


def check_directory(
    directory: str | Path,
    *,
    samples: int | None = None,
    backends: Sequence[str] | None = None,
    inputs: str | Path | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    allow_changed: bool = False,
    dtypes: Sequence[str | torch.dtype] = (),
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check what was compiled into a directory, without the model.

    The arbiter is ``explainer.py`` in float64, which is first compared with what was recorded when
    it was compiled. Its code is run, unless ``backends`` leaves Python out: then the ONNX engines
    are compared with the record alone.

    Parameters
    ----------
    samples, backends, dtypes, device, progress
        As for `check_explainer`.
    inputs
        An .npy file with further inputs to explain, ``[N, ...]``.
    atol, rtol
        Let a sample pass where ``||a - ref|| <= atol + rtol * ||ref||``, in place of what follows
        from the error of float32.
    allow_changed
        Let files differ from what was written, with a warning.

    Raises
    ------
    OutputError
        If graphprop did not make the directory.
    MethodError
        If there is no such backend, or no ONNX file for it, or no such type.
    InputError
        If the inputs can't be read, or have another shape, or there is no such device.
    """
    directory, say = Path(directory), progress or (lambda text: None)
    chosen = choose(backends)
    types = check_variants(dtypes, device, chosen)
    if device is not None and "python" not in chosen:
        raise MethodError("on a device the backend 'python' is checked, and onnxruntime beside it")
    tolerance = None
    if atol is not None or rtol is not None:
        tolerance = Tolerance(atol or 0.0, rtol or 0.0)
    manifest = read_manifest(directory)
    written = "explainer.onnx" in manifest["files"]
    if backends is not None and not written and any(name in ENGINES for name in chosen):
        raise MethodError(
            f"{directory} was compiled without ONNX: check the backend 'python', or compile again"
        )
    if written and "python" not in chosen:
        refuse_forbidden(directory, manifest)
    stages = stages_of(manifest["layers"], manifest["onnx_names"])
    picture, unread = picture_in(directory, manifest)
    explained = probes(
        manifest["input_shapes"],
        manifest["logits_shape"],
        samples,
        size=sum(math.prod(layer["shape"]) for layer in manifest["layers"]),
        preprocessing=manifest["preprocessing"],
        picture=picture,
        given=None if inputs is None else read_inputs(Path(inputs), manifest["input_shapes"]),
    )
    found = changes(directory, manifest)
    if "python" in chosen:
        session = compare_directory(directory, manifest, stages, explained, say, tolerance)
        if session.sound:
            session.compare_onnx(chosen if written else (), explicit=backends is not None)
            compare_variants(session, types, device, chosen if written else ("python",))
        report = session.report
        if session.sound and report.passed:
            report.warnings += conservation.of_directory(manifest, report.ledger)
    else:
        report = compare_recorded(directory, manifest, stages, explained, chosen, tolerance, say)
    if allow_changed:
        report.warnings += found
    else:
        report.changes += found
    report.warnings += [unread] if unread else []
    return report


def compare_directory(
    directory: Path,
    manifest: Json,
    stages: Sequence[Stage],
    explained: Probes,
    say: Callable[[str], None],
    tolerance: Tolerance | None,
) -> Session:
    """Compare a directory's module in float64 with the record, and in float32 with float64."""
    recorded = manifest["fingerprint"]
    known = dict(zip(recorded["rows"], recorded["targets"], strict=True)) if recorded else {}
    for row in explained.by_class:
        explained.target[row] = known.get(explained.name(row), int(explained.target[row]))
    arbiter = ModuleArbiter(directory, stages, explained, manifest["onnx_names"])
    say("check: explain in float64")
    began = time.perf_counter()
    try:
        truth = arbiter.truth()
        expect_shapes(truth, manifest)
    except BackendError as error:
        session = Session(directory, stages, arbiter, Truth.nothing(explained), say, tolerance)
        session.sound = False
        session.report.backends.append(BackendResult("python", problem=str(error)))
        return session
    if recorded:
        for row, i in recorded_rows(recorded, truth):
            for key, errors in truth.float32.items():
                errors[row] = recorded_error(recorded, i, key)
    session = Session(directory, stages, arbiter, truth, say, tolerance)
    report = session.begin()
    arbiter.samples = session.truth.samples
    if not session.sound:
        return session
    result = guard(recorded, session.truth, stages)
    if result.skipped:
        report.warnings.append(result.skipped)
    if not result.passed:
        result.seconds = time.perf_counter() - began
        report.backends.append(result)
        return session
    judged = session.compare("python", PythonBackend(directory))
    by_name = dict(zip(judged.rows, judged.samples, strict=True))
    for row in range(len(session.truth.samples)):
        one = by_name.get(session.truth.samples.name(row))
        float32 = session.truth.float32
        if one is not None and math.isnan(float32["relevance"][row]):
            float32["relevance"][row], float32["logits"][row] = one.error, one.logits_error
    session.judge_conditioning()
    return session


def expect_shapes(truth: Truth, manifest: Json) -> None:
    """Refuse results of other shapes than the manifest's."""
    shapes = manifest["input_shapes"]
    one = len(shapes) == 1
    maps = manifest["relevance_shape"] if one else [sum(map(math.prod, shapes))]
    for name, value, shape in (
        ("logits", truth.logits, manifest["logits_shape"]),
        ("relevance", truth.relevance, maps),
    ):
        wanted = (len(truth.samples), *shape)
        if tuple(value.shape) != wanted:
            raise BackendError(f"the {name} have shape {tuple(value.shape)}, not {wanted}")


def choose(backends: Sequence[str] | None) -> tuple[str, ...]:
    """The backends to check, in the order of `BACKENDS`."""
    for name in backends or ():
        if name not in BACKENDS:
            raise MethodError(f"there is no backend {name!r}: {nearest(name, BACKENDS)}")
    chosen = DEFAULT_BACKENDS if backends is None else backends
    return tuple(name for name in BACKENDS if name in chosen)


def guard(recorded: Json | None, truth: Truth, stages: Sequence[Stage]) -> BackendResult:
    """Compare the arbiter of a directory with what was recorded when it was compiled."""
    if not recorded:
        reason = (
            "it was compiled without a check, so that nothing is recorded to hold explainer.py "
            "against: only that all backends agree is checked"
        )
        return BackendResult("python", skipped=reason)
    if not same_noise(recorded, truth):
        reason = "this torch gives other random inputs than the one that recorded their results"
        return BackendResult("python", skipped=reason)
    other = other_inputs(recorded, truth)
    if other:
        problem = f"{PREPROCESSING}: {', '.join(other)} became another input"
        return BackendResult("python", problem=problem)
    found = deviations(recorded, truth)
    rows = [truth.samples.name(row) for row in found]
    result = BackendResult("python", list(found.values()), rows=rows)
    if result.passed:
        return result
    result.problem = "explainer.py or its weights no longer compute what was compiled"
    worst = result.worst or result.samples[0]
    stage, error, allowed = first_deviation(recorded, truth, stages) or (
        stages[-1],
        worst.error,
        worst.allowed,
    )
    result.divergence = Divergence(stage.layers, stage_name(stage), error, allowed)
    return result
