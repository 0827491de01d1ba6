"""The ledger: every rule's losses are known, and a rule or a lowering that loses more is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.api import ledger
from graphprop.checking.ledger import Ledger
from graphprop.checking.losses import ACCOUNTS, NOT_CONSERVING
from graphprop.errors import InputError
from graphprop.rules import METHODS, RULES
from support.maps import fitting

MAPS = {
    "times_input",
    "times_difference",
    "full_gradient",
    "gradient_cam",
    "gradient_cam_plus_plus",
    "relevance_cam",
    "difference",
    "contrast",
    "above_zero",
}
"""Rules that make a map, and carry nothing through a layer."""


class Everything(nn.Module):
    """A layer of each kind that has an account of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(16, 12, 3, stride=2)
        self.groups = nn.GroupNorm(3, 12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.transposed = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.dense, self.logits = nn.Linear(6 * 4, 10), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 3, stride=2, padding=1)
        branch = F.gelu(self.grouped(x))
        x = torch.cat([x + branch, F.avg_pool2d(branch, 3, stride=1, padding=1)], 1)
        x = self.groups(self.strided(F.pad(x, (1, 1, 0, 2))))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = F.leaky_relu(self.transposed(x * gate - 0.1))
        x = F.interpolate(F.pad(x, (1, 0, 0, 1), value=0.5), scale_factor=2, mode="bilinear")
        x = torch.flatten(F.adaptive_avg_pool2d(x, 2), 1)
        return self.logits(F.relu(self.dense(x)))


def network() -> nn.Module:
    model = Everything()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.2)
    nn.init.uniform_(model.norm.running_mean, -0.3, 0.3)
    with torch.no_grad():
        model.norm.weight[::3] *= -1
    return model.double().eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, dtype=torch.float64)


def wrong(entries):
    return [str(entry) for entry in entries if not entry.balanced()]


@pytest.mark.parametrize("method", METHODS)
def test_accounts_balance(method):
    options = {"layer": "strided"} if METHODS[method].layer == "last spatial" else {}
    options |= fitting(method, images(1))
    explainer = graphprop.compile(network(), images(1), method, **options)
    entries = ledger(explainer, images(), torch.tensor([0, 4, 2]))
    assert wrong(entries) == []
    assert {len(entry.came_in) for entry in entries} == {3}
    noted = {entry.rule.partition("(")[0] for entry in entries if entry.note}
    assert noted <= {*NOT_CONSERVING, "pass"}
    single = len(METHODS[method].flow_names) == 1 and not METHODS[method].layer
    if not noted and single:
        assert all(entry.misplaced for entry in entries[1:])


@pytest.mark.parametrize("rule", ["w_square", "gamma", "z", "alpha_beta", "zB", "epsilon"])
@pytest.mark.parametrize(("bias", "stabilizer"), [("sink", 0.3), ("ignored", 0.0)])
def test_accounts_of_a_rule_on_every_layer(rule, bias, stabilizer):
    given = {"bias": bias, "stabilizer": stabilizer, "epsilon": 0.3, "low": -1.0, "high": 2.0}
    own = {key: value for key, value in given.items() if key in RULES[rule].parameters}
    explainer = graphprop.compile(network(), images(1), "lrp_z", rules={"*": (rule, own)})
    entries = ledger(explainer, images())
    assert wrong(entries) == []
    weighted = [entry for entry in entries if entry.rule.startswith(rule)]
    if rule in ("w_square", "zB"):
        assert all(not any(entry.bias) for entry in weighted)
    else:
        assert any(any(entry.bias) for entry in weighted) == (bias == "sink")
    stabilized = rule == "epsilon" or stabilizer > 0
    assert any(any(entry.stabilizer) for entry in weighted) == stabilized


@pytest.mark.parametrize(
    "options",
    [{"authors": True}, {"active": "support"}, {"residual": "signed"}, {"nu": "printed"}],
)
def test_accounts_of_raps_variants(options):
    explainer = graphprop.compile(network(), images(1), "rap", **options)
    entries = ledger(explainer, images())
    assert wrong(entries) == []
    assert not any(entry.note for entry in entries)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("method", ["lrp_alpha1_beta0", "preset_b"])
def test_accounts_of_any_alpha_and_beta(method, alpha, beta):
    explainer = graphprop.compile(network(), images(1), method, alpha=alpha, beta=beta)
    entries = ledger(explainer, images())
    assert wrong(entries) == []
    scaled = [entry for entry in entries if any(entry.scaled)]
    assert {entry.rule.partition("(")[0] for entry in scaled} == {"alpha_beta"}
    for entry in scaled:
        factor = 1 - (alpha - beta)
        assert entry.scaled == pytest.approx([factor * came_in for came_in in entry.came_in])


def test_every_rule_has_an_account_or_a_reason():
    assert set(ACCOUNTS).isdisjoint(NOT_CONSERVING)
    own = {name for name, rule in RULES.items() if rule.function.__module__.startswith("graphprop")}
    assert own == set(ACCOUNTS) | set(NOT_CONSERVING) | MAPS


def test_a_bias_swallows_its_share():
    layer = nn.Linear(2, 1).eval()
    layer.weight.data, layer.bias.data = torch.tensor([[2.0, -1.0]]), torch.tensor([3.0])
    explainer = graphprop.compile(layer, torch.zeros(1, 2), "lrp_z", bias="sink")
    entry, _ = ledger(explainer, torch.tensor([[1.0, 1.0]]), 0)
    assert entry.came_in == (4.0,)
    assert entry.went_out == (1.0,)
    assert entry.bias == (3.0,)
    assert entry.unexplained == (0.0,)
    assert str(entry).endswith("0.0e+00 unexplained, 0.0e+00 misplaced")


