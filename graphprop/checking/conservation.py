"""Warnings about relevance that vanishes, explodes or overflows: how much arrives, where it went.

Most methods conserve the relevance they start with. Where much less or much more of it arrives at
the input, the map still follows the method, but says little about the logit: `of_explainer` then
computes the ledger, and names what absorbed or added most, and what to set. Methods that are not
meant to conserve relevance are not checked: those that end at a layer or transform what arrives,
gradients, several flows, and rules without an account.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphprop.artifact.conservation import LEAST, is_off, reasons, verdict
from graphprop.artifact.schema import Json
from graphprop.checking.ledger import LedgerEntry, ledger
from graphprop.checking.losses import ACCOUNTS, LOSSES
from graphprop.checking.report import shown
from graphprop.explainer import Compiled
from graphprop.ir.facts import facts_of

NOUNS = {
    "bias": ("biases", "the bias"),
    "zero_denominators": ("zero denominators", "zero denominators"),
    "stabilizer": ("stabilizers", "the stabilizer"),
    "outside": ("padding and constants", "padding and constants"),
    "scaled": ("factors", "the factor"),
}
"""What a loss is called: of all layers, and of one."""

CLAMPED = frozenset({"excitation", "excitation_top"})
"""Rules that leave out negative inputs on purpose."""

NAMED = 3
"""How many layers are named."""


def conserves(compiled: Compiled) -> bool:
    """Whether an explainer is meant to hand all that it begins with on to its input."""
    method = compiled.method
    whole = len(method.flow_names) == 1 and method.layer is None and method.samples is None
    if not whole or method.at_input is not None or method.layer_contribution is not None:
        return False
    if compiled.settings.get("start", method.start) not in ("logit", "one"):
        return False
    for node in compiled.network.layers:
        rule = facts_of(node).rule
        if rule is None:
            continue
        name, given = rule.name, rule.parameters
        if name not in ACCOUNTS or name in CLAMPED:
            return False
        if name == "alpha_beta" and given["alpha"] - given["beta"] != 1:
            return False
    return True


def record_of(compiled: Compiled) -> Json | None:
    """What a manifest records without a warning; None for a method that need not conserve."""
    if not conserves(compiled):
        return None
    places = compiled.logits_shape[1:]
    kind = compiled.settings.get("start", compiled.method.start)
    return {"start": kind, "places": math.prod(places), "cause": None, "remedy": None}


def of_explainer(
    compiled: Compiled,
    sums: Json,
    sample: Callable[[int], tuple[Mapping[str, torch.Tensor], torch.Tensor]],
) -> tuple[Json | None, list[str]]:
    """Find out where relevance went that does not arrive at the input.

    Parameters
    ----------
    sums
        ``start`` and ``input``: the sums of relevance there, per sample.
    sample
        The inputs, by name, and the target of a sample, each ``[1, ...]``.

    Returns
    -------
    record
        What a manifest records of it: what relevance starts as, at how many places, and, where
        there is a warning, the ``cause`` and the ``remedy``. None for a method that isn't meant to
        conserve.
    warnings
        One, or none.
    """
    record, worst = record_of(compiled), worst_of(sums)
    if record is None or worst is None:
        return record, []
    inputs, target = sample(worst)
    entries = ledger(compiled, tuple(inputs.values()), target)
    start, arrived = entries[0].came_in[0], sum(e.came_in[0] for e in entries if e.rule == "")
    if not is_off(start, arrived):  # on other inputs than those that are summed up
        return record, []
    advice = remedy(compiled.settings, entries, abs(arrived) > abs(start))
    record = {**record, "cause": cause(entries, start), "remedy": advice}
    return record, [warning(sums, record)]


def worst_of(sums: Json) -> int | None:
    """The sample of which relevance changes most on its way, None where all arrives."""
    pairs = list(enumerate(zip(sums["start"], sums["input"], strict=True)))
    off = [(index, arrived / start) for index, (start, arrived) in pairs if is_off(start, arrived)]
    if not off:
        return None
    return max(off, key=lambda pair: abs(math.log(abs(pair[1]) or 1e-300)))[0]


def warning(sums: Json, record: Json) -> str:
    """The warning about the samples of a check, in one sentence or two."""
    worst = worst_of(sums)
    assert worst is not None
    pairs = list(zip(sums["start"], sums["input"], strict=True))
    count = sum(is_off(*pair) for pair in pairs)
    of_all = f"; {count} of {len(pairs)} samples are off" if len(pairs) > 1 else ""
    start, arrived = pairs[worst]
    return f"{verdict(start, arrived)} (sample {worst}{of_all}).{reasons(record)}"


def of_directory(manifest: Json, sums: Json) -> list[str]:
    """The same of a compiled directory, by what its manifest records."""
    record = manifest.get("conservation")
    if not record or not sums or worst_of(sums) is None:
        return []
    return [warning(sums, record)]


def cause(entries: Sequence[LedgerEntry], start: float) -> str:
    """Where the total first leaves what is wanted, and what took or added most."""
    rest, first = start, ""
    for entry in entries:
        rest -= sum(getattr(entry, kind)[0] for kind in LOSSES)
        if is_off(start, rest):
            below = abs(rest) < LEAST * abs(start) or rest / start < 0
            how = "falls below half" if below else "exceeds twice"
            first = f"It first {how} of that at {shown(entry.label)}. "
            break
    totals = {kind: sum(getattr(entry, kind)[0] for entry in entries) for kind in LOSSES}
    kinds = sorted((k for k in LOSSES if totals[k]), key=lambda k: -abs(totals[k]))
    kinds = [kind for kind in kinds if abs(totals[kind]) >= 0.01 * abs(totals[kinds[0]])]
    summed = listed([f"{NOUNS[kind][0]} {amount(totals[kind], start)}" for kind in kinds])
    parts = largest(entries)
    single = listed(
        [
            f"{NOUNS[kind][1]} of {shown(entry.label)} {amount(getattr(entry, kind)[0], start)}"
            for entry, kind in parts
        ]
    )
    return f"{first}In all, {summed}; most of it, {single}."


def largest(entries: Sequence[LedgerEntry]) -> list[tuple[LedgerEntry, str]]:
    """The largest losses and gains, each with its layer."""
    every = [(entry, kind) for entry in entries for kind in LOSSES if getattr(entry, kind)[0]]
    every.sort(key=lambda part: -abs(getattr(part[0], part[1])[0]))
    top = abs(getattr(*every[0])[0]) if every else 0.0
    return [part for part in every[:NAMED] if abs(getattr(*part)[0]) >= 0.05 * top]


def amount(loss: float, start: float) -> str:
    """A loss or gain, relative to what relevance starts with."""
    part = loss / start
    size = f"{abs(part):.0%}" if 0.001 <= abs(part) < 10 else f"{abs(part):.1e} times the start"
    return f"{'took' if part > 0 else 'added'} {size}"


def listed(texts: Sequence[str]) -> str:
    """Texts as a sentence has them: a, b and c."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def remedy(settings: Mapping[str, Any], entries: Sequence[LedgerEntry], explodes: bool) -> str:
    """What to set, by what took or added most."""
    parts = largest(entries)
    kind = parts[0][1] if parts else ""
    rules = {entry.rule.partition("(")[0] for entry, other in parts if other == kind}
    advice: list[str] = []
    if kind == "bias" and "affine" in rules:
        advice += [
            f"{name}=pass" for name in ("norm", "batch_norm") if settings.get(name) == "affine"
        ]
    if kind == "bias" and settings.get("bias") == "sink":
        advice.append("bias=ignored")
    elif explodes and settings.get("bias") == "ignored":
        # the sums that are divided by come nearer to zero than the units themselves
        advice.append("bias=sink")
    own = "epsilon" if "epsilon" in rules else "stabilizer"
    if explodes and "epsilon" in settings:
        advice.append("a larger epsilon")
    elif kind == "stabilizer" and own in settings:
        advice.append(f"a smaller {own}")
    other = {
        "zero_denominators": "what hands relevance on where no input excites a unit: method=rap, "
        "or the rule epsilon for those layers",
        "outside": "another method: what the network itself pads and joins in gets a share",
    }.get(kind, "another method, such as rap")
    chosen = listed_or(advice)
    return f"Set {chosen}, or choose {other}." if chosen else f"Choose {other}."


def listed_or(texts: Sequence[str]) -> str:
    """Texts to choose from: a, b or c."""
    return " or ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def overflow(sample: str, place: str | None) -> str:
    """The message about relevance that exceeds the range of float32."""
    first = f", first at {place}" if place else ""
    return (
        f"relevance overflows on {sample}{first}: there it exceeds the largest number of float32 "
        "by the method itself, and no backend is at fault. The method divides by sums that are "
        "nearly zero: set a larger epsilon or the other bias (sink or ignored) where it has those, "
        "or choose another method, such as rap"
    )
