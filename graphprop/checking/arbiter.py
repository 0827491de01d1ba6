"""What backends are held against: the same mathematics in float64, and how far float32 is off.

At compile time the arbiter is the explainer's graph, run node by node. Of a compiled directory it
is the generated module itself, in float64.

Relevance is not continuous: where two entries of a max-pooling window, or a sum and zero, are
nearly equal, rounding decides, and one decision more or less can be most of the error. So an
arbiter can also follow a backend step by step, each step computed from the backend's own values.
What rounding decides is then decided alike, and whatever still differs is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import fx

from graphprop.checking.backends import Samples, Step, run_module
from graphprop.checking.report import Divergence, shown
from graphprop.checking.runner import local_variables, measure, pack
from graphprop.checking.stages import Stage, described
from graphprop.emit.onnx import named_maps, named_outputs
from graphprop.interpret import explain
from graphprop.legalise import legalise
from graphprop.network import Network, has_shape

if TYPE_CHECKING:
    from graphprop.explainer import CompiledExplainer

FLOOR = 1e-5
"""An error below this is never a failure."""

MARGIN = 10.0
"""How many times the error of float32 a backend may be off."""

SAME = 1e-6
"""How far two graphs that mean the same may be apart in float64."""

Observer = Callable[[fx.Node, Any], Any]


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


class Arbiter(Protocol):
    """What knows the right values."""

    name: str

    def truth(self) -> Truth:
        """Explain the samples."""

    def conditioning(self, sample: int) -> dict[int, float]:
        """The error of float32 at each stage."""

    def names(self, level: str) -> list[str]:
        """The values of a backend ("torch" or "onnx") that it can follow, if it can."""

    def first_wrong(
        self, level: str, values: Mapping[str, torch.Tensor], sample: int
    ) -> Divergence | None:
        """Follow a backend, and name the first step that goes wrong; None if none does.

        ``values`` are the backend's, for one sample, by name; its outputs are among them.
        """


class GraphArbiter:
    """The lowered graph of an explainer, run node by node."""

    name = "the graph in float64"

    def __init__(
        self, explainer: CompiledExplainer, stages: Sequence[Stage], samples: Samples
    ) -> None:
        self.explainer, self.stages, self.samples = explainer, stages, samples
        self.measures: dict[int, torch.Tensor] = {}
        self.legal: dict[str, Divergence | None] = {}

    def _run(
        self, network: Network, sample: int, dtype: torch.dtype, observe: Observer | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, target = self.samples.part(slice(sample, sample + 1))
        with threads(1 if dtype == torch.float32 else torch.get_num_threads()):
            logits, maps = explain(network, inputs, target, dtype=dtype, observe=observe)
            return logits, pack(maps)

    def truth(self) -> Truth:
        lowered = self.explainer.lowered
        nodes = {} if lowered.samples else stage_nodes(lowered, self.stages)
        measured: dict[int, list[torch.Tensor]] = {}

        def keep(node: fx.Node, value: Any) -> None:
            if node in nodes:
                numbers = measure(value)
                for index in nodes[node]:
                    measured.setdefault(index, []).append(numbers)

        count = range(len(self.samples))
        exact = [self._run(lowered, i, torch.float64, keep) for i in count]
        logits, relevance = (torch.cat(parts) for parts in zip(*exact, strict=True))
        single = [self._run(lowered, i, torch.float32) for i in count]
        rough = [torch.cat(parts) for parts in zip(*single, strict=True)]
        float32 = {"logits": errors(rough[0], logits), "relevance": errors(rough[1], relevance)}
        self.measures = {index: torch.cat(parts) for index, parts in measured.items()}
        return Truth(self.samples, logits, relevance, float32, self.measures)

    def conditioning(self, sample: int) -> dict[int, float]:
        lowered = self.explainer.lowered
        nodes = stage_nodes(lowered, self.stages)
        values: dict[fx.Node, torch.Tensor] = {}
        off: dict[int, float] = {}

        def keep(node: fx.Node, value: Any) -> None:
            if node in nodes:
                values[node] = value

        def compare(node: fx.Node, value: Any) -> None:
            for index in nodes.get(node, ()):
                off[index] = errors(value, values[node])[0]

        self._run(lowered, sample, torch.float64, keep)
        self._run(lowered, sample, torch.float32, compare)
        return off

    def names(self, level: str) -> list[str]:
        # what happens within a mean over samples can't be followed
        averaged = self.explainer.lowered.samples is not None
        return [] if averaged else list(self._named(level)[1].values())

    def _named(self, level: str) -> tuple[Network, dict[fx.Node, str]]:
        """The graph that a backend was printed from, and what its values are called there."""
        explainer = self.explainer
        network = explainer.legal if level == "torch" else legalise(explainer.lowered, level)[0]
        nodes = [n for n in network.layers if n.meta["batched"] and has_shape(n)]
        names = {n: n.name for n in nodes if n.meta["value"].is_floating_point()}
        output: Any = network.output.args[0]
        outputs = named_outputs(network, explainer.recorded_nodes(network))
        if level == "torch":
            outputs = {"logits": output[0], **named_maps(network)}
        return network, names | {node: name for name, node in outputs.items()}

    def first_wrong(
        self, level: str, values: Mapping[str, torch.Tensor], sample: int
    ) -> Divergence | None:
        network, names = self._named(level)
        if level not in self.legal:
            self.legal[level] = self._changed_by_legalising(network)
        if self.legal[level]:
            return self.legal[level]
        exact: dict[fx.Node, torch.Tensor] = {}
        wrong: list[tuple[fx.Node, float, float]] = []

        def forced(node: fx.Node, value: Any) -> torch.Tensor | None:
            own = values.get(names.get(node, ""))
            return own.to(value.dtype) if own is not None and own.shape == value.shape else None

        def follow(node: fx.Node, value: Any) -> torch.Tensor | None:
            own = forced(node, value)
            if own is not None and not errors(own, value)[0] <= FLOOR:
                exact[node] = value
            return own

        def compare(node: fx.Node, value: Any) -> torch.Tensor | None:
            own = forced(node, value)
            if own is not None and node in exact and not wrong:
                error, e32 = (errors(v, exact[node])[0] for v in (own, value))
                if not error <= allowance(e32):
                    wrong.append((node, error, allowance(e32)))
            return own

        self._run(network, sample, torch.float64, follow)
        if exact:
            self._run(network, sample, torch.float32, compare)
        if not wrong:
            return None
        node, error, allowed = wrong[0]
        return self._divergence(network, node, names[node], error, allowed)

    def _changed_by_legalising(self, network: Network) -> Divergence | None:
        """The first stage at which a legal graph is not what it was made from."""
        nodes = stage_nodes(network, self.stages)
        found: dict[int, float] = {}

        def compare(node: fx.Node, value: Any) -> None:
            if node in nodes:
                own = measure(value)[0]
                for index in nodes[node]:
                    if index in self.measures:
                        _, _, norm, product = self.measures[index][0].tolist()
                        apart = (own[2:] - torch.tensor([norm, product])).abs().max()
                        found[index] = float(apart) / (norm or 1.0)

        self._run(network, 0, torch.float64, compare)
        for index in sorted(found):
            if not found[index] <= SAME:
                stage = self.stages[index]
                return Divergence(stage.layers, described(stage), found[index], SAME)
        return None

    def _divergence(
        self, network: Network, node: fx.Node, name: str, error: float, allowed: float
    ) -> Divergence:
        label = node.meta.get("label")
        indices = stage_nodes(network, self.stages).get(node)
        stage = self.stages[indices[0]] if indices else None
        layers = (label,) if label in {s.label for s in self.stages} else ()
        if stage:
            return Divergence(layers or stage.layers, described(stage), error, allowed)
        part = "the result" if node.meta.get("section") == "forward" else "the rule"
        place = f"{shown(name)}, in {part} of {shown(label or '')}"
        return Divergence(layers, place, error, allowed)


class ModuleArbiter:
    """The generated module of a directory, in a process of its own."""

    name = "explainer.py in float64"

    def __init__(
        self,
        directory: Path,
        stages: Sequence[Stage],
        samples: Samples,
        onnx_names: Mapping[str, str],
    ) -> None:
        self.directory, self.stages, self.samples = directory, stages, samples
        self.onnx_names = onnx_names

    def truth(self) -> Truth:
        rows = [[i] for i in range(len(self.samples))]
        watch = self._watch()
        exact = Step("exact", "float64", "x", torch.get_num_threads(), rows, watch)
        inputs = {"x": self.samples.x, "target": self.samples.target}
        steps = [exact, Step("single", rows=rows)]
        found = run_module(self.directory, inputs, steps, self.samples.shapes)
        logits, relevance = found["exact/logits"], found["exact/relevance"]
        float32 = {
            "logits": errors(found["single/logits"], logits),
            "relevance": errors(found["single/relevance"], relevance),
        }
        measures = {
            index: found[f"exact/measure/{watch.index(stage.name)}"]
            for index, stage in enumerate(self.stages)
            if stage.name and f"exact/measure/{watch.index(stage.name)}" in found
        }
        self.samples = replace(self.samples, target=found["target"])
        return Truth(self.samples, logits, relevance, float32, measures)

    def _watch(self) -> list[str]:
        return list(dict.fromkeys(stage.name for stage in self.stages if stage.name))

    def conditioning(self, sample: int) -> dict[int, float]:
        watch = self._watch()
        off = {
            name: errors(single, exact)[0] for name, exact, single in self._twice(sample, watch, {})
        }
        return {i: off[s.name] for i, s in enumerate(self.stages) if s.name and s.name in off}

    def _twice(
        self, sample: int, watch: list[str], values: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Variables in float64 and in float32, following a backend's values where given."""
        chosen = slice(sample, sample + 1)
        inputs = {"x": self.samples.x[chosen], "target": self.samples.target[chosen]}
        inputs |= {f"force/{name}": values[name] for name in watch if name in values}
        count = torch.get_num_threads()
        steps = [
            Step("exact", "float64", "x", count, [[0]], watch, keep=True, force=True),
            Step("single", "float32", "x", 1, [[0]], watch, keep=True, force=True),
        ]
        found = run_module(self.directory, inputs, steps, self.samples.shapes)
        for index, name in enumerate(watch):
            if f"exact/value/{index}" in found:
                yield name, found[f"exact/value/{index}"], found[f"single/value/{index}"]
        for name in ("logits", "relevance"):
            yield f"return {name}", found[f"exact/{name}"], found[f"single/{name}"]

    def names(self, level: str) -> list[str]:
        variables = local_variables((self.directory / "explainer.py").read_bytes())
        return [self.onnx_names.get(name, name) for name in variables]

    def first_wrong(
        self, level: str, values: Mapping[str, torch.Tensor], sample: int
    ) -> Divergence | None:
        variables = local_variables((self.directory / "explainer.py").read_bytes())
        renamed = {name: self.onnx_names.get(name, name) for name in variables}
        own = {name: values[other] for name, other in renamed.items() if other in values}
        # what is returned need not be a variable
        own |= {f"return {name}": values[name] for name in ("logits", "relevance")}
        for name, exact, single in self._twice(sample, variables, own):
            if name not in own or own[name].shape != exact.shape:
                continue
            allowed = allowance(errors(single, exact)[0])
            (error,) = errors(own[name], exact)
            if not error <= allowed:
                return self._divergence(variables, name, error, allowed)
        return None

    def _divergence(
        self, variables: list[str], name: str, error: float, allowed: float
    ) -> Divergence:
        """Name the stage that a variable is, or else that it is on the way to."""
        places = {stage.name: stage for stage in reversed(self.stages)}
        if name.startswith("return "):
            return Divergence((), f"{name.removeprefix('return ')}, as returned", error, allowed)
        rest = variables[variables.index(name) :]
        stage = next((places[other] for other in rest if other in places), self.stages[-1])
        way = "" if stage.name == name else f"{shown(name)}, on the way to "
        return Divergence(stage.layers, way + described(stage), error, allowed)


def stage_nodes(network: Network, stages: Sequence[Stage]) -> dict[fx.Node, list[int]]:
    """The nodes of a lowered or legal graph that hold stages: node -> indices of stages."""
    output: Any = network.output.args[0]
    relevance, relevances = network.maps[0], output[2]
    results = {node.meta["records"]: node for node in network.layers if "records" in node.meta}
    found: dict[fx.Node, list[int]] = {}
    for index, stage in enumerate(stages):
        known = results if stage.kind == "result" else relevances
        node = relevance if stage.label is None else known.get(stage.key)
        if isinstance(node, fx.Node) and node.meta["batched"]:
            found.setdefault(node, []).append(index)
    return found


def errors(found: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """``||found - reference|| / ||reference||`` of each sample; absolute where that is zero."""
    reference = reference.flatten(1).double()
    size = reference.norm(dim=1)
    distance = (found.flatten(1).double() - reference).norm(dim=1)
    relative: list[float] = (distance / size.where(size > 0, 1.0)).tolist()
    return relative


def allowance(e32: float) -> float:
    """How far a backend may be off where float32 is off by ``e32``."""
    return max(FLOOR, MARGIN * e32) if math.isfinite(e32) else FLOOR


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads: how it rounds in float32 depends on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
