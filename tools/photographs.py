"""Write the photographs that ``models/photographs/annotations.json`` annotates, with a copy of it.

    python tools/photographs.py build/photographs

``graphprop evaluate`` then reads ``build/photographs/annotations.json``, with ``--classes
models/imagenet_classes.json``. The photographs are copied from scikit-image, scikit-learn and
matplotlib, as ``pip install 'graphprop[demo]'`` installs them: nothing is downloaded, and the
packages are not imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ANNOTATIONS = ROOT / "models" / "photographs" / "annotations.json"

DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
"""What installs a package, where it is called otherwise."""


class MissingPhotographError(Exception):
    """A photograph is not where its package should have it, with what to install."""


def source_of(entry: Mapping[str, Any]) -> Path:
    """Find the photograph of an image of the annotations in the package that ships it.

    Raises
    ------
    MissingPhotographError
        If the package is not installed, or ships another picture or none.
    """
    package, name = entry["package"], entry["file_name"]
    distribution = DISTRIBUTIONS.get(package, package)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPhotographError(
            f"{name} is a photograph of {distribution}, which is not installed: "
            "pip install 'graphprop[demo]'"
        )
    file = Path(spec.submodule_search_locations[0]) / entry["path"]
    if not file.is_file():
        raise MissingPhotographError(f"the installed {distribution} does not ship {entry['path']}")
    with Image.open(file) as image:
        if image.size != (entry["width"], entry["height"]):
            raise MissingPhotographError(
                f"{file} has {image.width} x {image.height} pixels, and the annotations are of one "
                f"with {entry['width']} x {entry['height']}"
            )
    return file


def write(folder: Path) -> list[Path]:
    """Copy all photographs and the annotations into a folder; returns the photographs' files."""
    content = json.loads(ANNOTATIONS.read_text(encoding="utf-8"))
    found = {entry["file_name"]: source_of(entry) for entry in content["images"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in found.items():
        shutil.copyfile(file, folder / name)
    shutil.copyfile(ANNOTATIONS, folder / ANNOTATIONS.name)
    return [folder / name for name in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write them")
    arguments = parser.parse_args()
    try:
        written = write(arguments.folder)
    except MissingPhotographError as error:
        sys.exit(f"error: {error}")
    print(f"{len(written)} photographs and {ANNOTATIONS.name} in {arguments.folder}")


if __name__ == "__main__":
    main()
