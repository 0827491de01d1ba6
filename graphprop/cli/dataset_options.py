"""The options of ``graphprop explain`` for data sets, and when they are meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

MANY = 100
"""With more pictures than so, maps go to a store, unless -o names a folder."""
STORES = (".zarr", ".h5", ".hdf5")
COLLECTIONS = (".txt", ".tar", ".parquet", ".tgz", ".gz", ".bz2", ".xz", ".zst")
"""Files that hold many pictures, or their names; the compressed ones are refused with a reason."""
TABLES = (".csv", ".json")


class Target(click.ParamType[Any]):
    """A class by its number, or what else says which one is explained."""

    name = "target"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """A number where it is one."""
        try:
            return int(value)
        except ValueError:
            return str(value)


DATASET_OPTIONS = (
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Explain so many at once.  [default: by the memory that one takes]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Read pictures in so many threads.  [default: as many as there are cores, at most 8]",
    ),
    click.option(
        "--device", metavar="NAME", help="cpu, cuda, or one of several, cuda:1.  [default: cpu]"
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        help="The type of the maps that are stored; float16 has a scale for each.  [default: "
        "float32]",
    ),
    click.option("--reduce", type=click.Choice(["channels"]), help="Store the sum over channels."),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Explain the first N pictures only, by their names.",
    ),
    click.option("--resume", is_flag=True, help="Go on with a run that was stopped."),
)
NAMES = (
    "batch_size",
    "workers",
    "device",
    "dtype",
    "reduce",
    "limit",
    "resume",
)
"""What click calls them."""


def of_dataset(target: int | str | None) -> bool:
    """Whether a target is one that only a data set has."""
    if not isinstance(target, str):
        return False
    return target == "label" or target.startswith("top:") or Path(target).suffix in TABLES


def is_given(value: Any) -> bool:
    """Whether an option without a default was given; zero is a value, too."""
    return value is not None and value is not False


def is_meant(
    paths: Sequence[Path], output: Path | None, options: dict[str, Any], chosen: dict[str, Any]
) -> bool:
    """Whether a data set is to be explained, and not some pictures to be drawn.

    Parameters
    ----------
    options
        How pictures are explained and drawn, as click read them.
    chosen
        The options of `DATASET_OPTIONS` that were given.
    """
    return (
        bool(chosen)
        or (output is not None and output.suffix.lower() in STORES)
        or of_dataset(options["target"])
        or any(path.suffix.lower() in COLLECTIONS and not path.is_dir() for path in paths)
    )


def are_many(count: int, output: Path | None, options: dict[str, Any]) -> bool:
    """Whether so many pictures go to a store: where nothing was said of how they are drawn."""
    drawn = {name: value for name, value in options.items() if name not in ("target", "backend")}
    plain = not any(map(is_given, drawn.values()))
    return count > MANY and output is None and plain
