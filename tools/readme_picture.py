"""Draw the README's picture: one digit of the test set, explained by several methods.

python tools/readme_picture.py [DIGIT] [METHOD ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import graphprop
from graphprop.load import load_source
from graphprop.picture import GAP, INK, MARGIN, TEXT, heatmap, limit_of, place_framed, sum_channels

ROOT = Path(__file__).parent.parent
SIDE = 224
DEFAULT = ("rap", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")


def main(digit: str = "3", *methods: str) -> None:
    loaded = load_source(str(ROOT / "models" / "digits.py"))
    shown = Image.open(ROOT / "models" / "digits_examples" / f"{digit}.png").convert("L")
    x = torch.from_numpy(np.asarray(shown, dtype=np.float32) / 255)[None, None]
    panels = [(shown, "input")]
    for method in methods or DEFAULT:
        _, relevance = graphprop.compile(loaded.model, loaded.example, method)(x)
        summed = sum_channels(relevance[0].numpy())
        panels.append((heatmap(summed, limit_of(summed)), method))
    size = (MARGIN + len(panels) * (SIDE + GAP), SIDE + TEXT + 2 * MARGIN + GAP)
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=TEXT)
    for index, (panel, caption) in enumerate(panels):
        left = MARGIN + index * (SIDE + GAP)
        enlarged = panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        place_framed(canvas, pen, enlarged, (left, MARGIN))
        pen.text((left, MARGIN + SIDE + GAP), caption, INK, font, anchor="lt")
    target = ROOT / "docs" / "digit.png"
    target.parent.mkdir(exist_ok=True)
    canvas.save(target)
    print(target.relative_to(ROOT))


if __name__ == "__main__":
    main(*sys.argv[1:])
