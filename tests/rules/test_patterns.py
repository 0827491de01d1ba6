"""Patterns: fitted as the estimator is defined, patch by patch, and applied in place of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import graphprop
from graphprop.cli import main
from graphprop.errors import GraphpropError, InputError, MethodError
from graphprop.ops import Linear
from graphprop.pictures.batches import read_batches
from graphprop.rules import Layer
from graphprop.rules.patterns import pattern_attribution, pattern_net
from support.maps import error

torch.set_num_threads(1)

METHODS = ("pattern_attribution", "pattern_net")
EACH_METHOD = pytest.mark.parametrize("method", METHODS)
DOUBLE = 1e-9


# The estimator as its formula: all samples at once, with the patches that each unit reads


def responses(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What each entry of the weight is multiplied by, ``[entries, *result]``: linear."""
    weight = layer.weight.detach()
    found = []
    for index in range(weight.numel()):
        one = torch.zeros_like(weight).flatten()
        one[index] = 1.0
        with torch.no_grad():
            found.append(applied(layer, x, one.reshape(weight.shape)))
    return torch.stack(found)


def applied(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A layer without bias, with another weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    given = layer.stride, layer.padding
    if isinstance(layer, nn.ConvTranspose2d):
        padding = layer.output_padding
        return F.conv_transpose2d(x, weight, None, *given, padding, layer.groups, layer.dilation)
    return F.conv2d(x, weight, None, *given, layer.dilation, layer.groups)


def unit_of_entries(layer: nn.Module) -> torch.Tensor:
    """Which unit each entry of the weight belongs to."""
    shape = layer.weight.shape
    if isinstance(layer, nn.ConvTranspose2d):
        group = torch.arange(shape[0]) // (shape[0] // layer.groups)
        units = group[:, None] * shape[1] + torch.arange(shape[1])
        return units[..., None, None].expand(shape).flatten()
    return torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()


def pattern(layer: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``(E+[xy] - E+[x] E+[y]) / (w . E+[xy] - w . E+[x] E+[y])``, of centered values."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    entries, units = responses(layer, x).movedim(axis % y.dim() + 1, -1), unit_of_entries(layer)
    y, weight = y.movedim(axis, -1), layer.weight.detach().flatten()
    found = torch.zeros_like(weight)
    for unit in range(y.shape[-1]):
        fires = y[..., unit] > 0
        own = (units == unit).nonzero().flatten()
        if not fires.any():
            continue
        seen, result = entries[own][..., unit][:, fires], y[..., unit][fires]
        covariance = (seen - seen.mean(1, keepdim=True)) @ (result - result.mean()) / fires.sum()
        below = weight[own] @ covariance
        if below > 0:
            found[own] = covariance / below
    return found.reshape(layer.weight.shape)


WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def patterns(model: nn.Module, x: torch.Tensor) -> dict[nn.Module, torch.Tensor]:
    """The patterns of all layers of a model."""
    seen: dict[nn.Module, torch.Tensor] = {}

    def hook(layer: nn.Module, given: tuple[torch.Tensor], y: torch.Tensor) -> None:
        seen[layer] = pattern(layer, given[0].detach(), y.detach())

    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, WEIGHTED)]
    model(x)
    for one in hooks:
        one.remove()
    return seen


