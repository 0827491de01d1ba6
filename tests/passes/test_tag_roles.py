"""Roles come from data flow: what a layer is for, whatever it is called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprop
from graphprop.errors import MethodError
from support.modules import Model


def roles(
    model: nn.Module, *shape: int, given: dict[str, str] | None = None, method: str = "lrp_z"
) -> dict[str, str]:
    """The roles of each layer that has any, sorted, by its label."""
    explainer = graphprop.compile(model.eval(), torch.randn(2, *shape), method, roles=given)
    return {info.label: " ".join(sorted(info.roles)) for info in explainer.layers if info.roles}


def rules(
    model: nn.Module, *shape: int, given: dict[str, str] | None = None, method: str
) -> dict[str, str]:
    """The rule of each layer that has a role, without its parameters."""
    explainer = graphprop.compile(model.eval(), torch.randn(2, *shape), method, roles=given)
    return {i.label: (i.rule or "none").split("(")[0] for i in explainer.layers if i.roles}


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )


# Where the dense head begins


def test_chain() -> None:
    assert roles(chain(), 3, 8, 8) == {
        "0": "conv_stack input",
        "3": "conv_stack",
        "6": "dense_head",
        "8": "dense_head logits",
    }


def test_rules_follow_roles() -> None:
    assert rules(chain(), 3, 8, 8, method="epsilon_plus_flat") == {
        "0": "flat",
        "3": "z_plus",
        "6": "epsilon",
        "8": "epsilon",
    }


def test_dense_layers_alone_are_a_dense_head() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    assert roles(model, 3, 2, 2) == {"1": "dense_head input", "3": "dense_head logits"}
    assert roles(model[1:], 12) == {"1": "dense_head input", "3": "dense_head logits"}


def test_one_layer_is_everything() -> None:
    assert roles(nn.Sequential(nn.Linear(4, 2)), 4) == {"0": "dense_head input logits"}


def test_convolution_as_classifier_belongs_to_the_stack() -> None:
    """SqueezeNet: a 1x1 convolution over the whole map, averaged afterwards."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    assert roles(model, 3, 8, 8) == {"0": "conv_stack input", "3": "conv_stack logits"}


def test_convolution_behind_a_global_pool_belongs_to_the_head() -> None:
    """MobileNet v3 in many hands: 1x1 convolutions that are dense layers."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 5, 1),
        nn.Hardswish(),
        nn.Conv2d(5, 2, 1),
        nn.Flatten(),
    )
    assert roles(model, 3, 8, 8) == {
        "0": "conv_stack input",
        "3": "dense_head",
        "5": "dense_head logits",
    }


def test_maps_of_one_place_leave_the_stack_as_it_is() -> None:
    """At 8x8 every convolution but the first sees one place; their roles are those at 64x64."""

    def narrowing() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    small, large = (roles(narrowing(), 3, size, size) for size in (8, 64))
    assert small == large
    assert small["7"] == "conv_stack"
    assert small["11"] == "dense_head logits"


def test_pooling_back_to_a_map_ends_the_stack_all_the_same() -> None:
    """VGG's pooling to 7x7 enlarges the map of one place that small images leave."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(4 * 49, 2),
    )
    for size in (4, 8, 28):
        assert roles(model, 3, size, size) == {"0": "conv_stack input", "5": "dense_head logits"}


def test_linear_layer_along_an_axis_is_no_head() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    assert roles(model, 3, 6) == {"0": "conv_stack input", "3": "dense_head logits"}


def test_head_before_another_map_is_no_head() -> None:
    """What is dense in the middle, as in an autoencoder, belongs to the stack."""
    model = Model(
        lambda m, x: m.out(
            F.relu(m.up(F.relu(m.mid(m.conv(x).flatten(1))).view(-1, 4, 2, 2))).mean((2, 3))
        ),
        conv=nn.Conv2d(3, 4, 3),
        mid=nn.Linear(16, 16),
        up=nn.ConvTranspose2d(4, 3, 2, stride=2),
        out=nn.Linear(3, 2),
    )
    assert roles(model, 3, 4, 4) == {
        "conv": "conv_stack input",
        "mid": "conv_stack",
        "up": "conv_stack",
        "out": "dense_head logits",
    }


