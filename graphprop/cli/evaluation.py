"""What ``graphprop evaluate`` does once its options are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from graphprop.api import capture, compile
from graphprop.artifact.manifest import sha256
from graphprop.cli import console
from graphprop.cli.commands import batches_of
from graphprop.errors import InputError, MethodError, OutputError
from graphprop.evaluation import Evaluation, baselines, evaluate, find_metric
from graphprop.evaluation.baselines import BASELINES
from graphprop.evaluation.data import Arrays, Pictures, Reading, read
from graphprop.evaluation.explainers import ModuleExplainer, Opened, open_directories
from graphprop.evaluation.occlusion import occlusion
from graphprop.evaluation.plots import write_plots
from graphprop.evaluation.registry import METRICS, Metric
from graphprop.evaluation.runner import PARTIAL, Progress
from graphprop.evaluation.sample import Explainer
from graphprop.frontend.load import load_source
from graphprop.frontend.user_code import import_extension
from graphprop.passes.assign_rules import parse_value
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.rules.registry import assignments, find_method

DEFAULT_FOLDER = Path("evaluation")
RESULT = "evaluation.json"
REASONS = 10
"""Lines about missing values that are printed; the files have all of them."""


def run_evaluate(
    as_json: bool,
    *,
    directories: Sequence[Path],
    source: str | None,
    methods: Sequence[str],
    sweep: str | None,
    imports: Iterable[str],
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    result: str | None,
    fit: Path | None,
    data: Path,
    classes: Path | None,
    images: Path | None,
    resize: str,
    boxes: bool,
    metrics: Sequence[str],
    samples: int | None,
    seed: int,
    batch_size: int,
    output: Path | None,
    chosen_baselines: Sequence[str],
    no_baselines: bool,
    with_occlusion: bool,
    no_plots: bool,
) -> None:
    """Evaluate explainers, write what was found, and print a table of it."""
    refuse_mixture(directories, source, methods, sweep, fit)
    if no_baselines and chosen_baselines:
        raise click.UsageError("give either --baseline or --no-baselines")
    output = DEFAULT_FOLDER if output is None else output
    refuse_output(output)
    for module in imports:
        import_extension(module)
    chosen = [find_metric(name) for name in metrics or METRICS]
    with console.progress("load the explainers") as say:
        if source is None:
            opened = open_directories(directories)
        else:
            opened = compiled_from(source, methods, sweep, weights, input_shape, result, say, fit)
        given, named = read_classes(classes)
        names = opened.class_names if classes is None else given
        reading = Reading(
            opened.preprocessing,
            opened.classes,
            names,
            named,
            resize,
            "boxes" if boxes else "objects",
            images,
        )
        cases = read(data, reading)
    network = next(iter(opened.explainers.values()))
    explainers = dict(opened.explainers)
    beside = () if no_baselines else tuple(dict.fromkeys(chosen_baselines or BASELINES))
    explainers = {**baselines(network, beside, seed=seed), **explainers}
    identity = {
        "data": str(data.resolve()),
        "cases": len(cases),
        "reading": readable([resize, boxes, names, named]),
        "explainers": opened.identity,
        "baselines": beside,
    }
    with shown_progress() as progress:
        found = evaluate(
            explainers,
            cases,
            chosen,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            resume=output,
            identity=identity,
            progress=progress,
        )
        occluded = None
        if with_occlusion:
            progress(0, None, "occlusion")
            occluded = occlusion(network, cases, samples=samples, seed=seed)
    written = found.write(output)
    if occluded is not None:
        (output / "occlusion.csv").write_text(occluded.as_csv(), encoding="utf-8")
        written.append(output / "occlusion.csv")
    if not no_plots:
        written += write_plots(found, output, occluded)
    # complete: there is nothing to resume
    (output / PARTIAL).unlink(missing_ok=True)
    if as_json:
        content = {**found.as_dict(), "files": written}
        content |= {"occlusion": occluded.summary} if occluded is not None else {}
        console.say_json("evaluate", content)
        return
    describe(found, chosen, data, cases, written)
    if occluded is not None:
        say_occlusion(occluded.summary)


def refuse_mixture(
    directories: Sequence[Path],
    source: str | None,
    methods: Sequence[str],
    sweep: str | None,
    fit: Path | None = None,
) -> None:
    """Refuse options that don't go together."""
    if source is None and not directories:
        raise click.UsageError("name compiled directories, or a model by --model SOURCE")
    if source is not None and directories:
        raise click.UsageError("name either compiled directories or --model SOURCE, not both")
    for option, value in (("--method", methods), ("--sweep", sweep), ("--fit", fit)):
        if source is None and value:
            raise click.UsageError(f"{option} compiles a model: name it by --model SOURCE")
    if source is not None and not methods:
        raise click.UsageError("name the methods to compile --model with: --method NAME")


