"""What is evaluated: a case of the data, and that case as one explainer explains it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from graphprop.errors import InputError, kind_of

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Explainer: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Takes pictures ``[N, C, H, W]`` and classes ``[N]`` (int64); returns logits ``[N, classes]`` and
relevance ``[N, C, h, w]`` or ``[N, h, w]``. Signals and volumes have one or three axes in place of
``H, W``, wherever the evaluation speaks of pictures and pixels. Where it has a method
``logits(x)``, perturbed pictures are classified by that, which costs less."""

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""What linear interpolation along so many axes is called."""

PREDICTED = -1
"""The target that stands for the class of the largest logit."""


@dataclass(frozen=True)
class Case:
    """One class of one picture; it unpacks as ``image, target, mask``.

    Attributes
    ----------
    image
        ``[C, H, W]``, as the network takes it; ``[C, L]`` of a signal, ``[C, D, H, W]`` of a
        volume.
    target
        The class; -1 for the class of the largest logit.
    mask
        ``[H, W]``, the places of the image: where the objects of that class are, or None where
        that isn't known.
    labels
        All classes that the picture shows, the target among them. Empty where only the target is
        known.
    name
        What the picture is called.
    """

    image: torch.Tensor
    target: int
    mask: Bools | None = None
    labels: frozenset[int] = frozenset()
    name: str = ""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.image, self.target, self.mask))

    @classmethod
    def of(cls, given: Any, index: int) -> Case:
        """Read ``(image, target, mask or None)``.

        Raises
        ------
        InputError
            If it is anything else.
        """
        try:
            image, target, mask = given
        except (TypeError, ValueError):
            raise InputError(
                f"case {index} of the data must be (image, target, mask or None), not "
                f"{kind_of(given)}"
            ) from None
        image = torch.as_tensor(image)
        if not 2 <= image.dim() <= 4:
            raise InputError(
                f"the image of case {index} must have shape [C, H, W], or one or three axes behind "
                f"the channels, not {list(image.shape)}"
            )
        if not image.is_floating_point():
            raise InputError(
                f"the image of case {index} is of {image.dtype}: give it as the network takes it, "
                "in floating point"
            )
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != tuple(image.shape[1:]):
                raise InputError(
                    f"the mask of case {index} must have shape {list(image.shape[1:])}, as its "
                    f"image, not {list(mask.shape)}"
                )
            mask = mask.astype(bool)
        labels = given.labels if isinstance(given, Case) else frozenset()
        name = given.name if isinstance(given, Case) else ""
        return cls(image, int(target), mask, labels, name)


@dataclass
class Sample:
    """A case explained by one explainer: what a metric is computed from.

    Attributes
    ----------
    image, target, mask, labels
        Of the case; ``target`` is a class, and ``labels`` holds at least it.
    map
        ``[H, W]``, the places of the image: relevance summed over channels.
    logits
        ``[classes]``.
    index
        The number of the case in the data.
    curves
        What `record` stored.
    """

    image: torch.Tensor
    target: int
    mask: Bools | None
    labels: frozenset[int]
    map: Floats
    logits: Floats
    index: int
    explainer: Explainer
    seed: int = 0
    batch_size: int = 16
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width: the lengths of the axes behind the channels."""
        return self.map.shape

    @property
    def pixels(self) -> int:
        """How many pixels the picture has."""
        return int(self.map.size)

    @cached_property
    def finite(self) -> bool:
        """Whether no entry of the map is NaN or infinite."""
        return bool(np.isfinite(self.map).all())

    @cached_property
    def constant(self) -> bool:
        """Whether all entries of the map are equal, so that it singles out no pixel."""
        return bool(self.map.min() == self.map.max())

    @property
    def object(self) -> Bools:
        """The mask, of a metric that needs one."""
        assert self.mask is not None, "a metric that uses the mask is declared with needs_mask"
        return self.mask

    @cached_property
    def fraction(self) -> float:
        """The share of the picture that the object covers."""
        return float(self.object.mean())

    def random(self, purpose: str) -> np.random.Generator:
        """Random numbers that depend on the seed, the case and the purpose alone.

        Neither the explainer nor the batch has an influence: all explainers are compared on the
        same perturbations.
        """
        return np.random.default_rng([self.seed, self.index, zlib.crc32(purpose.encode())])

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The pixels from the largest relevance to the smallest, ties in random order.

        A fixed order of ties would turn a constant map into one that reads line by line.
        """
        shuffled = self.random("ties").permutation(self.pixels)
        ranks = np.argsort(-self.map.reshape(-1)[shuffled], kind="stable")
        return shuffled[ranks]

    def predict(self, pictures: Iterator[torch.Tensor] | list[torch.Tensor]) -> Floats:
        """Logits ``[N, classes]`` of perturbed pictures, in batches."""
        found = []
        for batch in batches_of(pictures, self.batch_size):
            found.append(logits_of(self.explainer, torch.stack(batch), self.target))
        return np.concatenate(found)

    def explain(self, pictures: list[torch.Tensor], target: int | None = None) -> list[Floats]:
        """Maps of pictures, for the target or another class, in batches."""
        found: list[Floats] = []
        for batch in batches_of(pictures, self.batch_size):
            targets = torch.full((len(batch),), self.target if target is None else target)
            found += list(explain_batch(self.explainer, torch.stack(batch), targets)[1])
        return found

    def record(self, name: str, x: Any, y: Any) -> None:
        """Store a curve, for plots."""
        self.curves[name] = ([float(v) for v in x], [float(v) for v in y])


def batches_of(pictures: Any, size: int) -> Iterator[list[Any]]:
    """Group what an iterable gives, without holding more than a group of it."""
    batch = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def summed_logits(logits: torch.Tensor, count: int) -> Floats:
    """Logits ``[N, classes]``; those of a network with an output for each place, summed.

    Raises
    ------
    InputError
        If they have another shape.
    """
    logits = torch.as_tensor(logits)
    if logits.dim() < 2 or len(logits) != count:
        raise InputError(
            f"an explainer must return logits [N, classes], and returned {list(logits.shape)} "
            f"for {count} pictures"
        )
    array: Floats = logits.detach().cpu().double().numpy()
    return array.reshape(*array.shape[:2], -1).sum(2)


def result_of(
    explainer: Explainer, x: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What an explainer returns.

    Raises
    ------
    InputError
        If it isn't two things.
    """
    result = explainer(x, targets)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(
            f"an explainer must return (logits, relevance), and returned {kind_of(result)}"
        )
    return result


