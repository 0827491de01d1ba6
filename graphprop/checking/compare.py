"""Hold backends against the arbiter, and find the first layer at which one leaves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from graphprop.checking import conservation
from graphprop.checking.arbiter import Arbiter, Truth, allowance, errors
from graphprop.checking.backends import (
    BackendError,
    OnnxReference,
    OnnxRuntime,
    Samples,
    Step,
    batches,
    load_graph,
    other_maps,
    run_module,
)
from graphprop.checking.fingerprint import rounded
from graphprop.checking.report import BackendResult, Comparison, Report, number
from graphprop.checking.runner import pack, unpack
from graphprop.checking.stages import Stage, described

ENGINES = {"onnxruntime": OnnxRuntime, "onnx.reference": OnnxReference}

ILL_CONDITIONED = 1e-2
"""Above this error of float32 a map depends on rounding."""

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
        self.sound = True

    def begin(self) -> Report:
        """Look at the arbiter itself: its ledger, its conditioning, whether it holds numbers."""
        broken = [i for i, finite in enumerate(self._finite()) if not finite]
        if broken:
            self.sound = False
            problem = self._overflow(broken[0])
            self.report.backends.append(BackendResult("the map", problem=problem))
            return self.report
        self.report.ledger = self._ledger()
        off = self.truth.float32["relevance"]
        worst = max(range(len(off)), key=lambda i: off[i] if math.isfinite(off[i]) else math.inf)
        if not off[worst] <= ILL_CONDITIONED:
            self.report.warnings.append(self._ill_conditioned(worst, off[worst]))
        return self.report

    def _finite(self) -> list[bool]:
        truth = self.truth
        finite = [p.flatten(1).isfinite().all(1).tolist() for p in (truth.logits, truth.relevance)]
        rows = range(len(truth.samples))
        return [all(part[row] for part in finite) and not self._beyond(row) for row in rows]

    def _beyond(self, sample: int) -> Stage | None:
        """The first stage of which relevance, or the network's result, exceeds all of float32.

        The map need not show it: a quotient that does counts as zero.
        """
        largest = torch.finfo(torch.float32).max
        return next((s for s, m in self._measured() if not float(m[sample, 2]) <= largest), None)

    def _overflow(self, sample: int) -> str:
        """Say of which sample there are no numbers, and from which layer on."""
        stage = self._beyond(sample)
        place = described(stage) if stage else None
        if bool(self.truth.logits[sample].isfinite().all()):
            return conservation.overflow(f"sample {sample}", place)
        first = f", first at {place}" if place else ""
        return f"the network itself gives NaN or infinity for sample {sample}{first}"

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
        off = self.arbiter.conditioning(sample)
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
            skipped = problem = None
            try:
                if not path.exists():
                    problem = f"there is no {path.name}"
                elif name == "onnx.reference" and not explicit:
                    skipped = self._too_large(path)
            except BackendError as error:
                problem = str(error)
            if problem or skipped:
                result = BackendResult(name, problem=problem, skipped=skipped)
                self.report.backends.append(result)
            else:
                self.hold(name, OnnxBackend(name, path))

    def _too_large(self, path: Path) -> str | None:
        tensors = load_graph(path).graph.initializer
        parameters = sum(math.prod(tensor.dims) for tensor in tensors)
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
            self.say(f"check: follow {name} step by step")
            try:
                self._follow(backend, result)
            except BackendError as error:
                self.report.warnings.append(f"{name} can't be followed step by step: {error}")

    def _follow(self, backend: Backend, result: BackendResult) -> None:
        """Find out whether a backend that is off goes wrong anywhere, or only rounds."""
        names = self.arbiter.names(backend.level)
        if not names:
            return
        for index in [i for i, sample in enumerate(result.samples) if not sample.passed]:
            values = backend.values(self.truth.samples, index, names)
            result.divergence = self.arbiter.first_wrong(backend.level, values, index)
            if result.divergence:
                return
        if result.problem is None:
            result.explained = (
                "every step is right, computed from the values before it: that is rounding, which "
                "the map magnifies"
            )

    def _misshapen(self, logits: torch.Tensor, relevance: torch.Tensor) -> str | None:
        for name, found, wanted in (
            ("logits", logits, self.truth.logits),
            ("relevance", relevance, self.truth.relevance),
        ):
            if found.shape != wanted.shape:
                return f"the {name} have shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
        return None

    def _judge(self, result: BackendResult, logits: torch.Tensor, relevance: torch.Tensor) -> None:
        off, logits_off = errors(relevance, self.truth.relevance), errors(logits, self.truth.logits)
        allowed = {key: [*map(allowance, values)] for key, values in self.truth.float32.items()}
        rows = zip(off, allowed["relevance"], logits_off, allowed["logits"], strict=True)
        result.samples = [Comparison(*row) for row in rows]
        for name, found in (("logits", logits), ("relevance", relevance)):
            broken = (~found.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            if broken and result.problem is None:
                result.problem = f"NaN or infinity in the {name} of sample {broken[0]}"


@contextmanager
def timed(result: BackendResult) -> Iterator[None]:
    """Note how long something takes."""
    began = time.perf_counter()
    yield
    result.seconds = time.perf_counter() - began


class Backend:
    """What is held against the arbiter.

    Attributes
    ----------
    level
        Which graph it was printed from: ``"torch"`` or ``"onnx"``.
    """

    level: str

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and relevance of all samples."""
        raise NotImplementedError

    def values(
        self, samples: Samples, sample: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The values with these names for one sample, ``logits`` and ``relevance`` among them."""
        raise NotImplementedError


class PythonBackend(Backend):
    """The generated module in float32."""

    level = "torch"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _run(self, explained: Samples, **step: Any) -> dict[str, torch.Tensor]:
        inputs = {"x": explained.x, "target": explained.target}
        steps = [Step("python", keep=True, **step)]
        return run_module(self.directory, inputs, steps, explained.shapes)

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._run(samples, rows=batches(len(samples)))
        return found["python/logits"], found["python/relevance"]

    def values(
        self, samples: Samples, sample: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        (batch,) = (rows for rows in batches(len(samples)) if sample in rows)
        place = batch.index(sample)
        watch = list(dict.fromkeys(names))
        found = self._run(samples, rows=[batch], watch=watch, samples=(place, place + 1))
        values = {
            name: found[f"python/value/{index}"]
            for index, name in enumerate(watch)
            if f"python/value/{index}" in found
        }
        # what is returned counts, not a variable of the same name
        for name in ("logits", "relevance"):
            values[name] = found[f"python/{name}"][place : place + 1]
        first, *others = unpack(values["relevance"], samples.shapes)
        values["relevance"] = first
        return values | {f"relevance_{place}": part for place, part in enumerate(others, 2)}


class OnnxBackend(Backend):
    """The ONNX file on one of the engines."""

    level = "onnx"

    def __init__(self, name: str, path: Path) -> None:
        self.engine, self.path = ENGINES[name], path

    def run(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        session = self.engine(self.path)
        found = [session.run(samples, rows) for rows in batches(len(samples), 1, 2)]
        results = {
            name: torch.cat([torch.from_numpy(part[name]) for part in found]) for name in found[0]
        }
        return results["logits"], pack(
            [results[name] for name in ("relevance", *other_maps(samples))]
        )

    def values(
        self, samples: Samples, sample: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        (batch,) = (rows for rows in batches(len(samples), 1, 2) if sample in rows)
        found = self.engine(self.path, names).run(samples, batch)
        place = batch.index(sample)
        return {
            name: torch.from_numpy(value[place : place + 1].copy())
            for name, value in found.items()
            if len(value.shape) and len(value) == len(batch)
        }
