"""Where a captured node comes from, in the terms of the user: module, line, name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TypedDict

import torch
from torch import fx

from graphprop.frontend.user_code import is_user_file

aten = torch.ops.aten


class Origin(TypedDict):
    """The facts that say where a node comes from: see `graphprop.ir.facts.Facts`."""

    path: str
    label: str
    kind: str
    line: str | None


def origin(node: fx.Node, labels: Counter[str]) -> Origin:
    """The facts about where a captured node comes from: module path, label, kind, line."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = re.sub(r"^_orig_mod\.?|^module\.(?=.)", "", path)
    kind = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
    container = not stack or not is_leaf_module(stack[-1][1])
    operator_name = short_name(node.target).split(".")[0].strip("_")
    stem = ".".join(filter(None, (path, operator_name))) if container else path
    labels[stem] += 1
    label = stem if labels[stem] == 1 else f"{stem}#{labels[stem]}"
    return {"path": path, "label": label, "kind": kind, "line": source_line(node)}


def is_leaf_module(kind: str | type) -> bool:
    """Whether a module class is one of torch's own layers: its one operator bears its name."""
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return name.startswith("torch.nn.modules.") and ".container." not in name


def name_of(facts: Origin) -> str:
    """The name of the node with these facts."""
    label: str = facts["label"]
    return label.split("#")[0]


def source_line(node: fx.Node) -> str | None:
    """The user's line that a captured node comes from."""
    for file, line in reversed(
        re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    ):
        if is_user_file(file):
            return f"{Path(file).name}:{line}"
    return None


def short_name(target: object) -> str:
    """``aten.conv2d.default`` -> ``conv2d``."""
    name = str(target)
    if name.startswith("aten."):
        name = name.removeprefix("aten.").removesuffix(".default")
    return name


def layer_of(facts: Origin) -> str:
    """The place of a node in the user's terms."""
    line = f", line {facts['line']}" if facts["line"] else ""
    return f"layer {facts['label']!r}{line}"