def logits_of(explainer: Explainer, x: torch.Tensor, target: int) -> Floats:
    """Logits of pictures, by the explainer's method ``logits`` where it has one."""
    forward = getattr(explainer, "logits", None)
    if callable(forward):
        return summed_logits(forward(x), len(x))
    return summed_logits(result_of(explainer, x, torch.full((len(x),), target))[0], len(x))


def explain_batch(
    explainer: Explainer, x: torch.Tensor, targets: torch.Tensor
) -> tuple[Floats, Floats]:
    """Logits ``[N, classes]`` and maps ``[N, H, W]`` of a batch."""
    logits, relevance = result_of(explainer, x, targets)
    return summed_logits(logits, len(x)), maps_of(torch.as_tensor(relevance), x)


def maps_of(relevance: torch.Tensor, x: torch.Tensor) -> Floats:
    """Sum relevance over channels, and bring it to the size of the pictures.

    A map that is made at a layer (Grad-CAM) is smaller, and is interpolated linearly.
    """
    relevance = relevance.detach().cpu().double()
    if relevance.dim() not in (x.dim() - 1, x.dim()) or len(relevance) != len(x):
        wanted = {3: "[N, C, L]", 4: "[N, C, H, W]", 5: "[N, C, D, H, W]"}.get(x.dim(), "")
        raise InputError(
            f"an explainer must return relevance {wanted}, and returned "
            f"{list(relevance.shape)} for {len(x)} pictures"
        )
    maps = relevance.sum(1) if relevance.dim() == x.dim() else relevance
    if maps.shape[1:] != x.shape[2:]:
        size = tuple(x.shape[2:])
        mode = LINEAR[len(size)]
        maps = F.interpolate(maps.unsqueeze(1), size, mode=mode, align_corners=False)
        maps = maps.squeeze(1)
    array: Floats = maps.numpy()
    return array
