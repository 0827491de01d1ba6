"""Fit patterns: the direction in which each unit's input varies with its result, from data.

The two-component estimator of Kindermans et al. 2018, docs/methods.md, section 5. One pass over
the data; of each batch, counts, means and covariances are kept, and merged into those of the
batches before. Memory does not grow with the data. Everything is computed in float64.

No patches are extracted: a sum over all places of ``x * m``, m being a number for each unit and
place, is the vector-Jacobian product of the layer in its weight, for every kind of layer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphprop.errors import InputError, MethodError, kind_of
from graphprop.ir.facts import facts_of, shape_of, where
from graphprop.ir.interpret import interpret
from graphprop.ir.names import tensor_name
from graphprop.ir.network import Network
from graphprop.ops import helpers
from graphprop.rules.patterns import NEEDS_DATA
from graphprop.rules.registry import BoundRule, Method

PREFIX = "graphprop.pattern."
"""What the names of patterns begin with, in the weights' file."""

LEAST_SPREAD = 1e-10
"""A unit's standard deviation, relative to its mean, below which it is taken for constant: float64
rounds by 1e-16 of the terms of a weighted sum, which can be much larger than the sum."""

CHUNK = 32
"""How many samples of a single tensor are computed at once."""


@dataclass(frozen=True)
class Fitted:
    """What patterns were fitted to.

    Attributes
    ----------
    samples
        How many.
    sha256
        The hash of the samples in their order, however they were batched.
    """

    samples: int
    sha256: str


def fit_patterns(network: Network, method: Method, data: Iterable[Any] | None) -> Fitted | None:
    """Fit the patterns that the rules of a network read, and store them with its tensors.

    Parameters
    ----------
    network
        Annotated; it gets the patterns.
    method
        For messages.
    data
        Batches of inputs, see `graphprop.api.compile`; None where there are none.

    Returns
    -------
    Fitted or None
        What was fitted to; None where no rule reads patterns.

    Raises
    ------
    MethodError
        If a rule reads patterns and there is no data, or the other way round.
    InputError
        If a batch isn't what the model takes, or there is none.
    """
    nodes = layers_to_fit(network)
    if data is None:
        if nodes:
            raise MethodError(
                f"the rule {facts_of(nodes[0]).rule} at {where(nodes[0])} lacks data: {NEEDS_DATA}"
            )
        return None
    if not nodes:
        raise MethodError(f"the method {method.name!r} fits nothing to data: leave out fit")
    found = {node: Covariance(node, network) for node in nodes}
    hashes = [hashlib.sha256() for _ in network.inputs]
    samples = 0
    for batch in batches_of(data):
        inputs = inputs_in(batch, network)
        if not len(inputs[0]):
            continue
        observe_batch(network, inputs, found)
        for digest, part in zip(hashes, inputs, strict=True):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        samples += len(inputs[0])
    if not samples:
        raise InputError("fit holds no sample: give batches of the model's inputs, [N, ...]")
    store(found, network)
    network.notes.insert(0, f"the patterns are fitted to {samples} samples")
    return Fitted(samples, combined(hashes, network))


def layers_to_fit(network: Network) -> list[fx.Node]:
    """Return the layers of an annotated network whose rules read patterns."""
    return [
        node
        for node in network.weighted
        if isinstance(rule := facts_of(node).rule, BoundRule) and rule.rule.fitted
    ]


def batches_of(data: Any) -> Iterator[Any]:
    """Go through batches; a tensor is one, and computed in parts."""
    if isinstance(data, torch.Tensor):
        return iter(data.split(CHUNK)) if data.dim() else iter([data])
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise InputError(
            f"fit must be an iterable of batches, tensors [N, ...], not {kind_of(data)}"
        )
    return iter(data)


def inputs_in(batch: Any, network: Network) -> list[torch.Tensor]:
    """Return the model's inputs in a batch; what follows them, such as labels, is left out.

    Raises
    ------
    InputError
        If one is missing, of another shape or type, or holds what is no number.
    """
    images = network.inputs
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    if len(parts) < len(images):
        raise InputError(f"a batch of fit has {len(parts)} of the model's {len(images)} inputs")
    inputs: list[torch.Tensor] = []
    for part, image in zip(parts, images, strict=False):
        dtype = facts_of(image).value.dtype
        if isinstance(part, torch.Tensor) and part.is_floating_point() and dtype.is_floating_point:
            part = part.to(dtype)
        try:
            helpers.check_input(
                part, shape_of(image)[1:], dtype, len(inputs[0]) if inputs else None
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"in a batch of fit, {error}") from None
        if not part.isfinite().all():
            raise InputError("a batch of fit holds NaN or infinite entries")
        inputs.append(part)
    return inputs