def test_a_zero_denominator_hands_nothing_on():
    model = nn.Linear(3, 2, bias=False).eval()
    model.weight.data = -model.weight.data.abs()
    explainer = graphprop.compile(model, torch.zeros(1, 3), "lrp_alpha1_beta0")
    entry, at_input = ledger(explainer, torch.rand(2, 3), 1)
    assert entry.went_out == (0.0, 0.0)
    assert entry.zero_denominators == entry.came_in
    assert at_input.came_in == (0.0, 0.0)
    assert wrong([entry, at_input]) == []


def test_padding_and_constants_get_their_share():
    class Framed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 2, 3, bias=False)
            self.register_buffer("coordinates", torch.rand(1, 1, 6, 6))

        def forward(self, x):
            places = self.coordinates.expand(x.shape[0], -1, -1, -1)
            x = F.pad(torch.cat([x, places], 1), (1, 1, 1, 1), value=2.0)
            return self.conv(x).mean((2, 3))

    explainer = graphprop.compile(Framed().eval(), torch.zeros(1, 3, 6, 6), "lrp_z")
    entries = ledger(explainer, torch.rand(2, 3, 6, 6))
    assert wrong(entries) == []
    outside = {entry.operator for entry in entries if any(entry.outside)}
    assert outside == {"pad"}
    # of the frame, and of the constant channel that was joined in
    assert sum(any(entry.outside) for entry in entries) == 2


@pytest.mark.parametrize("method", ["lrp_z", "lrp_alpha1_beta0", "gradient"])
def test_a_joined_constant_hands_nothing_to_the_image(method):
    class WithPlaces(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, bias=False)
            self.register_buffer("places", torch.ones(1, 1, 6, 6))

        def forward(self, x):
            places = self.places.expand(x.shape[0], -1, -1, -1)
            return self.conv(torch.cat([x, places], 1)).mean((2, 3))

    model = WithPlaces().eval()
    explainer = graphprop.compile(model, torch.zeros(1, 1, 6, 6), method)
    x = torch.zeros(2, 1, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    expected = gradient if method == "gradient" else x.detach()
    torch.testing.assert_close(explainer(x.detach(), 1)[1], expected)


@pytest.mark.parametrize("method", ["epsilon_plus", "rap"])
def test_a_rule_that_loses_more_is_found(method, monkeypatch):
    name = "z_plus" if method == "epsilon_plus" else "rap"
    sound = RULES[name]

    def lossy(layer, x, r, **parameters):
        return sound.function(layer, x, r, **parameters) * 0.99

    monkeypatch.setitem(RULES, name, replace(sound, function=lossy))
    explainer = graphprop.compile(network(), images(1), method)
    found = {entry.label for entry in ledger(explainer, images()) if not entry.balanced()}
    assert {"grouped", "strided", "transposed"} <= found
    assert all(label in ("first", "grouped", "strided", "transposed", "dense") for label in found)


def test_relevance_that_is_not_where_it_was_sent_is_found():
    explainer = graphprop.compile(network(), images(1))
    book = Ledger(explainer.compiled, (images(),), None)
    book.recorded["strided"] = book.recorded["strided"].roll(1, dims=2)
    (entry,) = [
        entry for entry in book.entries() if entry.astray > 1e-6 and "strided" in str(entry)
    ]
    assert entry.label == "strided"
    assert entry.error < 1e-6
    assert entry.astray > 0.1
    assert not entry.balanced()


def test_nan_does_not_balance():
    explainer = graphprop.compile(network(), images(1))
    book = Ledger(explainer.compiled, (images(),), None)
    book.recorded["strided"][1] = torch.nan
    assert not next(entry for entry in book.entries() if entry.label == "strided").balanced()


def test_a_rule_of_the_users_own_is_noted():
    def halves(layer, x, r):
        """Half of it."""
        return layer.opT(layer.weight, r) * 0.0

    rule = replace(RULES["pass"], name="halves", function=halves)
    explainer = graphprop.compile(network(), images(1), rules={"dense": rule.bind()})
    entries = ledger(explainer, images())
    (entry,) = [entry for entry in entries if entry.note]
    assert entry.label == "dense"
    assert str(entry) == "dense (linear, halves): the ledger doesn't know this rule"
    assert entry.balanced()
    assert entry.as_dict()["unexplained"] == ()


def test_every_input_has_an_entry():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)
            self.logits = nn.Linear(4, 2)

        def forward(self, x, y):
            return self.logits(F.relu(self.left(x).mean((2, 3)) + self.right(y)))

    x, y = torch.rand(2, 3, 6, 6), torch.rand(2, 5)
    explainer = graphprop.compile(Pair().eval(), (x, y), "lrp_epsilon")
    entries = ledger(explainer, (x, y), torch.tensor([0, 1]))
    assert [entry.label for entry in entries if entry.operator == "input"] == ["x", "x_2"]
    assert all(entry.misplaced for entry in entries[1:])
    assert wrong(entries) == []


def test_inputs_are_looked_at():
    explainer = graphprop.compile(network(), images(1))
    with pytest.raises(InputError, match="an input must have shape"):
        ledger(explainer, torch.zeros(1, 3, 5, 5))
    # computed in double precision, whatever the type
    x = images(1)
    for given in (x.float(), x.double()):
        assert wrong(ledger(explainer, given)) == []
