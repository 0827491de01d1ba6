"""A small three-dimensional VGG with batch norm that tells nodules from vessels, trained.

The volumes of 32 x 32 x 32 voxels are those of ``tools/nodules.py``: each holds a bright ball
(nodule) or a bright tube (vessel). The layers are those of ``vgg16_3d.py``, fewer and narrower.
"""

import torch
from _shapes import trained
from torch import nn

example_input = torch.zeros(2, 1, 32, 32, 32)
classes = ["vessel", "nodule"]
preprocessing = {"mean": [0.0], "std": [1.0]}

# The channels of the convolutions of each of the four blocks; a block ends with a max pool.
BLOCKS = ((8,), (16,), (32, 32), (48, 48))


class NodulesVGG3d(nn.Module):
    """Blocks of 3x3x3 convolutions and max pools, a hidden layer, and two logits."""

    def __init__(self) -> None:
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
            nn.Linear(before * 2 * 2 * 2, 48),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(48, len(classes)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def untrained() -> nn.Module:
    return NodulesVGG3d()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
