"""Where explanations go: drawings as PNG, SVG or PDF, and the arrays, which have all digits."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graphprop.artifact.atomic import replacing
from graphprop.errors import OutputError
from graphprop.pictures import drawing, heatmap
from graphprop.pictures.explanation import Explanation
from graphprop.pictures.files import FORMATS, is_figure, save_figure
from graphprop.pictures.style import Style

DEFAULT_FOLDER = Path("explanations")
"""Where explanations go by default."""
OTHER_FORMATS = (
    ".npz",
    ".npy",
    ".jpg",
    ".jpeg",
    ".gif",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".eps",
)
"""Endings of files of other formats: a name with one is refused rather than taken for a folder."""
ARRAYS = ("relevance", "logits", "target", "scale")
"""The names of the arrays in an ``.npz``; with ``versus``, where there is another class."""


class Written:
    """What goes where: a file for each drawing, an ``.npz`` for each map.

    Parameters
    ----------
    pictures
        The pictures' files, or what they are called.
    methods
        What the methods are called.
    output
        A folder; or the name of a file: then there is one drawing.
    several
        Whether there are several classes of each picture.
    raw
        Whether each map is a drawing of its own.
    ending
        Of drawings in a folder.

    Raises
    ------
    OutputError
        If the place can't be written to.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        methods: Sequence[str],
        output: Path,
        *,
        several: bool,
        raw: bool,
        ending: str = ".png",
    ) -> None:
        refuse_place(output)
        self.pictures, self.methods, self.output = list(pictures), list(methods), output
        self.several, self.raw = several, raw
        is_file = output.suffix.lower() in FORMATS and not output.is_dir()
        self.file = output if is_file else None
        self.ending = output.suffix if is_file else ending
        if raw and self.ending.lower() != ".png":
            raise OutputError("a raw map is a PNG, a pixel an entry: name one, or leave --raw out")
        stems = [plain(file.stem or str(file)) for file in pictures]
        self.stems = unique(stems)
        self.suffixes = [f"-{plain(name)}" * (len(methods) > 1) for name in methods]
        self.suffixes = unique(self.suffixes) if len(methods) > 1 else [""]

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.output.parent if self.file else self.output

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say in one message that the system refuses: a full disk, a name too long."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{self.folder} can't be written to: {reason}") from error

    def stem(self, picture: int, method: int, target: int) -> str:
        """What the files of a map are called, without the ending."""
        alone = len(self.pictures) == len(self.methods) == 1 and not self.several
        own = self.stems[picture] + self.suffixes[method] + f"-{target}" * self.several
        if self.file is None:
            return own
        return self.file.stem if alone else f"{self.file.stem}-{own}"

    def npz(self, picture: int, method: int, target: int) -> Path:
        """Where the arrays of a map go."""
        return self.folder / f"{self.stem(picture, method, target)}.npz"

    def drawing(self, picture: int, method: int, target: int) -> Path:
        """Where the drawing that shows a map goes."""
        if self.raw:
            return self.folder / f"{self.stem(picture, method, target)}.png"
        return self.file or self.folder / f"{self.stems[picture]}{self.ending}"

    def refuse(self, targets: Iterable[int]) -> None:
        """Refuse to replace what graphprop did not write, or a picture that is read."""
        given = {file.resolve() for file in self.pictures if file.name}
        for picture in range(len(self.pictures)):
            for method in range(len(self.methods)):
                for target in targets:
                    place = (picture, method, target)
                    check_place(self.drawing(*place), is_own_drawing, given)
                    check_place(self.npz(*place), is_arrays, given)


def plain(name: str) -> str:
    """A name without what leads out of a folder."""
    return re.sub(r"[/\\\0]+", "_", name).lstrip(".") or "_"


def refuse_place(output: Path) -> None:
    """Refuse a place that is neither a folder nor a drawing."""
    suffix = output.suffix.lower()
    if suffix in OTHER_FORMATS and not output.is_dir():
        raise OutputError(
            f"drawings are PNG, SVG or PDF files, and {output} is none: give -o "
            f"{output.with_suffix('.png')}, or a folder"
        )
    try:
        above = next(p for p in (output, *output.absolute().parents) if os.path.lexists(p))
    except OSError as error:  # a name too long, a folder that can't be looked into
        raise OutputError(f"{output} can't be written to: {error.strerror}") from error
    if not above.is_dir() and not (above == output and suffix in FORMATS):
        raise OutputError(
            f"{above} is a file: give a folder by -o, or a name ending in .png, .svg or .pdf"
        )


