"""Networks as users write them, each by several methods, without changes to the model.

`fuzz.check_network` compares each with the model's logits, autograd, the rules applied layer by
layer, and ONNX Runtime. Other networks are in test_networks.py, norms in ops/test_norms.py and
passes/test_fold_batchnorm.py.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import graphprop
from support.fuzz import check_network, inputs_for, randomize
from support.modules import Model
from support.networks import assert_same_map

FLAT = ("gradient", "epsilon_plus_flat", "rap")
HEDGED = (*FLAT, "rap-bn", "hedge")


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


class UNet(nn.Module):
    """Down and up again, with skips; a logit at each place."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        conv, norm = (getattr(nn, f"{name}{rank}d") for name in ("Conv", "BatchNorm"))
        self.pool = getattr(nn, f"MaxPool{rank}d")(2)
        self.down = nn.ModuleList(
            nn.Sequential(conv(i, o, 3, padding=1, bias=False), norm(o), nn.ReLU(inplace=True))
            for i, o in ((2, 3), (3, 4), (4, 5))
        )
        up = getattr(nn, f"ConvTranspose{rank}d")
        self.up = nn.ModuleList([up(5, 4, 2, 2), up(4, 3, 2, 2)])
        self.joined = nn.ModuleList([conv(8, 4, 3, padding=1), conv(6, 3, 3, padding=1)])
        self.head = conv(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else self.pool(x))
            kept.append(x)
        kept.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            # never quite zero: at a place where all channels are, nothing accounts for the logit
            x = F.gelu(joined(torch.cat([kept.pop(), up(x)], dim=1)))
        return self.head(x)


class Functional(nn.Module):
    """No layers at all: parameters in a dictionary, and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterDict(
            {
                "stem": weights(4, 3, 3, 3),
                "stem bias": weights(4),
                "deep": weights(6, 2, 3, 3),
                "head": weights(4, 6),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.w["stem"], self.w["stem bias"], padding="same")
        x = F.max_pool2d(F.relu_(x), 2)
        x = F.conv2d(x, self.w["deep"], None, 1, 1, 1, 2).relu()
        return x.mean(dim=[-1, -2]) @ self.w["head"].t()


class Layered(nn.Module):
    """What `Functional` computes."""

    def __init__(self, model: Functional) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4, bias=False),
        )
        own = (self.layers[0].weight, self.layers[0].bias, self.layers[3].weight)
        for parameter, name in zip(
            (*own, self.layers[7].weight), ("stem", "stem bias", "deep", "head"), strict=True
        ):
            parameter.data = model.w[name].detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Recurrent(nn.Module):
    """A convolution run over its own result, with what it began from."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.read, self.again = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(steps))
        self.head = nn.Linear(4, 4)

    def repeated(self) -> list[nn.Module]:
        return [self.again] * self.steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = state = self.read(x)
        for again, norm in zip(self.repeated(), self.norms, strict=True):
            state = F.relu(norm(again(state)) + first)
        return self.head(state.mean((2, 3)))


class Unrolled(Recurrent):
    """What `Recurrent` computes, each step with weights of its own."""

    def __init__(self, model: Recurrent) -> None:
        super().__init__(model.steps)
        self.load_state_dict(model.state_dict())
        self.copies = nn.ModuleList(copy.deepcopy(model.again) for _ in range(model.steps))

    def repeated(self) -> list[nn.Module]:
        return list(self.copies)


class Standardized(nn.Conv2d):
    """A convolution whose weights are standardized each time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        mean = w.mean(dim=(1, 2, 3), keepdim=True)
        w = (w - mean) / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Hooked(nn.Sequential):
    """Layers whose results are changed by hooks, and whose inputs are, too."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self[0].register_forward_hook(lambda module, given, result: result * 2)
        self[2].register_forward_pre_hook(lambda module, given: (given[0] + 0.25,))


class Attention(nn.Module):
    """Channels weighted by what they hold, then places (CBAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, channels, 1, bias=False)
        )
        self.places = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average, largest = (
            self.mlp(f(x, 1)) for f in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
        )
        x = torch.sigmoid(average + largest) * x
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return self.places(both).sigmoid() * x


class StochasticDepth(nn.Module):
    """A branch that is left out now and then while training."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x + self.branch(x)
        if torch.rand(1) < 0.5:
            return x
        return x + self.branch(x) * 2


