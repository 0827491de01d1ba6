"""Every backend computes the same: the compiled networks of ``models/`` on ONNX Runtime.

The arbiter is the explainer's graph in float64. A backend may be ten times as far from it as torch
in float32 is, and 1e-5 at least. That one float32 run is one draw: where two entries of a pooling
window are nearly equal rounding chooses between them, so that the worst sample counts for all.
"""

from __future__ import annotations

import copy
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphprop
from graphprop.api import CompiledExplainer
from graphprop.emit.onnx import save, to_onnx
from graphprop.frontend.capture import capture
from graphprop.frontend.load import load_source
from graphprop.ir.interpret import interpret
from graphprop.lowering.legalize import legalize

MODELS = Path(__file__).parents[2] / "models"

IMAGES = {
    "digits": (1, 32, 32),
    "alexnet": (3, 64, 64),
    "vgg16": (3, 64, 64),
    "vgg16_bn": (3, 64, 64),
    "resnet50": (3, 72, 64),
    "residual": (3, 16, 16),
}
"""Small: each network ends with a pooling to a fixed size."""

COMPILED = [
    *(
        ("digits", method)
        for method in (
            "epsilon_plus_flat",
            "epsilon_alpha2_beta1_flat",
            "epsilon_gamma_box",
            "lrp_cmp_alpha1_flat",
            "preset_a",
            "deep_taylor",
            "rap",
            "rap-bn",
        )
    ),
    ("alexnet", "epsilon_alpha2_beta1_flat"),
    ("alexnet", "rap"),
    ("resnet50", "epsilon_plus_flat"),
    ("resnet50", "deep_taylor"),
    ("vgg16", "epsilon_gamma_box"),
    ("vgg16_bn", "rap-bn"),
]
DOUBLED = [
    ("digits", "epsilon_plus_flat"),
    ("digits", "rap"),
    ("residual", "epsilon_plus_flat"),
    ("residual", "rap-bn"),
    ("resnet50", "epsilon_plus_flat"),
]
BATCHES = (1, 2, 5)
FLOOR, MARGIN = 1e-5, 10


class Residual(nn.Module):
    """A residual block with a strided shortcut, between a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(2)
        self.logits = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        y = self.average(self.pool(torch.relu(y + self.shortcut(x))))
        return self.logits(torch.flatten(y, 1))


def residual() -> nn.Module:
    model = Residual()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return model.eval()


@dataclass(frozen=True)
class Subject:
    """A network, captured once for every method, and what it is explained on."""

    model: nn.Module
    x: torch.Tensor
    target: torch.Tensor
    program: Any

    @classmethod
    def of(cls, model: nn.Module, *shape: int) -> Subject:
        x = torch.randn(max(BATCHES), *shape, generator=torch.Generator().manual_seed(0))
        x = x.to(next(model.parameters()).dtype)
        return cls(model, x, torch.tensor([3, 0, 7, 3, 1]), capture(model, x))

    def compile(self, method: str) -> CompiledExplainer:
        with mock.patch("graphprop.api.capture", return_value=self.program):
            return graphprop.compile(self.model, self.x, method)


@lru_cache(maxsize=1)
def subject(network: str) -> Subject:
    torch.manual_seed(0)
    if network == "residual":
        return Subject.of(residual(), *IMAGES[network])
    model = load_source(str(MODELS / f"{network}.py")).model
    if network == "vgg16_bn":
        # two flows through 120 million weights in float64 take more memory than they are worth
        model.classifier[0] = nn.Linear(512 * 49, 256)
        model.classifier[3] = nn.Linear(256, 128)
        model.classifier[6] = nn.Linear(128, 1000)
        model.eval()
    return Subject.of(model, *IMAGES[network])


@dataclass(frozen=True)
class Truth:
    """What the arbiter found, and how far a backend may be off."""

    logits: torch.Tensor
    relevance: torch.Tensor
    logits_allowed: float
    relevance_allowed: float

    @classmethod
    def of(cls, explainer: CompiledExplainer, given: Subject) -> Truth:
        inputs = {"x": given.x, "target": given.target}
        (logits, relevance, _), _ = interpret(explainer.lowered, inputs, dtype=torch.float64)
        (rough, rough_map, _), _ = interpret(explainer.lowered, inputs, dtype=torch.float32)
        return cls(
            logits,
            relevance,
            max(FLOOR, MARGIN * error(rough, logits)),
            max(FLOOR, MARGIN * error(rough_map, relevance)),
        )

    def holds(self, logits: Any, relevance: Any) -> None:
        """Check a backend's result on the first samples."""
        logits, relevance = torch.as_tensor(logits), torch.as_tensor(relevance)
        count = len(logits)
        assert logits.dtype == relevance.dtype == torch.float32
        assert relevance.shape == self.relevance[:count].shape
        assert error(logits, self.logits[:count]) <= self.logits_allowed
        assert error(relevance, self.relevance[:count]) <= self.relevance_allowed


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error of a sample: ``||found - expected|| / ||expected||``."""
    distance = (found.double() - expected).flatten(1).norm(dim=1)
    return float((distance / expected.flatten(1).norm(dim=1)).max())


def session_of(model: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assert_readable(path: Path, explainer: CompiledExplainer) -> None:
    """Names say what a value is: those of the generated module, and of the network's tensors."""
    model = onnx.load(path, load_external_data=False)
    assert [value.name for value in model.graph.input] == ["input", "target"]
    assert [value.name for value in model.graph.output] == ["logits", "relevance"]
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.output]
    assert {shape[0].dim_param for shape in shapes} == {"N"}
    written = [name for node in model.graph.node for name in node.output if name]
    initializers = [tensor.name for tensor in model.graph.initializer]
    assert len({*written, *initializers}) == len(written) + len(initializers)
    assert all(re.fullmatch(r"[A-Za-z]\w*", name) for name in [*written, *initializers])
    # a node is named after what it computes, in the group of its layer: conv2/rap/active
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    for node in model.graph.node:
        assert node.output[0].endswith(node.name.rpartition("/")[2])
    layers = {layer.label: layer for layer in explainer.layers}
    results = explainer.generated.results
    last = list(layers)[-1]
    for label, layer in layers.items():
        assert label == last or results[label] in written
        assert results[label].startswith(re.sub(r"\W", "_", layer.path))
        if layer.operator in ("conv", "linear"):
            assert f"{results[label]}_weight" in initializers
    # where relevance passes unchanged, several layers have the same
    shared: dict[str, set[str]] = defaultdict(set)
    results = {"x": "x", **results}  # where several flows arrive, each has a map of its own
    for label, name in explainer.generated.relevances.items():
        layer, _, flow = label.removesuffix(")").partition(" (")
        shared[name] |= {f"r_{results[layer]}", f"r_{flow}_{results[layer]}", "relevance"}
    for name, known in shared.items():
        assert name in known
        assert name in written or name == f"r_{results[last]}"


