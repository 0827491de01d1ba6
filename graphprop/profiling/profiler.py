"""Profile what was compiled: run it, and time each step."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphprop.artifact.engines import checked_onnx, foreign_code, in_short
from graphprop.artifact.manifest import AGAIN, read_manifest
from graphprop.artifact.running import run_file
from graphprop.artifact.schema import Json
from graphprop.artifact.write import manifest_of, write_files, write_manifest
from graphprop.errors import InputError, MethodError, OutputError, nearest
from graphprop.module import ExplainerModule
from graphprop.profiling.result import FORWARD, RELEVANCE, Event, LayerTime, Profile
from graphprop.profiling.statements import timed

BACKENDS = ("python", "onnxruntime")
CLEAR = Path("/proc/self/clear_refs")
KERNEL = "_kernel_time"
"""How the names of a kernel's events end in ONNX Runtime's profile."""


def profile(
    explainer: str | Path | ExplainerModule,
    *,
    batch: int = 1,
    backend: str = "python",
    runs: int = 3,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Find out where the time of an explanation goes.

    Parameters
    ----------
    explainer
        A compiled directory, whose ``explainer.py`` is run by the backend ``"python"``; or an
        explainer, as `graphprop.compile` returns it.
    batch
        How many samples of noise are explained at once.
    backend
        ``"python"`` or ``"onnxruntime"``.
    runs
        How often; one more goes before, which does not count.
    progress
        Called with what is about to be done.

    Returns
    -------
    Profile
        Times by layer; ``print`` its `as_dict`, or write its trace by `save_trace`.

    Raises
    ------
    InputError
        If batch or runs is not a positive whole number.
    MethodError
        If there is no such backend, or no ONNX file for it.
    OutputError
        If graphprop did not make the directory, or its files don't work.
    """
    for name, number in (("batch", batch), ("runs", runs)):
        if type(number) is not int or number < 1:
            raise InputError(f"{name} must be a whole number from 1, not {number!r}")
    if backend not in BACKENDS:
        raise MethodError(f"there is no backend {backend!r}: {nearest(backend, BACKENDS)}")
    say = progress or (lambda text: None)
    if isinstance(explainer, ExplainerModule):
        with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
            folder = Path(scratch)
            write_files(explainer.compiled, folder, onnx=backend == "onnxruntime")
            nothing: dict[str, Any] = {"check": None, "fingerprint": None, "conservation": None}
            write_manifest(manifest_of(explainer.compiled, folder, **nothing), folder)
            return profile(folder, batch=batch, backend=backend, runs=runs, progress=progress)
    directory = Path(explainer)
    manifest = read_manifest(directory)
    say("load the explainer")
    inputs = [
        torch.randn(batch, *shape, generator=torch.Generator().manual_seed(number))
        for number, shape in enumerate(manifest["input_shapes"])
    ]
    start = start_python if backend == "python" else start_onnxruntime
    run = start(directory, manifest, inputs)
    say("explain")
    run()
    found = [run() for _ in range(runs)]
    peak = peak_of(run)
    totals = [sum(event.seconds for event in events) for events in found]
    middle = sorted(range(runs), key=totals.__getitem__)[runs // 2]
    return Profile(
        backend,
        batch,
        runs,
        by_layer(manifest["layers"], found),
        statistics.median(totals),
        peak,
        found[middle],
    )


def by_layer(layers: Sequence[Json], found: Sequence[Sequence[Event]]) -> list[LayerTime]:
    """The median times of each layer, the longest first; those without any are left out."""
    sums: list[dict[tuple[str | None, str], float]] = [defaultdict(float) for _ in found]
    for total, events in zip(sums, found, strict=True):
        for event in events:
            total[event.layer, event.part] += event.seconds
    known = {layer["label"]: layer for layer in layers}

    def seconds(label: str | None, part: str) -> float:
        return statistics.median(total.get((label, part), 0.0) for total in sums)

    labels = dict.fromkeys(label for total in sums for label, _ in total)
    times = [
        LayerTime(
            label,
            known[label]["operator"] if label in known else "",
            known[label]["rule"] if label in known else None,
            seconds(label, FORWARD),
            seconds(label, RELEVANCE),
        )
        for label in labels
    ]
    return sorted(times, key=lambda one: -one.seconds)


def start_python(
    directory: Path, manifest: Json, inputs: list[torch.Tensor]
) -> Callable[[], list[Event]]:
    """Load a directory's module, its statements timed."""
    file = directory / "explainer.py"
    marks: list[tuple[int, float, int | None]] = []

    def mark(number: int) -> None:
        marks.append((number, time.perf_counter(), resident()))

    with foreign_code(file, "can't be loaded"):
        code, statements = timed(file.read_text(encoding="utf-8"), manifest["layers"])
        module = run_file(file, code, _mark=mark).load()
    own = next((b.dtype for b in module.buffers() if b.is_floating_point()), torch.float32)
    given = [x.to(own) for x in inputs]

    def run() -> list[Event]:
        marks.clear()
        with foreign_code(file, "fails"), torch.no_grad():
            module(*given, None)
        events, began, last = [], marks[0][1], marks[0][1]
        for number, now, memory in marks:
            if number >= 0:
                one = statements[number]
                event = Event(one.name, one.layer, one.part, last - began, now - last, memory)
                events.append(event)
            last = now
        return events

    return run


def start_onnxruntime(
    directory: Path, manifest: Json, inputs: list[torch.Tensor]
) -> Callable[[], list[Event]]:
    """Load a directory's ONNX file; each run has a session of its own that keeps a profile."""
    import onnx
    import onnxruntime

    content = checked_onnx(directory, manifest)
    places = places_of(onnx.load_model_from_string(content).graph)
    file = directory / "explainer.onnx"
    names = ["input", *(f"input_{number}" for number in range(2, len(inputs) + 1))]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    feeds["target"] = torch.zeros(len(inputs[0]), dtype=torch.int64).numpy()

    def run() -> list[Event]:
        with tempfile.TemporaryDirectory(prefix="graphprop-") as scratch:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = torch.get_num_threads()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(scratch) / "profile")
            try:
                session = onnxruntime.InferenceSession(
                    file, options, providers=["CPUExecutionProvider"]
                )
                session.run(None, feeds)  # the first allocates
                session.run(None, feeds)
                text = Path(session.end_profiling()).read_text(encoding="utf-8")
            except Exception as error:
                raise OutputError(f"{file} fails: {in_short(error)}: {AGAIN}") from error
        kernels = [event for event in json.loads(text) if event["name"].endswith(KERNEL)]
        return events_of(kernels[len(kernels) // 2 :], places)

    return run


def places_of(graph: Any) -> dict[str, tuple[str | None, str]]:
    """Node's name and its results' names -> the layer and the part that it belongs to.

    The forward part is what the logits follow from.
    """
    needed, places = {"logits"}, dict[str, tuple[str | None, str]]()
    for node in reversed(graph.node):
        part = FORWARD if needed & set(node.output) else RELEVANCE
        if part == FORWARD:
            needed |= set(node.input)
        label = {entry.key: entry.value for entry in node.metadata_props}.get("label")
        places |= dict.fromkeys((node.name, *node.output), (label, part))
    return places


def events_of(kernels: Sequence[Any], places: dict[str, tuple[str | None, str]]) -> list[Event]:
    """The events of kernels; one that ONNX Runtime put in belongs to the next that is known."""
    found: list[Event] = []
    place: tuple[str | None, str] = (None, RELEVANCE)
    began = kernels[0]["ts"] if kernels else 0
    for event in reversed(kernels):
        name = event["name"].removesuffix(KERNEL)
        known = next((places[n] for n in spellings(name) if n in places), None)
        place = known or place
        start, seconds = (event["ts"] - began) / 1e6, event["dur"] / 1e6
        found.append(Event(name, *place, start, seconds))
    return found[::-1]


def spellings(name: str) -> list[str]:
    """What a node may have been called before ONNX Runtime fused or moved it."""
    bare = name.removeprefix("fused ").removesuffix("_nchwc")
    return [name, bare, bare.rpartition("/")[2], bare.partition("_token_")[0]]


def resident() -> int | None:
    """Bytes that this process has in memory, where the system tells."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * 4096


def peak_of(run: Callable[[], Any]) -> int | None:
    """Bytes that a run takes at most beyond what was there before it."""
    if not CLEAR.exists():
        return None
    gc.collect()
    try:
        CLEAR.write_text("5")  # sets the high-water mark back
    except OSError:
        return None
    before = resident() or 0
    run()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return max(peak - before, 0)
