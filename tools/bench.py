"""Measure compiled explainers: time and memory, beside other tools, the forward pass and a bound.

    python tools/bench.py --models vgg16,resnet50 --methods epsilon_plus_flat --json bench.json

For each model and method these run on the same weights and inputs:

- ``forward``: the model as it is written, on inputs with the channels first;
- ``torch``: ``explainer.py``, and ``onnx``: ``explainer.onnx`` in ONNX Runtime, on the CPU;
- ``zennit``: its composite of the same name, on torchvision's model of the same name, registered
  once and outside of what is timed;
- ``captum``: its LRP, each layer with captum's nearest rule.

Whatever can't run is left out, and the reason stands under the table. The bound is what the
convolution-sized operations that the rules need would take at the speed of the forward pass: the
multiply-accumulates of the explainer over those of its forward part.

Machines are shared and noisy. The contestants therefore take turns within each repeat, ratios are
between the fastest runs, and what is timed on one thread is processor time, which other
processes disturb least. Memory is the peak of a process of its own, weights included.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import importlib.util
import inspect
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import fx, nn
from torch.export import Dim
from torchvision_schemas import define_torchvision_operators

import graphprop
from graphprop.api import CompiledExplainer
from graphprop.artifact.manifest import read_manifest
from graphprop.emit.python import heading_of
from graphprop.frontend.load import LoadedModel, load_source
from graphprop.ir.facts import facts_of
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.ops import Conv, ConvTranspose, Linear, LinearTranspose

ROOT = Path(__file__).resolve().parent.parent
JSON_VERSION = 1
"""The version of what --json writes."""
PACKAGES = ("torch", "onnxruntime", "torchvision", "zennit", "captum")
MIB = 2**20

Run = Callable[[], Any]


class LeftOut(Exception):
    """A contestant can't run here; the text says why."""


@dataclass
class Case:
    """A model and a method, with the directory that the explainer was written to."""

    model: str
    method: str
    batch: int
    threads: int
    directory: Path

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, by the name of its file in ``models/`` or by any other source."""
        return load_source(source_of(self.model))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was compiled."""
        return read_manifest(self.directory)

    @cached_property
    def x(self) -> torch.Tensor:
        """The inputs: noise, the same each time."""
        draw = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *self.manifest["input_shape"], generator=draw)

    @cached_property
    def target(self) -> torch.Tensor:
        """A class for each input."""
        return torch.arange(self.batch) % self.manifest["classes"]

    def torchvision_model(self) -> nn.Module:
        """Build torchvision's model of the same name, with the same weights."""
        models = imported("torchvision.models")
        name = self.loaded.name
        if not hasattr(models, name):
            raise LeftOut(f"torchvision has no model {name}")
        model: nn.Module = getattr(models, name)()
        try:
            model.load_state_dict(self.loaded.model.state_dict())
        except RuntimeError as error:
            raise LeftOut(f"torchvision's {name} has other weights: {first_line(error)}") from error
        return model.eval()


def source_of(model: str) -> str:
    """What `load_source` takes for a model that is named after its file."""
    file = ROOT / "models" / f"{model}.py"
    return str(file) if file.exists() else model


# The contestants: each loads what it needs for a case, and gives what is to be measured.


def forward(case: Case) -> Run:
    """The model itself."""
    model = case.loaded.model
    return lambda: model(case.x)


