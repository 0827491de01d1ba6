"""Run a generated ``explainer.py`` where graphprop can't be imported.

A script for a process of its own: ``python -I runner.py JOB``. JOB is a JSON file:

``directory``
    Where ``explainer.py`` and its weights lie.
``inputs``, ``output``
    Safetensors files: what to read, ``target`` among it (-1: the largest logit), and what to write.
``shapes``
    Those of the inputs, without the batch, where there are several: these are packed then.
``runs``
    A list; each has a ``name``, the ``input`` it reads, a ``dtype``, how many ``threads``, and
    ``rows``, a list of batches of samples. ``watch`` are local variables of ``forward`` to look at,
    ``keep`` says whether to write those whole or only to `measure` them, ``samples``, as
    ``[from, to]``, of which samples of a batch. With ``force``, the input ``force/<variable>``,
    where there is one, takes the place of the variable's value once that is written.

Each run writes ``<name>/logits`` and ``<name>/relevance``; of the watched variable number i,
``<name>/measure/<i>`` or ``<name>/value/<i>``.
"""

from __future__ import annotations

import ast
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SEED = 0


def pack(parts: Any) -> torch.Tensor:
    """Tensors ``[N, ...]`` as one, ``[N, total]``; one alone stays as it is."""
    if isinstance(parts, torch.Tensor):
        return parts
    return parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], 1)


def unpack(x: torch.Tensor, shapes: Any) -> list[torch.Tensor]:
    """The tensors that `pack` made one of, of these shapes without the batch."""
    if len(shapes) < 2:
        return [x]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = x.split(sizes, 1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


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
    """Is handed each local variable of ``forward`` when that is assigned."""

    def __init__(self, step: Mapping[str, Any], forced: Mapping[str, torch.Tensor]) -> None:
        self.names, self.keep, self.forced = set(step["watch"]), step["keep"], forced
        self.samples = slice(*step["samples"])
        self.seen: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, value: Any) -> Any:
        """Look at a value; returns what the variable shall hold."""
        if name not in self.names or not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point() or not value.dim():
            return value
        chosen = value.detach()[self.samples]
        self.seen[name] = chosen.clone() if self.keep else measure(chosen)
        forced = self.forced.get(name)
        if forced is None or forced.shape != value.shape:
            return value
        return forced.to(value.dtype)


def assigned(statement: ast.AST) -> list[str]:
    """The names that a statement assigns."""
    names = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def forward_of(tree: ast.AST) -> ast.FunctionDef | None:
    """The method ``forward`` of the class ``Explainer``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "Explainer":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "forward":
                    return method
    return None


def local_variables(source: str | bytes) -> list[str]:
    """The variables that ``Explainer.forward`` assigns, in order."""
    forward = forward_of(ast.parse(source))
    statements = forward.body if forward else []
    return list(dict.fromkeys(name for part in statements for name in assigned(part)))


def watched(source: bytes) -> ast.Module:
    """The source with a call of ``_watch`` after each assignment in ``forward``."""
    tree = ast.parse(source)
    forward = forward_of(tree)
    if forward is not None:
        body: list[ast.stmt] = []
        for statement in forward.body:
            body.append(statement)
            for name in assigned(statement):
                call = ast.parse(f"{name} = _watch({name!r}, {name})").body[0]
                for node in ast.walk(call):
                    ast.copy_location(node, statement)
                body.append(call)
        forward.body = body
    return tree


def load_explainer(directory: Path, dtype: torch.dtype, watch: Watch) -> Any:
    """Run ``explainer.py`` and load its weights."""
    file = directory / "explainer.py"
    module = ModuleType("explainer")
    module.__file__ = str(file)
    source = file.read_bytes()
    module.__dict__["_watch"] = watch
    code: Any = watched(source) if watch.names else source
    # not imported: that would leave a __pycache__ in the directory
    exec(compile(code, str(file), "exec", dont_inherit=True), module.__dict__)
    return module.load(dtype=dtype)


def run(
    explainer: Any, x: torch.Tensor, target: torch.Tensor, step: Any, watch: Watch, shapes: Any
) -> dict[str, torch.Tensor]:
    """Run batches of samples; returns what is written for one run, without its name."""
    collected: dict[str, list[torch.Tensor]] = {}
    kind = "value" if watch.keep else "measure"
    for batch in step["rows"]:
        watch.seen = {}
        with torch.no_grad():
            logits, relevance = explainer(*unpack(x[batch], shapes), target[batch])
        collected.setdefault("logits", []).append(logits)
        collected.setdefault("relevance", []).append(pack(relevance))
        for name, value in watch.seen.items():
            collected.setdefault(f"{kind}/{step['watch'].index(name)}", []).append(value)
    return {name: torch.cat(parts).contiguous().clone() for name, parts in collected.items()}


def resolved(explainer: Any, x: torch.Tensor, target: torch.Tensor, shapes: Any) -> torch.Tensor:
    """Targets with the class of the largest logit in place of -1."""
    result = target.clone()
    for index in (target < 0).nonzero().flatten().tolist():
        with torch.no_grad():
            logits = explainer(*unpack(x[index : index + 1], shapes))[0]
            result[index] = logits.flatten(1).reshape(logits.shape[1], -1).sum(1).argmax()
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
        forced = {
            name.removeprefix("force/"): value
            for name, value in tensors.items()
            if name.startswith("force/") and step["force"]
        }
        watch = Watch(step, forced)
        explainer = load_explainer(directory, dtype, watch)
        target = resolved(explainer, x, target, job["shapes"])
        found = run(explainer, x, target, step, watch, job["shapes"])
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
    except (Exception, SystemExit) as error:
        sys.exit(told(error))
