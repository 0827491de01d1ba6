"""What is computed, and in which pieces: the same pieces whoever computes them, in any order.

The rows of a store are the sorted ids. A chunk is a number of rows that lie together, which depends
on the size of a map alone; it is what is computed, written and recorded as one. Within a chunk the
batches are fixed, too: a convolution of another batch size may take another algorithm, and give
other bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK_BYTES = 32 * 2**20
"""Bytes of the maps of a chunk: large enough to be written at the speed of a disk, small enough for
several to be in memory, and for little to be lost."""
MOST_ROWS = 256
"""Rows of a chunk, however small its maps are: what is lost at most when a run is killed."""


@dataclass(frozen=True)
class Plan:
    """The rows of a store, in chunks and batches.

    Attributes
    ----------
    count
        How many pictures there are.
    chunk
        Rows of a chunk; the last one may have fewer.
    batch
        Pictures that are explained at once; the last batch of a chunk may have fewer.
    """

    count: int
    chunk: int
    batch: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return math.ceil(self.count / self.chunk)

    def rows(self, number: int) -> range:
        """The rows of a chunk."""
        return range(number * self.chunk, min((number + 1) * self.chunk, self.count))

    def batches(self, number: int) -> Iterator[range]:
        """The rows of each batch of a chunk."""
        rows = self.rows(number)
        for start in range(rows.start, rows.stop, self.batch):
            yield range(start, min(start + self.batch, rows.stop))


def rows_of_chunk(shape: Sequence[int], dtype: str) -> int:
    """How many rows a chunk has, for what is stored of one picture: a power of two.

    Parameters
    ----------
    shape, dtype
        The shape and the type of the maps of a picture, as they are stored.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return 2 ** int(math.log2(min(max(CHUNK_BYTES // max(size, 1), 1), MOST_ROWS)))
