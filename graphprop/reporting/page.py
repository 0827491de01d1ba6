"""The page: one HTML file whose policy forbids everything but its own script, style and pictures.

Jinja2 escapes what it is given, and the policy names script and style by their hashes: a name in a
model, a picture's or a folder's can become nothing but text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from graphprop.artifact.atomic import replacing
from graphprop.artifact.manifest import read_manifest
from graphprop.artifact.schema import Json
from graphprop.drawing import STYLE, draw, graph_of_manifest
from graphprop.drawing.pages import hash_of, templates_in
from graphprop.errors import InputError, OutputError
from graphprop.pictures.arguments import sort_paths
from graphprop.pictures.writing import unique
from graphprop.reporting.charts import check_chart, ledger_chart, stages_chart
from graphprop.reporting.contents import (
    KINDS,
    Way,
    facts_of,
    points_of,
    stages_missing,
    status_of,
    way_of,
)
from graphprop.reporting.evaluated import is_evaluation, table_of
from graphprop.reporting.gallery import Subject, explain_all
from graphprop.reporting.inline import style_sheet
from graphprop.version import __version__

TEMPLATES = Path(__file__).parent / "templates"
MARK = f'<meta name="generator" content="graphprop {__version__}, report">'
KNOWN = b'<meta name="generator" content="graphprop '
"""What stands near the beginning of a page that graphprop wrote."""
FIRST = 4096
"""Bytes of a file in which that is looked for."""
ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes
    ----------
    file
        The page.
    size
        Its bytes.
    directories, pictures, evaluations
        What it shows, by name.
    warnings
        What the reader should know of the pictures.
    """

    file: Path
    size: int
    directories: list[str]
    pictures: list[str]
    evaluations: list[str]
    warnings: list[str] = field(default_factory=list)


def write_report(
    output: str | Path,
    paths: Iterable[str | Path],
    *,
    targets: Sequence[int] = (),
    top: int = 3,
    backend: str = "python",
    evaluations: Sequence[str | Path] = (),
    title: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Written:
    """Write a report of compiled directories, and of pictures explained by them.

    Parameters
    ----------
    output
        The page, an ``.html``; one that graphprop wrote is replaced.
    paths
        Compiled directories, pictures (files, folders, globs), and folders that ``graphprop
        evaluate -o`` wrote, in any order.
    targets
        The classes to explain; by default those of each picture's ``top`` largest logits.
    backend
        What explains: ``"python"``, which runs the directories' code, or ``"onnxruntime"``.
    evaluations
        More folders with an ``evaluation.json``.
    title
        What stands at the top of the page.
    progress
        Called with what is about to be done.

    Raises
    ------
    GraphpropError
        If something can't be read, or the page would replace a file that graphprop did not write.
    """
    say = progress or (lambda text: None)
    given = [Path(path) for path in paths]
    measured = [Path(path) for path in (*filter(is_evaluation, given), *evaluations)]
    named = sort_paths([path for path in given if not is_evaluation(path)])
    if not named.directories:
        raise InputError(
            "a report is of compiled directories, and none is named: `graphprop compile` writes one"
        )
    output = Path(output)
    refuse_output(output, [*named.pictures, *named.directories])
    say("read the manifests")
    names = unique(path.resolve().name for path in named.directories)
    subjects = [
        Subject(path, name, read_manifest(path))
        for path, name in zip(named.directories, names, strict=True)
    ]
    tables = [table_of(folder, f"e{place}") for place, folder in enumerate(measured)]
    gallery = explain_all(
        subjects, named.pictures, targets=targets, top=top, backend=backend, progress=say
    )
    say("draw the report")
    content = {
        "title": title or f"graphprop report: {', '.join(dict.fromkeys(names))}",
        "sections": [section_of(s, place) for place, s in enumerate(subjects)],
        "gallery": gallery,
        "data": gallery.data() if gallery.pictures else None,
        "tables": tables,
    }
    text = rendered(content).encode("utf-8")
    try:
        with replacing(output) as file:
            file.write_bytes(text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{output} can't be written: {reason}") from error
    shown = [picture.name for picture in gallery.pictures]
    found = [table.name for table in tables]
    return Written(output, len(text), names, shown, found, gallery.warnings)


def refuse_output(output: Path, keep: Iterable[Path]) -> None:
    """Refuse a name that a report can't have, or that something else has.

    Raises
    ------
    OutputError
        If the name doesn't end in .html, or is that of what graphprop did not write.
    """
    if output.suffix.lower() not in ENDINGS:
        raise OutputError(
            f"a report is one HTML file, and {output} is none by its name: give "
            f"-o {output.with_suffix('.html')}"
        )
    if output.is_dir():
        raise OutputError(f"{output} is a folder: give the name of a file")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {output.absolute().parent}: make it first")
    if output.resolve() in {path.resolve() for path in keep}:
        raise OutputError(f"the report would replace {output}, which is read: give another name")
    if output.exists() and (not output.is_file() or KNOWN not in first_bytes(output)):
        raise OutputError(f"{output} exists and was not written by graphprop: give another name")


def first_bytes(file: Path) -> bytes:
    """The beginning of a file."""
    with file.open("rb") as opened:
        return opened.read(FIRST)


def section_of(subject: Subject, place: int) -> dict[str, Any]:
    """What the page shows of one directory."""
    manifest = subject.manifest
    check = manifest["check"] or {}
    way, points = way_of(manifest), points_of(manifest)
    try:
        picture, undrawn = draw(graph_of_manifest(manifest), style=False), None
    except OutputError as error:  # a manifest may name layers twice, or in another order
        picture, undrawn = "", str(error)
    return {
        "id": f"d{place}",
        "name": subject.name,
        "manifest": manifest,
        "status": status_of(manifest),
        "facts": facts_of(manifest),
        "network": Markup(picture),
        "undrawn": undrawn,
        "check": check,
        "check_chart": check_chart(check.get("backends", ()), f"c{place}"),
        "points": points,
        "stages_chart": stages_chart(points[1], f"s{place}") if points and points[1] else None,
        "stages_missing": stages_missing(manifest),
        "way": way,
        "ledger_chart": ledger_chart(way, f"l{place}") if way else None,
        "kinds": kinds_of(way),
        "conservation": manifest.get("conservation"),
    }


def kinds_of(way: Way | None) -> dict[str, str]:
    """What has a column in the table of the ledger."""
    return {} if way is None else {kind: KINDS[kind] for kind in way.totals}


def rendered(content: Json) -> str:
    """Fill the template."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8") + style_sheet() + STYLE
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    ids = itertools.count()
    templates = templates_in(TEMPLATES)
    templates.filters["size"] = size
    return templates.get_template("report.html").render(
        mark=Markup(MARK),
        style=Markup(style),
        style_hash=hash_of(style),
        script=Markup(script),
        script_hash=hash_of(script),
        version=__version__,
        next_id=lambda: f"t{next(ids)}",
        **content,
    )  # fmt: skip


def size(value: Any) -> str:
    """A number as people read it."""
    return "–" if value is None else f"{value:.4g}"
