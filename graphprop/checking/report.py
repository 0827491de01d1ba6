"""What a check found: per backend a verdict, the ledger of relevance, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VERSION = 1


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


@dataclass(frozen=True)
class Divergence:
    """Where a backend first leaves the arbiter.

    Attributes
    ----------
    layers
        The layers whose forward computation or rule is to blame: one, or all that add up there.
    place
        The value that is off, in words.
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
    samples
        What each sample came to; empty where nothing could be compared.
    seconds
        How long it took, None where that isn't recorded.
    problem
        What is wrong, in words, where the numbers alone don't say it.
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

    @property
    def passed(self) -> bool:
        """Whether every sample is as close as it must be, or rounding explains why not."""
        close = self.explained is not None or all(sample.passed for sample in self.samples)
        return self.problem is None and close

    @property
    def worst(self) -> Comparison | None:
        """The sample that is nearest its limit, or furthest beyond it."""

        def nearness(sample: Comparison) -> float:
            off = sample.error / sample.allowed, sample.logits_error / sample.logits_allowed
            return max(map(finite_last, off))

        return max(self.samples, key=nearness, default=None)

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

    Attributes
    ----------
    arbiter
        What the backends were held against.
    targets
        The class explained, per sample.
    float32
        ``relevance`` and ``logits``: the error of torch in float32 per sample, which says how
        large the errors of other backends may be.
    backends
        A verdict each.
    ledger
        The sum of relevance per sample: at the ``start``, in the result of each of the ``layers``
        from the output back, and in the ``input``.
    warnings
        What the user should know though nothing is wrong.
    fingerprint
        What a manifest records of the explainer's values, see `graphprop.checking.fingerprint`.
    conservation
        What a manifest records of relevance that is lost, see `graphprop.checking.conservation`.
    """

    arbiter: str
    targets: list[int]
    float32: dict[str, list[float]]
    backends: list[BackendResult] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    fingerprint: dict[str, Any] | None = field(default=None, repr=False)
    conservation: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether no backend failed."""
        return all(result.passed for result in self.backends)

    def complaint(self) -> str:
        """What failed, and where it first diverges."""
        return "; ".join(result.complaint() for result in self.backends if not result.passed)

    def as_dict(self, *, timing: bool = True) -> dict[str, Any]:
        """The findings as JSON holds them; without ``timing``, the same in every run."""
        return {
            "version": VERSION,
            "passed": self.passed,
            "arbiter": self.arbiter,
            "targets": self.targets,
            "float32": {key: [known(v) for v in value] for key, value in self.float32.items()},
            "backends": [backend_dict(result, timing) for result in self.backends],
            "ledger": self.ledger,
            "warnings": self.warnings,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """Read what `as_dict` gave."""
        return cls(
            arbiter=content["arbiter"],
            targets=list(content["targets"]),
            float32={key: list(map(unknown, v)) for key, v in content["float32"].items()},
            backends=[backend_from(entry) for entry in content["backends"]],
            ledger=dict(content["ledger"]),
            warnings=list(content["warnings"]),
        )

    def render(self, *, layers: bool = False) -> str:
        """The findings as lines of text; with ``layers``, the whole ledger."""
        lines = ["check: passed" if self.passed else "check: FAILED"]
        errors = [e for values in self.float32.values() for e in values]
        if errors:
            lines.append(
                f"  {len(self.targets)} samples, held against {self.arbiter}; "
                f"torch's own float32 is off by up to {number(max(errors, key=finite_last))}"
            )
        lines += [f"  {line}" for result in self.backends for line in backend_lines(result)]
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
            {name: known(value) for name, value in vars(sample).items()}
            for sample in result.samples
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


def backend_from(entry: Mapping[str, Any]) -> BackendResult:
    """Read one verdict."""
    where = entry["divergence"]
    return BackendResult(
        name=entry["name"],
        samples=[Comparison(**{k: unknown(v) for k, v in s.items()}) for s in entry["samples"]],
        seconds=entry.get("seconds"),
        problem=entry["problem"],
        explained=entry["explained"],
        skipped=entry["skipped"],
        divergence=where
        and Divergence(
            tuple(where["layers"]),
            where["place"],
            unknown(where["error"]),
            unknown(where["allowed"]),
        ),
    )


def backend_lines(result: BackendResult) -> list[str]:
    """One verdict in words."""
    if result.skipped:
        return [f"{result.name:14} skipped: {result.skipped}"]
    worst = errors_of(result.worst) if result.worst else ""
    time = f"{result.seconds:.1f} s" if result.seconds is not None else ""
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
