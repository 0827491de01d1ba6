"""Occlusion of the object against occlusion of its context: what a network looks at.

No explanation is involved. Where hiding the object lowers the score of its class by more than
hiding everything else does, the network uses the object, and a map is right to lie on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprop.errors import InputError
from graphprop.evaluation.perturbation import curve
from graphprop.evaluation.results import csv_of
from graphprop.evaluation.runner import cases_of, classes_of, with_targets
from graphprop.evaluation.sample import Explainer, Sample, logits_of


@dataclass(frozen=True)
class Occlusion:
    """What occlusion does to the logit of the target.

    Attributes
    ----------
    cases
        ``case, name, target, fraction, object, context``: how far the logit falls when the object,
        and when all but the object, is replaced; ``fraction`` is the share of the picture that the
        object covers.
    """

    cases: list[dict[str, Any]]

    @property
    def summary(self) -> dict[str, float | int]:
        """Means and standard deviations of both, and the number of cases."""
        found: dict[str, float | int] = {"n": len(self.cases)}
        for part in ("object", "context"):
            values = [case[part] for case in self.cases]
            found[f"{part}_mean"] = float(np.mean(values))
            found[f"{part}_deviation"] = float(np.std(values))
        return found

    def as_csv(self) -> str:
        """The cases as CSV."""
        return csv_of(("case", "name", "target", "fraction", "object", "context"), self.cases)


def occlusion(
    network: Explainer,
    data: Iterable[Any],
    *,
    samples: int | None = None,
    seed: int = 0,
    fill: str = "mean",
) -> Occlusion:
    """Replace the object, and all but the object, and see how far the target's logit falls.

    Parameters
    ----------
    network
        An explainer of the network; its maps are not used.
    data, samples, seed
        As in `evaluate`. Cases without a mask, and objects that cover nothing or everything, are
        left out.
    fill
        What replaces a pixel.

    Raises
    ------
    InputError
        If no case has an object.

    References
    ----------
    Kohlbrenner et al. 2020, *Towards Best Practice in Explaining Neural Network Decisions with
    LRP*.
    """
    found, classes = [], 0
    for numbered in cases_of(data, samples, seed):
        classes = classes or classes_of(network, numbered[1])
        ((index, case),) = with_targets([numbered], network, classes)
        if case.mask is None or case.mask.all() or not case.mask.any():
            continue
        logits = logits_of(network, case.image[None], case.target)[0]
        sample = Sample(
            case.image,
            case.target,
            case.mask,
            case.labels,
            np.zeros(case.mask.shape),  # no map is looked at
            logits,
            index,
            network,
            seed,
        )
        after = curve(sample, [case.mask, ~case.mask], fill, "logit")
        falls = logits[case.target] - after
        found.append(
            {
                "case": index,
                "name": case.name,
                "target": case.target,
                "fraction": sample.fraction,
                "object": float(falls[0]),
                "context": float(falls[1]),
            }
        )
    if not found:
        raise InputError("occlusion of objects needs masks or boxes, and the data has none")
    return Occlusion(found)
