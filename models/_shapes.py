"""What the networks that were trained on generated pictures share: classes, inputs, weights.

The pictures are those of ``tools/shapes.py``; ``tools/train_shapes.py`` trained the networks.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

CLASSES = ["disk", "square", "triangle", "cross", "ring", "diamond"]
PREPROCESSING = {"size": [64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def example() -> torch.Tensor:
    return torch.zeros(2, 3, 64, 64)


def trained(network: nn.Module, file: str) -> nn.Module:
    """Load the weights beside a model file, kept in half precision, in single precision."""
    weights = load_file(Path(file).with_suffix(".safetensors"))
    network.load_state_dict(weights)
    return network.eval()
