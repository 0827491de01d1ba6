"""The catalog of methods and rules: what ``graphprop methods`` prints."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from math import inf
from typing import Any

import click

from graphprop.builtin import DEFAULT_METHOD
from graphprop.cli import console
from graphprop.errors import MethodError, nearest
from graphprop.rules import METHODS, RULES, Method, Rule
from graphprop.rules.parameters import CHOICES
from graphprop.rules.registry import assignments, value_text

PATTERNS = {
    "*": "every layer with weights",
    "**": "every layer",
    "rectifier": "every rectifier that clips at zero",
    "above": "every layer after the one where the map is made",
}
"""What the patterns of a method's table that are no names stand for."""

WORDS: Mapping[str, tuple[str, ...]] = {
    **CHOICES,
    "batch_norm": ("merge", "pass", "affine", "compensate"),
    "upsample": ("none", "linear", "nearest"),
}
"""Parameters whose values are words, those of compiler passes and maps among them."""


def run_methods(
    as_json: bool,
    name: str | None = None,
    imports: Iterable[str] = (),
    recommend: bool = False,
) -> None:
    """Print every method and every rule, or those of one name."""
    if imports:
        from graphprop.frontend.user_code import import_extension

        for module in imports:
            import_extension(module)
    if recommend and name is not None:
        raise click.UsageError("--recommend compares all methods: leave NAME out")
    if recommend and as_json:
        console.say_json("recommended", recommended())
    elif recommend:
        say_recommended()
    elif as_json:
        console.say_json("methods", catalog(name))
    elif name is None:
        say_all()
    else:
        say_one(name)


def catalog(name: str | None = None) -> dict[str, Any]:
    """Every method and rule, or those of one name, as JSON holds them."""
    methods, rules = found_by_name(name)
    return {
        "methods": [method_entry(method) for method in methods],
        "rules": [
            {"name": rule.name, "summary": rule.summary, "parameters": dict(rule.parameters)}
            for rule in rules
        ],
    }


def found_by_name(name: str | None) -> tuple[list[Method], list[Rule]]:
    """The methods and rules of a name, all by default.

    Raises
    ------
    MethodError
        If there is none.
    """
    if name is None:
        return list(METHODS.values()), list(RULES.values())
    methods = [METHODS[name]] if name in METHODS else []
    rules = [RULES[name]] if name in RULES else []
    if not methods and not rules:
        raise MethodError(f"there is no method {name!r}: {nearest(name, {**METHODS, **RULES})}")
    return methods, rules


def method_entry(method: Method) -> dict[str, Any]:
    """A method as JSON holds it."""
    return {
        "name": method.name,
        "summary": method.summary,
        "source": method.source,
        "table": [list(entry) for entry in method.table],
        "parameters": method.defaults,
        "switches": {name: dict(sets) for name, sets in method.switches.items()},
    }


# All, a line each.

METHOD_GROUPS: Mapping[str, tuple[str, ...]] = {
    "LRP, one rule on every layer": (
        "lrp_z",
        "lrp_epsilon",
        "lrp_alpha1_beta0",
        "lrp_alpha2_beta1",
    ),
    "LRP, composites: a rule by role": (
        "lrp_cmp_alpha1",
        "lrp_cmp_alpha1_flat",
        "lrp_cmp_alpha2",
        "lrp_cmp_alpha2_flat",
        "epsilon_plus",
        "epsilon_plus_flat",
        "epsilon_alpha2_beta1",
        "epsilon_alpha2_beta1_flat",
        "epsilon_gamma_box",
        "preset_a",
        "preset_b",
        "deep_taylor",
    ),
    "RAP and hedging": ("rap", "rap-bn", "hedge"),
    "Contrastive, and excitation backprop": (
        "contrastive_lrp",
        "excitation_backprop",
        "contrastive_excitation_backprop",
    ),
    "Gradients": (
        "gradient",
        "input_x_gradient",
        "integrated_gradients",
        "smoothgrad",
        "fullgrad",
        "guided_backprop",
        "deconvnet",
        "deeplift",
    ),
    "Maps at a layer": ("gradcam", "gradcam_plus_plus", "relevance_cam"),
    "Fitted to data": ("pattern_attribution", "pattern_net"),
}
RULE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Of layers with weights": (
        "z",
        "epsilon",
        "alpha_beta",
        "z_plus",
        "gamma",
        "flat",
        "w_square",
        "zB",
        "rap_start",
        "rap",
        "rap_bn_start",
        "rap_bn",
        "rap_bn_input",
        "hedge_start",
        "hedge",
        "excitation",
        "excitation_top",
        "gradient",
        "pattern_attribution",
        "pattern_net",
    ),
    "Of layers without weights": (
        "pass",
        "rearrange",
        "winner",
        "proportional",
        "share",
        "signal",
        "affine",
        "compensate",
        "hedge_share",
        "hedge_average",
        "guided",
        "deconvnet",
        "deeplift",
    ),
    "Of maps": (
        "difference",
        "contrast",
        "above_zero",
        "times_input",
        "times_difference",
        "bias_map",
        "full_gradient",
        "gradient_cam",
        "gradient_cam_plus_plus",
        "relevance_cam",
    ),
}
OTHERS = "Registered by the user"


