"""Run a lowered network on tensors: logits and relevance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

from graphprop.ir.interpret import interpret
from graphprop.ir.network import Network
from graphprop.ops import helpers
from graphprop.rules.sampling import mean_over_samples


def interpret_map(
    network: Network,
    inputs: Mapping[str, torch.Tensor],
    target: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    observe: Callable[[fx.Node, torch.Tensor], torch.Tensor | None] | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute logits and the relevance of each input by a lowered or legal network.

    Where the map is a mean over samples, ``observe`` sees the input alone.
    """

    def once(x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, _ = interpret(network, {"x": x, "target": target}, dtype=dtype)
        return output[0], output[1]

    output, _ = interpret(network, {**inputs, "target": target}, dtype=dtype, observe=observe)
    logits, relevance, _ = output
    if network.samples is not None:
        chosen = helpers.target_of(target, logits)
        relevance = mean_over_samples(network.samples, inputs["x"].to(dtype), chosen, once)
    return logits, list(relevance) if isinstance(relevance, tuple) else [relevance]
