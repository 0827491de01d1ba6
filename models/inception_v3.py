"""Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567), with torchvision's names.

A convolution is factorized where it is large: 5x5 into two of 3x3, 7x7 into 1x7 and 7x1. The
auxiliary head serves training alone: it has its weights here, and no part in the logits.
"""

import torch
import torch.nn.functional as F
from _initialize import initialized
from torch import nn

example_input = torch.zeros(2, 3, 299, 299)
preprocessing = {"size": [299, 299], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


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
    """1x1, 5x5, two 3x3, and an average."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(before, 64, 1)
        self.branch5x5_1 = BasicConv2d(before, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(before, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(before, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(averaged(x)),
        ]
        return torch.cat(parts, 1)


class InceptionB(nn.Module):
    """Halves the size: 3x3, two 3x3, and a max pool."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(before, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            F.max_pool2d(x, kernel_size=3, stride=2),
        ]
        return torch.cat(parts, 1)


class InceptionC(nn.Module):
    """1x1, a 7x7 and two 7x7 in factors, and an average."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        wide = {"kernel": (1, 7), "padding": (0, 3)}
        tall = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(before, 192, 1)
        self.branch7x7_1 = BasicConv2d(before, channels, 1)
        self.branch7x7_2 = BasicConv2d(channels, channels, **wide)
        self.branch7x7_3 = BasicConv2d(channels, 192, **tall)
        self.branch7x7dbl_1 = BasicConv2d(before, channels, 1)
        self.branch7x7dbl_2 = BasicConv2d(channels, channels, **tall)
        self.branch7x7dbl_3 = BasicConv2d(channels, channels, **wide)
        self.branch7x7dbl_4 = BasicConv2d(channels, channels, **tall)
        self.branch7x7dbl_5 = BasicConv2d(channels, 192, **wide)
        self.branch_pool = BasicConv2d(before, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        parts = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(averaged(x)),
        ]
        return torch.cat(parts, 1)


class InceptionD(nn.Module):
    """Halves the size: 3x3, a 7x7 in factors and a 3x3, and a max pool."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(before, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(before, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        parts = [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(seven),
            F.max_pool2d(x, kernel_size=3, stride=2),
        ]
        return torch.cat(parts, 1)


class InceptionE(nn.Module):
    """1x1, a 3x3 whose factors lie side by side, the same behind a 3x3, and an average."""

    def __init__(self, before: int) -> None:
        super().__init__()
        wide = {"kernel": (1, 3), "padding": (0, 1)}
        tall = {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = BasicConv2d(before, 320, 1)
        self.branch3x3_1 = BasicConv2d(before, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, **wide)
        self.branch3x3_2b = BasicConv2d(384, 384, **tall)
        self.branch3x3dbl_1 = BasicConv2d(before, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, **wide)
        self.branch3x3dbl_3b = BasicConv2d(384, 384, **tall)
        self.branch_pool = BasicConv2d(before, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(averaged(x)),
        ]
        return torch.cat(parts, 1)


class InceptionAux(nn.Module):
    """A second head halfway, for training."""

    def __init__(self, before: int, classes: int) -> None:
        super().__init__()
        self.conv0 = BasicConv2d(before, 128, 1)
        self.conv1 = BasicConv2d(128, 768, 5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.conv0(F.avg_pool2d(x, kernel_size=5, stride=3)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Inception3(nn.Module):
    """Convolutions, eleven inception blocks, a mean over space, a linear layer."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.AuxLogits = InceptionAux(768, classes)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = middle = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.avgpool(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))))
        logits = self.fc(torch.flatten(self.dropout(x), 1))
        return (logits, self.AuxLogits(middle)) if self.training else logits


def inception_v3() -> nn.Module:
    return initialized(Inception3, fan="fan_in")


build_model = inception_v3