class Coordinates(nn.Module):
    """Where each place lies, as channels beside the picture (CoordConv)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        rows, columns = torch.meshgrid(
            torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"
        )
        grid = torch.stack([rows, columns])[None].to(x)
        return torch.cat([x, grid.expand(n, 2, h, w)], dim=1)


class Positions(nn.Module):
    """Sines and cosines of the place, added."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, c, _, w = x.shape
        place = torch.arange(w, dtype=x.dtype, device=x.device)[:, None]
        rate = torch.exp(torch.arange(0, c, 2, dtype=x.dtype) * (-4.0 / c))
        code = torch.cat([torch.sin(place * rate), torch.cos(place * rate)], 1).T
        return x + code[None, :, None, :]


def classifier(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    """Layers between a convolution of 3 channels and a head that sees all places."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        *layers,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4),
    )


def around(function: Callable[[torch.Tensor], torch.Tensor], channels: int = 4) -> nn.Module:
    """A function between a convolution and the head."""
    return classifier(Model(lambda _, x: function(x)), channels=channels)


def shuffled(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def pieces(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=1)
    a, b, c = torch.split(x, [1, 2, 1], dim=1)
    rows = [row * (i + 1) for i, row in enumerate(x.unbind(2)[:2])]
    tall = torch.stack(rows, dim=2)
    y = torch.cat([second, F.relu(first), a - c, b[:, ::2].abs()], dim=1)
    return torch.cat([y, tall.repeat(1, 1, 4, 1)[:, :2]], dim=1)


def padded(x: torch.Tensor) -> torch.Tensor:
    x = F.pad(x, (2, -1, 0, 3))
    x = F.pad(x, (1, 1), value=0.5)
    x = F.pad(x, (1, 2, 2, 1), mode="reflect")
    x = F.pad(x, (1, 0, 0, 1), mode="replicate")
    return F.pad(x, (1, 1, 1, 1), mode="circular")


def several_consumers(model: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(model.a(x))
    z = model.b(y)
    outputs = [y, F.relu(z), z + y, y.mean((2, 3), keepdim=True).expand_as(z), model.unused(y)]
    return model.head(torch.cat(outputs[:-1], 1).mean((2, 3)))


def same_on_the_right(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Padding as TensorFlow has it: more behind than before."""
    x = F.relu(model.a(F.pad(x, (0, 1, 0, 1))))
    x = F.relu(model.b(F.pad(x, (1, 2, 1, 2))))
    return model.head(x.mean((2, 3)))


def dual_path(model: Any, x: torch.Tensor) -> torch.Tensor:
    """A sum of the first channels, and the others side by side."""
    x = model.a(x)
    y = F.relu(model.b(x))
    x = torch.cat([x[:, :2] + y[:, :2], x[:, 2:], y[:, 2:]], 1)
    return model.head(F.relu(x).amax((2, 3)))


@dataclass(frozen=True)
class Subject:
    """A network, the shape of its input, the methods, and whether RAP's map sums to the logit."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 8, 8)
    methods: tuple[str, ...] = FLAT
    conserves: bool = True


def conv_block(rank: int) -> nn.Module:
    conv, norm, pool = (getattr(nn, f"{n}{rank}d") for n in ("Conv", "BatchNorm", "AvgPool"))
    return nn.Sequential(
        norm(2),
        conv(2, 4, 3, padding=1, padding_mode="circular"),
        norm(4, affine=False),
        nn.SiLU(),
        pool(3, 2, 1, ceil_mode=True, count_include_pad=False),
        conv(4, 6, 2, dilation=2, groups=2),
        nn.GroupNorm(3, 6),
        nn.Hardswish(),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


NETWORKS: dict[str, Subject] = {
    "U-Net": Subject(UNet, (2, 8, 8)),
    "U-Net 1-d": Subject(partial(UNet, 1), (2, 12), (*FLAT, "rap-bn")),
    "U-Net 3-d": Subject(partial(UNet, 3), (2, 4, 4, 4), ("gradient", "rap")),
    "functional": Subject(Functional, methods=HEDGED),
    "recurrent": Subject(Recurrent, methods=HEDGED),
    "weight standardization": Subject(
        lambda: nn.Sequential(
            Standardized(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        ),
        methods=(*FLAT, "hedge"),
        conserves=False,
    ),
    "hooks": Subject(
        lambda: Hooked(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4)
        ),
        conserves=False,
    ),
    "CBAM": Subject(lambda: classifier(nn.BatchNorm2d(4), nn.ReLU(), Attention(4)), methods=HEDGED),
    "coordinates": Subject(
        lambda: classifier(nn.ReLU(), Coordinates(), nn.Conv2d(6, 4, 3)), conserves=False
    ),
    "coordinates first": Subject(
        lambda: nn.Sequential(
            Coordinates(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        ),
        conserves=False,
    ),
    "positions": Subject(lambda: classifier(Positions(), nn.ReLU(), nn.Conv2d(4, 4, 3))),
    "stochastic depth": Subject(
        lambda: classifier(
            StochasticDepth(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), nn.Dropout2d(0.5)
        ),
        methods=HEDGED,
    ),
    "swish written out": Subject(lambda: around(lambda x: x * torch.sigmoid(1.5 * x))),
    "channel shuffle": Subject(lambda: around(shuffled), methods=HEDGED),
    "pieces": Subject(lambda: around(pieces, 8)),
    "padding": Subject(lambda: around(padded), conserves=False),
    "padding on the right": Subject(
        lambda: Model(
            same_on_the_right,
            a=nn.Conv2d(3, 4, 3, stride=2),
            b=nn.Conv2d(4, 4, 3, stride=2, bias=False),
            head=nn.Linear(4, 4),
        ),
        (3, 7, 8),
    ),
    "several consumers": Subject(
        lambda: Model(
            several_consumers,
            a=nn.Conv2d(3, 4, 3),
            b=nn.Conv2d(4, 4, 3, padding=1),
            unused=nn.Conv2d(4, 4, 1),
            head=nn.Linear(16, 4),
        ),
    ),
    "dual path": Subject(
        lambda: Model(
            dual_path,
            a=nn.Conv2d(3, 4, 3),
            b=nn.Conv2d(4, 4, 3, padding=1),
            head=nn.Linear(6, 4),
        ),
        methods=HEDGED,
    ),
    "block 1-d": Subject(partial(conv_block, 1), (2, 15), conserves=False),
    "block 2-d": Subject(partial(conv_block, 2), (2, 9, 8), conserves=False),
    "block 3-d": Subject(partial(conv_block, 3), (2, 6, 5, 6), conserves=False),
}


def made(name: str) -> nn.Module:
    model, shape = NETWORKS[name].make(), NETWORKS[name].shape
    model.eval()
    with torch.no_grad():
        model(torch.randn(2, *shape))  # lazy layers have their parameters now
    for layer in model.modules():
        randomize(layer)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    subject = NETWORKS[name]
    explainers = check_network(made(name), subject.shape, subject.methods)
    if not subject.conserves:
        return
    x, target = inputs_for(subject.shape)
    by_method = {explainer.method.name: explainer for explainer in explainers}
    logits, relevance = by_method["rap"](x, target)
    logit = logits.flatten(2).sum(2) if logits.dim() > 2 else logits
    torch.testing.assert_close(
        relevance.flatten(1).sum(1), logit[range(len(x)), target], rtol=1e-8, atol=1e-8
    )


CHECKED = ("U-Net", "recurrent", "CBAM", "coordinates first", "padding on the right", "block 3-d")


@pytest.mark.parametrize("name", CHECKED)
def test_check_passes(name: str) -> None:
    x = torch.randn(2, *NETWORKS[name].shape)
    report = graphprop.compile(made(name), x, "rap").check(
        samples=2, backends=["python", "onnxruntime"]
    )
    assert report.passed, report.complaint()


# However it is written


def tidy(conv: nn.Conv2d, *rest: nn.Module) -> nn.Module:
    return nn.Sequential(conv, *(copy.deepcopy(layer) for layer in rest))


def plain(conv: Any, weight: torch.Tensor) -> nn.Conv2d:
    """A convolution with this weight, and another's bias."""
    twin = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size)
    twin.weight.data, twin.bias.data = weight.detach().clone(), conv.bias.detach().clone()
    return twin


