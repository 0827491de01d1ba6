"""The small VGG of ``shapes_vgg.py`` with batch norm behind each convolution, trained likewise."""

from _shapes import CLASSES, PREPROCESSING, example, trained
from shapes_vgg import ShapesVGG
from torch import nn

example_input = example()
classes = CLASSES
preprocessing = PREPROCESSING


def untrained() -> nn.Module:
    return ShapesVGG(batch_norm=True)


def build_model() -> nn.Module:
    return trained(untrained(), __file__)
