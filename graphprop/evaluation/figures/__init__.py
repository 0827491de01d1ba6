"""Figures as the papers draw them: maps of methods, layers, flows, signs, curves, sanity checks.

`figure` draws one of `KINDS`, and `save_figure` writes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphprop.errors import InputError, MethodError, nearest
from graphprop.evaluation.figures.measured import curves, size
from graphprop.evaluation.figures.panel import panel
from graphprop.evaluation.figures.recorded import flows, layers
from graphprop.evaluation.figures.sanity import sanity
from graphprop.evaluation.figures.signs import signs
from graphprop.evaluation.figures.subjects import scene_of
from graphprop.evaluation.figures.topk import topk
from graphprop.evaluation.occlusion import Occlusion
from graphprop.evaluation.results import Evaluation
from graphprop.evaluation.sample import Explainer
from graphprop.evaluation.saved import read_evaluation
from graphprop.pictures.files import refuse_file, save_figure
from graphprop.pictures.preprocessing import Preprocessing

__all__ = ["KINDS", "MEASURED", "RECORDED", "figure", "refuse_file", "save_figure"]

KINDS: dict[str, Callable[..., Any]] = {
    "panel": panel,
    "layers": layers,
    "flows": flows,
    "signs": signs,
    "topk": topk,
    "curves": curves,
    "size": size,
    "sanity": sanity,
}
MEASURED = ("curves", "size")
"""Those that are drawn of an evaluation."""
RECORDED = ("layers", "flows")
"""Those that need explainers that record."""


def figure(
    kind: str,
    explainers: Mapping[str, Explainer] | None = None,
    data: Iterable[Any] | None = None,
    *,
    evaluation: Evaluation | str | Path | None = None,
    occlusion: Occlusion | None = None,
    targets: Sequence[int] | None = None,
    every_class: bool = False,
    samples: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Draw a figure as the papers have it.

    Parameters
    ----------
    kind
        ``"panel"``: maps of methods by pictures and classes; ``"layers"``: relevance at layers;
        ``"flows"``: the flows of RAP-BN and their sum; ``"signs"``: excitatory and inhibitory,
        positive and negative relevance; ``"topk"``: the most relevant pixels and the picture that
        they leave; ``"sanity"``: maps of two classes, and after weights were permuted; of an
        evaluation ``"curves"``, and ``"size"``: mu and occlusion over the size of objects.
    explainers
        Name to ``(x, target) -> (logits, relevance)``, as for `evaluate`. For ``"layers"`` and
        ``"flows"`` compiled with ``record=["*"]``.
    data
        Cases ``(image [C, H, W], target, mask or None)``, as for `evaluate`; the target -1 stands
        for the predicted class. The central slice of a volume is drawn.
    evaluation
        What `evaluate` found, or the folder that `graphprop evaluate -o` wrote: for ``"curves"``
        and ``"size"``, in place of explainers and data.
    occlusion
        What `graphprop.evaluation.occlusion.occlusion` found, for ``"size"``; a folder has it.
    targets
        Explain each picture for each of these classes, in place of its own.
    every_class
        Take all classes of each picture chosen: its other cases, which lie beside it.
    samples, seed
        How many cases to use, and the seed of everything random, as for `evaluate`.
    class_names
        The names of all classes, or of some by number.
    preprocessing
        ``mean`` and ``std`` by which a picture in [0, 1] became an input; without them, each
        picture is drawn from its smallest value to its largest.
    options
        Of the kind: ``columns`` (panel), ``layer`` and ``count`` (layers), ``pairs`` (signs),
        ``top``, ``fill`` and ``value`` (topk), ``metric`` (curves), ``other`` and ``depths``
        (sanity).

    Returns
    -------
    matplotlib.figure.Figure
        `graphprop.evaluation.figures.save_figure` writes it as PNG, SVG or PDF.

    Raises
    ------
    InputError
        If explainers, data or evaluation aren't as described.
    MethodError
        If there is no such kind, or it has no such option.
    """
    if kind not in KINDS:
        raise MethodError(f"there is no figure {kind!r}: {nearest(kind, KINDS)}")
    function = KINDS[kind]
    known = [
        name
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            which = nearest(name, known) if known else "it has none"
            raise MethodError(f"the figure {kind!r} has no option {name!r}: {which}")
    if kind in MEASURED:
        if evaluation is None or explainers is not None or data is not None:
            raise InputError(
                f"the figure {kind!r} is drawn of an evaluation alone: give evaluation=, what "
                "evaluate found or the folder that it was written to"
            )
        if isinstance(evaluation, Evaluation):
            return function(evaluation, occlusion, **options)
        return function(*read_evaluation(evaluation), **options)
    if explainers is None or data is None or evaluation is not None:
        raise InputError(f"the figure {kind!r} is drawn of explainers and data: give both, alone")
    scene = scene_of(
        explainers,
        data,
        targets=targets,
        every_class=every_class,
        samples=samples,
        seed=seed,
        class_names=class_names,
        preprocessing=preprocessing,
    )
    with torch.no_grad():
        return function(scene, **options)
