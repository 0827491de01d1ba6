"""How many threads a check runs on: no more than help, and never so that results depend on it.

Small operations are not faster on several threads, and on more threads than the machine grants they
are much slower. How float64 rounds depends on how sums are split among threads, and a manifest's
bytes must not: what is recorded is computed with one thread for each sample, several samples at
once where the network is large enough to be worth it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from graphprop.ir.facts import facts_of, has_shape, shape_of
from graphprop.ir.network import Network

Result = TypeVar("Result")

LARGE = 2_000_000
"""From how many entries of intermediate values on samples run side by side: small operations are
not faster for it."""

MOST = 4
"""How many samples run side by side at most: each holds its own values in memory."""


QUOTAS = ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
"""Where Linux says how many microseconds of each period a container may compute."""

PERIOD = 100_000.0
"""The length of a period where the file names none: the kernel's default."""


def available() -> int:
    """How many CPUs this process may use: by its affinity, and by the quota of its container."""
    own = getattr(os, "sched_getaffinity", None)
    count = len(own(0)) if own else os.cpu_count() or 1
    for file in QUOTAS:
        try:
            quota, period, *_ = [*map(float, Path(file).read_text().split()), PERIOD]
        except (OSError, ValueError):
            continue  # there is none, or it is "max"
        if quota > 0:
            count = min(count, max(1, math.ceil(quota / period)))
    return count


def usable() -> int:
    """How many threads torch may take, no more than there are CPUs."""
    return max(1, min(torch.get_num_threads(), available()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def for_network(
    network: Network, work: Callable[[int], Result], rows: Sequence[int]
) -> list[Result]:
    """Do the work for each row, with one thread each; side by side where the network is large."""
    values = [node for node in network.layers if has_shape(node)]
    size = sum(abs(math.prod(shape_of(node)[1:])) for node in values if facts_of(node).batched)
    workers = min(usable(), MOST, len(rows)) if size >= LARGE else 1
    before = torch.get_num_threads()
    with one_thread():
        if workers == 1:
            return [work(row) for row in rows]
        try:
            with ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                return list(pool.map(work, rows))
        finally:
            torch.set_num_threads(before)
