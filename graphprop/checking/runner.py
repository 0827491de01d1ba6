"""Run a generated ``explainer.py`` where graphprop can't be imported.

A script for a process of its own: ``python -I runner.py JOB``. JOB is a JSON file:

``directory``
    Where ``explainer.py`` and its weights lie.
``inputs``, ``output``
    Safetensors files: what to read, ``target`` among it (-1: the largest logit, -2: the next of the
    rows of ``weights``), and what to write.
``shapes``
    Those of the inputs, without the batch, where there are several: these are packed then.
``runs``
    A list; each has a ``name``, the ``input`` it reads, a ``dtype`` (None: as ``load()`` gives it),
    how many ``threads``, and ``batches``, a list of ``rows`` and a ``target``, see
    `graphprop.checking.probes.Batch`. ``watch`` are local variables of ``forward`` to look at
    (and of functions that it calls, as `local_variables` names them),
    ``keep`` says whether to write all of them or only to `measure` them, ``samples``, as
    ``[from, to]``, of which samples of a batch. With ``force``, the input ``force/<variable>``,
    where there is one, takes the place of the variable's value once that is written; with
    ``judge``, it is compared with the value first, see `graphprop.checking.bounds`. ``device`` is
    where it runs; without ``guard``, results that aren't numbers are returned as they are.

Each run writes ``<name>/logits`` and ``<name>/relevance``; of the watched variable number i,
``<name>/measure/<i>``, ``<name>/value/<i>`` or ``<name>/verdict/<i>``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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


def by_path(path: str) -> ModuleType:
    """A module of graphprop by its path in the package, which can't be imported here."""
    name = f"graphprop_alone_{Path(path).stem}"
    if name not in sys.modules:
        place = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / path)
        assert place is not None
        assert place.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(place)
        place.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def bounds() -> Any:
    """`graphprop.checking.bounds`."""
    return by_path("checking/bounds.py")


def running() -> Any:
    """`graphprop.artifact.running`."""
    return by_path("artifact/running.py")