def torch_explainer(case: Case) -> Run:
    """The generated module."""
    spec = importlib.util.spec_from_file_location("explainer", case.directory / "explainer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    explainer = module.load()
    return lambda: explainer(case.x, case.target)


def onnx_explainer(case: Case) -> Run:
    """``explainer.onnx`` in ONNX Runtime."""
    session = onnx_session(case)
    inputs = {"input": case.x.numpy(), "target": case.target.numpy()}
    return lambda: session.run(None, inputs)


def onnx_session(case: Case, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """A session of ``explainer.onnx``; with a prefix for a file, one that keeps a profile."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(
        case.directory / "explainer.onnx", options, providers=["CPUExecutionProvider"]
    )


def zennit(case: Case) -> Run:
    """The composite of the same name in zennit."""
    model = case.torchvision_model()
    composites = imported("zennit.composites")
    make = composites.COMPOSITES.get(case.method)
    if make is None:
        raise LeftOut(f"zennit has no composite {case.method}")
    wanted = inspect.signature(make).parameters
    options: dict[str, Any] = {"canonizers": zennit_canonizers(case.loaded.name)}
    for bound, value in (("low", case.x.amin()), ("high", case.x.amax())):
        if bound in wanted:
            options[bound] = value.expand_as(case.x)
    gradient = imported("zennit.attribution").Gradient
    attributor = gradient(model, make(**options)).__enter__()

    def start(logits: torch.Tensor) -> torch.Tensor:
        return logits * nn.functional.one_hot(case.target, logits.shape[1])

    return lambda: attributor(case.x, start)


def zennit_canonizers(model: str) -> list[Any]:
    """What makes a torchvision model fit for zennit."""
    canonizers = imported("zennit.torchvision")
    if model.startswith(("resnet", "resnext", "wide_resnet")):
        return [canonizers.ResNetCanonizer()]
    return [canonizers.VGGCanonizer()] if model.startswith("vgg") else []


CAPTUM_RULES: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "epsilon": ("EpsilonRule", (1e-6,)),
    "z": ("EpsilonRule", ()),
    "z_plus": ("Alpha1_Beta0_Rule", ()),
    "gamma": ("GammaRule", ()),
    # captum has no flat rule: one that takes as long stands in for it
    "flat": ("Alpha1_Beta0_Rule", ()),
}
"""Rule -> captum's nearest, and its arguments."""


def captum(case: Case) -> Run:
    """LRP as captum does it; it takes the rules off the modules after each call."""
    lrp = imported("captum.attr").LRP
    known = imported("captum.attr._utils.lrp_rules")
    model = copy.deepcopy(case.loaded.model)
    chosen: dict[nn.Module, Any] = {}
    modules = dict(model.named_modules())
    for layer in case.manifest["layers"]:
        module = modules.get(layer["path"])
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            continue
        rule = str(layer["rule"]).partition("(")[0]
        if rule not in CAPTUM_RULES:
            raise LeftOut(f"captum has no rule {rule}")
        name, arguments = CAPTUM_RULES[rule]
        chosen[module] = lambda name=name, arguments=arguments: getattr(known, name)(*arguments)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # its hooks forbid it

    def run(rows: slice = slice(None)) -> Any:
        for module, make in chosen.items():
            module.rule = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that inputs now require a gradient
            return lrp(model).attribute(case.x[rows].clone(), target=case.target[rows])

    try:
        total = float(run(slice(0, 1)).detach().sum())
    except Exception as error:
        raise LeftOut(f"captum fails: {first_line(error)}") from error
    with torch.no_grad():
        logit = float(model(case.x[:1])[0, case.target[0]])
    if not abs(total) <= 10 * abs(logit):
        raise LeftOut(
            f"captum's relevance adds up to {total:.4g} for a logit of {logit:.4g}: "
            "it sees no functional add, and no module used twice"
        )
    return run


CONTESTANTS: Mapping[str, Callable[[Case], Run]] = {
    "forward": forward,
    "torch": torch_explainer,
    "onnx": onnx_explainer,
    "zennit": zennit,
    "captum": captum,
}


def imported(name: str) -> Any:
    """Import a module that need not be there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LeftOut(f"{name.split('.')[0]} can't be imported: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


# The bound.


@dataclass
class Bound:
    """What the rules need, in units of the forward pass.

    Attributes
    ----------
    work
        Multiply-accumulates of the explainer over those of its forward part.
    operations
        How many operations of the size of a layer's own it takes, for most layers.
    """

    work: float
    operations: int


def bound(legal: Network) -> Bound:
    """Count the weighted operations of a legal graph."""
    sizes: dict[str, list[int]] = {}
    for node in legal.layers:
        weighted = isinstance(node.target, Conv | ConvTranspose | Linear | LinearTranspose)
        if weighted and facts_of(node).batched:
            # a layer's own operation comes first: that of the forward part
            sizes.setdefault(facts_of(node).label, []).append(multiplications(node))
    total = sum(map(sum, sizes.values()))
    counts = Counter(sum(2 * size > own for size in (own, *rest)) for own, *rest in sizes.values())
    return Bound(total / sum(own for own, *_ in sizes.values()), counts.most_common(1)[0][0])


def multiplications(node: fx.Node) -> int:
    """Multiply-accumulates for one sample: each number of the large side meets a row of weights."""
    given, weight = facts_of(node.args[0]).value, facts_of(node.args[1]).value
    through = isinstance(node.target, ConvTranspose | LinearTranspose)
    numbers = prod((given if through else facts_of(node).value).shape[1:])
    return int(numbers * prod(weight.shape[1:]))


# Time and memory.


def race(runs: Mapping[str, Run], repeats: int, threads: int) -> dict[str, list[float]]:
    """Let all take turns; the seconds of each one's runs, after one that does not count."""
    clock = processor_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = clock()
            run()
            if turn:
                seconds[name].append(clock() - began)
            gc.collect()
    return seconds


def processor_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


def ready(name: str, case: Case) -> Run:
    """A contestant ready to run; with gradients only where it works by them."""
    run = CONTESTANTS[name](case)
    return run if name in ("zennit", "captum") else torch.no_grad()(run)


def memory(name: str, case: Case) -> float:
    """Measure a contestant's peak memory in a process of its own, in MiB."""
    if not Path("/proc/self/clear_refs").exists():
        raise LeftOut("it is read from /proc/self")
    command = [sys.executable, __file__, "--models", case.model, "--methods", case.method]
    command += ["--batch", str(case.batch), "--threads", str(case.threads)]
    command += ["--memory-of", name, str(case.directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return float(done.stdout)


def measure_memory(name: str, case: Case) -> float:
    """The peak during one call, above what the process took when all was imported.

    The kernel's high-water mark is set back after loading, which may take more for a moment. That
    of ``getrusage`` can't be, and a child process begins with its parent's.
    """
    for package in ("zennit.torchvision", "captum.attr") if name in ("zennit", "captum") else ():
        imported(package)
    before = status("VmRSS")
    run = ready(name, case)
    run()  # now everything is in memory that was only mapped
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (status("VmHWM") - before) / MIB


def status(field: str) -> int:
    """A number of bytes that the kernel keeps about this process."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def compile_times(loaded: LoadedModel, method: str, repeats: int) -> dict[str, list[float]]:
    """``graphprop.compile`` (without a check) against ``torch.export`` alone."""
    batch = loaded.example[:1].repeat(2, *[1] * (loaded.example.dim() - 1))

    def export() -> Any:
        sizes = ({0: Dim("batch", min=1)},)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about what it will change
            program = torch.export.export(
                loaded.model, (batch,), strict=False, dynamic_shapes=sizes
            )
            return program.run_decompositions({})

    def compiled() -> Any:
        return graphprop.compile(loaded.model, loaded.example, method)

    return race({"compile": compiled, "export": export}, repeats, threads=1)


# Where the time goes.


def profile_torch(explainer: CompiledExplainer, case: Case) -> dict[str, float]:
    """Section of the generated module -> seconds, its nodes run one by one."""
    network = explainer.legal.copy()
    network.tensors = {name: in_order(tensor) for name, tensor in network.tensors.items()}
    seconds: Counter[str] = Counter()
    heading, last = "", 0.0

    def observe(node: fx.Node, value: Any) -> None:
        nonlocal heading, last
        heading = heading_of(node) or heading
        now = time.perf_counter()
        if facts_of(node).batched:
            seconds[heading] += now - last
        last = time.perf_counter()

    inputs = {"x": in_order(case.x), "target": case.target}
    for counted in (False, True):
        last = time.perf_counter()
        interpret(network, inputs, dtype=torch.float32, observe=observe if counted else None)
    return dict(seconds)


def in_order(tensor: torch.Tensor) -> torch.Tensor:
    """Images with the channels last, as the generated module has them."""
    planar = tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if planar else tensor


def profile_onnx(case: Case) -> dict[str, float]:
    """ONNX operator -> seconds, after ONNX Runtime's own optimizations."""
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(case, Path(folder) / "profile")
        inputs = {"input": case.x.numpy(), "target": case.target.numpy()}
        for _ in range(2):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e["name"].endswith("_kernel_time")]
    seconds: Counter[str] = Counter()
    for event in kernels[len(kernels) // 2 :]:  # the second run
        seconds[event["args"]["op_name"]] += event["dur"] / 1e6
    return dict(seconds)


# What is printed.


def figures(name: str, times: Mapping[str, Sequence[float]], needed: Bound) -> dict[str, Any]:
    """A contestant's times, and their ratios to the others'."""
    best = {other: min(seconds) for other, seconds in times.items()}
    limit = needed.work * best["forward"]
    return {
        "seconds": list(times[name]),
        "min": best[name],
        "median": statistics.median(times[name]),
        "to_forward": best[name] / best["forward"],
        "to_zennit": best[name] / best["zennit"] if "zennit" in best else None,
        "to_bound": best[name] / limit,
    }


def say_result(console: Console, result: Mapping[str, Any]) -> None:
    needed = result["bound"]
    console.print(
        f"{result['model']}, {result['method']}: batch {result['batch']}, threads "
        f"{result['threads']}; bound {needed['work']:.2f} times the forward pass "
        f"({needed['operations']} operations per layer)"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    headers = "contestant|min s|median s|/ forward|/ zennit|/ bound|peak MiB".split("|")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left")
    for name, found in result["contestants"].items():
        ratios = (found[key] for key in ("to_forward", "to_zennit", "to_bound"))
        table.add_row(
            name,
            *(f"{found[key]:.3f}" for key in ("min", "median")),
            *("" if ratio is None else f"{ratio:.3f}" for ratio in ratios),
            f"{found['peak_mib']:.0f}" if "peak_mib" in found else "",
        )
    console.print(table)
    for name, reason in result["left_out"].items():
        console.print(f"{name} left out: {reason}")
    for what, seconds in result.get("profile", {}).items():
        console.print(f"\n{what}: {sum(seconds.values()):.3f} s")
        for part, spent in Counter(seconds).most_common(15):
            console.print(f"  {spent:8.4f} s {spent / sum(seconds.values()):6.1%}  {part}")
    console.print()


def say_compile(console: Console, model: str, found: Mapping[str, Any]) -> None:
    console.print(
        f"{model}: compile {found['compile']:.2f} s, torch.export alone {found['export']:.2f} s, "
        f"ratio {found['ratio']:.2f}\n"
    )


# The bench.


def measure(case: Case, explainer: CompiledExplainer, options: argparse.Namespace) -> Any:
    """All figures of one model and method."""
    runs: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    for name in options.contestants:
        try:
            runs[name] = ready(name, case)
        except LeftOut as reason:
            left_out[name] = str(reason)
    needed = bound(explainer.legal)
    times = race(runs, options.repeats, case.threads)
    contestants = {name: figures(name, times, needed) for name in runs}
    profile = {}
    if options.profile:
        with torch.no_grad():
            profile["torch, by section"] = profile_torch(explainer, case)
        profile["ONNX Runtime, by operator"] = profile_onnx(case)
    del runs
    gc.collect()
    for name in contestants:
        try:
            contestants[name]["peak_mib"] = memory(name, case)
        except LeftOut as reason:
            left_out[f"memory of {name}"] = str(reason)
    return {
        "model": case.model,
        "method": case.method,
        "batch": case.batch,
        "threads": case.threads,
        "bound": vars(needed),
        "contestants": contestants,
        "left_out": left_out,
        **({"profile": profile} if profile else {}),
    }


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every model by every method, printing each result when it is there."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)
    results, compiles = [], {}
    for model in options.models:
        loaded = load_source(source_of(model))
        for method in options.methods:
            explainer = graphprop.compile(loaded.model, loaded.example, method, name=loaded.name)
            with tempfile.TemporaryDirectory(prefix="graphprop-bench-") as folder:
                directory = explainer.save(Path(folder) / "explainer", check=False)
                case = Case(model, method, options.batch, options.threads, directory)
                case.loaded = loaded
                results.append(measure(case, explainer, options))
            say_result(console, results[-1])
            del explainer, case
            gc.collect()
        if options.compile:
            seconds = compile_times(loaded, options.methods[0], options.repeats)
            best = {name: min(found) for name, found in seconds.items()}
            compiles[model] = {**best, "ratio": best["compile"] / best["export"]}
            say_compile(console, model, compiles[model])
    return {
        "version": JSON_VERSION,
        "machine": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "results": results,
        "compile": compiles,
    }


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def parsed() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=names, default=["vgg16", "resnet50"], help="files of models/, or sources"
    )
    parser.add_argument(
        "--methods",
        type=names,
        default=["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "rap", "rap-bn", "hedge"],
    )
    parser.add_argument(
        "--contestants", type=names, default=list(CONTESTANTS), help=", ".join(CONTESTANTS)
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.contestants) - set(CONTESTANTS)
    if unknown or options.repeats < 1:
        parser.error(f"no contestants: {', '.join(unknown)}" if unknown else "at least one repeat")
    options.contestants = list(dict.fromkeys(["forward", *options.contestants]))
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    define_torchvision_operators()
    if options.memory_of:
        name, directory = options.memory_of
        (model,), (method,) = options.models, options.methods
        case = Case(model, method, options.batch, options.threads, Path(directory))
        print(measure_memory(name, case))
        return
    try:
        report = bench(options)
    except graphprop.GraphpropError as error:
        sys.exit(f"error: {error}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
