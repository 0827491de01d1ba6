"""What is written to disk: ``explainer.py``, the weights, ONNX, and the manifest.

Nothing in it depends on the time, the place, the process, or the order of a set: the same input
gives the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from graphprop.artifact.manifest import (
    FILES,
    GENERATOR,
    MANIFEST,
    OWN_HASH,
    VERSION,
    as_json,
    manifest_hash,
    sha256,
)
from graphprop.artifact.schema import Json, complaint_about
from graphprop.emit import onnx as emit_onnx
from graphprop.emit.metadata import metadata_of
from graphprop.errors import OutputError
from graphprop.explainer import Compiled
from graphprop.ir.facts import facts_of
from graphprop.lowering import in_flow
from graphprop.rules.registry import BoundRule
from graphprop.version import __version__

DISTRIBUTIONS = (
    "networkx",  # roles and layers are found in its graphs
    "numpy",  # entries of ONNX constants
    "onnx",
    "onnx-ir",
    "onnxruntime",  # the errors of its results
    "ruff",  # formats the source
    "safetensors",
    "torch",
)
"""What the bytes of a directory depend on, apart from graphprop and Python."""

MOST_ENTRIES = 64
"""Entries of a tensor up to which a parameter is recorded as numbers: bounds of an input have one
for each channel, an array of the size of an input would fill the manifest."""


def write_files(
    compiled: Compiled,
    folder: Path,
    *,
    onnx: bool,
    preprocessing: Json | None = None,
) -> None:
    """Write the generated module, its weights, and ONNX; not the manifest.

    ``preprocessing`` is such as JSON can hold.
    """
    (folder / "explainer.py").write_bytes(compiled.source.encode("ascii"))
    weights = folder / "weights.safetensors"
    try:
        save_file(contiguous(compiled.legal.stored), weights)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # a full disk among others
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    # safetensors creates files that only their owner can read
    shutil.copymode(folder / "explainer.py", weights)
    if onnx:
        network = compiled.legal_onnx
        metadata = metadata_of(
            method=compiled.method.name,
            parameters=plain(compiled.settings),
            rules=plain(compiled.rules),
            roles=plain(compiled.roles),
            classes=compiled.classes,
            class_names=compiled.class_names,
            preprocessing=preprocessing,
            weights_sha256=sha256(weights),
        )
        model = emit_onnx.to_onnx(network, compiled.recorded_nodes(network), metadata)
        emit_onnx.save(model, folder / "explainer.onnx")


def contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as a weight file takes them: contiguous, none sharing memory with another."""
    seen: set[int] = set()
    found: dict[str, torch.Tensor] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


# The manifest.


def manifest_of(
    compiled: Compiled,
    folder: Path,
    *,
    check: Json | None,
    fingerprint: Json | None,
    conservation: Json | None,
    source: str | None = None,
    source_sha256: str | None = None,
    preprocessing: Json | None = None,
) -> dict[str, Any]:
    """What the manifest records of an explainer whose files lie in a folder.

    Parameters
    ----------
    check, fingerprint, conservation
        What a check found; without one, ``conservation`` is what is known before.
    source, source_sha256
        The name of the model's file, and its hash.
    preprocessing
        How a picture becomes an input: ``size``, ``mean`` and ``std``, such as JSON can hold.
    """
    fitted = {} if compiled.fitted is None else {"fit": asdict(compiled.fitted)}
    names = {} if compiled.class_names is None else {"class_names": list(compiled.class_names)}
    return {
        **fitted,
        **names,
        "generator": GENERATOR,
        "version": VERSION,
        "graphprop": __version__,
        "torch": str(torch.__version__),
        "versions": versions(),
        "model": compiled.name,
        "method": compiled.method.name,
        "parameters": plain(compiled.settings),
        "rules": plain(compiled.rules),
        "roles": plain(compiled.roles),
        "input_shape": list(compiled.input_shapes[0]),
        "input_shapes": [list(shape) for shape in compiled.input_shapes],
        "logits_shape": list(compiled.logits_shape),
        "relevance_shape": list(compiled.relevance_shape),
        "classes": compiled.classes,
        "output": compiled.network.output_name,
        "layers": layer_entries(compiled),
        "onnx_names": onnx_names(compiled),
        "batch_norms": dict(compiled.network.decisions),
        "notes": list(compiled.notes),
        "check": check,
        "fingerprint": fingerprint,
        "conservation": conservation,
        "files": {name: sha256(folder / name) for name in FILES if (folder / name).exists()},
        "source": {"name": source, "sha256": source_sha256},
        "preprocessing": preprocessing,
    }


def versions() -> dict[str, str]:
    """The versions of everything that shapes the bytes of a directory."""
    own = {"graphprop": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in DISTRIBUTIONS}


def write_manifest(content: Json, folder: Path) -> dict[str, Any]:
    """Write a manifest with its own hash; returns what it holds.

    Raises
    ------
    OutputError
        If `read_manifest` would refuse it.
    """
    written: dict[str, Any] = json.loads(as_json(content))
    complaint = complaint_about(written)
    if complaint:
        raise OutputError(f"the manifest would say something impossible: {complaint}")
    written[OWN_HASH] = manifest_hash(written)
    (folder / MANIFEST).write_text(as_json(written), encoding="ascii")
    return written


def layer_entries(compiled: Compiled) -> list[dict[str, Any]]:
    """The facts about each layer, and which variables of ``forward`` hold its values.

    ``flows`` has those of relevance where a method has several flows.
    """
    generated = compiled.generated
    variables = {*generated.variables, *generated.places.values()}

    def local(name: str | None) -> str | None:
        return name if name in variables else None

    entries = []
    for layer in compiled.layers:
        named = {
            flow: local(generated.relevances.get(in_flow(layer.label, flow)))
            for flow in compiled.method.flow_names
        }
        entries.append(
            layer.as_dict()
            | {
                "value": local(generated.results.get(layer.label)),
                "relevance": named.get(""),
                "flows": {flow: name for flow, name in named.items() if flow and name},
            }
        )
    return entries


def onnx_names(compiled: Compiled) -> dict[str, str]:
    """Variable of ``forward``, or of a function it calls -> ONNX value, where the names differ."""
    logits, _, relevances = compiled.legal.output.args[0]
    label = facts_of(logits).records
    assert label is not None
    known = {node.name for node in compiled.legal_onnx.layers}
    places = compiled.generated.places
    renamed = {place: name for name, place in places.items() if "." in place and name in known}
    renamed[compiled.generated.results[label]] = "logits"
    recorded = compiled.recorded_nodes(compiled.legal)
    for name, node in emit_onnx.named_outputs(compiled.legal, recorded).items():
        labels = [label for label, other in relevances.items() if other is node]
        if labels and name != "logits":
            renamed[compiled.generated.relevances[labels[0]]] = name
    variables = {*compiled.generated.variables, *places.values()}
    return {n: other for n, other in renamed.items() if n != other and n in variables}


def plain(value: Any) -> Any:
    """A parameter as JSON can hold it, the same in every process."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        small = value.numel() <= 64
        return plain(value.tolist()) if small else {"tensor": list(value.shape)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # what has no text of its own would show its address
    return str(value) if isinstance(value, BoundRule) else type(value).__name__
