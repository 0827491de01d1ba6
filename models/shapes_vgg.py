"""A small VGG that names the shapes in generated pictures, with its trained weights beside it.

Blocks of 3x3 convolutions that end with max pools, then two fully connected layers, as in VGG-16.
A picture may show several of the six classes: the sigmoid of a logit says whether it shows one.
"""

import torch
from _shapes import CLASSES, PREPROCESSING, example, trained
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING

# The channels of the convolutions of each of the four blocks; a block ends with a max pool.
BLOCKS = ((8, 8), (16, 16), (32, 32), (64, 64))


class ShapesVGG(nn.Module):
    """Four blocks of two convolutions, a hidden layer, and a logit for each class."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for block in BLOCKS:
            for channels in block:
                layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
                before = channels
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(before * 4 * 4, 64),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(64, len(CLASSES)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def untrained() -> nn.Module:
    return ShapesVGG()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
