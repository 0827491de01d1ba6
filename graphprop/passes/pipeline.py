"""The pipeline: runs the passes in order, verifies each one's result, times it, and dumps it.

Which passes run is plain data: `steps` is the list for a method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphprop.errors import VerificationError
from graphprop.ir.network import Network
from graphprop.ir.show import show
from graphprop.ir.verify import verify
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
        Takes the network (the first pass: a captured program), and returns the one to go on with:
        the same one, changed, or another.
    """

    name: str
    function: Callable[[Any], Network]


def silent(name: str) -> None:
    """Tell nobody about progress."""


@dataclass
class Pipeline:
    """Runs named steps, keeping what each took and, on demand, what it made.

    Attributes
    ----------
    seconds
        Pass -> the time it took.
    dump
        A folder for the printed network after each pass, or None.
    progress
        Called with the name of each pass before it runs.
    """

    dump: Path | None = None
    progress: Callable[[str], None] = silent
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, steps: Sequence[Step], start: Any) -> Any:
        """Run the steps, each on what the one before it gave."""
        current = start
        for step in steps:
            name = step.name
            self.progress(name)
            began = time.perf_counter()
            try:
                current = step.function(current)
                verify(current)
            except VerificationError as error:
                before = ", ".join(self.seconds) or "none"
                raise VerificationError(
                    f"the pass {name} (after: {before}) broke the network: {error}"
                ) from error
            self.seconds[name] = time.perf_counter() - began
            if self.dump is not None:
                self.dump.mkdir(parents=True, exist_ok=True)
                number = list(self.seconds).index(name) + 1
                (self.dump / f"{number:02}_{name}.txt").write_text(show(current))
        return current


def analysis_steps(
    method: Method,
    parameters: Mapping[str, Any],
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    output: str | int | None = None,
) -> list[Step]:
    """The passes from a captured program to a network in which every layer has its rule."""
    return [
        Step("canonicalize", lambda program: canonicalize(program, output)),
        Step("join_sums", join_sums),
        Step("fold_batchnorm", lambda n: fold_batchnorm(n, parameters["batch_norm"])),
        Step("infer_ranges", infer_ranges),
        Step("infer_layouts", infer_layouts),
        Step("tag_roles", lambda n: tag_roles(n, roles)),
        Step("find_layer", lambda n: find_layer(n, method, parameters)),
        Step("assign_rules", lambda n: assign_rules(n, method, parameters, rules)),
    ]
