"""A folder with the arrays and a drawing of each picture, as `graphprop explain` writes of a few.

It is written from a store that is complete. Pictures are read once more, to be drawn beside their
maps; what a run that was stopped has drawn is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from graphprop.artifact.schema import Json
from graphprop.datasets.decode import Decoder
from graphprop.datasets.store import VERSION, Store
from graphprop.errors import InputError, OutputError
from graphprop.pictures.drawing import set_limits
from graphprop.pictures.explanation import Explanation
from graphprop.pictures.inputs import drawn
from graphprop.pictures.style import Style
from graphprop.pictures.writing import unique, write_arrays, write_drawing

ATTRIBUTES = "graphprop.json"
"""The file that says where a folder comes from."""


def check_shape(manifest: Json) -> None:
    """Refuse maps that can't be drawn.

    Raises
    ------
    InputError
        If they have no rows and columns.
    """
    shape = tuple(manifest["relevance_shape"])
    if len(shape) not in (3, 4):
        raise InputError(
            f"the explainer's maps have the shape {shape}, and one that can be drawn has (C, H, W) "
            "or (C, D, H, W): write a .zarr"
        )


def write(store: Store, decoder: Decoder, folder: Path) -> None:
    """Write the pictures of a store that did not fail, each called as its id."""
    manifest, ids = decoder.manifest, decoder.source.ids
    names = unique(str(Path(name).with_suffix("")) for name in map(inside, ids))
    folder.mkdir(exist_ok=True)
    targets, logits = store.column("target"), store.column("logits")
    class_names, style = manifest.get("class_names"), Style()
    for rows, maps in store.chunks():
        for row, relevance in zip(range(rows.start, rows.stop), maps, strict=True):
            target, png = int(targets[row]), folder / f"{names[row]}.png"
            if target < 0 or png.exists():
                continue
            one = Explanation(
                image=Path(ids[row]),
                shown=shown(decoder, row),
                relevance=relevance,
                logits=logits[row],
                target=target,
                limit=0.0,
                class_name=class_names[target] if class_names else None,
                method=manifest["method"],
                model=str(manifest.get("model") or ""),
            )
            set_limits([one], style)
            try:
                write_arrays(one, png.with_suffix(".npz"))
                write_drawing([one], png, style, raw=False)
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(f"{folder} can't be written to: {reason}") from error
    (folder / ATTRIBUTES).write_text(json.dumps(store.attributes, indent=1))


def inside(name: str) -> str:
    """An id as a path that stays in a folder."""
    parts = [part for part in Path(name).parts if part not in ("/", ".", "..")]
    return str(Path(*parts)) if parts else "picture"


def shown(decoder: Decoder, row: int) -> Image.Image:
    """A picture as it is drawn; gone since it was explained, it is blank."""
    found = decoder(row)
    if found.x is None:
        height, width = decoder.shape[-2:]
        return Image.new("L", (width, height), "white")
    return drawn(found.x, decoder.drawing)


def attributes_of(folder: Path) -> dict[str, Any]:
    """Where a folder comes from.

    Raises
    ------
    OutputError
        If it holds drawings of something else.
    """
    try:
        found = json.loads((folder / ATTRIBUTES).read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} was not written from a data set: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise OutputError(f"{folder} was not written by this version of `graphprop explain`")
    return found
