"""VGG-19, from the file beside this one."""

from vgg16 import example_input, preprocessing
from vgg16 import vgg19 as build_model

__all__ = ["build_model", "example_input", "preprocessing"]
