"""What is written to disk: ``explainer.py``, weights, ONNX, manifest; all of it or nothing.

Everything is written to a folder beside the target and renamed at the end. Nothing in it depends on
the time, the place, the process, or the order of a set: the same input gives the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from graphprop.artifact.atomic import (
    ended_by_signal,
    put_in_place,
    refuse_foreign,
    rejected_beside,
    writing_beside,
)
from graphprop.artifact.manifest import (
    FILES,
    GENERATOR,
    MANIFEST,
    VERSION,
    complaint_about,
    read_manifest,
    sha256,
)
from graphprop.checking.conservation import record_of
from graphprop.checking.runner import local_variables
from graphprop.emit import onnx as emit_onnx
from graphprop.emit.metadata import metadata_of
from graphprop.errors import EquivalenceError, OutputError
from graphprop.explainer import CompiledExplainer
from graphprop.ir.facts import facts_of, shape_of
from graphprop.lowering.legalize import legalize
from graphprop.lowering.lower import in_flow
from graphprop.rules.registry import BoundRule

if TYPE_CHECKING:
    from graphprop.checking.report import Report

__all__ = ["read_manifest", "save", "sha256", "write_files"]


def save(
    explainer: CompiledExplainer,
    directory: str | Path,
    *,
    onnx: bool = True,
    check: bool = True,
    force: bool = False,
    samples: int | None = None,
    source: str | None = None,
    source_sha256: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    keep: Iterable[str | Path] = (),
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write an explainer, check it, and put it in place.

    Parameters
    ----------
    directory
        Where to; replaced if it is empty, or holds nothing but what graphprop wrote there.
    onnx
        Whether to write ``explainer.onnx``.
    check
        Whether to check that all backends agree; ``samples`` says on how many inputs of noise.
    force
        Replace what graphprop wrote, even where it was changed since or where other files lie
        beside it; those stay.
    source, source_sha256
        Where the model comes from, such as ``"vgg16.py:vgg16"``, and the hash of that file.
    preprocessing
        How a picture becomes an input: ``size``, ``mean`` and ``std``.
    keep
        Files that the directory must not hold: the model's, its weights.
    progress
        Called with what is about to be done.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    OutputError
        If the directory can't be written, or holds what graphprop did not write.
    EquivalenceError
        If the check fails, saying where; the output is then in ``<directory>.rejected``.
    """
    from graphprop.checking.check import check_explainer
    from graphprop.checking.files import OWN_HASH, manifest_hash

    say = progress or (lambda text: None)
    directory = Path(directory)
    refuse_foreign(directory, force, keep=map(Path, keep))
    # a link stays, and what it leads to is replaced
    target = directory.resolve() if directory.is_symlink() else directory
    with ended_by_signal(), writing_beside(target) as fresh:
        say("write")
        write_files(explainer, fresh, onnx=onnx, preprocessing=preprocessing)
        report = None
        if check:
            report = check_explainer(
                explainer,
                samples=samples,
                directory=fresh,
                preprocessing=plain(preprocessing) if preprocessing else None,
                progress=say,
            )
        details = {
            "source": {
                "name": re.split(r"[\\/]", source)[-1] if source else None,
                "sha256": source_sha256,
            },
            "preprocessing": plain(preprocessing) if preprocessing else None,
        }
        content = manifest_of(explainer, fresh, report) | details
        content = json.loads(as_json(content))
        complaint = complaint_about(content)
        if complaint:
            raise OutputError(f"the manifest would say something impossible: {complaint}")
        content[OWN_HASH] = manifest_hash(content)
        (fresh / MANIFEST).write_text(as_json(content), encoding="ascii")
        if report is None or report.passed:
            put_in_place(fresh, target)
            return directory
        rejected = rejected_beside(target)
        try:
            refuse_foreign(rejected, force)
            put_in_place(fresh, rejected)
            kept = f"the output is in {rejected}"
        except OutputError as error:
            kept = f"nothing is kept: {error}"
    raise EquivalenceError(f"the check failed. {report.complaint()} ({kept})")


