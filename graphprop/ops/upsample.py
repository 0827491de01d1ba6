"""Nearest, linear and cubic resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch

from graphprop.ir.interval import Interval
from graphprop.ops.base import Array, from_aten
from graphprop.ops.resample import Resampling, apply_along
from graphprop.ops.source import source_call

aten = torch.ops.aten


@dataclass(frozen=True)
class Upsample(Resampling):
    """Nearest, linear or cubic resizing to ``size``; ``smooth``: torch's ``antialias``.

    The weights of cubic resizing are of both signs.
    """

    mode: str
    size: tuple[int, ...]
    align_corners: bool = False
    scales: tuple[float, ...] | None = None
    smooth: bool = False
    levels: ClassVar[frozenset[str]] = frozenset({"canonical", "lowered", "torch"})

    MODES: ClassVar[dict[int, str]] = {1: "linear", 2: "bilinear", 3: "trilinear"}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        for axis, matrix in enumerate(self.matrices(x.shape[2:])):
            x = apply_along(x, matrix.to(x), axis + 2)
        return x

    def interval(self, *operands: Interval) -> Interval:
        if self.mode != "cubic":
            return operands[0].widened()
        # weights of an axis add up to 1, their sizes to less than 1.4: so much it overshoots
        x, share = operands[0], (1.4 ** len(self.size) - 1) / 2
        if x.high - x.low == inf:
            return Interval()
        beyond = (x.high - x.low) * share
        return x + Interval(-beyond, beyond)

    def axis_map(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        size = self.size[axis]
        scale = None if self.scales is None else self.scales[axis]
        if self.mode == "cubic" or self.smooth:
            plane, full = x.unsqueeze(2), [1, size]
            name = "bicubic" if self.mode == "cubic" else "bilinear"
            function = getattr(
                aten, f"_upsample_{name}2d_aa" if self.smooth else f"upsample_{name}2d"
            )
            return function(plane, full, self.align_corners, 1.0 if scale else None, scale).squeeze(
                2
            )
        if self.mode == "nearest":
            return aten.upsample_nearest1d(x, [size], scale)
        if self.mode == "nearest-exact":
            return aten._upsample_nearest_exact1d(x, [size], scale)
        return aten.upsample_linear1d(x, [size], self.align_corners, scale)

    def source(self, *operands: str) -> str:
        mode = self.MODES[len(self.size)] if self.mode == "linear" else self.mode
        mode = "bicubic" if mode == "cubic" else mode
        return source_call(
            "F.interpolate",
            *operands,
            size=(self.size if self.scales is None else None, None),
            scale_factor=(self.scales, None),
            mode=(mode, "nearest"),
            align_corners=(self.align_corners, False),
            antialias=(self.smooth, False),
        )


def _upsample(mode: str, smooth: bool = False) -> Callable[..., Array]:
    def capture(x: Array, size: Sequence[int] | None, *rest: Any) -> Array:
        *corners, scales = rest
        align = bool(corners[0]) if corners else False
        lengths = x.shape[2:]
        if size is None:
            size = [int(length * s) for length, s in zip(lengths, scales, strict=True)]
            kept = tuple(map(float, scales))
        else:
            kept = None
        return Upsample(mode, tuple(size), align, kept, smooth)(x)

    return capture


from_aten(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)(
    _upsample("linear")
)


from_aten(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)(
    _upsample("nearest")
)


from_aten(
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
)(_upsample("nearest-exact"))


from_aten(aten.upsample_bicubic2d.vec)(_upsample("cubic"))


from_aten(aten._upsample_bicubic2d_aa.vec)(_upsample("cubic", smooth=True))


from_aten(aten._upsample_bilinear2d_aa.vec)(_upsample("linear", smooth=True))
