"""Where each backend's rounding comes from: its error at every stage, on one sample.

The check judges logits and maps. Along the way from the input to the logits and back, errors grow
where sums cancel and denominators are small: the error at each stage, beside that of torch in
float32, tells where. It is recorded when an explainer is compiled, for `graphprop report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from graphprop.checking.arbiter import CEILING, GraphArbiter, allowance, errors, stage_nodes
from graphprop.checking.backends import BackendError
from graphprop.checking.compare import Session
from graphprop.checking.compared import ENGINES, OnnxBackend, PythonBackend
from graphprop.checking.probes import Batch
from graphprop.checking.report import known
from graphprop.checking.stages import Stage

FLOAT32 = "float32"
"""What the error of the graph in float32 is called among those of backends."""

LARGEST = 2**27
"""Entries of all stages of one sample above which nothing is recorded: half a GiB a backend."""

Values = Mapping[int, torch.Tensor]
"""The index of a stage -> what a backend computed there, for one sample."""


def errors_by_stage(
    session: Session, arbiter: GraphArbiter, row: int, python: PythonBackend
) -> dict[str, Any] | None:
    """What a manifest records of the stages, on one row; None where they can't be followed.

    Parameters
    ----------
    session
        A check whose backends were compared.
    arbiter
        Its arbiter.
    row
        Which sample.
    python
        The generated module, with what it computed at the stages.
    """
    if not arbiter.names("torch"):
        return None
    found = {"python": by_stage(python.traced, session.stages, "torch")} if python.traced else {}
    for result in session.report.backends:
        if result.name in ENGINES and result.samples:
            names = [stage.onnx for stage in session.stages if stage.onnx]
            backend = OnnxBackend(result.name, session.directory / "explainer.onnx")
            try:
                values = backend.values(session.truth.samples, Batch([row]), row, names)
            except BackendError:  # with all values as outputs it takes more memory
                continue
            found[result.name] = by_stage(values, session.stages, "onnx")
    off = measured(arbiter, session.stages, row, found)
    return {
        "sample": session.truth.samples.name(row),
        "rows": [
            {
                "label": stage.label,
                "flow": stage.flow,
                "kind": stage.kind,
                "float32": known(off[FLOAT32][index]),
                "allowed": known(allowance(off[FLOAT32][index], CEILING)),
                "errors": {name: known(off[name][index]) for name in found if index in off[name]},
            }
            for index, stage in enumerate(session.stages)
            if index in off[FLOAT32]
        ],
    }


def by_stage(values: Mapping[str, torch.Tensor], stages: Sequence[Stage], level: str) -> Values:
    """A backend's values by the index of their stage."""
    named = {i: stage.name if level == "torch" else stage.onnx for i, stage in enumerate(stages)}
    return {i: values[name] for i, name in named.items() if name is not None and name in values}


def measured(
    arbiter: GraphArbiter, stages: Sequence[Stage], row: int, found: Mapping[str, Values]
) -> dict[str, dict[int, float]]:
    """The error of each backend, and of the graph in float32, at each stage.

    The float64 values are compared as they come about: all at once they would need much memory.
    """
    lowered = arbiter.compiled.lowered
    nodes = stage_nodes(lowered, stages)
    single: dict[int, torch.Tensor] = {}
    off: dict[str, dict[int, float]] = {FLOAT32: {}, **{name: {} for name in found}}

    def keep(node: fx.Node, value: Any) -> None:
        single.update(dict.fromkeys(nodes.get(node, ()), value))

    def compare(node: fx.Node, value: Any) -> None:
        for index in nodes.get(node, ()):
            for name, values in {FLOAT32: single, **found}.items():
                own = values.get(index)
                if own is not None and own.numel() == value.numel():
                    off[name][index] = errors(own, value)[0]

    arbiter.explain(lowered, row, torch.float32, keep)
    arbiter.explain(lowered, row, torch.float64, compare)
    return off


def traced_row(session: Session, arbiter: GraphArbiter) -> int | None:
    """The sample that is followed from stage to stage: the first of the ledger, if there is one."""
    samples = session.report.ledger.get("samples") if session.sound else None
    entries = sum(math.prod(layer.shape) for layer in arbiter.compiled.layers)
    if not samples or 2 * entries > LARGEST or not arbiter.names("torch"):
        return None
    return session.report.samples.index(samples[0])
