"""An ONNX file in a headless browser, by onnxruntime-web."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from graphprop.web.runtime import WASM, WEBGPU

Arrays: TypeAlias = dict[str, NDArray[Any]]

ASSETS = Path(__file__).with_name("assets")
RUNNER = Path(__file__).with_name("runner.py")

VARIABLE = "GRAPHPROP_BROWSER"
"""The environment variable that names the browser's program."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Programs that Playwright can drive, by name."""

QUIET = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Arguments by which Chromium asks nobody for anything."""

LONGEST_RUN = 600.0
"""Seconds that the browser may take for all batches."""

TYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "bool": np.bool_,
    "uint8": np.uint8,
}


class BrowserError(Exception):
    """A browser does not run the file; the text says why, in one line."""


def lacking() -> str | None:
    """What is missing here to run a browser, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed: pip install 'graphprop[browser]'"
    if find_browser() is None:
        return (
            "there is no Chromium: install it, run `playwright install chromium`, or name the "
            f"program by the variable {VARIABLE}"
        )
    return None


def find_browser() -> str | None:
    """The browser's program: one that is named, one that is installed, or Playwright's own."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named)
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    base = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    for pattern in ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/*.app/*/MacOS/*"):
        for path in sorted(base.glob(pattern), reverse=True):
            return str(path)
    return None


def arguments(*more: str) -> list[str]:
    """The command line of the browser."""
    # its sandbox needs a user that isn't root
    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [*alone, "--disable-gpu", *QUIET, *more]


def run_in_browser(
    model: Path,
    beside: Mapping[str, Path],
    batches: Sequence[Mapping[str, NDArray[Any]]],
    names: Sequence[str],
    runtime: Path,
    provider: str = "wasm",
) -> list[Arrays]:
    """Run an ONNX file on batches of inputs.

    Parameters
    ----------
    model
        The file.
    beside
        The files with its data, by the names that it has for them.
    batches
        Inputs by name, of float32 and int64.
    names
        The values to return of each batch.
    runtime
        The folder of onnxruntime-web, see `graphprop.web.runtime`.
    provider
        ``"wasm"``, on the processor with one thread, or ``"webgpu"``.

    Raises
    ------
    BrowserError
        If the browser can't.
    """
    missing = lacking()
    if missing:
        raise BrowserError(missing)
    with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
        folder = Path(scratch)
        script, mjs, wasm = WASM if provider == "wasm" else WEBGPU
        files = {f"/{path.name}": path for path in ASSETS.glob("*.js")}
        files["/check.html"] = ASSETS / "check.html"
        files |= {f"/runtime/{name}": runtime / name for name in (script, mjs, wasm)}
        files["/model.onnx"] = model
        files |= {f"/data/{index}": path for index, path in enumerate(beside.values())}
        feeds: list[dict[str, Any]] = []
        for index, batch in enumerate(batches):
            feeds.append({})
            for place, (name, array) in enumerate(batch.items()):
                path = folder / f"feed-{index}-{place}"
                np.ascontiguousarray(array).tofile(path)
                files[f"/{path.name}"] = path
                feeds[-1][name] = {
                    "type": str(array.dtype),
                    "dims": array.shape,
                    "address": path.name,
                }
        page = {
            "runtime": {
                "script": f"./runtime/{script}",
                "mjs": f"/runtime/{mjs}",
                "wasm": f"/runtime/{wasm}",
            },
            "model": "model.onnx",
            "beside": {name: f"data/{index}" for index, name in enumerate(beside)},
            "provider": provider,
            "on_processor": on_processor(model) if provider == "webgpu" else [],
            "batches": feeds,
            "names": list(names),
        }
        (folder / "job.json").write_text(json.dumps(page))
        files["/job.json"] = folder / "job.json"
        gpu = (
            ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
            if provider == "webgpu"
            else []
        )
        results = folder / "results"
        results.mkdir()
        job = {
            "files": {path: str(file.absolute()) for path, file in files.items()},
            "results": str(results),
            "problem": str(folder / "problem"),
            "browser": find_browser(),
            "arguments": arguments(*gpu),
            "longest": LONGEST_RUN,
        }
        (folder / "job").write_text(json.dumps(job))
        run_job(folder / "job", folder / "problem")
        return [read_values(results / str(index)) for index in range(len(batches))]


def data_files(model: onnx.ModelProto, folder: Path) -> dict[str, Path]:
    """The files beside a model in which its weights lie, by the names that it has for them.

    Raises
    ------
    BrowserError
        If one lies outside the folder.
    """
    entries = [e for tensor in model.graph.initializer for e in tensor.external_data]
    names = dict.fromkeys(entry.value for entry in entries if entry.key == "location")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise BrowserError(f"its data lie in {name!r}, which is no file beside it")
    return {name: folder / name for name in names}


def on_processor(model: Path) -> list[str]:
    """The nodes that onnxruntime-web's WebGPU would refuse when they run: pools with indices."""
    graph = onnx.load(model, load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type == "MaxPool" and len(node.output) > 1]


def run_job(job: Path, answer: Path) -> None:
    """Run `graphprop.web.runner` in a process of its own."""
    command = [sys.executable, "-I", str(RUNNER), str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        output = done.stderr.strip().splitlines()
        reason = output[-1] if output else f"its process ended with code {done.returncode}"
        raise BrowserError(f"the browser does not run: {reason[:300]}")
    problem = json.loads(answer.read_text())
    if problem is not None:
        raise BrowserError(" ".join(str(problem).split())[:300])


def read_values(file: Path) -> Arrays:
    """Read what ``check.js`` sends of a batch."""
    content = file.read_bytes()
    (length,) = struct.unpack_from("<I", content)
    start, found = 4 + length, {}
    for entry in json.loads(content[4:start]):
        end = start + entry["bytes"]
        array: NDArray[Any] = np.frombuffer(content[start:end], TYPES[entry["type"]]).copy()
        found[entry["name"]] = array.reshape(entry["dims"])
        start = end
    return found
