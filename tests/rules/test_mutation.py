"""Rules are their formulas to the letter: whatever is changed in them, something notices.

Every small change (a sign, a comparison, a number, a default, one name for its opposite) is made in
the source of the rules, one at a time. The changed rules are held against closed forms, and every
change must be noticed, except those that change nothing, which are listed with the reason. The same
is done to the tables of the methods, held against a transcription of methods.md, section 1.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from graphprop.errors import MethodError
from graphprop.frontend.capture import capture
from graphprop.ir.facts import facts_of
from graphprop.ir.layout import CHANNEL, PLACE, Factor, Layout
from graphprop.ir.network import Network
from graphprop.ops import (
    Add,
    AvgPool,
    BatchNorm,
    Cat,
    Conv,
    GroupNorm,
    Linear,
    Maximum,
    MaxPool,
    Multiply,
    Operator,
    Permute,
    Reshape,
    Slice,
    Subtract,
    helpers,
)
from graphprop.passes.assign_rules import assign_rules
from graphprop.passes.pipeline import Pipeline, analysis_steps
from graphprop.rules import (
    METHODS,
    RULES,
    Layer,
    Method,
    Rule,
    comparisons,
    excitation,
    hedge,
    lrp,
    methods,
    rap,
    registry,
)
from graphprop.rules import structure as structure_rules
from graphprop.rules.parameters import resolve_parameters
from support import hedge_reference
from support import rap_reference as reference
from support.formulas import (
    EXAMPLES,
    SETTINGS,
    Example,
    Setting,
    alpha_beta,
    by_shares,
    dense,
    matrix,
    negative_part,
    over,
    plus,
    relevance_of,
    samples,
    suited,
)

MODULES = {
    "lrp": lrp,
    "structure": structure_rules,
    "rap": rap,
    "hedge": hedge,
    "excitation": excitation,
}

FIRST_IS_R = "it is r at this place"
KAPPA = "kappa is 1 or -1"

EQUIVALENT = {
    "lrp.box_limit: axis = getattr(layer.operator, 'channel_axis', 2) % len(x.shape)": (
        "every operator with weights has a channel_axis"
    ),
    "rap.rap: first, q_n = (positive(first), q_n + divide_or_zero(negative_part(r), n))": (
        FIRST_IS_R
    ),
    "rap.rap: first, q_n = (positive(r), q_n + divide_or_zero(negative_part(first), n))": (
        FIRST_IS_R
    ),
    "helpers.divide_or_zero: wider = isinstance(a, torch.Tensor)": "in place is faster",
    "rap.rap_bn: if kappa <= 0:": KAPPA,
    "rap.rap_bn: if kappa < 1:": KAPPA,
    "rap.rap_bn: w_above, w_below, compensated = "
    "(w_below, w_above, compensated / inversion_sign)": "inversion_sign is 1 or -1",
    "rap.taken_off: return r - share if kappa >= 0 else r + share": KAPPA,
    "helpers.at_target: index = weights.reshape(-1, *[1] * (logits.dim() - 1))"
    ".expand(-1, 1, *logits.shape[2:])": "that axis has length 1",
    "methods: [('depth:flat_layers', 'flat'), DENSE, (EVERYWHERE, 'alpha_beta')] -> "
    "[DENSE, ('depth:flat_layers', 'flat'), (EVERYWHERE, 'alpha_beta')]": (
        "the first layers by depth are none of the dense head"
    ),
}
"""Changes that change nothing, and why."""


# The changes


NUMBERS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
}
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.Gt, ast.LtE),
    ast.Gt: (ast.Lt, ast.GtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.GtE: (ast.Lt, ast.Gt),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
WORDS = {
    "==": ("!=",),
    "!=": ("==",),
    ">": ("<", ">="),
    "<": (">", "<="),
    "sink": ("ignored",),
    "ignored": ("sink",),
    "both": ("inhibitory",),
    "inhibitory": ("both",),
    "input": ("support",),
    "support": ("input",),
    "drop": ("spread",),
    "spread": ("drop",),
    "absolute": ("signed",),
    "signed": ("absolute",),
    "per_sample": ("per_batch",),
}
OPPOSITES = (
    ("positive", "negative"),
    ("positive", "negative_part"),
    ("excitatory", "inhibitory"),
    ("smallest", "largest"),
    ("above", "below"),
    ("w_above", "w_below"),
    ("v_above", "v_below"),
    ("on_above", "on_below"),
    ("from_above", "from_below"),
    ("raised", "lowered"),
    ("low", "high"),
    ("alpha", "beta"),
    ("p", "n"),
    ("q_p", "q_n"),
    ("first", "r"),
    ("compensated", "r"),
    ("plain", "size"),
)
UNWRAPPED = {
    "positive": 0,
    "negative": 0,
    "negative_part": 0,
    "absolute": 0,
    "total": 0,
    "ones_like": 0,
    "stabilize": 0,
    "keep_where": 2,
    "with_bias": 1,
    "without_bias": 1,
    "taken_off": 0,
}
"""Functions that are left out, and the argument that stays in their place."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change: the function, the line as it becomes, and the code."""

    function: str
    line: str
    code: CodeType

    def run(self, module: ModuleType) -> dict[str, Any]:
        """Execute the module; what it registers goes nowhere else. Returns its rules, by name."""
        registered: dict[str, Any] = {}
        table = "METHODS" if module is methods else "RULES"
        with mock.patch.object(registry, table, registered):
            exec(self.code, {"__name__": module.__name__})
        return registered


def changed(node: ast.AST, known: set[str]) -> Iterator[ast.AST]:
    """What one node of the source can become; ``known`` are the names that exist there."""
    match node:
        case ast.BinOp(left, op, right):
            for other in NUMBERS.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
            if type(op) in NUMBERS:
                yield from (left, right)
        case ast.AugAssign(target, op, value):
            yield ast.AugAssign(target, NUMBERS[type(op)][0](), value)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
            for i in range(len(values)):
                rest = [*values[:i], *values[i + 1 :]]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.Compare(left, [op], comparators):
            for other in COMPARISONS[type(op)]:
                yield ast.Compare(left, [other()], comparators)
        case ast.IfExp(test, body, otherwise) if not isinstance(test, ast.Compare):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, otherwise)
        case ast.If(test, body, otherwise) if not isinstance(test, ast.Compare):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, otherwise)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield ast.Constant(value * 10 if value not in (0, 1) else type(value)(value + 1))
        case ast.Constant(str(value)):
            yield from map(ast.Constant, WORDS.get(value, ()))
        case ast.Name(name, ast.Load()):
            for pair in OPPOSITES:
                if name in pair:
                    other = pair[pair[0] == name]
                    if other in known:
                        yield ast.Name(other, ast.Load())
        case ast.Call(ast.Name(name), arguments) if name in UNWRAPPED:
            yield arguments[UNWRAPPED[name]]


