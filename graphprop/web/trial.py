"""What a page needs, found out before it is written: memory, time, and a map to compare with."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphprop.artifact.manifest import AGAIN
from graphprop.emit.onnx import INPUT, TARGET
from graphprop.errors import EquivalenceError, OutputError
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.web.browser import BrowserError, lacking, run_in_browser

PROBE = Path(__file__).with_name("probe.py")

MULTIPLIER = 2654435761
"""Knuth's: the high byte of its multiples is noise, which JavaScript has the same."""

LARGEST_MEMORY = 3.5 * 2**30
"""Bytes that a network and its values may take: WebAssembly has 4 GiB, some of it for itself."""


@dataclass(frozen=True)
class Trial:
    """A map of noise, as ONNX Runtime computes it here.

    Attributes
    ----------
    target
        The class that is explained.
    relevance
        ``[1, ...]``
    memory
        Bytes that it took.
    seconds
        For one map, with one thread.
    in_browser
        How far a browser's map is off, relative to it; None where none was tried, see ``untried``.
    """

    target: int
    relevance: NDArray[np.float32]
    memory: int
    seconds: float
    in_browser: float | None = None
    untried: str | None = None


def noise(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The input ``[1, C, H, W]`` of a picture of noise, which the page makes, too."""
    shape = (*preprocessing.size, len(preprocessing.mean))
    numbers = np.arange(np.prod(shape), dtype=np.uint64) * MULTIPLIER % 2**32 // 2**24
    pixels = numbers.astype(np.uint8).reshape(shape)
    shown = Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels)
    x: NDArray[np.float32] = preprocessing.tensor(shown).numpy()
    return x


def try_out(
    model: Path,
    beside: Mapping[str, Path],
    preprocessing: Preprocessing,
    runtime: Path,
    allowed: float,
    *,
    browser: bool,
) -> Trial:
    """Explain noise by ONNX Runtime, and in a browser if there is one.

    Raises
    ------
    OutputError
        If the file does not run, or takes more memory than a browser has.
    EquivalenceError
        If the browser's map is another one.
    """
    x = noise(preprocessing)
    trial = explain(model, {INPUT: x, TARGET: np.array([-1])})
    if trial.memory > LARGEST_MEMORY:
        raise OutputError(
            f"{model} takes {trial.memory / 2**30:.1f} GiB to explain one picture, and WebAssembly "
            f"has 4: a page of a network of {model.stat().st_size / 2**20:.0f} MiB does not work"
        )
    missing = lacking() if browser else "it was not asked for"
    if missing:
        return Trial(**{**vars(trial), "untried": missing})
    feeds = {INPUT: x, TARGET: np.array([trial.target])}
    try:
        (found,) = run_in_browser(model, beside, [feeds], ["logits", "relevance"], runtime)
    except BrowserError as error:
        raise OutputError(f"onnxruntime-web does not run {model}: {error}") from error
    size = float(np.linalg.norm(trial.relevance.astype(np.float64)))
    apart = float(np.linalg.norm(found["relevance"].astype(np.float64) - trial.relevance))
    apart = apart / (size or 1.0)
    if not apart <= allowed:
        raise EquivalenceError(
            f"the map of {model} in a browser is off by {apart:.1e} from ONNX Runtime's, and "
            f"{allowed:.1e} is allowed: `graphprop check DIR --backend web` says where"
        )
    return Trial(**{**vars(trial), "in_browser": apart})


def explain(model: Path, feeds: Mapping[str, NDArray[Any]]) -> Trial:
    """Explain one input by ONNX Runtime in a process of its own, where memory can be measured."""
    with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
        folder = Path(scratch)
        np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]
        job = {
            "model": str(model.absolute()),
            "feeds": str(folder / "feeds.npz"),
            "output": str(folder / "output.npz"),
            "measured": str(folder / "measured"),
        }
        (folder / "job").write_text(json.dumps(job))
        command = [sys.executable, "-I", str(PROBE), str(folder / "job")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise OutputError(f"{model} fails: {lines[-1]}: {AGAIN}")
        measured = json.loads((folder / "measured").read_text())
        with np.load(folder / "output.npz") as found:
            logits, relevance = found["logits"], found["relevance"]
    chosen = int(logits[0].reshape(len(logits[0]), -1).sum(1).argmax())
    return Trial(chosen, relevance, measured["memory"], measured["seconds"])