def write_files(
    explainer: CompiledExplainer,
    folder: Path,
    *,
    onnx: bool,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write the generated module, its weights, and ONNX; not the manifest."""
    (folder / "explainer.py").write_bytes(explainer.source.encode("ascii"))
    weights = folder / "weights.safetensors"
    try:
        save_file(contiguous(explainer.legal.stored), weights)
    except SafetensorError as error:
        said = re.search(r"os error (\d+)", str(error))  # a full disk among others
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
    # safetensors lets nobody else read what it writes
    shutil.copymode(folder / "explainer.py", weights)
    if onnx:
        network, _ = legalize(explainer.lowered, "onnx")
        metadata = metadata_of(
            method=explainer.method.name,
            parameters=plain(explainer.settings),
            rules=plain(explainer.rules),
            roles=plain(explainer.roles),
            classes=explainer.classes,
            class_names=explainer.class_names,
            preprocessing=plain(preprocessing),
            weights_sha256=sha256(weights),
        )
        model = emit_onnx.to_onnx(network, explainer.recorded_nodes(network), metadata)
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


def manifest_of(explainer: CompiledExplainer, folder: Path, report: Report | None) -> Any:
    """What the manifest says of an explainer whose files lie in a folder."""
    from graphprop import __version__

    return {
        "generator": GENERATOR,
        "version": VERSION,
        "graphprop": __version__,
        "torch": str(torch.__version__),
        "model": explainer.name,
        "method": explainer.method.name,
        "parameters": plain(explainer.settings),
        "rules": plain(explainer.rules),
        "roles": plain(explainer.roles),
        "input_shape": list(explainer.input_shape),
        "input_shapes": [list(shape) for shape in explainer.input_shapes],
        "logits_shape": list(shape_of(explainer.network.output.args[0])[1:]),
        "relevance_shape": list(explainer.relevance_shape),
        "classes": explainer.classes,
        "output": explainer.network.output_name,
        "layers": layer_entries(explainer),
        "onnx_names": onnx_names(explainer),
        "batch_norms": dict(explainer.network.decisions),
        "notes": list(explainer.notes),
        "check": None if report is None else report.as_dict(timing=False),
        "fingerprint": None if report is None else report.fingerprint,
        "conservation": record_of(explainer) if report is None else report.conservation,
        "files": {name: sha256(folder / name) for name in FILES if (folder / name).exists()},
    }


def layer_entries(explainer: CompiledExplainer) -> list[dict[str, Any]]:
    """The facts about each layer, and which variables of ``forward`` hold its values.

    ``flows`` has those of relevance where a method has several flows; ``signal`` are the labels of
    the layers that the rule sends relevance to, None for the input.
    """
    variables = set(local_variables(explainer.source))
    generated = explainer.generated

    def local(name: str | None) -> str | None:
        return name if name in variables else None

    entries = []
    for node, layer in zip(explainer.network.layers, explainer.layers, strict=True):
        named = {
            flow: local(generated.relevances.get(in_flow(layer.label, flow)))
            for flow in explainer.method.flow_names
        }
        operands = [node.args[index] for index in facts_of(node).signal]
        entries.append(
            layer.as_dict()
            | {
                "value": local(generated.results.get(layer.label)),
                "relevance": named.get(""),
                "flows": {flow: name for flow, name in named.items() if flow and name},
                "signal": [
                    facts_of(n).label if n.op == "call_function" else None for n in operands
                ],
            }
        )
    return entries


def onnx_names(explainer: CompiledExplainer) -> dict[str, str]:
    """Variable of ``forward`` -> ONNX value, for those that aren't called alike."""
    output: Any = explainer.legal.output.args[0]
    logits, _, relevances = output
    label = facts_of(logits).records
    assert label is not None
    renamed = {explainer.generated.results[label]: "logits"}
    recorded = explainer.recorded_nodes(explainer.legal)
    for name, node in emit_onnx.named_outputs(explainer.legal, recorded).items():
        labels = [label for label, other in relevances.items() if other is node]
        if labels and name != "logits":
            renamed[explainer.generated.relevances[labels[0]]] = name
    return {name: other for name, other in renamed.items() if name != other}


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


def as_json(content: Any) -> str:
    """JSON with sorted keys, lists of numbers on one line."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    return re.sub(r"\[\n[-+\d.e,\s]*\]", lambda m: " ".join(m[0].split()), text) + "\n"
