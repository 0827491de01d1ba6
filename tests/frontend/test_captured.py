"""A model captured once: each compile from it is the one from the model itself."""

from itertools import permutations

import pytest
import torch
from torch import nn

import graphprop
from graphprop.api import write
from graphprop.builtin import METHODS
from graphprop.errors import CaptureError, InputError
from graphprop.rules import find_method

X = torch.zeros(2, 3, 8, 8)
FILES = ("explainer.py", "weights.safetensors", "explainer.onnx", "manifest.json")


class Net(nn.Module):
    """Convolutions, batch norms that are merged or not, a shortcut, a gate, pools, a softmax."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.side = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.side_bn = nn.BatchNorm2d(6)
        self.late_bn = nn.BatchNorm2d(6)
        self.gate = nn.Linear(6, 6)
        self.fc = nn.Linear(6 * 16, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.relu(x + self.side_bn(self.side(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = self.late_bn(nn.functional.max_pool2d(x, 2))
        return torch.softmax(self.fc(x.flatten(1)), 1)


def build():
    torch.manual_seed(3)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def fitting(method):
    """Data, for methods that need them."""
    if not find_method(method).fitted:
        return None
    return [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(5))]


def files_of(explainer, folder):
    """The bytes of what a compile writes."""
    saved = write(explainer, folder, check=False)
    return {name: (saved.directory / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The files of a method, of a compile that captures for itself."""
    known = {}

    def of(method):
        if method not in known:
            explainer = graphprop.compile(build(), X, method, fit=fitting(method))
            known[method] = files_of(explainer, tmp_path_factory.mktemp(method) / "out")
        return known[method]

    return of


@pytest.mark.parametrize("order", list(permutations(("rap-bn", "hedge", "epsilon_plus_flat"))))
def test_one_capture_gives_the_bytes_of_many(order, fresh, tmp_path):
    captured = graphprop.capture(build(), X)
    for method in order:
        explainer = graphprop.compile(captured, method=method)
        assert files_of(explainer, tmp_path / method) == fresh(method)


@pytest.mark.slow
def test_every_method_from_one_capture(fresh, tmp_path):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    captured = graphprop.capture(model, X)
    for method in reversed(METHODS):
        explainer = graphprop.compile(captured, method=method, fit=fitting(method))
        assert files_of(explainer, tmp_path / method) == fresh(method), method
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_was_captured_stays_as_it_is():
    captured = graphprop.capture(build(), X)
    printed = str(captured.program.graph)
    tensors = {name: tensor.clone() for name, tensor in captured.program.state_dict.items()}
    for method in ("rap-bn", "gradcam", "epsilon_plus_flat"):
        graphprop.compile(captured, method=method)
    assert str(captured.program.graph) == printed
    for name, tensor in captured.program.state_dict.items():
        assert torch.equal(tensor, tensors[name])


def test_several_results_of_one_capture():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

        def forward(self, x):
            return {"a": self.a(x), "b": self.b(x)}

    captured = graphprop.capture(Two().eval(), torch.zeros(1, 3))
    assert [
        graphprop.compile(captured, None, "gradient", output=name).classes for name in "abab"
    ] == [2, 4, 2, 4]


def test_notes_and_inspection():
    captured = graphprop.capture(nn.DataParallel(build()).eval(), X)
    note = "the model was wrapped in DataParallel; compiled without it"
    for _ in range(2):
        assert graphprop.compile(captured).notes.count(note) == 1
        assert graphprop.inspect(captured).notes.count(note) == 1
    assert graphprop.compile(captured).name == "Net"
    assert graphprop.inspect(captured).input_shapes == [(3, 8, 8)]


def test_progress_names_the_capture_once():
    said = []
    captured = graphprop.capture(build(), X, progress=said.append)
    graphprop.compile(captured, method="gradient", progress=said.append)
    assert said.count("capture") == 1


def test_an_example_beside_a_capture():
    captured = graphprop.capture(build(), X)
    with pytest.raises(InputError, match="the model was captured with an example_input, and a"):
        graphprop.compile(captured, X)
    with pytest.raises(InputError, match=r"example_input must be a torch\.Tensor"):
        graphprop.compile(build())


def test_another_weight_put_in_after_the_capture():
    model = build()
    captured = graphprop.capture(model, X)
    with torch.no_grad():
        model.fc.weight.mul_(2)  # in place: it is the captured tensor
    explainer = graphprop.compile(captured, method="gradient")
    assert torch.equal(explainer.network.tensors["fc.weight"], model.fc.weight)
    model.fc.weight = nn.Parameter(torch.randn(4, 96))
    with pytest.raises(CaptureError, match="differs from the model's"):
        graphprop.compile(captured, method="gradient")
