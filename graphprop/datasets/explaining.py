"""From inputs to rows: what is computed of a batch, and of the batches of a chunk.

Pictures that can't be read keep their place in the batch, as zeros: what stands in another row
doesn't change its bits then, but the size of the batch would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.artifact.engines import BatchEngine, batch_engine_of
from graphprop.datasets.decode import Decoded
from graphprop.datasets.layout import Field, fields_of, stored
from graphprop.datasets.plan import Plan
from graphprop.datasets.sources import Source
from graphprop.datasets.targets import PREDICTED, Int64s, Targets
from graphprop.errors import InputError

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""The rows of some pictures: an array by each name of `graphprop.datasets.layout.fields_of`."""


@dataclass(frozen=True)
class Job:
    """All that has to be known to compute chunks of a store.

    Attributes
    ----------
    directory, manifest
        The compiled directory.
    source
        The pictures.
    plan
        The chunks, and the batches in them.
    targets
        What is explained of each.
    backend, device, threads
        What computes.
    dtype, reduce
        What is stored.
    """

    directory: Path
    manifest: Mapping[str, Any]
    source: Source
    plan: Plan
    targets: Targets
    backend: str
    device: str
    threads: int
    dtype: str
    reduce: str | None

    @property
    def fields(self) -> dict[str, Field]:
        """The arrays of the store that are computed."""
        return fields_of(self.manifest, self.dtype, self.reduce, self.targets.top)


class Explaining:
    """An explainer that was loaded, and what is done with its maps."""

    def __init__(
        self,
        directory: Path,
        manifest: Mapping[str, Any],
        *,
        backend: str,
        device: str,
        threads: int,
    ) -> None:
        self.threads, self.shape = threads, tuple(manifest["input_shape"])
        self.engine: BatchEngine = batch_engine_of(directory, manifest, backend, device, threads)

    def __call__(self, x: torch.Tensor, targets: Int64s) -> tuple[Any, Any, Int64s]:
        """Logits ``[b, classes]``, maps ``[b, ...]`` and classes ``[b]``; -1 is the largest."""
        with using_threads(self.threads):
            logits, maps = self.engine(x, targets)
        logits = logits.reshape(*logits.shape[:2], -1).sum(-1)
        return logits, maps, np.where(targets == PREDICTED, logits.argmax(1), targets)

    def several(self, x: torch.Tensor, top: int) -> Iterator[tuple[Any, Any, Int64s]]:
        """The same for the classes of the largest logits, one after the other."""
        first = self(x, np.full(len(x), PREDICTED, dtype=np.int64))
        yield first
        # of equal logits the class that comes first, as for the largest
        order = np.argsort(-first[0], axis=1, kind="stable")
        for place in range(1, top):
            yield self(x, order[:, place].astype(np.int64))

    def batch(self, job: Job, x: torch.Tensor, rows: range, broken: NDArray[np.bool_]) -> Arrays:
        """The rows of a batch."""
        top = job.targets.top
        if top is None:
            found = [self(x, job.targets.classes[rows.start : rows.stop])]
        else:
            found = list(self.several(x, top))
        parts = [stored(maps, job.dtype, job.reduce) for _, maps, _ in found]
        for part, (_, _, chosen) in zip(parts, found, strict=True):
            part["target"] = chosen
        arrays = parts[0]
        if top is not None:
            arrays = {name: np.stack([part[name] for part in parts], 1) for name in parts[0]}
        arrays["logits"] = found[0][0].astype(np.float32)
        for name, field in job.fields.items():
            arrays[name][broken] = field.empty
        return arrays


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: with others, sums may come out otherwise."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Batch:
    """Inputs that are explained at once, those of pictures that failed being zeros.

    Attributes
    ----------
    rows
        Their places in the data set.
    x
        ``[b, C, ...]``.
    reasons
        Row -> why that picture could not be read.
    """

    rows: range
    x: torch.Tensor
    reasons: dict[int, str]

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Which of the rows failed, ``[b]``."""
        return np.array([row in self.reasons for row in self.rows])


def batched(pictures: Iterable[Decoded], batches: Iterable[range], shape: Any) -> Iterator[Batch]:
    """Put pictures that were read, in their order, into batches."""
    given = iter(pictures)
    for rows in batches:
        x, reasons = torch.zeros(len(rows), *shape), {}
        for place, row in enumerate(rows):
            one = next(given)
            assert one.row == row
            if one.x is None:
                reasons[row] = one.reason
            elif one.x.shape != x.shape[1:]:
                raise InputError(f"an input has the shape {tuple(one.x.shape)}, not {shape}")
            else:
                x[place] = one.x
        yield Batch(rows, x, reasons)


def chunk_of(
    job: Job, explaining: Explaining, batches: Iterable[Batch]
) -> tuple[Arrays, dict[int, str]]:
    """The rows of a chunk, and why pictures of it failed."""
    parts, reasons = [], {}
    for batch in batches:
        parts.append(explaining.batch(job, batch.x, batch.rows, batch.broken))
        reasons.update(batch.reasons)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, reasons
