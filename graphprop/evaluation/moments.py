"""Mean and standard error of arrays that come in one after another, without keeping them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Moments:
    """Mean and deviation of numbers that come in one after another (Welford 1962)."""

    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: int = 0

    @classmethod
    def of(cls, length: int) -> Moments:
        """Of arrays ``[length]``, none of them seen."""
        return cls(np.zeros(length), np.zeros(length))

    def add(self, values: Sequence[float]) -> None:
        """Take one more array."""
        self.count += 1
        away = np.asarray(values) - self.mean
        self.mean = self.mean + away / self.count
        self.squares = self.squares + away * (np.asarray(values) - self.mean)

    @property
    def error(self) -> NDArray[np.float64]:
        """The standard error of the mean; 0 of a single array."""
        error: NDArray[np.float64] = np.sqrt(
            self.squares / max(1, self.count - 1) / max(1, self.count)
        )
        return error
