"""Writing figures to files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graphprop.artifact.atomic import replacing
from graphprop.errors import OutputError
from graphprop.pictures.heatmap import SOFTWARE, is_drawing

DPI = 150
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"Software": SOFTWARE},
    ".svg": {"Creator": SOFTWARE, "Date": None},
    ".pdf": {"Creator": SOFTWARE, "CreationDate": None},
}
"""What a figure's file is called, and what its metadata say: no date, so that the same figure is
the same file."""
MARKS = {".svg": b"<dc:title>graphprop</dc:title>", ".pdf": b"/Creator (graphprop)"}
"""What stands in a file that was written here."""


def refuse_file(path: Path, keep: Iterable[Path] = ()) -> None:
    """Refuse a name that no figure can be written to.

    Parameters
    ----------
    path
        Where to write.
    keep
        Files that are read.

    Raises
    ------
    OutputError
        If it isn't a PNG, SVG or PDF by its name, or holds anything but a figure of graphprop's.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise OutputError(
            f"a figure is a file that ends in {', '.join(FORMATS)}, and {path} does not: give "
            f"-o {path.with_suffix('.png') if path.name else 'figure.png'}"
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give a file by -o")
    if path.resolve() in {file.resolve() for file in keep}:
        raise OutputError(f"the figure would replace {path}, which it is made of: give another -o")
    if path.exists() and not is_figure(path):
        raise OutputError(f"{path} exists and was not written by graphprop: give another -o")


def is_figure(path: Path) -> bool:
    """Whether a file is one that `save_figure` wrote."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        return is_drawing(path)
    try:
        return path.is_file() and MARKS[suffix] in path.read_bytes()
    except OSError:
        return False


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF; a reader never sees half of it.

    Raises
    ------
    OutputError
        If the name has another ending, or the system refuses.
    """
    from matplotlib import rc_context

    path = Path(path)
    refuse_file(path)
    suffix = path.suffix.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # names of parts that are the same each time
        with rc_context({"svg.hashsalt": SOFTWARE}), replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, format=suffix[1:], metadata=FORMATS[suffix])
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    return path
