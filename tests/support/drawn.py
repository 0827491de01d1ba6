"""Networks as a manifest lists their layers, to draw them without compiling one."""

import random

from graphprop.drawing import Graph, graph_of


def layer(label, *operands, shape=(4, 8, 8), signal=None, rule="pass", role="", **rest):
    """A layer as a manifest lists it; relevance flows to all operands by default."""
    signal = operands if signal is None else signal
    return {
        "label": label,
        "operator": "conv" if role else "add",
        "shape": list(shape),
        "places": list(shape[1:]),
        "operands": list(operands),
        "signal": [one if isinstance(one, str) else None for one in signal],
        "rule": rule,
        "role": role,
        "roles": [role] if role else [],
        **rest,
    }


def chain(length=6):
    return graph_of(
        "chain",
        [(3, 8, 8)],
        [layer(f"l{i}", f"l{i - 1}" if i else 0, role="conv_stack") for i in range(length)],
        {},
    )


def residual(blocks=3):
    layers, before = [], 0
    for i in range(blocks):
        layers += [
            layer(f"{i}.conv1", before, role="conv_stack", shape=(4, 64 >> i, 64 >> i)),
            layer(f"{i}.relu", f"{i}.conv1", shape=(4, 64 >> i, 64 >> i)),
            layer(f"{i}.conv2", f"{i}.relu", role="conv_stack", shape=(4, 64 >> i, 64 >> i)),
            layer(f"{i}.add", f"{i}.conv2", before, shape=(4, 64 >> i, 64 >> i)),
        ]
        before = f"{i}.add"
    return graph_of("residual", [(4, 64, 64)], layers, {"bn": "merged into 0.conv1"})


def gated():
    gate = {"rule": None, "signal": ()}
    return graph_of(
        "gated",
        [(3, 8, 8)],
        [
            layer("conv", 0, role="input"),
            layer("pool", "conv", shape=(4, 1, 1), **gate),
            layer("fc", "pool", shape=(2, 1, 1), role="gate", **gate),
            layer("sigmoid", "fc", shape=(2, 1, 1), **gate),
            layer("mul", "conv", "sigmoid", signal=("conv",)),
            layer("out", "mul", role="logits", shape=(10,)),
        ],
        {},
    )


def dense(length=9):
    layers, seen = [], [0]
    for i in range(length):
        layers.append(layer(f"cat{i}", *seen))
        layers.append(layer(f"conv{i}", f"cat{i}", role="conv_stack", shape=(2, 8, 8)))
        seen.append(f"conv{i}")
    return graph_of("dense", [(3, 8, 8)], [*layers, layer("end", *seen)], {})


def two_inputs():
    return graph_of(
        "two",
        [(3, 8, 8), (1, 8, 8)],
        [
            layer("a", 0, role="input"),
            layer("b", 1, role="input"),
            layer("c", "b", role="conv_stack"),
            layer("sum", "a", "c", 0),
        ],
        {},
    )


def random_graph(seed: int) -> Graph:
    """Any network: each layer reads some before it, near ones rather than far ones."""
    draw = random.Random(seed)
    layers = []
    inputs = draw.choice((1, 1, 1, 2))
    for i in range(draw.randint(1, 40)):
        known = [*range(inputs), *(one["label"] for one in layers)]
        window = known[-draw.choice((1, 1, 2, 6, 40)) :]
        operands = draw.sample(window, min(len(window), draw.choice((1, 1, 1, 2, 3, 5))))
        shape = draw.choice(((4, 8, 8), (4, 8, 8), (4, 4, 4), (10,)))
        role = draw.choice(("", "conv_stack", "shortcut"))
        gate = draw.random() < 0.1
        signal = () if gate else draw.sample(operands, draw.randint(1, len(operands)))
        layers.append(
            layer(
                f"layer{i}",
                *operands,
                shape=shape,
                role=role,
                signal=signal,
                rule=None if gate else "pass",
            )
        )
    return graph_of(f"random {seed}", [(3, 8, 8)] * inputs, layers, {})


NETWORKS = {
    "chain": chain(),
    "long chain": chain(60),
    "residual": residual(),
    "gated": gated(),
    "dense": dense(),
    "two inputs": two_inputs(),
}
