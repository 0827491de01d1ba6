"""Train the networks of the benchmark with ground truth, and write their weights.

    python tools/train_shapes.py
    python tools/train_shapes.py shapes_vgg shapes_resnet --seed 1 -o build/seed1

The networks are those of ``models/shapes_*.py`` and ``models/nodules_vgg3d.py``; the pictures come
from ``tools/shapes.py`` and ``tools/nodules.py``. Prints the mean average precision on pictures
that were not trained on, of the weights in half precision, as they are written; and which share of
the classes that a picture shows the network still names when the objects are not drawn.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nodules
import shapes
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import nn

MODELS = Path(__file__).resolve().parent.parent / "models"
NETWORKS = (
    "shapes_vgg",
    "shapes_vgg_bn",
    "shapes_resnet",
    "shapes_inception",
    "shapes_densenet",
    "shapes_caffenet",
    "nodules_vgg3d",
)
PICTURES = 4000
VOLUMES = 1200
TEST = 500
BATCH = 64
LEARNING_RATE = 3e-3
EPOCHS = {"shapes_vgg": 12, "shapes_caffenet": 16, "nodules_vgg3d": 6}
EPOCHS_OTHERS = 8
"""Passes over the data: more for networks without batch norm, which learn more slowly."""


class Data(NamedTuple):
    """Inputs, zeros and ones ``[N, classes]``, and the inputs without what they show."""

    inputs: torch.Tensor
    labels: torch.Tensor
    contexts: torch.Tensor


def load_data(name: str, split: str, count: int, seed: int) -> Data:
    """Inputs and labels of a split of what a network is trained on."""
    if name.startswith("nodules"):
        found = nodules.arrays(split, count, seed)
        # NOTHING equals no class: a row of zeros
        labels = torch.from_numpy(found["labels"])[:, None] == torch.arange(len(nodules.CLASSES))
        images, contexts = (torch.from_numpy(found[key]) for key in ("images", "contexts"))
        return Data(images, labels.float(), contexts)
    found = shapes.arrays(split, count, seed)
    images, contexts = (shapes.to_input(found[key]) for key in ("images", "contexts"))
    return Data(images, torch.from_numpy(found["labels"]).float(), contexts)


def tests_of(name: str) -> tuple[str, ...]:
    """The splits that a network is tested on."""
    if name.startswith("nodules"):
        return ("test",)
    return tuple(split for split in shapes.SPLITS if split != "train")


def initialize(network: nn.Module) -> None:
    """Draw weights that keep the size of activations through ReLUs (He et al. 2015)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def train(network: nn.Module, data: Data, epochs: int, seed: int) -> None:
    """Fit a network, in place: a sigmoid for each class, AdamW, a rate that rises and falls."""
    inputs, labels, _ = data
    draw = torch.Generator().manual_seed(seed)
    steps = epochs * (len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=steps
    )
    # the fastest layout for convolutions on a CPU
    last = torch.channels_last if inputs.dim() == 4 else torch.channels_last_3d
    network.to(memory_format=last).train()
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(inputs), generator=draw)
        for part in order[: len(order) // BATCH * BATCH].view(-1, BATCH):
            loss = F.binary_cross_entropy_with_logits(
                network(inputs[part].contiguous(memory_format=last)), labels[part]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * BATCH / len(inputs)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}", file=sys.stderr, flush=True)
    network.eval()


def halve(network: nn.Module) -> dict[str, torch.Tensor]:
    """Round weights to half precision, in place, and return them."""
    halved = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(halved)
    return halved


def precision(network: nn.Module, data: Data) -> float:
    """The mean average precision."""
    logits = predict(network, data.inputs)
    return shapes.mean_average_precision(logits.numpy(), data.labels.numpy())


def found_without_objects(network: nn.Module, data: Data) -> float:
    """The share of the classes of pictures that are still found (logit above 0) in the context."""
    return float((predict(network, data.contexts) > 0)[data.labels > 0].float().mean())


@torch.no_grad()
def predict(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The logits, computed in batches."""
    return torch.cat([network(part) for part in inputs.split(BATCH)])


def untrained(name: str) -> nn.Module:
    """Build a network by its name in ``models/``, without its weights."""
    if str(MODELS) not in sys.path:
        sys.path.insert(0, str(MODELS))
    return importlib.import_module(name).untrained()


def trained(name: str, seed: int = 0) -> nn.Module:
    """Build and train a network; its weights are rounded to half precision."""
    torch.manual_seed(seed)
    network = untrained(name)
    initialize(network)
    data = load_data(name, "train", VOLUMES if name.startswith("nodules") else PICTURES, seed)
    train(network, data, EPOCHS.get(name, EPOCHS_OTHERS), seed)
    halve(network)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all of them")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training pictures")
    parser.add_argument("-o", "--output", type=Path, default=MODELS, help="default: models/")
    parser.add_argument("--test", action="store_true", help="test the weights that are there")
    given = parser.parse_args()
    unknown = set(given.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    given.output.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    for name in given.networks or NETWORKS:
        if not given.test:
            start = time.perf_counter()
            network = trained(name, given.seed)
            content = save(halve(network))
            (given.output / f"{name}.safetensors").write_bytes(content)
            seconds = time.perf_counter() - start
            print(f"{name}: {len(content) // 1000} kB in {seconds:.0f} s", flush=True)
        network = untrained(name)
        network.load_state_dict(load_file(given.output / f"{name}.safetensors"))
        for split in tests_of(name):
            data = load_data(name, split, TEST, given.seed)
            found = precision(network.eval(), data)
            without = found_without_objects(network, data)
            print(f"  {split:9} {found:.4f}  without objects {without:.1%}", flush=True)


if __name__ == "__main__":
    main()
