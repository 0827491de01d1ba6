"""What ``graphprop figure`` does once its options are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from graphprop.cli import console
from graphprop.cli.evaluation import compiled_from, read_classes, refuse_mixture
from graphprop.errors import InputError
from graphprop.evaluation import Case, baselines
from graphprop.evaluation.data import Reading, read
from graphprop.evaluation.explainers import Opened, open_directories
from graphprop.evaluation.figures import (
    MEASURED,
    RECORDED,
    figure,
    refuse_file,
    save_figure,
)
from graphprop.evaluation.sample import PREDICTED
from graphprop.frontend.user_code import import_extension
from graphprop.pictures.preprocessing import MODES

SAMPLES = 4
"""How many cases of --data are drawn where nobody says."""
PAIR = ("excitatory (a1b0)", "inhibitory (a0b1)")
"""What the figure of signs compiles by itself: the two parts of the alpha-beta rule."""
PARTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    PAIR[0]: ("lrp_alpha1_beta0", {}),
    PAIR[1]: ("lrp_alpha1_beta0", {"alpha": 0.0, "beta": 1.0}),
}
OF_KINDS = {
    "columns": ("panel",),
    "layer": ("layers",),
    "count": ("layers",),
    "pairs": ("signs",),
    "top": ("topk",),
    "fill": ("topk",),
    "value": ("topk",),
    "metric": ("curves",),
    "depths": ("sanity",),
}
"""Which figures an option is of."""
NAMES = {"pairs": "pair"}
"""What an option is called on the command line, where it is called otherwise."""


def run_figure(
    as_json: bool,
    *,
    kind: str,
    paths: Sequence[Path],
    output: Path,
    data: Path | None,
    samples: int | None,
    seed: int,
    source: str | None,
    methods: Sequence[str],
    sweep: str | None,
    imports: Iterable[str],
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    result: str | None,
    targets: Sequence[str],
    every_class: bool,
    classes: Path | None,
    images: Path | None,
    fit: Path | None,
    resize: str,
    boxes: bool,
    chosen_baselines: Sequence[str],
    **options: Any,
) -> None:
    """Draw a figure, and write it."""
    options = chosen_options(kind, options)
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    refuse_file(output, keep=[*files, *([data] if data else [])])
    if kind in MEASURED:
        of_maps = (data, samples, every_class, source, sweep, fit, weights, input_shape, classes)
        if len(folders) != 1 or any((*of_maps, *methods, *targets, *files, *chosen_baselines)):
            raise click.UsageError(
                f"{kind} is drawn of one evaluation: name the folder that `graphprop evaluate -o` "
                "wrote, and no model, data or pictures"
            )
        drawn = figure(kind, evaluation=folders[0], **options)
        say_written(as_json, kind, save_figure(drawn, output))
        return
    alone = kind == "signs" and source is not None and not (methods or sweep or fit)
    if not alone:
        refuse_mixture(folders, source, methods, sweep, fit)
    elif folders:
        raise click.UsageError("name either compiled directories or --model SOURCE, not both")
    if kind in RECORDED and folders:
        raise InputError(
            f"{kind} needs the relevance of layers, which compiled directories don't record: name "
            "the model by --model SOURCE and the methods by --method NAME"
        )
    if bool(files) == (data is not None):
        raise click.UsageError("name pictures, or data by --data DATA, and not both")
    refuse_unknown(files)
    for module in imports:
        import_extension(module)
    with console.progress("load the explainers") as say:
        if source is None:
            opened = open_directories(folders)
        else:
            more = PARTS if kind == "signs" else {}
            record = ["*"] if kind in RECORDED else []
            opened = compiled_from(
                source,
                methods,
                sweep,
                weights,
                input_shape,
                result,
                say,
                fit,
                record=record,
                more=more,
            )
            if more:
                options["pairs"] = [PAIR, *options.get("pairs", ())]
        given, named = read_classes(classes)
        names = opened.class_names if classes is None else given
        called = {number: name for name, number in named.items()} | dict(enumerate(names or ()))
        reading = Reading(
            opened.preprocessing,
            opened.classes,
            names,
            named,
            resize,
            "boxes" if boxes else "objects",
            images,
        )
        cases = pictures(files, opened) if data is None else read(data, reading)
        numbers = [number_of(text, reading) for text in targets]
        if kind == "sanity" and len(numbers) == 2:
            options["other"] = numbers.pop()
        network = next(iter(opened.explainers.values()))
        beside = baselines(network, dict.fromkeys(chosen_baselines), seed=seed)
        explainers = {**beside, **opened.explainers}
        say(f"draw {kind}")
        drawn = figure(
            kind,
            explainers,
            cases,
            targets=numbers or None,
            every_class=every_class,
            samples=(SAMPLES if data is not None else None) if samples is None else samples,
            seed=seed,
            class_names=called,
            preprocessing=opened.preprocessing,
            **options,
        )
        written = save_figure(drawn, output)
    say_written(as_json, kind, written)


def chosen_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; none of another figure may be."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given:
        if kind not in OF_KINDS[name]:
            option = NAMES.get(name, name)
            raise click.UsageError(f"--{option} is of {' and '.join(OF_KINDS[name])}, not {kind}")
    if "pairs" in given:
        given["pairs"] = [pair_of(text) for text in given["pairs"]]
    return given


def pair_of(text: str) -> tuple[str, str]:
    """Read ``FIRST,SECOND``."""
    first, comma, second = (part.strip() for part in text.partition(","))
    if not (first and comma and second):
        raise click.BadParameter(f"write FIRST,SECOND, not {text!r}", param_hint="--pair")
    return first, second


def refuse_unknown(files: Iterable[Path]) -> None:
    """Refuse a path that isn't there: it may be meant for a directory or for a picture."""
    for file in files:
        if not file.exists():
            raise InputError(f"there is neither a compiled directory nor a picture {file}")


def pictures(files: Iterable[Path], opened: Opened) -> list[Case]:
    """Pictures as `graphprop explain` prepares them, for the class that is predicted."""
    found: list[Case] = []
    preprocessing = opened.preprocessing
    if len(preprocessing.size) != 2 or len(preprocessing.mean) not in MODES:
        shape = (len(preprocessing.mean), *preprocessing.size)
        raise InputError(
            f"the explainer takes inputs of shape {shape}, and a picture has the shape (1, H, W) "
            "or (3, H, W): give an .npz by --data"
        )
    for file in files:
        shown, warnings = preprocessing.read(file)
        for text in warnings:
            console.say_warning(text)
        image = preprocessing.tensor(shown)[0]
        found.append(Case(image, PREDICTED, name=str(file)))
    return found


def number_of(text: str, reading: Reading) -> int:
    """The class that --target names: a number, or a name of --classes."""
    found = reading.class_of(text)
    if found is None:
        raise InputError(
            f"{text!r} is no class: give a number from 0 to {reading.classes - 1}, or a name of "
            "--classes FILE"
        )
    return found


def say_written(as_json: bool, kind: str, path: Path) -> None:
    """Print where the figure is."""
    if as_json:
        console.say_json("figure", {"kind": kind, "file": path})
    else:
        console.say(f"written: {path}")