def observe_batch(
    network: Network, inputs: list[torch.Tensor], found: Mapping[fx.Node, Covariance]
) -> None:
    """Compute the network for a batch, and add what each layer saw."""
    # a value is kept until the last layer that reads it has been computed
    readers = Counter(node.args[0] for node in found)
    held: dict[fx.Node, torch.Tensor] = {
        image: part.double() if part.is_floating_point() else part
        for image, part in zip(network.inputs, inputs, strict=True)
        if image in readers
    }

    def observe(node: fx.Node, value: torch.Tensor) -> None:
        if node in readers:
            held[node] = value
        if node in found:
            source = node.args[0]
            found[node].add(held[source], value)
            readers[source] -= 1
            if not readers[source]:
                del held[source]

    by_name = {image.target: part for image, part in zip(network.inputs, inputs, strict=True)}
    interpret(network, by_name, observe=observe)


class Covariance:
    """Of a layer's inputs with each of its units, over samples and places where the unit fires.

    Each value of the shape of the weight has an entry for each unit and each input that it reads.

    Attributes
    ----------
    count
        How often each unit fired, ``y > 0``.
    mean_x, mean_y
        The means of the inputs, of the shape of the weight, and of the unit's result.
    moment
        The sum of ``(x - mean_x) * (y - mean_y)``, of the shape of the weight.
    """

    def __init__(self, node: fx.Node, network: Network) -> None:
        source = node.args[1]
        if source.op != "get_attr":
            raise MethodError(f"the weight of {where(node)} is computed, and can't be fitted to")
        self.node, self.dtype = node, network.tensor(source).dtype
        self.weight = network.tensor(source).detach().double()
        axis = node.target.channel_axis
        self.units = facts_of(node).value.shape[axis]
        self.count = self.weight.new_zeros(self.units)
        self.mean_y = self.weight.new_zeros(self.units)
        self.mean_x, self.moment = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        if node.target.with_results_scaled(self.mean_x, self.count) is None:
            raise MethodError(f"{where(node)} has no channels of its result to fit patterns to")

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a batch: the layer's inputs and its result, bias included."""
        axis = self.node.target.channel_axis % y.dim()
        others = [other for other in range(y.dim()) if other != axis]
        shape = [self.units if other == axis else 1 for other in range(y.dim())]
        fires = (y > 0).double()
        count = fires.sum(others)
        mean_y = (fires * y).sum(others) / count.clamp(min=1)
        with torch.enable_grad():
            weight = self.weight.clone().requires_grad_()
            result = self.node.target.run(x, weight)
        centered = fires * (y - mean_y.reshape(shape))
        summed_x, moment = (
            torch.autograd.grad(result, weight, factors, retain_graph=True)[0]
            for factors in (fires, centered)
        )
        mean_x = summed_x / self.spread(count.clamp(min=1))
        # centered adds up to what rounding left of it, which a large x would multiply
        moment -= mean_x * self.spread(centered.sum(others))
        # Chan et al.'s way to merge two parts: no difference of large sums is taken
        both = self.count + count
        share = count / both.clamp(min=1)
        off_x, off_y = mean_x - self.mean_x, mean_y - self.mean_y
        self.moment += moment + off_x * self.spread(off_y * self.count * share)
        self.mean_x += off_x * self.spread(share)
        self.mean_y += off_y * share
        self.count = both

    def pattern(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the pattern, of the shape of the weight, and which units have none: 0 there."""
        variance = self.gather(self.weight * self.moment)
        least = self.count * (LEAST_SPREAD * self.mean_y) ** 2
        constant = variance <= least
        factor = torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, variance))
        return self.moment * self.spread(factor), constant

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Give each entry of the weight its unit's value."""
        spread: torch.Tensor = self.node.target.with_results_scaled(
            torch.ones_like(self.weight), values
        )
        return spread

    def gather(self, entries: torch.Tensor) -> torch.Tensor:
        """Add up the entries of each unit: the adjoint of `spread`."""
        with torch.enable_grad():
            values = self.weight.new_zeros(self.units).requires_grad_()
            spread = self.spread(values)
        return torch.autograd.grad(spread, values, entries)[0]


def store(found: Mapping[fx.Node, Covariance], network: Network) -> None:
    """Store the patterns with the network's tensors, and note where a unit has none."""
    without = []
    for node, one in found.items():
        pattern, constant = one.pattern()
        stem = name = tensor_name(PREFIX + (facts_of(node).label or node.name))
        number = 0
        while name in network.tensors:  # the model may have a parameter of that name
            number += 1
            name = f"{stem}_{number}"
        network.tensors[name] = pattern.to(one.dtype)
        facts_of(node).pattern = name
        if constant.any():
            without.append(
                f"{int(constant.sum())} of {one.units} at {facts_of(node).label or node.name!r}"
            )
    if without:
        shown = ", ".join(without[:3]) + f" and at {len(without) - 3} more" * (len(without) > 3)
        network.notes.insert(
            0,
            "units that never fire on the data, or with one value alone, have the pattern 0 and "
            f"pass nothing: {shown}",
        )


def combined(hashes: list[Any], network: Network) -> str:
    """Return the hash of the data: of the types and shapes of the inputs, and of their hashes."""
    whole = hashlib.sha256()
    for digest, image in zip(hashes, network.inputs, strict=True):
        shape = [*shape_of(image)[1:]]
        whole.update(f"{facts_of(image).value.dtype} {shape} {digest.hexdigest()}\n".encode())
    return whole.hexdigest()
