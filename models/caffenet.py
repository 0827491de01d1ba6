"""CaffeNet, Caffe's reference network: AlexNet (Krizhevsky et al. 2012) with pools before norms.

The layers have the names of the original's prototxt (BVLC reference CaffeNet), and its weights
have the same shapes: ``conv1.weight`` is ``[96, 3, 11, 11]``, ``fc6.weight`` ``[4096, 9216]``. The
original was trained on pixels from 0 to 255 less a mean, blue first: turn the channels of
``conv1.weight`` (``weight.flip(1)``) for inputs whose red comes first, as ``preprocessing`` makes
them.
"""

import torch
import torch.nn.functional as F
from _initialize import initialized
from torch import nn

example_input = torch.zeros(2, 3, 227, 227)
preprocessing = {
    "size": [227, 227],
    "mean": [123 / 255, 117 / 255, 104 / 255],
    "std": [1 / 255, 1 / 255, 1 / 255],
}


class CaffeNet(nn.Module):
    """Five convolutions, three of them in two groups, and three fully connected layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, kernel_size=11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout()
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.pool(F.relu(self.conv1(x))))
        x = self.norm(self.pool(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = self.pool(F.relu(self.conv5(x)))
        x = self.dropout(F.relu(self.fc6(torch.flatten(x, 1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)


def caffenet() -> nn.Module:
    """Build CaffeNet, its first layer scaled to the size of its inputs."""
    network = initialized(CaffeNet)
    network.conv1.weight.data /= 64  # what pixels from 0 to 255 vary by
    return network


build_model = caffenet
