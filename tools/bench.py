"""Measure compiled explainers: time and memory, beside other tools, the forward pass and a bound.

    python tools/bench.py                                  # a selection: under ten minutes
    python tools/bench.py --full --json bench.json         # all models, methods, 1 and 2 threads
    python tools/bench.py --compare bench.json --json new.json
    python tools/bench.py --scaling --plot docs/scaling.svg

For each model and method these run on the same weights and inputs, in turns:

- ``forward``: the model as it is written, and with the channels last in memory;
- ``torch`` and ``torch.compile``: ``explainer.py``;
- ``onnx forward`` and ``onnx``: ``explainer.onnx`` in ONNX Runtime, for the logits alone, and all;
- ``zennit``: its composite of the same name, on torchvision's model of the same name, registered
  once and outside of what is timed;
- ``captum``: its LRP, each layer with captum's nearest rule.

Whatever can't run is left out, with the reason. The maps are compared in the same run: a contestant
that computes another one is named. The bound is what the mathematics needs
(docs/methods.md, "What each rule needs") at the speed of the faster of torch's two forward passes,
or of ONNX Runtime's own; it isn't counted from what was compiled.

Machines are shared and noisy. The contestants take turns within each round, ratios are medians over
the rounds, and what is timed on one thread is processor time, which other processes disturb least.
Memory is the peak of a process of its own, weights included.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from benching import results, scaling, startup
from benching.bound import Bound, NoBound, bound
from benching.clock import Run, can_measure_memory, clock_for, peak_of, race, status
from benching.contestants import BY_GRADIENTS, CONTESTANTS, Case, LeftOut, apart, load, ready
from rich.console import Console
from torchvision_schemas import define_torchvision_operators

import graphprop
from graphprop.api import CompiledExplainer

JSON_VERSION = 2
"""The version of what --json writes."""
PACKAGES = ("torch", "onnxruntime", "torchvision", "zennit", "captum")
ALL_MODELS = ("vgg16", "resnet50", "densenet121", "mobilenet_v2")
ALL_METHODS = (
    *("lrp_z", "lrp_epsilon", "lrp_alpha1_beta0", "lrp_alpha2_beta1", "lrp_cmp_alpha1"),
    *("lrp_cmp_alpha1_flat", "lrp_cmp_alpha2", "lrp_cmp_alpha2_flat", "epsilon_plus"),
    *("epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"),
    *("epsilon_gamma_box", "preset_a", "preset_b", "deep_taylor", "rap", "rap-bn", "hedge"),
)
MODELS, METHODS = ("vgg16", "resnet50"), ("epsilon_plus_flat", "rap")
"""What is measured by default, in minutes."""


def console() -> Console:
    """What the tables are printed on."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)


