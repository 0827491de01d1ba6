"""Run an ONNX file once, and measure its memory and time: a script for a process of its own.

It is started by `graphprop.web.trial`, and imports nothing of graphprop.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def peak() -> int:
    """Bytes of memory that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # where the system's own count begins with that of the parent
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(job: dict[str, Any]) -> None:
    """Do a job."""
    feeds = dict(np.load(job["feeds"]))
    before = peak()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        job["model"], options, providers=["CPUExecutionProvider"]
    )
    logits, relevance = session.run(["logits", "relevance"], feeds)
    began = time.perf_counter()
    session.run(["logits", "relevance"], feeds)
    measured = {"memory": peak() - before, "seconds": time.perf_counter() - began}
    np.savez(job["output"], logits=logits, relevance=relevance)
    Path(job["measured"]).write_text(json.dumps(measured))


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except Exception as error:
        sys.exit(" ".join(str(error).split())[:300])