def is_prose(node: ast.AST) -> bool:
    """What says nothing about the mathematics: documentation, errors, names for the reader."""
    return (
        isinstance(node, ast.Raise | ast.JoinedStr)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.keyword) and node.arg in ("shared", "summary", "source"))
    )


@dataclass(frozen=True)
class Place:
    """Where a node hangs in the tree: its parent's field, and the statement it is part of."""

    parent: ast.AST
    field: str
    index: int | None
    statement: ast.stmt

    @property
    def node(self) -> ast.AST:
        held = getattr(self.parent, self.field)
        return held if self.index is None else held[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def places(parent: ast.AST, statement: ast.stmt) -> Iterator[Place]:
    """Every node below another, prose and types left out."""
    names_value = isinstance(parent, ast.Call) and getattr(parent.func, "attr", "") == "named"
    skipped = {"annotation", "returns", "decorator_list"}
    for name in (name for name in parent._fields if name not in skipped):
        held = getattr(parent, name)
        for index, node in enumerate(held) if isinstance(held, list) else [(None, held)]:
            label = names_value and name == "args" and index == 0
            if isinstance(node, ast.AST) and not is_prose(node) and not label:
                inside = node if isinstance(node, ast.stmt) else statement
                yield Place(parent, name, index, inside)
                yield from places(node, inside)


LONGEST = 120
"""Of a longer line, only what changes is shown."""


def line_of(statement: ast.stmt) -> str:
    """A statement's source; of one that holds others, its first line."""
    lines = ast.unparse(statement).splitlines()
    if isinstance(statement, ast.FunctionDef):
        return next(line for line in lines if line.startswith("def "))
    return lines[0]


def tree_of(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))


def functions_of(module: ModuleType) -> list[str]:
    return [node.name for node in tree_of(module).body if isinstance(node, ast.FunctionDef)]


def made_by(
    tree: ast.Module,
    function: str,
    start: ast.stmt,
    change: Callable[[ast.AST, set[str]], Iterator[ast.AST]],
    known: set[str],
) -> Iterator[Mutant]:
    """Every change of a statement, one at a time."""
    seen: Counter[str] = Counter()
    for place in list(places(start, start)):
        original = place.node
        for node in change(original, known):
            place.put(ast.fix_missing_locations(ast.copy_location(node, original)))
            statement = node if isinstance(node, ast.stmt) else place.statement
            line = line_of(statement)
            if len(line) > LONGEST:
                line = f"{ast.unparse(original)} -> {ast.unparse(node)}"
            seen[line] += 1
            if seen[line] > 1:
                line = f"{line} # {seen[line]}"
            yield Mutant(function, line, compile(tree, "<mutant>", "exec"))
            place.put(original)


def mutants_of(module: ModuleType, function: str) -> Iterator[Mutant]:
    """Every change of one function."""
    tree = tree_of(module)
    (start,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    names = {n.id for n in ast.walk(start) if isinstance(n, ast.Name)}
    names |= {n.arg for n in ast.walk(start) if isinstance(n, ast.arg)}
    yield from made_by(tree, function, start, changed, names | set(vars(module)))


# What notices them: rules on small layers, and what they must give


@dataclass(frozen=True)
class Case:
    """A rule with parameters on a layer, and its result: relevance, or the text of an error."""

    rule: str
    layer: Layer
    x: Any
    r: torch.Tensor
    expected: torch.Tensor | tuple[torch.Tensor, ...] | str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.rule} {dict(self.parameters)} on {self.layer.operator}"

    def holds(self, rules: Mapping[str, Rule]) -> bool:
        run = rules[self.rule].bind(**self.parameters)
        if isinstance(self.expected, str):
            try:
                run(self.layer, self.x, self.r)
            except (MethodError, ValueError) as error:
                return re.search(self.expected, str(error)) is not None
            return False
        found = run(self.layer, self.x, self.r)
        if isinstance(self.expected, torch.Tensor):
            return close(found, self.expected)
        return len(found) == len(self.expected) and all(map(close, found, self.expected))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, 1e-10, 1e-12)


DEFAULTS: dict[str, dict[str, Any]] = {
    "z": {"bias": "sink", "stabilizer": 0.0},
    "epsilon": {"epsilon": 1e-6, "bias": "sink"},
    "alpha_beta": {"alpha": 2.0, "beta": 1.0, "bias": "sink", "stabilizer": 0.0},
    "z_plus": {"bias": "sink", "stabilizer": 0.0},
    "gamma": {"gamma": 0.25, "bias": "sink", "stabilizer": 0.0},
    "flat": {"stabilizer": 0.0},
    "w_square": {"stabilizer": 0.0},
    "zB": {"low": "per_sample", "high": "per_sample", "stabilizer": 0.0},
    "rap_start": {},
    "rap": {"negative": "both", "active": "input", "nu": "inhibitory"},
    "rap_bn_start": {},
    "compensate": {"kappa": 1.0, "units": "active"},
    "rap_bn": {"kappa": 1.0, "inversion_sign": -1.0, "lost": "spread"},
    "rap_bn_input": {
        "kappa": 1.0,
        "inversion_sign": -1.0,
        "lost": "spread",
        "input": "zB",
        "low": "per_sample",
        "high": "per_sample",
    },
    "pass": {},
    "rearrange": {},
    "winner": {},
    "proportional": {"stabilizer": 0.0},
    "share": {"stabilizer": 0.0, "residual": "signed"},
    "signal": {},
    "affine": {"epsilon": 1e-6},
    "hedge_start": {},
    "hedge": {"gamma": 1.0, "terms": "CAUS"},
    "hedge_share": {},
    "hedge_average": {},
    "excitation": {},
    "excitation_top": {"negated": False},
    "difference": {},
    "contrast": {},
    "above_zero": {},
}
"""The parameters of each rule, and their defaults."""

LAYERS = [
    example
    for example in EXAMPLES
    if example.name
    in (
        "linear",
        "linear without bias",
        "linear along an axis",
        "conv strided 2-d",
        "conv grouped 1-d",
        "transposed grouped 1-d",
    )
]


def layer_of(example: Example, x: torch.Tensor, final: bool = True) -> Layer:
    weight, bias = example.module.weight, example.module.bias
    layer = Layer.of(example.operator, x, weight.detach(), None if bias is None else bias.detach())
    layer.final = final
    return layer


@dataclass(frozen=True)
class Whole:
    """A dense layer of whole numbers, where sums are zero exactly."""

    x: torch.Tensor
    w: torch.Tensor
    b: torch.Tensor
    r: torch.Tensor

    @property
    def layer(self) -> Layer:
        return Layer.of(Linear(), self.x, self.w, self.b)


def whole_numbers() -> Whole:
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=draw).double()

    return Whole(numbers(40, 4), numbers(6, 4), numbers(6), numbers(40, 6))


WEIGHTS = [
    Setting("alpha_beta", alpha_beta, {"alpha": alpha, "beta": beta, "bias": "sink"})
    for alpha, beta in ((3.0, 2.0), (0.0, 1.0), (2.0, 0.0), (0.5, 0.25), (0.0, 0.0))
]


