"""Compare ONNX engines with what was recorded when a directory was compiled, running no Python.

Of each value a product with a fixed random vector is recorded, of results and maps the norm, too:
too little to follow steps by, enough to tell whether a value is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphprop.artifact.schema import Json
from graphprop.checking.arbiter import CEILING, Truth, allowance
from graphprop.checking.backends import BackendError, other_maps
from graphprop.checking.compare import Tolerance
from graphprop.checking.compared import ENGINES
from graphprop.checking.fingerprint import (
    PREPROCESSING,
    deviation,
    first_deviation,
    other_inputs,
    recorded_error,
    recorded_rows,
    same_noise,
)
from graphprop.checking.fingerprint import tolerance as tolerance_in_float64
from graphprop.checking.probes import Batch, Probes
from graphprop.checking.report import BackendResult, Comparison, Divergence, Report
from graphprop.checking.runner import measure, pack
from graphprop.checking.stages import Stage, stage_name

ARBITER = "what was recorded when it was compiled"


def compare_recorded(
    directory: Path,
    manifest: Json,
    stages: Sequence[Stage],
    explained: Probes,
    chosen: Sequence[str],
    tolerance: Tolerance | None,
    say: Callable[[str], None],
) -> Report:
    """Compare ONNX engines with the record; see `graphprop.checking.check.check_directory`."""
    report = Report(ARBITER)
    recorded = manifest["fingerprint"]
    path = directory / "explainer.onnx"
    reason = None
    if not recorded:
        reason = "it was compiled without a check: nothing is recorded to hold it against"
    else:
        known = dict(zip(recorded["rows"], recorded["targets"], strict=True))
        names = [explained.name(row) for row in explained.by_class]
        kept = explained.only([row for row in explained.by_class if explained.name(row) in known])
        left = sorted(set(names) - set(kept.names))
        if left:
            report.warnings.append(
                f"{', '.join(left)}: not recorded; they need the backend 'python'"
            )
        for row, name in enumerate(kept.names):
            kept.target[row] = known[name]
        empty = Truth(kept, torch.empty(0), torch.empty(0), {}, {})
        other = other_inputs(recorded, empty)
        if not len(kept) or not same_noise(recorded, empty):
            reason = "this torch gives other random inputs than the one that recorded their results"
    for name in chosen:
        result = BackendResult(name, skipped=reason or ENGINES[name].lacking())
        report.backends.append(result)
        if result.skipped is None:
            say(f"check: {name}")
            try:
                if other:
                    result.problem = f"{PREPROCESSING}: {', '.join(other)} became another input"
                elif not path.exists():
                    result.problem = f"there is no {path.name}"
                else:
                    compare(result, path, recorded, stages, kept, tolerance)
            except BackendError as error:
                result.problem = str(error)
    if reason is None:
        report.samples = list(kept.names)
        report.targets = kept.target.tolist()
    return report


def compare(
    result: BackendResult,
    path: Path,
    recorded: Json,
    stages: Sequence[Stage],
    samples: Probes,
    tolerance: Tolerance | None,
) -> None:
    """Compare one engine with the record."""
    truth = explained_by(ENGINES[result.name](path), samples)
    for name, value in (("logits", truth.logits), ("relevance", truth.relevance)):
        broken = (~value.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            result.problem = f"NaN or infinity in the {name} of {samples.name(broken[0])}"
    logits, relevance = measure(truth.logits).tolist(), measure(truth.relevance).tolist()
    for row, i in recorded_rows(recorded, truth):
        off, allowed = [], []
        for kind, key, measures in (
            ("relevance", "input_relevance", relevance),
            ("logits", "logits", logits),
        ):
            norm, product = (recorded[key][part][i] for part in ("norm", "product"))
            limit = allowed_of(samples.name(row), recorded_error(recorded, i, kind))
            error = deviation(measures[row], norm, product)
            off.append(error if math.isfinite(limit) else 0.0)
            if tolerance is not None:
                limit = tolerance.rtol + tolerance.atol / (norm or 1.0)
            allowed.append(min(limit, CEILING) if tolerance is None else limit)
        result.samples.append(Comparison(off[0], allowed[0], off[1], allowed[1]))
        result.rows.append(samples.name(row))
    if result.passed:
        return
    watch = [stage.onnx for stage in stages if stage.onnx]
    followed = explained_by(ENGINES[result.name](path, watch), samples, stages)
    found = first_deviation(recorded, followed, stages, allowed_of)
    if found:
        stage, error, limit = found
        result.divergence = Divergence(stage.layers, stage_name(stage), error, limit)


def allowed_of(name: str, e32: float) -> float:
    """How far a value may be off that float32 has off by ``e32``."""
    if math.isinf(tolerance_in_float64(name, e32)):
        return math.inf
    # a product with a random vector is off by a few times what the value is
    return min(4 * allowance(e32), CEILING)


def explained_by(engine: Any, samples: Probes, stages: Sequence[Stage] = ()) -> Truth:
    """What an engine computes, alone and in a batch, measured as the record is."""
    batches = [Batch([0]), Batch(list(range(1, len(samples))))]
    found: dict[str, list[torch.Tensor]] = {}
    measured: dict[int, list[torch.Tensor]] = {}
    batches = [batch for batch in batches if batch.rows]
    for batch, results in zip(batches, engine.run_batches(samples, batches), strict=True):
        values = {name: torch.from_numpy(value) for name, value in results.items()}
        maps = pack([values[name] for name in ("relevance", *other_maps(samples))])
        for key, value in (("logits", values["logits"]), ("relevance", maps)):
            found.setdefault(key, []).append(value)
        for index, stage in enumerate(stages):
            own = values.get(stage.onnx or "")
            if own is not None and own.dim() and len(own) == len(batch.rows):
                measured.setdefault(index, []).append(measure(own))
    measures = {index: torch.cat(parts) for index, parts in measured.items()}
    results = {key: torch.cat(parts) for key, parts in found.items()}
    return Truth(samples, results["logits"], results["relevance"], {}, measures)
