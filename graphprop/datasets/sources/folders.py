"""Pictures in files: those of a folder, or those that a text file names."""

from __future__ import annotations

from pathlib import Path

from graphprop.datasets.sources.base import Source, sorting, text_of
from graphprop.errors import InputError
from graphprop.pictures.batches import pictures_in
from graphprop.pictures.inputs import ARRAY_SUFFIXES


class Files(Source):
    """Pictures, each in a file of its own."""

    def __init__(
        self, ids: list[str], files: list[str], labels: list[str | None], where: Path
    ) -> None:
        super().__init__()
        order = sorting(ids, where)
        self.ids = [ids[row] for row in order]
        self.files = [files[row] for row in order]
        self.labels = [labels[row] for row in order]

    def read(self, row: int) -> Path:
        return Path(self.files[row])

    def limit(self, count: int) -> None:
        self.ids, self.files = self.ids[:count], self.files[:count]
        self.labels = self.labels[:count]


def folder(path: Path, *, arrays: bool) -> Files:
    """The pictures of a folder and of all folders in it; the first folder's name is the class."""
    if arrays:
        suffixes = ARRAY_SUFFIXES
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
    else:
        files = pictures_in(path)
    inner = [file.relative_to(path) for file in files]
    labels = [text_of(name.parts[0]) if len(name.parts) > 1 else None for name in inner]
    absolute = path.absolute()
    return Files(
        [text_of(name.as_posix()) for name in inner],
        [str(absolute / name) for name in inner],
        labels,
        path,
    )


def listed(path: Path) -> Files:
    """The pictures that a text file names, a path on each line, a class behind a tab.

    A path that isn't absolute begins at the folder of the text file. Ids are paths as they stand
    there. Whether there is such a picture is found when it is read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    rows = [line.rstrip("\r").partition("\t") for line in lines if line.strip()]
    base = path.absolute().parent
    return Files(
        [text_of(name) for name, _, _ in rows],
        [str(base / name) for name, _, _ in rows],
        [text_of(label.strip()) or None for _, _, label in rows],
        path,
    )


def named(files: list[Path]) -> Files:
    """Pictures that were named one by one; each is called as it was named."""
    ids = [text_of(file.as_posix()) for file in files]
    return Files(ids, [str(file.absolute()) for file in files], [None] * len(files), files[0])