def lrp_cases() -> Iterator[Case]:
    for example in LAYERS:
        x = samples(example, "mixed")
        layer, r = layer_of(example, x), relevance_of(example, x)
        for setting in filter(
            None, (suited(setting, example) for setting in (*WEIGHTS, *SETTINGS))
        ):
            expected = setting.expected(example, x, r)
            yield Case(setting.rule, layer, x, r, expected, setting.parameters)
    whole = whole_numbers()
    for setting in SETTINGS:
        if setting.rule == "flat" or setting.parameters.get("low") == "one per channel":
            continue
        given = {"bias": "ignored", "stabilizer": 0.0, **setting.parameters}
        b = whole.b.numpy() * (given.pop("bias") == "sink")
        rows = []
        for x, r in zip(whole.x.numpy(), whole.r.numpy(), strict=True):
            for key, extreme in (("low", np.min), ("high", np.max)):
                if setting.parameters.get(key) == "per_sample":
                    given[key] = extreme(x)
            w = whole.w.numpy()
            rows.append(setting.reference(x, w, np.ones_like(w), b, r, **given).sum(0))
        expected = torch.from_numpy(np.stack(rows))
        yield Case(setting.rule, whole.layer, whole.x, whole.r, expected, setting.parameters)
    pool, x = AvgPool((3, 2), (2, 2), (1, 0)), torch.randn(3, 2, 5, 4, dtype=torch.float64)
    r = torch.randn(3, 2, 3, 2, dtype=torch.float64)
    windows = matrix(pool, (2, 5, 4)) != 0
    even = r.flatten(1) @ torch.from_numpy(windows / windows.sum(1, keepdims=True))
    yield Case("flat", Layer.of(pool, x), x, r, even.reshape(x.shape))
    for rule, message, parameters in (
        ("flat", "means nothing on the dense layer 'layer'", {}),
        ("epsilon", "epsilon must be positive, not 0", {"epsilon": 0.0}),
        ("epsilon", "epsilon must be positive, not -0.1", {"epsilon": -0.1}),
        ("alpha_beta", "must not be negative, not 0.5 and -0.5", {"alpha": 0.5, "beta": -0.5}),
        ("alpha_beta", "must not be negative, not -0.5 and 0", {"alpha": -0.5, "beta": 0.0}),
        ("alpha_beta", "must not be negative, not -0.5 and -1.5", {"alpha": -0.5, "beta": -1.5}),
        ("gamma", "gamma must not be negative", {"gamma": -1.0}),
        ("z", "bias is 'sink' or 'ignored', not 'kept'", {"bias": "kept"}),
        ("zB", "or 'per_sample', not 'lowest'", {"low": "lowest"}),
        ("zB", "reads 4 channels, but the bound has 2 numbers", {"low": (0.0, 1.0)}),
        ("zB", "is the same at all places of a channel", {"low": [(0.0, 1.0)] * 4}),
    ):
        yield Case(rule, whole.layer, whole.x, whole.r, message, parameters)


@dataclass(frozen=True)
class Subject:
    """A layer as a reference sees it: its matrix, its bias on every unit, how many channels."""

    layer: Layer
    x: torch.Tensor
    r: torch.Tensor
    weight: np.ndarray
    bias: np.ndarray
    channels: int

    def case(
        self,
        rule: str,
        reference: Callable[[np.ndarray, np.ndarray], np.ndarray],
        layer: Layer | None = None,
        **parameters: Any,
    ) -> Case:
        """Run a reference ``(x, r) -> relevance`` on every sample."""
        pairs = zip(self.x.flatten(1).numpy(), self.r.flatten(1).numpy(), strict=True)
        rows = np.stack([reference(x, r) for x, r in pairs])
        expected = torch.from_numpy(rows).reshape(self.x.shape)
        return Case(rule, layer or self.layer, self.x, self.r, expected, parameters)


def subjects() -> Iterator[Subject]:
    for example, signs in product(LAYERS, ("mixed", "non-negative")):
        x = samples(example, signs)
        layer, known = layer_of(example, x), dense(example)
        channels = 1 if layer.bias is None else len(layer.bias)
        yield Subject(layer, x, relevance_of(example, x), known.weight, known.bias, channels)
    whole = whole_numbers()
    weight, bias = whole.w.numpy(), whole.b.numpy()
    yield Subject(whole.layer, whole.x, whole.r, weight, bias, len(bias))


def rap_cases() -> Iterator[Case]:
    for subject in subjects():
        yield from cases_of_rap(subject)
        yield from cases_of_rap_bn(subject)
    yield from compensate_cases()
    whole = whole_numbers()
    for rule, message, parameters in (
        ("rap", "negative is 'both' or 'inhibitory', not 'none'", {"negative": "none"}),
        ("rap", "active is 'input' or 'support', not 'all'", {"active": "all"}),
        ("rap", "nu is 'inhibitory' or 'printed', not 'text'", {"nu": "text"}),
        ("compensate", "units is 'active' or 'all', not 'none'", {"units": "none"}),
        ("rap_bn_input", "input is 'zB' or 'flow', not 'none'", {"input": "none"}),
        ("rap_bn", "lost is 'drop' or 'spread', not 'kept'", {"lost": "kept"}),
        ("rap_bn", "inversion_sign is 1 or -1, not 2", {"inversion_sign": 2.0}),
        ("rap_bn", "inversion_sign is 1 or -1, not -10", {"inversion_sign": -10.0}),
    ):
        yield Case(rule, whole.layer, whole.x, whole.r, message, parameters)


def cases_of_rap(subject: Subject) -> Iterator[Case]:
    w = subject.weight
    for final in (True, False):
        layer = Layer(**{**vars(subject.layer), "final": final})
        start = partial(reference.rap_logits, w, final=final)
        yield subject.case("rap_start", start, layer)
    convolution = not isinstance(subject.layer.operator, Linear)
    for negative, active in product(("both", "inhibitory"), ("input", "support")):
        given = {"negative": negative, "active": active}
        hidden = partial(reference.rap_hidden, w, convolution=convolution, **given)
        yield subject.case("rap", hidden, **given)
        hidden = partial(hidden, numerator="printed")
        yield subject.case("rap", hidden, **given, nu="printed")