def say_all() -> None:
    """Print every method and every rule: a name and a sentence, by groups."""
    console.say("METHODS (compile --method NAME)")
    say_groups(METHOD_GROUPS, {name: (title(m), m.summary) for name, m in METHODS.items()})
    console.say("\nRULES (compile --rule PATTERN=RULE)")
    say_groups(RULE_GROUPS, {name: (name, in_words(r.summary)) for name, r in RULES.items()})
    console.say(
        "\n`graphprop methods NAME` shows one of them whole: table, formulas, parameters, source\n"
        "`graphprop methods --recommend` says which to use for what"
    )


def say_groups(groups: Mapping[str, tuple[str, ...]], known: Mapping[str, tuple[str, str]]) -> None:
    """Print what is known by groups, names in a column; what is in no group comes last."""
    grouped = {name for names in groups.values() for name in names}
    rest = {OTHERS: tuple(name for name in known if name not in grouped)}
    width = max(len(shown) for shown, _ in known.values())
    for heading, names in {**groups, **rest}.items():
        lines = [known[name] for name in names if name in known]
        if lines:
            console.say(f"\n  {heading}")
        for shown, summary in lines:
            console.say(f"    {shown:{width}}  {summary}")


def in_words(summary: str) -> str:
    """A rule's sentence without the formula at its end, which stands in the whole entry."""
    text = without_markup(summary)
    head, comma, _ = summary.rpartition(", ``")
    return without_markup(head) + "." if comma and summary.endswith("``.") else text


def title(method: Method) -> str:
    """A method's name, and whether it is the one by default."""
    return method.name + (" (default)" if method.name == DEFAULT_METHOD else "")


def switches_of(method: Method) -> list[str]:
    """What a method's switches set, a line each."""
    sets = method.switches.items()
    return [f"{switch}=true sets {assignments(values)}" for switch, values in sets]


# One, in full.


def say_one(name: str) -> None:
    """Print a method or a rule of a name, or both, in full."""
    methods, rules = found_by_name(name)
    for method in methods:
        say_method(method)
    for rule in rules:
        if methods:
            console.say()
        say_rule(rule)


def say_method(method: Method) -> None:
    """Print a method's table with its rules, its parameters with what they can be, its source."""
    console.say(f"method {title(method)}")
    for line in (method.summary, *structure_of(method), *switches_of(method)):
        if line:
            console.say(f"  {line}")
    console.say()
    rows = [
        (PATTERNS.get(pattern, pattern), rule, without_markup(RULES[rule].summary))
        for pattern, rule, *_ in method.table
    ]
    rows.append(("any other", "its own", "by its operator: `graphprop inspect` shows which"))
    console.say_table(("layers", "rule", "formula"), rows, indent=2)
    console.say()
    used = {rule: RULES[rule] for rule in dict.fromkeys(method.rule_names)}
    entries = method_entry(method)["parameters"].items()
    reached = {
        key: ", ".join(name for name, rule in used.items() if key in rule.parameters)
        for key, _ in entries
    }
    console.say_table(
        ("parameter", "default", "can be", "of the rules"),
        [
            (key, value_text(value), values_of(key, value, method), reached[key] or "-")
            for key, value in entries
        ],
        indent=2,
    )
    if method.source:
        console.say(f"\n  source: {method.source}")


