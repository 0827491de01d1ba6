"""Explain pictures with a compiled directory, without compiling anything.

The directory's ``explainer.py`` is code, and is run; with the backend ``onnxruntime`` no code is.
The manifest says how a picture becomes an input. For each picture, the arrays go into an ``.npz``,
which has all digits, and a drawing into a ``.png``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from graphprop.artifact.atomic import replacing
from graphprop.artifact.conservation import of_map
from graphprop.artifact.engines import Engine, engine_of, largest
from graphprop.artifact.manifest import read_manifest
from graphprop.errors import InputError, OutputError
from graphprop.frontend.preprocessing import UNKNOWN
from graphprop.pictures import heatmap
from graphprop.pictures.inputs import central_slice, is_picture, read_input

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
    ".svg",
    ".pdf",
)
"""Endings of files of other formats: a name with one is refused rather than taken for a folder."""
LONGEST_NAME = 32
"""Characters of a class's name over a drawing: more would be wider than most drawings."""
ARRAYS = ("relevance", "logits", "target", "scale")
"""The names of the arrays in an ``.npz``."""


@dataclass
class Explanation:
    """The explanation of one picture, and where it was written.

    Attributes
    ----------
    image
        The picture's file.
    shown
        The picture at the size of an input, before mean and std; of a volume its central slice.
    relevance
        ``[C, H, W]``, of volumes ``[C, D, H, W]``, of the type that the explainer computes in.
    logits
        ``[classes]``; those of a network with an output for each place, summed over them.
    target
        The class explained.
    limit
        Where the drawing's scale ends: the largest magnitude of the relevance summed over
        channels, of this picture or of all. NaN or 0 where there is nothing to draw.
    npz, png
        The files written; no drawing where it would be blank.
    warnings
        What the user should know.
    class_name
        What the class is called, where the manifest says so.
    """

    image: Path
    shown: Image.Image
    relevance: NDArray[Any]
    logits: NDArray[Any]
    target: int
    limit: float
    npz: Path
    png: Path | None
    warnings: list[str] = field(default_factory=list)
    class_name: str | None = None

    @property
    def title(self) -> str:
        """The class by its number, and by its name if it has one: short, and on one line."""
        if self.class_name is None:
            return str(self.target)
        name = "".join(c if c.isprintable() else " " for c in self.class_name)
        short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        return f"{self.target}, {short}"

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON, without the arrays."""
        summed = float(self.relevance.astype(np.float64).sum())
        return {
            "image": str(self.image),
            "target": self.target,
            "class_name": self.class_name,
            "logit": finite_or_none(float(self.logits[self.target])),
            "relevance_sum": finite_or_none(summed),
            "limit": finite_or_none(self.limit),
            "npz": str(self.npz),
            "png": str(self.png) if self.png else None,
            "warnings": self.warnings,
        }


def explain_images(
    directory: str | Path,
    images: Sequence[str | Path],
    *,
    target: int | None = None,
    output: str | Path | None = None,
    shared_scale: bool = False,
    backend: str = "python",
    progress: Callable[[str], None] | None = None,
) -> list[Explanation]:
    """Explain pictures, and write arrays and drawings.

    Parameters
    ----------
    directory
        What ``graphprop compile`` wrote; its ``explainer.py`` is run by the backend ``python``.
    images
        Picture files. Each is scaled to cover the input's size, cropped to its center, brought to
        [0, 1], and normalized by the manifest's mean and std. Or arrays, ``.npy`` or ``.npz``, of
        an input each: floating-point numbers are taken as they are. Volumes are arrays, and their
        central slice is drawn.
    target
        The class to explain; by default each picture's own largest logit.
    output
        A folder, ``explanations`` by default; or, for one picture, a name that ends in ``.png``.
    shared_scale
        Draw all pictures on one scale, so that their colors can be compared.
    backend
        ``"python"`` or ``"onnxruntime"``. The latter runs no code of the directory, and opens
        nothing outside it.
    progress
        Called with the name of each picture before it is explained.

    Raises
    ------
    InputError
        If a picture can't be read, the target is no class, or the explainer doesn't take pictures.
    OutputError
        If the directory isn't one of graphprop's, failed its check, or doesn't work; or a file
        would be overwritten that isn't graphprop's.
    MethodError
        If there is no such backend, or the directory was compiled without ONNX.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    refuse_rejected(directory, manifest)
    files = [Path(image) for image in images]
    if len(manifest["relevance_shape"]) not in (3, 4):
        raise InputError(
            f"the explainer's maps have the shape {tuple(manifest['relevance_shape'])}, and one "
            "that can be drawn has (C, H, W) or (C, D, H, W): call load() of its explainer.py from "
            "Python instead"
        )
    opened = [read_input(file, manifest) for file in files]
    if not manifest["preprocessing"]:  # said once
        unknown = [one for one, file in zip(opened, files, strict=True) if is_picture(file)]
        for first in unknown[:1]:
            first.warnings.append(f"{directory}: {UNKNOWN}")
    classes = manifest["classes"]
    if target is not None and not 0 <= target < classes:
        raise InputError(f"the target must be a class from 0 to {classes - 1}, not {target}")
    output = DEFAULT_FOLDER if output is None else Path(output)
    try:
        outputs = output_files(files, output)
    except OSError as error:  # a name too long, a folder that can't be looked into
        raise OutputError(f"{output} can't be written to: {error.strerror}") from error
    explainer = engine_of(directory, manifest, backend)
    found = []
    for file, (x, shown, warnings), (png, npz) in zip(files, opened, outputs, strict=True):
        if progress is not None:
            progress(f"explain {file.name}")
        logits, relevance, chosen = explain_one(explainer, x, target)
        limit = heatmap.limit_of(heatmap.sum_channels(relevance))
        lost = of_map(manifest, logits, chosen, relevance)
        warnings += [f"{file}, class {chosen}: {lost}"] if lost else []
        name = manifest["class_names"][chosen] if manifest.get("class_names") else None
        one = Explanation(file, shown, relevance, logits, chosen, limit, npz, png, warnings, name)
        found.append(one)
        if not shared_scale:
            write_explanation(one, manifest)
    if shared_scale:
        share_scale(found)
        for one in found:
            write_explanation(one, manifest)
    return found


