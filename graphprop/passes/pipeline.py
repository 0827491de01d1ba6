"""The pipeline: runs the passes in order, verifies each one's result, times it, and dumps it.

Which passes run is plain data: `steps` is the list for a method.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from graphprop.errors import MethodError, VerificationError, nearest
from graphprop.ir.network import Network
from graphprop.ir.show import show
from graphprop.ir.verify import verify
from graphprop.lowering.lower import lower
from graphprop.lowering.simplify import simplify
from graphprop.passes.assign_rules import RuleMap, assign_rules
from graphprop.passes.canonicalize import canonicalize
from graphprop.passes.find_layer import find_layer
from graphprop.passes.fold_batchnorm import fold_batchnorm
from graphprop.passes.infer_layouts import infer_layouts
from graphprop.passes.infer_ranges import infer_ranges
from graphprop.passes.join_sums import join_sums
from graphprop.passes.tag_roles import tag_roles
from graphprop.rules.registry import CHOICES, Method, one_of

Step = tuple[str, Callable[[Any], Any]]


def silent(name: str) -> None:
    """Tell nobody about progress."""


@dataclass
class Pipeline:
    """Runs named steps, keeping what each took and, on demand, what it made.

    Attributes
    ----------
    seconds
        Pass -> the time it took.
    fired
        How often each simplification fired.
    dump
        A folder for the printed network after each pass, or None.
    progress
        Called with the name of each pass before it runs.
    """

    dump: Path | None = None
    progress: Callable[[str], None] = silent
    seconds: dict[str, float] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)

    def run(self, steps: Sequence[Step], start: Any) -> Any:
        """Run the steps, each on what the one before it gave."""
        current = start
        for name, function in steps:
            self.progress(name)
            began = time.perf_counter()
            try:
                current = function(current)
                verify(current)
            except VerificationError as error:
                before = ", ".join(self.seconds) or "none"
                raise VerificationError(
                    f"the pass {name} (after: {before}) broke the network: {error}"
                ) from error
            self.seconds[name] = time.perf_counter() - began
            if self.dump is not None:
                self.dump.mkdir(parents=True, exist_ok=True)
                number = len(self.seconds)
                (self.dump / f"{number:02}_{name}.txt").write_text(show(current))
        return current

    def simplify(self, network: Network) -> Network:
        """Simplify, keeping count."""
        self.fired += simplify(network)
        return network


def analysis_steps(
    method: Method,
    parameters: Mapping[str, Any],
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    output: str | int | None = None,
) -> list[Step]:
    """The passes from a captured program to a network in which every layer has its rule."""
    return [
        ("canonicalize", lambda program: canonicalize(program, output)),
        ("join_sums", join_sums),
        ("fold_batchnorm", lambda n: fold_batchnorm(n, parameters["batch_norm"])),
        ("infer_ranges", infer_ranges),
        ("infer_layouts", infer_layouts),
        ("tag_roles", lambda n: tag_roles(n, roles)),
        ("find_layer", lambda n: find_layer(n, method, parameters)),
        ("assign_rules", lambda n: assign_rules(n, method, parameters, rules)),
    ]


def lowering_steps(pipeline: Pipeline, method: Method, parameters: Mapping[str, Any]) -> list[Step]:
    """The passes from there to the simplified graph of the explainer."""
    return [
        ("lower", lambda n: lower(n, method, parameters)),
        ("simplify", pipeline.simplify),
    ]


def resolve_parameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's parameters with the user's values in them.

    Raises
    ------
    MethodError
        If the method has no such parameter, or the value is of the wrong kind.
    """
    parameters = method.defaults
    for name, value in given.items():
        if name not in parameters:
            raise MethodError(
                f"the method {method.name!r} has no parameter {name!r}: {nearest(name, parameters)}"
            )
        default = parameters[name]
        if name == "start" and value == 1 and isinstance(value, int):
            value = "one"
        if default in CHOICES.get(name, ()):
            one_of(name, value)
        if isinstance(value, str) and (name, value) in method.refused:
            reason = method.refused[name, value]
            raise MethodError(f"{method.name!r} can't have {name}={value}: {reason}")
        number = isinstance(default, int | float) and not isinstance(default, bool)
        number = number and name not in method.arrays
        if number and not (isinstance(value, int | float) and not isinstance(value, bool)):
            raise MethodError(f"the parameter {name!r} is a number, not {value!r}")
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if name in method.limits and isinstance(default, int) and value % 1:
            raise MethodError(f"{name} is a whole number, not {value:g}")
        low, high = method.limits.get(name, (-inf, inf))
        if number and not low <= value <= high:
            raise MethodError(f"{name} lies between {low:g} and {high:g}, not {value:g}")
        parameters[name] = value
    for switch, settings in method.switches.items():
        if parameters[switch]:
            parameters.update({k: v for k, v in settings.items() if k not in given})
    return parameters
