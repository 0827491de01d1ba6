"""What a check found: per backend a verdict, the ledger of relevance, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprop.artifact.schema import Json

VERSION = 2
"""The version of what `Report.as_dict` gives: raised when a field changes its meaning or goes."""

PASSED, FAILED, NOT_CHECKED = "passed", "failed", "not checked"


@dataclass(frozen=True)
class Comparison:
    """One sample on one backend.

    Attributes
    ----------
    error, allowed
        Of the relevance: ``||a - ref|| / ||ref||``, and how large it may be.
    logits_error, logits_allowed
        The same of the logits.
    """

    error: float
    allowed: float
    logits_error: float
    logits_allowed: float

    @property
    def passed(self) -> bool:
        """Whether both errors are small enough; NaN is not."""
        return self.error <= self.allowed and self.logits_error <= self.logits_allowed

    @property
    def nearness(self) -> float:
        """How near the limit it is, 1 being the limit; infinite where an error isn't known."""
        pairs = (self.error, self.allowed), (self.logits_error, self.logits_allowed)
        return max(
            finite_last(error / allowed if allowed else math.inf if error else 0.0)
            for error, allowed in pairs
        )


@dataclass(frozen=True)
class Divergence:
    """Where a backend first differs from the arbiter.

    Attributes
    ----------
    layers
        The layers whose forward computation or rule is wrong: one, or all that add up there.
    place
        The value that is off, for people.
    error, allowed
        By how much it is off, and by how much it may be.
    """

    layers: tuple[str, ...]
    place: str
    error: float
    allowed: float

    def __str__(self) -> str:
        size = f"error {number(self.error)}, allowed {number(self.allowed)}"
        return f"first diverges at {self.place} ({size})"


