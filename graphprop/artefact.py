"""What is written to disk: ``explainer.py``, weights, ONNX, manifest; all of it or nothing.

Everything is written to a folder beside the target and renamed at the end. Nothing in it depends on
the time, the place, the process, or the order of a set: the same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from graphprop.checking.conservation import record_of
from graphprop.checking.runner import local_variables
from graphprop.emit import onnx as emit_onnx
from graphprop.emit.metadata import metadata_of
from graphprop.errors import EquivalenceError, OutputError
from graphprop.explainer import CompiledExplainer
from graphprop.legalise import legalise
from graphprop.lower import in_flow
from graphprop.rules.registry import BoundRule

if TYPE_CHECKING:
    from graphprop.checking.report import Report

VERSION = 1
GENERATOR = "graphprop"
MANIFEST = "manifest.json"
FILES = ("explainer.py", "weights.safetensors", "explainer.onnx", "explainer.onnx.data")


def save(
    explainer: CompiledExplainer,
    directory: str | Path,
    *,
    onnx: bool = True,
    check: bool = True,
    force: bool = False,
    samples: int = 3,
    source: str | None = None,
    source_sha256: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write an explainer, check it, and put it in place.

    Parameters
    ----------
    directory
        Where to; replaced if graphprop made it, if it is empty, or with ``force``.
    onnx
        Whether to write ``explainer.onnx``.
    check
        Whether to check that all backends agree; ``samples`` says on how many inputs.
    source, source_sha256
        Where the model comes from, such as ``"vgg16.py:vgg16"``, and the hash of that file.
    preprocessing
        How a picture becomes an input: ``size``, ``mean`` and ``std``.
    progress
        Called with what is about to be done.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    OutputError
        If the directory can't be written, or holds what graphprop did not make.
    EquivalenceError
        If the check fails, saying where; the output is then in ``<directory>.rejected``.
    """
    from graphprop.check import check_explainer

    say = progress or (lambda text: None)
    directory = Path(directory)
    refuse_foreign(directory, force)
    # a link stays, and what it leads to is replaced
    target = directory.resolve() if directory.is_symlink() else directory
    with ended_by_signal(), writing_beside(target) as fresh:
        say("write")
        write_files(explainer, fresh, onnx=onnx, preprocessing=preprocessing)
        report = None
        if check:
            report = check_explainer(explainer, samples=samples, directory=fresh, progress=say)
        details = {
            "source": {
                "name": re.split(r"[\\/]", source)[-1] if source else None,
                "sha256": source_sha256,
            },
            "preprocessing": plain(preprocessing) if preprocessing else None,
        }
        content = manifest_of(explainer, fresh, report) | details
        (fresh / MANIFEST).write_text(as_json(content), encoding="ascii")
        if report is None or report.passed:
            put_in_place(fresh, target)
            return directory
        rejected = target.with_name(f"{target.name}.rejected")
        kept = "nothing is kept: that name is taken by something that graphprop did not make"
        if is_replaceable(rejected, force):
            put_in_place(fresh, rejected)
            kept = f"the output is in {rejected}"
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
    save_file(storable(explainer.legal.stored), weights)
    # safetensors lets nobody else read what it writes
    shutil.copymode(folder / "explainer.py", weights)
    if onnx:
        network, _ = legalise(explainer.lowered, "onnx")
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


def storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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
        "relevance_shape": list(explainer.relevance_shape),
        "classes": explainer.classes,
        "output": explainer.network.output_name,
        "layers": layer_entries(explainer),
        "onnx_names": onnx_names(explainer),
        "batch_norms": dict(explainer.network.decisions),
        "notes": list(explainer.notes),
        "check": report.as_dict(timing=False) if report else None,
        "fingerprint": report.fingerprint if report else None,
        "conservation": report.conservation if report else record_of(explainer),
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
        operands = [node.args[index] for index in node.meta.get("signal", ())]
        entries.append(
            layer.as_dict()
            | {
                "value": local(generated.results.get(layer.label)),
                "relevance": named.get(""),
                "flows": {flow: name for flow, name in named.items() if flow and name},
                "signal": [n.meta["label"] if n.op == "call_function" else None for n in operands],
            }
        )
    return entries


def onnx_names(explainer: CompiledExplainer) -> dict[str, str]:
    """Variable of ``forward`` -> ONNX value, for those that aren't called alike."""
    output: Any = explainer.legal.output.args[0]
    logits, _, relevances = output
    renamed = {explainer.generated.results[logits.meta["records"]]: "logits"}
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


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Read the manifest of a compiled directory.

    Raises
    ------
    OutputError
        If there is no such directory, or graphprop did not make it.
    """
    directory = Path(directory)
    if not directory.exists():
        raise OutputError(f"there is no directory {directory}: `graphprop compile` writes one")
    if not directory.is_dir():
        raise OutputError(f"{directory} is a file: give the directory that holds explainer.py")
    file = directory / MANIFEST
    if not file.exists():
        raise OutputError(
            f"{directory} holds no {MANIFEST}: give a directory that `graphprop compile` wrote"
        )
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} can't be read ({error}): compile it again") from error
    if not isinstance(content, dict) or content.get("generator") != GENERATOR:
        raise OutputError(f"{file} was not written by graphprop: give another directory")
    if content.get("version") != VERSION:
        raise OutputError(
            f"{file} has version {content.get('version')}, and this graphprop reads version "
            f"{VERSION}: compile it again"
        )
    return content


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Putting a directory in place.


def refuse_foreign(directory: Path, force: bool) -> None:
    """Refuse to replace what graphprop did not make."""
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is a file: name a directory")
    if directory.exists() and directory.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise OutputError(f"{directory} is the folder you are in, or above it: name another one")
    if not is_replaceable(directory, force):
        raise OutputError(
            f"{directory} exists and was not made by graphprop: name another directory, or "
            "replace it by --force"
        )


def is_replaceable(directory: Path, force: bool) -> bool:
    """Whether a directory may be replaced: graphprop's own, an empty one, or none."""
    if not directory.is_dir():
        return not directory.exists()
    if force or not any(directory.iterdir()):
        return True
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
        return bool(content["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def writing_beside(directory: Path) -> Iterator[Path]:
    """A new folder to write to, beside a directory; whatever is left in it is removed."""
    parent = directory.absolute().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    above = next(folder for folder in (parent, *parent.parents) if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{directory} can't be written: {above} is a file")
    try:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".graphprop-", dir=parent) as scratch:
                fresh = Path(scratch) / "new"
                fresh.mkdir()
                yield fresh
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{directory} can't be written: {reason}") from error
    finally:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def put_in_place(fresh: Path, target: Path) -> None:
    """Rename a folder written by `writing_beside` to its name, an older one making room."""
    old = fresh.with_name("old")
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM unwind the program, as an interrupt does, unless something else handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
