"""ResNet-101, from the file beside this one."""

from resnet50 import example_input, preprocessing
from resnet50 import resnet101 as build_model

__all__ = ["build_model", "example_input", "preprocessing"]
