"""What a compiled directory runs on: its module in a process of its own, and two ONNX engines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from safetensors import safe_open
from safetensors.torch import save_file

from graphprop.checking.probes import LARGEST, Batch, Probes
from graphprop.emit.onnx import INPUT

RUNNER = Path(__file__).with_name("runner.py")
Array = NDArray[Any]


class BackendError(Exception):
    """A backend does not run at all; the text says why, in one line."""


@dataclass(frozen=True)
class Step:
    """One run of a generated module, see `graphprop.checking.runner`."""

    name: str
    dtype: str | None = None
    input: str = "x"
    threads: int = 1
    batches: list[Batch] = field(default_factory=list)
    watch: list[str] = field(default_factory=list)
    keep: bool = False
    force: bool = False
    judge: bool = False
    samples: tuple[int | None, int | None] = (None, None)
    guard: bool = True
    device: str = "cpu"


def run_module(
    directory: Path,
    inputs: Mapping[str, torch.Tensor],
    steps: Sequence[Step],
    shapes: Sequence[Sequence[int]] = (),
) -> dict[str, torch.Tensor]:
    """Run a directory's ``explainer.py`` in a process where graphprop can't be imported.

    Raises
    ------
    BackendError
        If it does not run.
    """
    with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
        paths = {name: f"{scratch}/{name}" for name in ("job", "inputs", "output")}
        # each of its own: safetensors takes none that share memory
        own = {name: t.clone(memory_format=torch.contiguous_format) for name, t in inputs.items()}
        save_file(own, paths["inputs"])
        job = {
            **paths,
            "directory": str(directory.absolute()),
            "shapes": [list(shape) for shape in shapes],
            "runs": [asdict(step) for step in steps],
        }
        Path(paths["job"]).write_text(json.dumps(job))
        run_job(Path(paths["job"]))
        with safe_open(paths["output"], "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def run_job(job: Path) -> None:
    """Run a job of `graphprop.checking.runner` in a process of its own."""
    command = [sys.executable, "-I", str(RUNNER), str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        output = done.stderr.strip().splitlines()
        reason = output[-1] if output else f"its process ended with code {done.returncode}"
        raise BackendError(f"explainer.py does not run: {reason}")


class OnnxFile:
    """An ``explainer.onnx`` on one of the engines.

    Parameters
    ----------
    path
        The file.
    names
        Values to return in addition to ``logits`` and ``relevance``, where the file has them.
    device
        Where ONNX Runtime runs, by torch's name; the others have one place.
    """

    def __init__(self, path: Path, names: Sequence[str] = (), device: str = "cpu") -> None:
        self.path = path
        self.names = ["logits", "relevance"]
        if names:
            model = load_graph(path)
            present = {output for node in model.graph.node for output in node.output}
            self.names += [n for n in dict.fromkeys(names) if n in present - {*self.names}]

    def run(self, samples: Probes, batch: Batch) -> dict[str, Array]:
        """Run one batch; returns what was asked for by name."""
        raise NotImplementedError

    def run_batches(self, samples: Probes, batches: Sequence[Batch]) -> list[dict[str, Array]]:
        """Run several batches, one after the other."""
        return [self.run(samples, batch) for batch in batches]

    @classmethod
    def lacking(cls) -> str | None:
        """What is missing here to run it, or None."""
        return None


class OnnxRuntime(OnnxFile):
    """ONNX Runtime, on the CPU with one thread; the same result each time."""

    def __init__(self, path: Path, names: Sequence[str] = (), device: str = "cpu") -> None:
        super().__init__(path, names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 4
        try:
            source = self._with_outputs(options) if names else str(path)
            # single precision is judged, not what a GPU would round to 11 digits of it
            exact = {"use_tf32": "0"} if device != "cpu" else {}
            providers = [(self.provider_of(device), exact), "CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(
                source, options, providers=providers[: 1 if device == "cpu" else 2]
            )
        except Exception as error:
            raise BackendError(f"ONNX Runtime can't load {path.name}: {one_line(error)}") from error

    @staticmethod
    def provider_of(device: str) -> str:
        """What runs on a device of torch's name."""
        return "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"

    @staticmethod
    def has(provider: str) -> bool:
        """Whether this onnxruntime was built with a provider."""
        return provider in onnxruntime.get_available_providers()

    def _with_outputs(self, options: Any) -> bytes:
        """The model with its intermediate values as outputs; its weights stay where they are."""
        model = with_outputs(load_graph(self.path), self.names)
        folder = str(self.path.parent.absolute())
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, folder)
        content: bytes = model.SerializeToString()
        return content

    def run(self, samples: Probes, batch: Batch) -> dict[str, Array]:
        feeds = feeds_of(samples, batch)
        try:
            names = [*self.names, *other_maps(samples)]
            return dict(zip(names, self.session.run(names, feeds), strict=True))
        except Exception as error:
            raise BackendError(f"ONNX Runtime stops at {one_line(error)}") from error


