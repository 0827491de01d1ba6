"""Measure one network: compile every method, evaluate all of them, and keep the value of each case.

What is kept is JSON: values by set of pictures, explainer, metric and case, so that differences of
methods can be taken case by case.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nodules
import numpy as np
import photographs
import shapes
import torch
import train_shapes
from safetensors.torch import load_file

import graphprop
from evidence import plan as plans
from evidence.plan import Plan
from graphprop.errors import GraphpropError
from graphprop.evaluation import Case, baselines, evaluate, find_metric
from graphprop.evaluation.data import Reading, read
from graphprop.evaluation.explainers import ModuleExplainer
from graphprop.evaluation.occlusion import occlusion
from graphprop.evaluation.perturbation import correlation, ranks_of
from graphprop.evaluation.sample import Explainer, explain_batch
from graphprop.frontend.load import load_source
from graphprop.pictures.preprocessing import Preprocessing

MODELS = train_shapes.MODELS
BATCH = 16
TIMED = 8
"""Pictures in a batch whose time is taken; of 224 x 224 pixels, a quarter as many."""
REPEATS = 5
TEST_SEED = 100
"""Added to a seed: pictures to explain are not those that networks were tested on."""

Say = Callable[[str], None]


def weights_of(network: str, seed: int, folder: Path) -> Path | None:
    """The weights of a network: those beside the model for seed 0, others from a folder."""
    return None if seed == 0 else folder / f"seed{seed}" / f"{network}.safetensors"


def ensure_trained(network: str, seed: int, folder: Path) -> float:
    """Train a network if its weights are not there; returns how many seconds that took, or had."""
    path = weights_of(network, seed, folder)
    if path is None:
        return 0.0
    taken = path.with_suffix(".json")
    if path.exists():
        return float(json.loads(taken.read_text())) if taken.exists() else 0.0
    start = time.process_time()
    content = train_shapes.save(train_shapes.halve(train_shapes.trained(network, seed)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    temporary.write_bytes(content)
    seconds = time.process_time() - start
    taken.write_text(json.dumps(seconds))
    temporary.replace(path)
    return seconds


class OfNetwork(ModuleExplainer):
    """A compiled explainer whose logits are those of the network itself.

    They are the same, and no forward part has to be taken out of each module.

    Attributes
    ----------
    network
        What was compiled.
    """

    def __init__(self, module: torch.nn.Module, network: torch.nn.Module) -> None:
        super().__init__(module)
        self.network = network

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]``."""
        with torch.no_grad():
            result: torch.Tensor = self.network(x)
        return result


class Subject:
    """A network with its pictures.

    Attributes
    ----------
    name, seed
        Of the network.
    model, example
        What is compiled.
    class_names, preprocessing
        What the model's file says.
    cases
        All cases.
    few
        Those for metrics that take long.
    boxes
        Cases of one object, whose masks are boxes.
    """

    def __init__(self, name: str, seed: int, plan: Plan, folder: Path) -> None:
        self.name, self.seed = name, seed
        loaded = load_source(str(MODELS / f"{name}.py"))
        self.model, self.example = loaded.model, loaded.example
        self.class_names = loaded.class_names
        self.preprocessing = loaded.preprocessing
        weights = weights_of(name, seed, folder)
        if weights is not None:
            self.model.load_state_dict(load_file(weights))
        sizes, drawn = plan.sizes, TEST_SEED + seed
        if name == plans.PHOTOGRAPHS:
            self.cases = photograph_cases(folder.parent / "photographs", loaded.preprocessing)
            self.cases = self.cases[: sizes.photographs]
            self.few = self.cases[: sizes.few_photographs]
            self.boxes: list[Case] = []
        elif name == plans.VOLUMES:
            self.cases = list(volume_cases(sizes.volumes, drawn))
            self.few, self.boxes = self.cases[: sizes.few_volumes], []
        else:
            single = list(shapes.cases("single", sizes.single, drawn))
            several = list(shapes.cases("several", sizes.several, drawn))
            self.cases = single + several
            chosen = {f"single/{i}" for i in range(sizes.few_single)}
            chosen |= {f"several/{i}" for i in range(sizes.few_several)}
            self.few = [case for case in self.cases if case.name in chosen]
            self.boxes = [replace(case, mask=box_of(case.mask)) for case in single]
        self.fitted_to = sizes.fit

    def training(self) -> list[torch.Tensor]:
        """Batches of training pictures, for methods with patterns."""
        data = train_shapes.load_data(self.name, "train", self.fitted_to, self.seed)
        return list(data.inputs.split(64))


