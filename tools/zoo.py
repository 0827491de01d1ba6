"""Compile every convolutional network of torchvision, and check what comes out.

    python tools/zoo.py --methods epsilon_plus_flat,rap --models "resnet*,vgg*" --json zoo.json

These are all of torchvision's classification models but the transformers, three that read videos,
and two that segment. Each has weights after Kaiming et al. and batch norms as training leaves them,
some of their scales below zero, and is compiled as it is. For each model and method the table says

- whether it compiles, or why it is refused;
- how far its logits are from the model's own in float64, relative to the largest;
- how far ONNX Runtime is from the arbiter, as ``graphprop check`` finds it;
- what remains unexplained in the ledger of relevance of any layer, and what isn't where it was
  sent;
- how long it all took, and the most memory of its process, which does nothing else.

With ``--timm`` it is one small network of each convolutional family of timm (`timm_families`), by
the methods epsilon_plus_flat, rap, rap-bn and hedge.

The exit code is 1 if anything fails, and with ``--strict`` if anything is refused.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from timm_families import ATTENTION, CONVOLUTIONAL
from timm_families import SIZES as TIMM_SIZES
from torch import nn
from torchvision_schemas import define_torchvision_operators

import graphprop
from graphprop.api import CompiledExplainer, ledger
from graphprop.checking.check import BACKENDS
from graphprop.checking.ledger import TOLERANCE, LedgerEntry
from graphprop.cli.console import say, say_table
from graphprop.errors import EquivalenceError, GraphpropError, VerificationError
from graphprop.frontend.user_code import first_line

JSON_VERSION = 1
"""The version of what --json writes."""
MIB = 2**20

TRANSFORMERS = ("vit_*", "swin*", "maxvit*")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")
SEGMENTATION = ("deeplabv3_resnet50", "fcn_resnet50")

TIMM = "timm/"
"""What the names of timm's networks begin with here."""
TIMM_METHODS = ("epsilon_plus_flat", "rap", "rap-bn", "hedge")
"""One method of each family: there are many networks."""

SIZES = {"inception_v3": 96, **{TIMM + name: size for name, size in TIMM_SIZES.items()}}
"""Height and width of the inputs, where a model asks for more than the others."""
SIZE = 64
"""That of the others: five strides of 2 leave 2 places along an axis."""
FRAMES = 4
"""The frames of a video network's input."""

