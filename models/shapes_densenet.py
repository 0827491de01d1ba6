"""A small DenseNet that names the shapes in generated pictures, with its trained weights beside it.

Each layer of a block reads what all layers before it have computed, through a batch norm of its
own, as in DenseNet-121. A picture may show several of the six classes: the sigmoid of a logit says
whether it shows one.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from _shapes import CLASSES, PREPROCESSING, example, trained
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING

GROWTH = 12
BLOCKS = (3, 4, 4)


class DenseLayer(nn.Module):
    """Adds 12 channels: 1x1, then 3x3, each behind batch norm and ReLU."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 4 * GROWTH, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, kernel_size=3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers that each add channels to those before."""

    def __init__(self, layers: int, before: int) -> None:
        super().__init__()
        for index in range(layers):
            self[f"denselayer{index + 1}"] = DenseLayer(before + index * GROWTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def transition(before: int) -> nn.Module:
    """Halves the channels and the size."""
    layers = OrderedDict(
        norm=nn.BatchNorm2d(before),
        relu=nn.ReLU(inplace=True),
        conv=nn.Conv2d(before, before // 2, kernel_size=1, bias=False),
        pool=nn.AvgPool2d(kernel_size=2, stride=2),
    )
    return nn.Sequential(layers)


class ShapesDenseNet(nn.Module):
    """A 5x5 convolution, three dense blocks, a mean over space, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2, bias=False)
        self.features.norm0 = nn.BatchNorm2d(24)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = 24
        for number, layers in enumerate(BLOCKS, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(layers, channels))
            channels += layers * GROWTH
            if number < len(BLOCKS):
                self.features.add_module(f"transition{number}", transition(channels))
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def untrained() -> nn.Module:
    return ShapesDenseNet()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
