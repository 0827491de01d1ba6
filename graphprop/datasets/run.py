"""Explaining a data set: what is prepared, who computes it, and how it comes to its place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.artifact.manifest import FILES, MANIFEST, read_manifest, sha256
from graphprop.datasets import outputs
from graphprop.datasets.decode import takes_arrays
from graphprop.datasets.explaining import Explaining, Job
from graphprop.datasets.layout import DTYPES, REDUCTIONS, fields_of
from graphprop.datasets.local import run_local
from graphprop.datasets.memory import batch_size as measured_batch
from graphprop.datasets.partial import Partial
from graphprop.datasets.plan import Plan, rows_of_chunk
from graphprop.datasets.sources import open_source
from graphprop.datasets.store import VERSION, Store, create
from graphprop.datasets.targets import labels_of, targets_of
from graphprop.errors import InputError, MethodError, OutputError, nearest
from graphprop.frontend.preprocessing import UNKNOWN
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sources import refuse_rejected

PACKAGES = ("graphprop", "torch", "onnxruntime", "numpy", "pillow", "zarr")
"""What decides on the bits of a store."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int, int], None]
"""Told how many pictures are done, of how many, and how many of them failed."""


@dataclass(frozen=True)
class Explained:
    """What `explain_dataset` wrote.

    Attributes
    ----------
    output
        The store.
    count
        How many pictures there are.
    failures
        Id -> why a picture could not be explained.
    failures_file
        Where they are listed; None where there are none.
    batch_size
        How many were explained at once.
    computed
        How many were explained by this call, and not before.
    warnings
        What the user should know.
    """

    output: Path
    count: int
    failures: dict[str, str]
    failures_file: Path | None
    batch_size: int
    computed: int
    warnings: list[str] = field(default_factory=list)


