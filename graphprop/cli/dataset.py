"""What ``graphprop explain`` does with a data set, and ``graphprop summary`` with its store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from graphprop.cli import console
from graphprop.datasets import Explained, explain_dataset, summarize
from graphprop.datasets.outputs import is_store
from graphprop.errors import OutputError
from graphprop.pictures.arguments import is_compiled

FAILED = 3
"""The exit code where the run is complete, and some pictures failed."""
SHOWN = 5
"""Failures that are printed; all are in the file."""


class Rate(ProgressColumn):
    """Pictures in a second."""

    def render(self, task: Task) -> Text:
        """The rate of the last while."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextmanager
def shown_progress() -> Iterator[Callable[[int, int, int], None] | None]:
    """Show on stderr, on a terminal only, how far a run is, its rate and the time that is left."""
    target = console.console(stderr=True)
    if not target.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=target, transient=True) as bar:
        task = bar.add_task("list the pictures", total=None)
        begun = False

        def progress(done: int, count: int, failed: int) -> None:
            nonlocal begun
            text = f"explain ({failed} failed)" if failed else "explain"
            if not begun:  # what an earlier run did is not in the rate
                bar.reset(task, total=count, completed=done, description=text)
                begun = True
            bar.update(task, completed=done, description=text)

        yield progress


def run_dataset(as_json: bool, paths: Sequence[Path], output: Path | None, **options: Any) -> None:
    """Explain a data set, and print what was written."""
    directories = [path for path in paths if is_compiled(path)]
    data = [path for path in paths if path not in directories]
    if len(directories) != 1 or not data:
        raise OutputError(
            "a data set is explained by one compiled directory, and "
            f"{', '.join(map(str, paths))} are {len(directories)} and {len(data)} other paths: "
            "give one of `graphprop compile`'s, and the data"
        )
    if output is None:
        output = Path("explanations.zarr")
    begin = time.monotonic()
    with shown_progress() as progress:
        found = explain_dataset(directories[0], data, output, progress=progress, **options)
    seconds = time.monotonic() - begin
    for warning in found.warnings:
        console.say_warning(warning)
    for name, reason in list(found.failures.items())[:SHOWN]:
        console.say_warning(reason if reason.startswith(name) else f"{name}: {reason}")
    if len(found.failures) > SHOWN:
        console.say_warning(f"{len(found.failures) - SHOWN} more failed: see {found.failures_file}")
    content = {
        "output": found.output,
        "pictures": found.count,
        "failed": len(found.failures),
        "failures_file": found.failures_file,
        "batch_size": found.batch_size,
        "computed": found.computed,
        "seconds": round(seconds, 3),
        "warnings": found.warnings,
    }
    if as_json:
        console.say_json("explain", {"directory": directories[0], "dataset": content})
    else:
        describe(found, seconds)
    if found.failures:
        click.get_current_context().exit(FAILED)


def describe(found: Explained, seconds: float) -> None:
    """Print what was explained."""
    if found.computed:
        console.say(
            f"{found.computed} pictures in {seconds:.1f} s ({found.computed / seconds:.1f}/s), "
            f"batches of {found.batch_size}"
        )
    else:
        console.say("nothing was left to be explained")
    failed = f", {len(found.failures)} failed: {found.failures_file}" if found.failures else ""
    console.say(f"{found.output}: {found.count} pictures{failed}")
    if is_store(found.output):
        console.say(f"`graphprop summary {found.output}` sums it up")


def run_summary(as_json: bool, *, store: Path, drawing: Path | None, no_plots: bool) -> None:
    """Sum up a store, print and draw."""
    with console.progress("read the maps"):
        found = summarize(store, maps=not no_plots)
        if not no_plots:
            drawing = drawing or store.with_name(f"{store.name}.summary.png")
            found.draw(drawing)
    if as_json:
        console.say_json("summary", {**found.as_dict(), "drawing": drawing})
        return
    broken = f", {found.not_finite} maps with NaN or infinity" if found.not_finite else ""
    console.say(
        f"{store}: {found.method}, {found.pictures} pictures, {found.failed} failed{broken}"
    )
    console.say()
    rows = [
        (f"{one.target} {one.name or ''}".strip(), one.pictures, f"{one.relevance_sum:.4g}")
        for one in found.classes
    ]
    console.say_table(("class", "maps", "mean relevance sum"), rows)
    quantiles = {"relevance sum": found.sums}
    if found.swallowed is not None:
        quantiles[f"share of {found.swallowed_is} that is swallowed"] = found.swallowed
    if found.sums:
        console.say()
        heads = ("quantile", *(f"{100 * share:g} %" for share in found.sums))
        console.say_table(
            heads,
            [(name, *(f"{v:.4g}" for v in values.values())) for name, values in quantiles.items()],
        )
    console.say()
    console.say("most negative relevance:")
    console.say_table(
        ("picture", "class", "negative relevance"),
        [(name, target, f"{value:.4g}") for name, target, value in found.negative],
    )
    if drawing is not None and not no_plots:
        console.say(f"\n{drawing}")
