"""What reports are made of in tests: networks, pictures and an evaluation, hostilely named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import graphprop
from graphprop.evaluation.results import VERSION

HOSTILE = "</script><img src=x onerror=alert(1)>{{ 7*7 }}\u202e\x00"
FILE = "<img src=x onerror=alert(1)>{{ 7*7 }}\u202e".replace("/", "")
"""The same as a file may be called."""
CLASSES = [HOSTILE, "a second", 'third" autofocus onfocus="alert(1)']


class Hostile(nn.Module):
    """Names that would do something if they were not text."""

    def __init__(self, size: int) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.add_module(HOSTILE.replace(".", ""), inner)
        self.pool, self.head = nn.AdaptiveAvgPool2d(size // 4), nn.Linear(4 * (size // 4) ** 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(HOSTILE.replace(".", ""))(x)
        return self.head(self.pool(x).flatten(1))


def compiled_twice(
    folder: Path,
    methods: Sequence[str] = ("epsilon_plus_flat", "rap"),
    *,
    size: int = 16,
    check: bool = True,
) -> list[Path]:
    """Directories of one network, one for each method."""
    torch.manual_seed(0)
    network = Hostile(size).eval()
    example = torch.zeros(1, 3, size, size)
    return [
        graphprop.compile(
            network, example, method, name=HOSTILE, class_names=CLASSES, preprocessing="zero-one"
        ).save(folder / f"net-{method}", check=check)
        for method in methods
    ]


def pictures_in(folder: Path, count: int) -> list[Path]:
    """Pictures, the first of them hostilely named."""
    names = [f"{FILE}.png", *(f"picture{place}.png" for place in range(1, count))]
    for place, name in enumerate(names):
        shape = Image.linear_gradient("L").rotate(90 * place).resize((16, 16))
        Image.merge("RGB", [shape, shape.rotate(90), shape]).save(folder / name)
    return [folder / name for name in names]


def evaluation_in(folder: Path) -> Path:
    """What an evaluation of two explainers by one metric leaves, with a curve each."""
    place = folder / "evaluation"
    place.mkdir()
    rows = [
        {"explainer": name, "metric": HOSTILE, "mean": mean, "low": mean / 2, "high": mean * 2,
         "n": 3, "higher_is_better": True}
        for name, mean in ((HOSTILE, 0.12345), ("second", 0.5))
    ]  # fmt: skip
    curves = [
        {"explainer": row["explainer"], "metric": HOSTILE, "x": [0, 0.5, 1], "y": [1, 0.6, 0]}
        for row in rows
    ]
    skipped = [{"explainer": "second", "metric": HOSTILE, "n": 1, "reason": HOSTILE}]
    content = {"version": VERSION, "rows": rows, "skipped": skipped, "curves": curves}
    (place / "evaluation.json").write_text(json.dumps(content))
    (place / "cases.csv").write_text("case,name,target,fraction,explainer,metric,value\n")
    return place
