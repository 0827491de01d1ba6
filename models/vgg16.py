"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015, arXiv:1409.1556), with torchvision's names.

``vgg16.py`` is VGG-16; ``vgg16.py:vgg19``, ``vgg16.py:vgg16_bn`` and ``vgg16.py:vgg19_bn`` are its
relatives.
"""

import torch
from _initialize import initialized
from torch import nn

example_input = torch.zeros(2, 3, 224, 224)
preprocessing = {
    "size": [224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}

# The convolutions of each of the five blocks, and their channels; a block ends with a max pool.
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions and max pools, then three fully connected layers."""

    def __init__(self, depth: int = 16, batch_norm: bool = False, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for count, channels in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
                before = channels
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = self.avgpool(x)
        return self.classifier(torch.flatten(x, 1))


def vgg16() -> nn.Module:
    return initialized(lambda: VGG(16))


def vgg19() -> nn.Module:
    return initialized(lambda: VGG(19))


def vgg16_bn() -> nn.Module:
    return initialized(lambda: VGG(16, batch_norm=True))


def vgg19_bn() -> nn.Module:
    return initialized(lambda: VGG(19, batch_norm=True))


build_model = vgg16
