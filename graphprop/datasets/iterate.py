"""Explaining a data set picture by picture, for programs that keep the maps elsewhere, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.artifact.manifest import read_manifest
from graphprop.datasets.decode import Decoder, decoded, takes_arrays
from graphprop.datasets.explaining import Explaining, batched
from graphprop.datasets.local import AHEAD
from graphprop.datasets.plan import Plan
from graphprop.datasets.run import check_options, default_workers
from graphprop.datasets.sources import open_source
from graphprop.datasets.targets import labels_of, targets_of
from graphprop.errors import InputError
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sources import refuse_rejected

BATCH = 8
"""How many pictures are explained at once by default."""


class One(NamedTuple):
    """A picture that was explained.

    Attributes
    ----------
    id
        What it is called in the data.
    logits
        ``[classes]``; those of a network with an output for each place, summed over them.
    relevance
        ``[C, ...]``, as computed.
    """

    id: str
    logits: NDArray[np.float32]
    relevance: NDArray[np.float32]


def iterate_explanations(
    directory: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    target: int | str | Path | None = None,
    batch_size: int = BATCH,
    workers: int | None = None,
    backend: str = "python",
    device: str = "cpu",
    limit: int | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> Iterator[One]:
    """Explain the pictures of a data set, in the order of their ids; nothing is written.

    Pictures are read ahead, and explained in batches, while what was explained is used.

    Parameters
    ----------
    directory, data, workers, backend, device, limit
        As for `explain_dataset`.
    target
        As there, but for ``"top:K"``.
    batch_size
        How many are explained at once.
    failed
        Called with the id of a picture that can't be read, and the reason; by default such a
        picture is an error.

    Yields
    ------
    One
        ``(id, logits, relevance)``.

    Raises
    ------
    InputError
        If there are no pictures, the network has no such class, or a picture can't be read.
    OutputError
        If the directory isn't one of graphprop's, failed its check, or doesn't work.
    """
    directory = Path(directory)
    check_options("float32", None, workers, batch_size, limit)
    manifest = read_manifest(directory)
    refuse_rejected(directory, manifest)
    Preprocessing.of_arrays(manifest)
    source = open_source(data, arrays=takes_arrays(manifest))
    if limit is not None:
        source.limit(limit)
    labels, _ = labels_of(source, manifest)
    targets = targets_of(target, source, labels, manifest)
    if targets.top is not None:
        raise InputError(f"the target {targets.text} gives several maps: give one class")
    explaining = Explaining(
        directory, manifest, backend=backend, device=device, threads=torch.get_num_threads()
    )
    plan = Plan(len(source.ids), len(source.ids), batch_size)
    pictures = decoded(
        Decoder(source, manifest), plan.rows(0), workers or default_workers(), AHEAD * batch_size
    )
    for batch in batched(pictures, plan.batches(0), explaining.shape):
        classes = targets.classes[batch.rows.start : batch.rows.stop]
        logits, maps, _ = explaining(batch.x, classes)
        for place, row in enumerate(batch.rows):
            name, reason = source.ids[row], batch.reasons.get(row)
            if reason is None:
                yield One(name, logits[place], maps[place])
            elif failed is None:
                raise InputError(f"the picture {name!r} can't be explained: {reason}")
            else:
                failed(name, reason)
