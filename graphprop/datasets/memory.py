"""How many pictures are explained at once: as many as the memory that one takes allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprop.datasets.explaining import Explaining
from graphprop.profiling.profiler import peak_of

PART = 4
"""The part of the free memory that a batch may take is one in so many: decoding, writing and other
programs take theirs."""
MOST = {"cpu": 16, "cuda": 256}
"""Pictures of a batch at most: beyond it, no device computes more of them in a second."""
UNMEASURED = 4
"""The batch where the system doesn't tell how much memory a call takes."""


def batch_size(explaining: Explaining, chunk: int, device: str) -> int:
    """Choose a batch by measuring what a call takes: a power of two, no larger than a chunk."""
    kind = device.partition(":")[0]
    most = min(MOST[kind], chunk)
    probe = min(2, most)

    def call() -> Any:
        x = torch.zeros(probe, *explaining.shape)
        return explaining(x, np.full(probe, -1, dtype=np.int64))

    call()  # the first call allocates what stays
    taken, free = taken_on(device, call), free_on(device)
    if taken is None or free is None:
        return min(UNMEASURED, most)
    fitting = free // PART // max(taken // probe, 1)
    size = 1
    while size * 2 <= min(fitting, most):
        size *= 2
    return size


def taken_on(device: str, call: Callable[[], Any]) -> int | None:
    """Bytes that a call takes beyond what was taken before."""
    if device == "cpu":
        return peak_of(call)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return int(torch.cuda.max_memory_allocated(device) - before)


def free_on(device: str) -> int | None:
    """Bytes that can still be taken: of a GPU, or of the machine and what limits this process."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(one.split()[1]) * 1024 for one in lines if one.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat.get("inactive_file", 0)))  # files are given back
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free
