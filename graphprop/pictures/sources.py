"""What explains: compiled directories, and explainers of this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprop.artifact.engines import Engine, engine_of
from graphprop.artifact.manifest import read_manifest
from graphprop.errors import InputError, OutputError, kind_of
from graphprop.frontend.preprocessing import changed, recorded, takes_pictures
from graphprop.module import ExplainerModule
from graphprop.pictures.preprocessing import Preprocessing


@dataclass(frozen=True)
class Source:
    """What explains, and what is known of it.

    Attributes
    ----------
    name
        What its maps are called: the method, where that tells it from the others.
    facts
        What its manifest says; of an explainer of this process, the same.
    given
        The directory, or the explainer.
    class_names
        Class to name, where they are known.
    """

    name: str
    facts: Mapping[str, Any]
    given: Any = field(repr=False)
    class_names: dict[int, str] | None = field(default=None, repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes its input."""
        return Preprocessing.of_arrays(self.facts)

    @property
    def prepared(self) -> str:
        """The same on one line, for the metadata of drawings; empty where there are no pictures."""
        shapes = self.facts["input_shapes"]
        return self.preprocessing.describe() if takes_pictures(shapes) else ""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return str(self.given) if isinstance(self.given, Path) else self.name


def sources_of(
    given: Any, *, preprocessing: Any = None, names: Sequence[str] | None = None
) -> list[Source]:
    """Open explainers, without running code of directories.

    Parameters
    ----------
    given
        A directory, a `CompiledExplainer`, or several in a list or in a dict by name.
    preprocessing
        In place of the recorded one: what `graphprop.frontend.preprocessing.recorded` takes, or a
        function of what is recorded that returns it.
    names
        The names of all classes, in place of the recorded ones.

    Raises
    ------
    InputError
        If something is no explainer, or its maps can't be drawn.
    OutputError
        If a directory isn't one of graphprop's, or failed its check.
    """
    if isinstance(given, list | tuple) and given and all(isinstance(g, Source) for g in given):
        return list(given)
    labels: list[str] | None = None
    if isinstance(given, Mapping):
        labels, given = [str(name) for name in given], list(given.values())
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if not parts:
        raise InputError(
            "there is no explainer: give a compiled directory, or what compile returns"
        )
    facts = [facts_of(part) for part in parts]
    parts = [Path(part) if isinstance(part, str | Path) else part for part in parts]
    for part, one in zip(parts, facts, strict=True):
        refuse_undrawable(part, one)
    labels = labels or labels_of(parts, facts)
    return [
        Source(
            label,
            with_preprocessing(one, preprocessing),
            part,
            names_of(one, names),
        )
        for label, one, part in zip(labels, facts, parts, strict=True)
    ]


def facts_of(given: Any) -> dict[str, Any]:
    """What a manifest says, or would say, of an explainer."""
    if isinstance(given, str | Path):
        manifest = read_manifest(given)
        refuse_rejected(Path(given), manifest)
        return manifest
    if not isinstance(given, ExplainerModule):
        raise InputError(
            f"an explainer is a compiled directory, or what graphprop.compile returns, not "
            f"{kind_of(given)}"
        )
    compiled = given.compiled
    return {
        "model": compiled.name,
        "method": compiled.method.name,
        "input_shape": list(compiled.input_shapes[0]),
        "input_shapes": [list(shape) for shape in compiled.input_shapes],
        "logits_shape": list(compiled.logits_shape),
        "relevance_shape": list(compiled.relevance_shape),
        "classes": compiled.classes,
        "class_names": compiled.class_names,
        "preprocessing": compiled.preprocessing,
        "check": None,
    }


def refuse_rejected(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a directory that failed its check when it was compiled: its maps are wrong."""
    if manifest["check"] and not manifest["check"]["passed"]:
        raise OutputError(
            f"{directory} failed its check when it was compiled, so that its maps are wrong: "
            f"`graphprop check {directory}` says where; explain with a directory that passed"
        )


def refuse_undrawable(given: Any, facts: Mapping[str, Any]) -> None:
    """Refuse an explainer whose maps are no pictures."""
    if len(facts["relevance_shape"]) not in (3, 4):
        raise InputError(
            f"the explainer's maps have the shape {tuple(facts['relevance_shape'])}, and one "
            "that can be drawn has (C, H, W) or (C, D, H, W): call load() of its explainer.py from "
            "Python instead"
        )


def labels_of(parts: Sequence[Any], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each: the method where they differ, else the folder; numbered where that fails."""
    methods = [str(one["method"]) for one in facts]
    if len(set(methods)) == len(methods):
        return methods
    names = [
        part.resolve().name if isinstance(part, Path) else method
        for part, method in zip(parts, methods, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [str(p) if isinstance(p, Path) else n for p, n in zip(parts, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names


def with_preprocessing(facts: dict[str, Any], preprocessing: Any) -> dict[str, Any]:
    """What is known, with another preprocessing."""
    if preprocessing is None:
        return facts
    shape = facts["input_shape"]
    if callable(preprocessing) and getattr(preprocessing, "of_recorded", False):
        said = preprocessing(facts["preprocessing"], shape)
    else:
        said = recorded(preprocessing, shape)
    return {**facts, "preprocessing": said}


def otherwise(given: Any, single: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What options say of preprocessing, for `sources_of`: all of it, or parts of the recorded."""
    if given is None and not single:
        return None

    def said(known: Any, shape: Sequence[int]) -> Any:
        return changed(known if given is None else given, single, shape)

    said.of_recorded = True  # type: ignore[attr-defined]
    return said


def names_of(facts: Mapping[str, Any], names: Sequence[str] | None) -> dict[int, str] | None:
    """Class to name."""
    known = facts.get("class_names") if names is None else names
    if known is None:
        return None
    if len(known) != facts["classes"]:
        raise InputError(f"there are {len(known)} names for {facts['classes']} classes")
    return dict(enumerate(str(name) for name in known))


def read_names(file: Path) -> list[str]:
    """The names of classes: of a JSON list, or a line each.

    Raises
    ------
    InputError
        If the file can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"the names of classes can't be read from {file}: {reason}") from error
    if text.lstrip().startswith("["):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} can't be read as JSON ({error})") from error
        if not all(isinstance(name, str) for name in content):
            raise InputError(f"{file} holds a list, but not of names")
        return list(content)
    return [line.strip() for line in text.rstrip("\n").split("\n")]


def engine_for(source: Source, backend: str) -> Engine:
    """What computes: a directory's code or its ONNX file, or a module of this process."""
    if isinstance(source.given, Path):
        return engine_of(source.given, source.facts, backend)
    if backend != "python":
        raise InputError(
            f"the backend {backend!r} is of compiled directories: save the explainer, and give its "
            "directory"
        )
    return module_engine(source.given)


def module_engine(explainer: ExplainerModule) -> Engine:
    """Explain by a module of this process, on its device."""
    weight = next(explainer.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    dtype = explainer.input_types[0]

    def run(x: torch.Tensor, target: Any) -> Any:
        chosen = target
        if isinstance(target, int):
            chosen = torch.tensor([target], device=device)
        elif isinstance(target, torch.Tensor):
            chosen = target.to(device)
        with torch.no_grad():
            logits, relevance = explainer(x.to(device, dtype), target=chosen)
        # numpy has no bfloat16
        return tuple(
            part.detach().cpu().to(torch.promote_types(part.dtype, torch.float32)).numpy()
            for part in (logits, relevance)
        )

    return run
