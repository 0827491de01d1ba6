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
from graphprop.cli.dataset_options import NAMES, are_many, is_given, is_meant
from graphprop.cli.preprocessing_options import taken
from graphprop.errors import OutputError
from graphprop.pictures.arguments import Named, sort_paths
from graphprop.pictures.sources import otherwise, read_names


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
        drawn = [name for name, value in options.items() if is_given(value)]
        if drawn:
            option = {"ending": "format"}.get(drawn[0], drawn[0].replace("_", "-"))
            raise click.UsageError(f"--{option} is for some pictures, not for a data set")
        from graphprop.cli.dataset import run_dataset  # what it needs is an extra

        run_dataset(as_json, paths, output, **chosen)
        return
    preprocessing = otherwise(*taken(options))
    names, ending = options.pop("names"), options.pop("ending")
    given = {name: value for name, value in options.items() if value is not None}
    if given["raw"] and given["overlay"]:
        raise click.UsageError("--raw is the map alone, and --overlay a map over the picture")
    with console.progress("load the explainer") as progress:
        found = api.explain_images(
            named.directories,
            named.pictures,
            names=None if names is None else read_names(names),
            preprocessing=preprocessing,
            ending=f".{ending or 'png'}",
            output=output,
            progress=progress,
            **given,
        )
    say_explained(as_json, named.directories, found)


def explained(paths: Sequence[Path]) -> Named:
    """Tell directories from pictures; there must be one of each at least."""
    named = sort_paths(paths)
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
        content = {"directory": directories[0], "directories": directories, "images": results}
        console.say_json("explain", content)
        return
    by = len({result["method"] for result in results}) > 1
    headers = ("picture", *(["method"] * by), "class", "logit", "relevance sum", "scale", "written")
    rows = []
    for one, result in zip(found, results, strict=True):
        numbers = (result["logit"], result["relevance_sum"], result["limit"])
        shown = ["NaN" if number is None else f"{number:.4g}" for number in numbers]
        name = "" if result["class_name"] is None else f" {result['class_name']}"
        against = "" if one.versus is None else f", not {one.versus} {one.versus_name or ''}"
        what = f"{result['target']}{name}{against}".rstrip()
        method = [result["method"]] * by
        rows.append((result["image"], *method, what, *shown, result["png"] or result["npz"]))
    console.say_table(headers, rows)