def reference(
    model: nn.Module,
    found: dict[nn.Module, torch.Tensor],
    method: str,
    x: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """The gradient, each layer replaced by one of the same value and the pattern's derivative."""

    def hook(layer: nn.Module, given: tuple[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        w = layer.weight.detach()
        other = applied(layer, given[0], found[layer] * (w if method == METHODS[0] else 1.0))
        return other + (y - other).detach()

    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, WEIGHTED)]
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    start = F.one_hot(target, logits.shape[1]) * logits.detach()
    (r,) = torch.autograd.grad(logits, leaf, start)
    for one in hooks:
        one.remove()
    return r


class Everything(nn.Module):
    """Layers of every kind, a branch, a gate and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
        self.side = nn.Conv2d(4, 6, 1, stride=2)
        self.dilated = nn.Conv2d(6, 4, (3, 1), padding=(2, 0), dilation=(2, 1))
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.gate = nn.Conv2d(4, 4, 1)
        self.tokens, self.dense = nn.Linear(4, 5), nn.Linear(5, 6)
        self.logits = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(self.grouped(x) + self.side(x))
        x = F.relu(self.up(F.relu(self.dilated(x))))
        x = x * torch.sigmoid(self.gate(x))
        x = F.relu(self.tokens(F.avg_pool2d(x, 2).flatten(2).transpose(1, 2)))
        return self.logits(F.relu(self.dense(x.mean(1))))


def everything() -> nn.Module:
    torch.manual_seed(4)
    model = Everything().double().eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, WEIGHTED):
                layer.weight *= 3  # so that units vary: near-constant ones are ill-conditioned
    return model


def data(count: int = 30, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, (count, 2, 12, 12)))


TARGETS = torch.tensor([0, 2, 1])


@EACH_METHOD
def test_map_equals_the_definition(method: str) -> None:
    model, x = everything(), data(3, 2)
    explainer = graphprop.compile(model, x, method, fit=data().split(7))
    found = patterns(model, data())
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            fitted = explainer.legal.tensors[f"graphprop.pattern.{name}"]
            torch.testing.assert_close(fitted, found[layer], rtol=1e-9, atol=1e-12)
            assert bool(fitted.any())
    expected = reference(model, found, method, x, TARGETS)
    assert error(explainer(x, TARGETS)[1], expected) < DOUBLE
    assert bool(expected.flatten(1).any(1).all())


@EACH_METHOD
def test_batch_norms_are_merged_before(method: str) -> None:
    torch.manual_seed(5)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.uniform_(-1, 1), norm.bias.normal_()
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(4 * 100, 3)]
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, *tail).double().eval()
    fused = nn.Sequential(fuse_conv_bn_eval(model[0], model[1]), *tail)
    x = data(3, 2)
    _, found = graphprop.compile(model, x, method, fit=[data()])(x, TARGETS)
    expected = reference(fused, patterns(fused, data()), method, x, TARGETS)
    assert error(found, expected) < DOUBLE


def test_pattern_of_a_unit_that_reads_its_pattern_back() -> None:
    """A law: ``w . a = 1``, wherever a unit has a pattern."""
    model = everything()
    explainer = graphprop.compile(model, data(1), "pattern_net", fit=[data()])
    tensors = explainer.legal.tensors
    for name in ("first", "grouped", "dense", "logits"):
        found = tensors[f"graphprop.pattern.{name}"].flatten(1)
        product = (tensors[f"{name}.weight"].flatten(1) * found).sum(1)
        assert bool(found.any())
        torch.testing.assert_close(product, found.any(1).double())


# The signal of a linear model, as in the paper's first figure


SIGNAL, DISTRACTOR = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])


def signals() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``s * signal + e * distractor``, e uncorrelated with s, and what is to be read, s."""
    generator = torch.Generator().manual_seed(0)
    s = torch.rand(200, 1, generator=generator).repeat(2, 1) + 0.1
    e = torch.randn(200, 1, generator=generator)
    e = torch.cat([e, -e])
    return (s * SIGNAL + e * DISTRACTOR).double(), s.double()


def test_signal_is_recovered_from_a_distractor() -> None:
    """The weight is at right angles to the distractor; the pattern is the signal's direction."""
    x, s = signals()
    model = nn.Linear(2, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight[:] = torch.linalg.lstsq(x, s).solution.T
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[1.0, -1.0]]).double())
    one = x[:5]
    maps = {
        name: graphprop.compile(model, one, name, **({"fit": [x]} if name in METHODS else {}))(
            one, 0
        )[1]
        for name in (*METHODS, "gradient")
    }
    torch.testing.assert_close(maps["gradient"], torch.tensor([1.0, -1.0]).double().expand(5, 2))
    torch.testing.assert_close(maps["pattern_net"], s[:5] * SIGNAL)
    torch.testing.assert_close(maps["pattern_attribution"], s[:5] * SIGNAL)


# One pass


def counted(batches: Any, seen: list[int]) -> Iterator[Any]:
    for batch in batches:
        seen.append(len(batch))
        yield batch


def test_data_is_read_once_and_its_batches_do_not_matter() -> None:
    model, x, seen = everything(), data(1), []
    explainers = [
        graphprop.compile(model, x, "pattern_net", fit=fit)
        for fit in (counted(data().split(4), seen), [data()], data(), data().split(1))
    ]
    assert seen == [4] * 7 + [2]
    first = explainers[0]
    for other in explainers[1:]:
        assert other.compiled.fitted == first.compiled.fitted
        assert error(other(x)[1], first(x)[1]) < 1e-12
    assert first.compiled.fitted.samples == 30
    assert f"the patterns are fitted to {30} samples" in first.notes
    changed = data()
    changed[29, 1, 0, 0] += 1e-9
    other = graphprop.compile(model, x, "pattern_net", fit=[changed])
    assert other.compiled.fitted.sha256 != first.compiled.fitted.sha256


