"""Generated modules run in the process of the tests: a process of its own each takes seconds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from graphprop.checking import backends, runner


def run_job(path: Path) -> None:
    """What `graphprop.checking.backends.run_job` does, with its errors, in this process."""
    job = json.loads(path.read_text())
    try:
        runner.main(job)
    except Exception as error:
        text = runner.error_text(error, Path(job["directory"]) / "explainer.py")
        raise backends.BackendError(f"explainer.py does not run: {text}") from error


@contextmanager
def in_this_process() -> Iterator[None]:
    """Let the check run generated modules in this process."""
    with mock.patch.object(backends, "run_job", run_job):
        yield


def signaled(command: list[str], folder: Path, number: int) -> tuple[str, int]:
    """What a command writes to stderr, and its exit code.

    The signal is sent once the command, run in the folder, has written the file ``started`` there.
    """
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if (folder / "started").exists():
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    return stderr, process.returncode
