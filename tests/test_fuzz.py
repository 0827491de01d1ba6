"""Random networks, and those that once went wrong."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from support import fuzz

CHUNK, CHUNKS = 10, 20
REFUSED = CHUNK // 2
"""At most so many of a chunk may be refused; of all of them, one in ten."""


@pytest.mark.parametrize("first", range(0, CHUNK * CHUNKS, CHUNK))
def test_random_networks(first: int) -> None:
    reasons = [fuzz.attempt(seed) for seed in range(first, first + CHUNK)]
    refused = [reason for reason in reasons if reason is not None]
    for reason in refused:
        # the layer, and the line
        assert re.search(r"'\w[\w.#]*'", reason), reason
        assert re.search(r"fuzz_\d+\.py:\d+", reason), reason
    assert len(refused) <= REFUSED, refused


# What went wrong once. A failure of the above prints its network: it belongs here.

NETWORKS: dict[str, tuple[tuple[int, ...], tuple[str, ...], str]] = {
    "a border of one place is no repetition": (
        (1, 9),
        ("gradient", "lrp_epsilon"),
        """
self.conv1 = nn.Conv1d(1, 3, 3, padding=1, padding_mode='replicate')
self.head1 = nn.Linear(3, 4)
---
v1 = self.conv1(x)
return self.head1(v1.mean(2))
""",
    ),
    "a constant of one place beside a value of one": (
        (2, 8),
        ("gradient", "lrp_epsilon"),
        """
self.head1 = nn.Linear(3, 4)
---
v1 = x.mean(2, keepdim=True)
v2 = torch.cat([v1, torch.linspace(-1, 1, 1).expand(v1.shape[0], 1, 1)], 1)
return self.head1(v2.flatten(1))
""",
    ),
    "maximum over channels": (
        (3, 6, 5),
        ("gradient", "epsilon_plus", "deeplift"),
        """
self.conv1 = nn.Conv2d(3, 4, 3)
self.conv2 = nn.Conv2d(1, 4, 2)
---
v1 = F.relu(self.conv1(x))
v2 = v1 * torch.sigmoid(v1.amax(1, keepdim=True))
v3 = v2.max(1, keepdim=True).values + v1.amax((1, 3), keepdim=True)
return self.conv2(v3).amax((2, 3))
""",
    ),
    "stride behind padding on one side": (
        (2, 12),
        ("gradient", "lrp_alpha2_beta1", "rap"),
        """
self.conv1 = nn.Conv1d(2, 3, 3)
self.conv2 = nn.Conv1d(3, 4, 2, stride=2)
self.head1 = nn.Linear(4, 4)
---
v1 = F.relu(self.conv1(x))
v2 = F.relu(self.conv2(F.pad(v1, (0, 1))))
return self.head1(v2.mean(2))
""",
    ),
    "stride behind cropping": (
        (2, 12),
        ("gradient", "epsilon_plus_flat", "rap"),
        """
self.conv1 = nn.Conv1d(2, 3, 3)
self.conv2 = nn.Conv1d(3, 4, 2, stride=2, padding=1)
self.head1 = nn.Linear(4, 4)
---
v1 = torch.tanh(self.conv1(x))
v2 = F.relu(self.conv2(F.pad(v1, (0, -1))))
return self.head1(v2.mean(2))
""",
    ),
    "average of one place": (
        (2, 6, 3),
        ("gradient", "lrp_epsilon"),
        """
self.norm1 = nn.InstanceNorm2d(2, 1e-2)
self.head1 = nn.Linear(2, 4)
---
v1 = F.max_pool2d(x.square(), (2, 3))
v2 = self.norm1(v1)
v3 = v2.mean(3, keepdim=True)
return self.head1(F.adaptive_max_pool2d(v3, 1).flatten(1))
""",
    ),
    "the same operator twice under one name": (
        (1, 16),
        ("epsilon_alpha2_beta1_flat", "rap"),
        """
self.conv1 = nn.Conv1d(1, 1, 2, padding=1)
self.branch1 = nn.Conv1d(1, 1, 1)
self.excite1 = nn.Linear(1, 1)
self.head1 = nn.Linear(1, 4)
---
v1 = self.conv1(x)
v2 = v1.mean(2, keepdim=True)
v3 = (v2 - self.branch1(v2)).clamp(min=-0.3)
v4 = F.hardsigmoid(self.excite1(v3.mean((2,))))[..., None] * v3
return self.head1(v4.flatten(1))
""",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_went_wrong_once(name: str) -> None:
    shape, methods, text = NETWORKS[name]
    layers, lines = (part.strip().splitlines() for part in text.split("---"))
    made = fuzz.Source(
        "reproducer", shape, [layer.removeprefix("self.") for layer in layers], lines
    )
    fuzz.check_network(made.module(), shape, methods)


# The tools themselves


def test_networks_are_the_same_each_time() -> None:
    assert [str(fuzz.describe(seed)) for seed in range(5)] == [
        str(fuzz.describe(seed)) for seed in range(5)
    ]


def test_reproducer_is_the_network() -> None:
    made = fuzz.describe(3)
    x, _ = fuzz.inputs_for(made.shape)
    again = fuzz.module_of(str(made)).double()
    assert torch.equal(again(x), made.module().double()(x))


def test_every_operator_and_method_has_its_turn() -> None:
    text = "\n".join(str(fuzz.describe(seed)) for seed in range(CHUNK * CHUNKS))
    for call in (
        *("conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear", "BatchNorm2d", "GroupNorm"),
        *("LayerNorm", "RMSNorm", "InstanceNorm", "LocalResponseNorm", "PReLU", "max_pool", "amax"),
        *("avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "interpolate", "softmax", "cat("),
        *("stack", "chunk", "flip", "roll", "F.pad", "pixel_shuffle", "channel_shuffle", "repeat("),
        *("inplace=True", "relu_()", "add_(", "linspace", "divisor_override", "ceil_mode=True"),
    ):
        assert call in text, call
    methods = {fuzz.method_for(seed) for seed in range(CHUNK * CHUNKS)}
    assert methods | {"gradient"} == set(fuzz.METHODS)


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).flatten(1)[:, :4]


def test_wrong_map_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is a hundred-millionth off, by autograd or by the rules."""
    own = fuzz.gradient_of
    monkeypatch.setattr(fuzz, "gradient_of", lambda *given: own(*given) * (1 + 1e-8))
    with pytest.raises(
        fuzz.Mismatch, match=r"by autograd: off by 1\.00e-08, allowed are 1\.00e-09"
    ):
        fuzz.check_network(Square().eval(), (1, 2, 3), ["gradient"])
    monkeypatch.undo()
    walk = fuzz.Walk.relevance
    monkeypatch.setattr(fuzz.Walk, "relevance", lambda *given: walk(*given) * (1 + 1e-8))
    with pytest.raises(fuzz.Mismatch, match=r"second walk by the rules: off by 1\.00e-08"):
        fuzz.check_network(Square().eval(), (1, 2, 3), ["lrp_z"])


def test_value_that_meets_itself() -> None:
    """What comes back to a value that is used twice is added up."""
    fuzz.check_network(Square().eval(), (1, 2, 3), ["gradient", "lrp_z", "deeplift"])