def test_batches_of_a_loader_in_single_precision() -> None:
    """Labels behind the inputs are left out; the accumulation is in float64."""
    model = everything()
    pairs = torch.utils.data.TensorDataset(data().float(), torch.zeros(30))
    loader = torch.utils.data.DataLoader(pairs, batch_size=8)
    single = graphprop.compile(model.float(), data(1).float(), "pattern_net", fit=loader)
    exact = graphprop.compile(model.double(), data(1), "pattern_net", fit=[data().float().double()])
    for name, tensor in single.legal.tensors.items():
        assert tensor.dtype == torch.float32
        if name.startswith("graphprop.pattern."):
            torch.testing.assert_close(tensor, exact.legal.tensors[name].float())


def test_large_means_lose_no_digits() -> None:
    """Inputs around 1e6: the difference of sums of squares would lose twelve digits."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double().eval()
    far = torch.randn(500, 6, dtype=torch.float64) + 1e6
    with torch.no_grad():
        model.bias[:] = 1.0 - far.mean(0) @ model.weight.T
    explainer = graphprop.compile(model, far[:1], "pattern_net", fit=far.split(50))
    expected = pattern(model, far, model(far).detach())
    found = explainer.legal.tensors["graphprop.pattern.layer"]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


# Where there is no pattern


def test_units_without_a_pattern() -> None:
    """Silent, constant, and fired once: 0, with a note, and no relevance through them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    x = torch.rand(20, 3, dtype=torch.float64)
    x[:, 2] = 0.7
    with torch.no_grad():
        model[0].weight.uniform_(0.1, 1.0)
        model[0].bias[:] = torch.tensor([0.0, -100.0, 0.3, 0.0])
        model[0].weight[2] = torch.tensor([0.0, 0.0, 1.0])  # reads a constant input
        top = (x @ model[0].weight[3]).sort().values
        model[0].bias[3] = -(top[-1] + top[-2]) / 2
        model[2].weight.uniform_(0.1, 1.0)
    explainer = graphprop.compile(model, x[:1], "pattern_net", fit=x.split(6))
    found = explainer.legal.tensors["graphprop.pattern.0"]
    assert found.any(1).tolist() == [True, False, False, False]
    assert bool(found.isfinite().all())
    (note,) = [note for note in explainer.notes if "never fire" in note]
    assert note.endswith("have the pattern 0 and pass nothing: 3 of 4 at '0'")
    shifted = torch.full((1, 3), 200.0, dtype=torch.float64)  # all four fire
    _, relevance = explainer(shifted, 0)
    only = explainer.legal.tensors["graphprop.pattern.2"][0, 0] * found[0]
    torch.testing.assert_close(relevance, explainer(shifted, 0)[0][:, :1].detach() * only)


