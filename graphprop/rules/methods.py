"""The composites, as tables from roles to rules: docs/methods.md, sections 1 to 3."""

from __future__ import annotations

from math import inf
from typing import Any

from graphprop import builtin
from graphprop.rules import lrp, rap, structure
from graphprop.rules.registry import Method, method

RULE_MODULES = (lrp, rap, structure)
"""The modules whose rules the tables name."""

DEFAULT_METHOD = builtin.DEFAULT_METHOD
"""The method where none is named."""

BACH = "Bach et al. 2015, PLoS ONE 10(7)"
KOHLBRENNER = "Kohlbrenner et al. 2020, IJCNN (CMP)"
MONTAVON = "Montavon et al. 2019, LNCS 11700, ch. 10"

EVERYWHERE = "*"
LOGITS = "logits"

# groups of parameters that several methods share, with their defaults
BOX: dict[str, Any] = {"low": "per_sample", "high": "per_sample"}
EXACT: dict[str, Any] = {"bias": "ignored", "stabilizer": 0.0}
SINK: dict[str, Any] = {"bias": "sink", "stabilizer": 0.0}
# 1e-6, also as epsilon: zennit's number, which these composites are to equal
STABILIZED: dict[str, Any] = {"bias": "sink", "stabilizer": 1e-6}
DENSE = ("dense_head", "epsilon")
EPSILON: dict[str, Any] = {"epsilon": 1e-6}
START: dict[str, Any] = {"start": "logit"}
FLAT_INPUT = ("input", "flat")
ALPHA_1: dict[str, Any] = {"alpha": 1.0, "beta": 0.0}
ALPHA_2: dict[str, Any] = {"alpha": 2.0, "beta": 1.0}


def _lrp(name: str, rule: str, parameters: dict[str, Any], summary: str) -> Method:
    return method(
        name,
        [(EVERYWHERE, rule)],
        parameters={**parameters, **START},
        summary=summary,
        source=BACH,
    )


# with the bias in the denominator, lrp_z is input x gradient on a ReLU network; the alpha-beta
# equations are printed without one, and are meant to conserve
_lrp("lrp_z", "z", SINK, "The basic rule on every layer.")
_lrp("lrp_epsilon", "epsilon", {**EPSILON, **SINK}, "The epsilon rule on every layer.")
for _name, _weights, _numbers in (
    ("lrp_alpha1_beta0", ALPHA_1, "1 and 0"),
    ("lrp_alpha2_beta1", ALPHA_2, "2 and 1"),
):
    _lrp(
        _name,
        "alpha_beta",
        {**_weights, **EXACT},
        f"Alpha-beta with {_numbers} on every layer.",
    )

for _number, _weights in (("1", ALPHA_1), ("2", ALPHA_2)):
    method(
        f"lrp_cmp_alpha{_number}",
        [DENSE, (EVERYWHERE, "alpha_beta")],
        parameters={**EPSILON, **_weights, **EXACT, **START},
        summary=f"Epsilon in the dense head, alpha-beta with alpha {_number} in the conv stack.",
        source=KOHLBRENNER,
    )
    method(
        f"lrp_cmp_alpha{_number}_flat",
        [("depth:flat_layers", "flat"), DENSE, (EVERYWHERE, "alpha_beta")],
        parameters={"flat_layers": 1, **EPSILON, **_weights, **EXACT, **START},
        limits={"flat_layers": (0, inf)},
        summary=(
            f"As lrp_cmp_alpha{_number}, with the flat rule on the first layers with weights."
        ),
        source=KOHLBRENNER,
    )


def _composite(
    name: str, conv: str, conv_parameters: dict[str, Any], *, flat: bool, summary: str
) -> Method:
    return method(
        name,
        [*([FLAT_INPUT] if flat else []), DENSE, (EVERYWHERE, conv)],
        parameters={**EPSILON, **conv_parameters, **STABILIZED, **START},
        summary=summary,
        source=KOHLBRENNER,
    )


_composite(
    "epsilon_plus",
    "z_plus",
    {},
    flat=False,
    summary="Epsilon in the dense head, z-plus in the conv stack.",
)
_composite(
    "epsilon_plus_flat",
    "z_plus",
    {},
    flat=True,
    summary="As epsilon_plus, flat on the input layer.",
)
_composite(
    "epsilon_alpha2_beta1",
    "alpha_beta",
    ALPHA_2,
    flat=False,
    summary="Epsilon in the dense head, alpha-beta with 2 and 1 in the conv stack.",
)
_composite(
    "epsilon_alpha2_beta1_flat",
    "alpha_beta",
    ALPHA_2,
    flat=True,
    summary="As epsilon_alpha2_beta1, flat on the input layer.",
)
method(
    "epsilon_gamma_box",
    [("input", "zB"), DENSE, (EVERYWHERE, "gamma")],
    parameters={
        **BOX,
        **EPSILON,
        "gamma": 0.25,
        **STABILIZED,
        **START,
    },
    summary="Epsilon in the dense head, gamma in the conv stack, zB on the input layer.",
    source=MONTAVON,
)
for _letter, _weights in (("a", ALPHA_1), ("b", ALPHA_2)):
    method(
        f"preset_{_letter}",
        [DENSE, (EVERYWHERE, "alpha_beta")],
        parameters={"epsilon": 0.1, **_weights, **STABILIZED, **START},
        summary=f"Epsilon 0.1 in the dense head, alpha-beta {_weights['alpha']:g} in the stack.",
        source="Alber et al. 2019, JMLR 20(93) (iNNvestigate)",
    )
method(
    "deep_taylor",
    [("input", "zB"), (EVERYWHERE, "z_plus")],
    parameters={**BOX, **EXACT, **START},
    summary="Deep Taylor decomposition: z-plus, zB on the input layer.",
    source="Montavon et al. 2017, Pattern Recognition 65",
)

NAM = "Nam et al. 2020, AAAI, Relative Attributing Propagation"

method(
    "rap",
    [(LOGITS, "rap_start"), ("input", "zB"), (EVERYWHERE, "rap")],
    parameters={
        "negative": "both",
        "active": "input",
        "residual": "absolute",
        "nu": "inhibitory",
        "authors": False,
        **BOX,
    },
    batch_norm="pass",
    switches={"authors": {"negative": "inhibitory", "active": "support", "residual": "signed"}},
    summary="Relative attributing propagation: influence normalized, then shifted evenly.",
    source=NAM,
)
method(
    "rap-bn",
    [(LOGITS, "rap_bn_start"), ("input", "rap_bn_input"), (EVERYWHERE, "rap_bn")],
    parameters={
        "inversion_sign": -1.0,
        "units": "active",
        "input": "zB",
        "lost": "spread",
        "residual": "absolute",
        **BOX,
    },
    batch_norm="compensate",
    refused={
        ("batch_norm", "merge"): (
            "a merged batch norm leaves nothing to compensate: leave it at 'compensate', or choose "
            "the method 'rap'"
        )
    },
    flows=(("normal", {"kappa": 1.0}), ("inversed", {"kappa": -1.0})),
    summary="Two flows, normal and inversed, with bias and batch norm as compensation terms.",
    source="Nam et al. 2019, arXiv, the earlier version of RAP",
)
