"""Hold backends against the arbiter, and find the first layer at which one leaves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch

from graphprop.checking.arbiter import Arbiter, Stage, Truth, Values, errors
from graphprop.checking.backends import (
    LARGEST_BATCH,
    BackendError,
    OnnxReference,
    OnnxRuntime,
    Samples,
    Step,
    batches,
    run_module,
)
from graphprop.checking.fingerprint import rounded
from graphprop.checking.report import (
    BackendResult,
    Comparison,
    Divergence,
    Report,
    number,
    shown,
)

ENGINES = {"onnxruntime": OnnxRuntime, "onnx.reference": OnnxReference}

FLOOR = 1e-5
"""An error below this is never a failure."""

MARGIN = 10.0
"""How many times the error of float32 a backend may be off."""

ILL_CONDITIONED = 1e-2
"""Above this error of float32 a map depends on rounding."""

CLOSE = 0.1
"""Up to this error it is worth asking whether rounding alone explains it."""

REFERENCE_PARAMETERS = 200_000
REFERENCE_ENTRIES = 3 * 64 * 64
"""Above these sizes onnx.reference takes minutes."""


class Session:
    """One check: holds backends against the arbiter, and collects what it finds."""

    def __init__(
        self,
        directory: Path,
        stages: Sequence[Stage],
        arbiter: Arbiter,
        truth: Truth,
        say: Callable[[str], None],
    ) -> None:
        self.directory, self.stages, self.arbiter = directory, stages, arbiter
        self.truth, self.say = truth, say
        self.report = Report(arbiter.name, truth.samples.target.tolist(), truth.float32)
        self.refined: set[int] = set()
        self.sound = True

    def begin(self) -> Report:
        """Look at the arbiter itself: its ledger, its conditioning, whether it holds numbers."""
        broken = [i for i, finite in enumerate(self._finite()) if not finite]
        if broken:
            self.sound = False
            where = next(
                (s for s, m in self._measured() if not bool(m[broken[0]].isfinite().all())), None
            )
            place = f", first at {described(where)}" if where else ""
            problem = f"the arbiter itself gives NaN or infinity for sample {broken[0]}{place}"
            self.report.backends.append(BackendResult("float64", problem=problem))
            return self.report
        self.report.ledger = self._ledger()
        off = self.truth.float32["relevance"]
        worst = max(range(len(off)), key=lambda i: off[i] if math.isfinite(off[i]) else math.inf)
        if not off[worst] <= ILL_CONDITIONED:
            self.report.warnings.append(self._ill_conditioned(worst, off[worst]))
        return self.report

    def _finite(self) -> list[bool]:
        parts = (self.truth.logits, self.truth.relevance)
        finite = [part.flatten(1).isfinite().all(1) for part in parts]
        both: list[bool] = (finite[0] & finite[1]).tolist()
        return both

    def _measured(self) -> Iterator[tuple[Stage, torch.Tensor]]:
        for index, stage in enumerate(self.stages):
            if index in self.truth.measures:
                yield stage, self.truth.measures[index]

    def _ledger(self) -> dict[str, Any]:
        off = self.truth.float32["relevance"]

        def sums(measures: torch.Tensor) -> list[float]:
            rows = zip(measures.tolist(), off, strict=True)
            # seven digits are enough for people
            return [rounded(total, scale, max(e32, 1e-4)) for (total, scale, *_), e32 in rows]

        rows = [
            {"label": stage.key, "relevance": sums(measures)}
            for stage, measures in self._measured()
            if stage.kind == "relevance" and stage.label is not None
        ]
        relevance = self.truth.relevance.flatten(1)
        end = sums(torch.stack([relevance.sum(1), relevance.abs().sum(1)], 1))
        return {"start": rows[0]["relevance"] if rows else end, "layers": rows, "input": end}

    def _ill_conditioned(self, sample: int, error: float) -> str:
        self.say("check: find where the map is ill-conditioned")
        _, off = self.arbiter.values(sample)
        first = next((k for k in sorted(off) if not off[k] <= ILL_CONDITIONED), None)
        place = ""
        if first is not None:
            place = f"; it first exceeds {ILL_CONDITIONED:g} at {described(self.stages[first])}"
        return (
            f"the map is ill-conditioned: torch's own float32 is off by {number(error)} on "
            f"sample {sample}{place}. Rounding alone changes such a map: choose a method that "
            "divides by less small numbers, or a larger epsilon"
        )

    def hold_onnx(self, chosen: Sequence[str], *, explicit: bool) -> None:
        """Hold the ONNX engines against the arbiter; ``explicit``: however long that takes."""
        path = self.directory / "explainer.onnx"
        for name in (name for name in chosen if name in ENGINES):
            reason = None if explicit or name == "onnxruntime" else self._too_large(path)
            if not path.exists():
                problem = f"there is no {path.name}"
                self.report.backends.append(BackendResult(name, problem=problem))
            elif reason:
                self.report.backends.append(BackendResult(name, skipped=reason))
            else:
                self.hold(name, OnnxBackend(name, path, self.stages))

    def _too_large(self, path: Path) -> str | None:
        if not path.exists():
            return None
        model = onnx.load(path, load_external_data=False)
        parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
        entries = self.truth.samples.x[0].numel()
        if parameters <= REFERENCE_PARAMETERS and entries <= REFERENCE_ENTRIES:
            return None
        return f"too slow for {parameters:,} parameters and inputs of {entries:,} entries"

    def hold(self, name: str, backend: Backend) -> None:
        """Hold one backend against the arbiter."""
        self.say(f"check: {name}")
        result = BackendResult(name)
        self.report.backends.append(result)
        with timed(result):
            try:
                found = backend.run(self.truth.samples)
                result.problem = self._misshapen(*found)
                if result.problem is None:
                    self._judge(result, *found)
            except BackendError as error:
                result.problem = str(error)
        if result.samples and not result.passed:
            self.say(f"check: find where {name} diverges")
            try:
                result.divergence = self._bisect(backend, result)
            except BackendError as error:
                self.report.warnings.append(f"{name}: no layer can be named: {error}")

    def _misshapen(self, logits: torch.Tensor, relevance: torch.Tensor) -> str | None:
        for name, found, wanted in (
            ("logits", logits, self.truth.logits),
            ("relevance", relevance, self.truth.relevance),
        ):
            if found.shape != wanted.shape:
                return f"the {name} have shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
        return None

    def _judge(self, result: BackendResult, logits: torch.Tensor, relevance: torch.Tensor) -> None:
        off = errors(relevance, self.truth.relevance), errors(logits, self.truth.logits)
        count = len(self.truth.samples)
        result.samples = [self._comparison(i, off[0][i], off[1][i]) for i in range(count)]
        for i, sample in enumerate(result.samples):
            close = sample.error <= CLOSE and sample.logits_error <= CLOSE
            if not sample.passed and close and i not in self.refined:
                self.refined.add(i)
                self.say("check: find how large rounding errors can be")
                drawn = dict(zip(("relevance", "logits"), self.arbiter.draw(i), strict=True))
                for key, error in drawn.items():
                    self.truth.float32[key][i] = max(self.truth.float32[key][i], error)
                result.samples[i] = self._comparison(i, sample.error, sample.logits_error)
        for name, found in (("logits", logits), ("relevance", relevance)):
            broken = (~found.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            if broken:
                result.problem = f"NaN or infinity in the {name} of sample {broken[0]}"
                return

    def _comparison(self, sample: int, error: float, logits_error: float) -> Comparison:
        off = self.truth.float32
        allowed = allowance(off["relevance"][sample]), allowance(off["logits"][sample])
        return Comparison(error, allowed[0], logits_error, allowed[1])

    def _bisect(self, backend: Backend, result: BackendResult) -> Divergence | None:
        """The first stage at which a backend is further off than it may be."""
        sample = next((i for i, s in enumerate(result.samples) if not s.passed), 0)
        final = result.samples[sample]
        # what is small beside the error at the end (a pooling's winner) is not its cause
        size = max(e for e in (final.error, final.logits_error, 0.0) if math.isfinite(e))
        values = backend.values(self.truth.samples, sample)
        wanted, off = self.arbiter.values(sample)
        for index, stage in enumerate(self.stages):
            if index not in values or index not in wanted:
                continue
            if values[index].shape != wanted[index].shape:
                continue
            (error,) = errors(values[index], wanted[index])
            allowed = max(allowance(off.get(index, 0.0)), size / 1000)
            if not error <= allowed:
                return Divergence(stage.layers, described(stage), error, allowed)
        return None


def allowance(e32: float) -> float:
    """How far a backend may be off where float32 is off by ``e32``."""
    return max(FLOOR, MARGIN * e32) if math.isfinite(e32) else FLOOR


def described(stage: Stage) -> str:
    """A stage in words."""
    if stage.kind == "result":
        return f"the result of {shown(stage.label or '')}"
    of = "the input" if stage.label is None else f"the result of {shown(stage.label)}"
    of += f" in the {stage.flow} flow" if stage.flow else ""
    if not stage.layers:
        return f"the start: the relevance of {of}"
    rules = " and ".join(shown(label) for label in stage.layers[:3])
    more = f" and {len(stage.layers) - 3} more" if len(stage.layers) > 3 else ""
    return f"the relevance of {of}, from the rule of {rules}{more}"


@contextmanager
def timed(result: BackendResult) -> Iterator[None]:
    """Note how long something takes."""
    began = time.perf_counter()
    yield
    result.seconds = time.perf_counter() - began


class Backend:
    """What is held against the arbiter."""

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and relevance of all samples."""
        raise NotImplementedError

    def values(self, samples: Samples, sample: int) -> Values:
        """The values of the stages for one sample."""
        raise NotImplementedError


