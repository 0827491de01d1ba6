"""A file with a model, as users write it."""

from __future__ import annotations

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

example_input = torch.zeros(2, 1, 6, 6)
preprocessing = {"mean": [0.5], "std": [0.5]}
"""
