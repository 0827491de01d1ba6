"""The explanation of one picture for one class by one method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphprop.pictures.heatmap import sum_channels
from graphprop.pictures.inputs import central_slice

LONGEST_NAME = 32
"""Characters of a class's name over a drawing: more would be wider than most drawings."""
LONGEST_FILE = 60
"""Characters of a file's name over a drawing."""


@dataclass
class Explanation:
    """The explanation of one picture for one class, and where it was written.

    Attributes
    ----------
    image
        The picture's file, or what it is called.
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
        The files written, None where there is none; the drawing may be an SVG or PDF, and of
        several maps. There is no drawing where it would be blank.
    warnings
        What the user should know.
    class_name
        What the class is called, where the manifest says so.
    method, model
        By what, of what: as the manifest says, or as the explainers were named.
    versus, versus_name
        The class that it is explained against: why `target` and not this one.
    rank
        Which of the largest logits the class has, from 0; 0 where it was named.
    index
        The number of the picture.
    """

    image: Path
    shown: Image.Image
    relevance: NDArray[Any]
    logits: NDArray[Any]
    target: int
    limit: float
    npz: Path | None = None
    png: Path | None = None
    warnings: list[str] = field(default_factory=list)
    class_name: str | None = None
    method: str = ""
    model: str = ""
    versus: int | None = None
    versus_name: str | None = None
    rank: int = 0
    index: int = 0

    @property
    def title(self) -> str:
        """The class by its number, and by its name if it has one: short, and on one line."""
        return titled(self.target, self.class_name)

    @property
    def question(self) -> str:
        """What is explained: a class, or why it and not another."""
        if self.versus is None:
            return self.title
        return f"{self.title}, not {titled(self.versus, self.versus_name)}"

    @property
    def name(self) -> str:
        """What the picture is called, without folders: short, and on one line."""
        return shortened(self.image.name or str(self.image), LONGEST_FILE)

    @property
    def score(self) -> str:
        """The logit, or how much larger it is than that of the other class."""
        logit = float(self.logits[self.target])
        if self.versus is None:
            return f"logit {logit:.4g}"
        return f"logits {logit:.4g} and {float(self.logits[self.versus]):.4g}"

    @property
    def map(self) -> NDArray[np.float64]:
        """``[H, W]``: relevance summed over channels; of a volume its central slice."""
        return sum_channels(central_slice(self.relevance))

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON, without the arrays."""
        summed = float(self.relevance.astype(np.float64).sum())
        return {
            "image": str(self.image),
            "method": self.method,
            "target": self.target,
            "class_name": self.class_name,
            "versus": self.versus,
            "logit": finite_or_none(float(self.logits[self.target])),
            "relevance_sum": finite_or_none(summed),
            "limit": finite_or_none(self.limit),
            "npz": str(self.npz) if self.npz else None,
            "png": str(self.png) if self.png else None,
            "warnings": self.warnings,
        }

    def undrawable(self) -> str | None:
        """Why a map would make a blank picture, and what to do."""
        where = f"{self.image}, class {self.target}"
        if not np.isfinite(self.relevance).all():
            bad = int((~np.isfinite(self.relevance)).sum())
            return (
                f"{where}: {bad} of {self.relevance.size} entries of the relevance are NaN or "
                "infinite; no picture is drawn. Look at what `graphprop check` says about the "
                "directory, or choose another method"
            )
        if not np.isfinite(self.limit):
            return f"{where}: the relevance is too large to be summed; no picture is drawn"
        if not self.map.any():
            logit = float(self.logits[self.target])
            return (
                f"{where}: the relevance, summed over channels, is zero everywhere (the logit is "
                f"{logit:.4g}); no picture is drawn. Choose another target or method"
            )
        return None


def titled(number: int, name: str | None) -> str:
    """A class by its number, and by its name if it has one."""
    return str(number) if name is None else f"{number}, {shortened(name, LONGEST_NAME)}"


def shortened(text: str, longest: int) -> str:
    """Text on one line, of so many characters at most; what can't be printed is a space."""
    name = "".join(c if c.isprintable() else " " for c in text)
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if np.isfinite(value) else None
