"""A small CaffeNet that names the shapes in generated pictures, with its trained weights beside it.

Five convolutions, three of them in two groups, local response norms behind the first two pools, and
three fully connected layers, as in CaffeNet. A picture may show several of the six classes: the
sigmoid of a logit says whether it shows one.
"""

import torch
import torch.nn.functional as F
from _shapes import CLASSES, PREPROCESSING, example, trained
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING


class ShapesCaffeNet(nn.Module):
    """CaffeNet's layers, narrower, with a first convolution for pictures of 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(24, 48, kernel_size=5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(48, 64, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, kernel_size=3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(64, 48, kernel_size=3, padding=1, groups=2)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout(0.2)
        self.fc6 = nn.Linear(48 * 4 * 4, 96)
        self.fc7 = nn.Linear(96, 96)
        self.fc8 = nn.Linear(96, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.pool(F.relu(self.conv1(x))))
        x = self.norm(self.pool(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = self.pool(F.relu(self.conv5(x)))
        x = self.dropout(F.relu(self.fc6(torch.flatten(x, 1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)


def untrained() -> nn.Module:
    return ShapesCaffeNet()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