def box_of(mask: Any) -> Any:
    """The bounding box of a mask, as a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def volume_cases(count: int, seed: int) -> Iterator[Case]:
    """Volumes as cases."""
    for index, one in enumerate(nodules.volumes("test", count, seed)):
        image = torch.from_numpy(one.image)[None]
        yield Case(image, one.label, one.mask, frozenset({one.label}), f"volume/{index}")


def photograph_cases(folder: Path, preprocessing: Any) -> list[Case]:
    """The photographs with masks, a picture's first class before any second one."""
    photographs.write(folder)
    names = json.loads((MODELS / "imagenet_classes.json").read_text(encoding="utf-8"))
    content = {"input_shape": [3, 224, 224], "preprocessing": preprocessing}
    reading = Reading(Preprocessing.of(content), len(names), names)
    found = list(read(folder / "annotations.json", reading))
    seen: dict[str, int] = {}
    order = []
    for index, case in enumerate(found):
        order.append((seen.setdefault(case.name, 0), index))
        seen[case.name] += 1
    return [found[index] for _, index in sorted(order)]


def compiled(subject: Subject, plan: Plan, say: Say) -> tuple[dict[str, Any], dict[str, str]]:
    """Explainers by name, and what could not be compiled, with the reason."""
    wanted = [(m, m, {}) for m in plan.methods]
    wanted += [(v.name, v.method, v.parameters) for v in plan.variants]
    explainers, refused = {}, {}
    captured = graphprop.capture(subject.model, subject.example)
    for name, method, parameters in wanted:
        say(f"compile {name}")
        given = dict(parameters)
        if method in plans.PATTERNS and subject.name == plans.PHOTOGRAPHS:
            refused[name] = "patterns are fitted to training pictures, and ImageNet's are not here"
            continue
        if method in plans.PATTERNS:
            given["fit"] = subject.training()
        try:
            module = graphprop.compile(captured, method=method, **given)
        except GraphpropError as error:
            refused[name] = str(error).splitlines()[0]
            continue
        explainers[name] = OfNetwork(module, subject.model)
    return explainers, refused


def values_of(found: Any, metrics: Sequence[str]) -> dict[str, dict[str, list[float | None]]]:
    """Explainer to metric to the value of each case, None where there is none."""
    cases = {case: place for place, case in enumerate(sorted(found.facts))}
    labels = {find_metric(spec).label for spec in metrics}
    result: dict[str, dict[str, list[float | None]]] = {}
    for (explainer, label), values in found.values.items():
        assert label in labels
        row: list[float | None] = [None] * len(cases)
        for case, number in zip(values.cases, values.numbers, strict=True):
            row[cases[case]] = float(f"{number:.6g}")
        result.setdefault(explainer, {})[label] = row
    return result


def evaluated(
    explainers: Mapping[str, Explainer], cases: Sequence[Case], metrics: Sequence[str], say: Say
) -> dict[str, Any]:
    """The values of a set of cases, with what is known of each case."""
    found = evaluate(
        explainers,
        cases,
        metrics,
        batch_size=BATCH,
        progress=lambda done, total, name: say(f"{done} of {total} cases, {name}"),
    )
    return {
        "facts": [list(found.facts[case]) for case in sorted(found.facts)],
        "values": values_of(found, metrics),
        "curves": {f"{e}|{m}": [x, y] for (e, m), (x, y) in found.curves.items()},
        "errors": {f"{e}|{m}": error for (e, m), error in found.errors.items()},
        "reasons": sorted({(one["metric"], one["reason"]) for one in found.skipped}),
    }


def seconds_of(run: Callable[[], Any]) -> float:
    """The median CPU time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return float(np.median(times))


def costs_of(explainers: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, float]:
    """CPU time of an explanation, in forward passes of the same batch."""
    x = torch.stack([case.image for case in cases])
    targets = torch.tensor([case.target for case in cases])
    network = next(iter(explainers.values()))
    forward = seconds_of(lambda: network.logits(x))
    return {
        name: seconds_of(lambda one=one: one(x, targets)) / forward
        for name, one in explainers.items()
    }


def maps_of(explainer: Explainer, cases: Sequence[Case]) -> list[Any]:
    """Maps of cases."""
    found: list[Any] = []
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        x = torch.stack([case.image for case in part])
        found += list(explain_batch(explainer, x, torch.tensor([c.target for c in part]))[1])
    return found


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's correlation of two maps, 0 where one is constant."""
    return correlation(ranks_of(one), ranks_of(other), 0.0)


def signs_of(explainers: Mapping[str, Any], subject: Subject) -> dict[str, list[float]]:
    """Whether the excitatory and the inhibitory part have their relevance at the same places.

    The rank correlation over pixels of their magnitudes, and for comparison that of the excitatory
    part and the map of edges.
    """
    if not {"lrp_alpha1_beta0", plans.INHIBITORY} <= set(explainers):
        return {}
    excitatory = maps_of(explainers["lrp_alpha1_beta0"], subject.cases)
    inhibitory = maps_of(explainers[plans.INHIBITORY], subject.cases)
    network = next(iter(explainers.values()))
    edges = maps_of(baselines(network, ["edge"])["edge"], subject.cases)
    pairs = list(zip(excitatory, inhibitory, edges, strict=True))
    return {
        "parts": [rank_correlation(np.abs(e), np.abs(i)) for e, i, _ in pairs],
        "edges": [rank_correlation(np.abs(e), g) for e, _, g in pairs],
    }