def test_one_and_three_dimensions() -> None:
    for conv, shape in ((nn.Conv1d, (2, 8)), (nn.Conv3d, (2, 4, 4, 4))):
        model = nn.Sequential(conv(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        model(torch.randn(1, *shape))
        assert roles(model, *shape) == {"0": "conv_stack input", "3": "dense_head logits"}


# The other roles


class Block(nn.Module):
    """A residual block with a projection for its shortcut."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down: nn.Module | None = None
        if stride > 1 or before != after:
            self.down = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        Block(4, 4),
        Block(4, 6, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def test_projection_beside_a_block_is_a_shortcut() -> None:
    assert roles(residual(), 3, 8, 8) == {
        "0": "conv_stack input",
        "2.conv1": "conv_stack",
        "2.conv2": "conv_stack",
        "3.conv1": "conv_stack",
        "3.conv2": "conv_stack",
        "3.down.0": "conv_stack shortcut",
        "6": "dense_head logits",
    }


def test_branches_of_equal_depth_are_no_shortcuts() -> None:
    model = Model(
        lambda m, x: m.fc(F.relu(m.left(x) + m.right(x)).mean((2, 3))),
        left=nn.Conv2d(3, 4, 3, padding=1),
        right=nn.Conv2d(3, 4, 1),
        fc=nn.Linear(4, 2),
    )
    assert roles(model, 3, 6, 6) == {
        "left": "conv_stack input",
        "right": "conv_stack input",
        "fc": "dense_head logits",
    }


def test_everything_that_reads_the_image_is_an_input_layer() -> None:
    """Inception-like: several stems, one of them behind a pool."""
    model = Model(
        lambda m, x: m.fc(
            torch.cat([m.a(x), m.b(F.avg_pool2d(x * 2 - 1, 3, 1, 1)), m.d(m.c(x))], 1).mean((2, 3))
        ),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(3, 2, 1),
        c=nn.Conv2d(3, 2, 1),
        d=nn.Conv2d(2, 2, 1),
        fc=nn.Linear(6, 2),
    )
    found = roles(model, 3, 6, 6)
    assert {label for label, role in found.items() if "input" in role} == {"a", "b", "c"}
    assert found["d"] == "conv_stack"


def test_layer_that_reads_image_and_features_is_no_input_layer() -> None:
    model = Model(
        lambda m, x: m.fc(m.late(torch.cat([x, m.early(x)], 1)).mean((2, 3))),
        early=nn.Conv2d(3, 2, 1),
        late=nn.Conv2d(5, 4, 1),
        fc=nn.Linear(4, 2),
    )
    assert roles(model, 3, 6, 6)["late"] == "conv_stack"


def test_gate_branch() -> None:
    model = Model(
        lambda m, x: m.fc(scaled(m, F.relu(m.conv(x))).mean((2, 3))),
        conv=nn.Conv2d(3, 4, 3),
        squeeze=nn.Conv2d(4, 2, 1),
        excite=nn.Conv2d(2, 4, 1),
        fc=nn.Linear(4, 2),
    )
    assert roles(model, 3, 8, 8) == {
        "conv": "conv_stack input",
        "squeeze": "gate",
        "excite": "gate",
        "fc": "dense_head logits",
    }
    compiled = rules(model, 3, 8, 8, method="epsilon_plus")
    assert compiled["squeeze"] == compiled["excite"] == "none"
    # a rule for what carries no relevance changes nothing
    assert (
        graphprop.compile(
            model, torch.randn(2, 3, 8, 8), "epsilon_plus", rules={"squeeze": "epsilon"}
        )
        .layers[3]
        .rule
        is None
    )


def scaled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate = torch.sigmoid(m.excite(F.relu(m.squeeze(F.adaptive_avg_pool2d(x, 1)))))
    return x * gate


def test_gate_that_reads_the_image_is_no_input_layer() -> None:
    model = Model(
        lambda m, x: m.fc((m.conv(x) * torch.sigmoid(m.attend(x))).mean((2, 3))),
        conv=nn.Conv2d(3, 4, 1),
        attend=nn.Conv2d(3, 1, 1),
        fc=nn.Linear(4, 2),
    )
    assert roles(model, 3, 6, 6)["attend"] == "gate"


def test_branch_that_leads_nowhere_has_no_part() -> None:
    model = Model(
        lambda m, x: (m.aside(x), m.fc(m.conv(x).mean((2, 3))))[1],
        conv=nn.Conv2d(3, 4, 1),
        aside=nn.Conv2d(3, 4, 1),
        fc=nn.Linear(4, 2),
    )
    assert "aside" not in roles(model, 3, 6, 6)


def test_several_last_layers_are_all_logits() -> None:
    model = Model(
        lambda m, x: torch.cat([m.first(x.flatten(1)), m.second(x.flatten(1))], 1),
        first=nn.Linear(12, 2),
        second=nn.Linear(12, 3),
    )
    assert roles(model, 3, 2, 2) == {
        "first": "dense_head input logits",
        "second": "dense_head input logits",
    }


def test_depth_counts_weighted_and_pooling_layers() -> None:
    explainer = graphprop.compile(residual().eval(), torch.randn(2, 3, 8, 8))
    depths = {info.label: info.depth for info in explainer.layers if info.roles}
    assert depths == {
        "0": 0,
        "2.conv1": 1,
        "2.conv2": 2,
        "3.conv1": 3,
        "3.conv2": 4,
        "3.down.0": 3,
        "6": 6,
    }


# Overrides


def test_role_by_hand_replaces_what_was_found() -> None:
    model = chain()
    given = {"3": "dense_head"}
    assert roles(model, 3, 8, 8, given=given)["3"] == "dense_head"
    assert rules(model, 3, 8, 8, given=given, method="epsilon_plus")["3"] == "epsilon"
    given = {"0": "conv_stack"}
    assert roles(model, 3, 8, 8, given=given)["0"] == "conv_stack"
    assert rules(model, 3, 8, 8, given=given, method="epsilon_plus_flat")["0"] == "z_plus"


def test_input_by_hand_adds_to_what_was_found() -> None:
    given = {"3": "input"}
    assert roles(chain(), 3, 8, 8, given=given)["3"] == "conv_stack input"
    found = rules(chain(), 3, 8, 8, given=given, method="epsilon_plus_flat")
    assert (found["0"], found["3"]) == ("flat", "flat")


@pytest.mark.parametrize("pattern", ["type:Conv2d", "conv", "[03]"])
def test_role_by_pattern(pattern: str) -> None:
    found = rules(chain(), 3, 8, 8, given={pattern: "dense_head"}, method="epsilon_gamma_box")
    assert found == dict.fromkeys(("0", "3", "6", "8"), "epsilon")


def test_later_overrides_win() -> None:
    given = {"*": "conv_stack", "8": "dense_head"}
    assert rules(chain(), 3, 8, 8, given=given, method="epsilon_plus") == {
        "0": "z_plus",
        "3": "z_plus",
        "6": "z_plus",
        "8": "epsilon",
    }


def test_overrides_are_refused() -> None:
    for given, text in (
        (
            {"0": "first"},
            "there is no role 'first': there are: conv_stack, dense_head, gate, input",
        ),
        ({"0": "dense"}, "there is no role 'dense': did you mean 'dense_head'?"),
        ({"conv9": "input"}, "the role pattern 'conv9' matches no layer: there are: 0, 3, 6, 8"),
        ({"0": "gate"}, "'0' can't be made a gate: that follows from the data flow"),
    ):
        with pytest.raises(MethodError, match=text):
            roles(chain(), 3, 8, 8, given=given)