def refuse_output(output: Path) -> None:
    """Refuse a folder with files that were not written here."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: name a folder by -o")
    own = any((output / name).exists() for name in (RESULT, PARTIAL))
    if output.is_dir() and not own and any(output.iterdir()):
        raise OutputError(
            f"{output} is not empty and holds no evaluation: name another folder by -o"
        )


def compiled_from(
    source: str,
    methods: Sequence[str],
    sweep: str | None,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    result: str | None,
    say: Callable[[str], None],
    fit: Path | None = None,
    *,
    record: Sequence[str] = (),
    more: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
) -> Opened:
    """Compile a model by each method, and by each value of the parameter that is swept.

    ``more`` are methods with parameters that have names of their own.

    Raises
    ------
    MethodError
        If ``fit`` is given, and no method has patterns.
    """
    loaded = load_source(source, weights=weights, input_shape=input_shape)
    files = [loaded.source, loaded.sha256, None if weights is None else sha256(weights)]
    explainers: dict[str, Explainer] = {}
    identity = {}
    fitted = [name for name in methods if find_method(name).fitted]
    if fit is not None and not fitted:
        shown = ", ".join(map(repr, dict.fromkeys(methods)))
        raise MethodError(f"--fit: none of the methods {shown} fits anything to data: leave it out")
    captured = capture(loaded.model, loaded.example, progress=say)
    wanted: dict[str, tuple[str, Mapping[str, Any]]] = {
        f"{method}[{label}]" if label else method: (method, parameters)
        for method in dict.fromkeys(methods)
        for label, parameters in swept(sweep)
    }
    for name, (method, parameters) in {**wanted, **(more or {})}.items():
        say(f"compile by {name}")
        made = compile(
            captured,
            method=method,
            output=result,
            name=loaded.name,
            class_names=loaded.class_names,
            record=record,
            fit=batches_of(fit, loaded) if fit is not None and method in fitted else None,
            **parameters,
        )
        explainers[name] = ModuleExplainer(made)
        data = None if made.compiled.fitted is None else made.compiled.fitted.sha256
        identity[name] = [*files, made.settings, data]
    content = {
        "input_shape": made.input_shape,
        "input_shapes": made.input_shapes,
        "preprocessing": loaded.preprocessing,
    }
    return Opened(
        explainers,
        Preprocessing.of_arrays(content),
        made.classes,
        readable(identity),
        loaded.class_names,
    )


def readable(value: Any) -> Any:
    """A value as JSON has it, what is unknown there as its text."""
    return json.loads(json.dumps(value, default=str))


def swept(sweep: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Read ``KEY=V1,V2``: what each value is called, and the parameter with it."""
    if sweep is None:
        return [("", {})]
    key, equals, values = sweep.partition("=")
    parts = [part.strip() for part in values.split(",")]
    if not equals or not key.strip() or not all(parts):
        raise click.BadParameter(f"write KEY=V1,V2, not {sweep!r}", param_hint="--sweep")
    return [(f"{key.strip()}={part}", {key.strip(): parse_value(part)}) for part in parts]


