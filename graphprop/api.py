"""The stages in their order, for Python and for the command line: the only orchestrator.

`compile` captures a model, runs the passes, lowers, legalizes for both targets, prints, and wraps
the result in a module; `save` writes files, checks them, and puts them in place; `inspect`,
`check`, `check_directory` and `explain_images` do one thing each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprop.artifact.atomic import (
    put_in_place,
    refuse_foreign,
    rejected_beside,
    writing_beside,
)
from graphprop.artifact.manifest import read_manifest
from graphprop.artifact.write import manifest_of, write_files, write_manifest
from graphprop.checking.check import BACKENDS, check_directory, check_explainer
from graphprop.checking.conservation import record_of
from graphprop.checking.junit import Checked, as_junit
from graphprop.checking.ledger import LedgerEntry
from graphprop.checking.ledger import ledger as ledger_of
from graphprop.checking.report import Report
from graphprop.drawing.steps import StepsPage
from graphprop.emit.python import to_python
from graphprop.errors import (
    EquivalenceError,
    InputError,
    OutputError,
    kind_of,
)
from graphprop.explainer import Compiled, LayerInfo, flows_of, layer_info, recorded_nodes
from graphprop.frontend.arguments import (
    check_class_names,
    check_method,
    check_names,
    check_roles,
    check_rules,
)
from graphprop.frontend.capture import Example, check_logits, inputs_of
from graphprop.frontend.captured import Captured, captured
from graphprop.frontend.preprocessing import recorded
from graphprop.ir.facts import shape_of
from graphprop.lowering import legalization_steps, lowering_steps
from graphprop.lowering.patterns import fit_patterns
from graphprop.module import ExplainerModule
from graphprop.passes.assign_rules import RuleMap
from graphprop.passes.pipeline import REGISTERED, Pipeline, analysis_steps, silent
from graphprop.pictures.explain import Explanation, Explanations, explain, explain_images
from graphprop.pictures.notebook import explainer_figure, explainer_html
from graphprop.rules import Method, find_method
from graphprop.rules.methods import DEFAULT_METHOD
from graphprop.rules.parameters import resolve_parameters
from graphprop.signals import raising_at_sigterm
from graphprop.version import __version__

__all__ = [
    "BACKENDS",
    "DEFAULT_METHOD",
    "Captured",
    "Checked",
    "CompiledExplainer",
    "Explanation",
    "Explanations",
    "Inspection",
    "LayerInfo",
    "Report",
    "Saved",
    "as_junit",
    "capture",
    "check",
    "check_directory",
    "compile",
    "explain",
    "explain_images",
    "inspect",
    "ledger",
    "read_manifest",
    "refuse_foreign",
    "save",
    "write",
]

Say = Callable[[str], None]


class CompiledExplainer(ExplainerModule):
    """A compiled explainer, as `compile` returns it: a module that can be checked and saved.

    ``explainer(x, target=None)`` returns logits and relevance; see
    `graphprop.module.ExplainerModule` for what it knows.
    """

    def check(
        self,
        samples: int | None = None,
        backends: Sequence[str] | None = None,
        dtypes: Sequence[str | torch.dtype] = (),
        device: str | None = None,
    ) -> Report:
        """Check that all backends agree; see `graphprop.checking.check.check_explainer`."""
        return check(self, samples=samples, backends=backends, dtypes=dtypes, device=device)

    def plot(self, pictures: Any = None, **options: Any) -> Any:
        """Draw maps of pictures, or without pictures the layers with their rules.

        Parameters
        ----------
        pictures, options
            As for `graphprop.explain`.

        Returns
        -------
        matplotlib.figure.Figure
        """
        if pictures is not None:
            return explain(self, pictures, **options).plot()
        return explainer_figure(self)

    def _repr_html_(self) -> str:
        """Show the method, and each layer with its rule, in a notebook."""
        return explainer_html(self)

    def save(
        self,
        directory: str | Path,
        *,
        onnx: bool = True,
        check: bool = True,
        force: bool = False,
        **details: Any,
    ) -> Path:
        """Write ``explainer.py``, the weights, ONNX and the manifest; see `graphprop.api.write`.

        Returns
        -------
        Path
            The directory.
        """
        return save(self, directory, onnx=onnx, check=check, force=force, **details)


def capture(model: nn.Module, example_input: Example, *, progress: Say | None = None) -> Captured:
    """Capture a model once, to compile it by several methods.

    ``captured = capture(model, example_input)``, and then ``compile(captured, method="rap")`` for
    each method. Capturing is most of a compile; what comes out is the same, byte for byte.

    Parameters
    ----------
    model, example_input, progress
        As for `compile`. The weights are those that the model has when it is compiled.

    Raises
    ------
    GraphpropError
        If the model can't be captured.
    """
    (progress or silent)("capture")
    return captured(model, example_input)


def compile(
    model: nn.Module | Captured,
    example_input: Example | None = None,
    method: str | Method = DEFAULT_METHOD,
    *,
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    record: Sequence[str] = (),
    output: str | int | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
    notes: Sequence[str] = (),
    dump_ir: str | Path | None = None,
    progress: Say | None = None,
    fit: Iterable[Any] | None = None,
    **parameters: Any,
) -> CompiledExplainer:
    """Compile a model into a relevance-propagation module.

    Parameters
    ----------
    model
        A network in evaluation mode that maps ``[N, ...]`` to logits ``[N, classes]`` or
        ``[N, classes, height, width]``. Or what `capture` returned, without ``example_input``.
    example_input
        A tensor ``[N, ...]``; only its shape (without the batch) and type matter. For a model with
        several inputs, a tuple; or a dict of the arguments of ``forward`` by name, or of the one
        dict that it takes. The explainer takes them in the order of ``forward``, or of the dict.
        Of whole numbers (bytes of a picture), it takes the same values as floating-point numbers.
    method
        The name of a method (`graphprop.rules.METHODS`), or a `Method`.
    rules
        Pattern -> rule, before the method's own table: ``{"features.0": "w_square"}`` or
        ``{"classifier.*": ("epsilon", {"epsilon": 0.1})}``.
    roles
        Pattern -> role, replacing what was found.
    record
        Patterns of layers whose relevance `relevance_at` shall return; of a method with several
        flows, also the names of inputs (``"x"``), for the map of each flow.
    output
        Which result to explain, of a model with several: a key or index, as ``"out"`` or ``"0"``.
    name
        What the model is called in the generated source; its class by default.
    class_names
        A name for each logit: for pictures, and for whoever reads the ONNX model's metadata.
    preprocessing
        How a picture becomes an input: ``"imagenet"``, ``"zero-one"``, ``"minus-one-one"``; a
        dictionary with ``mean``, ``std``, ``resize``, ``interpolation``, ``channels``; a transform
        of torchvision, the data configuration of timm, or the processor of Hugging Face; see
        `graphprop.frontend.preprocessing`. `explain` and `save` use it.
    notes
        What is already to be noted about the model; the manifest lists these before its own.
    dump_ir
        A folder for the printed network after each pass, and a page that steps through them.
    progress
        Called with the name of each pass before it runs.
    fit
        What methods with patterns are fitted to: an iterable of batches of the model's input,
        tensors ``[N, ...]``, or of tuples that begin with the inputs, as a ``DataLoader`` gives
        them. It is gone through once.
    parameters
        The method's parameters (``graphprop methods`` lists them).

    Returns
    -------
    CompiledExplainer
        Callable as ``(x, target=None) -> (logits, relevance)``.

    Raises
    ------
    GraphpropError
        If the model can't be captured, uses an operator without meaning, or the method, a rule,
        a role or a parameter doesn't exist or can't hold.
    """
    check_method(method)
    check_rules(rules)
    check_roles(roles)
    check_names("record", record, "['features.1*']")
    if not isinstance(name, str | None):
        raise InputError(f"name must be a text, not {kind_of(name)}")
    chosen = method if isinstance(method, Method) else find_method(method)
    settings = resolve_parameters(chosen, parameters)
    pipeline = Pipeline(Path(dump_ir) if dump_ir else None, progress or silent)
    if not isinstance(model, Captured):
        pipeline.progress("capture")
    source = captured(model, example_input)
    name = name or type(source.model).__name__
    pipeline.finish = StepsPage(f"{name}, {chosen.name}")
    network = pipeline.run(analysis_steps(chosen, settings, rules, roles, output), source.program)
    network.notes[:0] = source.notes
    check_logits(source.model, network, source.example)
    if fit is not None:
        pipeline.progress("fit the patterns")
    fitted = fit_patterns(network, chosen, fit)
    lowered = pipeline.run(lowering_steps(chosen, settings), network)
    first = inputs_of(source.example)[0]
    said = recorded(preprocessing, first.shape[1:], whole=not first.is_floating_point())
    if class_names is not None:
        check_class_names(class_names, shape_of(network.output.args[0])[1])
    # a set has no order of its own, and what is written must be the same every time
    patterns = tuple(sorted(record) if isinstance(record, set | frozenset) else record)
    legal = pipeline.run(legalization_steps("torch"), lowered)
    # for ONNX it is legalized when that is needed; a dump shows it, and a pass that was added for
    # now may be gone by then
    at_once = pipeline.dump is not None or bool(REGISTERED)
    legal_onnx = pipeline.run(legalization_steps("onnx"), lowered) if at_once else None
    shared = ", ".join(f"{key}={value}" for key, value in settings.items())
    generated = to_python(
        legal,
        title=f"Relevance propagation for {name}.",
        summary=f"Method {chosen.name} ({shared}).",
        version=__version__,
        record=recorded_nodes(legal, patterns, flows_of(network, chosen)),
    )
    return CompiledExplainer(
        Compiled(
            name=name,
            method=chosen,
            settings=settings,
            network=network,
            lowered=lowered,
            legal=legal,
            legalized_onnx=legal_onnx,
            generated=generated,
            rules=dict(rules or {}),
            roles=dict(roles or {}),
            record=patterns,
            class_names=None if class_names is None else tuple(class_names),
            preprocessing=said,
            notes=(*notes, *lowered.notes),
            fitted=fitted,
        )
    )


@dataclass(frozen=True)
class Inspection:
    """What `inspect` finds out about a model without compiling it.

    Attributes
    ----------
    method, parameters
        The method, and its parameters with the given ones in them.
    input_shapes
        The shapes of all inputs, without the batch.
    layers
        A `LayerInfo` for each layer.
    batch_norms
        What was done with each batch norm, by label.
    notes
        What the user should know.
    """

    method: Method
    parameters: dict[str, Any]
    input_shapes: list[tuple[int, ...]]
    layers: list[LayerInfo]
    batch_norms: dict[str, str]
    notes: list[str]


def inspect(
    model: nn.Module | Captured,
    example_input: Example | None = None,
    method: str | Method = DEFAULT_METHOD,
    *,
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    output: str | int | None = None,
    progress: Say | None = None,
    **parameters: Any,
) -> Inspection:
    """Analyze a model without compiling it: its layers, their roles and rules.

    The parameters are those of `compile`.
    """
    chosen = method if isinstance(method, Method) else find_method(method)
    settings = resolve_parameters(chosen, parameters)
    pipeline = Pipeline(progress=progress or silent)
    if not isinstance(model, Captured):
        pipeline.progress("capture")
    source = captured(model, example_input)
    network = pipeline.run(analysis_steps(chosen, settings, rules, roles, output), source.program)
    network.notes[:0] = source.notes
    return Inspection(
        method=chosen,
        parameters=settings,
        input_shapes=[tuple(part.shape[1:]) for part in inputs_of(source.example)],
        layers=[layer_info(node) for node in network.layers],
        batch_norms=dict(network.decisions),
        notes=list(network.notes),
    )


def check(
    explainer: CompiledExplainer,
    *,
    samples: int | None = None,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str | torch.dtype] = (),
    device: str | None = None,
    progress: Say | None = None,
) -> Report:
    """Check that all backends agree; see `graphprop.checking.check.check_explainer`."""
    explainer.refuse_changed_weights()
    if backends is not None:
        check_names("backends", backends, "['python', 'onnxruntime']", InputError)
    return check_explainer(
        explainer.compiled,
        samples=samples,
        backends=backends,
        dtypes=dtypes,
        device=device,
        progress=progress,
    )


def ledger(
    explainer: CompiledExplainer,
    x: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor | int | None = None,
) -> list[LedgerEntry]:
    """Draw up the account of every layer; see `graphprop.checking.ledger.ledger`."""
    explainer.refuse_changed_weights()
    return ledger_of(explainer.compiled, x, target)


@dataclass(frozen=True)
class Saved:
    """What `write` wrote.

    Attributes
    ----------
    directory
        Where.
    manifest
        What the manifest says.
    report
        What the check found, None where there was none.
    """

    directory: Path
    manifest: dict[str, Any]
    report: Report | None


def save(explainer: CompiledExplainer, directory: str | Path, **options: Any) -> Path:
    """Write an explainer, check it, and put it in place; see `write`, which returns more."""
    return write(explainer, directory, **options).directory


def write(
    explainer: CompiledExplainer,
    directory: str | Path,
    *,
    onnx: bool = True,
    check: bool = True,
    force: bool = False,
    samples: int | None = None,
    source: str | None = None,
    source_sha256: str | None = None,
    preprocessing: Any = None,
    keep: Iterable[str | Path] = (),
    progress: Say | None = None,
) -> Saved:
    """Write an explainer, check it, and put it in place.

    Parameters
    ----------
    directory
        Where to; replaced if it is empty, or holds nothing but what graphprop wrote there.
    onnx
        Whether to write ``explainer.onnx``.
    check
        Whether to check that all backends agree; ``samples`` is the number of inputs of noise.
    force
        Replace what graphprop wrote, even where it was changed since or where other files lie
        beside it; those stay.
    source, source_sha256
        Where the model comes from, such as ``"vgg16.py:vgg16"``, and the hash of that file.
    preprocessing
        How a picture becomes an input, as for `compile`, whose own it replaces.
    keep
        Files that the directory must not hold: the model's, its weights.
    progress
        Called with what is about to be done.

    Raises
    ------
    OutputError
        If the directory can't be written, or holds what graphprop did not write.
    WeightsError
        If the explainer's weights were changed after the compile.
    EquivalenceError
        If the check fails, with the place; the output is then in ``<directory>.rejected``.
    """
    say = progress or silent
    explainer.refuse_changed_weights()
    compiled, directory = explainer.compiled, Path(directory)
    given = compiled.preprocessing
    if preprocessing is not None:
        whole = not compiled.input_types[0].is_floating_point
        given = recorded(preprocessing, compiled.input_shapes[0], whole=whole)
    refuse_foreign(directory, force, keep=map(Path, keep))
    # a link stays, and what it leads to is replaced
    target = directory.resolve() if directory.is_symlink() else directory
    with raising_at_sigterm(), writing_beside(target) as fresh:
        say("write")
        write_files(compiled, fresh, onnx=onnx, preprocessing=given)
        report = None
        if check:
            report = check_explainer(
                compiled,
                samples=samples,
                directory=fresh,
                preprocessing=given,
                progress=say,
            )
        content = manifest_of(
            compiled,
            fresh,
            check=None if report is None else report.as_dict(timing=False),
            fingerprint=None if report is None else report.fingerprint,
            conservation=record_of(compiled) if report is None else report.conservation,
            source=re.split(r"[\\/]", source)[-1] if source else None,
            source_sha256=source_sha256,
            preprocessing=given,
        )
        manifest = write_manifest(content, fresh)
        if report is None or report.passed:
            put_in_place(fresh, target)
            return Saved(directory, manifest, report)
        rejected = rejected_beside(target)
        try:
            refuse_foreign(rejected, force)
            put_in_place(fresh, rejected)
            kept = f"the output is in {rejected}"
        except OutputError as error:
            kept = f"nothing is kept: {error}"
    raise EquivalenceError(f"the check failed. {report.complaint()} ({kept})")
