"""The engine of one machine: reading in threads, explaining, and writing, all at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphprop.datasets.decode import Decoder, decoded
from graphprop.datasets.explaining import Arrays, Explaining, Job, batched, chunk_of
from graphprop.datasets.partial import Partial
from graphprop.datasets.store import Writer

Done = Callable[[int, int], None]
"""Told of each chunk that is done: how many pictures it has, and how many failed."""

AHEAD = 2
"""Batches that are read ahead of the one that is explained."""


def run_local(
    job: Job,
    partial: Partial,
    chunks: Sequence[int],
    explaining: Explaining,
    workers: int,
    done: Done,
) -> None:
    """Compute chunks of a store, and write them.

    Raises
    ------
    OSError
        If one can't be written.
    GraphpropError
        If the explainer fails.
    """
    rows = [row for number in chunks for row in job.plan.rows(number)]
    pictures = decoded(
        Decoder(job.source, job.manifest), rows, workers, max(AHEAD * job.plan.batch, workers)
    )
    writer = Writer(partial.store, list(job.fields))

    def write(number: int, arrays: Arrays, reasons: dict[int, str]) -> None:
        writer.write(number, arrays)
        partial.record(number, reasons)
        done(len(job.plan.rows(number)), len(reasons))

    with in_thread(write) as put:
        try:
            for number in chunks:
                batches = batched(pictures, job.plan.batches(number), explaining.shape)
                put(number, *chunk_of(job, explaining, batches))
        finally:
            pictures.close()


@contextmanager
def in_thread(function: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Call a function in a thread, one call after the other; no more than one waits.

    An error of it is raised where the next call is given, or at the end.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=1)
    errors: list[BaseException] = []

    def work() -> None:
        while (arguments := waiting.get()) is not None:
            if errors:
                continue  # so that whoever gives work doesn't wait for ever
            try:
                function(*arguments)
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=work, name="write", daemon=True)
    thread.start()

    def put(*arguments: Any) -> None:
        if errors:
            raise errors[0]
        waiting.put(arguments)

    try:
        yield put
    finally:
        waiting.put(None)
        thread.join()
    if errors:
        raise errors[0]
