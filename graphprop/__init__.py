"""graphprop: a compiler from trained PyTorch networks to relevance-propagation modules.

``compile`` makes an explainer of a model; ``rule`` and ``method`` add rules and methods.
"""

from graphprop.errors import GraphpropError
from graphprop.explainer import CompiledExplainer, LayerInfo, compile
from graphprop.rules import METHODS, RULES, Layer, Method, method, rule

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "RULES",
    "CompiledExplainer",
    "GraphpropError",
    "Layer",
    "LayerInfo",
    "Method",
    "__version__",
    "compile",
    "method",
    "rule",
]