def cases_of_rap_bn(subject: Subject) -> Iterator[Case]:
    w, parts = subject.weight, {1: reference.excited, -1: reference.inhibited}

    def carried(
        contributions: Callable[[np.ndarray], np.ndarray],
        kappa: int,
        sign: float,
        lost: str,
        x: np.ndarray,
        r: np.ndarray,
    ) -> np.ndarray:
        """Compensate the bias, and divide by shares; contributions of x are ``[out, in]``."""
        r = reference.compensated_bias(subject.bias, subject.channels, r, kappa)
        shares = contributions(x)
        return reference.by_shares(lambda j: shares[j], x, r, sign, lost)

    yield subject.case("rap_bn_start", partial(reference.rap_bn_logits, w))
    for kappa, sign, lost in product((1, -1), (1.0, -1.0), ("drop", "spread")):
        hidden = partial(
            carried,
            lambda x, part=parts[kappa]: part(x * w),
            kappa,
            sign if kappa < 0 else 1.0,
            lost,
        )
        given = {"kappa": float(kappa), "inversion_sign": sign, "lost": lost}
        yield subject.case("rap_bn", hidden, **given)
        yield subject.case("rap_bn_input", hidden, input="flow", **given)
    for kappa, lost in product((1, -1), ("drop", "spread")):
        given = {"kappa": float(kappa), "lost": lost}

        def within(x: np.ndarray, low: Any = np.min, high: Any = np.max) -> np.ndarray:
            low, high = (b(x) if callable(b) else b for b in (low, high))
            return (x - low) * plus(w) + (x - high) * negative_part(w)

        boxed = partial(carried, within, kappa, 1.0, lost)
        yield subject.case("rap_bn_input", boxed, **given)
        boxed = partial(carried, partial(within, low=-2.0, high=1.5), kappa, 1.0, lost)
        yield subject.case("rap_bn_input", boxed, low=-2.0, high=1.5, **given)


def compensate_cases() -> Iterator[Case]:
    draw = torch.Generator().manual_seed(0)
    z, r = torch.randn(2, 4, 3, 2, 5, generator=draw, dtype=torch.float64)
    r[:, :, 0] = 0.0
    r[1] = 0.0
    scale, shift = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    s = scale.reshape(3, 1, 1) * z + shift.reshape(3, 1, 1) - z
    for kappa, units in product((1.0, -1.0), ("active", "all")):
        pairs = zip(s.flatten(1).numpy(), r.flatten(1).numpy(), strict=True)
        rows = np.stack([reference.compensated_norm(*pair, int(kappa), units) for pair in pairs])
        layer = Layer(BatchNorm(), operands=(z, scale, shift))
        expected = torch.from_numpy(rows).reshape(z.shape)
        yield Case("compensate", layer, z, r, expected, {"kappa": kappa, "units": units})


def structure_cases() -> Iterator[Case]:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=draw).double()

    x, r = random(3, 4, 5, 6), random(3, 4, 5, 6)
    yield Case("pass", Layer.of(Permute((0, 1, 2, 3)), x), x, r, r)
    for layer, given in (
        (Layer.of(AvgPool((2, 2), (1, 1), (0, 0)), x), random(3, 4, 4, 5)),
        (Layer(Add(), operands=(x, r), signal=(0, 1)), r),
    ):
        yield Case("pass", layer, x, given, "one value of its own shape")
    yield from rearranged(x, random)
    # Max pools: whole numbers tie
    x, pool = whole(3, 2, 5, 6), MaxPool((3, 3), (2, 2), (1, 1), (1, 1))
    r, expected = random(3, 2, 3, 3), torch.zeros(3, 2, 5, 6, dtype=torch.float64)
    for n, c, i, j in np.ndindex(*r.shape):
        window = [(y, z) for y in range(2 * i - 1, 2 * i + 2) for z in range(2 * j - 1, 2 * j + 2)]
        cells = [(y, z) for y, z in window if 0 <= y < 5 and 0 <= z < 6]
        best = max(cells, key=lambda cell: float(x[n, c, *cell]))
        expected[n, c, *best] += r[n, c, i, j]
    yield Case("winner", Layer.of(pool, x), x, r, expected)
    # The larger of two values has all, the first one where they are equal; beside a constant, all
    first, second, r = whole(3, 4, 5), whole(3, 4, 5), random(3, 4, 5)
    ahead = r * (first >= second)
    for signal, parts in (((0, 1), (ahead, r - ahead)), ((0,), (r,)), ((1,), (r,))):
        layer = Layer.of(Maximum(), (first, second))
        layer.signal = signal
        yield Case("winner", layer, (first, second), r, parts)
    yield from averaged(whole(3, 2, 5, 6), random(3, 2, 3, 3))
    yield from shared(whole, random)
    r = random(2, 3)
    for signal, parts in (((0,), (r,)), ((1,), (r,)), ((0, 1), (r / 2, r / 2))):
        yield Case("signal", Layer(Multiply(), signal=signal), (r, r), r, parts)
    yield from affine_cases(random)


def rearranged(x: torch.Tensor, random: Callable[..., torch.Tensor]) -> Iterator[Case]:
    for operator in (Permute((0, 2, 3, 1)), Reshape((-1, 120)), Slice(2, 1, 5, 2)):
        y = operator(x)
        r = random(*y.shape)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(operator(leaf), leaf, r)
        yield Case("rearrange", Layer.of(operator, x), x, r, expected)
    parts = [random(3, channels, 2) for channels in (1, 2, 3)]
    r = random(3, 6, 2)
    slices = (r[:, :1], r[:, 1:3], r[:, 3:])
    for signal in ((0, 1, 2), (0, 2), (1,)):
        layer = Layer.of(Cat(1), tuple(parts))
        layer.signal = signal
        yield Case("rearrange", layer, tuple(parts), r, tuple(slices[i] for i in signal))


def averaged(x: torch.Tensor, r: torch.Tensor) -> Iterator[Case]:
    """Averages: by shares; whole numbers average to zero, and then spread evenly."""
    x[1] = 0.0
    pool = AvgPool((3, 3), (2, 2), (1, 1))
    weight = matrix(pool, (2, 5, 6))
    inside = (weight != 0) / (weight != 0).sum(1, keepdims=True)
    for stabilizer in (0.0, 1e-6, 0.5):
        rows = []
        for cells, handed in zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True):
            contributions = cells * weight
            row = by_shares(contributions, handed, 0.0, stabilizer).sum(0)
            # exactly zero: the sum of whole numbers, before it is divided
            empty = (cells * (weight != 0)).sum(1) == 0
            rows.append(row + (0.0 if stabilizer else (empty * handed) @ inside))
        expected = torch.from_numpy(np.stack(rows)).reshape(x.shape)
        layer = Layer.of(pool, x)
        yield Case("proportional", layer, x, r, expected, {"stabilizer": stabilizer})


def shared(
    whole: Callable[..., torch.Tensor], random: Callable[..., torch.Tensor]
) -> Iterator[Case]:
    """Residual adds, with sums and operands of zero among them."""
    r = random(8, 20)
    for operator, count in ((Add(), 2), (Add(), 3), (Subtract(), 2)):
        x = tuple(whole(8, 20) for _ in range(count))
        layer = Layer.of(operator, x)
        terms = np.stack([x[0], -x[1] if isinstance(operator, Subtract) else x[1], *x[2:]])
        for stabilizer in (0.0, 1e-6, 0.5):
            parts = terms * over(r.numpy(), terms.sum(0), stabilizer)
            expected = tuple(map(torch.from_numpy, parts))
            given = {"residual": "signed", "stabilizer": stabilizer}
            yield Case("share", layer, x, r, expected, given)
        sizes = np.abs(terms)
        even = np.where(sizes.sum(0) == 0, r.numpy() / count, 0.0)
        parts = sizes * over(r.numpy(), sizes.sum(0), 0.0) + even
        expected = tuple(map(torch.from_numpy, parts))
        yield Case("share", layer, x, r, expected, {"residual": "absolute"})
        one = Layer.of(operator, x)
        one.signal = (1,)
        yield Case("share", one, x, r, (r,))
    message = "residual is 'signed' or 'absolute', not 'squared'"
    yield Case("share", layer, x, r, message, {"residual": "squared"})


