"""Write the golden files: printed networks and generated modules of a few small models.

    python tools/golden.py

For each model and method, ``tests/golden`` holds the network as it is printed at three levels, the
generated module, and the nodes of the ONNX model. A change of the compiler shows there as a diff,
to be read before it is committed. ``tests/test_golden.py`` compares.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir
import torch
from torch import nn

import graphprop
from graphprop.emit.onnx import to_onnx
from graphprop.ir.show import show

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
METHODS = ("epsilon_plus_flat", "epsilon_alpha2_beta1_flat")
MORE_METHODS = {"residual": ("rap", "rap-bn", "hedge"), "chain": ("rap", "smoothgrad")}
REFRESH = "python tools/golden.py"


class Residual(nn.Module):
    """A residual block with a strided projection, between a convolution and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.conv1 = nn.Conv2d(4, 8, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(4, 8, kernel_size=1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.project(x)
        return self.head(self.relu(y).mean((2, 3)))


class Gated(nn.Module):
    """Two branches, one of them gated by squeeze and excitation, and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, kernel_size=1)
        self.wide = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.squeeze = nn.Conv2d(4, 2, kernel_size=1)
        self.excite = nn.Conv2d(2, 4, kernel_size=1)
        self.mix = nn.Conv2d(8, 6, kernel_size=3)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.wide(x))
        gate = torch.relu(self.squeeze(nn.functional.adaptive_avg_pool2d(wide, 1)))
        wide = wide * torch.sigmoid(self.excite(gate))
        both = torch.cat([torch.relu(self.plain(x)), wide], dim=1)
        mixed = nn.functional.avg_pool2d(torch.relu(self.mix(both)), 3)
        return self.head(mixed.flatten(1))


def chain() -> nn.Module:
    """Convolution, batch norm, rectifier and max pool, twice; then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 4, kernel_size=3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "residual": Residual,
    "gated": Gated,
}


def golden_texts() -> dict[str, str]:
    """Compile every model by every method; the text that each golden file should hold."""
    return {name: text for model in MODELS for name, text in texts_of(model).items()}


def methods_of(name: str) -> tuple[str, ...]:
    """The methods that a model is compiled by."""
    return METHODS + MORE_METHODS.get(name, ())


def onnx_text(model: onnx_ir.Model) -> str:
    """An ONNX model as text: inputs, tensors, a node a line, outputs."""
    graph = model.graph
    lines = [f"input {value.name}: {shown(value)}" for value in graph.inputs]
    for value in graph.initializers.values():
        tensor = value.const_value
        content = f" = {tensor.numpy().tolist()}" if is_ours(str(value.name), tensor) else ""
        lines.append(f"tensor {value.name}: {shown(value)}{content}")
    lines += lines_of(graph)
    return "\n".join([*lines, *(f"output {v.name}: {shown(v)}" for v in graph.outputs)]) + "\n"


def is_ours(name: str, tensor: onnx_ir.TensorProtocol) -> bool:
    """Whether a tensor is a small constant of the compiler's, not a weight."""
    return name.startswith("constant") and tensor.size <= 4


def lines_of(graph: onnx_ir.Graph, indent: str = "") -> list[str]:
    """The nodes of a graph, those of a loop's body further in."""
    lines = []
    for node in graph:
        inputs = ", ".join("" if value is None else str(value.name) for value in node.inputs)
        plain = {k: a.value for k, a in node.attributes.items() if a.type.name != "GRAPH"}
        options = ", ".join(f"{k}={text_of_attribute(v)}" for k, v in plain.items())
        outputs = ", ".join(str(value.name) for value in node.outputs)
        name = f"  # {node.name}"
        lines.append(
            f"{indent}{outputs} = {node.op_type}({inputs}){f' {options}' if options else ''}{name}"
        )
        for attribute in node.attributes.values():
            if attribute.type.name == "GRAPH":
                lines += lines_of(attribute.value, indent + "    ")
    return lines


def text_of_attribute(value: object) -> str:
    """An attribute; a tensor by its entries."""
    return str(value.numpy().tolist()) if isinstance(value, onnx_ir.TensorProtocol) else str(value)


def shown(value: onnx_ir.Value) -> str:
    """A value's type and shape."""
    return f"{value.dtype.name.lower()}[{', '.join(map(str, value.shape))}]"


def texts_of(name: str) -> dict[str, str]:
    """The golden files of one model: file name -> text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]().eval()
    found = {}
    for method in methods_of(name):
        explainer = graphprop.compile(model, torch.zeros(2, 3, 8, 8), method, name=name)
        stem = f"{name}.{method}"
        networks = {
            "annotated": explainer.network,
            "lowered": explainer.lowered,
            "torch": explainer.legal,
        }
        for level, network in networks.items():
            found[f"{stem}.{level}.txt"] = show(network)
        found[f"{stem}.onnx.txt"] = onnx_text(to_onnx(explainer.compiled.legal_onnx))
        # not .py: neither ours to format nor to lint
        found[f"{stem}.explainer.txt"] = explainer.source
    return found


def differences(wanted: Mapping[str, str], folder: Path = FOLDER) -> dict[str, str]:
    """Compare texts with the files of a folder: file name -> unified diff."""
    present = {path.name: path.read_text("utf-8") for path in folder.glob("*.txt")}
    found = {}
    for name in sorted(present.keys() | wanted.keys()):
        before, after = (text.get(name, "").splitlines() for text in (present, wanted))
        diff = difflib.unified_diff(before, after, f"golden/{name}", "compiled now", lineterm="")
        if lines := list(diff):
            found[name] = "\n".join(lines)
    return found


def refresh(wanted: Mapping[str, str], folder: Path = FOLDER) -> list[str]:
    """Let the files of a folder hold exactly these texts; the names of those that changed."""
    changed = list(differences(wanted, folder))
    folder.mkdir(exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], "utf-8", newline="\n")
        else:
            (folder / name).unlink()
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    wanted = golden_texts()
    changed = refresh(wanted)
    for name in changed:
        print(f"{'written' if name in wanted else 'removed'}: tests/golden/{name}")
    print(f"{len(changed)} of {len(wanted)} golden files changed")


if __name__ == "__main__":
    main()
