"""A small Inception that names the shapes in generated pictures, with its trained weights.

Modules of parallel branches, joined by their channels, as in Inception-v3: 1x1, 5x5, two 3x3 and an
average; then factorized convolutions. A picture may show several of the six classes: the sigmoid of
a logit says whether it shows one.
"""

import torch
import torch.nn.functional as F
from _shapes import CLASSES, PREPROCESSING, example, trained
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING


class BasicConv2d(nn.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def averaged(x: torch.Tensor) -> torch.Tensor:
    """The mean of each 3x3 window; padding counts as zeros."""
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


class InceptionA(nn.Module):
    """1x1, 5x5, two 3x3, and an average: 64 channels."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(before, 16, 1)
        self.branch5x5_1 = BasicConv2d(before, 12, 1)
        self.branch5x5_2 = BasicConv2d(12, 16, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(before, 12, 1)
        self.branch3x3dbl_2 = BasicConv2d(12, 24, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(24, 24, 3, padding=1)
        self.branch_pool = BasicConv2d(before, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(averaged(x)),
        ]
        return torch.cat(parts, 1)


class InceptionB(nn.Module):
    """Halves the size: 3x3, two 3x3, and a max pool: 48 channels more."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(before, 24, 3, stride=2, padding=1)
        self.branch3x3dbl_1 = BasicConv2d(before, 16, 1)
        self.branch3x3dbl_2 = BasicConv2d(16, 24, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(24, 24, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            F.max_pool2d(x, kernel_size=3, stride=2, padding=1),
        ]
        return torch.cat(parts, 1)


class InceptionC(nn.Module):
    """1x1, a 5x5 and two 5x5 in factors, and an average: 112 channels."""

    def __init__(self, before: int) -> None:
        super().__init__()
        wide = {"kernel": (1, 5), "padding": (0, 2)}
        tall = {"kernel": (5, 1), "padding": (2, 0)}
        self.branch1x1 = BasicConv2d(before, 32, 1)
        self.branch5x5_1 = BasicConv2d(before, 24, 1)
        self.branch5x5_2 = BasicConv2d(24, 24, **wide)
        self.branch5x5_3 = BasicConv2d(24, 32, **tall)
        self.branch5x5dbl_1 = BasicConv2d(before, 24, 1)
        self.branch5x5dbl_2 = BasicConv2d(24, 24, **tall)
        self.branch5x5dbl_3 = BasicConv2d(24, 24, **wide)
        self.branch5x5dbl_4 = BasicConv2d(24, 24, **tall)
        self.branch5x5dbl_5 = BasicConv2d(24, 32, **wide)
        self.branch_pool = BasicConv2d(before, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch5x5dbl_3(self.branch5x5dbl_2(self.branch5x5dbl_1(x)))
        parts = [
            self.branch1x1(x),
            self.branch5x5_3(self.branch5x5_2(self.branch5x5_1(x))),
            self.branch5x5dbl_5(self.branch5x5dbl_4(double)),
            self.branch_pool(averaged(x)),
        ]
        return torch.cat(parts, 1)


class ShapesInception(nn.Module):
    """Convolutions, four inception modules, a mean over space, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 16, 3, stride=2, padding=1)
        self.Conv2d_2a_3x3 = BasicConv2d(16, 24, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.Mixed_5b = InceptionA(24)
        self.Mixed_5c = InceptionA(64)
        self.Mixed_6a = InceptionB(64)
        self.Mixed_6b = InceptionC(112)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(112, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool1(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Mixed_6b(self.Mixed_6a(self.Mixed_5c(self.Mixed_5b(x))))
        return self.fc(torch.flatten(self.dropout(self.avgpool(x)), 1))


def untrained() -> nn.Module:
    return ShapesInception()


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
