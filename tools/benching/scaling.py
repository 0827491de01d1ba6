"""How cost grows with the batch, with depth and with the number of pixels: tables and a plot."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import graphprop
from benching.bound import bound
from benching.clock import clock_for, race
from benching.contestants import imported, load

BATCHES = (1, 2, 4, 8, 16, 32)
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
PIXELS = (64, 128, 224, 320, 448)


@dataclass(frozen=True)
class Point:
    """One measurement: what it stands for, how much work the forward pass is, and the medians."""

    name: str
    work: float
    forward: float
    explain: float


def points(
    model: nn.Module,
    shape: Sequence[int],
    method: str,
    batches: Sequence[int],
    repeats: int,
    device: str,
) -> Iterator[tuple[int, Point]]:
    """Measure a model by a method on each batch size; work is in multiply-accumulates."""
    example = torch.zeros(1, *shape)
    explainer = graphprop.compile(model, example, method)
    size = bound(explainer).forward
    module, model = explainer.module.to(device).eval(), model.to(device)
    clock = clock_for(torch.get_num_threads(), device)
    for batch in batches:
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        target = torch.zeros(batch, dtype=torch.int64, device=device)
        with torch.no_grad():
            runs = {"forward": lambda x=x: model(x), "explain": lambda x=x, t=target: module(x, t)}
            times = race(runs, repeats, clock)
        medians = {name: statistics.median(found) for name, found in times.items()}
        yield batch, Point(str(batch), batch * size, medians["forward"], medians["explain"])
    gc.collect()


def measure(
    options: Any, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[dict[str, Any]]]:
    """Every series that the options ask for: a list of points each."""
    model, pixels = options.scaling_model, options.scaling_pixels
    found: dict[str, list[Point]] = {}
    shared = (options.scaling_method, options.repeats, options.device)

    def series(name: str, network: str, size: int, batches: Sequence[int]) -> list[Point]:
        say(f"{name}: {network}, {size} pixels")
        measured = points(load(network).model, (3, size, size), shared[0], batches, *shared[1:])
        return [point for _, point in measured]

    if options.batches:
        found["batch"] = series("batch", model, pixels, options.batches)
    found["depth"] = [
        Point(name, one.work, one.forward, one.explain)
        for name in options.depths
        for one in series("depth", name, pixels, [1])
    ]
    found["pixels"] = [
        Point(f"{size} x {size}", one.work, one.forward, one.explain)
        for size in options.pixels
        for one in series("pixels", model, size, [1])
    ]
    return {name: [vars(point) for point in series] for name, series in found.items() if series}


def fit(series: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The slope of the line through zero, and how much of the variation it explains (R^2)."""
    work = torch.tensor([point["work"] for point in series], dtype=torch.float64)
    time = torch.tensor([point["explain"] for point in series], dtype=torch.float64)
    slope = float((work * time).sum() / (work * work).sum())
    rest, all_of_it = ((time - slope * work) ** 2).sum(), ((time - time.mean()) ** 2).sum()
    return slope, float(1 - rest / all_of_it) if all_of_it > 0 else 1.0


def say_series(console: Console, found: dict[str, list[dict[str, Any]]]) -> None:
    for name, series in found.items():
        table = Table(box=None, padding=(0, 2, 0, 0))
        for header in (name, "GMAC", "forward s", "explain s", "explain / forward", "s / TMAC"):
            table.add_column(header, justify="left" if header == name else "right")
        for point in series:
            table.add_row(
                point["name"],
                f"{point['work'] / 1e9:.2f}",
                f"{point['forward']:.3f}",
                f"{point['explain']:.3f}",
                f"{point['explain'] / point['forward']:.2f}",
                f"{point['explain'] / point['work'] * 1e12:.1f}",
            )
        console.print(table)
        console.print(f"through zero, a line explains {fit(series)[1]:.1%} of the variation\n")


def plot(found: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Draw time by work, a panel for each series, with the line through zero.

    Raises
    ------
    LeftOut
        If matplotlib can't be imported.
    """
    matplotlib = imported("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "graphprop"  # the same bytes each time
    pyplot = imported("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.2), squeeze=False)
    for axis, (name, series) in zip(axes[0], found.items(), strict=True):
        slope, _ = fit(series)
        work = [point["work"] / 1e9 for point in series]
        axis.plot([0, max(work)], [0, slope * max(work) * 1e9], color="0.7", label="linear")
        axis.plot(work, [point["explain"] for point in series], "o", label="explain")
        axis.plot(work, [point["forward"] for point in series], "s", label="forward", mfc="none")
        for point, x in zip(series, work, strict=True):
            axis.annotate(point["name"], (x, point["explain"]), fontsize=7)
        axis.set_xlabel("GMAC of the forward pass")
        axis.set_title(f"by {name}", fontsize=10)
    axes[0][0].set_ylabel("seconds")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    pyplot.close(figure)
