"""What a figure is drawn of: explainers, and cases with all that is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from graphprop.errors import InputError
from graphprop.evaluation.runner import cases_of, classes_of, with_targets
from graphprop.evaluation.sample import Case, Explainer, Floats, Sample, explain_batch
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sheet import Cell, Colors

MOST = 100
"""The most cases of one figure."""


@dataclass(frozen=True)
class Subject:
    """A case, its class known.

    Attributes
    ----------
    index
        Its number in the data.
    case
        Picture, class, mask, labels and name.
    show
        Turns a picture such as the case's into colors ``[H, W, 3]``.
    """

    index: int
    case: Case
    show: Callable[[torch.Tensor], Colors] = field(repr=False)

    @property
    def name(self) -> str:
        """What the picture is called, without folders."""
        return PurePath(self.case.name).name or f"case {self.index}"

    @property
    def colors(self) -> Colors:
        """The picture."""
        return self.show(self.case.image)

    def cell(self, head: str = "picture", caption: str = "") -> Cell:
        """The picture as a cell, with a line around the object where that is known."""
        mask = self.case.mask
        return Cell(self.colors, head, caption, outline=None if mask is None else central(mask))


@dataclass(frozen=True)
class Scene:
    """What a figure is drawn of.

    Attributes
    ----------
    explainers
        By name.
    subjects
        The cases.
    class_names
        Class to name, as far as they are known.
    seed
        Of everything random.
    """

    explainers: Mapping[str, Explainer]
    subjects: Sequence[Subject]
    class_names: Mapping[int, str] = field(default_factory=dict)
    seed: int = 0

    def class_of(self, number: int) -> str:
        """What a class is called: its name and its number."""
        name = self.class_names.get(number)
        return f"class {number}" if name is None else f"{name} ({number})"

    def label_of(self, subject: Subject, *more: str) -> str:
        """Picture and class, for the beginning of a row."""
        lines = [subject.name, self.class_of(subject.case.target), *more]
        if subject.case.image.dim() > 3:
            lines.append("central slice")
        return "\n".join(lines)

    def sample(self, name: str, subject: Subject, target: int | None = None) -> Sample:
        """A case explained by an explainer, for its class or another one."""
        case = subject.case
        target = case.target if target is None else target
        explainer = self.explainers[name]
        with torch.no_grad():
            logits, maps = explain_batch(explainer, case.image[None], torch.tensor([target]))
        return Sample(
            image=case.image,
            target=target,
            mask=case.mask,
            labels=case.labels | {target},
            map=maps[0],
            logits=logits[0],
            index=subject.index,
            explainer=explainer,
            seed=self.seed,
        )

    def map(self, name: str, subject: Subject, target: int | None = None) -> Floats:
        """The map ``[H, W]`` of an explainer; of a volume, its central slice."""
        return central(self.sample(name, subject, target).map)

    @cached_property
    def network(self) -> Explainer:
        """An explainer of the network, for logits."""
        return next(iter(self.explainers.values()))


def central(values: Any) -> Any:
    """The central slice ``[H, W]`` of ``[..., H, W]``."""
    while values.ndim > 2:
        values = values[values.shape[0] // 2]
    return values


def scene_of(
    explainers: Mapping[str, Explainer],
    data: Iterable[Any],
    *,
    targets: Sequence[int] | None = None,
    every_class: bool = False,
    samples: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> Scene:
    """Read what a figure is drawn of; the parameters are those of `figure`.

    Raises
    ------
    InputError
        If there is no explainer or case, there are too many, or one isn't as described.
    """
    if not isinstance(explainers, Mapping) or not explainers:
        raise InputError("explainers must be a dict of names and callables, with one at least")
    for name, explainer in explainers.items():
        if not callable(explainer):
            raise InputError(f"the explainer {name!r} can't be called")
    if samples is not None and samples < 1:
        raise InputError(f"samples must be at least 1, not {samples}")
    network = next(iter(explainers.values()))
    numbered = list(islice(cases_of(data, samples, seed), MOST + 1))
    if not numbered:
        raise InputError("there is no picture to draw")
    if every_class:
        numbered = with_siblings(numbered, data)
    if targets:
        numbered = with_other_targets(numbered, targets)
    if len(numbered) > MOST:
        raise InputError(f"a figure is of at most {MOST} cases: choose fewer by samples")
    for index, case in numbered:
        if case.image.dim() < 3:
            raise InputError(
                f"case {index} is a signal, of shape {list(case.image.shape)}: figures are of "
                "pictures and volumes"
            )
    with torch.no_grad():
        classes = classes_of(network, numbered[0][1])
        found = with_targets(numbered, network, classes)
    if not isinstance(class_names, Mapping):
        class_names = dict(enumerate(class_names or ()))
    subjects = [Subject(index, case, shower(case.image, preprocessing)) for index, case in found]
    return Scene(explainers, subjects, class_names, seed)


def with_siblings(numbered: list[tuple[int, Case]], data: Any) -> list[tuple[int, Case]]:
    """Cases, and with each the others of the same picture, which lie beside it in the data."""
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise InputError("every_class needs a sequence of cases, in which neighbors can be found")
    found: dict[int, Case] = {}
    for index, case in numbered:
        around = {index: case}
        for step in (-1, 1):
            other = index + step
            while case.name and 0 <= other < len(data):
                neighbor = Case.of(data[other], other)
                if neighbor.name != case.name:
                    break
                around[other] = neighbor
                other += step
        found |= dict(sorted(around.items()))
    return list(found.items())


def with_other_targets(
    numbered: list[tuple[int, Case]], targets: Sequence[int]
) -> list[tuple[int, Case]]:
    """Each picture once for each of other classes; only the label's own class has a mask."""
    pictures: dict[Any, list[tuple[int, Case]]] = {}
    for index, case in numbered:
        pictures.setdefault(case.name or index, []).append((index, case))
    found = []
    for cases in pictures.values():
        for target in dict.fromkeys(targets):
            index, case = next(
                ((i, c) for i, c in cases if c.target == target),
                (cases[0][0], replace(cases[0][1], target=target, mask=None)),
            )
            found.append((index, case))
    return found


