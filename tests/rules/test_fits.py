"""Every rule on every kind of operator: it compiles, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import GraphpropError, MethodError
from graphprop.frontend.captured import Captured
from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.passes.assign_rules import assign_rules
from graphprop.passes.pipeline import Pipeline, analysis_steps
from graphprop.rules.layer import Layer, Tensor
from graphprop.rules.parameters import resolve_parameters
from graphprop.rules.registry import METHODS, RULES

METHOD = "lrp_epsilon"


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Forget what a test registers."""
    rules = dict(RULES)
    yield
    RULES.clear()
    RULES.update(rules)


class Kinds(nn.Module):
    """One layer of each kind that relevance passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.square = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.point, self.up = nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.batch_norm, self.group_norm = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.largest, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.adaptive = nn.AdaptiveMaxPool2d(2)
        self.resize, self.pad = nn.Upsample(scale_factor=2), nn.ZeroPad2d(1)
        self.dense, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.batch_norm(F.relu(self.first(x))))
        x = self.square(x) + self.point(x)
        x = self.largest(F.silu(self.group_norm(F.leaky_relu(x))))
        x = F.gelu(self.up(x))
        x = torch.cat([x[:, :2], x[:, 2:]], 1)
        x = self.average(self.resize(x * torch.sigmoid(self.point(x))))
        x = self.pad(torch.maximum(x, x * x))
        x = self.adaptive(x / (1 + x.abs()))
        x = x.transpose(2, 3) - x.mean(1, keepdim=True)
        x = F.adaptive_avg_pool2d(torch.where(x > 0.1, x, 0.1), 1).flatten(1)
        return self.fc(F.relu(self.dense(x)))


@cache
def source() -> Captured:
    torch.manual_seed(0)
    return graphprop.capture(Kinds().eval(), torch.randn(2, 3, 8, 8))


def analyzed() -> Network:
    method = METHODS[METHOD]
    settings = resolve_parameters(method, {})
    return Pipeline().run(analysis_steps(method, settings), source().program)


@pytest.mark.parametrize("rule", RULES)
def test_rule_on_every_kind_compiles_or_is_refused(rule: str) -> None:
    """The refusal names the layer, the rule and rules that fit; what is not refused is compiled."""
    network, method = analyzed(), METHODS[METHOD]
    settings = resolve_parameters(method, {})
    accepted = []
    for node in network.layers:
        label = facts_of(node).label
        found = refusal(lambda given=label: assign_rules(network, method, settings, {given: rule}))
        if found is None:
            accepted.append(label)
            continue
        # a name may stand for a kind, too: then it is another layer of that
        assert f"the rule {rule!r} does not fit '" in found
        fitting = found.rpartition("Rules that fit there: ")[2].split(", ")
        assert "gradient" in fitting
        assert rule not in fitting
    if refusal(lambda: compiled(dict.fromkeys(accepted, rule))) is None:
        return
    for label in accepted:  # some can't have it for a reason of their own
        found = refusal(lambda given=label: compiled({given: rule}))
        assert found is None or re.search(rf"rule '?{rule}\b.* '{label}(#\d)?'", found)


def refusal(call: Callable[[], object]) -> str | None:
    """What is said against an input, if anything is."""
    try:
        call()
    except GraphpropError as error:
        return str(error) if error.exit_code == 2 else pytest.fail(f"a defect: {error}")
    return None


def compiled(rules: dict[str, str]) -> graphprop.CompiledExplainer:
    return graphprop.compile(source(), method=METHOD, rules=rules)


def test_rules_that_are_named_do_fit() -> None:
    network, method = analyzed(), METHODS[METHOD]
    settings = resolve_parameters(method, {})
    passed = [node for node in network.layers if facts_of(node).rule is not None]
    for label in [facts_of(node).label for node in passed]:
        with pytest.raises(MethodError) as refusal:
            assign_rules(network, method, settings, {label: "times_input"})
        for rule in str(refusal.value).rpartition("Rules that fit there: ")[2].split(", "):
            assign_rules(network, method, settings, {label: rule})


def test_rules_that_are_named_do_not_refuse_the_layer() -> None:
    """The flat rule is for layers with weights, but not for dense ones."""
    with pytest.raises(MethodError) as refusal:
        compiled({"fc": "winner"})
    named = str(refusal.value).rpartition("Rules that fit there: ")[2].split(", ")
    assert "epsilon" in named
    assert "flat" not in named


@pytest.mark.usefixtures("own_registry")
def test_rule_of_ones_own_that_does_not_fit() -> None:
    """What it computes has no shape: that is its author's to correct."""

    @graphprop.rule
    def unfit(layer: Layer, x: Tensor, r: Tensor) -> Tensor:
        return x * r

    with pytest.raises(
        MethodError, match=r"rule unfit at 'first'.*\. Rules that fit there: .*z_plus"
    ):
        graphprop.compile(source(), method=METHOD, rules={"first": "unfit"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "largest=guided",
            r"the rule 'guided' does not fit 'largest' \(.*\) \(max_pool\): it is for rectifiers "
            r"that clip at zero \(relu, relu6, .*\)\. "
            r"Rules that fit there: flat, gradient, winner$",
        ),
        (
            "first=winner",
            r"the rule 'winner' does not fit 'first' \(.*\) \(conv\): it is for maxima.*"
            r"Rules that fit there: alpha_beta, epsilon, .*, z_plus$",
        ),
        (
            "first=pass",
            r"the rule 'pass' can't be applied to 'first' \(.*\) \(conv\): .*of its own shape\. "
            r"Rules that fit there: .*z_plus$",
        ),
    ],
)
def test_refusals_are_of_input(given: str, message: str) -> None:
    pattern, rule = given.split("=")
    with pytest.raises(MethodError, match=message) as refusal:
        graphprop.compile(source(), method=METHOD, rules={pattern: rule})
    assert refusal.value.exit_code == 2
