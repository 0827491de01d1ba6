"""The compiled explainer as a module, and `compile`, which makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from graphprop.emit.execute import run_source
from graphprop.emit.python import PythonModule, to_python
from graphprop.errors import InputError, MethodError, kind_of, nearest
from graphprop.frontend.arguments import (
    check_class_names,
    check_example,
    check_method,
    check_model,
    check_names,
    check_roles,
    check_rules,
    runs_with_batch,
)
from graphprop.frontend.capture import Example, capture, check_logits, unwrapped
from graphprop.ir.facts import facts_of, shape_of, sign_of
from graphprop.ir.network import Network
from graphprop.lowering.legalize import legalize
from graphprop.lowering.lower import in_flow, input_label
from graphprop.ops import helpers
from graphprop.passes.assign_rules import RuleMap
from graphprop.passes.pipeline import (
    Pipeline,
    analysis_steps,
    lowering_steps,
    resolve_parameters,
    silent,
)
from graphprop.passes.tag_roles import ROLES, primary_role
from graphprop.rules import Method, find_method

if TYPE_CHECKING:
    from graphprop.checking.check import Report

DEFAULT_METHOD = "epsilon_plus_flat"


@dataclass(frozen=True)
class LayerInfo:
    """What was found out about a layer, and the rule it got.

    Attributes
    ----------
    path
        The user's module path.
    label
        The path, made unique: a module used twice has two layers.
    operator, kind
        graphprop's operator, and the class of the user's module.
    shape
        Of the result, without the batch.
    roles, role
        Every role the layer has, and the one that says most.
    sign
        Which signs the entries of its input can have.
    rule
        How relevance is carried through it; None where none arrives.
    depth
        How many weighted and pooling layers lie before it.
    line
        The user's source line.
    """

    path: str
    label: str
    operator: str
    kind: str
    shape: tuple[int, ...]
    roles: tuple[str, ...]
    role: str
    sign: str
    rule: str | None
    depth: int
    line: str | None

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON knows them."""
        return asdict(self)


