"""Time and memory: who takes turns, on which clock, and at which peak."""

from __future__ import annotations

import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], Any]
Clock = Callable[[], float]
MIB = 2**20


def race(runs: Mapping[str, Run], repeats: int, clock: Clock) -> dict[str, list[float]]:
    """Let all take turns; the seconds of each one's runs, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = clock()
            run()
            ended = clock()
            if turn:
                seconds[name].append(ended - began)
            gc.collect()
    return seconds


def clock_for(threads: int, device: str) -> Clock:
    """What others disturb least: processor time of one thread, else the clock on the wall."""
    if device != "cpu":
        return after_the_gpu
    return processor_time if threads == 1 else time.perf_counter


def after_the_gpu() -> float:
    """Seconds, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def processor_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


def ratio(found: Sequence[float], other: Sequence[float]) -> float:
    """The median over the rounds of one's time by the other's in the same round."""
    return statistics.median(a / b for a, b in zip(found, other, strict=True))


def spread(seconds: Sequence[float]) -> float:
    """Half the middle half of the times, relative to the median: how noisy they are."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def peak_of(run: Run, before: int, device: str) -> float:
    """The peak of one call in MiB, above ``before``; what was only mapped is in memory then.

    The kernel's high-water mark is set back after a first call. That of ``getrusage`` can't be,
    and a child process begins with its parent's.
    """
    run()
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / MIB
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (status("VmHWM") - before) / MIB


def can_measure_memory() -> bool:
    """Whether the kernel lets a process set back its high-water mark."""
    return Path("/proc/self/clear_refs").exists()


def status(field: str) -> int:
    """A number of bytes that the kernel keeps about this process."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024
