"""Pictures in a column of Parquet files, as their bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphprop.datasets.sources.base import Source, common, text_of
from graphprop.errors import InputError

COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "bytes", "content")
"""What a column of pictures is called, where several could be one."""
LABELS = ("label", "cls", "class")
KEPT = 2
"""Groups of rows that are kept in memory: those at the border of which a chunk lies."""


class Tables(Source):
    """Pictures in the rows of Parquet files; a row is called by its file and its number.

    Attributes
    ----------
    groups
        Of each group of rows: its file, its number there, and the row of the data set at which it
        begins.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self.files = [str(file.absolute()) for file in files]
        above = common(file.parent for file in files)
        named = [
            (text_of(file.absolute().relative_to(above).as_posix()), number)
            for number, file in enumerate(files)
        ]
        named.sort(key=lambda one: f"{one[0]}/")  # as the ids are sorted
        groups, begin = [], 0
        self.column = ""
        for name, number in named:
            with opened(self.files[number]) as table:
                column = picture_column(table.schema_arrow, self.files[number])
                if self.column and column != self.column:
                    raise InputError(
                        f"{self.files[number]} has its pictures in the column {column!r}, other "
                        f"files in {self.column!r}: explain them one after the other"
                    )
                self.column = column
                rows = table.metadata.num_rows
                width = max(8, len(str(rows - 1)))  # so that the ids are sorted as the rows are
                self.ids += [f"{name}/{row:0{width}}" for row in range(rows)]
                self.labels += labels_of(table, rows)
                for group in range(table.metadata.num_row_groups):
                    groups.append((number, group, begin))
                    begin += table.metadata.row_group(group).num_rows
        self.groups = groups
        self.begins = np.array([begin for _, _, begin in groups], dtype=np.int64)
        self.forget()

    def forget(self) -> None:
        """Begin with nothing in memory."""
        self.kept: OrderedDict[int, Any] = OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("kept", "lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forget()

    def read(self, row: int) -> bytes:
        index = int(np.searchsorted(self.begins, row, side="right")) - 1
        value = self.group(index)[row - int(self.begins[index])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise InputError("the row holds no picture")
        return bytes(content)

    def group(self, index: int) -> Any:
        """The pictures of a group of rows; what was read last is kept."""
        with self.lock:
            if index not in self.kept:
                number, group, _ = self.groups[index]
                with opened(self.files[number]) as table:
                    try:
                        column = table.read_row_group(group, columns=[self.column])[0]
                    except (OSError, pa.ArrowException) as error:
                        raise InputError(f"its group of rows can't be read: {error}") from error
                self.kept[index] = column
                while len(self.kept) > KEPT:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(index)
            return self.kept[index]

    def limit(self, count: int) -> None:
        self.ids, self.labels = self.ids[:count], self.labels[:count]


def opened(file: str) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file} can't be read as a Parquet file: {reason}") from error


def picture_column(schema: pa.Schema, file: str) -> str:
    """The column that holds pictures: bytes, or a structure with ``bytes``.

    Raises
    ------
    InputError
        If there is none, or which of several is meant isn't known.
    """
    found = [field.name for field in schema if holds_bytes(field.type)]
    if not found:
        raise InputError(
            f"{file} has no column of pictures: one of bytes, or of structures with the bytes of "
            f"a picture under 'bytes'. It has the columns {', '.join(schema.names)}"
        )
    known = [name for name in COLUMNS if name in found]
    if len(found) > 1 and not known:
        raise InputError(
            f"{file} has several columns of bytes ({', '.join(found)}): call the one with the "
            "pictures 'image'"
        )
    return (known or found)[0]


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of a type can hold pictures."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and holds_bytes(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def labels_of(table: pq.ParquetFile, rows: int) -> list[str | None]:
    """The classes of all rows, as text."""
    schema = table.schema_arrow
    name = next((name for name in LABELS if name in schema.names), None)
    if name is None:
        return [None] * rows
    kind = schema.field(name).type
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        return [None] * rows
    values = table.read(columns=[name])[name].to_pylist()
    return [None if value is None else str(value) for value in values]
