"""Check that every backend computes the same: backends, arbiter, bisection, ledger.

Relevance divides by small numbers, so that two right backends differ by more than rounding, and a
fixed tolerance either lies or cries wolf. The arbiter is the same graph in float64; ``e32`` is the
error of torch in float32 against it. A backend passes where the error of every sample is at most
``max(1e-5, 10 * e32)``. Where one is off by more, intermediate values are exposed, and each step is
computed in float64 from that backend's own values before it. The first step that is wrong is named.
If none is, what differs is rounding that the map magnifies (another winner of a max pool, say),
and the backend passes, with a note that says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphprop.artefact import layer_entries, onnx_names, read_manifest, sha256, write_files
from graphprop.checking import conservation
from graphprop.checking.arbiter import GraphArbiter, ModuleArbiter, Truth
from graphprop.checking.backends import BackendError, Samples
from graphprop.checking.compare import ENGINES, PythonBackend, Session
from graphprop.checking.fingerprint import deviations, fingerprint, first_deviation, same_inputs
from graphprop.checking.report import BackendResult, Divergence, Report
from graphprop.checking.runner import SEED, pack
from graphprop.checking.stages import Stage, described, stages_of
from graphprop.errors import InputError, MethodError, nearest
from graphprop.interpret import interpret

if TYPE_CHECKING:
    from graphprop.explainer import CompiledExplainer

__all__ = ["BACKENDS", "Report", "check_directory", "check_explainer"]

BACKENDS = ("python", "onnxruntime", "onnx.reference")


def check_explainer(
    explainer: CompiledExplainer,
    *,
    samples: int = 3,
    backends: Sequence[str] | None = None,
    directory: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check what is generated from an explainer against its graph in float64.

    Parameters
    ----------
    samples
        How many random inputs to explain.
    backends
        Which to check, all that apply by default: ``"python"`` (the generated module, in a
        process without graphprop), ``"onnxruntime"``, and ``"onnx.reference"`` for small networks.
    directory
        Where the files already lie; by default they are written to a temporary folder.
    progress
        Called with what is about to be done.

    Raises
    ------
    MethodError
        If there is no such backend.
    """
    say = progress or (lambda text: None)
    chosen = choose(backends)
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
            write_files(explainer, Path(scratch), onnx=any(name in ENGINES for name in chosen))
            return check_explainer(
                explainer,
                samples=samples,
                backends=backends,
                directory=Path(scratch),
                progress=progress,
            )
    stages = stages_of(layer_entries(explainer), onnx_names(explainer))
    explained = inputs_for(explainer.input_shapes, explainer.classes, samples)
    first, target = explained.part(slice(0, 1))
    logits, _ = interpret(explainer.network, first, dtype=torch.float32)
    target[0] = logits.reshape(explainer.classes, -1).sum(1).argmax()
    arbiter = GraphArbiter(explainer, stages, explained)
    say("check: explain in float64")
    truth = arbiter.truth()
    session = Session(directory, stages, arbiter, truth, say)
    report = session.begin()
    if session.sound:
        report.fingerprint = fingerprint(truth, stages)
        if "python" in chosen:
            session.hold("python", PythonBackend(directory))
        written = (directory / "explainer.onnx").exists() or backends is not None
        session.hold_onnx(chosen if written else (), explicit=backends is not None)
        report.conservation, found = conservation.of_explainer(
            explainer, report.ledger, lambda i: explained.part(slice(i, i + 1))
        )
        report.warnings += found
    return report


