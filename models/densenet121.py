"""DenseNets (Huang et al. 2017, arXiv:1608.06993), with torchvision's names.

``densenet121.py`` is DenseNet-121; ``densenet121.py:densenet169`` and
``densenet121.py:densenet201`` are its relatives. Each layer reads what all layers of its block
before it have made, through a batch norm of its own.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from _initialize import initialized
from torch import nn

example_input = torch.zeros(2, 3, 224, 224)
preprocessing = {
    "size": [224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}

GROWTH = 32


class DenseLayer(nn.Module):
    """Makes 32 channels of all that there are: 1x1, then 3x3, each behind batch norm and ReLU."""

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


class DenseNet(nn.Module):
    """A 7x7 convolution, four dense blocks, a mean over space, a linear layer."""

    def __init__(
        self, blocks: tuple[int, int, int, int] = (6, 12, 24, 16), classes: int = 1000
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(64)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = 64
        for number, layers in enumerate(blocks, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(layers, channels))
            channels += layers * GROWTH
            if number < len(blocks):
                self.features.add_module(f"transition{number}", transition(channels))
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def densenet121() -> nn.Module:
    return initialized(DenseNet, fan="fan_in")


def densenet169() -> nn.Module:
    return initialized(lambda: DenseNet((6, 12, 32, 32)), fan="fan_in")


def densenet201() -> nn.Module:
    return initialized(lambda: DenseNet((6, 12, 48, 32)), fan="fan_in")


build_model = densenet121
