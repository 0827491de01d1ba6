"""A small ResNet that names the shapes in generated pictures, with its trained weights beside it.

Residual blocks of two 3x3 convolutions in three stages, as in ResNet-18. A picture may show several
of the six classes: the sigmoid of a logit says whether it shows one.
"""

import torch
from _shapes import CLASSES, PREPROCESSING, example, trained
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING

# The channels of the three stages; each but the first halves the size.
STAGES = (12, 24, 48)


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(before, after, stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = conv3x3(after, after)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(after),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ShapesResNet(nn.Module):
    """A 5x5 convolution, three stages of two blocks, a mean over space, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STAGES[0], kernel_size=5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        self.relu = nn.ReLU(inplace=True)
        before = STAGES[0]
        for number, channels in enumerate(STAGES, start=1):
            stride = 1 if number == 1 else 2
            blocks = [BasicBlock(before, channels, stride), BasicBlock(channels, channels, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = channels
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def untrained() -> nn.Module:
    return ShapesResNet()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
