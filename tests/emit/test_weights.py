"""Weights that are loaded later: what is derived from them follows; others' are refused."""

import copy
from functools import lru_cache
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graphprop
from graphprop import api
from graphprop.artifact.write import contiguous
from graphprop.emit.execute import run_source
from graphprop.errors import WeightsError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).amax((2, 3)))


METHODS = ["epsilon_plus_flat", "epsilon_gamma_box", "rap", "rap-bn", "hedge", "deeplift"]
x = torch.randn(3, 2, 7, 7, generator=torch.Generator().manual_seed(1))


def compiled(*arguments, **options):
    return copy.deepcopy(compiled_once(*arguments, **options))


@lru_cache
def compiled_once(seed, method="rap", change=None):
    torch.manual_seed(seed)
    model = Net().eval()
    model.norm.running_mean.normal_()
    model.norm.weight.data.uniform_(0.5, 1.5)
    if change:
        change(model)
    return graphprop.compile(model, x, method)


def maps(explainer, given=x):
    logits, relevance = explainer(given)
    assert relevance.abs().sum() > 0
    return logits, relevance


def same(one, other, **tolerance):
    torch.testing.assert_close(maps(one), maps(other), **tolerance)


def differ(one, other):
    assert not torch.allclose(maps(one)[1], maps(other)[1], rtol=1e-2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("assign", [False, True])
def test_derived_weights_follow_a_state_dict(method, assign):
    wanted = compiled(1, method)
    whole, module, inside = (compiled(0, method) for _ in range(3))
    differ(whole, wanted)
    whole.load_state_dict(wanted.state_dict(), assign=assign)
    same(whole, wanted)
    module.module.load_state_dict(wanted.module.state_dict(), assign=assign)
    same(module, wanted)
    parent = nn.ModuleDict({"inner": nn.ModuleList([inside.module])})
    weights = nn.ModuleDict({"inner": nn.ModuleList([wanted.module])}).state_dict()
    parent.load_state_dict(weights, assign=assign)
    same(parent["inner"][0], wanted)


def test_a_state_dict_holds_what_the_weight_file_holds():
    explainer = compiled(0)
    assert len(explainer.state_dict()) == len(explainer.legal.stored)
    assert all(name.startswith("module.") for name in explainer.state_dict())


def test_a_part_of_a_state_dict():
    def replaced(model):
        model.second.weight.data.mul_(-0.5)

    wanted, explainer = compiled(0, change=replaced), compiled(0)
    differ(explainer, wanted)
    part = {"second_weight": wanted.module.second_weight}
    found = explainer.module.load_state_dict(part, strict=False)
    assert "first_weight" in found.missing_keys
    same(explainer, wanted)


def test_a_state_dict_that_does_not_fit_leaves_all_in_step():
    explainer, other = compiled(0), compiled(1)
    before = maps(explainer)
    weights = other.module.state_dict() | {"first_weight": torch.zeros(4, 3, 3, 3)}
    with pytest.raises(RuntimeError, match="size mismatch for first_weight"):
        explainer.module.load_state_dict(weights)
    # torch keeps what fitted: the map is that of the weights that are there
    stored = [node for node in explainer.legal.graph.nodes if node.op == "get_attr"]
    now = {node.target: getattr(explainer.module, node.name) for node in stored}
    same(explainer, run_source(explainer.source)(now))
    assert not torch.allclose(maps(explainer)[1], before[1])


@pytest.mark.parametrize("method", METHODS)
def test_derived_weights_follow_a_conversion(method):
    explainer = compiled(0, method)
    exact = {name: tensor.double() for name, tensor in explainer.legal.stored.items()}
    wanted = run_source(explainer.source)(exact)
    for convert in (nn.Module.double, lambda module: module.to(torch.float64)):
        module = copy.deepcopy(explainer.module)
        found = convert(nn.Sequential(module))[0]
        assert found is module
        torch.testing.assert_close(
            maps(found, x.double()), maps(wanted, x.double()), rtol=1e-12, atol=1e-14
        )
    double, other = copy.deepcopy(explainer).double(), compiled(1, method)
    double.load_state_dict(other.state_dict())
    torch.testing.assert_close(
        maps(double, x.double()), maps(copy.deepcopy(other).double(), x.double())
    )
    same(double.float(), other)


def test_channels_stay_last_in_memory():
    explainer = compiled(0, "epsilon_plus")
    explainer.load_state_dict(compiled(1, "epsilon_plus").state_dict(), assign=True)
    for buffer in explainer.double().buffers():
        assert buffer.dim() < 4 or buffer.is_contiguous(memory_format=torch.channels_last)


def test_weights_on_no_device_come_later():
    explainer, wanted = compiled(0), compiled(1)
    empty = copy.deepcopy(explainer.module).to("meta")
    empty.load_state_dict(wanted.module.state_dict(), assign=True)
    same(empty, wanted)


# Weights that change


def trained_on(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_trained_on_changes_no_explainer(method, tmp_path):
    model = Net().eval()
    captured = graphprop.capture(model, x)
    explainer = graphprop.compile(captured, method=method)
    before = maps(explainer)
    trained_on(model)
    torch.testing.assert_close(maps(explainer), before, rtol=0, atol=0)
    explainer.save(tmp_path / "old", check=False)
    written = run_source(explainer.source)
    stored = load_file(tmp_path / "old" / "weights.safetensors")
    torch.testing.assert_close(maps(written(stored)), before, rtol=0, atol=0)
    # one capture, compiled now: of the weights that the model has now
    now = graphprop.compile(captured, method=method)
    torch.testing.assert_close(maps(now)[0], model(x))
    same(now, graphprop.compile(model, x, method), rtol=0, atol=0)


def test_a_state_dict_changes_no_other_explainer():
    captured = graphprop.capture(Net().eval(), x)
    one, other = (graphprop.compile(captured, method=m) for m in ("rap", "epsilon_plus_flat"))
    before = maps(other)
    one.load_state_dict(compiled(1).state_dict())
    torch.testing.assert_close(maps(other), before, rtol=0, atol=0)


@pytest.mark.parametrize("act", ["check", "save", "ledger"])
def test_what_was_not_compiled_is_neither_checked_nor_written(act, tmp_path):
    explainer, other = compiled(0), compiled(1)
    acts = {
        "check": explainer.check,
        "save": lambda: explainer.save(tmp_path / "new"),
        "ledger": lambda: api.ledger(explainer, x),
    }
    kept = explainer.state_dict()
    kept = {name: tensor.clone() for name, tensor in kept.items()}
    explainer.load_state_dict(other.state_dict())
    with pytest.raises(WeightsError, match="weights were changed after the compile"):
        acts[act]()
    assert not (tmp_path / "new").exists()
    explainer.load_state_dict(kept)
    acts[act]()


def test_another_type_is_no_change():
    explainer = compiled(0).double()
    explainer.refuse_changed_weights()
    explainer.half().refuse_changed_weights()


# Weights of another network


WRONG = {
    "missing": (
        lambda weights: weights.pop("head.bias"),
        r"the weights hold no 'head.bias' of shape \[3\]: give the weights that were written",
    ),
    "another shape": (
        lambda weights: weights.update({"head.weight": torch.zeros(3, 7)}),
        r"'head.weight' must have shape \[3, 6\], not \[3, 7\]: give the weights that were",
    ),
    "turned round": (
        lambda weights: weights.update({"head.weight": torch.zeros(6, 3)}),
        r"'head.weight' must have shape \[3, 6\], not \[6, 3\]",
    ),
    "one more": (
        lambda weights: weights.update({"more.weight": torch.zeros(1)}),
        "the explainer has no use for the weights' 'more.weight': give the weights that were",
    ),
    "another network": (
        lambda weights: (weights.clear(), weights.update(fc=torch.zeros(1))),
        r"the weights hold no '.*' of shape .*: give the weights that were written together with",
    ),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return compiled(0).save(folder / "net", onnx=False, check=False)


def load_function(directory):
    module = ModuleType("explainer")
    module.__file__ = str(directory / "explainer.py")
    exec(compile((directory / "explainer.py").read_bytes(), "explainer.py", "exec"), vars(module))
    return module.load


@pytest.mark.parametrize("name", WRONG)
def test_weights_of_another_network_are_refused(directory, tmp_path, name):
    change, text = WRONG[name]
    weights = load_file(directory / "weights.safetensors")
    change(weights)
    save_file(contiguous(weights), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=text) as caught:
        load_function(directory)(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_weight_file_is_named(directory, tmp_path):
    load = load_function(directory)
    same(load(), compiled(0))
    same(load(str(directory)), compiled(0))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*weights.safetensors: give"):
        load(tmp_path)
    (tmp_path / "weights.safetensors").write_text("not weights")
    with pytest.raises(
        ValueError, match=r"weights.safetensors can't be read \(.*\): compile again"
    ):
        load(tmp_path)
