"""graphprop: a compiler from trained PyTorch networks to relevance-propagation modules.

``compile`` makes an explainer of a model, ``capture`` what several methods compile; ``rule`` and
``method`` add rules and methods, ``Operator`` and ``from_aten`` operators.
"""

import importlib
from typing import TYPE_CHECKING

from graphprop.errors import GraphpropError
from graphprop.version import __version__

if TYPE_CHECKING:
    from graphprop.api import (
        Captured,
        CompiledExplainer,
        LayerInfo,
        capture,
        check_directory,
        compile,
        explain,
        explain_images,
        inspect,
    )
    from graphprop.datasets import explain_dataset, iterate_explanations, summarize
    from graphprop.evaluation import evaluate
    from graphprop.evaluation.figures import figure
    from graphprop.ops import Operator, Signal, Trait
    from graphprop.ops.base import from_aten
    from graphprop.profiling import profile
    from graphprop.rules import METHODS, RULES, Layer, Method, method, rule
else:
    # What needs torch is loaded on first use, so that ``graphprop --help`` answers at once.
    _HOMES = {
        "graphprop.api": (
            "Captured",
            "CompiledExplainer",
            "LayerInfo",
            "capture",
            "check_directory",
            "compile",
            "explain",
            "explain_images",
            "inspect",
        ),
        "graphprop.datasets": ("explain_dataset", "iterate_explanations", "summarize"),
        "graphprop.evaluation": ("evaluate",),
        "graphprop.evaluation.figures": ("figure",),
        "graphprop.ops": ("Signal", "Trait"),
        "graphprop.ops.base": ("Operator", "from_aten"),
        "graphprop.profiling": ("profile",),
        "graphprop.rules": ("METHODS", "RULES", "Layer", "Method", "method", "rule"),
    }

    def __getattr__(name):
        """Load a public name from the module that defines it."""
        for home, names in _HOMES.items():
            if name in names:
                value = getattr(importlib.import_module(home), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'graphprop' has no attribute {name!r}")

    def __dir__():
        """Every public name, loaded or not."""
        return sorted({*globals(), *__all__})


__all__ = [
    "METHODS",
    "RULES",
    "Captured",
    "CompiledExplainer",
    "GraphpropError",
    "Layer",
    "LayerInfo",
    "Method",
    "Operator",
    "Signal",
    "Trait",
    "__version__",
    "capture",
    "check_directory",
    "compile",
    "evaluate",
    "explain",
    "explain_dataset",
    "explain_images",
    "figure",
    "from_aten",
    "inspect",
    "iterate_explanations",
    "method",
    "profile",
    "rule",
    "summarize",
]
