"""What is compared with the arbiter: the generated module, and the ONNX file on its engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphprop.checking.backends import (
    OnnxFile,
    OnnxReference,
    OnnxRuntime,
    Step,
    other_maps,
    run_module,
    takes_largest,
)
from graphprop.checking.probes import Batch, Probes
from graphprop.checking.runner import pack, unpack
from graphprop.checking.web import WebAssembly, WebGpu

ENGINES: Mapping[str, type[OnnxFile]] = {
    "onnxruntime": OnnxRuntime,
    "onnx.reference": OnnxReference,
    "web": WebAssembly,
    "webgpu": WebGpu,
}


class Backend:
    """What is compared with the arbiter.

    Attributes
    ----------
    level
        Which graph it was printed from: ``"torch"`` or ``"onnx"``.
    largest
        How it is asked for the largest logit, see `graphprop.checking.probes.plan`.
    """

    level: str
    largest = "none"

    def run(self, samples: Probes, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and relevance of all rows of all batches."""
        raise NotImplementedError

    def values(
        self, samples: Probes, batch: Batch, row: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The values with these names for one row, ``logits`` and ``relevance`` among them."""
        raise NotImplementedError


class PythonBackend(Backend):
    """The generated module as ``load()`` gives it to users, in float32.

    Parameters
    ----------
    directory
        Where it lies.
    device
        Where it runs.
    trace
        A row, and the names of values: what they are for that row is in ``traced`` after `run`.
        Its process starts once for both.
    """

    level = "torch"

    def __init__(
        self,
        directory: Path,
        device: str = "cpu",
        trace: tuple[int, Sequence[str]] | None = None,
    ) -> None:
        self.directory, self.device, self.trace = directory, device, trace
        self.traced: dict[str, torch.Tensor] = {}

    def _run(self, explained: Probes, *others: Step, **step: Any) -> dict[str, torch.Tensor]:
        steps = [Step("python", keep=True, device=self.device, **step), *others]
        return run_module(self.directory, explained.tensors, steps, explained.shapes)

    def run(self, samples: Probes, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        others, watch = [], []
        if self.trace is not None:
            row, names = self.trace
            watch = list(dict.fromkeys(names))
            one = [Batch([row])]
            others = [Step("trace", batches=one, watch=watch, keep=True, device=self.device)]
        found = self._run(samples, *others, batches=list(batches))
        if others:
            self.traced = named(found, "trace", watch)
            self.traced |= {name: found[f"trace/{name}"] for name in ("logits", "relevance")}
        return found["python/logits"], found["python/relevance"]

    def values(
        self, samples: Probes, batch: Batch, row: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        place = batch.rows.index(row)
        watch = list(dict.fromkeys(names))
        found = self._run(samples, batches=[batch], watch=watch, samples=(place, place + 1))
        values = named(found, "python", watch)
        # what is returned counts, not a variable of the same name
        for name in ("logits", "relevance"):
            values[name] = found[f"python/{name}"][place : place + 1]
        first, *others = unpack(values["relevance"], samples.shapes)
        values["relevance"] = first
        return values | {f"relevance_{place}": part for place, part in enumerate(others, 2)}


def named(
    found: Mapping[str, torch.Tensor], step: str, watch: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The values that a step watched, by name."""
    keys = {name: f"{step}/value/{index}" for index, name in enumerate(watch)}
    return {name: found[key] for name, key in keys.items() if key in found}


class OnnxBackend(Backend):
    """The ONNX file on one of the engines."""

    level = "onnx"

    def __init__(self, name: str, path: Path, device: str = "cpu") -> None:
        self.engine, self.path, self.device = ENGINES[name], path, device
        self.largest = "largest" if takes_largest(path) else "class"

    def run(self, samples: Probes, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        session = self.engine(self.path, device=self.device)
        found = session.run_batches(samples, batches)
        results = {
            name: torch.cat([torch.from_numpy(part[name]) for part in found]) for name in found[0]
        }
        maps = [results[name] for name in ("relevance", *other_maps(samples))]
        return results["logits"], pack(maps)

    def values(
        self, samples: Probes, batch: Batch, row: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        found = self.engine(self.path, names, self.device).run(samples, batch)
        place = batch.rows.index(row)
        return {
            name: torch.from_numpy(value[place : place + 1].copy())
            for name, value in found.items()
            if len(value.shape) and len(value) == len(batch.rows)
        }
