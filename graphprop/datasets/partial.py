"""A run in the making: the folder beside the output that it is put together in, and its lock.

``OUT.partial`` holds the store, a file for each chunk that is done, and the lock. It becomes OUT by
a rename at the end, so that OUT is there only when it is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphprop.datasets.store import flush
from graphprop.errors import OutputError


class Partial:
    """The folder of a run.

    Attributes
    ----------
    output
        What it is to become.
    folder
        Where it is put together.
    store
        The Zarr store in it.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.partial")
        self.store = self.folder / "store.zarr"
        self.records = self.folder / "done"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; the system opens the lock of a process that has died.

        Raises
        ------
        OutputError
            If another run writes there, or nothing can be written.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(lock, 200).decode("utf-8", "replace").strip() or "another run"
                    raise OutputError(
                        f"{self.output} is being written by {holder}: wait until that has ended, "
                        "or name another output by -o"
                    ) from None
                if not self.is_mine(lock):
                    continue  # a run that ended meanwhile has removed it
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
                try:
                    yield
                finally:
                    if not self.store.exists():
                        shutil.rmtree(self.folder, ignore_errors=True)
                return
            finally:
                os.close(lock)

    def is_mine(self, lock: int) -> bool:
        """Whether an open lock is the file that lies there."""
        try:
            return os.path.samestat(os.fstat(lock), os.stat(self.folder / "lock"))
        except FileNotFoundError:
            return False

    def record(self, number: int, reasons: dict[int, str]) -> None:
        """Record that a chunk is on the disk, and which of its pictures failed."""
        record(self.records, number, reasons)

    def done(self) -> set[int]:
        """The chunks that are."""
        names = [file.stem for file in self.records.iterdir() if file.suffix == ".json"]
        return {int(name) for name in names}

    def failures(self) -> dict[int, str]:
        """Row -> why a picture failed, in the order of the rows."""
        found: dict[int, str] = {}
        for number in sorted(self.done()):
            content: dict[str, Any] = json.loads((self.records / f"{number}.json").read_text())
            found.update((int(row), reason) for row, reason in content.items())
        return found


def record(folder: Path, number: int, reasons: dict[int, str]) -> None:
    """Write the file that says that a chunk is done: it is there whole, or not at all."""
    temporary = folder / f"{number}.{os.getpid()}"
    temporary.write_text(json.dumps({str(row): reason for row, reason in reasons.items()}))
    flush(temporary)
    temporary.rename(folder / f"{number}.json")
    flush(folder)
