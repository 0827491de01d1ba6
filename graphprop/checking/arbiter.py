"""The reference of a check: the same mathematics in float64, and the error of float32.

At compile time the arbiter is the explainer's graph, run node by node. Of a compiled directory it
is the generated module itself, in float64.

Relevance is not continuous: where two entries of a max-pooling window, or a sum and zero, are
nearly equal, rounding decides, and one decision more or less can be most of the error. So an
arbiter can also follow a backend step by step, each step computed from the backend's own values.
What rounding decides is then decided alike, and whatever still differs is wrong.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import fx

from graphprop.checking.backends import Step, run_module
from graphprop.checking.bounds import RunningBounds, Verdict, judge
from graphprop.checking.probes import LARGEST, Batch, Probes
from graphprop.checking.report import Divergence, shown
from graphprop.checking.runner import local_variables, measure, pack
from graphprop.checking.stages import Stage, stage_name
from graphprop.checking.threads import for_network, one_thread, usable
from graphprop.emit.onnx import named_maps, named_outputs
from graphprop.explainer import Compiled
from graphprop.ir.facts import facts_of, has_shape
from graphprop.ir.network import Network
from graphprop.lowering.interpret_map import interpret_map

FLOOR = 1e-5
"""An error below this is never a failure: float32 has seven digits, and sums lose two of them."""

MARGIN = 10.0
"""How many times the error of torch in float32 a backend may be off: another order of summation, or
a fused operation, changes the error by a small factor, a wrong step by far more."""

CEILING = 1e-4
"""An error above this is never taken for rounding alone: then every step is checked by itself. A
map that is off by this much looks the same, one off by a hundred times as much does not."""

LOOSEST = 1e-2
"""The same where steps can't be checked by themselves: within a mean over samples."""

SAME = 1e-6
"""How far two equivalent graphs may be apart in float64: rounding is 1e-16, which quotients by
small denominators magnify, and what changes a map by less is no matter."""

Observer = Callable[[fx.Node, Any], Any]


