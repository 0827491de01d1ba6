"""Generated modules run in the process of the tests: a process of its own each takes seconds."""

from __future__ import annotations

import json
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
