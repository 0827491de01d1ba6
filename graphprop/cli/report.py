"""The options of ``graphprop report``, and what it does once they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphprop.cli.options import Command, with_options

REPORT_OPTIONS = (
    click.argument(
        "paths",
        nargs=-1,
        required=True,
        type=click.Path(path_type=Path),
        metavar="DIR... [IMAGE...]",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        default="report.html",
        show_default=True,
        metavar="FILE",
        help="The page to write.",
    ),
    click.option(
        "--target",
        "targets",
        type=int,
        multiple=True,
        metavar="K",
        help="Explain this class. Repeatable.  [default: those of the largest logits]",
    ),
    click.option(
        "--top",
        type=click.IntRange(1, 20),
        default=3,
        show_default=True,
        metavar="K",
        help="Explain the classes of the K largest logits, to choose from in the page.",
    ),
    click.option(
        "--evaluation",
        "evaluations",
        type=click.Path(path_type=Path, file_okay=False),
        multiple=True,
        metavar="DIR",
        help="Show the tables and curves that `graphprop evaluate -o DIR` wrote. Repeatable.",
    ),
    click.option("--title", metavar="TEXT", help="What stands at the top of the page."),
    click.option(
        "--backend",
        type=click.Choice(["python", "onnxruntime"]),
        default="python",
        show_default=True,
        help="What computes: DIR's explainer.py, or ONNX Runtime, which runs no code from DIR.",
    ),
)


def report_options(function: Command) -> Command:
    """Add the arguments and options that say what a report shows."""
    return with_options(function, REPORT_OPTIONS)


def run_report(as_json: bool, *, paths: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Write the page, and print what it shows."""
    from graphprop.cli import console
    from graphprop.reporting import write_report

    with console.progress("load the explainers") as progress:
        written = write_report(output, paths, progress=progress, **options)
    for text in written.warnings:
        console.say_warning(text)
    if as_json:
        console.say_json(
            "report",
            {
                "file": written.file,
                "size": written.size,
                "directories": written.directories,
                "images": written.pictures,
                "evaluations": written.evaluations,
                "warnings": written.warnings,
            },
        )
        return
    from rich.filesize import decimal

    shown = [f"{len(written.directories)} compiled", f"{len(written.pictures)} pictures"]
    shown += [f"{len(written.evaluations)} evaluations"] * bool(written.evaluations)
    console.say(f"written: {written.file} ({decimal(written.size)}; {', '.join(shown)})")
