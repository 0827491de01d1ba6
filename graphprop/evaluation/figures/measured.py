"""What an evaluation measured: perturbation curves, and relevance over the size of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphprop.errors import InputError, nearest
from graphprop.evaluation.occlusion import Occlusion
from graphprop.evaluation.plots import draw_curves, draw_occlusion, draw_sizes, figure_of
from graphprop.evaluation.results import Evaluation

PANEL = (4.6, 3.4)
"""Width and height of a panel, in inches."""
COLUMNS = 3


def curves(
    found: Evaluation, occluded: Occlusion | None = None, *, metric: Sequence[str] = ()
) -> Any:
    """Draw the mean curves of metrics, each in a band: its 95 % interval over the cases.

    The band is 1.96 standard errors wide to each side. Evaluations of before there were bands are
    drawn without.

    Parameters
    ----------
    found
        The evaluation.
    occluded
        Not used.
    metric
        Labels of metrics; by default all that have curves.

    Raises
    ------
    InputError
        If a metric has no curve, or none has.
    """
    known = list(dict.fromkeys(name for _, name in found.curves))
    if not known:
        raise InputError(
            "the evaluation has no curves: metrics such as morf, lerf and insertion record them"
        )
    chosen = [metric] if isinstance(metric, str) else list(metric) or known
    for name in chosen:
        if name not in known:
            raise InputError(f"the evaluation has no curve of {name!r}: {nearest(name, known)}")
    columns = 2 if len(chosen) == 4 else min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = figure_of(rows, columns, PANEL)
    for place, name in zip(axes.flat, chosen, strict=False):
        draw_curves(place, found, name)
    for place in list(axes.flat)[len(chosen) :]:
        place.set_axis_off()
    legend_beside(figure, axes.flat)
    return figure


def size(found: Evaluation, occluded: Occlusion | None = None) -> Any:
    """Draw mu over the size of the object, and what hiding object and context does.

    In 100 bins of the share of the picture that the object covers. The fall of the logit stands in
    a band of one standard deviation of the cases of a bin; without ``--occlusion`` it is left out.

    Parameters
    ----------
    found
        The evaluation.
    occluded
        What occlusion found, or None.

    Raises
    ------
    InputError
        If the evaluation has neither.
    """
    has_mu = any(name == "mu" for _, name in found.values)
    if not has_mu and occluded is None:
        raise InputError(
            "the evaluation has neither mu nor occlusion: `graphprop evaluate --metric mu "
            "--occlusion` measures both, on data with masks or boxes"
        )
    parts = [*(["mu"] if has_mu else []), *(["occlusion"] if occluded is not None else [])]
    figure, axes = figure_of(1, len(parts), PANEL)
    for place, part in zip(axes.flat, parts, strict=True):
        if part == "mu":
            draw_sizes(place, found)
            place.set_title("relevance inside the object", fontsize=10)
        elif occluded is not None:
            draw_occlusion(place, occluded)
            place.set_title("what the network looks at", fontsize=10)
    if has_mu:
        legend_beside(figure, [axes[0, 0]])
    return figure


def legend_beside(figure: Any, places: Any) -> None:
    """One legend for all panels, in a column beside them: it hides no curve."""
    shown: dict[str, Any] = {}
    for place in places:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(list(shown.values()), list(shown), loc="outside right upper", fontsize=7)
