"""Explaining with a compiled directory: by its Python code, or by ONNX Runtime.

The code in a directory is run as it is, so that one has to trust it. ONNX Runtime runs no code: an
``explainer.onnx`` from anywhere can be used, and is checked before it is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.artifact.manifest import AGAIN, LARGEST_ONNX, ONNX, read_limited
from graphprop.artifact.running import line_of, run_file
from graphprop.artifact.schema import Json, is_plain_name, shown
from graphprop.errors import MethodError, OutputError, nearest

BACKENDS = ("python", "onnxruntime")
LONGEST_RUN = 600.0
"""Seconds that ONNX Runtime may take for one explanation: a large network takes some."""
MOST_TRIPS = 2**20
"""How often the body of a loop in an ONNX file may run: a mean over samples has some hundreds."""
BRANCHES = ("If", "Scan", "SequenceMap")
"""ONNX operators with graphs in them that graphprop never writes; it writes Loop."""

Explained: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
Engine: TypeAlias = Callable[[torch.Tensor, "int | torch.Tensor | None"], Explained]
"""Takes one input ``[1, ...]`` and a class, None for the largest logit, or weights of the logits
``[1, classes, ...]``; returns logits ``[1, classes, ...]`` and relevance ``[1, ...]``."""


def engine_of(directory: Path, manifest: Json, backend: str) -> Engine:
    """What explains on a backend.

    Raises
    ------
    MethodError
        If there is no such backend, or the directory has no ONNX file for it.
    OutputError
        If the directory's files don't work.
    """
    if backend == "python":
        return python_engine(load_explainer(directory), directory / "explainer.py", manifest)
    if backend == "onnxruntime":
        return OnnxEngine(directory, manifest)
    raise MethodError(f"there is no backend {backend!r}: {nearest(backend, BACKENDS)}")


BatchEngine: TypeAlias = Callable[[torch.Tensor, NDArray[np.int64]], Explained]
"""Takes inputs ``[N, ...]`` and classes ``[N]``, -1 for the largest logit; returns logits
``[N, classes, ...]`` and relevance ``[N, ...]``."""


def batch_engine_of(
    directory: Path, manifest: Json, backend: str, device: str = "cpu", threads: int | None = None
) -> BatchEngine:
    """What explains batches on a backend.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, or one of several, ``"cuda:1"``.
    threads
        How many of them ONNX Runtime computes with; torch has a setting of its own.

    Raises
    ------
    MethodError
        If there is no such backend or device, or the directory has no ONNX file for it.
    OutputError
        If the directory's files don't work.
    """
    if backend == "python":
        check_device(device)
        explainer = load_explainer(directory, device)
        return python_batches(explainer, directory / "explainer.py", manifest, device)
    if backend == "onnxruntime":
        return OnnxEngine(directory, manifest, device=device, threads=threads).batch
    raise MethodError(f"there is no backend {backend!r}: {nearest(backend, BACKENDS)}")


def check_device(device: str) -> None:
    """Refuse a device that torch doesn't have."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise MethodError(f"there is no device {device!r}: give cpu, cuda, or cuda:1")
    if kind == "cuda" and not torch.cuda.is_available():
        raise MethodError("there is no device 'cuda': torch finds no GPU here; use cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise MethodError(f"there is no device {device!r}: torch finds {torch.cuda.device_count()}")


def largest(logits: NDArray[Any]) -> int:
    """The class of the largest logit, of those at all places summed."""
    return int(logits[0].reshape(len(logits[0]), -1).sum(1).argmax())


def checked(logits: Any, relevance: Any, manifest: Json, file: Path, samples: int = 1) -> Explained:
    """What an explainer returned, if that has the shapes that the manifest names."""
    wanted = (samples, *manifest["relevance_shape"])
    for name, value in (("logits", logits), ("relevance", relevance)):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise OutputError(f"the {name} of {file} are no array of numbers: {AGAIN}")
    if logits.ndim < 2 or logits.shape[:2] != (samples, manifest["classes"]):
        raise OutputError(
            f"{file} returns logits of shape {logits.shape}, and its manifest names "
            f"{manifest['classes']} classes: {AGAIN}"
        )
    if relevance.shape != wanted:
        raise OutputError(
            f"{file} returns relevance of shape {relevance.shape}, and its manifest names "
            f"{wanted}: {AGAIN}"
        )
    return logits, relevance


# Python.


@contextmanager
def foreign_code(file: Path, what: str) -> Iterator[None]:
    """Run a directory's code: what it prints goes to stderr, and whatever it raises is an error."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        text, number = str(error).strip().partition("\n")[0], line_of(error, file)
        line = f", line {number}" if number else ""
        raise OutputError(
            f"{file} {what} ({type(error).__name__}: {text}{line}): compile it again"
        ) from error


def load_explainer(directory: Path, device: str = "cpu") -> torch.nn.Module:
    """Run a directory's ``explainer.py``, and load its weights.

    Raises
    ------
    OutputError
        If the file is missing or doesn't work.
    """
    file = directory / "explainer.py"
    with foreign_code(file, "can't be loaded"):
        explainer: torch.nn.Module = run_file(file).load(
            **({} if device == "cpu" else {"device": device})
        )
    return explainer


def python_engine(explainer: torch.nn.Module, file: Path, manifest: Json) -> Engine:
    """Explain by a directory's module."""

    def explain(x: torch.Tensor, target: int | torch.Tensor | None) -> Explained:
        chosen = torch.tensor([target]) if isinstance(target, int) else target
        with foreign_code(file, "fails"), torch.no_grad():
            logits, relevance = (part.numpy() for part in explainer(x, chosen))
        return checked(logits, relevance, manifest, file)

    return explain


def python_batches(
    explainer: torch.nn.Module, file: Path, manifest: Json, device: str
) -> BatchEngine:
    """Explain batches by a directory's module."""

    def explain(x: torch.Tensor, targets: NDArray[np.int64]) -> Explained:
        chosen = torch.from_numpy(targets)
        with foreign_code(file, "fails"), torch.no_grad():
            found = explainer(x.to(device), chosen.to(device))
            logits, relevance = (part.cpu().numpy() for part in found)
        return checked(logits, relevance, manifest, file, len(x))

    return explain


# ONNX Runtime.


class OnnxEngine:
    """Explain by a directory's ``explainer.onnx``, which anyone may have written.

    Parameters
    ----------
    directory, manifest
        The directory, and what `read_manifest` returned for it.
    device, threads
        As for `batch_engine_of`.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Json,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        import onnxruntime

        self.file, self.manifest = directory / ONNX, manifest
        providers = providers_of(device)
        content = checked_onnx(directory, manifest)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False
        # planned memory would be one block of the size of all values, a third more at the peak
        options.enable_mem_pattern = False
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(directory.absolute()))
        try:
            # folding constants would compute while loading, where nothing can stop it
            self.session = onnxruntime.InferenceSession(
                content,
                options,
                providers=providers,
                disabled_optimizers=["ConstantFolding"],
            )
        except Exception as error:
            raise OutputError(f"{self.file} can't be loaded: {in_short(error)}: {AGAIN}") from error

    def __call__(self, x: torch.Tensor, target: int | torch.Tensor | None) -> Explained:
        if isinstance(target, torch.Tensor):
            raise MethodError(
                "the targets of an ONNX file are classes, not weights of the logits: use the "
                "backend 'python'"
            )
        found = self.run(x, 0 if target is None else target)
        chosen = largest(found[0]) if target is None else target
        return found if target is not None or chosen == 0 else self.run(x, chosen)

    def run(self, x: torch.Tensor, target: int) -> Explained:
        """Explain one class."""
        return self.batch(x, np.array([target]))

    def batch(self, x: torch.Tensor, targets: NDArray[np.int64]) -> Explained:
        """Explain inputs ``[N, ...]``, each for its class; what takes too long is stopped."""
        import onnxruntime

        feeds = {"input": x.numpy(), "target": targets}
        options = onnxruntime.RunOptions()
        # in a thread of its own, so that an interrupt arrives while it computes
        with ThreadPoolExecutor(1) as pool:
            try:
                future = pool.submit(self.session.run, ["logits", "relevance"], feeds, options)
                logits, relevance = future.result(LONGEST_RUN * len(x))
            except TimeoutError:
                raise OutputError(
                    f"{self.file} was stopped: it took more than {LONGEST_RUN:g} seconds for one "
                    "explanation"
                ) from None
            except Exception as error:
                raise OutputError(f"{self.file} fails: {in_short(error)}: {AGAIN}") from error
            finally:
                options.terminate = True
        return checked(logits, relevance, self.manifest, self.file, len(x))


def providers_of(device: str) -> list[Any]:
    """What ONNX Runtime computes with on a device.

    Raises
    ------
    MethodError
        If it can't.
    """
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise MethodError(f"there is no device {device!r}: give cpu, cuda, or cuda:1")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MethodError(
            "there is no device 'cuda' for ONNX Runtime: install onnxruntime-gpu, or use cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": number or "0"}), "CPUExecutionProvider"]


def checked_onnx(directory: Path, manifest: Json) -> bytes:
    """Read a directory's ONNX file after making sure that it opens nothing outside.

    Raises
    ------
    MethodError
        If the directory was compiled without ONNX.
    OutputError
        If the file isn't an ONNX model, uses operators that aren't ONNX's own, or keeps data
        anywhere but in a file that the manifest names.
    """
    import onnx

    if ONNX not in manifest["files"]:
        raise MethodError(
            f"{directory} was compiled without ONNX: use the backend 'python', or compile again"
        )
    file = directory / ONNX
    try:
        content = read_limited(file, LARGEST_ONNX)
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise OutputError(f"{file} can't be read: {error.strerror or error}") from error
    except Exception as error:
        raise OutputError(f"{file} is no ONNX file: {AGAIN}") from error
    complaint = forbidden_in(model, manifest["files"])
    if complaint:
        raise OutputError(f"{file} is refused: {complaint}; {AGAIN}")
    return content


def refuse_forbidden(directory: Path, manifest: Json) -> None:
    """Refuse an ONNX file that would open something outside, or compute without end.

    One that can't be read at all is left to whoever is going to run it.

    Raises
    ------
    OutputError
        If it holds what graphprop never writes.
    """
    import onnx

    file = directory / ONNX
    try:
        model = onnx.load_model_from_string(read_limited(file, LARGEST_ONNX))
    except Exception:
        return
    complaint = forbidden_in(model, manifest["files"])
    if complaint:
        raise OutputError(f"{file} is refused: {complaint}; {AGAIN}")


def forbidden_in(model: Any, files: Mapping[str, Any]) -> str | None:
    """What an ONNX model holds that graphprop never writes, or None."""
    if len(model.functions):
        return "it defines functions of its own"
    numbers = {tensor.name: tensor for tensor in model.graph.initializer}
    graphs = [(model.graph, False)]
    while graphs:
        graph, inner = graphs.pop()
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location" and not (
                    is_plain_name(entry.value) and entry.value in files
                ):
                    return f"its data lie in {shown(entry.value)}, which the manifest does not name"
        tensors = [part for s in graph.sparse_initializer for part in (s.values, s.indices)]
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                return f"the operator {shown(f'{node.domain}.{node.op_type}')} isn't one of ONNX"
            if node.op_type in BRANCHES or (node.op_type == "Loop" and inner):
                return f"the operator {node.op_type} may compute without end"
            if node.op_type == "Loop" and not 0 <= trips(node, numbers) <= MOST_TRIPS:
                return f"a loop in it may run more than {MOST_TRIPS} times"
            for attribute in node.attribute:
                graphs += [(part, True) for part in (attribute.g, *attribute.graphs)]
                sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
                tensors += [attribute.t, *attribute.tensors]
                tensors += [part for s in sparse for part in (s.values, s.indices)]
        if any(tensor.external_data for tensor in tensors):
            return "it keeps a constant in another file"
    return None


def trips(loop: Any, numbers: Mapping[str, Any]) -> int:
    """How often the body of a loop runs at most; -1 where that is no constant."""
    import onnx

    tensor = numbers.get(loop.input[0]) if loop.input else None
    if tensor is None or tensor.external_data or list(tensor.dims) not in ([], [1]):
        return -1
    try:
        return int(onnx.numpy_helper.to_array(tensor).reshape(()))
    except Exception:  # a type that is no number, or data of another length
        return -1


def in_short(error: BaseException) -> str:
    """An error's text on one line, not too long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
