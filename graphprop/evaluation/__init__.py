"""How good are explanations: metrics over labelled pictures, with intervals and baselines.

`evaluate` applies metrics to explainers on cases (picture, class, mask). A metric is a function
with a decorator, `metric`, as a rule is. `graphprop.evaluation.data` reads pictures with their
labels and masks, `graphprop.evaluation.baselines` has the explainers that any other has to beat.
"""

from graphprop.evaluation import complexity, localization, perturbation, sensitivity  # noqa: F401
from graphprop.evaluation.baselines import baselines
from graphprop.evaluation.registry import METRICS, Metric, NotApplicable, find_metric, metric
from graphprop.evaluation.results import Evaluation
from graphprop.evaluation.runner import evaluate
from graphprop.evaluation.sample import Case, Sample

__all__ = [
    "METRICS",
    "Case",
    "Evaluation",
    "Metric",
    "NotApplicable",
    "Sample",
    "baselines",
    "evaluate",
    "find_metric",
    "metric",
]
