"""What backends are held against: the same mathematics in float64, and how far float32 is off.

At compile time the arbiter is the explainer's graph, run node by node. Of a compiled directory it
is the generated module itself, in float64.

Relevance is not continuous: where two entries of a max-pooling window are nearly equal, rounding
decides which one wins, and one winner more or less can be most of the error. One float32 run is
therefore one draw. Where a backend is off by more than that draw allows, further draws are made,
from inputs whose last bit is changed, and the largest error counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import fx

from graphprop.checking.backends import Samples, Step, run_module
from graphprop.checking.runner import measure
from graphprop.interpret import interpret
from graphprop.lower import in_flow
from graphprop.network import Network

DRAWS = 8
"""How many further float32 runs say how large the error may be."""

STAGE_DRAWS = 3
"""The same where a divergence is being located."""


@dataclass(frozen=True)
class Stage:
    """A value that every backend computes: a layer's result, or the relevance of that.

    Attributes
    ----------
    label
        The layer's; None for the input.
    kind
        ``"result"`` or ``"relevance"``.
    name
        The local variable of ``Explainer.forward`` that holds it, None where there is none.
    onnx
        The ONNX value that holds it.
    layers
        The layers that compute it: the layer itself, or those whose rules send it relevance.
    flow
        Which flow of relevance, where a method has several.
    """

    label: str | None
    kind: str
    name: str | None
    onnx: str | None
    layers: tuple[str, ...]
    flow: str = ""

    @property
    def key(self) -> str:
        """The label, with the flow."""
        return in_flow(self.label or "", self.flow)


def stages_of(entries: Sequence[Mapping[str, Any]], onnx: Mapping[str, str]) -> list[Stage]:
    """The stages in the order of computation: the results, then relevance from the output back.

    Parameters
    ----------
    entries
        A manifest's ``layers``.
    onnx
        Variable -> ONNX value, where they aren't called alike.
    """

    def stage(label: str | None, name: str | None, layers: tuple[str, ...], **more: str) -> Stage:
        return Stage(
            label=label,
            name=name,
            onnx=onnx.get(name, name) if name else None,
            layers=layers,
            **{"kind": "relevance", **more},
        )

    def senders(label: str | None) -> tuple[str, ...]:
        return tuple(e["label"] for e in entries if label in e["signal"] and e["rule"])

    relevances = [(e["label"], flow, name) for e in entries for flow, name in flows_of(e).items()]
    return [
        *(stage(e["label"], e["value"], (e["label"],), kind="result") for e in entries),
        *(
            stage(label, name, senders(label), flow=flow)
            for current in dict.fromkeys(flow for _, flow, _ in relevances)
            for label, flow, name in reversed(relevances)
            if flow == current
        ),
        stage(None, "relevance", senders(None)),
    ]


def flows_of(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """The variables of the relevance of a layer's result, by flow."""
    if entry["flows"]:
        return dict(entry["flows"])
    return {"": entry["relevance"]} if entry["rule"] else {}


@dataclass
class Truth:
    """What the arbiter found.

    Attributes
    ----------
    samples
        What was explained.
    logits, relevance
        In float64.
    float32
        ``"relevance"`` and ``"logits"``: the error of torch in float32 of each sample.
    measures
        Stage's index -> ``[N, 4]``, see `graphprop.checking.runner.measure`.
    """

    samples: Samples
    logits: torch.Tensor
    relevance: torch.Tensor
    float32: dict[str, list[float]]
    measures: dict[int, torch.Tensor]


Values = dict[int, torch.Tensor]
"""Stage's index -> its value for one sample, ``[1, ...]``."""


class Arbiter(Protocol):
    """What knows the right values."""

    name: str

    def truth(self) -> Truth:
        """Explain the samples."""

    def draw(self, sample: int) -> tuple[float, float]:
        """The largest error of relevance and of logits over further float32 runs."""

    def values(self, sample: int) -> tuple[Values, dict[int, float]]:
        """The values of the stages for one sample, and the error of float32 at each."""


