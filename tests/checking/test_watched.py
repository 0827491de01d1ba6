"""The values that a check follows through ``explainer.py`` are those of the function they name."""

from __future__ import annotations

import ast

import torch

from graphprop.checking.runner import Watch, local_variables, watched

SOURCE = b"""
import torch

def half(a):
    quotient = a / 2
    return quotient

def rule(r):
    quotient = r * 3
    back = half(quotient)
    return back

class Explainer:
    def forward(self, x):
        r_a = half(x)
        r_b = rule(x)
        return r_a, r_b
"""


def values_of(source: bytes, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    step = {"watch": names, "keep": True, "samples": (None, None), "judge": False}
    watch = Watch(step, {})
    space: dict[str, object] = {"_watch": watch}
    exec(compile(ast.unparse(watched(source)), "explainer.py", "exec"), space)
    space["Explainer"]().forward(x)
    return watch.seen


def test_a_value_of_a_function_is_not_that_of_one_that_it_calls():
    names = local_variables(SOURCE)
    assert names == ["r_a.quotient", "r_a", "r_b.quotient", "r_b.back", "r_b"]
    found = values_of(SOURCE, names, torch.ones(1, 1))
    assert {name: float(value) for name, value in found.items()} == {
        "r_a.quotient": 0.5,
        "r_a": 0.5,
        "r_b.quotient": 3.0,
        "r_b.back": 1.5,
        "r_b": 1.5,
    }