def standardized_twin(model: Any) -> nn.Module:
    w = model[0].weight
    mean, deviation = (f(w, dim=(1, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    return tidy(plain(model[0], (w - mean) / (deviation + 1e-5)), *model[1:])


def hooked_twin() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        Model(lambda _, x: x * 2),
        nn.ReLU(),
        Model(lambda _, x: x + 0.25),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


TWINS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "functional": ("functional", Layered),
    "recurrent": ("recurrent", Unrolled),
    "weight standardization": ("weight standardization", standardized_twin),
    "swish": (
        "swish written out",
        lambda model: nn.Sequential(
            model[0], Model(lambda _, x: F.silu(x * 1.5) / 1.5), *model[2:]
        ),
    ),
    "channel shuffle": (
        "channel shuffle",
        lambda model: nn.Sequential(model[0], nn.ChannelShuffle(2), *model[2:]),
    ),
    "stochastic depth": (
        "stochastic depth",
        lambda model: nn.Sequential(
            model[0], Model(lambda m, x: x + m.branch(x), branch=model[1].branch), *model[3:]
        ),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_map_is_that_of_its_tidy_twin(name: str) -> None:
    network, twin_of = TWINS[name]
    model = made(network).double()
    twin = twin_of(model).double().eval()
    x, _ = inputs_for(NETWORKS[network].shape)
    assert_same_map(model, twin, x, ("epsilon_plus", "lrp_alpha2_beta1", "rap"))


def test_hooks_are_part_of_the_network() -> None:
    model = made("hooks").double()
    twin = hooked_twin().double().eval()
    for own, place in ((0, 0), (2, 4), (4, 6)):
        twin[place].load_state_dict(model[own].state_dict())
    x, _ = inputs_for((3, 8, 8))
    assert_same_map(model, twin, x, ("epsilon_plus", "lrp_alpha2_beta1", "rap"))


def normed(norm: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old ones are deprecated
            first, second = norm(nn.Conv2d(3, 4, 3), **options), norm(nn.Linear(144, 4), **options)
        return nn.Sequential(first, nn.ReLU(), nn.Flatten(), second)

    return make


NORMED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": normed(parametrizations.weight_norm),
    "weight norm of all": normed(parametrizations.weight_norm, dim=None),
    "old weight norm": normed(nn.utils.weight_norm),
    "spectral norm": normed(parametrizations.spectral_norm),
    "old spectral norm": normed(nn.utils.spectral_norm),
}


@pytest.mark.parametrize("name", NORMED)
def test_weights_that_are_computed(name: str) -> None:
    model = NORMED[name]().double().eval()
    x, _ = inputs_for((3, 8, 8))
    model(x)  # the old ones compute theirs in forward
    twin = tidy(plain(model[0], model[0].weight), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    twin[3].weight.data = model[3].weight.detach().clone()
    twin[3].bias.data = model[3].bias.detach().clone()
    assert_same_map(model, twin.double().eval(), x, ("epsilon_plus_flat", "rap"))


# Types and wrappers


def small() -> nn.Module:
    model = classifier(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    for layer in model.modules():
        randomize(layer)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Computed in the type of the model; the map is near that of the same weights in float32."""
    model = small().to(dtype)
    x, target = inputs_for((3, 8, 8))
    x = x.to(dtype)
    explainer = graphprop.compile(model, x, "epsilon_plus")
    logits, relevance = explainer(x, target)
    assert logits.dtype == relevance.dtype == dtype
    wide = copy.deepcopy(model).float()
    _, expected = graphprop.compile(wide, x.float(), "epsilon_plus")(x.float(), target)
    torch.testing.assert_close(logits.float(), wide(x.float()), rtol=0.05, atol=0.05)
    error = (relevance.float() - expected).norm() / expected.norm()
    assert float(error) < 0.1


def test_channels_last() -> None:
    model, (x, target) = small().double(), inputs_for((3, 8, 8))
    _, expected = graphprop.compile(model, x, "rap")(x, target)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    logits, relevance = graphprop.compile(other, x, "rap")(x, target)
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(relevance, expected)


WRAPPERS: dict[str, tuple[Callable[[nn.Module], Any], list[str]]] = {
    "DataParallel": (nn.DataParallel, ["in DataParallel"]),
    "torch.compile": (torch.compile, ["by torch.compile"]),
    "both": (
        lambda model: torch.compile(nn.DataParallel(model).eval()),
        ["by torch.compile", "in DataParallel"],
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapper_is_taken_off_with_a_note(name: str) -> None:
    wrap, wrappers = WRAPPERS[name]
    model, (x, target) = small().double(), inputs_for((3, 8, 8))
    explainer = graphprop.compile(wrap(model).eval(), x, "rap")
    expected = [f"the model was wrapped {how}; compiled without it" for how in wrappers]
    assert explainer.notes == expected
    plain = graphprop.compile(model, x, "rap")
    assert plain.notes == []
    assert [layer.label for layer in explainer.layers] == [layer.label for layer in plain.layers]
    torch.testing.assert_close(explainer(x, target), plain(x, target), rtol=0, atol=0)


class Compared(nn.Module):
    """Two pictures through the same layers, and how far apart they come out."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(36, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head((self.tower(x) - self.tower(y)).abs())


def test_two_pictures_through_the_same_layers() -> None:
    """What the difference is shared out to sums to the logit; exchanged inputs, exchanged maps."""
    model = Compared().double().eval()
    (x, target), y = inputs_for((3, 8, 8)), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    explainer = graphprop.compile(model, (x, y), "rap")
    logits, maps = explainer(x, y, target)
    torch.testing.assert_close(logits, model(x, y).detach())
    total = sum(part.flatten(1).sum(1) for part in maps)
    torch.testing.assert_close(total, logits[range(3), target])
    other, exchanged = explainer(y, x, target)
    torch.testing.assert_close(other, logits)
    torch.testing.assert_close(exchanged, maps[::-1])
    assert graphprop.compile(model.float(), (x.float(), y.float()), "rap").check(2).passed
