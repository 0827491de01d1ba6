"""Weights for a network that hasn't been trained: drawn once, the same each time."""

from collections.abc import Callable

import torch
from torch import nn


def initialized(make: Callable[[], nn.Module], seed: int = 0, fan: str = "fan_out") -> nn.Module:
    """Build a network in evaluation mode, with weights after Kaiming et al. (2015).

    The layers are made without memory and filled afterwards, so that no weight is drawn twice.
    Batch norms get statistics as training leaves them, and not those that make them the identity.
    ``fan`` says what keeps its size through a convolution: values forward (``"fan_in"``) or
    gradients.
    """
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu", generator=draw)
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draw)
            elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                layer.reset_running_stats()
                layer.running_mean.normal_(0, 0.1, generator=draw)
                layer.running_var.uniform_(0.8, 1.2, generator=draw)
                layer.weight.uniform_(0.8, 1.2, generator=draw)
                layer.bias.normal_(0, 0.1, generator=draw)
                continue
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)
    return network.eval()
