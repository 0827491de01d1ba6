"""A small explainer whose files are tested."""

import torch
from torch import nn

import graphprop


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).amax((2, 3)))


def explainer_of(method="epsilon_plus_flat", **options):
    torch.manual_seed(0)
    return graphprop.compile(Net().eval(), torch.zeros(2, 1, 6, 6), method, **options)
