"""Networks, maps and pictures that several tests of the evaluation use."""

import numpy as np
import torch

from graphprop.evaluation.sample import Sample, logits_of


class Linear:
    """A linear network on pictures, explained by input times weight."""

    def __init__(self, weight):
        self.weight = weight  # [classes, C, H, W]
        self.calls = 0

    def logits(self, x):
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def __call__(self, x, target):
        self.calls += 1
        return self.logits(x), x * self.weight[target]


class Weighted(Linear):
    """The same with a state."""

    def state_dict(self):
        return {"fc.weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["fc.weight"]


class Fixed:
    """Logits of a linear network, and one and the same map."""

    def __init__(self, values, weight=None, classes=3):
        self.map = torch.as_tensor(np.asarray(values, dtype=np.float64))
        shape = (classes, 1, *self.map.shape)
        self.weight = torch.zeros(shape) if weight is None else weight

    def logits(self, x):
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def __call__(self, x, target):
        return self.logits(x), self.map.expand(len(x), 1, *self.map.shape)


def mask_of(rows):
    """A mask of text, ``#`` being the object."""
    return np.array([[letter == "#" for letter in row] for row in rows.split()])


def sample(values, mask=None, *, image=None, explainer=None, target=0, labels=(), seed=0, index=0):
    """A sample with a map given as a list of rows."""
    values = np.asarray(values, dtype=np.float64)
    if image is None:
        image = torch.ones(1, *values.shape)
    explainer = explainer or Fixed(values)
    logits = logits_of(explainer, image[None], target)[0]
    mask = mask_of(mask) if isinstance(mask, str) else mask
    return Sample(
        image,
        target,
        mask,
        frozenset(labels) | {target},
        values,
        logits,
        index,
        explainer,
        seed,
    )


def scenes(count=6, *, size=32, classes=3, seed=0):
    """Pictures with a bright square each, on a network that looks for its class by its channel."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        target = number % classes
        image = torch.from_numpy(random.random((classes, size, size))).float() * 0.05
        mask = np.zeros((size, size), dtype=bool)
        top, left = random.integers(0, size - 9, 2)
        mask[top : top + 9, left : left + 9] = True
        image[target][torch.from_numpy(mask)] += 1.0
        found.append((image, target, mask))
    return found


def channel_network(size=32, classes=3):
    """The class of the brightest channel."""
    weight = torch.zeros(classes, classes, size, size)
    for number in range(classes):
        weight[number, number] = 1.0
    return Weighted(weight)
