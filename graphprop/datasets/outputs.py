"""What becomes of a store that is complete: it goes to its place, or is turned into another kind.

``.zarr`` is renamed; ``.h5`` and a folder are written from it. The failures are listed beside a
store, or in the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graphprop.artifact.atomic import replacing
from graphprop.artifact.schema import Json
from graphprop.datasets import drawings, hdf5
from graphprop.datasets.decode import Decoder
from graphprop.datasets.explaining import Job
from graphprop.datasets.partial import Partial
from graphprop.datasets.store import Store, flush
from graphprop.errors import InputError, OutputError

ZARR, HDF5 = ".zarr", (".h5", ".hdf5")
SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string())])


def is_store(output: Path) -> bool:
    """Whether a name is that of a store."""
    return output.suffix.lower() in (ZARR, *HDF5)


def refuse(output: Path, manifest: Json, target: Any, reduce: str | None) -> None:
    """Refuse an output that can't hold what was asked for.

    Raises
    ------
    OutputError
        If its name is that of a file of another kind.
    InputError
        If its kind has no place for it.
    """
    if is_store(output):
        if output.suffix.lower() in HDF5 and str(target).startswith("top:"):
            raise InputError(
                f"{output} holds one map of each picture, and the target {target} asks for "
                "several: write a .zarr"
            )
        return
    if output.suffix and not output.is_dir():
        raise OutputError(
            f"the maps of a data set go to a .zarr, an .h5 or a folder, and {output} is none: "
            "name one by -o"
        )
    if str(target).startswith("top:") or reduce is not None:
        raise InputError(
            f"the folder {output} holds one map of each picture, whole: for several, or for sums, "
            "write a .zarr"
        )
    drawings.check_shape(manifest)


def failures_beside(output: Path) -> Path:
    """Where the pictures that failed are listed."""
    if not is_store(output):
        return output / "failures.parquet"
    return output.with_name(f"{output.name}.failures.parquet")


def attributes_of(output: Path) -> dict[str, Any]:
    """Where an output comes from.

    Raises
    ------
    OutputError
        If graphprop did not write it.
    """
    if output.suffix.lower() in HDF5:
        return hdf5.attributes_of(output)
    if not is_store(output):
        return drawings.attributes_of(output)
    return Store(output).attributes


def read_failures(output: Path) -> dict[str, str]:
    """Id -> why a picture failed."""
    file = failures_beside(output)
    if not file.exists():
        return {}
    try:
        table = pq.read_table(file, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{file} can't be read: {error}") from error
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))


def put_in_place(partial: Partial, job: Job, failures: Mapping[str, str]) -> Path | None:
    """Turn a store that is complete into the output; returns where failures are listed.

    Raises
    ------
    OutputError
        If something came to lie there meanwhile.
    """
    output, ready = partial.output, partial.store
    for left in partial.store.rglob("*.partial"):  # of a chunk in the middle of which it was killed
        left.unlink()
    listed = failures_beside(output)
    if output.suffix.lower() in HDF5:
        ready = partial.folder / "store.h5"
        hdf5.write(Store(partial.store), ready)
        flush(ready)
    elif not is_store(output):
        ready = partial.folder / "drawings"
        drawings.write(Store(partial.store), Decoder(job.source, job.manifest), ready)
        listed = ready / listed.name  # it comes with the folder
    write_failures(listed, failures)
    if output.exists():
        raise OutputError(f"{output} exists, and wasn't there before: move it, then --resume")
    ready.rename(output)
    flush(output.absolute().parent)
    shutil.rmtree(partial.store, ignore_errors=True)
    return failures_beside(output) if failures else None


def write_failures(file: Path, failures: Mapping[str, str]) -> None:
    """Write the list of pictures that failed, in the order of their ids; none if there are none."""
    if not failures:
        file.unlink(missing_ok=True)  # of an output of this name that is gone
        return
    columns = {"id": list(failures), "reason": list(failures.values())}
    with replacing(file) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
        flush(temporary)