LOGITS_TOLERANCE = 1e-5
"""By how much logits may differ from the model's own in float64, relative to the largest."""
FLOAT32_ERRORS = 10
"""The same, in units of what the model itself is off by in float32."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


# The networks.


def names() -> list[str]:
    """All models, by name."""
    from torchvision import models

    classifiers = models.list_models(module=models)
    convolutional = [
        name
        for name in classifiers
        if not any(fnmatchcase(name, pattern) for pattern in TRANSFORMERS)
    ]
    return [*convolutional, *VIDEO, *SEGMENTATION]


def timm_names() -> list[str]:
    """One network of each family of timm, those that are refused at the end."""
    return [TIMM + name for name in (*CONVOLUTIONAL.values(), *ATTENTION.values())]


def example_of(name: str, count: int = 2, size: int | None = None) -> torch.Tensor:
    """Inputs of a model: noise, the same each time."""
    size = size or SIZES.get(name, SIZE)
    frames = (FRAMES,) if name in VIDEO else ()
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *frames, size, size, generator=draw)


def build(name: str, seed: int = 0) -> nn.Module:
    """Build a model in evaluation mode, with random weights as `initialize` draws them."""
    if name.startswith(TIMM):
        return build_of_timm(name.removeprefix(TIMM), seed)
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in SEGMENTATION:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    try:
        with torch.device("meta"):
            model: nn.Module = models.get_model(name, **options)
        model.to_empty(device="cpu")
    except NotImplementedError:  # RegNets compute their widths with tensors
        model = models.get_model(name, **options)
    initialize(model, example_of(name, count=8), seed)
    return model


def build_of_timm(name: str, seed: int) -> nn.Module:
    """Build one of timm's, with the weights that it draws itself; batch norms have seen data.

    Its networks hold parameters of many kinds, whose scales belong together.
    """
    import timm

    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name)
    settle(model.eval(), example_of(TIMM + name, count=8))
    return model


@torch.no_grad()
def initialize(model: nn.Module, examples: torch.Tensor, seed: int) -> None:
    """Draw all weights, and let batch norms see what they normalize.

    A third of the scales of norms is negative. The variance of a channel is drawn halfway to the
    mean of all: one that hardly varies on the few examples would be magnified on others.
    """
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    for layer in model.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draw)
            if layer.bias is not None:
                layer.bias.normal_(0, 0.1, generator=draw)
        elif isinstance(layer, NORMS):
            layer.weight.uniform_(0.5, 1.5, generator=draw)
            layer.weight *= 1 - 2 * (torch.rand(layer.weight.shape, generator=draw) < 1 / 3).float()
            layer.bias.normal_(0, 0.1, generator=draw)
        for parameter in layer.parameters(recurse=False):
            if bool(parameter.isnan().any()):  # a layer scale
                parameter.uniform_(0.5, 1.0, generator=draw)
    settle(model.eval(), examples)


@torch.no_grad()
def settle(model: nn.Module, examples: torch.Tensor) -> None:
    """Let batch norms see what they normalize."""
    learning = [layer for layer in model.modules() if isinstance(layer, BATCH_NORMS)]
    for layer in learning:
        layer.reset_running_stats()
        layer.momentum = 1.0
        layer.train()
    model(examples)
    for layer in learning:
        layer.eval()
        layer.running_var.lerp_(layer.running_var.mean(), 0.5)


# What is looked at.


@dataclass
class Finding:
    """What one model came to by one method.

    Attributes
    ----------
    model, method
        Their names.
    verdict
        ``"passed"``, ``"refused"`` or ``"failed"``.
    reason
        Why it was refused or failed.
    logits
        The largest difference of the logits to the model's own in float64, relative to the largest
        logit.
    backends
        Backend -> the error of relevance and what is allowed, of the worst sample.
    unexplained, misplaced
        The largest of any layer, see `graphprop.checking.ledger.LedgerEntry`.
    not_accounted
        How many layers have rules that aren't meant to conserve.
    lost
        What biases, zero denominators, stabilizers and padding took, of what the start was.
    compiling, seconds
        How long compiling took, and everything.
    peak_mib
        The most memory that the process had.
    warnings
        What the check warns of.
    """

    model: str
    method: str
    verdict: str = "failed"
    reason: str = ""
    logits: float | None = None
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    unexplained: float | None = None
    misplaced: float | None = None
    not_accounted: int = 0
    lost: dict[str, float] = field(default_factory=dict)
    compiling: float | None = None
    seconds: float = 0.0
    peak_mib: float | None = None
    warnings: list[str] = field(default_factory=list)


def examine(
    name: str,
    method: str,
    *,
    samples: int = 2,
    backends: Sequence[str] = ("onnxruntime",),
    size: int | None = None,
) -> Finding:
    """Compile one model by one method, and look at all there is to look at."""
    finding = Finding(name, method)
    began = time.perf_counter()
    x = example_of(name, samples, size)
    try:
        model = build(name)
        explainer = compiled(finding, model, x)
        if explainer is not None:
            complaints = [
                compare_logits(finding, explainer, model, x),
                draw_up_ledger(finding, explainer, x),
                check(finding, explainer, samples, backends),
            ]
            finding.reason = "; ".join(filter(None, complaints))
            finding.verdict = "failed" if finding.reason else "passed"
    except Exception as error:  # one model must not end the others
        traceback.print_exc(file=sys.stderr)
        finding.reason = f"{type(error).__name__}: {first_line(error)}"
    finding.seconds = time.perf_counter() - began
    return finding


def compiled(finding: Finding, model: nn.Module, x: torch.Tensor) -> CompiledExplainer | None:
    """Compile, or note the refusal."""
    began = time.perf_counter()
    options = {"output": "out"} if finding.model in SEGMENTATION else {}
    try:
        explainer = graphprop.compile(model, x[:1], finding.method, name=finding.model, **options)
    except (EquivalenceError, VerificationError):
        raise
    except GraphpropError as error:
        finding.verdict, finding.reason = "refused", str(error)
        return None
    finding.compiling = time.perf_counter() - began
    return explainer


def compare_logits(
    finding: Finding, explainer: CompiledExplainer, model: nn.Module, x: torch.Tensor
) -> str:
    """Hold the logits against the model's own in float64."""
    with torch.no_grad():
        logits, relevance = explainer(x)
        single = own_logits(model, x)
        double = own_logits(copy.deepcopy(model).double(), x.double())
    finding.logits, rounding = (relative(part, double) for part in (logits, single))
    allowed = max(LOGITS_TOLERANCE, FLOAT32_ERRORS * rounding)
    if not finding.logits <= allowed:
        return f"the logits are off by {finding.logits:.1e}, allowed {allowed:.1e}"
    return "" if bool(relevance.isfinite().all()) else "the relevance isn't finite"


