"""VGG-16 in three dimensions, with batch norm, for volumes of 32 x 32 x 32 voxels and two classes.

It tells lung nodules from what only looks like them. The layers are those of VGG-16 with batch
norm (``vgg16_bn.py``), named alike, except that five pools leave one voxel, so that no average
comes before the fully connected layers.
"""

import torch
from _initialize import initialized
from torch import nn

example_input = torch.zeros(2, 1, 32, 32, 32)
preprocessing = {"mean": [0.0], "std": [1.0]}

# The channels of the convolutions of each of the five blocks; a block ends with a max pool.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG3d(nn.Module):
    """Blocks of 3x3x3 convolutions and max pools, then three fully connected layers."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for block in BLOCKS:
            for channels in block:
                layers.append(nn.Conv3d(before, channels, kernel_size=3, padding=1))
                layers.append(nn.BatchNorm3d(channels))
                layers.append(nn.ReLU(inplace=True))
                before = channels
            layers.append(nn.MaxPool3d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def vgg16_3d() -> nn.Module:
    return initialized(VGG3d)


build_model = vgg16_3d