class Watch:
    """Is handed each local variable of ``forward`` when that is assigned."""

    def __init__(self, step: Mapping[str, Any], forced: Mapping[str, torch.Tensor]) -> None:
        self.names, self.keep, self.forced = set(step["watch"]), step["keep"], forced
        self.samples = slice(*step["samples"])
        self.seen: dict[str, torch.Tensor] = {}
        self.result = self.function = ""
        self.running: Any = bounds().RunningBounds() if step["judge"] else None
        self.kind = "verdict" if step["judge"] else "value" if self.keep else "measure"

    def judge(self, name: str, value: torch.Tensor) -> None:
        """Compare a backend's value with the one that follows from the values before it."""
        own = self.forced.get(name)
        if own is not None and own.shape == value.shape:
            found = bounds().judge(own, value, self.running.of(value))
            numbers = (found.error, found.allowed, found.drift, found.drift_allowed)
            self.seen[name] = torch.tensor([numbers], dtype=torch.float64)

    def within(self, result: str, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call a function that gives a variable of ``forward`` its value."""
        self.result, self.function = result, function.__name__
        try:
            return function(*arguments, **options)
        finally:
            self.result = self.function = ""

    def inner(self, function: str, name: str, value: Any) -> Any:
        """Look at a value of the function that is called, not of one that it calls itself."""
        return self(f"{self.result}.{name}", value) if function == self.function else value

    def __call__(self, name: str, value: Any) -> Any:
        """Look at a value; returns what the variable shall hold."""
        if name not in self.names or not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point() or not value.dim():
            return value
        if self.running is not None:
            self.judge(name, value)
        else:
            chosen = value.detach()[self.samples]
            self.seen[name] = chosen.cpu().clone() if self.keep else measure(chosen.cpu())
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


def called(statement: ast.stmt, functions: Mapping[str, ast.FunctionDef]) -> str | None:
    """The function of the module that a statement assigns the results of, if it is such a call."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return None
    function = statement.value.func
    return function.id if isinstance(function, ast.Name) and function.id in functions else None


def functions_of(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions of a module, by name."""
    return {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}


def local_variables(source: str | bytes) -> list[str]:
    """The variables that ``Explainer.forward`` assigns, in order.

    Before the results of a function of the module that it calls come the variables which that
    assigns, as ``result.variable``, by the first result.
    """
    tree = ast.parse(source)
    forward, functions = forward_of(tree), functions_of(tree)
    found: list[str] = []
    for statement in forward.body if forward else []:
        names, function = assigned(statement), called(statement, functions)
        if function is not None and names:
            inner = (n for part in plain(functions[function]) for n in assigned(part))
            found += [f"{names[0]}.{name}" for name in inner]
        found += names
    return list(dict.fromkeys(found))


def plain(function: ast.FunctionDef) -> list[ast.stmt]:
    """The statements of a function that are run once whenever it is called."""
    return [part for part in function.body if isinstance(part, ast.Assign)]


def watched(source: bytes) -> ast.Module:
    """The source with a call of ``_watch`` after each assignment in ``forward``.

    So are the functions that it calls: there, ``_watch.inner`` is called.
    """
    tree = ast.parse(source)
    forward, functions = forward_of(tree), functions_of(tree)
    if forward is None:
        return tree
    entered = {name for part in forward.body if (name := called(part, functions)) is not None}
    for statement in forward.body:
        if called(statement, functions) is not None and assigned(statement):
            within(statement, assigned(statement)[0])
    forward.body = looked_at(forward.body, "_watch(")
    for name in entered:
        function = functions[name]
        assignments = set(plain(function))
        body: list[ast.stmt] = []
        for statement in function.body:
            inner = f"_watch.inner({name!r}, " if statement in assignments else None
            body += looked_at([statement], inner)
        function.body = body
    return tree


def within(statement: Any, result: str) -> None:
    """Let a call of a function be made by ``_watch.within``, with the name of what it gives."""
    call = statement.value
    other = ast.parse(f"_watch.within({result!r})", mode="eval").body
    assert isinstance(other, ast.Call)
    other.args += [call.func, *call.args]
    other.keywords = call.keywords
    for node in (other, other.func, other.args[0]):
        ast.copy_location(node, call)
        for part in ast.walk(node):
            if not hasattr(part, "lineno") and isinstance(part, ast.expr):
                ast.copy_location(part, call)
    statement.value = ast.fix_missing_locations(other)


def looked_at(statements: Sequence[ast.stmt], watch: str | None) -> list[ast.stmt]:
    """Statements, each followed by a call that begins so for every variable it assigns."""
    body: list[ast.stmt] = []
    for statement in statements:
        body.append(statement)
        for name in assigned(statement) if watch else ():
            call = ast.parse(f"{name} = {watch}{name!r}, {name})").body[0]
            for node in ast.walk(call):
                ast.copy_location(node, statement)
            body.append(call)
    return body


def load_explainer(
    directory: Path, step: Mapping[str, Any], dtype: torch.dtype | None, watch: Watch
) -> torch.nn.Module:
    """Run ``explainer.py`` and load its weights."""
    file = directory / "explainer.py"
    code = watched(file.read_bytes()) if watch.names else None
    module = running().run_file(file, code, _watch=watch)
    if not step["guard"]:
        module.__dict__["check_finite"] = lambda *results: None
    # called as users call it, where nothing is asked for
    asked = {} if dtype is None else {"dtype": dtype}
    asked |= {} if step["device"] == "cpu" else {"device": step["device"]}
    explainer: torch.nn.Module = module.load(**asked)
    return explainer


def target_of(kind: str, rows: Any, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """What a batch is asked to explain; ``"auto"`` is what its first row says."""
    target = tensors["target"]
    if kind == "auto":
        first = int(target[rows[0]])
        kind = {-1: "none", -2: "weights"}.get(first, "class")
    if kind == "none":
        return None
    if kind == "largest":
        return torch.full_like(target[rows], -1)
    if kind == "weights":
        start = len(target) - len(tensors["weights"])
        return tensors["weights"][[row - start for row in rows]]
    return target[rows]


def run(
    explainer: Any, tensors: dict[str, torch.Tensor], step: Any, watch: Watch, shapes: Any
) -> dict[str, torch.Tensor]:
    """Run batches of samples; returns what is written for one run, without its name."""
    collected: dict[str, list[torch.Tensor]] = {}
    x = tensors[step["input"]]
    # a model in double precision takes inputs of double precision
    own = (b.dtype for b in explainer.buffers() if b.is_floating_point())
    x = x.to(next(own, x.dtype) if step["dtype"] is None else getattr(torch, step["dtype"]))
    x = x.to(step["device"])
    for batch in step["batches"]:
        watch.seen = {}
        rows = batch["rows"]
        target = target_of(batch["target"], rows, tensors)
        if target is not None and target.is_floating_point():
            target = target.to(x.dtype)
        with torch.no_grad(), watch.running or nullcontext():
            logits, relevance = explainer(*unpack(x[rows], shapes), target)
            logits, relevance = logits.cpu(), pack(relevance).cpu()
        if watch.running is not None:
            for name, value in (("return logits", logits), ("return relevance", relevance)):
                watch.judge(name, value)
        if target is None:
            chosen = logits.unsqueeze(2).flatten(2).sum(2).argmax(1)
            asked = tensors["target"][rows]
            tensors["target"][rows] = chosen.where(asked == -1, asked)
        collected.setdefault("logits", []).append(logits)
        collected.setdefault("relevance", []).append(relevance)
        for name, value in watch.seen.items():
            collected.setdefault(f"{watch.kind}/{step['watch'].index(name)}", []).append(value)
    return {name: torch.cat(parts).contiguous().clone() for name, parts in collected.items()}


def main(job: dict[str, Any]) -> None:
    """Do a job."""
    # single precision is judged, not what a GPU would round to 11 digits of it
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    directory, tensors = Path(job["directory"]), load_file(job["inputs"])
    written: dict[str, torch.Tensor] = {}
    before = torch.get_num_threads()
    for step in job["runs"]:
        torch.set_num_threads(step["threads"])
        forced = {
            name.removeprefix("force/"): value
            for name, value in tensors.items()
            if name.startswith("force/") and step["force"]
        }
        watch = Watch(step, forced)
        dtype = None if step["dtype"] is None else getattr(torch, step["dtype"])
        with watch.running or nullcontext():
            explainer = load_explainer(directory, step, dtype, watch)
        found = run(explainer, tensors, step, watch, job["shapes"])
        written |= {f"{step['name']}/{name}": value for name, value in found.items()}
        del explainer
    torch.set_num_threads(before)
    save_file(written | {"target": tensors["target"]}, job["output"])


def error_text(error: BaseException, file: Path) -> str:
    """An error as one line, with the line of ``explainer.py`` it comes from."""
    text, number = str(error).strip().partition("\n")[0], running().line_of(error, file)
    place = f" (explainer.py, line {number})" if number else ""
    return f"{type(error).__name__}: {text}{place}"


if __name__ == "__main__":
    sys.meta_path.insert(0, NoGraphprop())
    job = json.loads(Path(sys.argv[1]).read_text())
    try:
        main(job)
    except (Exception, SystemExit) as error:
        sys.exit(error_text(error, Path(job["directory"]) / "explainer.py"))