class CompiledExplainer(nn.Module):
    """A compiled explainer: ``explainer(x, target=None) -> (logits, relevance)``.

    Calling it runs the generated source, the same that `save` writes.

    Attributes
    ----------
    network
        The annotated network: every layer with its facts and rule.
    lowered
        The graph of the explainer before it is legalized for a target.
    source
        The text of the generated ``explainer.py``.
    method, settings
        The method, and its parameters with the given ones in them.
    class_names
        The names of the classes, if they were given.
    input_shapes, logits_shape
        The shapes of all inputs, and of the logits, without the batch.
    layers
        A `LayerInfo` for each layer.
    notes
        What the user should know: softmax removed ...
    """

    def __init__(
        self,
        network: Network,
        lowered: Network,
        *,
        name: str,
        method: Method,
        parameters: Mapping[str, Any],
        record: Sequence[str],
        pipeline: Pipeline,
        rules: RuleMap | None = None,
        roles: Mapping[str, str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.lowered = network, lowered
        # as values, so that a call looks at no graph
        self.input_shapes = tuple(shape_of(node)[1:] for node in network.inputs)
        self._compiled_types = tuple(facts_of(node).value.dtype for node in network.inputs)
        self.logits_shape = shape_of(network.output.args[0])[1:]
        self.name, self.method, self.settings = name, method, dict(parameters)
        self.rules, self.roles = dict(rules or {}), dict(roles or {})
        self.class_names = None if class_names is None else list(class_names)
        self.pipeline = pipeline
        self.notes = lowered.notes
        self.legal, fired = legalize(lowered, "torch")
        pipeline.fired += fired
        # a set has no order of its own, and what is written shall be the same every time
        unordered = isinstance(record, set | frozenset)
        self.record_patterns = tuple(sorted(record) if unordered else record)
        self.generated = self._print()
        self.source = self.generated.source
        self.module = run_source(self.source)(self.legal.stored)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: everything but whom to tell about progress."""
        return {**self.__dict__, "pipeline": replace(self.pipeline, progress=silent)}

    def _print(self) -> PythonModule:
        from graphprop import __version__

        shared = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return to_python(
            self.legal,
            title=f"Relevance propagation for {self.name}.",
            summary=f"Method {self.method.name} ({shared}).",
            version=__version__,
            record=self.recorded_nodes(self.legal),
        )

    def forward(
        self, x: torch.Tensor, *more: Any, target: torch.Tensor | int | None = None
    ) -> tuple[torch.Tensor, Any]:
        """Compute logits and relevance.

        Parameters
        ----------
        x, *more
            ``[N, ...]``, as the model takes it; of a model with several inputs, each of them. The
            target may follow.
        target
            None for the largest logit; a class, for all samples or of each (int64 ``[N]``, -1
            for the largest logit); or weights (floating point, of the shape of the logits) that
            the logits are multiplied by. Where the model has logits at each place, a class means
            the sum over all places, and weights choose a region.

        Returns
        -------
        logits
            ``[N, classes]`` or ``[N, classes, height, width]``, the model's own.
        relevance
            Of the shape of x, or, by a method whose map is made at a layer, `relevance_shape`. Of a
            model with several inputs, a tuple.

        Raises
        ------
        InputError
            If x has another shape or type than the explainer was compiled for, or the target is
            neither a class nor weights of the logits.
        """
        inputs = [x, *more]
        if len(inputs) == len(self.input_shapes) + 1:
            target = inputs.pop()
        self.check_input(inputs, target)
        logits, relevance = self.module(*inputs, target)
        return logits, relevance

    def check_input(
        self, inputs: Sequence[torch.Tensor], target: Any = None, *, any_type: bool = False
    ) -> None:
        """Refuse inputs or a target that the explainer was not compiled for.

        With ``any_type``, inputs may be of another type than the weights.
        """
        count = len(self.input_shapes)
        if len(inputs) != count:
            known = "one input" if count == 1 else f"{count} inputs"
            raise InputError(f"the explainer takes {known}, and a target, not {len(inputs)}")
        try:
            for x, shape, dtype in zip(inputs, self.input_shapes, self.input_types, strict=True):
                if any_type and isinstance(x, torch.Tensor):
                    dtype = x.dtype
                helpers.check_input(x, shape, dtype, None if x is inputs[0] else len(inputs[0]))
            helpers.check_target(target, (len(inputs[0]), *self.logits_shape))
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, the first, without the batch."""
        return self.input_shapes[0]

    @property
    def input_types(self) -> tuple[torch.dtype, ...]:
        """The types of all inputs: where they are floating point, that of the weights."""
        buffers = (buffer.dtype for buffer in self.module.buffers())
        own = next((dtype for dtype in buffers if dtype.is_floating_point), None)
        return tuple(own if own and d.is_floating_point else d for d in self._compiled_types)

    @property
    def relevance_shape(self) -> tuple[int, ...]:
        """The shape of one map, without the batch."""
        return shape_of(self.lowered.maps[0])[1:]

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.logits_shape[0]

    @property
    def layers(self) -> list[LayerInfo]:
        """The layers in the order of computation."""
        return [layer_info(node) for node in self.network.layers]

    def recorded_nodes(self, network: Network) -> dict[str, fx.Node]:
        """The relevance nodes that the patterns of ``record`` name."""
        relevances: dict[str, fx.Node] = network.output.args[0][2]
        flows = self._flows()
        chosen: dict[str, fx.Node] = {}
        for pattern in self.record_patterns:
            hits = {
                label: node
                for label, node in relevances.items()
                if any(fnmatchcase(name, pattern) for name in (label, *flows[label]))
            }
            if not hits:
                raise MethodError(
                    f"the pattern {pattern!r} of record matches no layer that relevance reaches: "
                    + nearest(pattern, relevances)
                )
            chosen.update(hits)
        return chosen

    def _flows(self) -> dict[str, tuple[str, str]]:
        """Label of a layer's relevance (in one of several flows) -> the layer's label and path.

        The inputs are among them, for methods whose flows meet there.
        """
        named = [(facts_of(node).label, facts_of(node).path) for node in self.network.layers]
        named += [(input_label(self.network, image),) * 2 for image in self.network.inputs]
        return {
            in_flow(label, flow): (label, path)
            for label, path in named
            for flow in self.method.flow_names
        }

    def relevance_at(self, path: str) -> torch.Tensor:
        """Relevance of a layer's result in the last call.

        Parameters
        ----------
        path
            A layer's path or label that ``record`` named when compiling. Where a method has
            several flows, their sum; one of them as ``"label (flow)"``. What each flow brings to
            the input is found by the input's name: ``"x (normal)"`` and ``"x (inversed)"`` of
            ``rap-bn`` compiled with ``record=["x"]``.

        Returns
        -------
        Tensor
            Of the shape of the layer's result.

        Raises
        ------
        MethodError
            If the layer isn't recorded, or nothing has been explained yet.
        """
        if not self.record_patterns:
            raise MethodError(f"nothing is recorded: compile with record=[{path!r}]")
        recorded: dict[str, torch.Tensor] | None = getattr(self.module, "recorded", None)
        if recorded is None:
            raise MethodError("call the explainer before asking for recorded relevance")
        flows = self._flows()
        hits: dict[str, torch.Tensor] = {}
        for label, relevance in recorded.items():
            layer, module = flows[label]
            if path in (label, layer, module):
                hits[layer] = hits[layer] + relevance if layer in hits else relevance
        if path in hits:
            return hits[path]
        if len(hits) == 1:
            return next(iter(hits.values()))
        known = hits or {layer: None for layer, _ in map(flows.__getitem__, recorded)}
        raise MethodError(f"no one layer is recorded at {path!r}: {nearest(path, known)}")

    def check(self, samples: int | None = None, backends: Sequence[str] | None = None) -> Report:
        """Check that all backends agree; see `graphprop.checking.check.check_explainer`."""
        from graphprop.checking.check import check_explainer

        if backends is not None:
            check_names("backends", backends, "['python', 'onnxruntime']", InputError)
        return check_explainer(self, samples=samples, backends=backends)

    def save(
        self,
        directory: str | Path,
        *,
        onnx: bool = True,
        check: bool = True,
        force: bool = False,
        **details: Any,
    ) -> Path:
        """Write ``explainer.py``, the weights, ONNX and the manifest; see `artifact.save`."""
        from graphprop.artifact.write import save

        return save(self, directory, onnx=onnx, check=check, force=force, **details)


def layer_info(node: fx.Node) -> LayerInfo:
    """Collect a node's facts."""
    facts = facts_of(node)
    roles = tuple(sorted(facts.roles, key=ROLES.index))
    rule = facts.rule if facts.signal else None
    source = node.args[0]
    return LayerInfo(
        path=facts.path,
        label=facts.label,
        operator=node.target.__name__,
        kind=facts.kind,
        shape=shape_of(node)[1:],
        roles=roles,
        role=primary_role(facts.roles),
        sign=str(sign_of(source)),
        rule=None if rule is None else str(rule),
        depth=facts.depth,
        line=facts.line,
    )


def compile(
    model: nn.Module,
    example_input: Example,
    method: str | Method = DEFAULT_METHOD,
    *,
    rules: RuleMap | None = None,
    roles: Mapping[str, str] | None = None,
    record: Sequence[str] = (),
    output: str | int | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    dump_ir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    **parameters: Any,
) -> CompiledExplainer:
    """Compile a model into a relevance-propagation module.

    Parameters
    ----------
    model
        A network in evaluation mode that maps ``[N, ...]`` to logits ``[N, classes]`` or
        ``[N, classes, height, width]``.
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
        A name for each logit, for whoever reads the ONNX model's metadata.
    dump_ir
        A folder for the printed network after each pass.
    progress
        Called with the name of each pass before it runs.
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
    check_model(model)
    check_example(example_input)
    check_method(method)
    check_rules(rules)
    check_roles(roles)
    check_names("record", record, "['features.1*']")
    if not isinstance(name, str | None):
        raise InputError(f"name must be a text, not {kind_of(name)}")
    chosen = method if isinstance(method, Method) else find_method(method)
    resolved = resolve_parameters(chosen, parameters)
    pipeline = Pipeline(Path(dump_ir) if dump_ir else None, progress or silent)
    pipeline.progress("capture")
    model, notes = unwrapped(model)
    try:
        program = capture(model, example_input)
    except InputError:
        if runs_with_batch(model, example_input):
            raise InputError(
                "example_input lacks the batch axis: pass example_input[None], of shape [1, ...]"
            ) from None
        raise
    network = pipeline.run(analysis_steps(chosen, resolved, rules, roles, output), program)
    network.notes[:0] = notes
    check_logits(model, network, example_input)
    lowered = pipeline.run(lowering_steps(pipeline, chosen, resolved), network)
    if class_names is not None:
        check_class_names(class_names, shape_of(network.output.args[0])[1])
    return CompiledExplainer(
        network,
        lowered,
        name=name or type(model).__name__,
        method=chosen,
        parameters=resolved,
        record=record,
        pipeline=pipeline,
        rules=rules,
        roles=roles,
        class_names=class_names,
    )
