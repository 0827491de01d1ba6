"""Compiled directories as explainers, and what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprop.artifact.engines import load_explainer
from graphprop.artifact.manifest import read_manifest
from graphprop.errors import InputError
from graphprop.evaluation.sample import Explainer
from graphprop.pictures.explain import refuse_rejected
from graphprop.pictures.preprocessing import Preprocessing


@dataclass
class ModuleExplainer:
    """A compiled module as an explainer that stores nothing for gradients.

    Attributes
    ----------
    module
        Called as ``(x, target) -> (logits, relevance)``.
    network
        The network alone, ``x -> logits``, where it is at hand: perturbed pictures then need no
        relevance.
    """

    module: torch.nn.Module
    network: torch.nn.Module | None = None

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and relevance."""
        with torch.no_grad():
            result: tuple[torch.Tensor, torch.Tensor] = self.module(x, target)
        return result

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]``."""
        with torch.no_grad():
            if self.network is None:
                result: torch.Tensor = self.module(x, None)[0]
            else:
                result = self.network(x)
        return result

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights."""
        self.module.load_state_dict(state)


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
    """

    explainers: dict[str, Explainer]
    preprocessing: Preprocessing
    classes: int
    identity: dict[str, Any]


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
    facts = [(Preprocessing.of(m), m["classes"]) for m in manifests]
    for directory, other in zip(directories, facts, strict=True):
        if other != facts[0]:
            raise InputError(
                f"{directory} and {directories[0]} can't be compared: they take different "
                f"pictures or have different classes ({other} and {facts[0]})"
            )
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
    )