class OnnxReference(OnnxFile):
    """The reference implementation that comes with onnx: slow, independent, plain NumPy."""

    def __init__(self, path: Path, names: Sequence[str] = (), device: str = "cpu") -> None:
        super().__init__(path, names)
        try:
            self.evaluator = ReferenceEvaluator(str(path), new_ops=[MaxPool, ConvTranspose])
        except Exception as error:
            raise BackendError(f"onnx.reference can't load it: {one_line(error)}") from error

    def run(self, samples: Probes, batch: Batch) -> dict[str, Array]:
        feeds = feeds_of(samples, batch)
        try:
            with np.errstate(all="ignore"):
                found: Any = self.evaluator.run(None, feeds, intermediate=True)
        except Exception as error:
            raise BackendError(f"onnx.reference stops: {one_line(error)}") from error
        return {name: found[name] for name in (*self.names, *other_maps(samples))}


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without the weights that lie beside it."""
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:
        raise BackendError(f"{path.name} is no ONNX file: {one_line(error)}") from error


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Make intermediate values of a model outputs; returns the model."""
    known = {output.name for output in model.graph.output}
    described = {value.name: value for value in model.graph.value_info}
    for name in names:
        if name not in known:
            empty = onnx.helper.make_empty_tensor_value_info(name)
            model.graph.output.append(described.get(name, empty))
    return model


def takes_largest(path: Path) -> bool:
    """Whether an ONNX file takes -1 for the largest logit; its documentation says so."""
    try:
        return "-1" in load_graph(path).doc_string
    except BackendError:
        return False


def feeds_of(samples: Probes, batch: Batch) -> dict[str, Array]:
    """The inputs of one batch."""
    inputs, _ = samples.part(batch.rows)
    target = samples.target[batch.rows]
    if batch.target == "largest":
        target = torch.full_like(target, LARGEST)
    named = {re.sub("^x", INPUT, name): x.numpy() for name, x in inputs.items()}
    return {**named, "target": target.numpy()}


def other_maps(samples: Probes) -> list[str]:
    """The outputs with the relevance of the second input and those behind it."""
    return [f"relevance_{number}" for number in range(2, len(samples.shapes) + 1)]


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# What onnx.reference 1.23 gets wrong.


class MaxPool(OpRun):
    """Max pool whose indices count over the whole tensor, at every stride."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        storage_order: int | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array, ...]:
        rank = len(kernel_shape)
        steps, gaps = strides or [1] * rank, dilations or [1] * rank
        before, after = (pads or [0] * 2 * rank)[:rank], (pads or [0] * 2 * rank)[rank:]
        counts, surplus = [], []
        for axis in range(rank):
            length = x.shape[2 + axis] + before[axis] + after[axis]
            free = length - gaps[axis] * (kernel_shape[axis] - 1) - 1
            count = (-(-free // steps[axis]) if ceil_mode else free // steps[axis]) + 1
            if ceil_mode and (count - 1) * steps[axis] >= x.shape[2 + axis] + before[axis]:
                count -= 1  # a window has to begin in the image
            counts.append(count)
            surplus.append(max(0, (count - 1) * steps[axis] - free))
        margins = [(0, 0), (0, 0)]
        margins += [(b, a + s) for b, a, s in zip(before, after, surplus, strict=True)]
        padded = np.pad(x, margins, constant_values=-np.inf)
        places = np.pad(np.arange(x.size).reshape(x.shape), margins)
        windows = [
            (slice(None), slice(None), *cut)
            for cut in window_slices(kernel_shape, gaps, steps, counts)
        ]
        stacked = np.stack([padded[window] for window in windows])
        winner = stacked.argmax(0)[None]
        found = np.take_along_axis(stacked, winner, 0)[0]
        indices = np.stack([places[window] for window in windows])
        return found, np.take_along_axis(indices, winner, 0)[0]


class ConvTranspose(OpRun):
    """Transposed convolution with groups, in any number of dimensions."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        kernel, size = w.shape[2:], x.shape[2:]
        rank = len(kernel)
        steps, gaps = strides or [1] * rank, dilations or [1] * rank
        before, after = (pads or [0] * 2 * rank)[:rank], (pads or [0] * 2 * rank)[rank:]
        extra = output_padding or [0] * rank
        whole = [
            (n - 1) * s + g * (k - 1) + 1 + e
            for n, s, g, k, e in zip(size, steps, gaps, kernel, extra, strict=True)
        ]
        grouped = x.reshape(len(x), group, -1, *size)
        weight = w.reshape(group, -1, *w.shape[1:])
        total = np.zeros((len(x), group, w.shape[1], *whole), x.dtype)
        cuts = window_slices(kernel, gaps, steps, size)
        for offset, cut in zip(np.ndindex(*kernel), cuts, strict=True):
            part = np.einsum("ngc...,gco->ngo...", grouped, weight[(..., *offset)])
            total[(slice(None), slice(None), slice(None), *cut)] += part
        image = (slice(b, length - a) for b, a, length in zip(before, after, whole, strict=True))
        result = total.reshape(len(x), -1, *whole)[(slice(None), slice(None), *image)]
        return (result if b is None else result + b.reshape(-1, *[1] * rank),)


def window_slices(
    kernel: Sequence[int], gaps: Sequence[int], steps: Sequence[int], counts: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each cell of a kernel, the places of an image that it meets as the kernel moves."""
    for offset in product(*map(range, kernel)):
        yield tuple(
            slice(o * g, o * g + (n - 1) * s + 1, s)
            for o, g, s, n in zip(offset, gaps, steps, counts, strict=True)
        )