def own_logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model answers; where it segments, the first of its answers."""
    answer = model(x)
    result: torch.Tensor = answer["out"] if isinstance(answer, Mapping) else answer
    return result


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of any entry, relative to the largest."""
    return float((a - b).abs().max() / b.abs().max())


def draw_up_ledger(finding: Finding, explainer: CompiledExplainer, x: torch.Tensor) -> str:
    """Draw up the ledger; the complaint names the first layer whose account doesn't balance."""
    entries = ledger(explainer, x)
    finding.unexplained = max(entry.error for entry in entries)
    finding.misplaced = max(entry.astray for entry in entries)
    finding.not_accounted = sum(bool(entry.note) for entry in entries)
    finding.lost = losses(entries)
    wrong = next((entry for entry in entries if not entry.balanced()), None)
    return f"the ledger doesn't balance, first at {wrong}" if wrong else ""


def losses(entries: Sequence[LedgerEntry]) -> dict[str, float]:
    """What was lost where, of the first sample, as parts of what the start was."""
    start = entries[0].came_in[0]
    kinds = ("bias", "zero_denominators", "stabilizer", "outside")
    accounts = [entry for entry in entries if not entry.note]
    found = {kind: sum(getattr(entry, kind)[0] for entry in accounts) for kind in kinds}
    return {kind: amount / start if start else 0.0 for kind, amount in found.items()}


def check(
    finding: Finding, explainer: CompiledExplainer, samples: int, backends: Sequence[str]
) -> str:
    """Check the backends."""
    report = explainer.check(samples=samples, backends=backends)
    for result in report.backends:
        worst = result.worst
        finding.backends[result.name] = {
            "passed": result.passed,
            "error": worst.error if worst else None,
            "allowed": worst.allowed if worst else None,
            "explained": result.explained,
        }
    finding.warnings = report.warnings
    return "" if report.passed else report.complaint()


# One process for each.


def in_a_process(name: str, method: str, options: argparse.Namespace) -> Finding:
    """Examine in a process of its own, whose memory is free when it ends."""
    context = multiprocessing.get_context("fork")  # with everything imported
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report_back, args=(sender, name, method, options))
    began = time.perf_counter()
    process.start()
    sender.close()
    try:
        finding: Finding = receiver.recv()
    except EOFError:
        process.join()
        reason = f"its process ended with code {process.exitcode}"
        finding = Finding(name, method, reason=reason, seconds=time.perf_counter() - began)
    process.join()
    return finding


def report_back(sender: Any, name: str, method: str, options: argparse.Namespace) -> None:
    """Examine, and send what was found and the peak of memory."""
    if options.memory:
        limit = int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # torch's own, about what it will change
    finding = examine(
        name, method, samples=options.samples, backends=options.backends, size=options.size
    )
    finding.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    sender.send(finding)
    sender.close()


# What is printed.


