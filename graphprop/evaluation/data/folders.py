"""Folders of pictures: without labels, or with a folder for each class."""

from __future__ import annotations

from pathlib import Path

from graphprop.errors import InputError
from graphprop.evaluation.data.pictures import Entry, Pictures, Reading
from graphprop.evaluation.sample import PREDICTED
from graphprop.pictures.preprocessing import SUFFIXES


def is_picture(file: Path) -> bool:
    """Whether a file is called as a picture is; hidden ones are not."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def read_folder(folder: Path, reading: Reading) -> Pictures:
    """Pictures without labels: each is explained for the class that the network predicts."""
    files = sorted(file for file in folder.iterdir() if is_picture(file))
    return Pictures([Entry(file, PREDICTED) for file in files], reading)


def read_class_folders(folder: Path, reading: Reading) -> Pictures:
    """Pictures in a folder for each class, which is called as the class, or by its number.

    Where the network's classes have no names, and there are as many folders as classes, they are
    the classes in alphabetical order.

    Raises
    ------
    InputError
        If a folder's name stands for no class, or no folder has a picture.
    """
    files = {
        inner: sorted(file for file in inner.rglob("*") if is_picture(file))
        for inner in sorted(folder.iterdir())
        if inner.is_dir() and not inner.name.startswith(".")
    }
    files = {inner: pictures for inner, pictures in files.items() if pictures}
    if not files:
        raise InputError(f"there is no picture in the folders of {folder}")
    names = [inner.name for inner in files]
    known = any(reading.class_of(name) is not None for name in names)
    if not known and reading.class_names is None and len(names) == reading.classes:
        classes = {name: index for index, name in enumerate(names)}
    else:
        classes = reading.classes_of(names, folder)
    entries = [
        Entry(file, classes[inner.name], frozenset({classes[inner.name]}))
        for inner, pictures in files.items()
        for file in pictures
    ]
    return Pictures(entries, reading)
