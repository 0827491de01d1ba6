"""A few networks of the zoo as they are, by two methods; ``make zoo`` looks at all of them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")

TOOLS = Path(__file__).parent.parent / "tools"
SIZES = {
    "squeezenet1_1": 48,
    "mobilenet_v3_small": 48,
    "shufflenet_v2_x0_5": 48,
    "mnasnet0_5": 48,
    "efficientnet_b0": 32,
    "regnet_y_400mf": 32,
    "googlenet": 48,
    "densenet121": 32,
    "convnext_tiny": 32,
    "r3d_18": 16,
}
"""The height and width that each is looked at with."""
SMALL = ("squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet")
CASES = [(name, "epsilon_plus_flat") for name in SIZES]
CASES += [(name, "rap") for name in SMALL]


@pytest.fixture(scope="module")
def zoo():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import zoo

        yield zoo
    sys.modules.pop("zoo")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Named tensors")
@pytest.mark.parametrize(("name", "method"), CASES, ids=["-".join(case) for case in CASES])
def test_network(zoo, name, method):
    finding = zoo.examine(name, method, samples=1, size=SIZES[name])
    assert finding.reason == ""
    assert finding.verdict == "passed"
    assert finding.not_accounted == 0
    assert finding.unexplained < 1e-6
    assert finding.misplaced < 1e-6
    assert finding.backends["onnxruntime"]["passed"]
    assert bool(finding.lost["bias"]) == (method != "rap")


def test_names(zoo):
    names = zoo.names()
    assert len(names) == len(set(names)) >= 72
    assert {"alexnet", "inception_v3", "regnet_y_128gf", "mc3_18", "fcn_resnet50"} <= set(names)
    assert not any(name.startswith(("vit", "swin", "maxvit")) for name in names)


def test_a_refusal_is_reported(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "build", lambda name: torch.nn.Bilinear(2, 2, 3).eval())
    finding = zoo.examine("alexnet", "epsilon_plus_flat")
    assert finding.verdict == "refused"
    assert finding.reason
    assert "refused" in zoo.row_of(finding, ["onnxruntime"])


def test_wrong_logits_fail(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "own_logits", lambda model, x: torch.ones(len(x), 1000).to(x))
    finding = zoo.examine("squeezenet1_1", "epsilon_plus_flat", samples=1, size=32, backends=())
    assert finding.verdict == "failed"
    assert finding.reason.startswith("the logits are off by")
    assert asdict(finding)["verdict"] == "failed"


def test_patterns_name_models(zoo):
    options = zoo.arguments(["--models", "resnet*,r3d*", "--but", "resnet1??"])
    assert zoo.chosen(options) == ["resnet18", "resnet34", "resnet50", "r3d_18"]
    with pytest.raises(SystemExit, match="no model is called lenet"):
        zoo.chosen(zoo.arguments(["--models", "lenet"]))


def test_weights_are_drawn_from_the_seed(zoo):
    first, second, other = (zoo.build("squeezenet1_1", seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])
    norms = zoo.build("shufflenet_v2_x0_5").state_dict()
    assert bool(norms["conv1.1.weight"].lt(0).any())
    assert bool(norms["conv1.1.weight"].gt(0).any())
    assert all(bool(v.isfinite().all()) for v in norms.values())


# timm

TIMM_SIZES = {"starnet_s050": 32, "lcnet_035": 32, "ghostnet_050": 32, "convnext_atto": 32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Named tensors")
@pytest.mark.parametrize("name", TIMM_SIZES)
def test_network_of_timm(zoo, name):
    pytest.importorskip("timm")
    finding = zoo.examine(f"timm/{name}", "hedge", samples=1, size=TIMM_SIZES[name])
    assert finding.reason == ""
    assert finding.verdict == "passed"
    assert finding.backends["onnxruntime"]["passed"]


@pytest.mark.slow
def test_attention_of_timm_is_refused_as_what_it_is(zoo):
    pytest.importorskip("timm")
    finding = zoo.examine("timm/vit_tiny_patch16_224", "rap", samples=1, size=224)
    assert finding.verdict == "refused"
    assert "attention is not supported yet" in finding.reason
    assert "blocks.0.attn" in finding.reason


def test_families_of_timm(zoo):
    """Each family that there is stands in one of the lists, with one of its networks."""
    pytest.importorskip("timm")
    from timm.models._registry import _model_to_module
    from timm_families import ATTENTION, CONVOLUTIONAL

    for family, name in (CONVOLUTIONAL | ATTENTION).items():
        assert _model_to_module[name] == family
    assert not CONVOLUTIONAL.keys() & ATTENTION.keys()
