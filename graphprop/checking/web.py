"""An ``explainer.onnx`` in a browser, by onnxruntime-web: what `graphprop page` makes a page of.

WebAssembly runs on the processor with one thread. WebGPU runs on the GPU that Chromium itself
computes, in software: slow, and the same on every machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphprop.artifact.schema import Json
from graphprop.checking.arbiter import CEILING, allowance
from graphprop.checking.backends import (
    Array,
    BackendError,
    OnnxFile,
    feeds_of,
    load_graph,
    other_maps,
    with_outputs,
)
from graphprop.checking.fingerprint import recorded_error
from graphprop.checking.probes import FLAT, Batch, Probes
from graphprop.errors import InputError
from graphprop.web.browser import BrowserError, data_files, lacking, run_in_browser
from graphprop.web.runtime import runtime_folder


def allowed_apart(manifest: Json) -> float:
    """How far a browser's map may be off from ONNX Runtime's: twice what the check allows each.

    That is by the error of float32 as it was recorded, of inputs whose entries aren't all equal.
    """
    recorded = manifest["fingerprint"]
    errors = [
        recorded_error(recorded, row)
        for row, name in enumerate(recorded["rows"] if recorded else ())
        if name.partition(" ")[0] not in FLAT
    ]
    return 2 * allowance(max(errors, default=0.0), CEILING)


class WebAssembly(OnnxFile):
    """onnxruntime-web on the processor."""

    provider = "wasm"

    def __init__(self, path: Path, names: Sequence[str] = (), device: str = "cpu") -> None:
        super().__init__(path, names)
        self.followed = bool(names)

    @classmethod
    def lacking(cls) -> str | None:
        """What is missing here to run it, or None; onnxruntime-web is fetched if it can be."""
        missing = lacking()
        if missing is None:
            try:
                runtime_folder()
            except InputError as error:
                missing = str(error)
        return missing

    def run(self, samples: Probes, batch: Batch) -> dict[str, Array]:
        (found,) = self.run_batches(samples, [batch])
        return found

    def run_batches(self, samples: Probes, batches: Sequence[Batch]) -> list[dict[str, Array]]:
        """Run all batches in one browser, which takes seconds to start."""
        model = load_graph(self.path)
        with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
            path = self.path
            if self.followed:
                path = Path(scratch) / self.path.name
                path.write_bytes(with_outputs(model, self.names).SerializeToString())
            try:
                return run_in_browser(
                    path,
                    data_files(model, self.path.parent),
                    [feeds_of(samples, batch) for batch in batches],
                    [*self.names, *other_maps(samples)],
                    runtime_folder(),
                    self.provider,
                )
            except (BrowserError, InputError) as error:
                raise BackendError(f"onnxruntime-web does not run it: {error}") from error


class WebGpu(WebAssembly):
    """onnxruntime-web on the GPU that Chromium computes."""

    provider = "webgpu"
