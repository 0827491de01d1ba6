"""Run a generated ``explainer.py`` where graphprop can't be imported.

A script for a process of its own: ``python -I runner.py JOB``. JOB is a JSON file:

``directory``
    Where ``explainer.py`` and its weights lie.
``inputs``, ``output``
    Safetensors files: what to read, ``target`` among it (-1: the largest logit), and what to write.
``runs``
    A list; each has a ``name``, the ``input`` it reads, a ``dtype``, how many ``threads``,
    ``rows``, a list of batches of samples, ``watch``, the local variables of ``forward`` to look
    at, and ``keep``: whether to write those whole or only to `measure` them.

Each run writes ``<name>/logits`` and ``<name>/relevance``; of the watched variable number i,
``<name>/measure/<i>`` or ``<name>/value/<i>``.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SEED = 0


class NoGraphprop:
    """Refuses to import graphprop: what is generated stands alone."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Let every other module be found by whoever comes next."""
        if name.partition(".")[0] == "graphprop":
            raise ImportError("the generated module imports graphprop, which it must not need")


def measure(value: torch.Tensor) -> torch.Tensor:
    """Sum, sum of magnitudes, norm, and product with a fixed random vector of each sample."""
    flat = value.detach().flatten(1).double()
    generator = torch.Generator().manual_seed(SEED)
    vector = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    return torch.stack([flat.sum(1), flat.abs().sum(1), flat.norm(dim=1), flat @ vector], 1)


class Watch:
    """Sees local variables of a function while it runs, before it deletes them."""

    def __init__(self, function: Any, names: list[str], keep: bool) -> None:
        self.code, self.keep = function.__code__, keep
        self.waiting = dict.fromkeys(names)
        self.seen: dict[str, torch.Tensor] = {}

    def __enter__(self) -> Watch:
        if self.waiting:
            sys.settrace(self._entered)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._look if frame.f_code is self.code else None

    def _look(self, frame: FrameType, event: str, argument: Any) -> Any:
        variables = frame.f_locals
        for name in [name for name in self.waiting if name in variables]:
            del self.waiting[name]
            value = variables[name]
            if isinstance(value, torch.Tensor) and value.dim():
                self.seen[name] = value.detach().clone() if self.keep else measure(value)
        return self._look


def load_explainer(directory: Path, dtype: torch.dtype) -> Any:
    """Run ``explainer.py`` and load its weights."""
    file = directory / "explainer.py"
    module = ModuleType("explainer")
    module.__file__ = str(file)
    # not imported: that would leave a __pycache__ in the directory
    exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
    return module.load(dtype=dtype)


def run(explainer: Any, x: torch.Tensor, target: torch.Tensor, step: Any) -> Any:
    """Run batches of samples; returns what is written for one run, without its name."""
    collected: dict[str, list[torch.Tensor]] = {}
    for batch in step["rows"]:
        with torch.no_grad(), Watch(type(explainer).forward, step["watch"], step["keep"]) as watch:
            logits, relevance = explainer(x[batch], target[batch])
        collected.setdefault("logits", []).append(logits)
        collected.setdefault("relevance", []).append(relevance)
        kind = "value" if step["keep"] else "measure"
        for name, value in watch.seen.items():
            index = step["watch"].index(name)
            collected.setdefault(f"{kind}/{index}", []).append(value)
    return {name: torch.cat(parts).contiguous().clone() for name, parts in collected.items()}


def resolved(explainer: Any, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Targets with the class of the largest logit in place of -1."""
    result = target.clone()
    for index in (target < 0).nonzero().flatten().tolist():
        with torch.no_grad():
            result[index] = explainer(x[index : index + 1])[0].argmax()
    return result


def main(job: dict[str, Any]) -> None:
    """Do a job."""
    directory, tensors = Path(job["directory"]), load_file(job["inputs"])
    target = tensors.pop("target")
    written: dict[str, torch.Tensor] = {}
    for step in job["runs"]:
        torch.set_num_threads(step["threads"])
        dtype = getattr(torch, step["dtype"])
        x = tensors[step["input"]].to(dtype)
        explainer = load_explainer(directory, dtype)
        target = resolved(explainer, x, target)
        found = run(explainer, x, target, step)
        written |= {f"{step['name']}/{name}": value for name, value in found.items()}
        del explainer
    save_file(written | {"target": target}, job["output"])


def told(error: BaseException) -> str:
    """An error as one line, with the line of ``explainer.py`` it comes from."""
    text = str(error).strip().partition("\n")[0]
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == "explainer.py"
    ]
    place = f" (explainer.py, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}"


if __name__ == "__main__":
    sys.meta_path.insert(0, NoGraphprop())
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except Exception as error:
        sys.exit(told(error))