def distance_of(explainers: Mapping[str, Any], subject: Subject) -> list[float]:
    """How far the map of LRP-z is from input x gradient, relative to it, by case."""
    if not {"lrp_z", "input_x_gradient"} <= set(explainers):
        return []
    first, second = (maps_of(explainers[n], subject.cases) for n in ("lrp_z", "input_x_gradient"))
    return [
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
        for a, b in zip(first, second, strict=True)
    ]


def totals_of(subject: Subject) -> dict[str, list[float]]:
    """The sum of hedged relevance below each layer, by gamma: layers of a chain of 3 x 3 kernels.

    The layer itself starts with a sum of 1 or -1; each hedged layer below it should have
    ``gamma - 2``.
    """
    if subject.name not in ("shapes_vgg", "shapes_vgg_bn"):
        return {}
    x = torch.stack([case.image for case in subject.few])
    targets = torch.tensor([case.target for case in subject.few])
    found = {}
    for gamma in (1.0, 1.5):
        explainer = graphprop.compile(
            subject.model, subject.example, "hedge", gamma=gamma, record=["*"]
        )
        with torch.no_grad():
            explainer(x, targets)
        labels = [layer.label for layer in explainer.layers]
        hedged = [
            i for i, layer in enumerate(explainer.layers) if str(layer.rule).startswith("hedge(")
        ]
        sums = []
        for index in hedged:
            below = explainer.relevance_at(labels[index - 1])
            sums += below.double().flatten(1).sum(1).tolist()
        found[f"{gamma:g}"] = [float(f"{one:.6g}") for one in sums]
    return found


def measure(network: str, seed: int, plan: Plan, folder: Path) -> dict[str, Any]:
    """Everything that is measured of one network with one set of weights."""
    torch.set_num_threads(1)

    def say(text: str) -> None:
        print(f"{network}, seed {seed}: {text}", file=sys.stderr, flush=True)

    say("train")
    weights = folder / "weights"
    training = ensure_trained(network, seed, weights)
    start = time.process_time()
    subject = Subject(network, seed, plan, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainers, refused = compiled(subject, plan, say)
        first = next(iter(explainers.values()))
        large = network == plans.PHOTOGRAPHS
        # a window at each place of a volume is thousands of forward passes
        slow = {"occlusion"} if network == plans.VOLUMES else set()
        floors = baselines(first, [name for name in plan.baselines if name not in slow])
        main = {n: e for n, e in explainers.items() if n in plan.methods}
        quick = {n: e for n, e in floors.items() if n != "occlusion"}
        say("maps")
        sets = {"maps": evaluated({**floors, **explainers}, subject.cases, plans.MAPS, say)}
        say("perturbation and sensitivity")
        sets["few"] = evaluated({**floors, **main}, subject.few, plan.metrics(network), say)
        if subject.boxes:
            sized = {n: explainers[n] for n in plans.SIZED if n in explainers}
            sets["boxes"] = evaluated({**quick, **sized}, subject.boxes, ["mu", "mu_w"], say)
        say("occlusion and costs")
        content = {
            "network": network,
            "seed": seed,
            "key": plan.key(network),
            "version": graphprop.__version__,
            "torch": torch.__version__,
            "refused": refused,
            "sets": sets,
            "costs": costs_of(main, subject.cases[: TIMED // 4 if large else TIMED]),
            "occlusion": occlusion(first, subject.cases).cases,
            "signs": signs_of(explainers, subject),
            "distance": distance_of(explainers, subject),
            "totals": totals_of(subject),
        }
    content["train_seconds"] = training
    content["seconds"] = time.process_time() - start
    return content


def result_path(folder: Path, network: str, seed: int) -> Path:
    """Where the results of a network lie."""
    return folder / "results" / f"{network}-{seed}.json"


def known(folder: Path, network: str, seed: int, plan: Plan) -> dict[str, Any] | None:
    """The results so far of the same plan, or None."""
    path = result_path(folder, network, seed)
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = content["key"] == plan.key(network) and content["version"] == graphprop.__version__
    return content if same else None


def run(job: tuple[str, int, Plan, Path]) -> tuple[str, int, float]:
    """Measure a network unless that was done, and write its results."""
    network, seed, plan, folder = job
    content = known(folder, network, seed, plan)
    if content is None:
        content = measure(network, seed, plan, folder)
        path = result_path(folder, network, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".writing")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
    return network, seed, content["seconds"]
