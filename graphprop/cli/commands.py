"""What each command does once its options are read; its result as text or as JSON."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.filesize import decimal

from graphprop import api
from graphprop.api import CompiledExplainer, LayerInfo, Report
from graphprop.cli import console
from graphprop.cli.drawing import refuse_files, write_drawings
from graphprop.cli.preprocessing_options import taken
from graphprop.errors import GraphpropError, OutputError
from graphprop.frontend.capture import inputs_of
from graphprop.frontend.load import LoadedModel, load_source, source_file
from graphprop.frontend.preprocessing import UNKNOWN, changed, takes_pictures
from graphprop.frontend.user_code import import_extension
from graphprop.passes.assign_rules import parse_rule, parse_value
from graphprop.pictures.batches import read_batches
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.rules import METHODS, RULES, Method, Rule, find_method
from graphprop.rules.parameters import resolve_parameters
from graphprop.rules.registry import assignments

OWN_METHODS: Mapping[str, Method] = dict(METHODS)
OWN_RULES: Mapping[str, Rule] = dict(RULES)
"""What graphprop registers itself, before the user's code runs."""

LONGEST_STEM = 200
"""How long the name of the default directory gets, in characters: file systems allow 255 bytes."""

FILE_SUFFIXES = (".py", ".onnx", ".safetensors", ".json", ".pt", ".pth", ".ckpt", ".zip")
"""Endings of names that are meant for one file."""


