"""Pictures in the shards of a WebDataset: tar files whose members are grouped by their names."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from graphprop.datasets.sources.base import Source, common, sorting, text_of
from graphprop.errors import InputError
from graphprop.pictures.preprocessing import SUFFIXES

LABEL = "cls"
"""The member of a sample that holds its class."""
LONGEST_LABEL = 1000
"""Bytes of a class: its number or its name."""
LARGEST_PICTURE = 2**30
"""Bytes of a picture."""


class Shards(Source):
    """Pictures in tar files, each read from its place in the middle of one.

    Attributes
    ----------
    places
        Of each picture: the number of its shard, where its bytes begin, and how many there are.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self.files = [str(file.absolute()) for file in files]
        self.places: list[tuple[int, int, int]] = []
        above = common(file.parent for file in files)
        for number, file in enumerate(files):
            name = text_of(file.absolute().relative_to(above).as_posix())
            for key, (place, label) in self.listed(file).items():
                self.ids.append(f"{name}/{key}")
                self.places.append((number, *place))
                self.labels.append(label)
        order = sorting(self.ids, files[0])
        self.ids = [self.ids[row] for row in order]
        self.places = [self.places[row] for row in order]
        self.labels = [self.labels[row] for row in order]

    def listed(self, file: Path) -> dict[str, tuple[tuple[int, int], str | None]]:
        """The samples of a shard that have a picture: by key, its place and its class."""
        pictures: dict[str, tuple[int, tuple[int, int]]] = {}
        labels: dict[str, str] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for member in members(archive, file, self.warnings):
                    base, extension = base_plus_ext(member.name)
                    if not member.isreg() or base is None:
                        continue
                    key, suffix = text_of(base), f".{extension.lower()}"
                    if extension == LABEL and member.size <= LONGEST_LABEL:
                        content = archive.extractfile(member)
                        assert content is not None
                        labels[key] = content.read().decode("utf-8", "replace").strip()
                    if suffix in SUFFIXES:
                        found = (SUFFIXES.index(suffix), (member.offset_data, member.size))
                        # of several pictures the first kind; of one kind that comes twice, the last
                        pictures[key] = min(pictures.get(key, found), found, key=lambda one: one[0])
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{file} can't be read as a tar file: {error}") from error
        return {key: (place, labels.get(key)) for key, (_, place) in pictures.items()}

    def read(self, row: int) -> bytes:
        number, start, size = self.places[row]
        if size > LARGEST_PICTURE:
            raise InputError(f"it has {size} bytes, and a picture has at most {LARGEST_PICTURE}")
        with open(self.files[number], "rb") as file:
            content = os.pread(file.fileno(), size, start)
        if len(content) < size:
            raise InputError(f"the shard ends after {len(content)} of its {size} bytes")
        return content

    def limit(self, count: int) -> None:
        self.ids, self.places = self.ids[:count], self.places[:count]
        self.labels = self.labels[:count]


def members(archive: tarfile.TarFile, file: Path, warnings: list[str]) -> list[tarfile.TarInfo]:
    """The members of a tar file, as far as it goes; a warning where that isn't to its end."""
    found, trouble = [], ""
    try:
        for member in archive:
            found.append(member)
    except (tarfile.TarError, OSError) as error:
        trouble = str(error)
    if not trouble:
        # at a header that is none it stops as at the end, which is a block of zeros
        with open(file, "rb") as content:
            block = os.pread(content.fileno(), tarfile.BLOCKSIZE, archive.offset)
        trouble = "the next header is damaged" if block.strip(b"\0") else ""
    if trouble:
        warnings.append(
            f"{file} ends in the middle, after {len(found)} members ({trouble}): what was to "
            "follow isn't known, and isn't explained"
        )
    return found
