"""Train ``models/digits.py`` on scikit-learn's digits, and write its weights and a few examples.

    python tools/train_digits.py

Prints the accuracy on the held-out fifth of the digits. On one machine and one version of torch it
writes the same bytes each time; it takes half a minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

MODELS = Path(__file__).resolve().parent.parent / "models"
SEED = 0
EPOCHS = 30
BATCH = 64
"""What the weights in ``models/`` were trained with."""


class Split(NamedTuple):
    """Pictures ``[N, 1, 32, 32]`` with values in [0, 1], and labels ``[N]``."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def load_split() -> Split:
    """The digits at the network's size: four fifths to train on, one fifth held out."""
    digits = load_digits()
    pictures = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    pictures = F.interpolate(pictures, size=(24, 24), mode="bilinear", align_corners=False)
    pictures = F.pad(pictures, (4, 4, 4, 4))
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=SEED, stratify=digits.target
    )
    return Split(pictures[train], labels[train], pictures[test], labels[test])


def moved(pictures: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift each picture a little."""
    count = len(pictures)
    angle, zoom, *shift = torch.empty(4, count).uniform_(-1, 1, generator=draw)
    angle, zoom = angle * 0.2, 1 + zoom * 0.1
    rows = (
        torch.stack([angle.cos() * zoom, -angle.sin() * zoom, shift[0] * 0.12], dim=1),
        torch.stack([angle.sin() * zoom, angle.cos() * zoom, shift[1] * 0.12], dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def train(network: nn.Module, split: Split) -> None:
    """Fit the network to the training digits, in place."""
    draw = torch.Generator().manual_seed(SEED)
    steps = EPOCHS * (len(split.train) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(split.train), generator=draw)
        for part in order[: len(order) // BATCH * BATCH].view(-1, BATCH):
            logits = network(moved(split.train[part], draw))
            loss = F.cross_entropy(logits, split.train_labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item():.3f}", file=sys.stderr)
    network.eval()


def accuracy(network: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of pictures that the network reads rightly."""
    with torch.no_grad():
        return (network(pictures).argmax(1) == labels).float().mean().item()


def write_examples(split: Split, folder: Path) -> None:
    """Write the first held-out picture of each digit as a grayscale PNG."""
    folder.mkdir(exist_ok=True)
    for digit in range(10):
        first = int((split.test_labels == digit).nonzero()[0])
        pixels = (split.test[first, 0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{digit}.png")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--output", type=Path, default=MODELS, help="default: models/")
    output = arguments.parse_args().output
    sys.path.insert(0, str(MODELS))
    from digits import DigitsNet

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    split = load_split()
    network = DigitsNet()
    train(network, split)
    (output / "digits.safetensors").write_bytes(save(network.state_dict()))
    write_examples(split, output / "digits_examples")
    wrong = round((1 - accuracy(network, split.test, split.test_labels)) * len(split.test))
    print(f"held out: {1 - wrong / len(split.test):.2%} ({wrong} of {len(split.test)} wrong)")


if __name__ == "__main__":
    main()