def shower(
    image: torch.Tensor, preprocessing: Preprocessing | Mapping[str, Any] | None
) -> Callable[[torch.Tensor], Colors]:
    """What turns an input into a picture, as mean and std say.

    Without them, or where values don't lie in [0, 1] by them, the values of the picture itself are
    scaled: its smallest to black, its largest to white. Pictures that were made of it are drawn
    in the same way.
    """
    channels = image.shape[0]
    if isinstance(preprocessing, Mapping):
        mean, std, order = (preprocessing.get(key) for key in ("mean", "std", "channels"))
    elif preprocessing is not None:
        mean, std, order = preprocessing.mean, preprocessing.std, preprocessing.channels
    else:
        mean, std, order = None, None, None
    axes = [1] * (image.dim() - 1)
    shift, scale = (
        torch.tensor(values or [default] * channels, dtype=torch.float64).reshape(-1, *axes)
        for values, default in ((mean, 0.0), (std, 1.0))
    )
    known = image.detach().double() * scale + shift
    low, high = float(known.min()), float(known.max())
    if mean is not None and low > -0.02 and high < 1.02:
        low, high = 0.0, 1.0
    span = high - low if high > low else 1.0

    def shown(picture: torch.Tensor) -> Colors:
        values = ((picture.detach().double() * scale + shift - low) / span).numpy()
        slices = np.stack([central(channel) for channel in values])
        if order == "BGR":
            slices = slices[::-1]
        if channels != 3:
            slices = np.broadcast_to(slices.mean(0), (3, *slices.shape[1:]))
        bytes_ = np.nan_to_num(np.clip(slices, 0, 1) * 255).round().astype(np.uint8)
        return np.ascontiguousarray(bytes_.transpose(1, 2, 0))

    return shown
