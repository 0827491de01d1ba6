"""Putting a written directory in its place: all of it or nothing, and nothing of the user's lost.

Everything is written to a folder beside the target and renamed at the end. What graphprop did not
write is never removed or overwritten.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graphprop.artifact.manifest import FILES, GENERATOR, MANIFEST, read_json, sha256
from graphprop.artifact.schema import is_hash
from graphprop.errors import OutputError

CACHE = "__pycache__"
LONGEST_NAME = 255
"""Bytes of a file's name that common file systems take."""


def refuse_foreign(directory: Path, force: bool = False, *, keep: Iterable[Path] = ()) -> None:
    """Refuse a directory in which something that graphprop did not write would be lost.

    Parameters
    ----------
    directory
        Where to write.
    force
        Replace what graphprop wrote, even where the user changed it or other files lie beside it;
        those stay.
    keep
        What must not lie in it: the model, its weights.

    Raises
    ------
    OutputError
        If it is a file, holds ``keep`` or the working directory, or anything else of the user's.
    """
    try:
        complaint = complaint_about(directory, force, keep)
    except OSError as error:  # a name too long, a folder that can't be looked into
        complaint = f"{directory} can't be written: {error.strerror}"
    if complaint:
        raise OutputError(complaint)


def complaint_about(directory: Path, force: bool, keep: Iterable[Path]) -> str | None:
    """Why nothing may be written to a directory, or None."""
    if directory.is_symlink() and not directory.exists():
        return f"{directory} is a link that leads nowhere: name a directory"
    if directory.exists() and not directory.is_dir():
        return f"{directory} is a file: name a directory"
    place = directory.resolve()
    if place in (here := Path.cwd().resolve(), *here.parents):
        return f"{directory} is the folder you are in, or above it: name another one"
    for path in keep:
        # of a link, neither it nor what it leads to
        if place in (*path.resolve().parents, *(path.parent.resolve() / path.name).parents):
            return f"{directory} holds {path.name}, which is read: name another one"
    if not directory.is_dir():
        return None
    own = own_files(directory)
    others = foreign_files(directory, own)
    clashes = [name for name in others if name in (*FILES, MANIFEST)]
    if clashes and force:
        return (
            f"{directory} holds {listed(clashes)}, which graphprop did not write and would "
            "replace: move it, or name another directory"
        )
    if others and not force:
        return (
            f"{directory} holds {listed(others)}, which graphprop did not write: name another "
            "directory, or replace by --force what graphprop wrote there; the rest then stays"
        )
    changed = [name for name, known in own.items() if known and differs(directory / name, known)]
    if changed and not force:
        return (
            f"{directory} holds {listed(changed)}, which was changed after graphprop wrote it: "
            "name another directory, or replace it by --force"
        )
    return None


def own_files(directory: Path) -> dict[str, str | None]:
    """The files in a directory that graphprop wrote, with their hashes where those are known."""
    try:
        content = read_json(directory / MANIFEST)
    except OutputError:
        return {}
    if not isinstance(content, dict) or content.get("generator") != GENERATOR:
        return {}
    files = content.get("files")
    files = files if isinstance(files, dict) else {}
    known = {name: files[name] for name in FILES if is_hash(files.get(name))}
    present = {name: known[name] for name in known if is_plain(directory / name)}
    return {**present, MANIFEST: None}


def foreign_files(directory: Path, own: Iterable[str]) -> list[str]:
    """The names in a directory of what graphprop did not write."""
    others = {entry.name for entry in directory.iterdir()} - {*own}
    if is_cache(directory / CACHE):
        others.discard(CACHE)
    return sorted(others)


def is_plain(path: Path) -> bool:
    """Whether a path is a file, and no link to one."""
    return path.is_file() and not path.is_symlink()


def is_cache(folder: Path) -> bool:
    """Whether a folder holds nothing but what Python makes of ``explainer.py`` when importing."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    return all(re.fullmatch(r"explainer\.[\w-]+\.pyc", entry.name) for entry in folder.iterdir())


def differs(file: Path, known: str) -> bool:
    """Whether a file has another hash."""
    return sha256(file) != known


def listed(names: list[str]) -> str:
    """The first few of many names."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def rejected_beside(target: Path) -> Path:
    """Where output goes that fails its check: ``<target>.rejected``, cut where that is too long."""
    suffix = ".rejected"
    stem = os.fsencode(target.name)[: LONGEST_NAME - len(suffix)]
    return target.with_name(stem.decode(errors="ignore") + suffix)


@contextmanager
def writing_beside(directory: Path) -> Iterator[Path]:
    """A new folder to write to, beside a directory; whatever is left in it is removed."""
    parent = directory.absolute().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    above = next(folder for folder in (parent, *parent.parents) if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{directory} can't be written: {above} is a file")
    try:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".graphprop-", dir=parent) as scratch:
                fresh = Path(scratch) / "new"
                fresh.mkdir()
                yield fresh
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{directory} can't be written: {reason}") from error
    finally:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def put_in_place(fresh: Path, target: Path) -> None:
    """Rename a folder written by `writing_beside` to its name, an older one making room.

    Where the older one holds what graphprop did not write, the files are replaced one by one, and
    all else stays where it is.
    """
    if target.is_dir() and foreign_files(target, own_files(target)):
        replace_files(fresh, target)
        return
    old = fresh.with_name("old")
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


def replace_files(fresh: Path, target: Path) -> None:
    """Replace the files that graphprop wrote into a directory; the manifest goes first, comes last.

    Raises
    ------
    OutputError
        If a new file would replace one that graphprop did not write.
    """
    own = own_files(target)
    names = sorted((entry.name for entry in fresh.iterdir()), key=lambda name: name == MANIFEST)
    clashes = [name for name in names if name not in own and os.path.lexists(target / name)]
    if clashes:
        raise OutputError(
            f"{target} holds {listed(clashes)}, which graphprop did not write and would replace: "
            "move it, or name another directory"
        )
    old = fresh.with_name("old")
    old.mkdir()
    try:
        for name in sorted(own, key=lambda name: name != MANIFEST):
            os.rename(target / name, old / name)
        for name in names:
            os.rename(fresh / name, target / name)
    except BaseException:
        for name in names:
            if not (fresh / name).exists():
                os.rename(target / name, fresh / name)
        for name in own:
            if (old / name).exists():
                os.rename(old / name, target / name)
        raise
    if is_cache(target / CACHE):
        shutil.rmtree(target / CACHE, ignore_errors=True)  # of the explainer.py that is gone


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, then rename it to ``path``: no reader sees half of it."""
    # the ending stays: some writers go by it
    temporary = path.with_name(f".graphprop-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