@pytest.mark.parametrize(("network", "method"), COMPILED, ids=["-".join(c) for c in COMPILED])
def test_backends_agree(network: str, method: str) -> None:
    given = subject(network)
    explainer = given.compile(method)
    truth = Truth.of(explainer, given)
    logits, relevance = explainer(given.x, given.target)
    truth.holds(logits, relevance)
    with torch.no_grad():
        assert error(logits, given.model(given.x)) <= 1e-5
    legal = legalize(explainer.lowered, "onnx")
    # not in pytest's own folder, which keeps half a gigabyte of weights for days
    with TemporaryDirectory() as folder:
        path = Path(folder) / "explainer.onnx"
        save(to_onnx(legal), path)
        onnx.checker.check_model(path, full_check=True)
        assert_readable(path, explainer)
        session = session_of(str(path))
    for count in BATCHES:
        feeds = {"input": given.x[:count].numpy(), "target": given.target[:count].numpy()}
        truth.holds(*session.run(["logits", "relevance"], feeds))


@pytest.mark.parametrize(("network", "method"), DOUBLED, ids=["-".join(d) for d in DOUBLED])
def test_logits_in_double_precision_are_the_models(network: str, method: str) -> None:
    """Batch norms merged, passed and compensated: what is folded is folded exactly."""
    single = subject(network)
    given = Subject.of(copy.deepcopy(single.model).double(), *single.x.shape[1:])
    with torch.no_grad():
        expected = given.model(given.x)
    found, relevance = given.compile(method)(given.x, given.target)
    assert found.dtype == relevance.dtype == torch.float64
    assert error(found, expected) <= 1e-12


def test_names_are_those_of_the_user() -> None:
    explainer = subject("alexnet").compile("epsilon_plus_flat")
    legal = legalize(explainer.lowered, "onnx")
    model = to_onnx(legal)
    written = {output.name for node in model.graph for output in node.outputs}
    assert {"features_0", "features_12", "r_features_11", "r_features_12", "view"} <= written
    assert {"features_0_weight", "features_0_bias", "classifier_6_weight"} <= {
        *model.graph.initializers
    }
    assert explainer.generated.relevances["classifier.6"] == "r_classifier_6"
    forward = explainer.source[explainer.source.index("def forward") :]
    for name in ("features_0 =", "r_features_12 =", "r_features_11 =", "r_classifier_6 ="):
        assert f"\n        {name} " in forward


# The generated module in the hands of torch


EXPORTED = [
    ("digits", "epsilon_plus_flat"),
    ("digits", "epsilon_gamma_box"),
    ("digits", "rap"),
    ("residual", "epsilon_gamma_box"),
    ("residual", "rap-bn"),
]


def exported(explainer: CompiledExplainer, given: Subject) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("N")}
    return torch.export.export(
        explainer.module, (given.x[:2], given.target[:2]), dynamic_shapes=(batch, batch)
    )


@pytest.mark.parametrize(("network", "method"), EXPORTED, ids=["-".join(e) for e in EXPORTED])
def test_an_independent_exporter_agrees(network: str, method: str) -> None:
    """What `torch.onnx.export` makes of the generated module computes the same."""
    pytest.importorskip("onnxscript")
    given = subject(network)
    explainer = given.compile(method)
    program = exported(explainer, given)
    found = program.module()(given.x, given.target)
    for part, own in zip(found, explainer(given.x, given.target), strict=True):
        torch.testing.assert_close(part, own)
    file = io.BytesIO()
    torch.onnx.export(program, dynamo=True, verbose=False).save(file)
    session, truth = session_of(file.getvalue()), Truth.of(explainer, given)
    names = [value.name for value in session.get_inputs()]
    for count in BATCHES:
        feeds = dict(
            zip(names, (given.x[:count].numpy(), given.target[:count].numpy()), strict=True)
        )
        truth.holds(*session.run(None, feeds))


@pytest.mark.parametrize("target", ["largest logit", "one class", "weights"])
def test_export_with_each_kind_of_target(target: str) -> None:
    given = subject("residual")
    module = given.compile("epsilon_plus_flat").module
    chosen = {"largest logit": None, "one class": 3, "weights": torch.randn(5, 10)}[target]
    program = torch.export.export(module, (given.x, chosen))
    for part, own in zip(program.module()(given.x, chosen), module(given.x, chosen), strict=True):
        torch.testing.assert_close(part, own)