def memory(name: str, case: Case) -> float:
    """Measure a contestant's peak memory in a process of its own, in MiB."""
    if case.device == "cpu" and not can_measure_memory():
        raise LeftOut("it is read from /proc/self")
    command = [sys.executable, __file__, "--models", case.model, "--methods", case.method]
    command += ["--batch", str(case.batch), "--threads", str(case.threads)]
    command += ["--device", case.device, "--memory-of", name, str(case.directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOut((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return float(done.stdout)


def measure_memory(name: str, case: Case) -> float:
    """The peak during one call, above what the process took when all was imported."""
    if name in BY_GRADIENTS:
        CONTESTANTS[name](case)  # imports its package
    gc.collect()
    before = status("VmRSS") if case.device == "cpu" else 0
    return peak_of(ready(name, case), before, case.device)


def measure(case: Case, needed: Bound | None, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model and method on one number of threads."""
    runs: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    for name in options.contestants:
        try:
            runs[name] = ready(name, case)
        except LeftOut as reason:
            left_out[name] = str(reason)
    differences = apart(runs)
    times = race(runs, options.repeats, clock_for(case.threads, case.device))
    found = {name: results.figures(name, times, needed, differences) for name in runs}
    names = list(runs)
    del runs
    gc.collect()
    for name in names if options.memory else ():
        try:
            found[name]["peak_mib"] = memory(name, case)
        except LeftOut as reason:
            left_out[f"memory of {name}"] = str(reason)
    return {
        "model": case.model,
        "method": case.method,
        "batch": case.batch,
        "threads": case.threads,
        "device": case.device,
        "bound": None if needed is None else asdict(needed),
        "contestants": found,
        "left_out": left_out,
    }


def bound_of(explainer: CompiledExplainer, target: Console) -> Bound | None:
    """The bound of a case, or None, which is said."""
    try:
        return bound(explainer)
    except NoBound as reason:
        target.print(f"no bound: {reason}")
        return None


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every model by every method, printing each result when it is there."""
    target = console()
    found, compiles = [], {}
    for model in options.models:
        loaded = load(model)
        for method in options.methods:
            explainer = graphprop.compile(loaded.model, loaded.example, method, name=loaded.name)
            needed = bound_of(explainer, target)
            with tempfile.TemporaryDirectory(prefix="graphprop-bench-") as folder:
                directory = explainer.save(Path(folder) / "explainer", check=False)
                del explainer
                for threads in options.threads:
                    torch.set_num_threads(threads)
                    case = Case(model, method, options.batch, threads, directory, options.device)
                    case.__dict__["loaded"] = loaded
                    found.append(measure(case, needed, options))
                    results.say(target, found[-1])
            loaded.model.cpu()
            gc.collect()
        if options.compile:
            torch.set_num_threads(1)
            rounds = min(options.repeats, 3)
            checked = model == "resnet50" or options.full
            compiles[model] = startup.compile_times(
                loaded, options.methods[0], rounds, check=checked
            )
            for name, value in compiles[model]["ratios"].items():
                target.print(f"{model}: {name} {value:.2f}")
            target.print()
    start = startup.start_times(min(options.repeats, 5)) if options.compile else {}
    for name, value in start.items():
        target.print(f"{name}: {value:.2f}")
    return report({"results": found, "compile": compiles, "start": start})


def report(content: dict[str, Any]) -> dict[str, Any]:
    """What --json writes."""
    about = {
        "version": JSON_VERSION,
        "machine": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
    }
    return {**about, "results": [], "compile": {}, "start": {}, **content}


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    return [int(number) for number in names(text)]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--full", action="store_true", help="all models and methods, on 1 and 2 threads: hours")
    add("--models", type=names, help=f"files of models/, or sources  [{','.join(MODELS)}]")
    add("--methods", type=names, help=f"[{','.join(METHODS)}]")
    add("--contestants", type=names, default=list(CONTESTANTS), help=", ".join(CONTESTANTS))
    add("--batch", type=int, default=4)
    add("--threads", type=numbers, help="one or several: 1,2  [1]")
    add("--repeats", type=int, default=7, help="how many rounds  [7]")
    add("--device", default="cpu", help="cpu or cuda")
    add("--no-memory", dest="memory", action="store_false")
    add("--no-compile", dest="compile", action="store_false", help="leave out start and compiling")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--compare", type=Path, metavar="OLD", help="flag what became slower since; exit code 1")
    add("--noise", type=float, default=results.NOISE, help="what a ratio may rise by  [0.1]")
    add("--scaling", action="store_true", help="measure by batch, depth and pixels instead")
    add("--scaling-model", default="resnet50", metavar="MODEL")
    add("--scaling-method", default="epsilon_plus_flat", metavar="METHOD")
    add("--scaling-pixels", type=int, default=224, metavar="N", help="for batch and depth  [224]")
    add("--batches", type=numbers, default=scaling.BATCHES)
    add("--depths", type=names, default=scaling.DEPTHS, help="networks")
    add("--pixels", type=numbers, default=scaling.PIXELS)
    add("--plot", type=Path, metavar="FILE", help="draw what --scaling found: .svg or .png")
    add("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.models = options.models or list(ALL_MODELS if options.full else MODELS)
    options.methods = options.methods or list(ALL_METHODS if options.full else METHODS)
    options.threads = options.threads or ([1, 2] if options.full else [1])
    unknown = set(options.contestants) - set(CONTESTANTS)
    if unknown:
        parser.error(f"no contestants: {', '.join(sorted(unknown))}")
    if min(options.repeats, options.batch, *options.threads) < 1:
        parser.error("--repeats, --batch and --threads are at least 1")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"there is no device {options.device}: torch finds no GPU")
    if options.plot and not options.scaling:
        parser.error("--plot draws what --scaling measures: give both")
    if options.compare and not options.compare.is_file():
        parser.error(f"there is no file {options.compare}")
    required = ["forward", "forward, channels last", "onnx forward"]
    options.contestants = list(dict.fromkeys([*required, *options.contestants]))
    return options


def measure_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Measure by batch, depth and pixels; print the tables, and draw the plot."""
    torch.set_num_threads(options.threads[0])
    target = console()
    found = scaling.measure(options, lambda text: print(text, file=sys.stderr))
    scaling.say_series(target, found)
    if options.plot:
        threads = f"{options.threads[0]} thread{'s' * (options.threads[0] > 1)}"
        where = threads if options.device == "cpu" else options.device
        title = f"{options.scaling_method}, {options.scaling_model} and relatives, {where}"
        scaling.plot(found, options.plot, title)
    return report({"scaling": found})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 1 where something became slower."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads[0])
    if options.memory_of:
        name, directory = options.memory_of
        (model,), (method,), (threads,) = options.models, options.methods, options.threads
        case = Case(model, method, options.batch, threads, Path(directory), options.device)
        print(measure_memory(name, case))
        return 0
    try:
        found = measure_scaling(options) if options.scaling else bench(options)
    except (graphprop.GraphpropError, LeftOut) as error:
        sys.exit(f"error: {error}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if not options.compare:
        return 0
    slower = results.compare(json.loads(options.compare.read_text()), found, options.noise)
    print("\n".join(slower) or "nothing became slower")
    return 1 if slower else 0


if __name__ == "__main__":
    define_torchvision_operators()
    sys.exit(main())
