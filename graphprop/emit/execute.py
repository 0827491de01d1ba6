"""Generated source as a class, in this process and in others."""

from __future__ import annotations

import hashlib
import linecache
import sys
from functools import lru_cache
from types import ModuleType
from typing import Any

from torch import nn


@lru_cache(maxsize=64)
def run_source(source: str) -> Any:
    """Execute generated source as a module of its own; returns its ``Explainer`` class.

    In another process the class can't be imported by its name: an instance is pickled together
    with the source.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    file = f"<graphprop explainer {digest}>"
    module = ModuleType(f"graphprop_explainer_{digest}")
    module.__file__ = file
    # torch.compile looks functions up in the module of their name
    sys.modules[module.__name__] = module
    # so that a traceback through the generated code shows its lines
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), module.__dict__)
    module.Explainer.__reduce__ = lambda self: (without_weights, (source,), self.__dict__)
    return module.Explainer


def without_weights(source: str) -> nn.Module:
    """An explainer of generated source that is about to be given its state."""
    kind = run_source(source)
    explainer: nn.Module = kind.__new__(kind)
    return explainer
