"""Compiled directories as explainers, and what they have in common."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprop.artifact.engines import load_explainer
from graphprop.artifact.manifest import read_manifest
from graphprop.errors import InputError
from graphprop.evaluation.sample import Explainer
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sources import refuse_rejected


class LogitsOf(torch.nn.Module):
    """A compiled module without its relevance."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]``."""
        result: torch.Tensor = self.module(x, None)[0]
        return result


def forward_part(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """The part of a compiled module that computes logits.

    Tracing drops what they don't depend on, which is most of the work. A trace is of one batch
    size: it is used only if it agrees with the module on others.

    Parameters
    ----------
    module
        Called as ``(x, target) -> (logits, relevance)``.
    x
        Pictures ``[N, C, H, W]``.
    """
    complete = LogitsOf(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that become constants: compared below
            traced: torch.nn.Module = torch.jit.trace(complete, x, check_trace=False)
        for other in (x[:1], torch.cat([x, x.flip(-1), x.flip(-2)])):
            found, expected = traced(other), complete(other)
            if found.shape != expected.shape or not torch.allclose(
                found, expected, rtol=1e-4, atol=1e-5, equal_nan=True
            ):
                return complete
    except Exception:  # whatever the tracer can't do, the module can
        return complete
    return traced


@dataclass
class ModuleExplainer:
    """A compiled module as an explainer that stores nothing for gradients.

    Attributes
    ----------
    module
        Called as ``(x, target) -> (logits, relevance)``.
    """

    module: torch.nn.Module
    forward: torch.nn.Module | None = field(default=None, init=False, repr=False)

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and relevance."""
        with torch.no_grad():
            result: tuple[torch.Tensor, torch.Tensor] = self.module(x, target)
        return result

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]``."""
        with torch.no_grad():
            if self.forward is None:
                self.forward = forward_part(self.module, x)
            result: torch.Tensor = self.forward(x)
        return result

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights."""
        self.module.load_state_dict(state)
        self.forward = None


@dataclass(frozen=True)
class Opened:
    """Explainers that take the same pictures.

    Attributes
    ----------
    explainers
        By name.
    preprocessing, classes
        What all of them have.
    identity
        What tells each from others of the same name.
    class_names
        The names of the classes, where they are known.
    """

    explainers: dict[str, Explainer]
    preprocessing: Preprocessing
    classes: int
    identity: dict[str, Any]
    class_names: Sequence[str] | None = None


def open_directories(directories: Sequence[Path]) -> Opened:
    """Load compiled directories; their code is run.

    Each is called by its method where the methods differ, else by the folder's name.

    Raises
    ------
    InputError
        If they don't take the same pictures, or have different classes.
    OutputError
        If one isn't a compiled directory, failed its check, or doesn't work.
    """
    manifests = [read_manifest(directory) for directory in directories]
    for directory, manifest in zip(directories, manifests, strict=True):
        refuse_rejected(directory, manifest)
    facts = [(Preprocessing.of_arrays(m), m["classes"]) for m in manifests]
    for directory, other in zip(directories, facts, strict=True):
        if other != facts[0]:
            raise InputError(
                f"{directory} and {directories[0]} can't be compared: they take different "
                f"pictures or have different classes ({other} and {facts[0]})"
            )
    class_names: Sequence[str] | None = None
    for directory, manifest in zip(directories, manifests, strict=True):
        own = manifest.get("class_names")
        if own is not None and class_names is not None and own != class_names:
            raise InputError(f"{directory} has other names of classes than those before it")
        class_names = own if class_names is None else class_names
    methods = [str(manifest["method"]) for manifest in manifests]
    names = methods
    if len(set(methods)) < len(methods):
        names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice")
    modules = [load_explainer(directory) for directory in directories]
    explainers: dict[str, Explainer] = {
        name: ModuleExplainer(module) for name, module in zip(names, modules, strict=True)
    }
    preprocessing, classes = facts[0]
    return Opened(
        explainers,
        preprocessing,
        classes,
        {name: m["files"] for name, m in zip(names, manifests, strict=True)},
        class_names,
    )
