"""Draw the README's pictures: a digit of the test set and two photographs, explained.

python tools/readme_picture.py [DIGIT]

The digit is explained by a few and by all methods. The photographs and the network that they are
explained for are those of ``pip install 'graphprop[demo]'``; both are in the public domain (CC0).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import photographs
import torch
from PIL import Image, ImageDraw, ImageFont

import graphprop
from graphprop.frontend.load import LoadedModel, load_source
from graphprop.pictures.heatmap import heatmap, limit_of, sum_channels
from graphprop.pictures.preprocessing import Preprocessing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FEW = ("rap", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")
FOR_PHOTOGRAPHS = ("rap", "hedge", "epsilon_plus_flat", "epsilon_gamma_box")
PHOTOGRAPHS = ("chelsea.png", "coffee.png")
MARGIN, GAP, TEXT = 12, 8, 13
"""Pixels: around the picture, between its parts, the size of letters."""
INK, FRAME = (40, 40, 40), (150, 150, 150)
"""Colors of letters and frames."""

Panel = tuple[Image.Image, str]


def picture(digit: str) -> Image.Image:
    """One of the digits that lie beside the model."""
    return Image.open(ROOT / "models" / "digits_examples" / f"{digit}.png").convert("L")


def as_input(shown: Image.Image) -> torch.Tensor:
    """A digit as the model takes it."""
    return torch.from_numpy(np.asarray(shown, dtype=np.float32) / 255)[None, None]


def digits() -> torch.Tensor:
    """All digits, moved by up to two pixels, for the methods that are fitted to data.

    A logit that is positive for one sample alone has no pattern.
    """
    still = torch.cat([as_input(picture(str(digit))) for digit in range(10)])
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    return torch.cat([still.roll(move, (2, 3)) for move in moves])


def explained(loaded: LoadedModel, x: torch.Tensor, method: str) -> list[Panel]:
    """The maps of a method for each input's largest logit, each on its own scale."""
    fit = {"fit": [digits()]} if graphprop.METHODS[method].fitted else {}
    _, relevance = graphprop.compile(loaded.model, loaded.example, method, **fit)(x)
    maps = [sum_channels(one) for one in relevance.numpy()]
    return [(heatmap(summed, limit_of(summed)), method) for summed in maps]


def draw(panels: Sequence[Panel], target: Path, *, columns: int, side: int) -> None:
    """Draw panels over their captions, so many in a row."""
    rows = -(-len(panels) // columns)
    line = side + TEXT + 2 * GAP
    canvas = Image.new("RGB", (MARGIN + columns * (side + GAP), MARGIN + rows * line), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=TEXT)
    for index, (panel, caption) in enumerate(panels):
        left, top = MARGIN + index % columns * (side + GAP), MARGIN + index // columns * line
        enlarged = panel.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        # white would run into the ground without a frame
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
        canvas.paste(enlarged, (left, top))
        pen.text((left, top + side + GAP // 2), caption, INK, font, anchor="lt")
    target.parent.mkdir(exist_ok=True)
    canvas.save(target)
    print(target.relative_to(ROOT))


def draw_photographs() -> None:
    """Draw the photographs, a row each, with their maps by a few methods."""
    loaded = load_source(str(ROOT / "models" / "efficientnet_lite0.py"))
    manifest = {"input_shape": loaded.example.shape[1:], "preprocessing": loaded.preprocessing}
    preprocessing = Preprocessing.of(manifest)
    entries = json.loads(photographs.ANNOTATIONS.read_text(encoding="utf-8"))["images"]
    files = {entry["file_name"]: entry for entry in entries}
    shown = [preprocessing.read(photographs.source_of(files[name]))[0] for name in PHOTOGRAPHS]
    x = torch.cat([preprocessing.tensor(one) for one in shown])
    maps = [explained(loaded, x, method) for method in FOR_PHOTOGRAPHS]
    panels = [
        panel for row in zip([(one, "input") for one in shown], *maps, strict=True) for panel in row
    ]
    draw(panels, DOCS / "photographs.png", columns=1 + len(maps), side=224)


def main(digit: str = "3") -> None:
    loaded = load_source(str(ROOT / "models" / "digits.py"))
    shown = picture(digit)
    x = as_input(shown)
    panels = {name: explained(loaded, x, name)[0] for name in graphprop.METHODS}
    given: Panel = (shown, "input")
    draw([given, *map(panels.__getitem__, FEW)], DOCS / "digit.png", columns=4, side=224)
    draw([given, *panels.values()], DOCS / "methods.png", columns=6, side=200)
    draw_photographs()


if __name__ == "__main__":
    main(*sys.argv[1:])
