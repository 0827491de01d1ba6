"""What ``import torchvision`` needs beside a build of torch that its C++ extension doesn't fit."""

import importlib.util
from pathlib import Path

import torch


def define_torchvision_operators() -> None:
    """Define the schemas that torchvision expects to find, unless its C++ extension does.

    torchvision 0.28's Python registers fake kernels for operators that only its C++ extension
    defines; beside the CPU build of torch that extension is absent or can't be loaded, and without
    the schemas ``import torchvision`` fails.
    """
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return
    for extension in Path(package.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(extension))
            return
        except OSError:
            continue
    for name in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", schema)