def say_rule(rule: Rule) -> None:
    """Print a rule's documentation, and its parameters with what they can be."""
    console.say(f"rule {rule.name}")
    for line in without_markup(inspect.getdoc(rule.function) or "").splitlines():
        console.say(f"  {line}".rstrip())
    if rule.parameters:
        console.say()
        console.say_table(
            ("parameter", "default", "can be"),
            [
                (key, value_text(value), values_of(key, value))
                for key, value in rule.parameters.items()
            ],
            indent=2,
        )


def structure_of(method: Method) -> list[str]:
    """How a method differs from one flow of relevance from the logit to the input."""
    lines = []
    if any(name for name, _ in method.flows):
        flows = (f"{name or 'plain'} ({assignments(own)})" for name, own in method.flows)
        lines.append(f"flows of relevance: {', '.join(flows)}")
    if method.start != "logit":
        lines.append(f"relevance starts as: {method.start}")
    if method.layer is not None:
        way = (
            "relevance continues from there"
            if method.continues_to_input
            else "relevance ends there"
        )
        lines.append(f"at a layer, by default {method.layer}: {method.at_layer}; {way}")
    if method.at_input:
        lines.append(f"at the input: {method.at_input}")
    if method.layer_contribution:
        lines.append(f"added by each layer: {method.layer_contribution}")
    if method.samples is not None:
        lines.append("the mean over several inputs derived from the given one")
    return lines


def values_of(name: str, default: Any, method: Method | None = None) -> str:
    """Which values a parameter can have."""
    if default in WORDS.get(name, ()):
        refused = method.refused if method else {}
        return ", ".join(word for word in WORDS[name] if (name, word) not in refused)
    if isinstance(default, bool):
        return "true, false"
    if isinstance(default, int | float):
        low, high = method.limits.get(name, (-inf, inf)) if method else (-inf, inf)
        words = "a whole number" if isinstance(default, int) else "a number"
        words += f" from {low:g}" if low > -inf else ""
        words += f" to {high:g}" if high < inf else ""
        return words + (", or several" if method and name in method.arrays else "")
    return "a word" if isinstance(default, str) else "-"


# Which one for what.

RECOMMENDED = "recommended.json"
"""A file of the package, which ``make evidence`` writes."""


def recommended() -> dict[str, Any]:
    """Which method for what, by what was measured: purposes with methods in order."""
    text = resources.files("graphprop").joinpath(RECOMMENDED).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def say_recommended() -> None:
    """Print which method to use for what, with the metrics and the cost that say so."""
    content = recommended()
    networks = ", ".join(content["networks"])
    console.say(f"Measured on {networks}, seeds {', '.join(map(str, content['seeds']))}.")
    console.say("rank: from 0 (best) to 1, mean over metrics and networks; cost: forward passes")
    for purpose in content["purposes"].values():
        console.say(f"\n{purpose['title']}")
        rows = [
            (
                "-" if one["place"] is None else one["place"],
                one["method"] + (" (default)" if one["method"] == DEFAULT_METHOD else ""),
                f"{one['rank']:.2f}",
                f"{one['cost']:.1f}",
                *(f"{one['means'][metric]:.3g}" for metric in purpose["metrics"][:SHOWN_METRICS]),
            )
            for one in purpose["methods"]
        ]
        heads = ("", "method", "rank", "cost", *purpose["metrics"][:SHOWN_METRICS])
        console.say_table(heads, rows, indent=2)
    console.say("\nAll metrics, intervals, other networks and the papers' claims: docs/evidence.md")


SHOWN_METRICS = 4
"""Metrics of a purpose that fit beside each other; all of them count."""


def without_markup(text: str) -> str:
    """Documentation without its markup."""
    return text.replace("``", "").replace("`", "")