@pytest.mark.parametrize(
    ("method", "options", "kind", "message"),
    [
        ("pattern_net", {}, MethodError, r"pattern_net at 'first' .* lacks data: .*fit=batches"),
        ("gradient", {"fit": [data()]}, MethodError, "'gradient' fits nothing to data"),
        ("pattern_net", {"fit": []}, InputError, "fit holds no sample"),
        ("pattern_net", {"fit": [data()[:0]]}, InputError, "fit holds no sample"),
        ("pattern_net", {"fit": 3}, InputError, "fit must be an iterable of batches.* not an int"),
        ("pattern_net", {"fit": "folder"}, InputError, "fit must be an iterable of batches"),
        ("pattern_net", {"fit": data()[0]}, InputError, r"in a batch of fit, .*\[N, 2, 12, 12\]"),
        ("pattern_net", {"fit": [data() / 0]}, InputError, "holds NaN or infinite entries"),
        ("pattern_net", {"fit": [data().long()]}, InputError, "must be of torch.float64"),
        ("pattern_net", {"fit": [()]}, InputError, "has 0 of the model's 1 inputs"),
    ],
    ids=str,
)
def test_refused(method: str, options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        graphprop.compile(everything(), data(1), method, **options)


def test_rule_of_one_layer() -> None:
    """Among other rules it is fitted alone; a pool has no pattern."""
    model, x = everything(), data(2)
    rules = {"first": "pattern_net"}
    explainer = graphprop.compile(model, x, "gradient", rules=rules, fit=[data()])
    names = [name for name in explainer.legal.tensors if "graphprop.pattern" in name]
    assert names == ["graphprop.pattern.first"]
    with pytest.raises(MethodError, match="lacks data"):
        graphprop.compile(model, x, "gradient", rules=rules)
    with pytest.raises(MethodError, match=r"does not fit .*: it is for layers with weights"):
        graphprop.compile(model, x, "gradient", rules={"type:max_pool": "pattern_net"})


def test_rules_on_tensors() -> None:
    x, r = torch.randn(4, 3), torch.randn(4, 2)
    layer = Layer.of(Linear(), x, torch.randn(2, 3))
    with pytest.raises(MethodError, match="fitted to data"):
        pattern_net(layer, x, r)
    layer.pattern = torch.randn(2, 3)
    torch.testing.assert_close(pattern_net(layer, x, r)[0], r @ layer.pattern)
    torch.testing.assert_close(
        pattern_attribution(layer, x, r)[0], r @ (layer.pattern * layer.weight)
    )


# Files and the command line


MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
example_input = torch.zeros(1, 1, 8, 8)
preprocessing = {"mean": [0.25], "std": [0.5]}
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        folder = tmp_path / "pictures" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    (tmp_path / "pictures" / ".hidden.png").write_text("no picture")
    np.savez("bytes.npz", images=pictures, labels=np.zeros(40))
    np.savez("last.npz", pictures[..., None])
    np.save("inputs.npy", ((pictures[:, None] / 255 - 0.25) / 0.5).astype(np.float32))
    return tmp_path


def fitted(data: str, method: str = "pattern_attribution") -> tuple[dict[str, Any], Any]:
    main(["compile", "model.py", "-m", method, "--fit", data, "-o", "out"], standalone_mode=False)
    return json.loads(Path("out/manifest.json").read_text()), load_file("out/weights.safetensors")


@pytest.mark.usefixtures("workplace")
def test_command_line() -> None:
    """Pictures and arrays of the same values give the same patterns, which the files hold."""
    manifests, weights = zip(
        *(fitted(name) for name in ("pictures", "bytes.npz", "last.npz", "inputs.npy")), strict=True
    )
    for manifest, tensors in zip(manifests, weights, strict=True):
        assert manifest["fit"]["samples"] == 40
        assert manifest["check"]["passed"]
        assert tensors.keys() == {
            *("0.weight", "0.bias", "3.weight", "3.bias"),
            *("graphprop.pattern.0", "graphprop.pattern.3"),
        }
        for name in tensors:
            torch.testing.assert_close(tensors[name], weights[0][name])
    assert manifests[1]["fit"] == manifests[2]["fit"]
    assert manifests[0]["fit"]["sha256"] != manifests[1]["fit"]["sha256"]  # another order
    assert main(["check", "out"], standalone_mode=False) in (None, 0)
    main(["explain", "out", "pictures/0/00.png"], standalone_mode=False)
    assert Path("explanations/00.npz").exists()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.save("data.npy", np.zeros((3, 1, 9, 8))), r"give numbers of the shape \(N, 1"),
        (lambda: np.save("data.npy", np.zeros((3, 1, 8, 8), complex)), "and the type complex128"),
        (lambda: np.save("data.npy", np.zeros((0, 1, 8, 8))), "holds no sample"),
        (lambda: Path("data.npy").write_text("no array"), "can't be read as an array"),
        (lambda: np.savez("data.npz", a=np.zeros(2), b=np.zeros(2)), "no array 'images', but a, b"),
        (lambda: Path("data").mkdir(), "there is no picture in data"),
        (lambda: Path("data.txt").write_text("no picture"), "can't be read as a picture"),
        (lambda: None, "there is no picture nothing"),
    ],
)
def test_data_that_is_none(make: Any, message: str) -> None:
    before = set(Path().iterdir())
    make()
    (name,) = {path.name for path in set(Path().iterdir()) - before} or {"nothing"}
    manifest = {"input_shape": [1, 8, 8], "input_shapes": [[1, 8, 8]], "preprocessing": None}
    with pytest.raises(InputError, match=message):
        list(read_batches(Path(name), manifest, torch.float32))


def test_data_of_a_model_with_several_inputs() -> None:
    manifest = {"input_shapes": [[3], [4]]}
    with pytest.raises(InputError, match=r"takes 2 inputs, .* from Python instead"):
        read_batches(Path("data.npy"), manifest, torch.float32)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        return self.last(F.relu(self.left(a) + self.right(b)))


def test_several_inputs_from_python() -> None:
    torch.manual_seed(1)
    model = Two().double().eval()
    a, b = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    example = (a[:2], b[:2])
    explainer = graphprop.compile(
        model, example, "pattern_net", fit=[(a[:20], b[:20]), {"a": a[20:], "b": b[20:]}]
    )
    for name, x, layer in (("left", a, model.left), ("right", b, model.right)):
        expected = pattern(layer, x, layer(x).detach())
        torch.testing.assert_close(explainer.legal.tensors[f"graphprop.pattern.{name}"], expected)
    with pytest.raises(GraphpropError, match="has 1 of the model's 2 inputs"):
        graphprop.compile(model, example, "pattern_net", fit=[a])