def say_findings(findings: Sequence[Finding], backends: Sequence[str]) -> None:
    """Print the table, the reasons, and how many passed."""
    headers = ["model", "method", "verdict", "logits", *backends]
    headers += ["unexplained", "misplaced", "bias", "compile s", "all s", "MiB"]
    say_table(headers, [row_of(finding, backends) for finding in findings])
    for finding in findings:
        if finding.reason:
            say(f"\n{finding.model}, {finding.method}, {finding.verdict}: {finding.reason}")
    counts = {
        verdict: sum(finding.verdict == verdict for finding in findings)
        for verdict in ("passed", "refused", "failed")
    }
    say("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def row_of(finding: Finding, backends: Sequence[str]) -> list[str]:
    """One finding as a row of the table."""
    return [
        finding.model,
        finding.method,
        finding.verdict,
        small(finding.logits),
        *(small(finding.backends.get(name, {}).get("error")) for name in backends),
        small(finding.unexplained),
        small(finding.misplaced),
        f"{finding.lost['bias']:.1%}" if finding.lost else "",
        "" if finding.compiling is None else f"{finding.compiling:.1f}",
        f"{finding.seconds:.1f}",
        "" if finding.peak_mib is None else f"{finding.peak_mib:.0f}",
    ]


def small(error: float | None) -> str:
    """An error as people read it."""
    return "" if error is None else f"{error:.0e}"


# The zoo.


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )

    def split(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    def backends(text: str) -> list[str]:
        unknown = [name for name in split(text) if name not in BACKENDS]
        if unknown:
            raise argparse.ArgumentTypeError(f"no backend {unknown[0]}: {', '.join(BACKENDS)}")
        return split(text)

    add = parser.add_argument
    add("--models", type=split, default="*", metavar="PATTERN,...", help="which models")
    add("--but", type=split, default="", metavar="PATTERN,...", help="which models to leave out")
    add("--timm", action="store_true", help="a network of each family of timm instead")
    add("--methods", type=split, metavar="METHOD,...", help="by what [epsilon_plus_flat]")
    add("--backends", type=backends, default="onnxruntime", metavar="BACKEND,...", help="checked")
    add("--samples", type=int, default=2, help="inputs to explain")
    add("--size", type=int, help="height and width of the inputs, what each model takes if unset")
    add("--threads", type=int, default=1, help="threads of torch")
    add("--memory", type=float, metavar="GIB", help="address space that a process may have")
    add("--json", type=Path, metavar="FILE", help="write the findings here")
    add("--strict", action="store_true", help="let a refusal count as a failure")
    options = parser.parse_args(given)
    if options.methods is None:
        options.methods = list(TIMM_METHODS) if options.timm else ["epsilon_plus_flat"]
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """The models that the patterns name."""
    known = timm_names() if options.timm else names()
    for pattern in (*options.models, *options.but):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise SystemExit(f"no model is called {pattern}; there are {', '.join(known)}")
    return [
        name
        for name in known
        if any(fnmatchcase(name, pattern) for pattern in options.models)
        and not any(fnmatchcase(name, pattern) for pattern in options.but)
    ]


def zoo(options: argparse.Namespace) -> list[Finding]:
    """Examine every model by every method."""
    findings: list[Finding] = []
    for name in chosen(options):
        for method in options.methods:
            finding = in_a_process(name, method, options)
            findings.append(finding)
            say_progress(finding)
            if options.json:
                document = {
                    "version": JSON_VERSION,
                    "tolerance": {
                        "logits": LOGITS_TOLERANCE,
                        "float32_errors": FLOAT32_ERRORS,
                        "ledger": TOLERANCE,
                    },
                    "findings": [asdict(finding) for finding in findings],
                }
                options.json.write_text(json.dumps(document, indent=2) + "\n")
    return findings


def say_progress(finding: Finding) -> None:
    """Print a line on stderr."""
    line = f"{finding.model}, {finding.method}: {finding.verdict}, {finding.seconds:.0f} s"
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    define_torchvision_operators()
    findings = zoo(options)
    say_findings(findings, options.backends)
    bad = {"failed", "refused"} if options.strict else {"failed"}
    sys.exit(any(finding.verdict in bad for finding in findings))


if __name__ == "__main__":
    main()