@dataclass
class Truth:
    """What the arbiter computed.

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

    samples: Probes
    logits: torch.Tensor
    relevance: torch.Tensor
    float32: dict[str, list[float]]
    measures: dict[int, torch.Tensor]

    @classmethod
    def nothing(cls, samples: Probes) -> Truth:
        """The result of an arbiter that does not run."""
        return cls(samples, torch.empty(0), torch.empty(0), {"logits": [], "relevance": []}, {})

    def only(self, rows: Sequence[int]) -> Truth:
        """Some of the rows."""
        kept = list(rows)
        return Truth(
            self.samples.only(kept),
            self.logits[kept],
            self.relevance[kept],
            {key: [values[row] for row in kept] for key, values in self.float32.items()},
            {index: numbers[kept] for index, numbers in self.measures.items()},
        )


class Arbiter(Protocol):
    """What computes the reference values."""

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

    def __init__(self, compiled: Compiled, stages: Sequence[Stage], samples: Probes) -> None:
        self.compiled, self.stages, self.samples = compiled, stages, samples
        self.measures: dict[int, torch.Tensor] = {}
        self.legal: dict[str, Divergence | None] = {}

    def explain(
        self,
        network: Network,
        sample: int,
        dtype: torch.dtype,
        observe: Observer | None = None,
        bounds: RunningBounds | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a graph on one sample: logits, and the maps packed into one tensor."""
        inputs, target = self.samples.part([sample])
        given: Any = target if target is None else target.clone()
        # how torch rounds depends on the number of threads: the results must not
        with one_thread(), bounds or nullcontext():
            logits, maps = interpret_map(network, inputs, given, dtype=dtype, observe=observe)
            return logits, pack(maps)

    def truth(self) -> Truth:
        lowered = self.compiled.lowered
        nodes = {} if lowered.samples else stage_nodes(lowered, self.stages)
        rows = range(len(self.samples))

        def exact(row: int) -> tuple[torch.Tensor, torch.Tensor, dict[int, torch.Tensor]]:
            measured: dict[int, torch.Tensor] = {}

            def keep(node: fx.Node, value: Any) -> None:
                if node in nodes:
                    numbers = measure(value)
                    measured.update(dict.fromkeys(nodes[node], numbers))

            return *self.explain(lowered, row, torch.float64, keep), measured

        parts = for_network(lowered, exact, rows)
        logits, relevance = (torch.cat([part[i] for part in parts]) for i in range(2))
        self.samples = resolved(self.samples, logits)
        single = for_network(lowered, lambda row: self.explain(lowered, row, torch.float32), rows)
        rough = [torch.cat(part) for part in zip(*single, strict=True)]
        float32 = {"logits": errors(rough[0], logits), "relevance": errors(rough[1], relevance)}
        self.measures = {
            index: torch.cat([part[2][index] for part in parts]) for index in parts[0][2]
        }
        return Truth(self.samples, logits, relevance, float32, self.measures)

    def follow(self, truth: Truth) -> None:
        """Continue with some of the rows."""
        self.samples, self.measures = truth.samples, truth.measures

    def conditioning(self, sample: int) -> dict[int, float]:
        lowered = self.compiled.lowered
        nodes = stage_nodes(lowered, self.stages)
        values: dict[fx.Node, torch.Tensor] = {}
        off: dict[int, float] = {}

        def keep(node: fx.Node, value: Any) -> None:
            if node in nodes:
                values[node] = value

        def compare(node: fx.Node, value: Any) -> None:
            for index in nodes.get(node, ()):
                off[index] = errors(value, values[node])[0]

        self.explain(lowered, sample, torch.float64, keep)
        self.explain(lowered, sample, torch.float32, compare)
        return off

    def names(self, level: str) -> list[str]:
        # what happens within a mean over samples can't be followed
        averaged = self.compiled.lowered.samples is not None
        return [] if averaged else list(self._named(level)[1].values())

    def _named(self, level: str) -> tuple[Network, dict[fx.Node, str]]:
        """The graph that a backend was printed from, and what its values are called there."""
        compiled = self.compiled
        network = compiled.legal if level == "torch" else compiled.legal_onnx
        nodes = [n for n in network.layers if facts_of(n).batched and has_shape(n)]
        called = compiled.generated.places if level == "torch" else {n.name: n.name for n in nodes}
        floating = [n for n in nodes if facts_of(n).value.is_floating_point()]
        names = {n: called[n.name] for n in floating if n.name in called}
        output: Any = network.output.args[0]
        outputs = named_outputs(network, compiled.recorded_nodes(network))
        if level == "torch":
            outputs = {"logits": output[0], **named_maps(network)}
        return network, names | {node: name for name, node in outputs.items()}

    def first_wrong(
        self, level: str, values: Mapping[str, torch.Tensor], sample: int
    ) -> Divergence | None:
        network, names = self._named(level)
        if level not in self.legal:
            self.legal[level] = self._changed_by_legalizing(network)
        if self.legal[level]:
            return self.legal[level]
        bounds = RunningBounds()
        for tensor in network.tensors.values():
            if tensor.dtype == torch.float64:
                # a backend in single precision has it rounded
                bounds.set(tensor, (tensor - tensor.float()).abs())
        wrong: list[tuple[fx.Node, float, float]] = []

        def follow(node: fx.Node, value: Any) -> torch.Tensor | None:
            own = values.get(names.get(node, ""))
            if own is None or own.shape != value.shape:
                return None
            if not wrong:
                verdict = judge(own, value, bounds.of(value))
                if not verdict.rounding:
                    wrong.append((node, *verdict.worse))
            return own.to(value.dtype)

        self.explain(network, sample, torch.float64, follow, bounds)
        if not wrong:
            return None
        node, error, allowed = wrong[0]
        return self._divergence(network, node, names[node], error, allowed)

    def _changed_by_legalizing(self, network: Network) -> Divergence | None:
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

        self.explain(network, 0, torch.float64, compare)
        for index in sorted(found):
            if not found[index] <= SAME:
                stage = self.stages[index]
                return Divergence(stage.layers, stage_name(stage), found[index], SAME)
        return None

    def _divergence(
        self, network: Network, node: fx.Node, name: str, error: float, allowed: float
    ) -> Divergence:
        label = facts_of(node).label
        indices = stage_nodes(network, self.stages).get(node)
        stage = self.stages[indices[0]] if indices else None
        layers = (label,) if label in {s.label for s in self.stages} else ()
        if stage:
            return Divergence(layers or stage.layers, stage_name(stage), error, allowed)
        part = "the result" if facts_of(node).section == "forward" else "the rule"
        inner = name.rpartition(".")[2] if "." in name else name
        place = f"{shown(inner)}, in {part} of {shown(label or '')}"
        return Divergence(layers, place, error, allowed)


