"""What a profile found: times by layer, a table, JSON, and a Chrome trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = 1
"""The version of what `Profile.as_dict` gives: raised when a field changes its meaning or goes."""

FORWARD, RELEVANCE = "forward", "relevance"


@dataclass(frozen=True)
class Event:
    """A step of one run: a statement of the module, or a kernel of ONNX Runtime.

    Attributes
    ----------
    name
        The variable that is computed, or the kernel's node.
    layer
        The label of the layer it belongs to; None for what belongs to none.
    part
        ``"forward"`` or ``"relevance"``.
    start, seconds
        When it began in its run, and how long it took.
    memory
        Bytes in memory after it, where that is known.
    """

    name: str
    layer: str | None
    part: str
    start: float
    seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer, in seconds per run.

    Attributes
    ----------
    label, operator, rule
        The layer, as the manifest has it; label None for what belongs to no layer.
    forward, relevance
        The time of its result, and of its rule.
    """

    label: str | None
    operator: str
    rule: str | None
    forward: float
    relevance: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.forward + self.relevance


@dataclass(frozen=True)
class Profile:
    """Where the time of an explanation goes.

    Attributes
    ----------
    backend, batch, runs
        What ran, on how many samples at once, and how often; times are medians over the runs.
    layers
        The times of each layer, the longest first.
    seconds
        Those of a run.
    peak
        Bytes that a run takes at most beyond what was there before it; None where the system
        doesn't tell.
    events
        The steps of the run in the middle.
    """

    backend: str
    batch: int
    runs: int
    layers: Sequence[LayerTime]
    seconds: float
    peak: int | None
    events: Sequence[Event]

    @property
    def forward(self) -> float:
        """Seconds of all layers' results."""
        return sum(layer.forward for layer in self.layers)

    @property
    def relevance(self) -> float:
        """Seconds of all layers' rules."""
        return sum(layer.relevance for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The profile as JSON holds it: the attributes of these names, without the events."""
        return {
            "version": VERSION,
            "backend": self.backend,
            "batch": self.batch,
            "runs": self.runs,
            "seconds": self.seconds,
            "forward": self.forward,
            "relevance": self.relevance,
            "peak": self.peak,
            "layers": [asdict(layer) | {"seconds": layer.seconds} for layer in self.layers],
        }

    def as_trace(self) -> dict[str, Any]:
        """One run in the Trace Event Format, which chrome://tracing and Perfetto show."""
        names = ((1, FORWARD), (2, RELEVANCE))
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": name}}
            for number, name in names
        ]
        for event in self.events:
            begin = event.start * 1e6
            events.append(
                {
                    "name": event.layer or "(no layer)",
                    "cat": event.part,
                    "ph": "X",
                    "pid": 1,
                    "tid": 1 if event.part == FORWARD else 2,
                    "ts": begin,
                    "dur": event.seconds * 1e6,
                    "args": {"computes": event.name},
                }
            )
            if event.memory is not None:
                counted = {"name": "memory", "ph": "C", "pid": 1, "ts": begin + event.seconds * 1e6}
                events.append({**counted, "args": {"MiB": event.memory / 2**20}})
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def save_trace(self, path: str | Path) -> None:
        """Write `as_trace` to a file."""
        Path(path).write_text(json.dumps(self.as_trace()), encoding="utf-8")
