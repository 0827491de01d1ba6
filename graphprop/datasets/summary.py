"""What a store says as a whole: maps by class, sums of relevance, and what biases swallowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprop.datasets import hdf5, outputs
from graphprop.datasets.store import Store
from graphprop.errors import OutputError

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of distributions."""
LISTED = 10
"""Pictures that are listed by their negative relevance."""
MOST_CLASSES = 12
"""Classes of which a mean map is made: those with the most pictures."""


@dataclass(frozen=True)
class ClassSummary:
    """The pictures that were explained for one class.

    Attributes
    ----------
    target, name
        The class.
    pictures
        How many maps there are.
    relevance_sum
        The mean of their sums.
    mean_map
        The mean of their maps, summed over channels; None where it is of few pictures, among more
        classes than are drawn, or maps have no places.
    """

    target: int
    name: str | None
    pictures: int
    relevance_sum: float
    mean_map: NDArray[np.float64] | None


@dataclass(frozen=True)
class Summary:
    """What `summarize` found.

    Attributes
    ----------
    output, method
        The store, and by which method its maps were made.
    pictures, failed, not_finite
        How many pictures there are, how many of them could not be explained, and how many maps hold
        NaN or infinity: these are in no figure below.
    classes
        By class, those with the most pictures first.
    sums
        Quantile -> of the sums of relevance.
    swallowed
        Quantile -> of the share of what relevance starts with that doesn't arrive: what biases (and
        zero denominators) took. None where relevance doesn't start with the logit, or one.
    swallowed_is
        What the share is of.
    negative
        The pictures with the most negative relevance: id, class, sum of the negative entries.
    values
        The sums, and the shares, of each map: what is drawn.
    """

    output: Path
    method: str
    pictures: int
    failed: int
    not_finite: int
    classes: list[ClassSummary]
    sums: dict[float, float]
    swallowed: dict[float, float] | None
    swallowed_is: str | None
    negative: list[tuple[str, int, float]]
    values: dict[str, NDArray[np.float64]]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON, without maps."""
        return {
            "output": str(self.output),
            "method": self.method,
            "pictures": self.pictures,
            "failed": self.failed,
            "not_finite": self.not_finite,
            "classes": [
                {
                    "target": one.target,
                    "class_name": one.name,
                    "maps": one.pictures,
                    "relevance_sum": one.relevance_sum,
                }
                for one in self.classes
            ],
            "relevance_sum": {f"{share:g}": value for share, value in self.sums.items()},
            "swallowed": self.swallowed
            and {f"{share:g}": value for share, value in self.swallowed.items()},
            "most_negative": [
                {"id": name, "target": target, "relevance_negative": value}
                for name, target, value in self.negative
            ],
        }

    def draw(self, file: str | Path) -> None:
        """Draw it: mean maps, and distributions, as a PNG, SVG or PDF."""
        from graphprop.datasets.summary_figure import draw

        draw(self, Path(file))


def summarize(output: str | Path, *, maps: bool = True) -> Summary:
    """Summarize a store that ``graphprop explain`` wrote.

    Parameters
    ----------
    output
        A ``.zarr`` or an ``.h5``.
    maps
        Whether to read the maps, for the mean of each class; all else is read from small arrays.

    Raises
    ------
    OutputError
        If graphprop did not write it, or it is not complete.
    """
    output = Path(output)
    store = opened(output)
    attributes = store.attributes
    targets = store.column("target").reshape(store.count, -1)
    sums = store.column("relevance_sum").reshape(targets.shape)
    negative = store.column("relevance_negative").reshape(targets.shape)
    explained = targets >= 0
    finite = explained & np.isfinite(sums) & np.isfinite(negative)
    numbers, counts = np.unique(targets[finite], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    largest = [int(numbers[place]) for place in order]
    means = mean_maps(store, targets, finite, largest[:MOST_CLASSES]) if maps else {}
    names = attributes.get("class_names")
    ids = store.column("id")
    worst = np.argsort(np.where(finite, negative, np.inf), axis=None, kind="stable")[:LISTED]
    places = [np.unravel_index(place, targets.shape) for place in worst]
    shares, share_is = swallowed(attributes["manifest"], store.column("logits"), targets, sums)
    kept = None if shares is None else shares[finite & np.isfinite(shares)]
    return Summary(
        output=output,
        method=attributes["method"],
        pictures=attributes["run"]["pictures"],
        failed=attributes["run"]["pictures"] - int(explained.any(1).sum()),
        not_finite=int((explained & ~finite).sum()),
        classes=[
            ClassSummary(
                target=number,
                name=names[number] if names else None,
                pictures=int((targets[finite] == number).sum()),
                relevance_sum=float(sums[finite & (targets == number)].mean()),
                mean_map=means.get(number),
            )
            for number in largest
        ],
        sums=quantiles(sums[finite]),
        swallowed=None if kept is None else quantiles(kept),
        swallowed_is=share_is,
        negative=[
            (str(ids[row]), int(targets[row, column]), float(negative[row, column]))
            for row, column in places
            if finite[row, column]
        ],
        values={"sums": sums[finite], **({} if kept is None else {"swallowed": kept})},
    )


def opened(output: Path) -> Store | hdf5.Opened:
    """Open a store.

    Raises
    ------
    OutputError
        If there is none, or it is not complete.
    """
    if not output.exists():
        begun = output.with_name(f"{output.name}.partial")
        if begun.exists():
            raise OutputError(
                f"{output} is not complete: go on with it by `graphprop explain --resume`"
            )
        raise OutputError(f"there is no {output}: `graphprop explain` writes one")
    return hdf5.Opened(output) if output.suffix.lower() in outputs.HDF5 else Store(output)


def mean_maps(
    store: Store | hdf5.Opened,
    targets: NDArray[np.int64],
    finite: NDArray[np.bool_],
    classes: list[int],
) -> dict[int, NDArray[np.float64]]:
    """The mean map of each class, ``[H, W]``, read chunk by chunk; of volumes the central slice."""
    found: dict[int, NDArray[np.float64]] = {}
    spread = store.attributes["run"]["reduce"] is None or "attribution" in store
    for rows, values in store.chunks():
        maps = values.reshape(*targets[rows].shape, *values.shape[values.ndim - axes_of(store) :])
        for number in classes:
            chosen = maps[finite[rows] & (targets[rows] == number)].astype(np.float64)
            if len(chosen):
                summed = chosen.sum(axis=(0, 1)) if spread else chosen.sum(axis=0)
                found[number] = found.get(number, 0.0) + summed
    counts = {number: int((finite & (targets == number)).sum()) for number in classes}
    means = {number: total / counts[number] for number, total in found.items()}
    cut = {n: m[len(m) // 2] if m.ndim == 3 else m for n, m in means.items()}
    return {number: mean for number, mean in cut.items() if mean.ndim == 2}


def axes_of(store: Store | hdf5.Opened) -> int:
    """How many axes a map has, as it is stored."""
    axes = len(store.attributes["manifest"]["relevance_shape"])
    reduced = store.attributes["run"]["reduce"] is not None and "attribution" not in store
    return axes - reduced


def swallowed(
    manifest: Mapping[str, Any],
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> tuple[NDArray[np.float64] | None, str | None]:
    """The share of what relevance starts with that does not arrive, of each map."""
    record = manifest.get("conservation")
    if not record:
        return None, None
    if record["start"] == "logit":
        start = np.take_along_axis(logits.astype(np.float64), np.maximum(targets, 0), axis=1)
        what = "the logit"
    else:
        start, what = np.full(sums.shape, float(record["places"])), "what relevance starts with"
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - sums / start, what


def quantiles(values: NDArray[np.float64]) -> dict[float, float]:
    """The quantiles of some numbers; none of none."""
    if not len(values):
        return {}
    return {share: float(np.quantile(values, share)) for share in SHARES}