@dataclass
class BackendResult:
    """The verdict on one backend.

    Attributes
    ----------
    name
        Of the backend.
    samples, rows
        What each sample came to, and which it was; empty where nothing could be compared.
    seconds
        How long it took, None where that isn't recorded.
    problem
        What is wrong other than an error above its limit.
    divergence
        Where it first diverges, if it does.
    explained
        Why errors beyond what is allowed are none of its fault.
    skipped
        Why it was not run, if it wasn't.
    """

    name: str
    samples: list[Comparison] = field(default_factory=list)
    seconds: float | None = None
    problem: str | None = None
    divergence: Divergence | None = None
    explained: str | None = None
    skipped: str | None = None
    rows: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every sample is as close as it must be, or rounding explains why not.

        What was skipped has not failed; `Report.status` says whether anything was compared.
        """
        close = self.explained is not None or all(sample.passed for sample in self.samples)
        return self.problem is None and close

    @property
    def worst(self) -> Comparison | None:
        """The sample that is nearest its limit, or furthest beyond it."""
        return max(self.samples, key=lambda sample: sample.nearness, default=None)

    @property
    def worst_row(self) -> str:
        """Which sample that is."""
        places = range(min(len(self.rows), len(self.samples)))
        worst = max(places, key=lambda i: self.samples[i].nearness, default=None)
        return "" if worst is None else self.rows[worst]

    def complaint(self) -> str:
        """What is wrong, as one clause."""
        parts = [self.problem] if self.problem else []
        if not parts and self.worst:
            parts = [errors_of(self.worst)]
        if self.divergence:
            parts.append(str(self.divergence))
        return f"{self.name}: {'; '.join(parts)}"


@dataclass
class Report:
    """What a check found.

    ``bool(report)`` says whether it passed, and ``print(report)`` prints what the command prints.

    Attributes
    ----------
    arbiter
        What the backends were compared with.
    targets
        The class explained, per sample; -2 where it was weights.
    float32
        ``relevance`` and ``logits``: the error of torch in float32 per sample, which says how
        large the errors of other backends may be.
    backends
        A verdict each.
    ledger
        The sum of relevance of some of the ``samples``: at the ``start``, in the result of each of
        the ``layers`` from the output back, and in the ``input``; at compile time also the
        ``accounts`` of the layers for the first sample, see `graphprop.checking.accounts`.
    stages
        At compile time, where they can be followed: each backend's error at every stage for one
        sample, see `graphprop.checking.rounding`.
    warnings
        What the user should know though nothing is wrong.
    samples
        What each sample is.
    changes
        How the files differ from what was written: that fails the check.
    overflow
        Where the arbiter itself gives no numbers, so that there is nothing to hold backends
        against. That is the map's own, not a failure of a backend.
    fingerprint
        What a manifest records of the explainer's values, see `graphprop.checking.fingerprint`.
    conservation
        What a manifest records of relevance that is lost, see `graphprop.checking.conservation`.
    """

    arbiter: str
    targets: list[int] = field(default_factory=list)
    float32: dict[str, list[float]] = field(default_factory=dict)
    backends: list[BackendResult] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    stages: Json | None = field(default=None, repr=False)
    warnings: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    overflow: str | None = None
    fingerprint: Json | None = field(default=None, repr=False)
    conservation: Json | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """``"passed"``, ``"failed"``, or ``"not checked"`` where nothing was compared."""
        if self.changes or not all(result.passed for result in self.backends):
            return FAILED
        compared = any(result.samples and not result.skipped for result in self.backends)
        return PASSED if compared and self.overflow is None else NOT_CHECKED

    @property
    def passed(self) -> bool:
        """Whether something was compared, and nothing failed."""
        return self.status == PASSED

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.render()

    def complaint(self) -> str:
        """What failed, and where it first diverges."""
        parts = [*self.changes, *([self.overflow] if self.overflow else [])]
        parts += [result.complaint() for result in self.backends if not result.passed]
        if not parts and not self.passed:
            parts = ["nothing was compared", *(r.skipped for r in self.backends if r.skipped)]
        return "; ".join(parts)

    def plot(self) -> Any:
        """Draw the error of each sample beside what is allowed: a figure of matplotlib."""
        from graphprop.checking.notebook import report_figure

        return report_figure(self)

    def _repr_html_(self) -> str:
        """Show the verdicts in a notebook."""
        from graphprop.checking.notebook import report_html

        return report_html(self)

    def as_dict(self, *, timing: bool = True) -> dict[str, Any]:
        """The findings as JSON holds them; without ``timing``, the same in every run.

        ``version``, ``status``, ``passed``, ``arbiter``, ``samples``, ``targets``, ``float32``,
        ``ledger``, ``stages``, ``warnings``, ``changes``, ``overflow``: the attributes of these
        names.
        ``backends``: a list of objects with ``name``, ``passed``, ``skipped`` (why), ``problem``
        and ``explained`` (texts or null), ``error``, ``allowed``, ``logits_error`` and
        ``logits_allowed`` of the worst sample, the same for each of ``samples`` beside its
        ``sample``, ``divergence`` (null, or ``layers``, ``place``, ``error``, ``allowed``), and
        ``seconds``. A number that isn't finite is null.
        """
        return {
            "version": VERSION,
            "status": self.status,
            "passed": self.passed,
            "arbiter": self.arbiter,
            "samples": self.samples,
            "targets": self.targets,
            "float32": {key: [known(v) for v in value] for key, value in self.float32.items()},
            "backends": [backend_dict(result, timing) for result in self.backends],
            "ledger": self.ledger,
            "stages": self.stages,
            "warnings": self.warnings,
            "changes": self.changes,
            "overflow": self.overflow,
        }

    def render(self, *, layers: bool = False, timing: bool = True) -> str:
        """The findings as lines of text; with ``layers``, the sums of relevance at every layer."""
        status = self.status
        lines = [f"check: {status.upper() if status == FAILED else status}"]
        finite = [e for values in self.float32.values() for e in values if e == e]
        if finite:
            lines.append(
                f"  {len(self.samples or self.targets)} samples, compared with {self.arbiter}; "
                f"torch's own float32 is off by up to {number(max(finite, key=finite_last))}"
            )
        lines += [f"  {change}" for change in self.changes]
        lines += [f"  {self.overflow}"] if self.overflow else []
        lines += [f"  {line}" for result in self.backends for line in backend_lines(result, timing)]
        if self.ledger:
            lines += ["  sum of relevance per sample:", *self._ledger_lines(layers)]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _ledger_lines(self, layers: bool) -> list[str]:
        rows = [("start", self.ledger["start"])]
        if layers:
            rows += [(shown(row["label"]), row["relevance"]) for row in self.ledger["layers"]]
        rows.append(("input", self.ledger["input"]))
        width = max(len(name) for name, _ in rows)
        return [f"    {name:{width}}  {sums_shown(sums)}" for name, sums in rows]


def backend_dict(result: BackendResult, timing: bool) -> dict[str, Any]:
    """One verdict as JSON holds it."""
    worst, divergence = result.worst, result.divergence
    content: dict[str, Any] = {
        "name": result.name,
        "passed": result.passed,
        "skipped": result.skipped,
        "problem": result.problem,
        "explained": result.explained,
        "error": known(worst.error) if worst else None,
        "allowed": known(worst.allowed) if worst else None,
        "logits_error": known(worst.logits_error) if worst else None,
        "logits_allowed": known(worst.logits_allowed) if worst else None,
        "samples": [
            {"sample": row} | {name: known(value) for name, value in vars(sample).items()}
            for row, sample in zip(names_of(result), result.samples, strict=True)
        ],
        "divergence": None,
    }
    if divergence:
        content["divergence"] = {
            "layers": list(divergence.layers),
            "place": divergence.place,
            "error": known(divergence.error),
            "allowed": known(divergence.allowed),
        }
    if timing and result.seconds is not None:
        content["seconds"] = round(result.seconds, 3)
    return content


def names_of(result: BackendResult) -> list[str]:
    """What each sample is, or else its number."""
    return result.rows or [str(index) for index in range(len(result.samples))]


def backend_lines(result: BackendResult, timing: bool = True) -> list[str]:
    """One verdict as lines of text."""
    if result.skipped:
        return [f"{result.name:14} skipped: {result.skipped}"]
    worst = errors_of(result.worst) if result.worst else ""
    time = f"{result.seconds:.1f} s" if timing and result.seconds is not None else ""
    verdict = ", ".join(filter(None, ("passed" if result.passed else "FAILED", worst, time)))
    lines = [f"{result.name:14} {verdict}"]
    lines += [f"  {text}" for text in (result.problem, result.divergence, result.explained) if text]
    return lines


def errors_of(sample: Comparison) -> str:
    """Both errors of a sample, with what is allowed."""
    return (
        f"relevance off by {number(sample.error)} (allowed {number(sample.allowed)}), "
        f"logits by {number(sample.logits_error)} (allowed {number(sample.logits_allowed)})"
    )


def sums_shown(sums: Sequence[float | None]) -> str:
    """Sums of relevance in columns."""
    return "  ".join(f"{unknown(value):12.6g}" for value in sums)


def number(value: float) -> str:
    """An error as people read it."""
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def known(value: float) -> float | None:
    """An error with two digits, which is all it means; None where it isn't finite."""
    return float(f"{value:.1e}") if math.isfinite(value) else None


def unknown(value: float | None) -> float:
    """A number that JSON may have held as null."""
    return math.nan if value is None else value


def finite_last(value: float) -> float:
    """A key that sorts what isn't a number behind every number."""
    return value if math.isfinite(value) else math.inf


def shown(label: str) -> str:
    """A layer's label on one line, quoted, not longer than a line."""
    text = repr(label)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"
