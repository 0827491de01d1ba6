"""ResNets (He et al. 2016, arXiv:1512.03385), with torchvision's names.

``resnet50.py`` is ResNet-50; ``resnet50.py:resnet18``, ``resnet50.py:resnet34`` and
``resnet50.py:resnet101`` are its relatives. The stride of a bottleneck lies on its 3x3 convolution.
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


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)


def shortcut(before: int, after: int, stride: int) -> nn.Module | None:
    """What brings a block's input to the size of its result, None where it has it."""
    if stride == 1 and before == after:
        return None
    return nn.Sequential(conv1x1(before, after, stride), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(before, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(before, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, beside a shortcut."""

    expansion = 4

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        after = channels * self.expansion
        self.conv1 = conv1x1(before, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, after)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(before, after, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """A 7x7 convolution, four stages of residual blocks, a mean over space, a linear layer."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        before = 64
        for stage, count in enumerate(blocks):
            channels = 64 * 2**stage
            layers = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(before, channels, stride))
                before = channels * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def untrained(block: type[BasicBlock] | type[Bottleneck], *blocks: int) -> nn.Module:
    """Build a ResNet whose activations don't grow from block to block."""
    network = initialized(lambda: ResNet(block, blocks))
    for layer in network.modules():
        if isinstance(layer, BasicBlock):
            layer.bn2.weight.data /= sum(blocks) ** 0.5
        if isinstance(layer, Bottleneck):
            layer.bn3.weight.data /= sum(blocks) ** 0.5
    return network


def resnet18() -> nn.Module:
    return untrained(BasicBlock, 2, 2, 2, 2)


def resnet34() -> nn.Module:
    return untrained(BasicBlock, 3, 4, 6, 3)


def resnet50() -> nn.Module:
    return untrained(Bottleneck, 3, 4, 6, 3)


def resnet101() -> nn.Module:
    """Build a ResNet-101 with small shifts in its batch norms.

    A rule that leaves biases out of its denominators multiplies relevance at each layer by what
    they were: over 101 layers that is more than single precision holds, but for small ones.
    """
    network = untrained(Bottleneck, 3, 4, 23, 3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.data *= 0.01
            layer.running_mean *= 0.01
    return network


build_model = resnet50
