"""The options of ``graphprop inspect`` that draw the network, and the files they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from graphprop.cli.options import Command, with_options

OPTIONS = (
    click.option(
        "--svg",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw the network: its stages, layers with their roles, rules and merged batch norms, "
        "gates and shortcuts.",
    ),
    click.option(
        "--html",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The same as a page, with a table of the layers. It loads nothing.",
    ),
)


def drawing_options(function: Command) -> Command:
    """Add the options."""
    return with_options(function, OPTIONS)


def refuse_files(files: Mapping[str, Path | None], read: Iterable[Path | None]) -> None:
    """Refuse files that can't be written, before the work rather than after it.

    Parameters
    ----------
    files
        Option -> the file it names, or None.
    read
        What must not be replaced: the model's file, its weights.

    Raises
    ------
    OutputError
        If one is a folder, lies in none, is read, or is another's.
    """
    from graphprop.errors import OutputError

    named = {option: file for option, file in files.items() if file is not None}
    for option, file in named.items():
        if file.is_dir():
            raise OutputError(f"{option} names a file, and {file} is a folder")
        if not file.absolute().parent.is_dir():
            raise OutputError(f"{option} {file}: there is no folder {file.parent}")
        if file.resolve() in {path.resolve() for path in read if path is not None}:
            raise OutputError(f"{option} would replace {file}, which is read: name another file")
    if len({file.resolve() for file in named.values()}) < len(named):
        raise OutputError(f"{' and '.join(named)} name the same file: give each its own")


def write_drawings(
    title: str,
    inputs: Sequence[Sequence[int]],
    layers: Sequence[Mapping[str, Any]],
    batch_norms: Mapping[str, str],
    notes: Sequence[str],
    *,
    svg: Path | None,
    html: Path | None,
) -> None:
    """Draw what `graphprop.api.inspect` found.

    Parameters
    ----------
    title
        What stands above the picture.
    inputs, layers, batch_norms, notes
        See `graphprop.drawing.graph_of`.
    svg, html
        The files to write; what lies there is replaced.
    """
    if svg is None and html is None:
        return
    from graphprop.drawing import draw, graph_of
    from graphprop.drawing.pages import network_page

    graph = graph_of(title, inputs, layers, batch_norms, notes)
    contents = [(svg, draw), (html, network_page)]
    for file, text in [(file, make(graph)) for file, make in contents if file is not None]:
        file.write_text(text, encoding="utf-8")
