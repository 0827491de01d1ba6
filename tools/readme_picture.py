"""Draw the README's pictures: one digit of the test set, explained by a few and by all methods.

python tools/readme_picture.py [DIGIT]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import graphprop
from graphprop.frontend.load import LoadedModel, load_source
from graphprop.pictures.heatmap import (
    GAP,
    INK,
    MARGIN,
    TEXT,
    heatmap,
    limit_of,
    place_framed,
    sum_channels,
)

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FEW = ("rap", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")

Panel = tuple[Image.Image, str]


def picture(digit: str) -> Image.Image:
    """One of the digits that lie beside the model."""
    return Image.open(ROOT / "models" / "digits_examples" / f"{digit}.png").convert("L")


def as_input(shown: Image.Image) -> torch.Tensor:
    """A digit as the model takes it."""
    return torch.from_numpy(np.asarray(shown, dtype=np.float32) / 255)[None, None]


def digits() -> torch.Tensor:
    """All digits, for the methods that are fitted to data."""
    return torch.cat([as_input(picture(str(digit))) for digit in range(10)])


def explained(loaded: LoadedModel, x: torch.Tensor, method: str) -> Panel:
    """The map of a method for the largest logit, on its own scale."""
    fit = {"fit": [digits()]} if graphprop.METHODS[method].fitted else {}
    _, relevance = graphprop.compile(loaded.model, loaded.example, method, **fit)(x)
    summed = sum_channels(relevance[0].numpy())
    return heatmap(summed, limit_of(summed)), method


def draw(panels: Sequence[Panel], target: Path, *, columns: int, side: int) -> None:
    """Draw panels over their captions, so many in a row."""
    rows = -(-len(panels) // columns)
    line = side + TEXT + 2 * GAP
    canvas = Image.new("RGB", (MARGIN + columns * (side + GAP), MARGIN + rows * line), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=TEXT)
    for index, (panel, caption) in enumerate(panels):
        left, top = MARGIN + index % columns * (side + GAP), MARGIN + index // columns * line
        enlarged = panel.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        place_framed(canvas, pen, enlarged, (left, top))
        pen.text((left, top + side + GAP // 2), caption, INK, font, anchor="lt")
    target.parent.mkdir(exist_ok=True)
    canvas.save(target)
    print(target.relative_to(ROOT))


def main(digit: str = "3") -> None:
    loaded = load_source(str(ROOT / "models" / "digits.py"))
    shown = picture(digit)
    x = as_input(shown)
    panels = {name: explained(loaded, x, name) for name in graphprop.METHODS}
    given: Panel = (shown, "input")
    draw([given, *map(panels.__getitem__, FEW)], DOCS / "digit.png", columns=4, side=224)
    draw([given, *panels.values()], DOCS / "methods.png", columns=6, side=200)


if __name__ == "__main__":
    main(*sys.argv[1:])
