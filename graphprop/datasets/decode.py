"""Reading pictures: each becomes an input, or a reason why it does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprop.datasets.sources import Source
from graphprop.errors import InputError
from graphprop.pictures.inputs import ARRAY_SUFFIXES, read_input
from graphprop.pictures.preprocessing import Preprocessing

LONGEST_REASON = 500
"""Characters of a reason."""


@dataclass(frozen=True)
class Decoded:
    """A picture that was read.

    Attributes
    ----------
    row
        Its place in the data set.
    x
        The input ``[C, ...]``; None where it can't be read.
    reason
        Why not.
    """

    row: int
    x: torch.Tensor | None
    reason: str = ""


class Decoder:
    """Reads the pictures of a data set as inputs of an explainer."""

    def __init__(self, source: Source, manifest: Mapping[str, Any]) -> None:
        self.source, self.manifest = source, manifest
        self.shape = tuple(manifest["input_shape"])
        self.drawing = Preprocessing.of_arrays(manifest)
        self.preprocessing = None if takes_arrays(manifest) else self.drawing

    def __call__(self, row: int) -> Decoded:
        """Read a picture; whatever is wrong with it is a reason, and no error."""
        name, found = self.source.ids[row], None
        try:
            found = self.source.read(row)
            x = self.input_of(found, name)
        except (InputError, OSError, ValueError) as error:
            text = " ".join((getattr(error, "strerror", None) or str(error)).split())
            if isinstance(found, Path):
                text = text.replace(str(found), name)  # the same wherever the data lie
            return Decoded(row, None, text[:LONGEST_REASON])
        return Decoded(row, x)

    def input_of(self, found: Path | bytes, name: str) -> torch.Tensor:
        """The input ``[C, ...]`` of a picture, or of an array."""
        if isinstance(found, Path) and found.suffix.lower() in ARRAY_SUFFIXES:
            return read_input(found, self.manifest).x[0]
        if self.preprocessing is None:
            raise InputError(
                f"{name} is a picture, and the explainer takes arrays: give .npy files"
            )
        content = found if isinstance(found, bytes) else None
        file = Path(name) if isinstance(found, bytes) else found
        shown, _ = self.preprocessing.read(file, content)
        return self.preprocessing.tensor(shown)[0]


def takes_arrays(manifest: Mapping[str, Any]) -> bool:
    """Whether an explainer takes something else than pictures: volumes, signals."""
    try:
        Preprocessing.of(manifest)
    except InputError:
        return True
    return False


def decoded(
    decoder: Decoder, rows: Iterable[int], workers: int, ahead: int
) -> Generator[Decoded, None, None]:
    """Read pictures in threads, in order, so many of them ahead of what is asked for."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(decoder, row))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