def check_directory(
    directory: str | Path,
    *,
    samples: int = 3,
    backends: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check what was compiled into a directory, without the model.

    The arbiter is ``explainer.py`` in float64, itself held against what was recorded when it was
    compiled. Its code is run.

    Parameters
    ----------
    samples, backends, progress
        As for `check_explainer`.

    Raises
    ------
    OutputError
        If graphprop did not make the directory.
    MethodError
        If there is no such backend, or no ONNX file for it.
    """
    directory, say = Path(directory), progress or (lambda text: None)
    chosen = choose(backends)
    manifest = read_manifest(directory)
    written = "explainer.onnx" in manifest["files"]
    if backends is not None and not written and any(name in ENGINES for name in chosen):
        raise MethodError(
            f"{directory} was compiled without ONNX: check the backend 'python', or compile again"
        )
    stages = stages_of(manifest["layers"], manifest["onnx_names"])
    explained = inputs_for(manifest["input_shapes"], manifest["classes"], samples)
    recorded = manifest["fingerprint"]
    known = recorded["targets"][:samples] if recorded else [-1]
    explained.target[: len(known)] = torch.tensor(known)
    arbiter = ModuleArbiter(directory, stages, explained, manifest["onnx_names"])
    say("check: explain in float64")
    began = time.perf_counter()
    try:
        truth = arbiter.truth()
    except BackendError as error:
        report = Report(arbiter.name, [], {})
        report.backends.append(BackendResult("python", problem=str(error)))
        report.warnings += changed_files(directory, manifest)
        return report
    session = Session(directory, stages, arbiter, truth, say)
    report = session.begin()
    report.warnings += changed_files(directory, manifest)
    if session.sound:
        result = guard(recorded, truth, stages)
        result.seconds = time.perf_counter() - began
        if "python" in chosen or not result.passed:
            report.backends.append(result)
        session.hold_onnx(chosen if written else (), explicit=backends is not None)
        if report.passed:
            report.warnings += conservation.of_directory(manifest, report.ledger)
    return report


def choose(backends: Sequence[str] | None) -> tuple[str, ...]:
    """The backends to check, in the order of `BACKENDS`."""
    for name in backends or ():
        if name not in BACKENDS:
            raise MethodError(f"there is no backend {name!r}: {nearest(name, BACKENDS)}")
    return BACKENDS if backends is None else tuple(b for b in BACKENDS if b in backends)


def inputs_for(shapes: Sequence[Sequence[int]], classes: int, samples: int) -> Samples:
    """Random inputs and classes; those of a sample don't depend on how many there are."""
    if samples < 1:
        raise InputError(f"a check needs at least one sample, not {samples}")
    generators = [torch.Generator().manual_seed(SEED + index) for index in range(samples)]
    drawn = [[torch.randn(*shape, generator=g) for shape in shapes] for g in generators]
    x = pack([torch.stack(part) for part in zip(*drawn, strict=True)])
    classes_chosen = [torch.randint(classes, (), generator=generator) for generator in generators]
    return Samples(x, torch.stack(classes_chosen), tuple(map(tuple, shapes)))


def guard(
    recorded: Mapping[str, Any] | None, truth: Truth, stages: Sequence[Stage]
) -> BackendResult:
    """Hold the arbiter of a directory against what was recorded when it was compiled."""
    if not recorded:
        reason = "it was compiled without a check, so that nothing is recorded to hold it against"
        return BackendResult("python", skipped=reason)
    if not same_inputs(recorded, truth):
        reason = "this torch gives other random inputs than the one that recorded their results"
        return BackendResult("python", skipped=reason)
    result = BackendResult("python", deviations(recorded, truth))
    if result.passed:
        return result
    result.problem = "explainer.py or its weights no longer compute what was compiled"
    stage, error, allowed = first_deviation(recorded, truth, stages) or (
        stages[-1],
        result.samples[0].error,
        result.samples[0].allowed,
    )
    result.divergence = Divergence(stage.layers, described(stage), error, allowed)
    return result


def changed_files(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """A warning for each file that is no longer as it was written."""
    warnings = []
    for name, known in manifest["files"].items():
        path = directory / name
        if not path.exists():
            warnings.append(f"{name} is missing")
        elif sha256(path) != known:
            warnings.append(f"{name} was changed after it was written")
    return warnings
