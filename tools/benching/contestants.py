"""The contestants: each loads what it needs for a case, and gives what is to be measured.

All compute logits and relevance of the same inputs by the same weights, or what another tool does
in place of that: whether it is the same map is found out in the same run (`apart`).
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn

from benching.clock import Run
from graphprop.artifact.manifest import read_manifest
from graphprop.frontend.load import LoadedModel, load_source
from graphprop.frontend.user_code import first_line

ROOT = Path(__file__).resolve().parents[2]
SAME = 1e-3
"""Up to this relative difference two maps are the same, computed in float32: rounding is 1e-5, and
what residual networks make of it. Another rule at one layer changes far more."""
BY_GRADIENTS = ("zennit", "captum")
"""Which contestants need autograd."""


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
    device: str = "cpu"

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, by the name of its file in ``models/`` or by any other source."""
        return load(self.model)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was compiled."""
        return read_manifest(self.directory)

    @cached_property
    def x(self) -> torch.Tensor:
        """The inputs: noise, the same each time."""
        draw = torch.Generator().manual_seed(0)
        shape = self.manifest["input_shape"]
        return torch.randn(self.batch, *shape, generator=draw).to(self.device)

    @cached_property
    def target(self) -> torch.Tensor:
        """A class for each input."""
        return (torch.arange(self.batch) % self.manifest["classes"]).to(self.device)

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
        return without_eps(model).eval().to(self.device)


def load(model: str) -> LoadedModel:
    """Load a model of ``models/``, of torchvision, or from any other source.

    Its batch norms have no eps: zennit 0.5.1 leaves that of a merged one in place.
    """
    file = ROOT / "models" / f"{model}.py"
    torch.manual_seed(0)
    if file.exists():
        loaded = load_source(str(file))
    elif model.isidentifier():
        imported("torchvision")
        loaded = load_source(f"torchvision.models:{model}", input_shape=(3, 224, 224))
    else:
        loaded = load_source(model)
    without_eps(loaded.model, add=True)
    return loaded


def without_eps(model: nn.Module, *, add: bool = False) -> nn.Module:
    """Take the eps off batch norms; with ``add``, it goes into the variance."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            if add:
                module.running_var += module.eps
            module.eps = 0.0
    return model


def forward(case: Case) -> Run:
    """The model itself."""
    model = case.loaded.model.to(case.device)
    return lambda: model(case.x)


def forward_last(case: Case) -> Run:
    """The model itself, its weights and inputs with the channels last in memory."""
    if case.x.dim() != 4:
        raise LeftOut("only images can have their channels last")
    model = copy.deepcopy(case.loaded.model).to(case.device, memory_format=torch.channels_last)
    x = case.x.contiguous(memory_format=torch.channels_last)
    return lambda: model(x)


def generated(case: Case) -> nn.Module:
    """The generated module."""
    spec = importlib.util.spec_from_file_location("explainer", case.directory / "explainer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    explainer: nn.Module = module.load(device=case.device)
    return explainer


def torch_explainer(case: Case) -> Run:
    """The generated module, as it is."""
    explainer = generated(case)
    return lambda: explainer(case.x, case.target)


def compiled_explainer(case: Case) -> Run:
    """The generated module by ``torch.compile``, compiled outside of what is timed."""
    if case.device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise LeftOut("torch.compile needs a C++ compiler, and there is no g++ or clang++")
    explainer = torch.compile(generated(case), dynamic=False)
    try:
        with torch.no_grad():
            explainer(case.x, case.target)
    except Exception as error:
        raise LeftOut(f"torch.compile fails: {first_line(error)}") from error
    return lambda: explainer(case.x, case.target)


def onnx_explainer(case: Case) -> Run:
    """``explainer.onnx`` in ONNX Runtime."""
    session = onnx_session(case, case.directory / "explainer.onnx")
    inputs = {"input": case.x.cpu().numpy(), "target": case.target.cpu().numpy()}
    return lambda: session.run(None, inputs)


def onnx_forward(case: Case) -> Run:
    """The forward part of the same file: what ONNX Runtime takes for the logits alone."""
    path = case.directory / "forward.onnx"
    model = onnx.load(case.directory / "explainer.onnx", load_external_data=False)
    kept = [output for output in model.graph.output if output.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(only_needed(model), path)
    session = onnx_session(case, path)
    inputs = {"input": case.x.cpu().numpy()}
    return lambda: session.run(["logits"], inputs)


def only_needed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without the nodes, weights and inputs that its outputs don't follow from."""
    needed = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    graph = model.graph
    for field, kept in (
        (graph.node, nodes[::-1]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.input, [value for value in graph.input if value.name in needed]),
    ):
        copies = [copy.deepcopy(one) for one in kept]
        del field[:]
        field.extend(copies)
    return model


def onnx_session(case: Case, path: Path) -> onnxruntime.InferenceSession:
    """A session on the case's device, with as many threads as it has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.log_severity_level = 3
    provider = "CPUExecutionProvider" if case.device == "cpu" else "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise LeftOut(f"this onnxruntime has no {provider}")
    return onnxruntime.InferenceSession(path, options, providers=[provider])


def zennit_composite(case: Case) -> Run:
    """The composite of the same name in zennit, registered outside of what is timed."""
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
    # captum has no flat rule: one that takes as long stands in for it, and the map shows it
    "flat": ("Alpha1_Beta0_Rule", ()),
}
"""Rule -> captum's nearest, and its arguments."""


def captum_lrp(case: Case) -> Run:
    """LRP as captum does it; it takes the rules off the modules after each call."""
    lrp = imported("captum.attr").LRP
    known = imported("captum.attr._utils.lrp_rules")
    model = copy.deepcopy(case.loaded.model).to(case.device)
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
    "forward, channels last": forward_last,
    "torch": torch_explainer,
    "torch.compile": compiled_explainer,
    "onnx forward": onnx_forward,
    "onnx": onnx_explainer,
    "zennit": zennit_composite,
    "captum": captum_lrp,
}
FORWARD = {"onnx": "onnx forward"}
"""Contestant -> the forward pass in the same runtime, where that isn't torch's."""


def ready(name: str, case: Case) -> Run:
    """A contestant ready to run; with gradients only where it works by them."""
    run = CONTESTANTS[name](case)
    return run if name in BY_GRADIENTS else torch.no_grad()(run)


def map_of(name: str, found: Any) -> torch.Tensor | None:
    """The relevance in what a contestant returns; None of a forward pass."""
    if "forward" in name:
        return None
    value = found if name == "captum" else found[1]
    return torch.as_tensor(value).detach().cpu().double()


def apart(runs: Mapping[str, Run], reference: str = "torch") -> dict[str, float]:
    """How far each contestant's map is from that of the generated module, relative to it."""
    if reference not in runs:
        return {}
    wanted = map_of(reference, runs[reference]())
    assert wanted is not None
    size = float(wanted.norm()) or 1.0
    found = {}
    for name, run in runs.items():
        value = map_of(name, run()) if name != reference else None
        if value is not None:
            same_shape = value.shape == wanted.shape
            found[name] = float((value - wanted).norm()) / size if same_shape else float("inf")
    return found


def imported(name: str) -> Any:
    """Import a module that need not be there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LeftOut(f"{name.split('.')[0]} can't be imported: {first_line(error)}") from error
