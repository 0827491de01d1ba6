"""Explain pictures with compiled explainers, without compiling anything.

The ``explainer.py`` of a compiled directory is code, and is run; with the backend ``onnxruntime``
no code is. The manifest says how a picture becomes an input. `explain` computes, and what it
returns draws and writes; `explain_images` does all of it, as the command does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graphprop.artifact.conservation import of_map
from graphprop.artifact.engines import Engine, largest
from graphprop.errors import InputError, OutputError, nearest
from graphprop.frontend.preprocessing import UNKNOWN
from graphprop.pictures.drawing import figure_of, set_limits
from graphprop.pictures.explanation import Explanation
from graphprop.pictures.given import Given, gathered
from graphprop.pictures.sources import Source, engine_for, sources_of
from graphprop.pictures.style import Style
from graphprop.pictures.writing import DEFAULT_FOLDER, Written, write_arrays, write_drawing

__all__ = ["Explanation", "Explanations", "explain", "explain_images"]

Say = Callable[[str], None]


class Explanations(Sequence[Explanation]):
    """The explanations of some pictures, in the order of pictures, classes and methods.

    In a notebook they show themselves. ``for one in found`` gives each `Explanation`, with its
    relevance and logits.

    Attributes
    ----------
    maps
        All of them.
    style
        How they are drawn.
    """

    def __init__(
        self,
        maps: Sequence[Explanation],
        style: Style,
        sources: Sequence[Source],
        *,
        several: bool,
    ) -> None:
        self.maps, self.style, self.several = list(maps), style, several
        self.sources = list(sources)
        set_limits(self.maps, style)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: Any) -> Any:
        return self.maps[index]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.maps)

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        return list(dict.fromkeys(text for one in self.maps for text in one.warnings))

    def plot(self, **style: Any) -> Any:
        """Draw all of them.

        Parameters
        ----------
        style
            As for `explain`; by default as there.

        Returns
        -------
        matplotlib.figure.Figure
            `graphprop.evaluation.figures.save_figure`, or its own ``savefig``, writes it.
        """
        chosen = Style.of({**vars(self.style), **style})
        set_limits(self.maps, chosen)
        try:
            return figure_of(self.maps, chosen)
        finally:
            set_limits(self.maps, self.style)

    def _repr_html_(self) -> str:
        """Show them in a notebook."""
        from graphprop.pictures.notebook import explanations_html

        return explanations_html(self)

    def __repr__(self) -> str:
        parts = [f"{one.name}: {one.question} by {one.method}" for one in self.maps[:20]]
        more = len(self.maps) - len(parts)
        return "\n".join([*parts, f"and {more} more"] if more > 0 else parts)

    def places(self, output: str | Path | None, *, raw: bool, ending: str) -> Written:
        """Where `save` writes to."""
        numbers = dict.fromkeys(one.index for one in self.maps)
        first = {one.index: one.image for one in reversed(self.maps)}
        return Written(
            [first[number] for number in numbers],
            [source.name for source in self.sources],
            DEFAULT_FOLDER if output is None else Path(output),
            several=self.several,
            raw=raw,
            ending=ending,
        )

    def save(
        self, output: str | Path | None = None, *, raw: bool = False, ending: str = ".png"
    ) -> list[Path]:
        """Write drawings and arrays.

        Parameters
        ----------
        output
            A folder (by default ``explanations``), for a drawing of each picture; or a name that
            ends in .png, .svg or .pdf, for one drawing of all. The arrays of each map go into an
            ``.npz`` beside it.
        raw
            Write each map alone, a pixel an entry.
        ending
            Of drawings in a folder: ``".png"``, ``".svg"`` or ``".pdf"``.

        Returns
        -------
        list of Path
            The drawings.

        Raises
        ------
        OutputError
            If the system refuses, or a file would be replaced that isn't graphprop's.
        """
        places = self.places(output, raw=raw, ending=ending)
        places.refuse(dict.fromkeys(one.target for one in self.maps))
        with places.writing():
            return self.written(places)

    def written(self, places: Written) -> list[Path]:
        """Write everything; returns the drawings."""
        numbers = {index: number for number, index in enumerate(self.indices)}
        methods = {source.name: number for number, source in enumerate(self.sources)}
        prepared = self.sources[0].prepared
        drawings: dict[Path, list[Explanation]] = {}
        for one in self.maps:
            place = (numbers[one.index], methods[one.method], one.target)
            write_arrays(one, places.npz(*place))
            drawings.setdefault(places.drawing(*place), []).append(one)
        for path, maps in drawings.items():
            write_drawing(maps, path, self.style, places.raw, prepared)
        return [path for path in drawings if path.exists()]

    @property
    def indices(self) -> list[int]:
        """The numbers of the pictures."""
        return list(dict.fromkeys(one.index for one in self.maps))


def explain(
    explainer: Any,
    pictures: Any,
    *,
    target: int | str | None = None,
    top: int | None = None,
    versus: int | str | None = None,
    names: Sequence[str] | None = None,
    preprocessing: Any = None,
    backend: str = "python",
    progress: Say | None = None,
    **style: Any,
) -> Explanations:
    """Explain pictures: ``graphprop.explain(explainer, "cat.jpg")`` shows itself in a notebook.

    Parameters
    ----------
    explainer
        What `compile` returned, or a compiled directory (whose ``explainer.py`` is run by the
        backend ``python``); or several, in a list, or in a dict by their names.
    pictures
        A file, a folder of pictures, a glob, a picture of Pillow, an array or a tensor; or several,
        in a list, or in a dict by their names. Pictures (files, Pillow's, bytes ``[H, W, 3]``) are
        prepared as the preprocessing says. Arrays of numbers, tensors, and files of them (``.npy``,
        ``.npz``) are inputs, and go in as they are.
    target
        The class to explain, by its number or name; by default each picture's largest logit.
    top
        Explain the classes of so many of the largest logits.
    versus
        Explain why the class and not this one: the difference of the two logits.
    names
        The names of all classes, in order; by default those that the explainer knows.
    preprocessing
        How a picture becomes an input, as for `compile`; by default what the explainer knows.
    backend
        Of directories: ``"python"`` or ``"onnxruntime"``. The latter runs no code of the directory,
        and opens nothing outside it.
    progress
        Called with what is about to be done.
    style
        ``overlay`` (the map over the gray picture) and ``alpha``; ``cmap``: ``"seismic"``,
        ``"colorblind"`` or one of matplotlib's; ``percentile`` of the magnitudes at which the scale
        ends; ``smooth``, the sigma of a Gaussian in pixels; ``size`` of a panel in pixels;
        ``shared_scale`` for all maps.

    Returns
    -------
    Explanations
        Each with its map; ``plot()`` draws them, and ``save(output)`` writes drawings and arrays.

    Raises
    ------
    InputError
        If a picture can't be read, a class doesn't exist, or an explainer doesn't take pictures.
    OutputError
        If a directory isn't one of graphprop's, failed its check, or doesn't work.
    MethodError
        If there is no such backend or option, or the directory was compiled without ONNX.
    """
    chosen = Style.of(style)
    sources = sources_of(explainer, preprocessing=preprocessing, names=names)
    found = gathered(pictures)
    question = Question.of(sources, target, top, versus, backend)
    inputs = read_all(sources, found)
    maps: list[Explanation] = []
    engines = [engine_for(source, backend) for source in sources]
    for index, one in enumerate(found):
        for number, (source, engine) in enumerate(zip(sources, engines, strict=True)):
            if progress is not None:
                progress(f"explain {one.name.name}" + f" by {source.name}" * (len(sources) > 1))
            x, shown, warnings = inputs[number][index]
            for rank, part in enumerate(explained(source, engine, x, question, number)):
                logits, relevance, label, other = part
                called = source.class_names or {}
                maps.append(
                    Explanation(
                        one.name,
                        shown,
                        relevance,
                        logits,
                        label,
                        0.0,
                        warnings=[*warnings] if rank == 0 else [],
                        class_name=called.get(label),
                        method=source.name,
                        model=str(source.facts.get("model") or ""),
                        versus=other,
                        versus_name=None if other is None else called.get(other),
                        rank=rank,
                        index=index,
                    )
                )
                lost = of_map(source.facts, logits, label, relevance) if other is None else None
                maps[-1].warnings += [f"{one.name}, class {label}: {lost}"] if lost else []
    maps.sort(key=lambda one: (one.index, one.rank))  # stable: methods stay in their order
    return Explanations(maps, chosen, sources, several=top is not None and top > 1)


class Question:
    """Which classes are explained, by their numbers for each source."""

    def __init__(
        self, targets: list[int | None], others: list[int | None], top: int | None
    ) -> None:
        self.targets, self.others, self.top = targets, others, top

    @classmethod
    def of(
        cls,
        sources: Sequence[Source],
        target: int | str | None,
        top: int | None,
        versus: int | str | None,
        backend: str,
    ) -> Question:
        """Look the classes up.

        Raises
        ------
        InputError
            If one doesn't exist, or the questions exclude each other.
        """
        if top is not None and (target is not None or versus is not None):
            raise InputError("top explains the largest logits: leave target and versus out")
        if versus is not None and backend == "onnxruntime":
            raise InputError(
                "versus explains a difference of logits, and the targets of ONNX files are "
                "classes: use the backend 'python'"
            )
        targets, others = [], []
        for source in sources:
            targets.append(None if target is None else number_of(target, source, "target"))
            others.append(None if versus is None else number_of(versus, source, "versus"))
            if versus is not None and targets[-1] == others[-1]:
                raise InputError(f"versus is the class explained, {others[-1]}: name another one")
            count = source.facts["classes"]
            if top is not None and not (type(top) is int and 1 <= top <= count):
                raise InputError(
                    f"top must be a number from 1 to {count}, the number of classes, not {top}"
                )
        return cls(targets, others, top)


def number_of(given: int | str, source: Source, what: str) -> int:
    """The number of a class that is named by it, or by its name."""
    count = source.facts["classes"]
    if isinstance(given, str) and not given.strip().lstrip("-").isdigit():
        hits = [n for n, name in (source.class_names or {}).items() if name == given]
        hits = hits or [
            n
            for n, name in (source.class_names or {}).items()
            if name.casefold() == given.casefold()
        ]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise InputError(f"{len(hits)} classes are called {given!r}: give a number")
        known = (source.class_names or {}).values()
        why = nearest(given, known) if known else "the names of classes aren't known"
        if len(why) > LONGEST_LIST:
            why = "none is like it"
        raise InputError(f"there is no class {given!r}: {why}")
    number = int(given)
    if not 0 <= number < count:
        raise InputError(f"the {what} must be a class from 0 to {count - 1}, not {number}")
    return number


LONGEST_LIST = 300
"""Characters of a list of names in a message."""


def read_all(sources: Sequence[Source], found: Sequence[Given]) -> list[list[Any]]:
    """The inputs of each source; sources that take the same inputs share them."""
    known: dict[Any, list[Any]] = {}
    inputs = []
    for source in sources:
        key = (source.preprocessing, tuple(source.facts["input_shape"]))
        fresh = key not in known
        if fresh:
            known[key] = [one.read(source) for one in found]
        read = known[key]
        pictures = [one for one, given in zip(read, found, strict=True) if given.is_picture]
        if pictures and not source.facts.get("preprocessing") and fresh:  # said once
            pictures[0].warnings.append(f"{source.place}: {UNKNOWN}")
        inputs.append([part if fresh else part._replace(warnings=[]) for part in read])
    return inputs


def explained(
    source: Source, engine: Engine, x: torch.Tensor, question: Question, number: int
) -> Iterator[tuple[Any, Any, int, int | None]]:
    """Explain one input ``[1, ...]``: logits, relevance, the class, and the one against it."""
    target, other = question.targets[number], question.others[number]
    if other is not None:
        if target is None:
            target = order_of(engine(x, None)[0])[0]
        if target == other:
            raise InputError(
                f"versus is the class explained, {other}, which has the largest logit: give "
                "another one, or a target"
            )
        weights = torch.zeros(1, *source.facts["logits_shape"])
        weights[:, target], weights[:, other] = 1.0, -1.0
        logits, relevance = engine(x, weights)
        yield summed(logits), relevance[0], target, other
        return
    logits, relevance = engine(x, target)
    chosen = order_of(logits)[0] if target is None else target
    yield summed(logits), relevance[0], chosen, None
    for further in order_of(logits)[1 : question.top or 1]:
        yield (*explain_one(engine, x, further), None)


def explain_one(
    engine: Engine, x: torch.Tensor, target: int | None
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Explain one input ``[1, ...]``: logits, relevance and the class explained."""
    logits, relevance = engine(x, target)
    chosen = largest(logits) if target is None else target
    return summed(logits), relevance[0], chosen


def summed(logits: Any) -> Any:
    """Logits ``[classes]``, those of all places summed."""
    return logits[0].reshape(len(logits[0]), -1).sum(1)


def order_of(logits: Any) -> list[int]:
    """The classes from the largest logit to the smallest; first the one that is explained."""
    first = largest(logits)
    found: list[int] = np.argsort(-summed(logits), kind="stable").tolist()
    return [first, *(number for number in found if number != first)]


def explain_images(
    directory: str | Path | Sequence[str | Path],
    images: Sequence[str | Path],
    *,
    target: int | str | None = None,
    output: str | Path | None = None,
    shared_scale: bool = False,
    backend: str = "python",
    progress: Say | None = None,
    raw: bool = False,
    ending: str = ".png",
    **options: Any,
) -> list[Explanation]:
    """Explain pictures with compiled directories, and write arrays and drawings.

    Parameters
    ----------
    directory
        What ``graphprop compile`` wrote, or several; their ``explainer.py`` is run by the backend
        ``python``.
    images
        Files: pictures, or arrays of an input each (``.npy`` or ``.npz``), of which floating-point
        numbers are taken as they are. Volumes are arrays, and their central slice is drawn.
    target
        The class to explain; by default each picture's own largest logit.
    output, raw, ending
        A folder, ``explanations`` by default; or a name ending in .png, .svg or .pdf: see
        `Explanations.save`.
    shared_scale
        Draw all pictures on one scale, so that their colors can be compared.
    backend
        ``"python"`` or ``"onnxruntime"``. The latter runs no code of the directory, and opens
        nothing outside it.
    progress
        Called with the name of each picture before it is explained.
    options
        The others of `explain`.

    Raises
    ------
    InputError
        If a picture can't be read, the target is no class, or the explainer doesn't take pictures.
    OutputError
        If the directory isn't one of graphprop's, failed its check, or doesn't work; or a file
        would be overwritten that isn't graphprop's.
    MethodError
        If there is no such backend, or the directory was compiled without ONNX.
    """
    given = {"preprocessing": options.get("preprocessing"), "names": options.get("names")}
    sources = sources_of(directory, **given)
    several = (options.get("top") or 1) > 1
    place = DEFAULT_FOLDER if output is None else Path(output)
    names = [source.name for source in sources]
    files = [Path(image) for image in images]
    places = Written(files, names, place, several=several, raw=raw, ending=ending)
    refuse_several(places, several)
    if not several:
        places.refuse([0])
    found = explain(
        sources,
        [Given(file, file) for file in files],
        target=target,
        backend=backend,
        progress=progress,
        shared_scale=shared_scale,
        **{key: value for key, value in options.items() if key not in given},
    )
    if progress is not None:
        progress("draw")
    found.save(place, raw=raw, ending=ending)
    return found.maps


def refuse_several(places: Written, several: bool) -> None:
    """Refuse to write several raw maps to one file."""
    count = len(places.pictures) * len(places.methods)
    if places.raw and places.file is not None and (count > 1 or several):
        raise OutputError(f"{places.file} is one file, for several raw maps: give a folder by -o")
