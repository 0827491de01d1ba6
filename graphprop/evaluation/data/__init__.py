"""Pictures with labels and masks, read from what data sets are kept in.

`read` finds out what a path holds, and returns a sequence of cases that reads each picture when it
is asked for.
"""

from __future__ import annotations

from pathlib import Path

from graphprop.errors import InputError
from graphprop.evaluation.data.arrays import Arrays
from graphprop.evaluation.data.coco import read_coco
from graphprop.evaluation.data.folders import is_picture, read_class_folders, read_folder
from graphprop.evaluation.data.pictures import Pictures, Reading
from graphprop.evaluation.data.voc import ANNOTATIONS, read_voc
from graphprop.pictures.preprocessing import MODES

__all__ = ["Arrays", "Pictures", "Reading", "read"]

KINDS = (
    "give a folder of pictures, a folder with a folder of pictures for each class, a COCO .json, a "
    "Pascal VOC folder (Annotations, JPEGImages), or an .npz with images, labels and masks"
)


def read(path: str | Path, reading: Reading) -> Pictures | Arrays:
    """Read a data set.

    Parameters
    ----------
    path
        A folder of pictures; a folder with a folder for each class; a COCO ``.json``; a Pascal VOC
        folder; or an ``.npz`` with ``images``, ``labels`` and ``masks``.
    reading
        How pictures become inputs, and names classes.

    Returns
    -------
    Pictures or Arrays
        A sequence of `graphprop.evaluation.Case`: one for each class of each picture.

    Raises
    ------
    InputError
        If it is none of these, or can't be read; or a class is unknown to the network.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no data {path}: {KINDS}")
    if path.is_file() and path.suffix.lower() == ".npz":
        return Arrays.read(path, reading)
    refuse_pictures(path, reading)
    if path.is_file():
        if path.suffix.lower() == ".json":
            return read_coco(path, reading)
        raise InputError(f"the data {path} is a file of an unknown kind: {KINDS}")
    if (path / ANNOTATIONS).is_dir():
        return read_voc(path, reading)
    within = sorted(path.iterdir())
    if any(is_picture(file) for file in within):
        return read_folder(path, reading)
    if any(folder.is_dir() for folder in within):
        return read_class_folders(path, reading)
    raise InputError(f"there is no picture in {path}: {KINDS}")


def refuse_pictures(path: Path, reading: Reading) -> None:
    """Refuse pictures for a network that takes something else."""
    preprocessing = reading.preprocessing
    shape = (len(preprocessing.mean), *preprocessing.size)
    if len(shape) != 3 or shape[0] not in MODES:
        raise InputError(
            f"{path} is read as pictures, and the network takes inputs of shape {shape}: give an "
            f".npz with images [N, {', '.join(map(str, shape))}], labels and masks"
        )
