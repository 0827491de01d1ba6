"""What ``graphprop explain`` does once its options are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from graphprop import api
from graphprop.api import Explanation
from graphprop.artifact.manifest import MANIFEST
from graphprop.cli import console
from graphprop.cli.dataset_options import NAMES, are_many, is_meant
from graphprop.errors import OutputError
from graphprop.pictures.arguments import Named, told_apart
from graphprop.pictures.explain import DEFAULT_FOLDER, unique


def run_explain(
    as_json: bool,
    *,
    paths: Sequence[Path],
    output: Path | None,
    **options: Any,
) -> None:
    """Explain what the paths name, and print what was written."""
    chosen = {name: value for name in NAMES if (value := options.pop(name))}
    meant = is_meant(paths, output, options, chosen)
    named = None if meant else explained(paths)
    if named is None or are_many(len(named.pictures), output, options):
        chosen |= {name: options.pop(name) for name in ("target", "backend")}
        drawn = [name for name, value in options.items() if value]
        if drawn:
            raise click.UsageError(
                f"--{drawn[0].replace('_', '-')} is for some pictures, not for a data set"
            )
        from graphprop.cli.dataset import run_dataset  # what it needs is an extra

        run_dataset(as_json, paths, output, **chosen)
        return
    if isinstance(options["target"], str):
        raise click.UsageError(f"--target is the number of a class, not {options['target']!r}")
    several = len(named.directories) > 1
    if several and output is not None and output.suffix:
        raise OutputError(
            f"{output} is one file, for {len(named.directories)} directories: give a folder by -o"
        )
    found: list[Explanation] = []
    names = unique(path.resolve().name for path in named.directories)
    with console.progress("load the explainer") as progress:
        for directory, name in zip(named.directories, names, strict=True):
            folder = (output or DEFAULT_FOLDER) / name if several else output
            found += api.explain_images(
                directory, named.pictures, output=folder, progress=progress, **options
            )
    say_explained(as_json, named.directories, found)


def explained(paths: Sequence[Path]) -> Named:
    """Tell directories from pictures; there must be one of each at least."""
    named = told_apart(paths)
    if not named.directories:
        raise OutputError(
            f"none of {', '.join(map(str, paths))} is a compiled directory, which holds a "
            f"{MANIFEST}: `graphprop compile` writes one"
        )
    if not named.pictures:
        raise click.UsageError(
            "Missing argument 'IMAGE...': name pictures, folders of pictures or globs beside "
            f"{named.directories[0]}"
        )
    return named


def say_explained(as_json: bool, directories: Sequence[Path], found: Sequence[Explanation]) -> None:
    """Print what was explained, and where it was written."""
    for one in found:
        for warning in one.warnings:
            console.say_warning(warning)
    results = [one.as_dict() for one in found]
    if as_json:
        console.say_json("explain", {"directory": directories[0], "images": results})
        return
    headers = ("picture", "class", "logit", "relevance sum", "scale", "written")
    rows = []
    for result in results:
        numbers = (result["logit"], result["relevance_sum"], result["limit"])
        shown = ["NaN" if number is None else f"{number:.4g}" for number in numbers]
        name = "" if result["class_name"] is None else f" {result['class_name']}"
        rows.append(
            (result["image"], f"{result['target']}{name}", *shown, result["png"] or result["npz"])
        )
    console.say_table(headers, rows)
