"""Whether a compiled directory is as it was written, and says the same of itself everywhere.

A manifest holds a hash of every file and one of itself. What it says besides is also said by the
ONNX file's metadata and by ``explainer.py``, in other words, and must not differ.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from graphprop.artifact.write import sha256
from graphprop.checking.backends import BackendError, load_graph
from graphprop.checking.runner import local_variables
from graphprop.emit.python import comment

OWN_HASH = "sha256"
"""The manifest's field that covers the others."""


def manifest_hash(content: Mapping[str, Any]) -> str:
    """The hash of a manifest: of its JSON, sorted and without spaces, but for the hash itself."""
    rest = {key: value for key, value in content.items() if key != OWN_HASH}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def changes(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Every way in which a directory is no longer what was written, a line each."""
    return [*changed_files(directory, manifest), *contradictions(directory, manifest)]


def changed_files(directory: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The files that differ from their hashes."""
    for name, known in manifest["files"].items():
        path = directory / name
        if not path.exists():
            yield f"{name} is missing"
        elif sha256(path) != known:
            yield f"{name} was changed after it was written"
    if manifest.get(OWN_HASH) != manifest_hash(manifest):
        yield "manifest.json was changed after it was written"
    for name in ("explainer.py", "weights.safetensors"):
        if name not in manifest["files"]:
            yield f"manifest.json does not name {name}"
    for name in ("explainer.onnx", "explainer.onnx.data"):
        if name not in manifest["files"] and (directory / name).exists():
            yield f"manifest.json does not name {name}"


def contradictions(directory: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the manifest says otherwise than the files beside it."""
    yield from within(manifest)
    source = directory / "explainer.py"
    if source.exists():
        yield from against_python(source.read_bytes(), manifest)
    file = directory / "explainer.onnx"
    if file.exists() and "explainer.onnx" in manifest["files"]:
        try:
            model = load_graph(file)
        except BackendError:
            return  # the backend says so
        yield from against_onnx(model, manifest)


def within(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the manifest contradicts itself in."""
    shapes = manifest["input_shapes"]
    if not shapes or list(manifest["input_shape"]) != list(shapes[0]):
        yield "manifest.json gives two shapes of the input"
    logits = manifest.get("logits_shape")
    if logits and logits[0] != manifest["classes"]:
        yield "manifest.json gives two numbers of classes"
    labels = [entry["label"] for entry in manifest["layers"]]
    for entry in manifest["layers"]:
        for label in entry["signal"]:
            if label is not None and label not in labels:
                yield f"manifest.json: the signal of {entry['label']!r} is no layer"
    recorded = manifest.get("fingerprint") or {}
    if not set(recorded.get("result", ())) <= set(labels):
        yield "manifest.json records values of layers that it does not list"
    check = manifest.get("check")
    if bool(check) != bool(manifest.get("fingerprint")):
        yield "manifest.json holds results of a check without what was checked, or the other way"


def against_python(source: bytes, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What ``explainer.py`` says otherwise."""
    text = source.decode("ascii", "replace")
    settings = manifest["parameters"]
    # a long line is cut: what stands last in it says nothing then
    said = re.search(r"^Method (.*?) \((.*?)(\)\.|\.\.\.)$", text, re.MULTILINE)
    if said:
        if said[1] != manifest["method"]:
            yield f"manifest.json says method {manifest['method']}, and explainer.py {said[1]}"
        pairs = said[2].split(", ")
        for pair in pairs if said[3] == ")." else pairs[:-1]:
            key, _, value = pair.partition("=")
            if key in settings and plain_text(settings[key]) not in (value, None):
                yield f"manifest.json says {key}={settings[key]}, and explainer.py {value}"
    title = re.search(r'^"""Relevance propagation for (.*)$', text, re.MULTILINE)
    if title and title[0][3:] != comment(f"Relevance propagation for {manifest['model']}."):
        model = title[1].removesuffix(".")
        yield f"manifest.json says model {manifest['model']!r}, and explainer.py {model!r}"
    version = re.search(r"^Generated by graphprop ([^;]*);", text, re.MULTILINE)
    if version and version[1] != manifest["graphprop"]:
        yield f"manifest.json says graphprop {manifest['graphprop']}, explainer.py {version[1]}"
    for name, place in variables_of(manifest):
        if name not in local_variables_of(source):
            yield f"manifest.json: {place} is to be {name}, which explainer.py has not"


def plain_text(value: Any) -> str | None:
    """A parameter as ``explainer.py`` shows it; None where that depends on more than JSON holds."""
    return None if isinstance(value, dict | list) else str(value)


_VARIABLES: dict[bytes, frozenset[str]] = {}


def local_variables_of(source: bytes) -> frozenset[str]:
    """The variables of ``forward``, parsed once."""
    key = hashlib.sha256(source).digest()
    if key not in _VARIABLES:
        _VARIABLES.clear()
        try:
            _VARIABLES[key] = frozenset(local_variables(source))
        except (SyntaxError, ValueError):
            _VARIABLES[key] = frozenset()
    return _VARIABLES[key]


def variables_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The variables that a manifest says hold layers' values."""
    for entry in manifest["layers"]:
        for name in (entry["value"], entry["relevance"], *entry["flows"].values()):
            if name is not None:
                yield name, f"a value of {entry['label']!r}"
    for name in manifest["onnx_names"]:
        yield name, "a value with another name in ONNX"


def against_onnx(model: onnx.ModelProto, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What ``explainer.onnx`` says otherwise: its metadata, and the shapes of its values."""
    elsewhere = {
        "version": manifest["graphprop"],
        "weights_sha256": manifest["files"].get("weights.safetensors"),
    }
    for entry in model.metadata_props:
        key = entry.key.removeprefix("graphprop.")
        if key not in manifest.keys() | elsewhere.keys():
            continue
        known = elsewhere.get(key, manifest.get(key))
        if not same(entry.value, known):
            yield (
                f"manifest.json and the metadata of explainer.onnx differ in {key}: "
                f"{json.dumps(known)[:80]} and {entry.value[:80]}"
            )
    said = {entry.key.removeprefix("graphprop.") for entry in model.metadata_props}
    if "method" in said:
        for key in {"preprocessing", "rules", "roles"} - said:
            if manifest.get(key):
                yield f"manifest.json gives {key}, and the metadata of explainer.onnx none"
    inputs = [value for value in model.graph.input if value.name != "target"]
    shapes = [list(dims(value)[1:]) for value in inputs]
    if shapes != [list(shape) for shape in manifest["input_shapes"]]:
        yield f"manifest.json gives inputs {manifest['input_shapes']}, and explainer.onnx {shapes}"
    outputs = {value.name: dims(value)[1:] for value in model.graph.output}
    for name, key in (("logits", "logits_shape"), ("relevance", "relevance_shape")):
        wanted = manifest.get(key)
        if wanted is not None and list(outputs.get(name, ())) != list(wanted):
            found = list(outputs.get(name, ()))
            yield f"manifest.json gives {name} the shape {wanted}, and explainer.onnx {found}"
    if outputs.get("logits", (None,))[0] != manifest["classes"]:
        yield f"manifest.json gives {manifest['classes']} classes, explainer.onnx another number"
    values = {name for node in model.graph.node for name in node.output} | set(outputs)
    for name in manifest["onnx_names"].values():
        if name not in values:
            yield f"manifest.json names the value {name!r}, which explainer.onnx has not"


def dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The shape of an ONNX value."""
    return tuple(d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim)


def same(text: str, known: Any) -> bool:
    """Whether metadata, which is text, says the same as a field: as JSON, or as it stands."""
    try:
        return bool(json.loads(text) == known)
    except ValueError:
        return bool(text == known) or (known is None and text in ("", "none"))