def affine_cases(random: Callable[..., torch.Tensor]) -> Iterator[Case]:
    x, r, scale, shift = random(3, 4, 2, 2), random(3, 4, 2, 2), random(4), random(4)
    column = (4, 1, 1)
    groups = x.reshape(3, 2, 8)
    deviation = (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    deviation = deviation.expand(3, 2, 8).reshape(x.shape)
    operators: list[tuple[Operator, torch.Tensor | float, Any]] = [
        (BatchNorm(), 1.0, x),
        (GroupNorm(2), deviation, (groups - groups.mean(2, keepdim=True)).reshape(x.shape)),
    ]
    for operator, width, centered in operators:
        slope = scale.reshape(column) / width
        y = slope * centered + shift.reshape(column)
        for epsilon in (1e-6, 0.3):
            share = torch.from_numpy(over(r.numpy(), y.numpy(), epsilon))
            layer = Layer(operator, operands=(x, scale, shift))
            yield Case("affine", layer, x, r, x * slope * share, {"epsilon": epsilon})


def hedge_cases() -> Iterator[Case]:
    draw = torch.Generator().manual_seed(0)
    yield from started(draw)
    x = torch.randint(-2, 3, (3, 8, 20), generator=draw).double()
    r = torch.randn(8, 20, generator=draw, dtype=torch.float64)
    for operator, count in ((Add(), 2), (Add(), 3), (Subtract(), 2)):
        operands = tuple(x[:count])
        layer = Layer.of(operator, operands)
        terms = [x[0], -x[1]] if isinstance(operator, Subtract) else list(operands)
        parts = hedge_reference.shared([t.numpy().flatten() for t in terms], r.numpy().flatten())
        expected = tuple(torch.from_numpy(part).reshape(r.shape) for part in parts)
        yield Case("hedge_share", layer, operands, r, expected)
        one = Layer.of(operator, operands)
        one.signal = (1,)
        yield Case("hedge_share", one, operands, r, (r,))
    pool = AvgPool((3, 3), (2, 2), (1, 1))
    x = torch.randint(-2, 3, (3, 2, 5, 6), generator=draw).double()
    x[1] = -1.0
    r = torch.randn(3, 2, 3, 3, generator=draw, dtype=torch.float64)
    weight = matrix(pool, (2, 5, 6))
    pairs = zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True)
    rows = np.stack([hedge_reference.averaged(weight, *pair) for pair in pairs])
    layer = Layer.of(pool, x)
    yield Case("hedge_average", layer, x, r, torch.from_numpy(rows).reshape(x.shape))
    yield from pointwise_cases()
    for subject in subjects():
        weight = subject.layer.weight
        spatial = not isinstance(subject.layer.operator, Linear)
        pointwise = not (spatial and any(length > 1 for length in weight.shape[2:]))
        for gamma, tau in ((1.0, 1.0), (1.5, 0.75), (2.0, 1.0)):
            layer = Layer(**{**vars(subject.layer), "budget": tau})
            given = {"tau": tau, "gamma": gamma, "pointwise": pointwise}
            hedged = partial(hedge_reference.hedged, subject.weight, **given)
            yield subject.case("hedge", hedged, layer, gamma=gamma)
            for terms in ("C", "A", "U", "S", "C,A", ("U", "S"), "A S"):
                hedged = partial(hedge_reference.hedged, subject.weight, terms=terms, **given)
                yield subject.case("hedge", hedged, layer, gamma=gamma, terms=terms)
        for terms in ("", "CAUX", ("C", "caus")):
            message = "terms names some of C, A, U and S, such as 'CAUS' or 'C,A', not "
            yield Case("hedge", layer, subject.x, subject.r, message, {"terms": terms})
        for gamma in (0.5, 2.5):
            message = f"gamma lies between 1 and 2, not {gamma}"
            yield Case("hedge", layer, subject.x, subject.r, message, {"gamma": gamma})