class PythonBackend(Backend):
    """The generated module in float32."""

    def __init__(self, directory: Path, stages: Sequence[Stage]) -> None:
        self.directory, self.stages = directory, stages

    def _run(self, samples: Samples, rows: list[list[int]], watch: list[str]) -> Any:
        inputs = {"x": samples.x, "target": samples.target}
        step = Step("python", rows=rows, watch=watch, keep=True)
        return run_module(self.directory, inputs, [step])

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._run(samples, batches(len(samples), LARGEST_BATCH), [])
        return found["python/logits"], found["python/relevance"]

    def values(self, samples: Samples, sample: int) -> Values:
        watch = list(dict.fromkeys(stage.name for stage in self.stages if stage.name))
        (batch,) = (rows for rows in batches(len(samples), LARGEST_BATCH) if sample in rows)
        found = self._run(samples, [batch], watch)
        places = {name: f"python/value/{index}" for index, name in enumerate(watch)}
        return {
            index: found[places[stage.name]][batch.index(sample)][None]
            for index, stage in enumerate(self.stages)
            if stage.name and places[stage.name] in found
        }


class OnnxBackend(Backend):
    """The ONNX file on one of the engines."""

    def __init__(self, name: str, path: Path, stages: Sequence[Stage]) -> None:
        self.engine, self.path, self.stages = ENGINES[name], path, stages

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        session = self.engine(self.path)
        found = [session.run(samples, rows) for rows in batches(len(samples), 1, 2)]
        logits, relevance = (
            torch.cat([torch.from_numpy(part[name]) for part in found])
            for name in ("logits", "relevance")
        )
        return logits, relevance

    def values(self, samples: Samples, sample: int) -> Values:
        names = [stage.onnx for stage in self.stages if stage.onnx]
        (batch,) = (rows for rows in batches(len(samples), 1, 2) if sample in rows)
        found = self.engine(self.path, names).run(samples, batch)
        return {
            index: torch.from_numpy(found[stage.onnx][batch.index(sample)][None])
            for index, stage in enumerate(self.stages)
            if stage.onnx and len(found.get(stage.onnx, ())) == len(batch)
        }