class GraphArbiter:
    """The lowered graph of an explainer, run node by node."""

    name = "the graph in float64"

    def __init__(self, lowered: Network, stages: Sequence[Stage], samples: Samples) -> None:
        self.lowered, self.samples = lowered, samples
        output: Any = lowered.output.args[0]
        _, relevance, relevances = output
        results = {n.meta["records"]: n for n in lowered.layers if "records" in n.meta}
        self.indices: dict[fx.Node, list[int]] = {}
        for index, stage in enumerate(stages):
            known = results if stage.kind == "result" else relevances
            node = relevance if stage.label is None else known.get(stage.key)
            if isinstance(node, fx.Node) and node.meta["batched"]:
                self.indices.setdefault(node, []).append(index)

    def _run(
        self, sample: int, dtype: torch.dtype, observe: Any = None, draw: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = perturbed(self.samples.x[sample : sample + 1], draw)
        inputs = {"x": x, "target": self.samples.target[sample : sample + 1]}

        def seen(node: fx.Node, value: Any) -> None:
            if node in self.indices:
                observe(self.indices[node], value)

        with threads(1 if dtype == torch.float32 else torch.get_num_threads()):
            output, _ = interpret(
                self.lowered, inputs, dtype=dtype, observe=seen if observe else None
            )
        return output[0], output[1]

    def truth(self) -> Truth:
        measured: dict[int, list[torch.Tensor]] = {}

        def keep(indices: list[int], value: torch.Tensor) -> None:
            numbers = measure(value)
            for index in indices:
                measured.setdefault(index, []).append(numbers)

        found = [self._run(i, torch.float64, keep) for i in range(len(self.samples))]
        single = [self._run(i, torch.float32) for i in range(len(self.samples))]
        logits, relevance = (torch.cat(parts) for parts in zip(*found, strict=True))
        rough = [torch.cat(parts) for parts in zip(*single, strict=True)]
        float32 = {"logits": errors(rough[0], logits), "relevance": errors(rough[1], relevance)}
        measures = {index: torch.cat(parts) for index, parts in measured.items()}
        return Truth(self.samples, logits, relevance, float32, measures)

    def draw(self, sample: int) -> tuple[float, float]:
        logits, relevance = self._run(sample, torch.float64)
        found = [self._run(sample, torch.float32, draw=k) for k in range(1, DRAWS + 1)]
        return (
            largest(errors(r, relevance)[0] for _, r in found),
            largest(errors(z, logits)[0] for z, _ in found),
        )

    def values(self, sample: int) -> tuple[Values, dict[int, float]]:
        values: Values = {}
        off: dict[int, float] = {}

        def keep(indices: list[int], value: torch.Tensor) -> None:
            values.update(dict.fromkeys(indices, value))

        def compare(indices: list[int], value: torch.Tensor) -> None:
            error = errors(value, values[indices[0]])[0]
            for index in indices:
                off[index] = largest([off.get(index, 0.0), error])

        self._run(sample, torch.float64, keep)
        for k in range(STAGE_DRAWS + 1):
            self._run(sample, torch.float32, compare, draw=k)
        return values, off


class ModuleArbiter:
    """The generated module of a directory, in a process of its own."""

    name = "explainer.py in float64"

    def __init__(self, directory: Path, stages: Sequence[Stage], samples: Samples) -> None:
        self.directory, self.samples = directory, samples
        self.watch = list(dict.fromkeys(stage.name for stage in stages if stage.name))
        self.indices: dict[str, list[int]] = {name: [] for name in self.watch}
        for index, stage in enumerate(stages):
            if stage.name:
                self.indices[stage.name].append(index)

    def truth(self) -> Truth:
        rows = [[i] for i in range(len(self.samples))]
        exact = Step("exact", "float64", "x", torch.get_num_threads(), rows, self.watch)
        inputs = {"x": self.samples.x, "target": self.samples.target}
        found = run_module(self.directory, inputs, [exact, Step("single", rows=rows)])
        logits, relevance = found["exact/logits"], found["exact/relevance"]
        float32 = {
            "logits": errors(found["single/logits"], logits),
            "relevance": errors(found["single/relevance"], relevance),
        }
        samples = Samples(self.samples.x, found["target"])
        self.samples = samples
        return Truth(samples, logits, relevance, float32, self._by_stage(found, "exact/measure"))

    def draw(self, sample: int) -> tuple[float, float]:
        found = self._drawn(sample, DRAWS, [])
        singles = [f"draw{k}" for k in range(DRAWS + 1)]
        logits, relevance = found["exact/logits"], found["exact/relevance"]
        return (
            largest(errors(found[f"{name}/relevance"], relevance)[0] for name in singles),
            largest(errors(found[f"{name}/logits"], logits)[0] for name in singles),
        )

    def values(self, sample: int) -> tuple[Values, dict[int, float]]:
        found = self._drawn(sample, STAGE_DRAWS, self.watch)
        values = self._by_stage(found, "exact/value")
        off: dict[int, float] = {}
        for k in range(STAGE_DRAWS + 1):
            for index, value in self._by_stage(found, f"draw{k}/value").items():
                off[index] = largest([off.get(index, 0.0), errors(value, values[index])[0]])
        return values, off

    def _drawn(self, sample: int, draws: int, watch: list[str]) -> dict[str, torch.Tensor]:
        """One sample in float64, and in float32 from inputs whose last bit differs."""
        chosen = slice(sample, sample + 1)
        inputs = {"target": self.samples.target[chosen]}
        inputs |= {f"x{k}": perturbed(self.samples.x[chosen], k) for k in range(draws + 1)}
        steps = [Step("exact", "float64", "x0", torch.get_num_threads(), [[0]], watch, True)]
        steps += [
            Step(f"draw{k}", "float32", f"x{k}", 1, [[0]], watch, True) for k in range(draws + 1)
        ]
        return run_module(self.directory, inputs, steps)

    def _by_stage(self, found: Mapping[str, torch.Tensor], prefix: str) -> Values:
        return {
            index: found[f"{prefix}/{place}"]
            for place, name in enumerate(self.watch)
            for index in self.indices[name]
            if f"{prefix}/{place}" in found
        }


def perturbed(x: torch.Tensor, draw: int) -> torch.Tensor:
    """An input that float32 can hardly tell from x: last bits changed at random; x at draw 0."""
    if draw == 0:
        return x
    generator = torch.Generator().manual_seed(draw)
    steps = torch.randint(-1, 2, x.shape, generator=generator)
    return x * (1 + steps * 2.0**-23)


def errors(found: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """``||found - reference|| / ||reference||`` of each sample; absolute where that is zero."""
    reference = reference.flatten(1).double()
    size = reference.norm(dim=1)
    distance = (found.flatten(1).double() - reference).norm(dim=1)
    relative: list[float] = (distance / size.where(size > 0, 1.0)).tolist()
    return relative


def largest(values: Any) -> float:
    """The largest of some errors, infinite where one is not a number."""
    return max((v if math.isfinite(v) else math.inf for v in values), default=0.0)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads: how it rounds in float32 depends on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