def pointwise_cases() -> Iterator[Case]:
    """Kernels of size 1 everywhere, and but for one axis."""
    draw = torch.Generator().manual_seed(0)
    x, r = torch.randn(2, 3, 4, 5, 6, generator=draw, dtype=torch.float64)
    for size in ((1, 1), (3, 1), (1, 3)):
        module = nn.Conv2d(4, 4, size, padding=tuple(k // 2 for k in size), bias=False).double()
        w, _ = reference.matrix_of(module, (4, 5, 6))
        operator = Conv((1, 1), tuple(k // 2 for k in size), (1, 1))
        layer = Layer.of(operator, x, module.weight.detach())
        layer.budget = 1.0
        given = {"tau": 1.0, "gamma": 1.5, "pointwise": size == (1, 1)}
        pairs = zip(x.flatten(1).numpy(), r.flatten(1).numpy(), strict=True)
        rows = np.stack([hedge_reference.hedged(w, *pair, **given) for pair in pairs])
        expected = torch.from_numpy(rows).reshape(x.shape)
        yield Case("hedge", layer, x, r, expected, {"gamma": 1.5})


def started(draw: torch.Generator) -> Iterator[Case]:
    x = torch.randn(4, 3, 2, 5, generator=draw, dtype=torch.float64)
    r = torch.randn(4, 3, 2, 5, generator=draw, dtype=torch.float64)
    x[2] = 0.0
    x[2, 0, 0, :2] = torch.tensor([1.0, -1.0])
    x[3] = 0.0
    g = x * r.mean((2, 3), keepdim=True)
    sums, sizes = g.sum((1, 2, 3)).abs(), g.abs().sum((1, 2, 3))
    below = torch.stack([sums[0], sums[1], sizes[2], torch.ones_like(sums[3])])
    expected = g / below.reshape(4, 1, 1, 1)
    yield Case("hedge_start", Layer(None), x, r, expected)
    last = Layout(((Factor(PLACE, 2),), (Factor(PLACE, 5),), (Factor(CHANNEL, 3),)))
    moved = (part.movedim(1, -1) for part in (x, r, expected))
    yield Case("hedge_start", Layer(None, layout=last), *moved)


def excitation_cases() -> Iterator[Case]:
    for subject in subjects():
        w = subject.weight
        for rule, weight, given in (
            ("excitation", w, {}),
            ("excitation_top", w, {}),
            ("excitation_top", w, {"negated": False}),
            ("excitation_top", -w, {"negated": True}),
        ):

            def excited(x: np.ndarray, r: np.ndarray, weight: np.ndarray = weight) -> np.ndarray:
                shares = np.maximum(x, 0.0) * plus(weight)
                return reference.by_shares(lambda j: shares[j], x, r, 1.0, "drop")

            yield subject.case(rule, excited, **given)
    draw = torch.Generator().manual_seed(0)
    x, first, second = torch.randn(3, 4, 2, 5, generator=draw, dtype=torch.float64)
    second[0] = 0.0
    factor = first.sum((1, 2)) / torch.where(second.sum((1, 2)) == 0, 1.0, second.sum((1, 2)))
    contrasted = first - second * factor.reshape(4, 1, 1)
    flows: Any = (first, second)
    yield Case("difference", Layer(None), x, flows, first - second)
    yield Case("contrast", Layer(None), x, flows, contrasted)
    yield Case("above_zero", Layer(None), x, first, first.clamp(min=0))


CASES = {
    "lrp": lrp_cases,
    "rap": rap_cases,
    "structure": structure_cases,
    "hedge": hedge_cases,
    "excitation": excitation_cases,
}


@cache
def cases(module: str) -> list[Case]:
    torch.manual_seed(0)
    return list(CASES[module]())


def complaint(module: str, rules: Mapping[str, Rule]) -> str | None:
    """What is wrong with the rules of a module, None where nothing is."""
    for name, made in rules.items():
        if dict(made.parameters) != DEFAULTS[name]:
            return f"the defaults of {name}"
    return next((str(case) for case in cases(module) if not case.holds(rules)), None)


def noticed(module: str, mutant: Mutant) -> bool:
    try:
        return complaint(module, mutant.run(MODULES[module])) is not None
    except Exception:
        return True


def assert_listed(unnoticed: set[str], function: str) -> None:
    """Every change that nothing notices is known to change nothing, and none is known in vain."""
    listed = {text for text in EQUIVALENT if text.startswith(f"{function}: ")}
    problems = [f"nothing notices  {text}" for text in sorted(unnoticed - listed)]
    problems += [f"listed in vain  {text}" for text in sorted(listed - unnoticed)]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


FUNCTIONS = [(name, function) for name, made in MODULES.items() for function in functions_of(made)]


@pytest.mark.parametrize("module", MODULES)
def test_rules_as_they_are(module: str) -> None:
    """Nothing to complain of, and no rule forgotten."""
    rules = {
        name: made
        for name, made in RULES.items()
        if made.function.__module__ == MODULES[module].__name__
    }
    assert complaint(module, rules) is None
    assert {case.rule for case in cases(module)} == rules.keys()


def test_defaults_are_of_rules() -> None:
    ours = {name for name, made in RULES.items() if made.function.__module__ in OURS}
    assert ours == DEFAULTS.keys()


OURS = {made.__name__ for made in MODULES.values()}


@pytest.mark.parametrize(("module", "function"), FUNCTIONS, ids=[".".join(f) for f in FUNCTIONS])
def test_every_change_of_a_rule_is_noticed(module: str, function: str) -> None:
    mutants = list(mutants_of(MODULES[module], function))
    unnoticed = {
        f"{module}.{function}: {mutant.line}" for mutant in mutants if not noticed(module, mutant)
    }
    assert_listed(unnoticed, f"{module}.{function}")


# The functions that rules are written with


ZERO_COLUMN = (slice(None), slice(None), 0)


def helper_cases() -> Iterator[tuple[str, tuple[Any, ...], torch.Tensor]]:
    """``(function, arguments, result)``."""

    def numbers(*given: Any) -> torch.Tensor:
        return torch.tensor(given, dtype=torch.float64)

    z = numbers(3.0, 0.0, -0.0, -2.0)
    yield "stabilize", (z, 0.5), numbers(3.5, 0.5, 0.5, -2.5)
    a = numbers(1.0, 1.0, 0.0, -2.0, 1.0, -1.0, 1e300, -1e300, torch.nan)
    c = numbers(0.0, -0.0, 0.0, 4.0, 1e-320, -1e-320, 1e-100, 1e-100, 1.0)
    quotients = numbers(0.0, 0.0, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, torch.nan)
    yield "divide_or_zero", (a, c), quotients
    halves = numbers([0.5, 1.0], [1.5, 2.0])
    yield "divide_or_zero", (numbers([1.0, 2.0], [3.0, 4.0]), numbers(2.0)), halves
    yield "divide_or_zero", (numbers(2.0), numbers([4.0, 0.0])), numbers([0.5, 0.0])
    yield "divide_or_zero", (2.0, numbers(4.0, 0.0)), numbers(0.5, 0.0)
    x = numbers([[1.0, -3.0], [5.0, 2.0]], [[-1.0, -2.0], [-4.0, -1.0]])
    yield "total", (x,), numbers([[5.0]], [[-8.0]])
    yield "smallest", (x,), numbers([[-3.0]], [[-4.0]])
    yield "largest", (x,), numbers([[5.0]], [[-1.0]])
    scale, shift = numbers(2.0, -1.0), numbers(0.5, 3.0)
    scaled = numbers([[2.5, -5.5], [-2.0, 1.0]], [[-1.5, -3.5], [7.0, 4.0]])
    yield "batch_norm", (x, scale, shift), scaled
    yield "batch_norm", (x[ZERO_COLUMN], scale, shift), scaled[ZERO_COLUMN]
    logits = numbers([1.0, 3.0, -2.0], [4.0, 0.0, 5.0])
    weights = numbers([1.0, 0.5, 0.0], [0.0, 7.0, -1.0])
    index = torch.tensor([2, 0])
    yield "at_target", (logits, None), numbers([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    yield "at_target", (logits, 0), numbers([1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    yield "at_target", (logits, index), numbers([0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    yield "at_target", (logits, weights), weights
    yield "at_target", (logits[:, :1], numbers([0.0], [0.5])), numbers([0.0], [0.5])
    places = numbers([[1.0, 2.0], [4.0, -3.0]], [[1.0, 1.0], [9.0, 9.0]])
    yield "at_target", (places, None), numbers([[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]])
    ones = numbers([[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]])
    yield "at_target", (places, torch.tensor([1, 0])), ones
    yield "target_of", (None, logits), torch.tensor([1, 2])
    yield "target_of", (torch.tensor([0, -1]), logits), torch.tensor([0, 2])
    yield "target_of", (torch.tensor([-1, 1]), places), torch.tensor([0, 1])
    yield "target_of", (weights.float(), logits), weights


def helper_complaint(functions: Mapping[str, Any]) -> str | None:
    for name, arguments, expected in helper_cases():
        found = functions[name](*arguments)
        same = found.shape == expected.shape and found.dtype == expected.dtype
        if not (same and torch.allclose(found, expected, equal_nan=True)):
            return f"{name}{arguments}"
    return None


def helper_noticed(mutant: Mutant) -> bool:
    functions = {"__name__": helpers.__name__}
    exec(mutant.code, functions)
    try:
        return helper_complaint(functions) is not None
    except Exception:
        return True


def test_every_change_of_a_helper_is_noticed() -> None:
    assert helper_complaint(vars(helpers)) is None
    for function in {name for name, _, _ in helper_cases()}:
        unnoticed = {
            f"helpers.{function}: {mutant.line}"
            for mutant in mutants_of(helpers, function)
            if not helper_noticed(mutant)
        }
        assert_listed(unnoticed, f"helpers.{function}")


# The tables of the methods


class Roles(nn.Module):
    """A layer of each role, batch norms that can be merged and can't, an add and two pools."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, 4, 3)
        self.merged = nn.BatchNorm2d(4)
        self.maximum = nn.MaxPool2d(2)
        self.left = nn.BatchNorm2d(4)
        self.stack = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.average = nn.AvgPool2d(2)
        self.dense = nn.Linear(36, 5)
        self.logits = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maximum(torch.relu(self.merged(self.input(x))))
        y = self.stack(torch.relu(self.left(x))) + self.shortcut(x)
        y = torch.flatten(self.average(torch.relu(y)), 1)
        return self.logits(torch.relu(self.dense(y)))


class Single(nn.Module):
    """One layer, which has the roles of an input layer, of the dense head and of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Linear(3 * 14 * 14, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.single(torch.flatten(x, 1))


LABELS = {*dict(Roles().named_children()), "add", "single"}


@cache
def tagged(network_of: type[nn.Module], batch_norm: str) -> Network:
    """A network with its roles, under a strategy for batch norms."""
    torch.manual_seed(0)
    program = capture(network_of().eval(), torch.zeros(2, 3, 14, 14))
    steps = analysis_steps(METHODS["lrp_z"], {"batch_norm": batch_norm})
    assert steps[-1].name == "assign_rules"
    return Pipeline().run(steps[:-1], program)


Given = tuple[str, dict[str, Any]]
"""The name of a rule, and its parameters."""

IGNORED = {"bias": "ignored", "stabilizer": 0.0}
SINK = {"bias": "sink", "stabilizer": 1e-6}
SMALL = {"epsilon": 1e-6}
ONE, TWO = {"alpha": 1.0, "beta": 0.0}, {"alpha": 2.0, "beta": 1.0}
PER_SAMPLE = {"low": "per_sample", "high": "per_sample"}
EXACT_FLAT, STABLE_FLAT = ("flat", {"stabilizer": 0.0}), ("flat", {"stabilizer": 1e-6})
EXACT_BOX = ("zB", {**PER_SAMPLE, "stabilizer": 0.0})
STABLE_BOX = ("zB", {**PER_SAMPLE, "stabilizer": 1e-6})
HIDDEN_EPSILON = ("epsilon", {"epsilon": 1e-6, "bias": "ignored"})
STABLE_EPSILON = ("epsilon", {"epsilon": 1e-6, "bias": "sink"})
PRESET_EPSILON = ("epsilon", {"epsilon": 0.1, "bias": "sink"})
BN_FLOW = {"kappa": 1.0, "lost": "spread", "inversion_sign": -1.0}


@dataclass(frozen=True)
class Row:
    """A line of methods.md's table: the rule of each role, and the method's parameters.

    An input layer without rule of its own gets that of the conv stack, the logit layer that of the
    dense head. ``stabilizer`` and ``residual`` are those of poolings and residual adds.
    """

    dense: Given
    stack: Given
    parameters: dict[str, Any]
    input: Given | None = None
    logits: Given | None = None
    stabilizer: float = 0.0
    residual: str = "signed"
    batch_norm: str = "merge"
    norms: Given = ("pass", {})

    def rules(self) -> dict[str, Given]:
        """The rule of each layer of `Roles`."""
        norms = ["left"] if self.batch_norm == "merge" else ["merged", "left"]
        return {
            "input": self.input or self.stack,
            "maximum": ("winner", {}),
            "stack": self.stack,
            "shortcut": self.stack,
            "add": ("share", {"stabilizer": self.stabilizer, "residual": self.residual}),
            "average": ("proportional", {"stabilizer": self.stabilizer}),
            "dense": self.dense,
            "logits": self.logits or self.dense,
            **dict.fromkeys(norms, self.norms),
        }

    def single(self) -> Given:
        """The rule of a layer of every role: a flat rule by depth leaves the dense head alone."""
        own = self.dense if "flat_layers" in self.parameters else self.input
        return self.logits or own or self.dense


def everywhere(rule: str, bias: str, **parameters: Any) -> Row:
    """One rule on every layer, divided by exactly."""
    stabilized = {} if rule == "epsilon" else {"stabilizer": 0.0}
    given = (rule, {**parameters, "bias": bias, **stabilized})
    return Row(given, given, {**parameters, "bias": bias, "stabilizer": 0.0, "start": "logit"})


def cmp(weights: dict[str, Any], *, flat: bool) -> Row:
    parameters = {**SMALL, **weights, **IGNORED, "start": "logit"}
    if flat:
        parameters["flat_layers"] = 1
    stack = ("alpha_beta", {**weights, **IGNORED})
    return Row(HIDDEN_EPSILON, stack, parameters, EXACT_FLAT if flat else None)


def stabilized(
    rule: str, own: dict[str, Any], dense: Given = STABLE_EPSILON, input: Given | None = None
) -> Row:
    """Every denominator stabilized, the bias a sink."""
    parameters = {"epsilon": dense[1]["epsilon"], **own, **SINK, "start": "logit"}
    if input == STABLE_BOX:
        parameters |= PER_SAMPLE
    return Row(dense, (rule, {**own, **SINK}), parameters, input, stabilizer=1e-6)


TABLE: dict[str, Row] = {
    "lrp_z": everywhere("z", "sink"),
    "lrp_epsilon": everywhere("epsilon", "sink", epsilon=1e-6),
    "lrp_alpha1_beta0": everywhere("alpha_beta", "ignored", alpha=1.0, beta=0.0),
    "lrp_alpha2_beta1": everywhere("alpha_beta", "ignored", alpha=2.0, beta=1.0),
    "lrp_cmp_alpha1": cmp(ONE, flat=False),
    "lrp_cmp_alpha2": cmp(TWO, flat=False),
    "lrp_cmp_alpha1_flat": cmp(ONE, flat=True),
    "lrp_cmp_alpha2_flat": cmp(TWO, flat=True),
    "epsilon_plus": stabilized("z_plus", {}),
    "epsilon_plus_flat": stabilized("z_plus", {}, input=STABLE_FLAT),
    "epsilon_alpha2_beta1": stabilized("alpha_beta", TWO),
    "epsilon_alpha2_beta1_flat": stabilized("alpha_beta", TWO, input=STABLE_FLAT),
    "epsilon_gamma_box": stabilized("gamma", {"gamma": 0.25}, input=STABLE_BOX),
    "preset_a": stabilized("alpha_beta", ONE, PRESET_EPSILON),
    "preset_b": stabilized("alpha_beta", TWO, PRESET_EPSILON),
    "deep_taylor": Row(
        ("z_plus", IGNORED),
        ("z_plus", IGNORED),
        {**PER_SAMPLE, **IGNORED, "start": "logit"},
        EXACT_BOX,
    ),
    "rap": Row(
        ("rap", {"negative": "both", "active": "input", "nu": "inhibitory"}),
        ("rap", {"negative": "both", "active": "input", "nu": "inhibitory"}),
        {
            "negative": "both",
            "active": "input",
            "residual": "absolute",
            "nu": "inhibitory",
            "authors": False,
            **PER_SAMPLE,
        },
        EXACT_BOX,
        ("rap_start", {}),
        residual="absolute",
        batch_norm="pass",
    ),
    "rap-bn": Row(
        ("rap_bn", BN_FLOW),
        ("rap_bn", BN_FLOW),
        {
            "inversion_sign": -1.0,
            "units": "active",
            "input": "zB",
            "lost": "spread",
            "residual": "absolute",
            **PER_SAMPLE,
        },
        ("rap_bn_input", {**BN_FLOW, "input": "zB", **PER_SAMPLE}),
        ("rap_bn_start", {}),
        residual="absolute",
        batch_norm="compensate",
        norms=("compensate", {"kappa": 1.0, "units": "active"}),
    ),
}
"""The methods of methods.md, sections 1 to 3, written down once more."""

FLOWS = {"rap-bn": [("normal", {"kappa": 1.0}), ("inversed", {"kappa": -1.0})]}
AUTHORS = ("rap", {"negative": "inhibitory", "active": "support", "nu": "inhibitory"})


def rules_given(method: Method, network_of: type[nn.Module], **parameters: Any) -> dict[str, Given]:
    """The rule that a method gives each layer that a network names, and its add."""
    network = tagged(network_of, method.batch_norm)
    assign_rules(network, method, resolve_parameters(method, parameters))
    given = {}
    for node in network.layers:
        label = "add" if isinstance(node.target, Add) else facts_of(node).label
        if label in LABELS:
            rule = facts_of(node).rule
            given[label] = (rule.rule.name, dict(rule.parameters))
    return given


def refused(method: Method, **parameters: Any) -> bool:
    try:
        resolve_parameters(method, parameters)
    except MethodError:
        return True
    return False


def wrong_tables(found: Mapping[str, Method]) -> str | None:
    """Which method isn't what is written above, None where all are."""
    for name, row in TABLE.items():
        method = found[name]
        resolved = resolve_parameters(method, {})
        if resolved != {**row.parameters, "batch_norm": row.batch_norm, "norm": "pass"}:
            return f"the parameters of {name}"
        if rules_given(method, Roles) != row.rules():
            return f"the rules of {name}"
        if list(map(tuple, method.flows)) != FLOWS.get(name, [("", {})]):
            return f"the flows of {name}"
        if rules_given(method, Single) != {"single": row.single()}:
            return f"the rule of {name} for a network of one layer"
        if "flat_layers" in row.parameters:
            flat = ("input", "maximum", "stack", "shortcut", "average")
            for count, labels in ((0, []), (2, flat), (5, flat)):
                rules = {**row.rules(), "input": row.stack, **dict.fromkeys(labels, EXACT_FLAT)}
                if rules_given(method, Roles, flat_layers=count) != rules:
                    return f"the layers of {name} that are flat"
            if not refused(method, flat_layers=-1):
                return f"the limits of {name}"
    if not refused(found["rap-bn"], batch_norm="merge"):
        return "what rap-bn refuses"
    signed = ("share", {"stabilizer": 0.0, "residual": "signed"})
    given = rules_given(found["rap"], Roles, authors=True)
    expected = {**TABLE["rap"].rules(), "stack": AUTHORS, "shortcut": AUTHORS, "dense": AUTHORS}
    return None if given == {**expected, "add": signed} else "the authors' variant of rap"


def changed_table(node: ast.AST, known: set[str]) -> Iterator[ast.AST]:
    """What one node of the tables can become, entries left out and exchanged among it."""
    match node:
        case ast.Tuple(entries, ast.Load()) | ast.List(entries, ast.Load()):
            for index in range(len(entries)):
                yield type(node)(entries[:index] + entries[index + 1 :], ast.Load())
            for index in range(len(entries) - 1 if isinstance(node, ast.List) else 0):
                first, second = entries[index : index + 2]
                rest = entries[index + 2 :]
                yield ast.List([*entries[:index], second, first, *rest], ast.Load())
        case ast.Dict(keys, values):
            for index in range(len(keys)):
                rest = slice(0, index), slice(index + 1, None)
                yield ast.Dict(*([*held[rest[0]], *held[rest[1]]] for held in (keys, values)))
        case ast.Constant(str(value)) if " " not in value:
            yield ast.Constant(OTHER_WORDS.get(value, f"{value}_"))
        case ast.Name(name, ast.Load()):
            for pair in (("EXACT", "StabilizED"), ("ALPHA_1", "ALPHA_2")):
                if name in pair:
                    yield ast.Name(pair[pair[0] == name], ast.Load())
        case ast.Constant() | ast.IfExp():
            yield from changed(node, known)


OTHER_WORDS = {
    "*": "dense_head",
    "input": "conv_stack",
    "dense_head": "conv_stack",
    "logits": "dense_head",
    "logit": "one",
    "sink": "ignored",
    "ignored": "sink",
    "z": "epsilon",
    "epsilon": "z",
    "alpha_beta": "z_plus",
    "z_plus": "alpha_beta",
    "gamma": "alpha_beta",
    "flat": "w_square",
    "zB": "w_square",
    "rap": "z_plus",
    "rap_start": "rap",
    "rap_bn": "rap",
    "rap_bn_start": "rap_start",
    "rap_bn_input": "zB",
    "merge": "pass",
    "pass": "merge",
    "compensate": "pass",
    "both": "inhibitory",
    "support": "input",
    "absolute": "signed",
    "spread": "drop",
}


def mutants_of_tables() -> Iterator[Mutant]:
    """Every change of the tables, statement by statement."""
    tree = tree_of(methods)
    for start in tree.body:
        names = start.targets if isinstance(start, ast.Assign) else []
        prose = is_prose(start) or [ast.unparse(name) for name in names] == ["RULE_MODULES"]
        if not prose and not isinstance(start, ast.Import | ast.ImportFrom):
            yield from made_by(tree, "methods", start, changed_table, set())


def table_noticed(mutant: Mutant) -> bool:
    try:
        return wrong_tables(mutant.run(methods)) is not None
    except Exception:
        return True


def in_module(module: ModuleType) -> set[str]:
    """The methods that the source of a module registers."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))))
    return {
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "method"
    }


def test_methods_are_the_table_of_the_documentation() -> None:
    assert wrong_tables(METHODS) is None
    assert TABLE.keys() == METHODS.keys() - in_module(comparisons)


def test_every_change_of_a_table_is_noticed() -> None:
    mutants = list(mutants_of_tables())
    assert len(mutants) > 200
    unnoticed = {f"methods: {mutant.line}" for mutant in mutants if not table_noticed(mutant)}
    assert_listed(unnoticed, "methods")
