"""The pages: the verdicts, which method for what, and every method by every metric."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from evidence import plan as plans
from evidence.claims import CLAIMS, FAILED, HELD, NOISE, Finding, number, overall
from evidence.plan import Plan, base
from evidence.recommend import PURPOSES, recommendations
from evidence.results import Interval, Results, higher_is_better
from evidence.why import WHY
from graphprop.evaluation import find_metric

MARKS = {HELD: "held", FAILED: "**no**", NOISE: "?"}
GROUPS = {
    "Localization": plans.LOCALIZATION,
    "Localization, with options, and classes": plans.OPTIONAL,
    "Complexity": plans.COMPLEXITY,
    "Perturbation": plans.PERTURBATION,
    "Sensitivity": plans.SENSITIVITY,
}
TITLES = {
    "shapes_vgg": "VGG",
    "shapes_vgg_bn": "VGG-BN",
    "shapes_resnet": "ResNet",
    "shapes_inception": "Inception",
    "shapes_densenet": "DenseNet",
    "shapes_caffenet": "CaffeNet",
    plans.VOLUMES: "VGG, volumes",
    plans.PHOTOGRAPHS: "Lite0, photographs",
}
VARIANT_METRICS = {
    "hedge": ("pointing_game", "mu_w", "positive_ratio", "class_sensitivity", "gini"),
    "rap": ("pointing_game", "mu_w", "outside_inside_pos", "miou", "d_k", "class_sensitivity"),
    "bias": ("pointing_game", "mu_w", "mean_average_precision", "rank_accuracy"),
}
VARIANT_TEXTS = {
    "hedge": (
        "Terms and gamma of hedging",
        "The paper's ablation: `terms` is any of C, A, U and S, by default all; gamma is 1.",
    ),
    "rap": (
        "Options of RAP and RAP-BN",
        "What [methods](methods.md) resolves where the papers are silent or contradict each other.",
    ),
    "bias": (
        "What a bias does in a denominator",
        "`sink`: it stays there and takes its share of the relevance; `ignored`: it is left out, "
        "and relevance is conserved. Each method beside itself with the other choice.",
    ),
}


def label_of(spec: str) -> str:
    """What a metric of the plan is called in the results."""
    return base(find_metric(spec).label)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def cell(found: Interval | None, bold: bool = False) -> str:
    """A mean with its interval."""
    if found is None:
        return "-"
    mean = f"**{number(found.mean)}**" if bold else number(found.mean)
    return f"{mean} [{number(found.low)}, {number(found.high)}]"


def arrow(metric: str) -> str:
    """A metric with which way is better."""
    return f"{metric} ({'higher' if higher_is_better(metric) else 'lower'})"


def network_page(results: Results, network: str) -> str:
    """Every method by every metric on one network."""
    lines = [f"# {TITLES[network]}: every method by every metric", ""]
    runs = results.runs[network]
    cases = [len(run["sets"]["maps"]["facts"]) for run in runs]
    few = [len(run["sets"]["few"]["facts"]) for run in runs]
    lines += [
        f"`models/{network}.py`, {plural(len(runs), 'set')} of weights. Mean and 95 % interval "
        f"(bootstrap over pictures, all seeds together); {sum(cases)} cases, of perturbation and "
        f"sensitivity {sum(few)}. The best of the methods is in bold. "
        "[What the metrics are](../evaluation.md), [what follows](../evidence.md).",
        "",
    ]
    for title, specs in GROUPS.items():
        labels = [label_of(spec) for spec in specs]
        labels = [label for label in labels if results.set_of(network, label)]
        if not labels:
            continue
        which = results.set_of(network, labels[0]) or "maps"
        lines += [f"## {title}", ""]
        names = results.explainers(network, which)
        found = {(n, m): results.mean(network, n, m) for n in names for m in labels}
        best = {
            m: best_of({n: found[n, m] for n in names if n not in plans.BASELINES}, m)
            for m in labels
        }
        rows = [
            [f"`{name}`", *(cell(found[name, m], name in best[m]) for m in labels)]
            for name in names
        ]
        lines += table(["method", *(arrow(m) for m in labels)], rows)
    reasons = {(m, r) for run in runs for part in run["sets"].values() for m, r in part["reasons"]}
    if reasons:
        lines += ["## Without a value", ""]
        lines += [f"- `{metric}`: {reason}" for metric, reason in sorted(reasons)] + [""]
    refused = {(n, why) for run in runs for n, why in run["refused"].items()}
    if refused:
        lines += ["## Not compiled", ""]
        lines += [f"- `{name}`: {why}" for name, why in sorted(refused)] + [""]
    return "\n".join(lines).rstrip() + "\n"


def best_of(found: dict[str, Interval | None], metric: str) -> set[str]:
    """The explainers with the best mean."""
    sign = 1 if higher_is_better(metric) else -1
    means = {name: sign * one.mean for name, one in found.items() if one is not None}
    return {name for name, mean in means.items() if mean == max(means.values())}


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}{'s' * (count != 1)}"


def claims_section(results: Results) -> list[str]:
    """The verdict on each claim, by network, with numbers and reasons."""
    networks = [n for n in plans.NETWORKS if n in results.networks and n != plans.VOLUMES]
    judged = {claim.key: claim.findings(results) for claim in CLAIMS}
    rows, details = [], []
    for claim in CLAIMS:
        found = judged[claim.key]
        if not found:
            continue
        verdict = overall(list(found.values()))
        marks = [MARKS[found[n].verdict] if n in found else "" for n in networks]
        rows.append([claim.paper, claim.text, f"**{verdict}**", *marks])
        details += detail_of(claim.text, claim.paper, verdict, found, WHY.get((claim.key, verdict)))
    lines = table(["paper", "claim", "verdict", *(TITLES[n] for n in networks)], rows)
    return [*lines, "### Numbers and reasons", "", *details]


def detail_of(
    text: str, paper: str, verdict: str, found: dict[str, Finding], why: str | None
) -> list[str]:
    """The numbers behind a verdict."""
    lines = [f"**{paper}: {text}** - {verdict}.", ""]
    if why:
        lines += [why, ""]
    lines += [f"- {TITLES[n]}: {MARKS[one.verdict]}, {one.detail}" for n, one in found.items()]
    return [*lines, ""]


def methods_section(results: Results, plan: Plan) -> list[str]:
    """Which method for what, from the ranks."""
    lines = []
    found = recommendations(results, plan)
    for purpose in PURPOSES:
        entry = found["purposes"][purpose.key]
        lines += [f"### {purpose.title}", "", purpose.text, ""]
        metrics = entry["metrics"]
        rows = [
            [
                str(place),
                f"`{one['method']}`",
                f"{one['rank']:.2f}",
                *(number(one["means"][m]) if m in one["means"] else "-" for m in metrics),
                f"{one['cost']:.1f}",
            ]
            for place, one in enumerate(entry["methods"], 1)
        ]
        lines += table(
            ["", "method", "mean rank", *(arrow(m) for m in metrics), "forward passes"], rows
        )
    return lines


def variants_section(results: Results) -> list[str]:
    """Each variant beside the method with its defaults."""
    lines = []
    networks = [n for n in plans.SHAPES if n in results.networks]
    for key, metrics in VARIANT_METRICS.items():
        title, text = VARIANT_TEXTS[key]
        variants = [v for v in plans.VARIANTS if v.table == key]
        names: list[str] = []
        for one in variants:
            names += [n for n in (one.method, one.name) if n not in names]
        rows = []
        for name in names:
            row = [f"`{name}`"]
            for metric in metrics:
                row.append(over_networks(results, networks, name, metric))
            rows.append(row)
        lines += [
            f"### {title}",
            "",
            text + " Mean over the networks of the generated pictures.",
            "",
        ]
        lines += table(["method", *(arrow(m) for m in metrics)], rows)
    return lines


def over_networks(results: Results, networks: Sequence[str], name: str, metric: str) -> str:
    """The mean over networks, and on how many of them the method has a value."""
    means = [one.mean for n in networks if (one := results.mean(n, name, metric)) is not None]
    if not means:
        return "-"
    text = number(float(np.mean(means)))
    return text if len(means) == len(networks) else f"{text} ({len(means)} networks)"


def depth_section(results: Results) -> list[str]:
    """LRP-z against a composite, by the number of layers with weights."""
    rows = []
    for network in (n for n in plans.NETWORKS if n in results.networks and n != plans.VOLUMES):
        depth = DEPTHS.get(network)
        pair = [results.mean(network, n, "mu_w") for n in ("lrp_z", "lrp_cmp_alpha2_flat")]
        if depth is None or None in pair:
            continue
        first, second = (one for one in pair if one is not None)
        share = number(first.mean / second.mean)
        rows.append((depth, [TITLES[network], str(depth), cell(first), cell(second), share]))
    heads = [
        "network",
        "layers with weights and pools, longest path",
        "`lrp_z`",
        "`lrp_cmp_alpha2_flat`",
    ]
    return table([*heads, "ratio"], [row for _, row in sorted(rows)])


DEPTHS: dict[str, int] = {}
"""Layers with weights and pools on the longest path, by network: `write_pages` fills it in."""


def depths(networks: Iterable[str]) -> dict[str, int]:
    """How many layers with weights and pools the longest path of each network has."""
    import graphprop
    from evidence.measure import MODELS
    from graphprop.frontend.load import load_source

    found = {}
    for network in networks:
        loaded = load_source(str(MODELS / f"{network}.py"))
        layers = graphprop.inspect(loaded.model, loaded.example).layers
        found[network] = 1 + max(layer.depth for layer in layers)
    return found


def occlusion_section(results: Results) -> list[str]:
    """What hiding the object and hiding the context do to the logit."""
    rows = []
    for network in (n for n in plans.NETWORKS if n in results.networks):
        cases = [case for run in results.runs[network] for case in run["occlusion"]]
        if not cases:
            continue
        row = [TITLES[network], str(len(cases))]
        for part in ("object", "context"):
            values = [case[part] for case in cases]
            row.append(f"{number(float(np.mean(values)))} ({number(float(np.std(values)))})")
        rows.append(row)
    return table(
        ["network", "cases", "fall of the logit without the object", "without the context"], rows
    )


def made_section(results: Results, plan: Plan) -> list[str]:
    """How the page was made."""
    runs = [run for found in results.runs.values() for run in found]
    train, total = (sum(run[key] for run in runs) / 60 for key in ("train_seconds", "seconds"))
    training = f"{train:.0f} minutes for training" if train >= 1 else "trained weights were there"
    sizes = plan.sizes
    trained = {n: runs for n, runs in results.runs.items() if n != plans.PHOTOGRAPHS}
    seeds = sorted({len(found) for found in trained.values()})
    shapes = len([n for n in plans.SHAPES if n in results.networks])
    return [
        f"`make evidence` makes this page. Measuring took {total:.0f} minutes of CPU time ("
        f"{training}), with torch {runs[0]['torch']}, on a CPU. Results are kept in "
        "`build/evidence`, and a run that was stopped continues.",
        "",
        f"- **Networks.** {shapes} small networks that name generated shapes, and one that tells "
        "nodules from vessels in volumes "
        "([the benchmark](evaluation.md#the-benchmark-with-ground-truth)), each trained with "
        f"{' to '.join(map(str, seeds))} seed{'s' * (max(seeds, default=1) > 1)} (each network's "
        "page says how many; the weights of seed 0 lie in `models/`); and EfficientNet-Lite0, "
        "trained on ImageNet, with one set of weights.",
        f"- **Pictures.** For each seed {sizes.single} pictures with one object and "
        f"{sizes.several} with two or three, of which perturbation and sensitivity use "
        f"{sizes.few_single} and {sizes.few_several}; {sizes.volumes} volumes, of which "
        f"{sizes.few_volumes}; and ten photographs, of which {sizes.few_photographs} cases. Each "
        "class that a picture shows is a case.",
        f"- **Methods.** {len(plan.methods)}, with their default parameters; {len(plan.variants)} "
        "variants by the metrics of maps; and the maps that know nothing of the network.",
        "",
        "What limits it: the shapes are simple, their networks small, and all of them but CaffeNet "
        "ignore the background, so that claims about context are hardly tested. The photographs "
        "are ten, two of them show the same motorcycle, and their labels were chosen among the "
        "network's answers. Intervals are of 95 %, so that one in twenty of the verdicts on "
        "differences that don't exist would be wrong by chance.",
        "",
    ]


def main_page(results: Results, plan: Plan, pictures: Sequence[tuple[str, str]]) -> str:
    """The page with the verdicts."""
    lines = [
        "# Evidence",
        "",
        "Which method explains a network, measured on networks for which the answer is known, and "
        "which claims of the papers held.",
        "",
        *made_section(results, plan),
        "## What the papers claim",
        "",
        "*Held*: the 95 % interval of the difference, case by case, lies on the claimed side, and "
        "so does the mean of each seed; a claim about several methods needs this of all of them. "
        "*No*: it lies on the other side for one of them. *?*: it can't be told from noise. The "
        "verdict is *held* where it held on two thirds of the networks and failed on none, "
        "*did not hold* where it failed on a third of them or more.",
        "",
        *claims_section(results),
        "## Which method for what",
        "",
        "The rank of a method among all, from 0 (best) to 1 (worst), mean over the metrics named "
        "and the networks of the generated pictures; means of the metrics over these networks; and "
        "the CPU time of an explanation in forward passes of the same batch, median over networks. "
        "`graphprop methods --recommend` prints the same.",
        "",
        *methods_section(results, plan),
        "## Options",
        "",
        *variants_section(results),
        "## Depth",
        "",
        "`mu_w` of LRP-z and of a composite:",
        "",
        *depth_section(results),
        "## Object and context",
        "",
        "How far the logit falls when the object or the context is replaced by the picture's mean "
        "(mean, standard deviation):",
        "",
        *occlusion_section(results),
    ]
    if pictures:
        lines += ["## Pictures", ""]
        for file, text in pictures:
            lines += [f"![{text}]({file})", "", f"*{text}*", ""]
    lines += ["## Every method by every metric", ""]
    lines += [f"- [{TITLES[n]}](evidence/{n}.md)" for n in results.networks]
    return "\n".join(lines).rstrip() + "\n"


def write_pages(
    results: Results,
    plan: Plan,
    docs: Path,
    output: Path,
    recommended: Path,
    *,
    figures: bool = True,
) -> list[Path]:
    """Write all pages, and what ``graphprop methods --recommend`` reads; returns the files."""
    DEPTHS.clear()
    DEPTHS.update(depths(n for n in results.networks if n != plans.VOLUMES))
    folder = docs / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[tuple[str, str]] = []
    if figures:
        from evidence.pictures import draw

        pictures = draw(results, plan, folder, output)
    written = []
    for network in results.networks:
        path = folder / f"{network}.md"
        path.write_text(network_page(results, network), encoding="utf-8")
        written.append(path)
    path = docs / "evidence.md"
    path.write_text(main_page(results, plan, pictures), encoding="utf-8")
    content = recommendations(results, plan)
    recommended.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return [path, *written, recommended, *(folder / Path(file).name for file, _ in pictures)]