def check_place(path: Path, own: Any, given: set[Path]) -> None:
    """Refuse a file that is read, or that is not one of graphprop's."""
    try:
        exists = path.exists()
    except OSError as error:
        raise OutputError(f"{path.parent} can't be written to: {error.strerror}") from error
    if path.resolve() in given:
        raise OutputError(
            f"what is written would replace the input {path}: name another folder by -o"
        )
    if exists and not own(path):
        raise OutputError(
            f"{path} exists and was not written by graphprop: name another folder by -o"
        )


def is_own_drawing(path: Path) -> bool:
    """Whether a file is a drawing that graphprop wrote."""
    return is_figure(path) if path.suffix.lower() in FORMATS else False


def unique(names: Iterable[str]) -> list[str]:
    """Names, the second of a kind numbered: of ``a, a, a_2`` it is ``a, a_3, a_2``."""
    names = list(names)
    taken = set(names)
    seen: set[str] = set()
    found = []
    for name in names:
        number, own = 1, name
        while own in seen or (number > 1 and own in taken):
            number += 1
            own = f"{name}_{number}"
        seen.add(own)
        found.append(own)
    return found


def is_arrays(npz: Path) -> bool:
    """Whether a file holds the arrays that `save_arrays` writes, and nothing else."""
    try:
        with zipfile.ZipFile(npz) as archive:
            names = set(archive.namelist()) - {"versus.npy"}
            return names == {f"{name}.npy" for name in ARRAYS}
    except (OSError, zipfile.BadZipFile):
        return False


def write_arrays(found: Explanation, path: Path) -> None:
    """Write the arrays of an explanation."""
    values = (found.relevance, found.logits, np.int64(found.target), np.float64(found.limit))
    arrays = dict(zip(ARRAYS, values, strict=True))
    if found.versus is not None:
        arrays["versus"] = np.int64(found.versus)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, arrays)
    found.npz = path


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz``; a reader never sees half a file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_drawing(
    found: Sequence[Explanation], path: Path, style: Style, raw: bool, prepared: str = ""
) -> None:
    """Draw explanations in one file; where all would be blank, there is none.

    Warnings say which maps can't be drawn.
    """
    troubles = [one.undrawable() for one in found]
    blank = all(troubles)
    for one, trouble in zip(found, troubles, strict=True):
        if trouble:
            one.warnings.append(
                trouble if blank else trouble.replace("no picture is drawn", "its panel says so")
            )
    if blank:
        path.unlink(missing_ok=True)  # an older drawing would be of something else
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if raw:
        image = Image.fromarray(drawing.raw_of(found[0], style))
        heatmap.write_png(image, path, described(found, style, prepared))
    elif path.suffix.lower() == ".png":
        figure = drawing.figure_of(found, style)
        heatmap.write_png(rendered(figure), path, described(found, style, prepared))
    else:
        save_figure(drawing.figure_of(found, style), path)
    for one in found:
        one.png = path


def rendered(figure: Any) -> Image.Image:
    """A figure in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def described(found: Sequence[Explanation], style: Style, prepared: str) -> dict[str, str]:
    """What the metadata of a drawing say."""
    one = found[0]
    axes = one.relevance.shape
    signs = "red positive, blue negative, white zero"
    text = {
        "Description": "Relevance summed over channels"
        + (f": {signs}" if style.cmap == "seismic" else f", colors {style.cmap}")
        + (f"; slice {axes[1] // 2} of {axes[1]}" if len(axes) == 4 else ""),
        "Method": ", ".join(dict.fromkeys(other.method for other in found)),
    }
    if style.notes():
        text["Drawn"] = " ".join(style.notes())
    if prepared:
        text["Preprocessing"] = prepared
    if len(found) == 1:
        text |= {
            "Relevance-Limit": repr(one.limit),
            "Target": str(one.target),
            "Logit": repr(float(one.logits[one.target])),
        }
        if one.class_name is not None:
            text["Class"] = one.class_name
        if one.versus is not None:
            text["Versus"] = str(one.versus)
    else:
        text["Maps"] = json.dumps(
            [
                [str(other.image.name), other.method, other.target, repr(other.limit)]
                for other in found
            ]
        )
    return text
