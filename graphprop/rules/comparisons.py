"""Gradient hedging and the comparison methods, as tables: docs/methods.md, sections 4 and 5."""

from __future__ import annotations

from graphprop.rules import excitation, fits, gradient, hedge, patterns
from graphprop.rules.methods import ALPHA_1, BOX, EVERYWHERE, EXACT, LOGITS
from graphprop.rules.registry import method
from graphprop.rules.sampling import noise, path

RULE_MODULES = (excitation, gradient, hedge, patterns)
"""The modules whose rules the tables name."""

ALL = "**"
AVERAGES = ("avg_pool", "adaptive_avg_pool", "sum", "mean", "upsample")

method(
    "hedge",
    [
        ("above", "gradient"),
        ("input", "zB"),
        (EVERYWHERE, "hedge"),
        *((f"type:{name}", "hedge_average") for name in AVERAGES),
        *((f"type:{name}", "hedge_share") for name in ("add", "subtract")),
    ],
    parameters={"gamma": 1.0, "terms": hedge.TERMS, "layer": "last spatial", **BOX},
    batch_norm="pass",
    limits={"gamma": (1.0, 2.0)},
    start="one",
    layer="last spatial",
    at_layer="hedge_start",
    continues_to_input=True,
    budgets=True,
    summary="Gradient hedging: from the gradient at a layer, hedged down to the input.",
    source="Nam and Lee, Gradient Hedging, eqs. 5-13",
)

GRADIENT = [(ALL, "gradient")]
SIMONYAN = "Simonyan et al. 2014, ICLR workshop, eq. 4"

method(
    "gradient",
    GRADIENT,
    start="one",
    summary="The gradient of the target's logit.",
    source=SIMONYAN,
)
method(
    "input_x_gradient",
    GRADIENT,
    start="one",
    at_input="times_input",
    summary="The gradient times the input.",
    source="Shrikumar et al. 2016, arXiv 1605.01713, sec. 2",
)
method(
    "integrated_gradients",
    GRADIENT,
    parameters={"steps": 20, "baseline": 0.0, "quadrature": "gauss-legendre", "chunk": 5},
    arrays=("baseline",),
    start="one",
    samples=path,
    summary="The mean gradient on the way from a baseline, times the way.",
    source="Sundararajan et al. 2017, ICML, eqs. 1 and 3",
)
method(
    "smoothgrad",
    GRADIENT,
    parameters={"n": 20, "sigma": 0.15, "chunk": 5},
    start="one",
    samples=noise,
    summary="The mean gradient of noisy copies of the input; the noise is drawn once.",
    source="Smilkov et al. 2017, arXiv 1706.03825, sec. 3",
)
method(
    "fullgrad",
    GRADIENT,
    batch_norm="pass",
    start="one",
    at_input="full_gradient",
    layer_contribution="bias_map",
    summary="Input and bias gradients of every layer, rescaled and enlarged, in one map.",
    source="Srinivas and Fleuret 2019, NeurIPS, eqs. 5-6",
)
method(
    "guided_backprop",
    [("rectifier", "guided"), *GRADIENT],
    needs=fits.RECTIFIERS,
    start="one",
    summary="The gradient; a rectifier passes what is positive where it was active.",
    source="Springenberg et al. 2015, ICLR workshop, fig. 1",
)
method(
    "deconvnet",
    [("rectifier", "deconvnet"), *GRADIENT],
    needs=fits.RECTIFIERS,
    start="one",
    summary="The gradient; a rectifier passes what is positive, whatever it saw.",
    source="Zeiler and Fergus 2014, ECCV, sec. 2.1",
)
method(
    "gradcam",
    GRADIENT,
    parameters={"layer": "last spatial", "upsample": "none"},
    start="one",
    layer="last spatial",
    at_layer="gradient_cam",
    summary="A layer's channels weighted by their mean gradient, clamped at 0.",
    source="Selvaraju et al. 2017, ICCV, eqs. 1-2",
)
method(
    "gradcam_plus_plus",
    GRADIENT,
    parameters={"layer": "last spatial", "upsample": "none"},
    start="one",
    layer="last spatial",
    at_layer="gradient_cam_plus_plus",
    summary="A layer's channels weighted by their positive gradients, place by place.",
    source="Chattopadhay et al. 2018, WACV, eqs. 9-11 and 19",
)
method(
    "relevance_cam",
    [(EVERYWHERE, "alpha_beta")],
    parameters={**ALPHA_1, **EXACT, "layer": "last spatial", "upsample": "none"},
    start="contrast",
    layer="last spatial",
    at_layer="relevance_cam",
    summary="A layer's channels weighted by their mean relevance.",
    source="Lee et al. 2021, CVPR, eqs. 6-9",
)
method(
    "excitation_backprop",
    [(EVERYWHERE, "excitation")],
    start="one",
    summary="Where a walk from the logit up the excitatory connections ends.",
    source="Zhang et al. 2016, ECCV, eq. 5",
)
method(
    "contrastive_excitation_backprop",
    [(LOGITS, "excitation_top"), (EVERYWHERE, "excitation")],
    parameters={"layer": "below logits"},
    start="one",
    flows=(("target", {}), ("contrast", {"negated": True})),
    layer="below logits",
    at_layer="difference",
    continues_to_input=True,
    at_input="above_zero",
    summary="Excitation backprop less that of the negated logit layer, clamped at 0.",
    source="Zhang et al. 2016, ECCV, sec. 3.4",
)
method(
    "contrastive_lrp",
    [("input", "zB"), (EVERYWHERE, "z_plus")],
    parameters={**BOX, **EXACT},
    flows=(("target", {}), ("others", {"start": "others"})),
    at_input="contrast",
    summary="Relevance of the target less that of all other classes, of the same sum.",
    source="Gu et al. 2018, ACCV, eq. 5",
)
method(
    "deeplift",
    [(ALL, "deeplift")],
    parameters={"baseline": 0.0, "nearest": 1e-7},
    arrays=("baseline",),
    start="one",
    at_input="times_difference",
    summary="DeepLIFT, rescale rule: how far each input moves the logit from the baseline's.",
    source="Shrikumar et al. 2017, ICML, eqs. 1, 3 and 12",
)

KINDERMANS = "Kindermans et al. 2018, ICLR, sec. 4"

method(
    "pattern_attribution",
    [(EVERYWHERE, "pattern_attribution"), *GRADIENT],
    summary="The gradient with weight x pattern in place of weights; patterns are fitted to data.",
    source=KINDERMANS,
)

method(
    "pattern_net",
    [(EVERYWHERE, "pattern_net"), *GRADIENT],
    summary="The gradient with the pattern in place of weights; patterns are fitted to data.",
    source=KINDERMANS,
)
