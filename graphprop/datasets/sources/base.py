"""What every data set gives: ids, labels, and the content of a picture."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from graphprop.errors import InputError


class Source(ABC):
    """The pictures of a data set, sorted by id; it can be sent to another process.

    Attributes
    ----------
    ids
        What each picture is called, in the order of the store.
    labels
        The name or number of the class of each, as the data have it; None where they have none.
    warnings
        What the user should know.
    """

    ids: list[str]
    labels: list[str | None]
    warnings: list[str]

    def __init__(self) -> None:
        self.ids, self.labels, self.warnings = [], [], []

    @abstractmethod
    def read(self, row: int) -> Path | bytes:
        """The file of a picture, or its content; any thread may ask for any picture.

        Raises
        ------
        InputError, OSError
            If it can't be read.
        """

    @abstractmethod
    def limit(self, count: int) -> None:
        """Keep the first pictures only."""


def sorting(ids: Sequence[str], where: Path) -> list[int]:
    """The order of ids, by their characters.

    Raises
    ------
    InputError
        If two are the same.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for first, second in pairwise(order):
        if ids[first] == ids[second]:
            raise InputError(
                f"{where} has the picture {ids[first]!r} twice: each needs a name of its own"
            )
    return order


def text_of(name: str | Path) -> str:
    """A name as text that every file can hold: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def common(folders: Iterable[Path]) -> Path:
    """The folder that files lie in, whose part of their names says nothing."""
    return Path(os.path.commonpath([folder.absolute() for folder in folders]))
