"""The points whose maps are averaged, by methods whose map is a mean over several inputs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class Samples:
    """The points that are explained in place of an input x, and the weights of their maps.

    Attributes
    ----------
    scale, weight
        ``[K]``.
    offset
        ``[K, ...]``: what is added to ``scale_k * x``, of the rank of x.
    chunk
        How many points of an input are explained at a time.
    baseline
        ``[1, ...]``: the mean is multiplied by ``x - baseline``; None: it is the map.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor
    chunk: int
    baseline: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.scale)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by the names they are stored under."""
        names = ("scale", "offset", "weight", "baseline")
        found = {f"graphprop.sample_{name}": getattr(self, name) for name in names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def of_type(self, dtype: torch.dtype) -> Samples:
        """The same points in the type that the model computes in."""
        cast = {
            field.name: value.to(dtype)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **cast)
