"""The pipeline: runs passes in order, verifies what each one returns, times it, and dumps it.

Which passes run is plain data: `analysis_steps` lists those from a captured program to a network in
which every layer has its rule, `graphprop.lowering` those from there to what a target prints. A
`Step` declares what its pass ensures, and the pipeline checks it. Further passes are added by
`register`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphprop.errors import MethodError, VerificationError, nearest
from graphprop.ir.network import Network, RewriteLog
from graphprop.ir.show import show
from graphprop.ir.verify import WELL_FORMED, Condition
from graphprop.passes import conditions
from graphprop.passes.assign_rules import RuleMap, assign_rules
from graphprop.passes.canonicalize import canonicalize
from graphprop.passes.find_layer import find_layer
from graphprop.passes.fold_batchnorm import fold_batchnorm
from graphprop.passes.infer_layouts import infer_layouts
from graphprop.passes.infer_ranges import infer_ranges
from graphprop.passes.join_sums import join_sums
from graphprop.passes.tag_roles import tag_roles
from graphprop.rules.registry import Method


@dataclass(frozen=True)
class Step:
    """A pass of the pipeline.

    Attributes
    ----------
    name
        What the pass is called in messages and dumps.
    function
        Takes a network (the first pass: a captured program) and returns the one that the next pass
        gets: the same one, changed, or another.
    ensures
        What holds of the network that it returns; checked after every run.
    """

    name: str
    function: Callable[[Any], Network]
    ensures: tuple[Condition, ...] = ()


NAMES = (
    "canonicalize",
    "join_sums",
    "fold_batchnorm",
    "infer_ranges",
    "infer_layouts",
    "tag_roles",
    "find_layer",
    "assign_rules",
    "lower",
    "simplify",
    "legalize_torch",
    "legalize_onnx",
)
"""The passes in order. ``legalize_onnx`` starts from what ``simplify`` returned, too."""

REGISTERED: list[tuple[str, Step]] = []
"""The passes that were added, each with the name of the pass it runs after."""


def register(step: Step, *, after: str) -> None:
    """Add a pass to every pipeline.

    Parameters
    ----------
    step
        The pass. It must leave the logits as they are.
    after
        The pass that it runs after, of `NAMES` or added before; of several that are added there,
        the one that was added first runs first.

    Raises
    ------
    MethodError
        If there is no pass ``after``, or already one of the name.
    """
    known = (*NAMES, *(added.name for _, added in REGISTERED))
    if after not in known:
        raise MethodError(f"there is no pass {after!r}: {nearest(after, known)}")
    if step.name in known:
        raise MethodError(f"there is already a pass {step.name!r}")
    REGISTERED.append((after, step))


def unregister(step: Step) -> None:
    """Remove a pass that was added."""
    REGISTERED[:] = [(after, added) for after, added in REGISTERED if added is not step]


@contextmanager
def registered(step: Step, *, after: str) -> Iterator[None]:
    """Add a pass for the length of a ``with`` block."""
    register(step, after=after)
    try:
        yield
    finally:
        unregister(step)


def with_registered(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, each followed by those that were registered to run after it."""
    found: list[Step] = []
    for step in steps:
        added = [other for after, other in REGISTERED if after == step.name]
        found += [step, *with_registered(added)]
    return found


