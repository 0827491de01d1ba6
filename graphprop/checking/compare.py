"""Compare backends with the arbiter, and find the first layer at which one differs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprop.checking import conservation
from graphprop.checking.arbiter import (
    CEILING,
    LOOSEST,
    Arbiter,
    Truth,
    allowance,
    errors,
)
from graphprop.checking.backends import (
    BackendError,
    load_graph,
)
from graphprop.checking.compared import ENGINES, Backend, OnnxBackend
from graphprop.checking.fingerprint import rounded
from graphprop.checking.probes import Batch, plan
from graphprop.checking.report import BackendResult, Comparison, Report, number
from graphprop.checking.stages import Stage, stage_name

ILL_CONDITIONED = 1e-2
"""Above this error of float32 a map depends visibly on rounding: of the 256 steps of a picture's
scale it is several."""

MOST_FOLLOWED = 3
"""How many samples are followed step by step, the worst ones: each takes as long as a sample in
float64 and its bounds."""

REFERENCE_PARAMETERS = 200_000
REFERENCE_ENTRIES = 3 * 64 * 64
"""Above these sizes onnx.reference, which loops over windows in Python, takes minutes."""


@dataclass(frozen=True)
class Tolerance:
    """What a user allows in place of what follows from float32.

    A sample passes where ``||a - ref|| <= atol + rtol * ||ref||``.
    """

    atol: float = 0.0
    rtol: float = 0.0

    def allowed(self, reference: torch.Tensor) -> list[float]:
        """The same relative to the reference, as errors are; absolute where that is zero."""
        sizes = reference.flatten(1).norm(dim=1).tolist()
        return [self.rtol + self.atol / size if size else self.atol for size in sizes]


class Session:
    """One check: compares backends with the arbiter, and collects the results.

    Parameters
    ----------
    directory
        Where the files lie.
    stages
        The values that every backend computes.
    arbiter, truth
        What knows the right values, and what it found.
    say
        Called with what is about to be done.
    tolerance
        What is allowed, where a user says so.
    """

    def __init__(
        self,
        directory: Path,
        stages: Sequence[Stage],
        arbiter: Arbiter,
        truth: Truth,
        say: Callable[[str], None],
        tolerance: Tolerance | None = None,
    ) -> None:
        self.directory, self.stages, self.arbiter = directory, stages, arbiter
        self.truth, self.say, self.tolerance = truth, say, tolerance
        self.report = Report(arbiter.name)
        self.sound = True

    def begin(self) -> Report:
        """Examine the arbiter itself: its ledger, whether its values are finite."""
        self._leave_out()
        samples, report = self.truth.samples, self.report
        report.samples = [samples.name(row) for row in range(len(samples))]
        report.targets = samples.target.tolist()
        report.float32 = {
            key: [math.nan if self._undecided(row) else e32 for row, e32 in enumerate(values)]
            for key, values in self.truth.float32.items()
        }
        broken = [row for row, finite in enumerate(self._finite()) if not finite]
        if broken:
            self.sound = False
            report.overflow = self._overflow(broken[0])
            return report
        report.ledger = self._ledger()
        return report

    def _leave_out(self) -> None:
        """Leave out inputs unlike any picture, of which the network itself makes no numbers."""
        finite = self._finite()
        lost = [row for row, fine in enumerate(finite) if not fine and self._is_odd(row)]
        if not lost or finite.count(False) > len(lost):
            return  # all is well, or what is wrong is no matter of odd inputs
        names = ", ".join(self.truth.samples.name(row) for row in lost)
        self.report.warnings.append(
            f"NaN or infinity on {names}: the network or its method makes no numbers of such inputs"
        )
        self.truth = self.truth.only([row for row in range(len(finite)) if row not in lost])

    def _undecided(self, row: int) -> bool:
        """Whether rounding chooses among the equal entries of a flat input, and makes the map."""
        off = self.truth.float32["relevance"]
        return self.truth.samples.is_flat(row) and off[row] > CEILING

    def _is_odd(self, row: int) -> bool:
        samples = self.truth.samples
        return samples.is_flat(row) or samples.name(row).endswith("sparse")

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
        place = stage_name(stage) if stage else None
        if bool(self.truth.logits[sample].isfinite().all()):
            return conservation.overflow(self.truth.samples.name(sample), place)
        first = f", first at {place}" if place else ""
        name = self.truth.samples.name(sample)
        return f"the network itself gives NaN or infinity on {name}{first}"

    def _measured(self) -> Iterator[tuple[Stage, torch.Tensor]]:
        for index, stage in enumerate(self.stages):
            if index in self.truth.measures:
                yield stage, self.truth.measures[index]

    def _ledger(self) -> dict[str, Any]:
        off = self.truth.float32["relevance"]
        samples = self.truth.samples
        # what is summed up for people: inputs as there are, explained by class
        rows = [row for row in samples.by_class if not self._is_odd(row)]

        def sums(measures: torch.Tensor) -> list[float]:
            chosen = [(*measures[row].tolist()[:2], off[row]) for row in rows]
            # seven digits are enough for people
            return [rounded(total, scale, max(e32, 1e-4)) for total, scale, e32 in chosen]

        lines = [
            {"label": stage.key, "relevance": sums(measures)}
            for stage, measures in self._measured()
            if stage.kind == "relevance" and stage.label is not None
        ]
        relevance = self.truth.relevance.flatten(1)
        end = sums(torch.stack([relevance.sum(1), relevance.abs().sum(1)], 1))
        start = lines[0]["relevance"] if lines else end
        names = [samples.name(row) for row in rows]
        return {"samples": names, "start": start, "layers": lines, "input": end}

    def judge_conditioning(self) -> None:
        """Warn where float32 itself does not tell what the map is, and say from which layer on.

        Of flat inputs that is so wherever a maximum is chosen among equals, and says nothing.
        """
        off = self.truth.float32["relevance"]
        rows = [row for row in range(len(off)) if not self._is_odd(row) and off[row] == off[row]]
        worst = max(rows, key=lambda row: off[row], default=None)
        if worst is None or off[worst] <= ILL_CONDITIONED:
            return
        self.say("check: find where the map is ill-conditioned")
        found = self.arbiter.conditioning(worst)
        first = next((k for k in sorted(found) if not found[k] <= ILL_CONDITIONED), None)
        place = ""
        if first is not None:
            place = f"; it first exceeds {ILL_CONDITIONED:g} at {stage_name(self.stages[first])}"
        self.report.warnings.append(
            f"the map is ill-conditioned: torch's own float32 is off by {number(off[worst])} on "
            f"{self.truth.samples.name(worst)}{place}. Rounding alone changes such a map: choose a "
            "method that divides by less small numbers, or a larger epsilon"
        )

    def compare_onnx(self, chosen: Sequence[str], *, explicit: bool) -> None:
        """Compare the ONNX engines with the arbiter; ``explicit``: however long that takes."""
        path = self.directory / "explainer.onnx"
        for name in (name for name in chosen if name in ENGINES):
            skipped = problem = None
            try:
                if not path.exists():
                    problem = f"there is no {path.name}"
                elif name == "onnx.reference" and not explicit:
                    skipped = self._too_large(path)
                else:
                    skipped = ENGINES[name].lacking()
            except BackendError as error:
                problem = str(error)
            if problem or skipped:
                result = BackendResult(name, problem=problem, skipped=skipped)
                self.report.backends.append(result)
            else:
                self.compare(name, OnnxBackend(name, path))

    def _too_large(self, path: Path) -> str | None:
        tensors = load_graph(path).graph.initializer
        parameters = sum(math.prod(tensor.dims) for tensor in tensors)
        entries = self.truth.samples.x[0].numel()
        if parameters <= REFERENCE_PARAMETERS and entries <= REFERENCE_ENTRIES:
            return None
        return f"too slow for {parameters:,} parameters and inputs of {entries:,} entries"

    def compare(self, name: str, backend: Backend) -> BackendResult:
        """Compare one backend with the arbiter."""
        self.say(f"check: {name}")
        result = BackendResult(name)
        self.report.backends.append(result)
        batches = plan(
            self.truth.samples,
            self.truth.logits,
            backend.largest,
            weights=backend.level == "torch",
        )
        worst: dict[int, Batch] = {}
        with timed(result):
            try:
                found = backend.run(self.truth.samples, batches)
                result.problem = self._misshapen(batches, *found)
                if result.problem is None:
                    worst = self._judge(result, backend, batches, *found)
            except BackendError as error:
                result.problem = str(error)
        if result.samples and not result.passed:
            self.say(f"check: follow {name} step by step")
            try:
                self._follow(backend, result, worst)
            except BackendError as error:
                self.report.warnings.append(f"{name} can't be followed step by step: {error}")
        return result

    def _follow(self, backend: Backend, result: BackendResult, worst: dict[int, Batch]) -> None:
        """Find out whether a backend that is off goes wrong anywhere, or only rounds."""
        names = self.arbiter.names(backend.level)
        if not names:
            return
        for row, batch in [*worst.items()][:MOST_FOLLOWED]:
            values = backend.values(self.truth.samples, batch, row, names)
            result.divergence = self.arbiter.first_wrong(backend.level, values, row)
            if result.divergence:
                return
        if result.problem is None and self.tolerance is None:
            result.explained = (
                "every step is right, computed from the values before it: that is rounding, which "
                "the map magnifies"
            )

    def _misshapen(
        self, batches: Sequence[Batch], logits: torch.Tensor, relevance: torch.Tensor
    ) -> str | None:
        count = sum(len(batch.rows) for batch in batches)
        for name, found, wanted in (
            ("logits", logits, self.truth.logits),
            ("relevance", relevance, self.truth.relevance),
        ):
            shape = (count, *wanted.shape[1:])
            if found.shape != shape:
                return f"the {name} have shape {tuple(found.shape)}, not {shape}"
            if not found.is_floating_point():
                return f"the {name} are of type {found.dtype}, not floating point"
        return None

    def _judge(
        self,
        result: BackendResult,
        backend: Backend,
        batches: Sequence[Batch],
        logits: torch.Tensor,
        relevance: torch.Tensor,
    ) -> dict[int, Batch]:
        """Judge each row by the worst run of it.

        Returns the rows that failed, the worst first, and in which batch each did.
        """
        truth = self.truth
        rows = [row for batch in batches for row in batch.rows]
        batch_of = [batch for batch in batches for _ in batch.rows]
        off = errors(relevance, truth.relevance[rows])
        logits_off = errors(logits, truth.logits[rows])
        allowed = self._allowed("relevance", truth.relevance, backend)
        logits_allowed = self._allowed("logits", truth.logits, backend)
        found: dict[int, tuple[Comparison, Batch]] = {}
        for place, row in enumerate(rows):
            # of a map that rounding makes only that it holds numbers is known
            error = 0.0 if self._undecided(row) else off[place]
            one = Comparison(error, allowed[row], logits_off[place], logits_allowed[row])
            if row not in found or not one.nearness <= found[row][0].nearness:
                found[row] = one, batch_of[place]
        result.rows = [truth.samples.name(row) for row in sorted(found)]
        result.samples = [found[row][0] for row in sorted(found)]
        for name, part in (("logits", logits), ("relevance", relevance)):
            broken = (~part.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            if broken and result.problem is None:
                result.problem = f"NaN or infinity in the {name} of {self._run(batches, broken[0])}"
        failed = [row for row in found if not found[row][0].passed]
        failed.sort(key=lambda row: -found[row][0].nearness)
        return {row: found[row][1] for row in failed}

    def _run(self, batches: Sequence[Batch], place: int) -> str:
        """Which sample it is, and what was asked for."""
        rows = [(row, batch) for batch in batches for row in batch.rows]
        row, batch = rows[place]
        asked = {"none": "without a target", "largest": "with target -1"}.get(batch.target)
        return " ".join(filter(None, (self.truth.samples.name(row), asked)))

    def _allowed(self, kind: str, reference: torch.Tensor, backend: Backend) -> list[float]:
        if self.tolerance is not None:
            return self.tolerance.allowed(reference)
        followed = bool(self.arbiter.names(backend.level))
        ceiling = CEILING if followed else LOOSEST
        return [allowance(e32, ceiling) for e32 in self.truth.float32[kind]]


@contextmanager
def timed(result: BackendResult) -> Iterator[None]:
    """Note how long something takes."""
    began = time.perf_counter()
    yield
    result.seconds = time.perf_counter() - began
