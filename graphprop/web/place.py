"""Putting a site in its place: all of it or nothing, and nothing of the user's lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from graphprop.artifact.atomic import is_plain, listed
from graphprop.artifact.manifest import read_json, sha256
from graphprop.artifact.schema import is_hash
from graphprop.errors import OutputError

RECORD = "page.json"
GENERATOR = "graphprop page"


def refuse_foreign(output: Path, force: bool, keep: Iterable[Path] = ()) -> None:
    """Refuse a folder in which something that graphprop did not write would be lost.

    Parameters
    ----------
    force
        Replace what graphprop wrote, even where it was changed; other files stay.
    keep
        What is read, and must not lie in it.

    Raises
    ------
    OutputError
        If it is a file, or the folder one is in, or holds other files.
    """
    if os.path.lexists(output) and not output.is_dir():
        raise OutputError(f"{output} is a file: name a folder")
    place = output.resolve()
    if place in (here := Path.cwd().resolve(), *here.parents):
        raise OutputError(f"{output} is the folder you are in, or above it: name another one")
    for path in keep:
        if place in path.resolve().parents:
            raise OutputError(f"{output} holds {path.name}, which is read: name another one")
    if not output.is_dir():
        return
    own = own_files(output)
    present = {str(path.relative_to(output)) for path in output.rglob("*") if not path.is_dir()}
    others = sorted(present - own.keys() - {RECORD} if own else present)
    if others and not force:
        raise OutputError(
            f"{output} holds {listed(others)}, which graphprop did not write: name another folder, "
            "or replace by --force what graphprop wrote there; the rest then stays"
        )
    clashes = [name for name in others if name in ("index.html", "sw.js", RECORD)]
    if clashes:
        raise OutputError(
            f"{output} holds {listed(clashes)}, which graphprop did not write and would replace: "
            "move it, or name another folder"
        )
    changed = [
        name for name, known in own.items() if name in present and sha256(output / name) != known
    ]
    if changed and not force:
        raise OutputError(
            f"{output} holds {listed(changed)}, which was changed after graphprop wrote it: name "
            "another folder, or replace it by --force"
        )


def own_files(folder: Path) -> dict[str, str]:
    """The files of a site that graphprop wrote, with their hashes; none of what leads outside."""
    try:
        content = read_json(folder / RECORD)
    except OutputError:
        return {}
    if not isinstance(content, dict) or content.get("generator") != GENERATOR:
        return {}
    files = content.get("files")
    return {
        name: known
        for name, known in (files if isinstance(files, dict) else {}).items()
        if is_hash(known) and is_inside(folder, name)
    }


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name is that of a file in a folder, or in a folder within."""
    parts = Path(name).parts
    if not 1 <= len(parts) <= 2 or ".." in parts or Path(name).is_absolute():
        return False
    if any((folder / part).is_symlink() for part in (parts[0], name)):
        return False
    return not (folder / name).exists() or is_plain(folder / name)


def put_in_place(fresh: Path, output: Path) -> None:
    """Move a site to its folder; what an older one had and this has not is removed.

    Where other files lie there, it is put among them, index.html last: until then it shows the
    older site, and with it the newer.
    """
    own = own_files(output) if output.is_dir() else {}
    present = {str(p.relative_to(output)) for p in output.rglob("*") if not p.is_dir()}
    if not present - own.keys() - {RECORD}:
        old = fresh.with_name("old")
        if output.exists():
            output.rename(old)
        try:
            fresh.rename(output)
        except BaseException:
            if old.exists():
                old.rename(output)
            raise
        return
    names = [str(path.relative_to(fresh)) for path in fresh.rglob("*") if not path.is_dir()]
    for name in sorted(names, key=lambda name: (name in ("sw.js", "index.html", RECORD), name)):
        (output / name).parent.mkdir(exist_ok=True)
        os.replace(fresh / name, output / name)
    for name in own.keys() - set(names):
        (output / name).unlink(missing_ok=True)
        if (output / name).parent != output and not any((output / name).parent.iterdir()):
            shutil.rmtree((output / name).parent)
