"""The figures of the page, drawn as ``graphprop figure`` draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphprop
from evidence import plan as plans
from evidence.measure import OfNetwork, Subject
from evidence.plan import Plan
from evidence.results import Results
from graphprop.evaluation import Evaluation
from graphprop.evaluation.figures import save_figure
from graphprop.evaluation.occlusion import Occlusion
from graphprop.evaluation.results import Facts, Values

SUBJECTS = ("shapes_vgg_bn", "shapes_resnet", *plans.SHAPES)
"""The network of the figures of generated pictures: the first of these that was measured."""
PANEL = ("epsilon_plus_flat", "lrp_cmp_alpha2_flat", "rap", "rap-bn", "hedge", "gradcam")
SANITY = ("epsilon_plus_flat", "lrp_cmp_alpha2_flat", "rap", "hedge", "guided_backprop")
CURVES = ("random", "input_x_gradient", *PANEL)
SHAPES_SAMPLES, PHOTOGRAPHS = 3, 3


def evaluation_of(run: dict[str, Any], which: str, explainers: tuple[str, ...]) -> Evaluation:
    """A set of one run as `graphprop.evaluate` returns it."""
    part = run["sets"][which]
    found = Evaluation([])
    found.facts = {case: Facts(*fact) for case, fact in enumerate(part["facts"])}
    for name, by_metric in part["values"].items():
        for metric, row in by_metric.items():
            if name in explainers:
                values = found.values.setdefault((name, metric), Values())
                for case, value in enumerate(row):
                    if value is not None:
                        values.add(case, value)
                mean = sum(values.numbers) / max(1, len(values.numbers))
                found.rows.append({"explainer": name, "metric": metric, "mean": mean})
    for kind, stored in (("curves", found.curves), ("errors", found.errors)):
        stored.update({pair: row for pair, row in part[kind].items() if pair[0] in explainers})
    return found


def compiled(subject: Subject, methods: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Explainers of some methods."""
    captured = graphprop.capture(subject.model, subject.example)
    return {one: graphprop.compile(captured, method=one, **options) for one in methods}


def of_network(subject: Subject, methods: tuple[str, ...]) -> dict[str, Any]:
    """Explainers that store nothing for gradients."""
    found = compiled(subject, methods)
    return {name: OfNetwork(one, subject.model) for name, one in found.items()}


def known(plan: Plan, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some methods that the plan has."""
    return tuple(one for one in methods if one in plan.methods)


def draw(results: Results, plan: Plan, folder: Path, output: Path) -> list[tuple[str, str]]:
    """Draw all figures; returns their files, from the page, and what stands below them."""
    found = []
    name = next((one for one in SUBJECTS if one in results.networks), None)
    if name is not None:
        found += drawn_of_shapes(name, results, plan, folder, output)
    if plans.PHOTOGRAPHS in results.networks:
        found += drawn_of_photographs(plan, folder, output)
    return found


def drawn_of_shapes(
    name: str, results: Results, plan: Plan, folder: Path, output: Path
) -> list[tuple[str, str]]:
    """The figures of generated pictures."""
    subject = Subject(name, 0, plan, output / "weights")
    several = [case for case in subject.cases if case.name.startswith("several")]
    shown = several[:SHAPES_SAMPLES]
    run = results.runs[name][0]
    given = {"class_names": subject.class_names, "preprocessing": subject.preprocessing}
    figures: list[tuple[str, str, Any]] = []

    def add(kind: str, text: str, *arguments: Any, **options: Any) -> None:
        figures.append((kind, text, graphprop.figure(kind, *arguments, **options)))

    panel = of_network(subject, known(plan, PANEL))
    add("panel", "methods by the classes of two pictures", panel, shown, **given)
    if "rap-bn" in plan.methods:
        recorded = compiled(subject, ("rap-bn",), record=["*", "x"])
        add("flows", "the two flows of RAP-BN, and their sum", recorded, shown[:2], **given)
    recorded = compiled(subject, known(plan, ("rap", "hedge")), record=["*"])
    add("layers", "relevance at layers", recorded, shown[:1], **given)
    parts = of_network(subject, known(plan, ("rap", "lrp_cmp_alpha2_flat")))
    parts["excitatory"] = of_network(subject, ("lrp_alpha1_beta0",))["lrp_alpha1_beta0"]
    inhibitory = graphprop.compile(
        subject.model, subject.example, "lrp_alpha1_beta0", alpha=0, beta=1
    )
    parts["inhibitory"] = OfNetwork(inhibitory, subject.model)
    add(
        "signs",
        "the excitatory and the inhibitory part, and relevance of both signs",
        parts,
        shown[:2],
        pairs=[("excitatory", "inhibitory")],
        **given,
    )
    sane = of_network(subject, known(plan, SANITY))
    add("sanity", "two classes, and weights permuted layer by layer", sane, shown[:1], **given)
    measured = evaluation_of(run, "few", CURVES)
    metrics = ("lerf", "morf", "deletion", "insertion", "morf_insertion", "remove_negative")
    there = [one for one in metrics if any(metric == one for _, metric in measured.curves)]
    add("curves", "curves of seed 0", evaluation=measured, metric=there)
    sized = evaluation_of(run, "boxes", plans.SIZED)
    add(
        "size",
        "mu over the size of the object's box, and the effect of occlusion, seed 0",
        evaluation=sized,
        occlusion=Occlusion(run["occlusion"]),
    )
    return [
        written(figure, folder / f"{kind}.png", f"`models/{name}.py`: {text}")
        for kind, text, figure in figures
    ]


def drawn_of_photographs(plan: Plan, folder: Path, output: Path) -> list[tuple[str, str]]:
    """The figures of photographs."""
    subject = Subject(plans.PHOTOGRAPHS, 0, plan, output / "weights")
    given = {"class_names": subject.class_names, "preprocessing": subject.preprocessing}
    explainers = of_network(subject, known(plan, PANEL))
    name = f"`models/{plans.PHOTOGRAPHS}.py`"
    found = []
    for kind, text, count in (
        ("panel", "photographs by methods", PHOTOGRAPHS),
        ("topk", "the most relevant tenth of the pixels, and what they leave", 2),
    ):
        figure = graphprop.figure(kind, explainers, subject.cases[:count], **given)
        found.append(written(figure, folder / f"photographs-{kind}.png", f"{name}: {text}"))
    return found


def written(figure: Any, path: Path, text: str) -> tuple[str, str]:
    """Write a figure; returns its file, from the page, and what it shows."""
    path.unlink(missing_ok=True)
    save_figure(figure, path)
    return f"evidence/{path.name}", text