class ModuleArbiter:
    """The generated module of a directory, in a process of its own."""

    name = "explainer.py in float64"

    def __init__(
        self,
        directory: Path,
        stages: Sequence[Stage],
        samples: Probes,
        onnx_names: Mapping[str, str],
    ) -> None:
        self.directory, self.stages, self.samples = directory, stages, samples
        self.onnx_names = onnx_names

    def truth(self) -> Truth:
        watch = self._watch()
        singles = [Batch([row], "auto") for row in range(len(self.samples))]
        exact = Step("exact", "float64", threads=usable(), batches=singles, watch=watch)
        found = run_module(self.directory, self.samples.tensors, [exact], self.samples.shapes)
        logits, relevance = found["exact/logits"], found["exact/relevance"]
        measures = {
            index: found[f"exact/measure/{watch.index(stage.name)}"]
            for index, stage in enumerate(self.stages)
            if stage.name and f"exact/measure/{watch.index(stage.name)}" in found
        }
        # a value that has another number of samples is none of a layer
        measures = {i: value for i, value in measures.items() if len(value) == len(self.samples)}
        self.samples = replace(self.samples, target=found["target"])
        unknown = [math.nan] * len(self.samples)
        float32 = {"logits": unknown, "relevance": [*unknown]}
        return Truth(self.samples, logits, relevance, float32, measures)

    def _watch(self) -> list[str]:
        return list(dict.fromkeys(stage.name for stage in self.stages if stage.name))

    def conditioning(self, sample: int) -> dict[int, float]:
        watch = self._watch()
        batch = [Batch([sample], "auto")]
        steps = [
            Step("exact", "float64", threads=usable(), batches=batch, watch=watch, keep=True),
            Step("single", batches=batch, watch=watch, keep=True),
        ]
        found = run_module(self.directory, self.samples.tensors, steps, self.samples.shapes)
        off = {}
        for index, stage in enumerate(self.stages):
            name = f"value/{watch.index(stage.name)}" if stage.name else ""
            if f"exact/{name}" in found and f"single/{name}" in found:
                off[index] = errors(found[f"single/{name}"], found[f"exact/{name}"])[0]
        return off

    def names(self, level: str) -> list[str]:
        source = (self.directory / "explainer.py").read_bytes()
        # what happens within a mean over samples can't be followed
        if any(isinstance(n, ast.FunctionDef) and n.name == "single" for n in nodes_of(source)):
            return []
        return [self.onnx_names.get(name, name) for name in local_variables(source)]

    def first_wrong(
        self, level: str, values: Mapping[str, torch.Tensor], sample: int
    ) -> Divergence | None:
        variables = local_variables((self.directory / "explainer.py").read_bytes())
        renamed = {name: self.onnx_names.get(name, name) for name in variables}
        own = {name: values[other] for name, other in renamed.items() if other in values}
        # what is returned need not be a variable
        own |= {f"return {name}": values[name] for name in ("logits", "relevance")}
        watch = [*variables, "return logits", "return relevance"]
        inputs = self.samples.tensors | {
            f"force/{name}": own[name] for name in watch if name in own
        }
        batch = [Batch([sample], "auto")]
        step = Step(
            "exact", "float64", threads=usable(), batches=batch, watch=watch, force=True, judge=True
        )
        found = run_module(self.directory, inputs, [step], self.samples.shapes)
        for index, name in enumerate(watch):
            if f"exact/verdict/{index}" in found:
                verdict = Verdict(*found[f"exact/verdict/{index}"][0].tolist())
                if not verdict.rounding:
                    return self._divergence(variables, name, *verdict.worse)
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
        return Divergence(stage.layers, way + stage_name(stage), error, allowed)


def stage_nodes(network: Network, stages: Sequence[Stage]) -> dict[fx.Node, list[int]]:
    """The nodes of a lowered or legal graph that hold stages: node -> indices of stages."""
    output: Any = network.output.args[0]
    relevance, relevances = network.maps[0], output[2]
    results = {
        records: node for node in network.layers if (records := facts_of(node).records) is not None
    }
    found: dict[fx.Node, list[int]] = {}
    for index, stage in enumerate(stages):
        known = results if stage.kind == "result" else relevances
        node = relevance if stage.label is None else known.get(stage.key)
        if isinstance(node, fx.Node) and facts_of(node).batched:
            found.setdefault(node, []).append(index)
    return found


def errors(found: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """``||found - reference|| / ||reference||`` of each sample; absolute where that is zero."""
    reference = reference.flatten(1).double()
    size = reference.norm(dim=1)
    distance = (found.flatten(1).double() - reference).norm(dim=1)
    relative: list[float] = (distance / size.where(size > 0, 1.0)).tolist()
    return relative


def resolved(samples: Probes, logits: torch.Tensor) -> Probes:
    """Probes with the class of the largest logit in place of `LARGEST`."""
    chosen = logits.unsqueeze(2).flatten(2).sum(2).argmax(1)
    return replace(samples, target=chosen.where(samples.target == LARGEST, samples.target))


def nodes_of(source: bytes) -> Iterator[ast.AST]:
    """All nodes of the syntax tree of a source."""
    return ast.walk(ast.parse(source))


def allowance(e32: float, ceiling: float = math.inf) -> float:
    """How far a backend may be off where float32 is off by ``e32``."""
    return min(max(FLOOR, MARGIN * e32), ceiling) if math.isfinite(e32) else FLOOR
