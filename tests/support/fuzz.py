"""Random networks, and the properties that every compiled network must have.

A network is the source of an ``nn.Module``, written line by line: each line is run as it is
written, and one that does not run is left out. So a failure prints as a reproducer that can be
pasted into a file. ``python tests/support/fuzz.py N SEED`` (``make fuzz``) tries N networks from
SEED on.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir
import onnxruntime
import torch
import torch.nn.functional as F
from torch import fx, nn

import graphprop
from graphprop.checking.arbiter import allowance
from graphprop.emit.onnx import to_onnx
from graphprop.errors import GraphpropError, MethodError, VerificationError
from graphprop.frontend.capture import capture, quiet
from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.lowering.interpret_map import interpret_map
from graphprop.lowering.legalize import legalize
from graphprop.lowering.lower import lower
from graphprop.ops import Pad, Start
from graphprop.passes.assign_rules import bind_rule
from graphprop.rules import METHODS, Layer
from graphprop.rules.sampling import baseline_of
from support.maps import fitting

LARGEST = 2500
"""The most entries of one sample that a value may have: the reference walk is slow."""

SAME = 1e-9
"""The relative error allowed between two computations of a map in float64."""

SMALLEST = 1e-4
"""Errors are relative to the norm of a map, and absolute below this norm."""

TINY = 1e-15
"""A relative change of the input of the size of rounding in float64."""


# Networks


@dataclass
class Source:
    """A network as source: the lines of ``__init__`` and of ``forward``.

    Attributes
    ----------
    shape
        Of the input, without the batch.
    """

    name: str
    shape: tuple[int, ...]
    layers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        made = "".join(f"        self.{line}\n" for line in self.layers)
        run = "".join(f"        {line}\n" for line in self.lines)
        return (
            f"# input of shape {self.shape}\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            f"{made}\n"
            "    def forward(self, x):\n"
            f"{run}"
        )

    def module(self) -> nn.Module:
        """The network, with seeded random parameters."""
        return module_of(str(self), self.name)


def module_of(source: str, name: str = "net") -> nn.Module:
    """The module ``Net`` of a source, in evaluation mode; its lines are named ``name.py:3``."""
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    exec(compile(source, f"{name}.py", "exec"), namespace)
    torch.manual_seed(0)
    model: nn.Module = namespace["Net"]()
    for layer in model.modules():
        randomize(layer)
    return model.eval()


def randomize(layer: nn.Module) -> None:
    """Give a norm random statistics and parameters, which are ones and zeros in a new one."""
    if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None:
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.5, 1.5)
    if "Norm" in type(layer).__name__ and getattr(layer, "weight", None) is not None:
        nn.init.uniform_(layer.weight, 0.5, 1.5)
    if "Norm" in type(layer).__name__ and getattr(layer, "bias", None) is not None:
        nn.init.normal_(layer.bias, 0, 0.2)


class Generator:
    """Generates one random network."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.rank = self.pick(1, 2, 2, 2, 3)
        low, high = {1: (8, 16), 2: (5, 9), 3: (3, 5)}[self.rank]
        sizes = [self.random.randint(low, high) for _ in range(self.rank)]
        channels = self.pick(1, 2, 3, 3, 4)
        self.made = Source(f"fuzz_{seed}", (channels, *sizes))
        self.owner = nn.Module()
        x = torch.randn(2, *self.made.shape)
        self.values: dict[str, torch.Tensor] = {"x": x}
        self.current = "x"
        self.shared: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    # Choices

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def sizes(self, *choices: Any) -> Any:
        """An attribute: one number, or one per axis."""
        if self.random.random() < 0.6:
            return self.pick(*choices)
        return tuple(self.pick(*choices) for _ in range(self.rank))

    @property
    def value(self) -> torch.Tensor:
        return self.values[self.current]

    @property
    def channels(self) -> int:
        return self.value.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(self.value.shape[2:])

    def others(self, fits: Callable[[torch.Tensor], bool]) -> list[str]:
        """Values that are not the current one."""
        return [n for n, v in self.values.items() if n != self.current and fits(v)]

    # Writing

    def layer(self, stem: str, text: str) -> str | None:
        """Add a layer or parameter; returns its name."""
        self.counts[stem] += 1
        name = f"{stem}{self.counts[stem]}"
        try:
            made = eval(text, {"torch": torch, "nn": nn, "F": F})
        except (RuntimeError, ValueError, AssertionError, TypeError):
            return None
        if isinstance(made, nn.Module):
            randomize(made)
            made.eval()
        setattr(self.owner, name, made)
        self.made.layers.append(f"{name} = {text}")
        return f"self.{name}"

    def line(self, expression: str) -> bool:
        """Add a line that computes the next value, unless it raises or the value is too large."""
        names = {"torch": torch, "nn": nn, "F": F, "self": self.owner}
        before = {name: value.clone() for name, value in self.values.items()}
        try:
            with torch.no_grad(), quiet():
                result = eval(expression, names, self.values)
            fine = (
                isinstance(result, torch.Tensor)
                and len(result) == 2
                and 0 < result[0].numel() <= LARGEST
                and bool(result.isfinite().all())
                and float(result.abs().max()) < 1e4
                # a model that changes its input in place
                and torch.equal(self.values["x"], before["x"])
            )
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError):
            fine = False
        if not fine:
            self.values = before
            return False
        name = f"v{len(self.made.lines) + 1}"
        self.made.lines.append(f"{name} = {expression}")
        self.values[name] = result
        self.current = name
        return True

    def run(self, stem: str, text: str) -> bool:
        """Add a layer, called on the current value."""
        name = self.layer(stem, text)
        if name is None:
            return False
        before = self.value.shape
        if self.line(f"{name}({self.current})"):
            if self.value.shape == before:
                self.shared[stem] = name
            return True
        self.made.layers.pop()
        return False

    # Layers

    def conv(self) -> bool:
        c = self.channels
        kernel, stride = self.sizes(1, 2, 3, 3), self.sizes(1, 1, 2)
        groups = self.pick(1, 1, 1, *(g for g in (2, 3, c) if c % g == 0))
        out = groups * self.random.randint(1, max(1, 8 // groups))
        padding, dilation = self.sizes(0, 1, 1, 2), self.sizes(1, 1, 1, 2)
        mode = self.pick(*["zeros"] * 6, "reflect", "replicate", "circular")
        options = f"stride={stride}, padding={padding}, dilation={dilation}, groups={groups}"
        if self.random.random() < 0.2:
            size = kernel if isinstance(kernel, tuple) else (kernel,) * self.rank
            weight = self.layer(
                "weight", f"nn.Parameter(torch.randn({(out, c // groups, *size)}) / 3)"
            )
            return self.line(f"F.conv{self.rank}d({self.current}, {weight}, {options})")
        if self.random.random() < 0.15:
            options = f"padding='same', dilation={dilation}, groups={groups}"
        bias = self.pick(True, True, False)
        return self.run(
            "conv",
            f"nn.Conv{self.rank}d({c}, {out}, {kernel}, {options}, bias={bias}, "
            f"padding_mode='{mode}')",
        )

    def transposed(self) -> bool:
        c = self.channels
        groups = self.pick(1, 1, *(g for g in (2, c) if c % g == 0))
        out = groups * self.random.randint(1, max(1, 5 // groups))
        return self.run(
            "up",
            f"nn.ConvTranspose{self.rank}d({c}, {out}, {self.sizes(1, 2, 3)}, "
            f"stride={self.sizes(1, 2, 2)}, padding={self.sizes(0, 0, 1)}, "
            f"output_padding={self.sizes(0, 0, 1)}, groups={groups}, "
            f"dilation={self.sizes(1, 1, 2)}, bias={self.pick(True, False)})",
        )

    def again(self) -> bool:
        """Call an earlier layer again: shared weights."""
        if not self.shared:
            return False
        return self.line(f"{self.pick(*self.shared.values())}({self.current})")

    def norm(self) -> bool:
        c, size = self.channels, tuple(self.value.shape[1:])
        groups = self.pick(*(g for g in (1, 2, 3, c) if c % g == 0))
        last = size[self.random.randrange(len(size)) :]
        affine = self.pick(True, True, False)
        return self.run(
            "norm",
            self.pick(
                *[f"nn.BatchNorm{self.rank}d({c}, affine={affine})"] * 3,
                f"nn.GroupNorm({groups}, {c}, affine={affine})",
                f"nn.LayerNorm({last}, 1e-2, elementwise_affine={affine})",
                f"nn.RMSNorm({last}, 1e-2, elementwise_affine={affine})",
                f"nn.InstanceNorm{self.rank}d({c}, 1e-2, affine={affine})",
                f"nn.InstanceNorm{self.rank}d({c}, track_running_stats=True)",
                f"nn.LocalResponseNorm({self.pick(2, 3)}, 0.5, k=1.5)",
            ),
        )

    def activation(self) -> bool:
        x = self.current
        if self.random.random() < 0.2:
            return self.run("prelu", f"nn.PReLU({self.pick(1, self.channels)})")
        return self.line(
            self.pick(
                *[f"F.relu({x})"] * 4,
                *[f"F.relu({x}, inplace=True)"] * 2,
                f"{x}.relu()",
                f"{x}.relu_()",
                f"torch.relu(-{x})",
                f"F.leaky_relu({x}, 0.2)",
                f"F.leaky_relu_({x}, 0.1)",
                f"F.elu({x})",
                f"F.selu({x})",
                f"F.celu({x}, 0.5)",
                f"F.gelu({x})",
                f"F.gelu({x}, approximate='tanh')",
                f"F.silu({x})",
                f"F.mish({x})",
                f"F.hardswish({x})",
                f"F.relu6({x} * 4)",
                f"F.softplus({x}, beta=2)",
                f"F.softsign({x})",
                f"F.hardtanh({x}, -0.5, 0.7)",
                f"torch.tanh({x})",
                f"torch.sigmoid({x})",
                f"{x}.clamp(min=-0.3)",
                f"{x}.clamp(-0.4, 0.6)",
                f"{x}.abs()",
                f"({x}.abs() + 0.1).sqrt()",
                f"({x} * {x} + 0.2).log()",
                f"{x}.square()",
                f"torch.erf({x})",
                f"{x} * torch.sigmoid({x})",
                f"torch.softmax({x}, 1)",
            )
        )

    def pool(self) -> bool:
        x, r = self.current, self.rank
        kernel, ceil = self.sizes(2, 2, 3), self.pick(True, False)
        stride, padding = self.sizes(1, 2, 2, 3), self.sizes(0, 0, 1)
        size = self.sizes(1, 2, 3, 4)
        counted, divisor = self.pick(True, False), self.pick("", "", ", divisor_override=3")
        if r == 1:
            divisor = ""
        average = f"{kernel}, {stride}, {padding}, ceil_mode={ceil}, count_include_pad={counted}"
        axes = tuple(range(2, 2 + r))
        return self.line(
            self.pick(
                *[
                    f"F.max_pool{r}d({x}, {kernel}, {stride}, {padding}, {self.sizes(1, 1, 2)}, "
                    f"ceil_mode={ceil})"
                ]
                * 3,
                *[f"F.avg_pool{r}d({x}, {average}{divisor})"] * 3,
                f"F.adaptive_avg_pool{r}d({x}, {size})",
                f"F.adaptive_max_pool{r}d({x}, {size})",
                f"{x}.mean({self.pick(*axes)}, keepdim=True)",
                f"{x}.amax({self.pick(*axes)}, keepdim=True)",
                f"{x}.sum({axes}, keepdim=True)",
                f"{x}.mean(1, keepdim=True)",
            )
        )

    def resize(self) -> bool:
        x = self.current
        linear = ("linear", "bilinear", "trilinear")[self.rank - 1]
        size = tuple(self.random.randint(2, 7) for _ in range(self.rank))
        scale = self.pick(1.5, 2, 0.7)
        return self.line(
            self.pick(
                f"F.interpolate({x}, {size}, mode='nearest')",
                f"F.interpolate({x}, scale_factor={scale}, mode='nearest')",
                f"F.interpolate({x}, {size}, mode='{linear}')",
                f"F.interpolate({x}, scale_factor={scale}, mode='{linear}')",
                f"F.interpolate({x}, {size}, mode='{linear}', align_corners=True)",
                f"F.interpolate({x}, {size}, mode='nearest-exact')",
            )
        )

    def join(self) -> bool:
        """Combine the current value with an earlier one of the same shape or size."""
        x = self.current
        same = self.others(lambda v: v.shape == self.value.shape)
        if same and self.random.random() < 0.7:
            y = self.pick(*same)
            return self.line(
                self.pick(
                    *[f"{x} + {y}"] * 4,
                    f"torch.add({x}, {y}, alpha=0.5)",
                    f"{x}.add_({y})",
                    f"{x} - {y}",
                    f"{x} * {y}",
                    f"{x} * torch.sigmoid({y})",
                    f"{x} / ({y} * {y} + 1)",
                    f"{x} + {y} + {x}",
                    f"torch.stack([{x}, {y}], 2).flatten(1, 2)",
                    f"torch.cat([{x}, {y}], -1)",
                )
            )
        near = self.others(lambda v: v.shape[2:] == self.value.shape[2:])
        if near:
            return self.line(f"torch.cat([{x}, {self.pick(*near)}], 1)")
        return False

    def residual(self) -> bool:
        """A branch of one or two layers, and a sum or concatenation."""
        x, c = self.current, self.channels
        kernel = self.pick(1, 3)
        branch = self.layer("branch", f"nn.Conv{self.rank}d({c}, {c}, {kernel}, padding='same')")
        if not self.line(f"{branch}({x})"):
            return False
        for _ in range(self.random.randint(0, 2)):
            self.pick(self.norm, self.activation)()
        if self.value.shape != self.values.get(x, torch.zeros(0)).shape:
            return False
        return self.line(
            self.pick(
                *[f"{self.current} + {x}"] * 3,
                f"{x} - {self.current}",
                f"torch.cat([{x}, {self.current}], 1)",
            )
        )

    def gate(self) -> bool:
        x, c, r = self.current, self.channels, self.rank
        axes = tuple(range(2, 2 + r))
        kind = self.random.randrange(5)
        if kind == 0:
            layer = self.layer("squeeze", f"nn.Conv{r}d({c}, {c}, 1)")
            pooled = f"F.adaptive_avg_pool{r}d({x}, 1)"
            return self.line(f"{x} * torch.sigmoid({layer}({pooled}))")
        if kind == 1:
            layer = self.layer("attend", f"nn.Conv{r}d(2, 1, 3, padding=1)")
            both = f"torch.cat([{x}.mean(1, keepdim=True), {x}.amax(1, keepdim=True)], 1)"
            return self.line(f"{x} * torch.sigmoid({layer}({both}))")
        if kind == 2:
            ones = ", 1" * r
            scale = self.layer("scale", f"nn.Parameter(torch.rand({c}{ones}) + 0.5)")
            return self.line(f"{x} * {scale}")
        if kind == 3:
            layer = self.layer("excite", f"nn.Linear({c}, {c})")
            shape = "[..., " + ", ".join(["None"] * r) + "]"
            return self.line(f"F.hardsigmoid({layer}({x}.mean({axes}))){shape} * {x}")
        return self.line(f"{x} / ({x}.square().mean(1, keepdim=True) + 1).sqrt()")

    def constant(self) -> bool:
        x, size = self.current, tuple(self.value.shape[1:])
        shape = (1, *self.spatial)
        if self.random.random() < 0.4:
            name = self.layer("offset", f"nn.Parameter(torch.randn({size}) / 2)")
            return self.line(self.pick(f"{x} + {name}", f"{name} - {x}"))
        line = f"torch.linspace(-1, 1, {self.spatial[-1]}).expand({x}.shape[0], {str(shape)[1:-1]})"
        line = line.replace(",)", ")")
        return self.line(
            self.pick(
                f"{x} + 0.5",
                f"1 - {x}",
                f"{x} * -2",
                f"{x} / 3",
                f"torch.cat([{x}, {line}], 1)",
                f"{x} + torch.arange({self.spatial[-1]}) / 4",
            )
        )

    def rearrange(self) -> bool:
        x, c, r = self.current, self.channels, self.rank
        pads = tuple(self.pick(0, 1, 1, 2, -1) for _ in range(2 * r))
        copies = tuple(self.pick(0, 1, 1, 2) for _ in range(2 * r))
        half = max(1, c // 2)
        axis = self.random.randint(1, r + 1)
        step = "[" + ":, " * axis + f"{self.pick('1:', ':-1', '::2', '1::2')}]"
        return self.line(
            self.pick(
                f"F.pad({x}, {pads})",
                f"F.pad({x}, {pads}, value=0.5)",
                f"F.pad({x}, {copies}, mode='{self.pick('reflect', 'replicate', 'circular')}')",
                f"{x}.chunk(2, 1)[{self.pick(0, 1)}]",
                f"torch.cat({x}.chunk(2, 1)[::-1], 1)",
                f"{x}.split([{half}, {c - half}], 1)[0]",
                f"{x}{step}",
                f"{x}.flip({axis})",
                f"{x}.roll({self.pick(1, -1, 2)}, {axis})",
                f"{x}.transpose(-1, {self.pick(-1, -2)})",
                f"{x}.repeat({', '.join(['1', str(self.pick(1, 2)), *['1'] * r])})",
                f"F.channel_shuffle({x}, {self.pick(2, 3)})",
                *[f"F.pixel_shuffle({x}, 2)"] * (3 if r == 2 and c % 4 == 0 else 0),
                f"F.pixel_unshuffle({x}, 2)",
                f"{x}.unsqueeze(2).expand({', '.join(['-1', '-1', '2', *['-1'] * r])})"
                ".flatten(1, 2)",
                f"{x}.movedim(1, -1).contiguous().movedim(-1, 1)",
                f"F.dropout({x}, 0.5, self.training)",
            )
        )

    def head(self) -> bool:
        """The end: logits, sometimes at each place."""
        x, c, r = self.current, self.channels, self.rank
        kind = self.random.randrange(6)
        axes = tuple(range(2, 2 + r))
        if kind == 0:
            return self.run("head", f"nn.Conv{r}d({c}, 4, 1)")
        if kind == 1:
            if not self.run("head", f"nn.Conv{r}d({c}, 4, 1)"):
                return False
            return self.line(f"F.adaptive_avg_pool{r}d({self.current}, 1).flatten(1)")
        pooled = self.pick(
            f"{x}.flatten(1)",
            f"{x}.mean({axes})",
            f"{x}.amax({axes})",
            f"F.adaptive_avg_pool{r}d({x}, 2).flatten(1)",
            f"F.adaptive_max_pool{r}d({x}, 1).flatten(1)",
            f"{x}.reshape({x}.shape[0], -1)",
        )
        if not self.line(pooled):
            return False
        if kind > 3:
            hidden = self.layer("hidden", f"nn.Linear({self.value.shape[1]}, 5)")
            if not self.line(f"F.relu({hidden}({self.current}))"):
                return False
        return self.run("head", f"nn.Linear({self.value.shape[1]}, 4)")

    def write(self) -> Source:
        """Write the whole network."""
        parts: list[Callable[[], bool]] = [
            *[self.conv] * 6,
            *[self.activation] * 6,
            *[self.norm] * 3,
            *[self.pool] * 2,
            *[self.residual] * 2,
            *[self.join] * 2,
            self.transposed,
            self.again,
            self.resize,
            self.gate,
            self.constant,
            *[self.rearrange] * 2,
        ]
        if self.random.random() < 0.8:
            self.conv()
        wanted = len(self.made.lines) + self.random.randint(3, 9)
        for _ in range(40):
            if len(self.made.lines) >= wanted:
                break
            self.pick(*parts)()
        while not self.head():
            pass
        self.made.lines.append(f"return {self.current}")
        used = "\n".join(self.made.lines)
        layers = [
            layer
            for layer in self.made.layers
            if re.search(rf"\bself\.{layer.split(' ')[0]}\b", used)
        ]
        self.made.layers[:] = layers
        return self.made


# The reference: a second backward walk, which shares nothing but the rules with the compiler


class Walk:
    """Relevance by the rules that an explainer's layers have, on tensors, layer by layer.

    It shares no code with `graphprop.lowering.lower` and what follows it there.
    """

    def __init__(self, explainer: graphprop.CompiledExplainer) -> None:
        self.network, self.method = explainer.network, explainer.method
        self.parameters = explainer.settings
        self.image = self.network.inputs[0]

    def values(self, x: torch.Tensor) -> dict[fx.Node, Any]:
        """What every node computes."""
        found: dict[fx.Node, Any] = {self.image: x}
        for node in self.network.graph.nodes:
            if node.op == "get_attr":
                tensor = self.network.tensors[node.target]
                found[node] = tensor.double() if tensor.is_floating_point() else tensor
        interpret(self.network, {"x": x}, observe=lambda n, v: found.update({n: v}))
        return found

    def relevance(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The map of each sample."""
        samples = self.method.samples
        if samples is None:
            return self.one(x, target)
        points = samples(self.parameters, (-1, *x.shape[1:])).of_type(x.dtype)
        total = torch.zeros_like(x)
        for scale, offset, weight in zip(points.scale, points.offset, points.weight, strict=True):
            total += weight * self.one(scale * x + offset, target)
        return total if points.baseline is None else total * (x - points.baseline)

    def one(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The map of each sample, without sampling of inputs."""
        self.forward, self.reference = self.values(x), {}
        method, parameters = self.method, self.parameters
        if method.samples is None and "baseline" in parameters:
            baseline = baseline_of(parameters["baseline"], (-1, *x.shape[1:])).to(x)
            self.reference = self.values(baseline.expand(1, *x.shape[1:]))
        self.added: list[torch.Tensor] = []
        map_layer = self.network.map_layer
        end = self.image if map_layer is None else map_layer
        result = self.network.output.args[0]
        ends = []
        for _, own in method.flows:
            kind = own.get("start", parameters.get("start", method.start))
            start = Start(kind).run(self.forward[result], target)
            ends.append(self.back(result, start, None, own, end))
        if map_layer is not None:
            found = self.made(method.at_layer, map_layer, ends)
            if not method.continues_to_input:
                return self.with_added(found)
            budget = torch.ones(len(x), dtype=x.dtype) if method.budgets else None
            ends = [self.back(map_layer, found, budget, {}, self.image)]
        return self.with_added(self.made(method.at_input, self.image, ends))

    def with_added(self, found: torch.Tensor) -> torch.Tensor:
        return found + sum(self.added) if self.added else found

    def made(self, rule: str | None, node: fx.Node, ends: list[torch.Tensor]) -> torch.Tensor:
        if rule is None:
            return torch.stack(ends).sum(0)
        x = self.forward[node]
        layer = Layer(
            None,
            shapes=[(-1, *x.shape[1:])],
            operands=(x,),
            reference=(self.reference[node],) if self.reference else (),
            image=shape_of(self.image),
        )
        r = ends[0] if len(ends) == 1 else tuple(ends)
        found: torch.Tensor = bind_rule(rule, self.parameters)(layer, x, r)
        return found

    def back(
        self,
        start: fx.Node,
        r: torch.Tensor,
        budget: torch.Tensor | None,
        own: Any,
        end: fx.Node,
    ) -> torch.Tensor:
        """Carry relevance from one node to another, with its budget ``[N]`` if it has one."""
        arrived: dict[fx.Node, torch.Tensor] = {start: r}
        budgets = {start: budget}
        for node in reversed(self.network.graph.nodes):
            if node is end:
                return arrived.get(node, torch.zeros_like(self.forward[node]))
            rule = facts_of(node).rule
            if node not in arrived or rule is None:
                continue
            parts = self.carried(node, rule.in_flow(own), arrived[node], budgets[node])
            shares = self.shares(budgets[node], [part for _, part in parts])
            for (receiver, part), share in zip(parts, shares, strict=True):
                arrived[receiver] = arrived.get(receiver, 0) + part
                before = budgets.get(receiver)
                budgets[receiver] = share if before is None else before + share
        raise AssertionError("the walk does not end")

    def shares(
        self, budget: torch.Tensor | None, parts: list[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        """A budget, divided in proportion to the size of what each branch gets."""
        if budget is None or len(parts) == 1:
            return [budget] * len(parts)
        sizes = [part.abs().flatten(1).sum(1) for part in parts]
        whole = torch.stack(sizes).sum(0)
        return [torch.where(whole > 0, budget * size / whole, 0.0) for size in sizes]

    def carried(
        self, node: fx.Node, rule: Any, r: torch.Tensor, budget: torch.Tensor | None
    ) -> list[tuple[fx.Node, torch.Tensor]]:
        """The relevance that a node passes back, and to which nodes."""
        operator, signal = node.target, facts_of(node).signal
        pattern = facts_of(node).pattern
        sources = list(node.args)
        before = None
        if operator.weighted and isinstance(sources[0].target, Pad) and not sources[0].target.value:
            before, sources[0] = sources[0].target, sources[0].args[0]
        operands = tuple(self.forward[a] if isinstance(a, fx.Node) else a for a in sources)
        layer = Layer(
            operator,
            weight=operands[1] if operator.weighted else None,
            bias=operands[2] if operator.weighted and len(operands) > 2 else None,
            shapes=[
                # the operator's own operands, padding included
                shape_of(a)
                for a in node.args
                if isinstance(a, fx.Node)
            ],
            signal=signal,
            operands=operands,
            reference=tuple(self.reference[a] if isinstance(a, fx.Node) else a for a in node.args)
            if self.reference
            else (),
            budget=None if budget is None else budget.reshape(-1, *[1] * (r.dim() - 1)),
            image=shape_of(self.image),
            final=node is self.network.output.args[0],
            before=before,
            pattern=None if pattern is None else self.network.tensors[pattern].double(),
        )
        several = operator.relevance in ("share", "signal") or len(signal) > 1
        x = operands if several else operands[signal[0]]
        found = rule(layer, x, r)
        parts = found if isinstance(found, tuple) else (found,)
        if self.method.layer_contribution is not None:
            added = bind_rule(self.method.layer_contribution, self.parameters)(layer, x, r)
            if added is not None:
                self.added.append(added)
        return [
            (sources[i], part + torch.zeros_like(operands[i]))
            for i, part in zip(signal, parts, strict=True)
        ]


# Properties


class Mismatch(AssertionError):
    """A property that does not hold."""


def inputs_for(shape: Sequence[int], count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs in float64 that float32 can hold, and a class for each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *shape, generator=generator).double()
    return x, torch.arange(count) % 4


def in_single(network: Network) -> Network:
    """The same network in float32."""

    def cast(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cast, value))
        return value.float() if value.is_floating_point() else value

    single = network.copy()
    single.tensors = {name: cast(tensor) for name, tensor in network.tensors.items()}
    for node in single.graph.nodes:
        if facts_of(node).value is not None:
            facts_of(node).value = cast(facts_of(node).value)
    if network.samples is not None:
        single.samples = network.samples.of_type(torch.float32)
    return single


def in_onnx(network: Network, x: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Logits and relevance by ONNX Runtime, in this process."""
    proto = onnx_ir.to_proto(to_onnx(legalize(in_single(network), "onnx")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feeds = {"input": x.float().numpy(), "target": target.numpy()}
    return [torch.from_numpy(np.asarray(part)) for part in session.run(None, feeds)[:2]]


def gradient_of(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By autograd: of the target's logit, summed over all places."""

    def chosen(x: torch.Tensor) -> torch.Tensor:
        logits = model(x)
        return logits.flatten(2).sum(2) if logits.dim() > 2 else logits

    def total(x: torch.Tensor) -> torch.Tensor:
        return chosen(x).gather(1, target[:, None]).sum()

    # torch's derivative multiplies by a sixth that is rounded to float32
    exact = mock.patch.object(F, "hardsigmoid", lambda x: F.relu6(x + 3) / 6)
    try:
        with exact:
            y = x.clone().requires_grad_()
            return torch.autograd.grad(total(y), y)[0]
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        # autograd refuses values changed in place; functionalized, it has none
        with exact:
            return torch.func.grad(torch.func.functionalize(total))(x)


def errors(found: torch.Tensor, expected: torch.Tensor) -> list[float]:
    """``||found - expected|| / ||expected||`` of each sample; below `SMALLEST` that is the norm."""
    off = (found.double() - expected.double()).flatten(1).norm(dim=1)
    norm = expected.double().flatten(1).norm(dim=1).clamp(min=SMALLEST)
    ratios: list[float] = (off / norm).tolist()
    return ratios


def assert_close(
    what: str, found: torch.Tensor, expected: torch.Tensor, allowed: list[float]
) -> None:
    """Raise where the error of any sample is larger than allowed."""
    if found.shape != expected.shape:
        raise Mismatch(f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    if not bool(expected.isfinite().all()):
        raise Mismatch(f"{what}: the reference is not finite")
    off = errors(found, expected)
    if not all(error <= limit for error, limit in zip(off, allowed, strict=True)):
        raise Mismatch(f"{what}: off by {max(off):.2e}, allowed are {max(allowed):.2e}")


def check_network(
    model: nn.Module, shape: Sequence[int], methods: Sequence[str]
) -> list[graphprop.CompiledExplainer]:
    """Compare the explainers of a network with its logits, autograd and the second walk.

    Raises
    ------
    Mismatch
        Saying what differs.
    GraphpropError
        If the network is refused.
    """
    x, target = inputs_for(shape)
    model = model.double()
    program = capture(model, x)
    explainers = []
    for method in methods:
        with mock.patch("graphprop.api.capture", return_value=program):
            explainers.append(graphprop.compile(model, x, method, **fitting(method, x)))
        check_explainer(explainers[-1], model, x, target)
    return explainers


def allowed_errors(
    network: Network, x: torch.Tensor, target: torch.Tensor, exact: torch.Tensor
) -> list[float]:
    """The error allowed between two computations of a map: ten times the effect of rounding."""
    generator = torch.Generator().manual_seed(2)
    moved = x * (1 + TINY * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    _, (found,) = interpret_map(network, {"x": moved}, target)
    return [max(SAME, 10 * error) for error in errors(found, exact)]


def check_ranges(network: Network, x: torch.Tensor, target: torch.Tensor) -> None:
    """Raise where a value lies outside its inferred range, in float64 or float32."""

    def look(node: fx.Node, value: Any) -> None:
        claimed, value = facts_of(node).range, value[0] if isinstance(value, tuple) else value
        known = value[value.isfinite()] if value.is_floating_point() else value
        if not known.numel() or (claimed.low <= known.min() and known.max() <= claimed.high):
            return
        found = f"[{float(known.min())}, {float(known.max())}]"
        raise Mismatch(f"{node.name} of the {network.level} network lies in {found}, not {claimed}")

    for scale in (1.0, 30.0):
        for dtype in (torch.float64, torch.float32):
            inputs = {"x": x * scale, "target": target}
            interpret(network, inputs, dtype=dtype, observe=look)


def check_explainer(
    explainer: graphprop.CompiledExplainer,
    model: nn.Module,
    x: torch.Tensor,
    target: torch.Tensor,
) -> None:
    """Test every property of one explainer, compiled in float64."""
    method, network = explainer.method.name, explainer.network
    for each in (network, explainer.lowered):
        check_ranges(each, x, target)
    unsimplified = lower(network, explainer.method, explainer.settings)
    logits, (lowered,) = interpret_map(unsimplified, {"x": x}, target)
    rough = interpret_map(explainer.lowered, {"x": x}, target, dtype=torch.float32)
    e32 = {"logits": errors(rough[0], logits), "relevance": errors(rough[1][0], lowered)}
    fine = {
        "logits": [SAME] * len(x),
        "relevance": allowed_errors(unsimplified, x, target, lowered),
    }

    own_logits, found = explainer(x, target)
    with torch.no_grad():
        own = model(x)
    tail = network.tail
    shown = network.with_tail(own_logits)
    assert_close(f"{method}: logits", shown, own, fine["logits"])
    assert_close(f"{method}: printed as torch", found, lowered, fine["relevance"])
    walked = Walk(explainer).relevance(x, target)
    assert_close(f"{method}: a second walk by the rules", lowered, walked, fine["relevance"])
    if method == "gradient" and not tail:
        expected = gradient_of(model, x, target)
        assert_close("gradient by autograd", found, expected, fine["relevance"])

    rough_logits, rough_found = (part.double() for part in in_onnx(explainer.lowered, x, target))
    rough_allowed = {key: [*map(allowance, off)] for key, off in e32.items()}
    assert_close(f"{method}: logits in ONNX", rough_logits, logits, rough_allowed["logits"])
    try:
        assert_close(f"{method}: in ONNX", rough_found, lowered, rough_allowed["relevance"])
    except Mismatch as error:
        # rounding may decide which entry of a window is the maximum: the check follows each step
        fit = fitting(method, x.float())
        single = graphprop.compile(deepcopy(model).float(), x.float(), method, **fit)
        report = single.check(backends=["onnxruntime"])
        if not report.passed:
            raise Mismatch(f"{error}; {report.complaint()}") from error


def method_for(seed: int) -> str:
    """A method in addition to the gradient: seeds go through all of them."""
    others = [name for name in METHODS if name != "gradient"]
    return others[seed % len(others)]


def describe(seed: int) -> Source:
    """The network of a seed."""
    return Generator(seed).write()


def attempt(seed: int) -> str | None:
    """Test the network of a seed; returns the error message where it is refused.

    Raises
    ------
    Mismatch
        With the reproducer.
    """
    made, methods = describe(seed), ["gradient", method_for(seed)]

    def failure(error: Exception) -> Mismatch:
        kind = "" if isinstance(error, Mismatch) else f"{type(error).__name__}: "
        return Mismatch(f"seed {seed}, {' and '.join(methods)}: {kind}{error}\n{made}")

    try:
        try:
            check_network(made.module(), made.shape, methods)
        except MethodError as error:
            if "differs from the gradient at rectifiers" not in str(error):
                raise
            check_network(made.module(), made.shape, methods[:1])  # a network without rectifiers
    except GraphpropError as error:
        # a verification error is a defect of a pass, not a refusal
        if isinstance(error, VerificationError):
            raise failure(error) from error
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        raise failure(error) from error
    return None


def main(count: int, first: int) -> int:
    """Try some networks; returns how many failed."""
    failed, refused = 0, 0
    for seed in range(first, first + count):
        try:
            reason = attempt(seed)
        except Mismatch as error:
            failed += 1
            print(error)
        else:
            refused += reason is not None
            if reason is not None:
                print(f"seed {seed} is refused: {reason}")
    print(f"{count} networks from seed {first} on: {failed} failed, {refused} refused")
    return failed


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])) > 0)