def run_compile(
    as_json: bool,
    *,
    source: str,
    method: str,
    settings: Iterable[str],
    rules: Iterable[str],
    roles: Iterable[str],
    imports: Iterable[str],
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    result: str | None,
    output: Path | None,
    no_onnx: bool,
    no_check: bool,
    force: bool,
    dump_ir: Path | None,
    fit: Path | None,
    **options: Any,
) -> None:
    """Compile, write, check, and print the result."""
    began = time.perf_counter()
    read = [path for path in (source_file(source), weights, fit) if path is not None]
    if output is not None:
        refuse_output(output, force, read, dump_ir)
    with console.progress("load the model") as progress:
        loaded = load_all(source, imports, weights, input_shape)
        loaded = with_preprocessing(loaded, options)
        parameters, rule_map, role_map = read_choices(method, settings, rules, roles)
        if output is None:
            output = default_directory(loaded.name, method)
            refuse_output(output, force, read, dump_ir)
        explainer = api.compile(
            loaded.model,
            loaded.example,
            method,
            rules=rule_map,
            roles=role_map,
            output=result,
            name=loaded.name,
            class_names=loaded.class_names,
            preprocessing=loaded.preprocessing,
            notes=loaded.notes,
            dump_ir=dump_ir,
            progress=progress,
            fit=None if fit is None else batches_of(fit, loaded),
            **parameters,
        )
        saved = api.write(
            explainer,
            output,
            onnx=not no_onnx,
            check=not no_check,
            force=force,
            source=loaded.source,
            source_sha256=loaded.sha256,
            keep=read,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    if loaded.preprocessing is None and takes_pictures(explainer.input_shapes):
        console.say_warning(UNKNOWN)
    if as_json:
        content = {"directory": saved.directory, "seconds": round(seconds, 3)}
        console.say_json("compile", {**content, "manifest": saved.manifest})
    else:
        describe_compiled(explainer, saved, seconds)


def with_preprocessing(loaded: LoadedModel, options: dict[str, Any]) -> LoadedModel:
    """The model with what options say of preprocessing, in place of what its file says."""
    given, single = taken(options)
    if given is None and not single:
        return loaded
    first, *more = inputs_of(loaded.example)
    if more:
        raise click.UsageError(
            f"the model takes {len(more) + 1} inputs, and preprocessing is of one: leave its "
            "options out"
        )
    said = loaded.preprocessing if given is None else given
    whole = not first.is_floating_point()
    return replace(loaded, preprocessing=changed(said, single, first.shape[1:], whole=whole))


def batches_of(data: Path, loaded: LoadedModel) -> Iterable[torch.Tensor]:
    """The inputs that --fit names, prepared for the model."""
    inputs = inputs_of(loaded.example)
    shapes = [list(part.shape[1:]) for part in inputs]
    manifest = {
        "input_shape": shapes[0],
        "input_shapes": shapes,
        "preprocessing": loaded.preprocessing,
    }
    return read_batches(data, manifest, inputs[0].dtype)


def default_directory(name: str, method: str) -> Path:
    """Where a compiled model goes: ``build/<model>-<method>``; a long name is cut."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{name}-{method}")
    if len(stem) > LONGEST_STEM:
        stem = f"{stem[:LONGEST_STEM]}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return Path("build") / stem


def refuse_output(output: Path, force: bool, read: Iterable[Path], dump_ir: Path | None) -> None:
    """Refuse a place to write to, before the work rather than after it."""
    if not output.exists() and output.suffix.lower() in FILE_SUFFIXES:
        raise OutputError(
            f"-o names the directory to write several files to, and {output} looks like one file: "
            f"give -o {output.with_suffix('')}"
        )
    api.refuse_foreign(output, force, keep=read)
    if dump_ir is not None and output.resolve() in (dump_ir.resolve(), *dump_ir.resolve().parents):
        raise OutputError(
            f"--dump-ir {dump_ir} lies in {output}, which holds what is compiled alone: name a "
            "folder beside it"
        )


def describe_compiled(explainer: CompiledExplainer, saved: api.Saved, seconds: float) -> None:
    """Print what was written, what it computes, and whether that holds."""
    weighted = [layer for layer in explainer.layers if layer.role]
    shape = listed_shapes(explainer.input_shapes)
    console.say(f"{explainer.name}: compiled with {explainer.method.name} in {seconds:.1f} s")
    console.say()
    rows = [
        ("input", f"{shape} -> {explainer.classes} logits"),
        ("parameters", assignments(saved.manifest["parameters"])),
        ("roles", console.counts(layer.role for layer in weighted)),
        ("rules", console.counts(rule_name(layer) for layer in weighted)),
    ]
    if saved.manifest["preprocessing"] and takes_pictures(explainer.input_shapes):
        rows.append(("pictures", Preprocessing.of(saved.manifest).describe()))
    if explainer.network.decisions:
        rows.append(("batch norms", batch_norms(explainer.network.decisions)))
    rows += [("note", note) for note in explainer.notes]
    console.say_table(("", ""), rows, headed=False)
    console.say()
    console.say(f"{saved.directory}/")
    files = sorted(path for path in saved.directory.iterdir() if path.is_file())
    sizes = [(path.name, decimal(path.stat().st_size)) for path in files]
    console.say_table(("file", "size"), sizes, indent=2, headed=False)
    describe_check(saved.report)


def describe_check(report: Report | None) -> None:
    """Print the verdict on each backend, and what relevance sums to at start and input."""
    console.say()
    if report is not None:
        console.say(report.render(timing=False))
    else:
        console.say("not checked: `graphprop check` does that")


def rule_name(layer: LayerInfo) -> str:
    """A layer's rule without its parameters."""
    return (layer.rule or "none").partition("(")[0]


def batch_norms(decisions: Mapping[str, str]) -> str:
    """A summary of what was done: "53 merged"."""
    done = [re.split(r"[ :]", decision)[0] for decision in decisions.values()]
    summary = console.counts(done)
    return summary if set(done) == {"merged"} else f"{summary} (`graphprop inspect` says why)"


def run_check(
    as_json: bool,
    *,
    directories: Sequence[Path],
    junit: Path | None,
    **options: Any,
) -> int:
    """Check compiled directories; returns the exit code: 0 where all passed."""
    checked = []
    options["backends"] = options["backends"] or None
    for directory in directories:
        with console.progress(f"check {directory}") as progress:
            try:
                report = api.check_directory(directory, progress=progress, **options)
                checked.append(api.Checked(str(directory), report))
            except GraphpropError as error:
                if len(directories) == 1:
                    raise
                checked.append(api.Checked(str(directory), error=error))
    if junit is not None:
        junit.write_text(api.as_junit(checked), encoding="utf-8")
    if as_json:
        content: dict[str, Any] = {"passed": all(one.passed for one in checked)}
        content["checks"] = [one.as_dict() for one in checked]
        if len(checked) == 1:
            content |= checked[0].as_dict()
        console.say_json("check", content)
    for one in checked:
        if one.error is not None:
            console.say_error(str(one.error))
        elif not as_json:
            if len(checked) > 1:
                console.say(f"{one.directory}:")
            console.say(str(one.report))
    return max(one.exit_code for one in checked)


def run_explain(as_json: bool, **options: Any) -> None:
    """Explain pictures; see `graphprop.cli.explain`."""
    from graphprop.cli.explain import run_explain as run

    run(as_json, **options)


def run_inspect(
    as_json: bool,
    *,
    source: str,
    method: str,
    settings: Iterable[str],
    rules: Iterable[str],
    roles: Iterable[str],
    imports: Iterable[str],
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    result: str | None,
    svg: Path | None,
    html: Path | None,
) -> None:
    """Analyze a model without compiling it, print its layers, and draw them."""
    refuse_files({"--svg": svg, "--html": html}, (source_file(source), weights))
    with console.progress("load the model") as progress:
        loaded = load_all(source, imports, weights, input_shape)
        parameters, rule_map, role_map = read_choices(method, settings, rules, roles)
        found = api.inspect(
            loaded.model,
            loaded.example,
            method,
            rules=rule_map,
            roles=role_map,
            output=result,
            progress=progress,
            **parameters,
        )
    layers, shapes, notes = found.layers, found.input_shapes, [*loaded.notes, *found.notes]
    entries = [layer.as_dict() for layer in layers]
    title = f"{loaded.name}, {method}"
    write_drawings(title, shapes, entries, found.batch_norms, notes, svg=svg, html=html)
    if as_json:
        content = {
            "model": loaded.name,
            "source": loaded.source,
            "method": method,
            "parameters": found.parameters,
            "input_shape": shapes[0],
            "input_shapes": shapes,
            "layers": entries,
            "batch_norms": found.batch_norms,
            "notes": notes,
            "svg": svg,
            "html": html,
        }
        console.say_json("inspect", content)
        return
    console.say(f"{loaded.name}: {method} ({assignments(found.parameters)})")
    console.say(f"input: {listed_shapes(shapes)}")
    console.say()
    headers = ("layer", "operator", "shape", "role", "input sign", "rule")
    console.say_table(headers, (layer_row(layer) for layer in layers))
    if found.batch_norms:
        console.say()
        console.say_table(("batch norm", "what was done"), found.batch_norms.items())
    for note in notes:
        console.say(f"note: {note}")
    for file in filter(None, (svg, html)):
        console.say(f"drawn: {file}")


def listed_shapes(shapes: Iterable[Sequence[int]]) -> str:
    """The shapes of the inputs, as ``--input-shape`` takes one."""
    return " and ".join(",".join(map(str, shape)) for shape in shapes)


def layer_row(layer: LayerInfo) -> tuple[str, ...]:
    """A layer's line in the table."""
    return (
        layer.label,
        layer.operator,
        "x".join(map(str, layer.shape)),
        ", ".join(layer.roles) or "-",
        layer.sign,
        layer.rule or "-",
    )


def run_evaluate(as_json: bool, **options: Any) -> None:
    """Evaluate explainers; see `graphprop.cli.evaluation`."""
    from graphprop.cli.evaluation import run_evaluate as run

    run(as_json, **options)


def run_figure(as_json: bool, **options: Any) -> None:
    """Draw a figure; what that needs is imported when it is asked for."""
    from graphprop.cli.figure import run_figure as run

    run(as_json, **options)


def list_metrics() -> None:
    """Print the metrics with their parameters."""
    from graphprop.cli.evaluation import say_metrics

    say_metrics()


# Loading the model and what else registers rules; reading the options that name them.


def load_all(
    source: str,
    imports: Iterable[str],
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
) -> LoadedModel:
    """Load the model, after the modules of --import; both may register methods and rules."""
    for module in imports:
        import_extension(module)
    loaded = load_source(source, weights=weights, input_shape=input_shape)
    for kind, own, present in (("method", OWN_METHODS, METHODS), ("rule", OWN_RULES, RULES)):
        replaced = [repr(name) for name in own if present[name] is not own[name]]
        if replaced:
            loaded.notes.append(
                f"the {kind} {', '.join(replaced)} is not graphprop's own, but one registered anew"
            )
    return loaded


def read_choices(
    method: str, settings: Iterable[str], rules: Iterable[str], roles: Iterable[str]
) -> tuple[dict[str, Any], dict[str, tuple[str, dict[str, Any]]], dict[str, str]]:
    """Read --set, --rule and --role, refusing early what doesn't exist."""
    parameters = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"write KEY=VALUE, not {text!r}", param_hint="--set")
        parameters[key.strip()] = parse_value(value)
    resolve_parameters(find_method(method), parameters)
    rule_map = dict(split_rule(text) for text in rules)
    role_map = dict(split_role(text) for text in roles)
    return parameters, rule_map, role_map


def split_rule(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """Split ``PATTERN=RULE[:k=v,..]`` at the first ``=`` that a rule's name follows.

    Where none does, at the first: looking the rule up will say what there is.
    """
    places = [place for place, letter in enumerate(text) if letter == "="]
    if not places or not text[: places[0]].strip():
        raise click.BadParameter(
            f"write PATTERN=RULE, such as features.0=w_square, not {text!r}", param_hint="--rule"
        )
    fitting = (p for p in places if text[p + 1 :].partition(":")[0].strip() in RULES)
    place = next(fitting, places[0])
    name, own = parse_rule(text[place + 1 :])
    return text[:place].strip(), (name, own)


def split_role(text: str) -> tuple[str, str]:
    """Split ``PATTERN=ROLE`` at the last ``=``: no role has one in its name."""
    pattern, equals, role = text.rpartition("=")
    if not equals or not pattern.strip():
        raise click.BadParameter(
            f"write PATTERN=ROLE, such as head.0=conv_stack, not {text!r}", param_hint="--role"
        )
    return pattern.strip(), role.strip()