def refuse_rejected(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a directory that failed its check when it was compiled: its maps are wrong."""
    if manifest["check"] and not manifest["check"]["passed"]:
        raise OutputError(
            f"{directory} failed its check when it was compiled, so that its maps are wrong: "
            f"`graphprop check {directory}` says where; explain with a directory that passed"
        )


def output_files(files: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Where drawing and arrays of each picture go: named after it, and made unique.

    Raises
    ------
    OutputError
        If that is the name of one of the pictures, or of a picture from elsewhere.
    """
    if output.suffix.lower() in OTHER_FORMATS and not output.is_dir():
        raise OutputError(
            f"drawings are PNG files, and {output} is none: give -o {output.with_suffix('.png')} "
            "for one picture, or a folder"
        )
    above = next(p for p in (output, *output.absolute().parents) if os.path.lexists(p))
    if not above.is_dir() and not (above == output and output.suffix.lower() == ".png"):
        raise OutputError(
            f"{above} is a file: give a folder by -o, or for one picture a name ending in .png"
        )
    if output.suffix.lower() == ".png" and not output.is_dir():
        if len(files) != 1:
            raise OutputError(
                f"{output} is one file, for {len(files)} pictures: give a folder by -o"
            )
        names = [output]
    else:
        names = [output / f"{stem}.png" for stem in unique([file.stem for file in files])]
    given = {file.resolve() for file in files}
    for png in names:
        npz = png.with_suffix(".npz")
        for path in (png, npz):
            if path.resolve() in given:
                raise OutputError(
                    f"what is written would replace the input {path}: name another folder by -o"
                )
        for path, own in ((png, heatmap.is_drawing), (npz, is_arrays)):
            if path.exists() and not own(path):
                raise OutputError(
                    f"{path} exists and was not written by graphprop: name another folder by -o"
                )
    return [(png, png.with_suffix(".npz")) for png in names]


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
    """Whether a file holds the arrays that `write_pair` writes, and nothing else."""
    try:
        with zipfile.ZipFile(npz) as archive:
            return set(archive.namelist()) == {f"{name}.npy" for name in ARRAYS}
    except (OSError, zipfile.BadZipFile):
        return False


def explain_one(
    explainer: Engine, x: torch.Tensor, target: int | None
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Explain one input ``[1, ...]``: logits, relevance and the class explained."""
    logits, relevance = explainer(x, target)
    chosen = largest(logits) if target is None else target
    return logits[0].reshape(len(logits[0]), -1).sum(1), relevance[0], chosen


def share_scale(found: Sequence[Explanation]) -> None:
    """Give all maps that can be drawn the largest limit."""
    drawable = [one for one in found if np.isfinite(one.limit) and one.limit > 0]
    largest = max((one.limit for one in drawable), default=0.0)
    for one in drawable:
        one.limit = largest


def write_explanation(found: Explanation, manifest: Mapping[str, Any]) -> None:
    """Write arrays and drawing; a map that can't be drawn becomes a warning.

    Raises
    ------
    OutputError
        If the system refuses: a full disk, a name too long.
    """
    try:
        write_pair(found, manifest)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{found.npz.parent} can't be written to: {reason}") from error


def write_pair(found: Explanation, manifest: Mapping[str, Any]) -> None:
    """Write arrays and drawing of one picture."""
    found.npz.parent.mkdir(parents=True, exist_ok=True)
    values = (found.relevance, found.logits, np.int64(found.target), np.float64(found.limit))
    save_arrays(found.npz, dict(zip(ARRAYS, values, strict=True)))
    assert found.png is not None
    trouble = undrawable(found)
    if trouble:
        found.png.unlink(missing_ok=True)  # an older drawing would be of something else
        found.png = None
        found.warnings.append(trouble)
        return
    logit = float(found.logits[found.target])
    is_volume = found.relevance.ndim == 4
    drawn = heatmap.side_by_side(
        found.shown,
        heatmap.sum_channels(central_slice(found.relevance)),
        found.limit,
        (
            "central slice" if is_volume else "input",
            f"relevance for class {found.title} (logit {logit:.4g})",
        ),
    )
    text = {
        "Description": "Relevance summed over channels: red positive, blue negative, white zero"
        + (f"; slice {found.relevance.shape[1] // 2} of {found.relevance.shape[1]}" * is_volume),
        "Relevance-Limit": repr(found.limit),
        "Target": str(found.target),
        "Logit": repr(logit),
        "Method": str(manifest.get("method", "")),
    }
    if found.class_name is not None:
        text["Class"] = found.class_name
    heatmap.write_png(drawn, found.png, text)


def undrawable(found: Explanation) -> str | None:
    """Why a map would make a blank picture, and what to do."""
    where = f"{found.image}, class {found.target}"
    if not np.isfinite(found.relevance).all():
        bad = int((~np.isfinite(found.relevance)).sum())
        return (
            f"{where}: {bad} of {found.relevance.size} entries of the relevance are NaN or "
            "infinite; no picture is drawn. Look at what `graphprop check` says about the "
            "directory, or choose another method"
        )
    if not np.isfinite(found.limit):
        return f"{where}: the relevance is too large to be summed; no picture is drawn"
    if not heatmap.limit_of(heatmap.sum_channels(found.relevance)):
        logit = float(found.logits[found.target])
        return (
            f"{where}: the relevance, summed over channels, is zero everywhere (the logit is "
            f"{logit:.4g}); no picture is drawn. Choose another target or method"
        )
    return None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz``; a reader never sees half a file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if np.isfinite(value) else None
