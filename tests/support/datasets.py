"""Data sets of small pictures, and an explainer of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from support.artifacts import explainer_of

BROKEN = b"this is no picture"


def explainer_in(folder: Path, method: str = "rap", **options) -> Path:
    """A directory with a small explainer of gray pictures of 6 x 6, four classes."""
    explainer_of(method).save(folder, check=False, **options)
    return folder


def picture(seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def class_folders(folder: Path, count: int = 24, broken: tuple[int, ...] = ()) -> Path:
    """Pictures in folders 0 to 3, called by their numbers; some of them are none."""
    for number in range(count):
        file = folder / str(number % 4) / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(BROKEN if number in broken else picture(number))
    return folder


def shard(file: Path, numbers: range, *, labels: bool = True) -> Path:
    """A shard of a WebDataset."""
    with tarfile.open(file, "w") as archive:
        for number in numbers:
            parts = {"png": picture(number), "json": json.dumps({"n": number}).encode()}
            if labels:
                parts["cls"] = str(number % 4).encode()
            for extension, content in parts.items():
                member = tarfile.TarInfo(f"{number:03}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, byte by byte."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def in_chunks_of(rows: int, code: str = "") -> list[str]:
    """A command like ``graphprop``, whose stores have chunks of so many rows."""
    program = (
        "import graphprop.datasets.plan as plan\n"
        f"plan.MOST_ROWS = {rows}\n{code}\n"
        "from graphprop.cli import main\nmain()\n"
    )
    return [sys.executable, "-c", program]


def run(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    given = [*command, *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, check=False)