def silent(name: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Record:
    """What one run of a pass took and did.

    Attributes
    ----------
    seconds
        The time it took, its verification included.
    before, after
        How many nodes the graph had before and after it.
    log
        Which rewrite rules fired where, and which refused to.
    decisions
        What was done with each batch norm, and why, where the pass decided that.
    old, new
        The printed graph before and after it, a node a line; empty where nothing is dumped.
    """

    seconds: float
    before: int
    after: int
    log: RewriteLog
    decisions: Mapping[str, str]
    old: str = ""
    new: str = ""

    def lines(self, name: str) -> list[str]:
        """The record as comments at the top of a dump."""
        milliseconds = f"{1000 * self.seconds:.1f} ms"
        return [
            f"# pass {name}: {milliseconds}, {self.before} -> {self.after} nodes",
            *(f"# batch norm {label}: {what}" for label, what in self.decisions.items()),
            *(f"# fired: {text}" for text in self.log.fired),
            *(f"# not fired: {text}" for text in self.log.refused),
        ]


@dataclass
class Pipeline:
    """Runs steps, keeping what each took and did, and, on demand, the network after it.

    Attributes
    ----------
    dump
        A folder for the printed network after each pass, or None.
    progress
        Called with the name of each pass before it runs.
    finish
        Where passes are dumped: called at the end of each run, of one that failed, too, with the
        folder, the records, and the network that the last pass returned.
    records
        Pass -> what it took and did.
    """

    dump: Path | None = None
    progress: Callable[[str], None] = silent
    finish: Callable[[Path, Mapping[str, Record], Any], None] | None = None
    records: dict[str, Record] = field(default_factory=dict)

    def run(self, steps: Sequence[Step], start: Any) -> Network:
        """Run the steps, and those registered after them, each on what the one before returned.

        Parameters
        ----------
        start
            What the first step takes: a network, or a captured program for ``canonicalize``.

        Raises
        ------
        VerificationError
            If a pass returns a network that is not well-formed, or not what it ensures.
        """
        current = start
        try:
            for step in with_registered(steps):
                current = self._run_one(step, current)
        finally:
            if self.dump is not None and self.finish is not None and self.records:
                self.finish(self.dump, self.records, current)
        return current

    def _run_one(self, step: Step, current: Any) -> Network:
        """Run a step, verify what it returns, and keep what it took and did."""
        self.progress(step.name)
        before, old = len(current.graph.nodes), self._printed(current)
        decided = dict(getattr(current, "decisions", {}))
        began = time.perf_counter()
        try:
            network = step.function(current)
        except VerificationError as error:
            raise VerificationError(f"{self._named(step)} failed: {error}") from error
        self._verify(step, network)
        log, network.log = network.log, RewriteLog()
        record = self.records[step.name] = Record(
            time.perf_counter() - began,
            before,
            len(network.graph.nodes),
            log,
            {k: v for k, v in network.decisions.items() if decided.get(k) != v},
            old,
            self._printed(network),
        )
        if self.dump is not None:
            self.dump.mkdir(parents=True, exist_ok=True)
            number = list(self.records).index(step.name) + 1
            text = "\n".join([*record.lines(step.name), record.new])
            (self.dump / f"{number:02}_{step.name}.txt").write_text(
                text, encoding="utf-8", errors="backslashreplace"
            )
        return network

    def _printed(self, graph: Any) -> str:
        """A network, or what was captured, as text; empty where nothing is dumped."""
        if self.dump is None:
            return ""
        if isinstance(graph, Network):
            return show(graph)
        nodes = [node for node in graph.graph.nodes if node.op != "output"]
        lines = (f"{n.name} = {n.target}({', '.join(map(str, n.args))})" for n in nodes)
        return "\n".join(["# captured", *lines]) + "\n"

    def _named(self, step: Step) -> str:
        earlier = [name for name in self.records if name != step.name]
        return f"the pass {step.name} (after: {', '.join(earlier) or 'none'})"

    def _verify(self, step: Step, network: Network) -> None:
        for condition in (WELL_FORMED, *step.ensures):
            violation = condition.violation(network)
            if violation is not None:
                raise VerificationError(
                    f"{self._named(step)} does not ensure that {condition.text}: {violation}"
                )


def analysis_steps(
    method: Method,
    parameters: Mapping[str, Any],
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    output: str | int | None = None,
) -> list[Step]:
    """Return the passes from a captured program to a network in which every layer has its rule."""
    strategy = parameters["batch_norm"]
    return [
        Step("canonicalize", lambda program: canonicalize(program, output), (conditions.LABELED,)),
        Step("join_sums", join_sums, (conditions.SUMS_JOINED,)),
        Step(
            "fold_batchnorm",
            lambda network: fold_batchnorm(network, strategy),
            (conditions.BATCH_NORMS_DECIDED,),
        ),
        Step("infer_ranges", infer_ranges, (conditions.RANGES_INFERRED,)),
        Step("infer_layouts", infer_layouts, (conditions.LAYOUTS_INFERRED,)),
        Step(
            "tag_roles",
            lambda network: tag_roles(network, roles),
            (conditions.ROLES_TAGGED, conditions.SIGNALS_FOUND),
        ),
        Step(
            "find_layer",
            lambda network: find_layer(network, method, parameters),
            (conditions.map_layer_found(method),),
        ),
        Step(
            "assign_rules",
            lambda network: assign_rules(network, method, parameters, rules),
            (conditions.rules_assigned(method),),
        ),
    ]