def explain_dataset(
    directory: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    target: int | str | Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    backend: str = "python",
    device: str = "cpu",
    dtype: str = "float32",
    reduce: str | None = None,
    limit: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Explained:
    """Explain all pictures of a data set, and write their maps to a store.

    A picture that can't be read is listed, with the reason, in ``OUT.failures.parquet``, and keeps
    its row. What is written depends on nothing but the explainer, the pictures and the options: not
    on who computed which part when.

    Parameters
    ----------
    directory
        What ``graphprop compile`` wrote; its ``explainer.py`` is run by the backend ``python``.
    data
        A folder of pictures, searched with all folders in it, the first of which name classes; a
        ``.txt`` with a path on each line; ``.tar`` shards of WebDataset; ``.parquet`` files with a
        column of pictures; or a list of shards, or of pictures.
    output
        A ``.zarr``, ``explanations.zarr`` by default; an ``.h5`` as ViRelAy and CoRelAy read it; or
        a folder for an ``.npz`` and a drawing of each picture.
    target
        The class to explain; by default each picture's largest logit. ``"label"`` is the class that
        the data give, ``"top:K"`` the K largest logits, a map of each; a ``.csv`` or ``.json`` file
        names a class for each id.
    batch_size
        How many are explained at once; by default chosen by the memory that one takes.
    workers
        How many threads read pictures.
    backend
        ``"python"`` or ``"onnxruntime"``, which runs no code of the directory.
    device
        ``"cpu"``, ``"cuda"``, or one of several, ``"cuda:1"``.
    dtype
        Of the maps that are stored: ``"float32"``, or ``"float16"`` with a scale for each map.
    reduce
        ``"channels"``: the sum over channels is stored.
    limit
        The first pictures only, by id.
    resume
        Go on with a run that was stopped.
    progress
        Called with how many pictures are done, of how many, and how many of them failed.

    Raises
    ------
    InputError
        If there are no pictures, or the network has no such class.
    OutputError
        If the output exists, another run writes to it, the disk is full, or what was begun can't be
        continued: with another explainer, other pictures or other options.
    MethodError
        If there is no such backend or device here.
    """
    directory, output = Path(directory), Path("explanations.zarr" if output is None else output)
    check_options(dtype, reduce, workers, batch_size, limit)
    partial = Partial(output)
    manifest = read_manifest(directory)
    refuse_rejected(directory, manifest)
    outputs.refuse(output, manifest, target, reduce)
    Preprocessing.of_arrays(manifest)  # refuses several inputs
    source = open_source(data, arrays=takes_arrays(manifest))
    if limit is not None:
        source.limit(limit)
    if not manifest["preprocessing"] and not takes_arrays(manifest):
        source.warnings.append(UNKNOWN)
    labels, _ = labels_of(source, manifest)
    job = Job(
        directory=directory.absolute(),
        manifest=manifest,
        source=source,
        plan=Plan(len(source.ids), 1, 1),  # chunk and batch are known below
        targets=targets_of(target, source, labels, manifest),
        backend=backend,
        device=device,
        threads=torch.get_num_threads(),
        dtype=dtype,
        reduce=reduce,
    )
    fields = fields_of(manifest, dtype, reduce, job.targets.top)
    identity = identity_of(job)
    if output.exists():
        if not resume:
            raise OutputError(
                f"{output} exists: name another output by -o, or remove it, or go on by --resume"
            )
        return finished(partial, identity, batch_size, source.warnings)
    with writing(output), partial.locked():
        if output.exists():
            raise OutputError(f"{output} was written meanwhile by another run")
        begun = partial.store.exists()
        if begun and not resume:
            raise OutputError(
                f"{partial.folder} holds a run that was stopped: go on with it by --resume, or "
                "remove it"
            )
        if begun:
            known = Store(partial.store).attributes
            refuse_others(output, known, identity, batch_size)
            settings = known["computing"]
            job = replace(
                job,
                plan=Plan(job.plan.count, settings["chunk"], settings["batch_size"]),
                threads=settings["threads"],
            )
            source.warnings += others_versions(known["versions"])
        explaining = Explaining(
            job.directory, manifest, backend=backend, device=device, threads=job.threads
        )
        if not begun:
            rows = rows_of_chunk(fields["relevance"].shape, dtype)
            if batch_size is None:
                batch_size = measured_batch(explaining, rows, device)
            plan = Plan(job.plan.count, rows, min(batch_size, rows))
            job = replace(job, plan=plan)
            begin(partial, job, identity, labels)
        done = partial.done()
        missing = [number for number in range(job.plan.chunks) if number not in done]
        computed = sum(len(job.plan.rows(number)) for number in missing)
        count = Counted(
            job.plan.count, job.plan.count - computed, len(partial.failures()), progress
        )
        if missing:
            run_local(job, partial, missing, explaining, workers or default_workers(), count)
        failures = {source.ids[row]: reason for row, reason in partial.failures().items()}
        listed = outputs.put_in_place(partial, job, failures)
    return Explained(
        output, job.plan.count, failures, listed, job.plan.batch, computed, source.warnings
    )


class Counted:
    """Counts what is done, and tells."""

    def __init__(self, count: int, done: int, failed: int, progress: Progress | None) -> None:
        self.count, self.done, self.failed, self.progress = count, done, failed, progress
        self(0, 0)

    def __call__(self, pictures: int, failed: int) -> None:
        self.done += pictures
        self.failed += failed
        if self.progress is not None:
            self.progress(self.done, self.count, self.failed)


def check_options(
    dtype: str,
    reduce: str | None,
    workers: int | None,
    batch_size: int | None,
    limit: int | None,
) -> None:
    """Refuse options that don't exist."""
    if dtype not in DTYPES:
        raise MethodError(f"there is no dtype {dtype!r}: {nearest(str(dtype), DTYPES)}")
    if reduce is not None and reduce not in REDUCTIONS:
        raise MethodError(f"there is no reduction {reduce!r}: {nearest(str(reduce), REDUCTIONS)}")
    for name, number in (("workers", workers), ("batch_size", batch_size), ("limit", limit)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be 1 or more, not {number}")


def default_workers() -> int:
    """How many threads read pictures: the cores that this process may use, but not too many."""
    return min(len(os.sched_getaffinity(0)), 8)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Make one message of what the system refuses; what is done is kept for --resume."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ": make room, and go on by --resume" if error.errno in FULL else ""
        raise OutputError(f"{output} can't be written: {reason}{advice}") from error


def identity_of(job: Job) -> dict[str, Any]:
    """What two runs have in common that may continue each other."""
    found = [job.directory / name for name in (*FILES, MANIFEST)]
    ids = hashlib.sha256("\n".join(job.source.ids).encode()).hexdigest()
    return {
        "explainer": {file.name: sha256(file) for file in found if file.exists()},
        "pictures": len(job.source.ids),
        "ids": ids,
        "target": job.targets.text,
        "targets": hashlib.sha256(job.targets.classes.tobytes()).hexdigest(),
        "backend": job.backend,
        "device": job.device.partition(":")[0],
        "dtype": job.dtype,
        "reduce": job.reduce,
    }


def refuse_others(
    output: Path, attributes: Mapping[str, Any], given: Mapping[str, Any], batch_size: int | None
) -> None:
    """Refuse to continue a run with anything else than what it was begun with.

    Raises
    ------
    OutputError
        With what is different.
    """
    known, begin = attributes["run"], f"{output} was begun"
    again = "go on with that, or name another output by -o"
    if known["explainer"] != given["explainer"]:
        names = {**known["explainer"], **given["explainer"]}
        changed = [n for n in names if known["explainer"].get(n) != given["explainer"].get(n)]
        raise OutputError(
            f"{begin} with another explainer ({', '.join(sorted(changed))} changed): {again}"
        )
    if (known["pictures"], known["ids"]) != (given["pictures"], given["ids"]):
        raise OutputError(
            f"{begin} with another list of pictures ({known['pictures']} then, "
            f"{given['pictures']} now): {again}"
        )
    for name in ("target", "targets", "backend", "device", "dtype", "reduce"):
        if known[name] != given[name]:
            shown = "" if name == "targets" else f" ({known[name]} then, {given[name]} now)"
            raise OutputError(f"{begin} with another {name.rstrip('s')}{shown}: {again}")
    settings = attributes["computing"]
    if batch_size is not None and min(batch_size, settings["chunk"]) != settings["batch_size"]:
        raise OutputError(
            f"{begin} with batches of {settings['batch_size']}, and others give other bits: leave "
            "--batch-size out, or name another output by -o"
        )


def finished(
    partial: Partial, identity: Mapping[str, Any], batch_size: int | None, warnings: list[str]
) -> Explained:
    """What there is to say of an output that is complete.

    Raises
    ------
    OutputError
        If it is another one.
    """
    output = partial.output
    attributes = outputs.attributes_of(output)
    refuse_others(output, attributes, identity, batch_size)
    failures = outputs.read_failures(output)
    shutil.rmtree(partial.folder, ignore_errors=True)  # where a run was killed behind its last step
    return Explained(
        output,
        attributes["run"]["pictures"],
        failures,
        outputs.failures_beside(output) if failures else None,
        attributes["computing"]["batch_size"],
        0,
        warnings,
    )


def versions() -> dict[str, str]:
    """The versions of what decides on the bits, and the instructions that torch computes with."""
    found = {"cpu": torch.backends.cpu.get_cpu_capability()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def others_versions(known: Mapping[str, str]) -> list[str]:
    """A warning where a run is continued by other versions."""
    here = versions()
    other = [
        f"{name} {value} then, {here.get(name)} now"
        for name, value in known.items()
        if here.get(name) != value
    ]
    if not other:
        return []
    return [
        f"this run was begun with other versions ({', '.join(other)}): maps from before and from "
        "now may differ by rounding"
    ]


def begin(
    partial: Partial, job: Job, identity: Mapping[str, Any], labels: NDArray[np.int64] | None
) -> None:
    """Write a store without its chunks: it is there whole, or not at all."""
    manifest = job.manifest
    attributes = {
        "version": VERSION,
        "run": identity,
        "computing": {
            "batch_size": job.plan.batch,
            "chunk": job.plan.chunk,
            "threads": job.threads,
        },
        "versions": versions(),
        "preprocessing": manifest.get("preprocessing"),
        "method": manifest["method"],
        "class_names": manifest.get("class_names"),
        "manifest": dict(manifest),
    }
    for left in partial.folder.iterdir():  # of a run that was killed while it began
        if left.is_dir():
            shutil.rmtree(left)
    partial.records.mkdir()
    fresh = partial.store.with_name("new.zarr")
    create(fresh, job.fields, job.plan, job.source.ids, labels, attributes)
    fresh.rename(partial.store)