def read_classes(path: Path | None) -> tuple[list[str] | None, dict[str, int]]:
    """Read --classes: a JSON list of the names of all classes, or an object of name to class."""
    if path is None:
        return None, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content, {}
    if isinstance(content, dict) and all(
        isinstance(number, int) and not isinstance(number, bool) for number in content.values()
    ):
        return None, content
    raise InputError(f"{path} must hold a list of names, or an object of name to class")


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show on a terminal how many cases are done, and which explainer is at work."""
    with console.progress("evaluate") as say:
        yield lambda done, total, name: say(
            f"evaluate {name}, case {done}" + ("" if total is None else f" of {total}")
        )


def describe(
    found: Evaluation,
    chosen: Sequence[Metric],
    data: Path,
    cases: Pictures | Arrays,
    written: Sequence[Path],
) -> None:
    """Print the table, what has no value and why, and the files."""
    used = len(found.facts)
    console.say(f"{data}: {used} of {len(cases)} cases; mean [95 % interval], * the best")
    console.say()
    say_results(found)
    reasons = list(dict.fromkeys((one["metric"], one["reason"]) for one in found.skipped))
    if reasons:
        console.say()
    for metric, reason in reasons[:REASONS]:
        concerned = [
            f"{one['explainer']} ({one['n']})"
            for one in found.skipped
            if (one["metric"], one["reason"]) == (metric, reason)
        ]
        console.say(f"no value of {metric} for {', '.join(concerned)}: {reason}")
    if len(reasons) > REASONS:
        console.say(f"and {len(reasons) - REASONS} more: see {written[0]}")
    console.say()
    console.say("written: " + ", ".join(map(str, written)))


def cell_of(row: dict[str, Any] | None, best: bool) -> Text:
    """Mean and interval, the best in bold; a star says so where there are no bold letters."""
    if row is None:
        return Text("-")
    text = f"{row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
    return Text(f"{text}*" if best else text, style="bold" if best else "")


def say_results(found: Evaluation) -> None:
    """Print means by method and metric; down the side goes what there is more of."""
    rows = {(row["explainer"], row["metric"]): row for row in found.rows}
    better = {row["metric"]: "higher" if row["higher_is_better"] else "lower" for row in found.rows}
    best = {metric: found.best(metric) for metric in found.metrics}
    explainers, metrics = found.explainers, found.metrics
    methods_down = len(explainers) > len(metrics)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    if methods_down:
        heads = ["method", *(f"{metric} ({better[metric]})" for metric in metrics)]
        lines = [
            [Text(name), *(cell_of(rows.get((name, m)), name in best[m]) for m in metrics)]
            for name in explainers
        ]
    else:
        heads = ["metric", "better", *explainers]
        lines = [
            [
                Text(metric),
                Text(better[metric]),
                *(cell_of(rows.get((e, metric)), e in best[metric]) for e in explainers),
            ]
            for metric in metrics
        ]
    for head in heads:
        table.add_column(console.printable(head), overflow="fold")
    for line in lines:
        table.add_row(*line)
    target = console.console()
    if target.is_terminal:
        target.print(table)
        return
    with target.capture() as capture:
        target.print(table)
    for text in capture.get().splitlines():
        click.echo(text.rstrip())


def say_metrics() -> None:
    """Print the metrics, which way is better, what they need, and their parameters."""
    rows = [
        (
            metric.name,
            "higher" if metric.higher_is_better else "lower",
            "masks" if metric.needs_mask else "-",
            assignments(metric.parameters) or "-",
            metric.summary,
        )
        for metric in METRICS.values()
    ]
    console.say_table(("metric", "better", "needs", "parameters", ""), rows)


def say_occlusion(summary: dict[str, float | int]) -> None:
    """Print what occlusion does to the logit."""
    parts = (
        f"{summary[f'{part}_mean']:.3g} (deviation {summary[f'{part}_deviation']:.3g}) without the "
        f"{part}"
        for part in ("object", "context")
    )
    console.say(f"the target's logit falls by {' and by '.join(parts)}, over {summary['n']} cases")
