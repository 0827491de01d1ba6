"""What a compile results in: networks, generated source, and the facts of each layer.

`Compiled` is frozen and has no behavior of its own beyond looking things up: `graphprop.api` runs
the stages that it is the result of, and wraps it in the module that users call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import fx

from graphprop.emit.python import PythonModule
from graphprop.errors import InputError, MethodError, nearest
from graphprop.ir.facts import facts_of, layout_of, shape_of, sign_of
from graphprop.ir.network import Network
from graphprop.lowering import in_flow, input_label, legalization_steps
from graphprop.lowering.patterns import Fitted
from graphprop.ops import helpers
from graphprop.passes.assign_rules import RuleMap
from graphprop.passes.pipeline import Pipeline
from graphprop.passes.tag_roles import ROLES, primary_role
from graphprop.rules import Method

Shape = tuple[int, ...]
Flows = Mapping[str, tuple[str, str]]
"""Label of a layer's relevance (in one of several flows) -> the layer's label and path."""


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
        Every role the layer has, and the most specific one.
    sign
        Which signs the entries of its input can have.
    rule
        How relevance is carried through it; None where none arrives.
    depth
        How many weighted and pooling layers lie before it.
    line
        The user's source line.
    operands
        What it reads that depends on the input: the labels of layers, or the index of an input.
    signal
        The labels of the layers that the rule sends relevance to; None for an input.
    places
        The lengths of the axes of its result along which a map extends; none, of a vector.
    details
        Its kernel, stride and groups, such as ``"3x3, stride 2"``.
    """

    path: str
    label: str
    operator: str
    kind: str
    shape: Shape
    roles: tuple[str, ...]
    role: str
    sign: str
    rule: str | None
    depth: int
    line: str | None
    operands: tuple[str | int, ...] = ()
    signal: tuple[str | None, ...] = ()
    places: Shape = ()
    details: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON holds them."""
        return asdict(self)


def layer_info(node: fx.Node) -> LayerInfo:
    """Collect a node's facts."""
    facts = facts_of(node)
    roles = tuple(sorted(facts.roles, key=ROLES.index))
    rule = facts.rule if facts.signal else None
    layout = layout_of(node)
    return LayerInfo(
        path=facts.path,
        label=facts.label,
        operator=node.target.__name__,
        kind=facts.kind,
        shape=shape_of(node)[1:],
        roles=roles,
        role=primary_role(facts.roles),
        sign=str(sign_of(node.args[0])),
        rule=None if rule is None else str(rule),
        depth=facts.depth,
        line=facts.line,
        operands=operands_of(node),
        signal=tuple(label_of(node.args[index]) for index in facts.signal),
        places=() if layout is None else layout.extents,
        details=details_of(node),
    )


def label_of(node: fx.Node) -> str | None:
    """A layer's label; None for an input."""
    return facts_of(node).label if node.op == "call_function" else None


def operands_of(node: fx.Node) -> tuple[str | int, ...]:
    """What a layer reads that depends on the input: labels, or the index of an input."""
    inputs = [other for other in node.graph.nodes if other.op == "placeholder"]
    return tuple(
        inputs.index(other) if other.op == "placeholder" else facts_of(other).label
        for other in node.all_input_nodes
        if other.op != "get_attr"
    )


def details_of(node: fx.Node) -> str:
    """The kernel, stride, dilation and groups of a convolution or pooling, as text."""
    operator = node.target
    stride = getattr(operator, "stride", None)
    if not isinstance(stride, tuple):
        return ""
    kernel = getattr(operator, "kernel", None)
    if kernel is None and len(node.args) > 1:
        kernel = shape_of(node.args[1])[-len(stride) :]
    found = ["x".join(map(str, kernel))] if kernel else []
    for name in ("stride", "dilation"):
        values: tuple[int, ...] = getattr(operator, name, ())
        if any(value != 1 for value in values):
            same = len(set(values)) == 1
            found.append(f"{name} {values[0] if same else 'x'.join(map(str, values))}")
    if getattr(operator, "groups", 1) > 1:
        found.append(f"{operator.groups} groups")
    return ", ".join(found)


@dataclass(frozen=True, eq=False)
class Compiled:
    """What a compile results in.

    Attributes
    ----------
    name
        What the model is called in the generated source.
    method, settings
        The method, and its parameters with the given ones in them.
    network
        The annotated network: every layer with its facts and rule.
    lowered
        The graph of the explainer before it is legalized for a target.
    legal
        The same, legalized for torch.
    generated
        The source of ``explainer.py``, and which variables hold the values of layers.
    rules, roles
        The user's own, by pattern.
    record
        The patterns of the layers whose relevance is recorded.
    class_names
        The names of the classes, if they were given.
    preprocessing
        How a picture becomes an input, where that was said.
    notes
        What the user should know: softmax removed ...
    fitted
        What patterns were fitted to; None where there are none.
    legalized_onnx
        The lowered graph legalized for ONNX, where that was done by the compile.
    """

    name: str
    method: Method
    settings: Mapping[str, Any]
    network: Network
    lowered: Network
    legal: Network
    generated: PythonModule
    rules: RuleMap = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    record: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    fitted: Fitted | None = None
    legalized_onnx: Network | None = None

    @property
    def source(self) -> str:
        """The text of the generated ``explainer.py``."""
        return self.generated.source

    # Cached, so that a call of the explainer looks at no graph.

    @cached_property
    def legal_onnx(self) -> Network:
        """The lowered graph legalized for ONNX, when it is first asked for.

        Who wants Python alone doesn't wait for it.
        """
        if self.legalized_onnx is not None:
            return self.legalized_onnx
        return Pipeline().run(legalization_steps("onnx"), self.lowered)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The shapes of all inputs, without the batch."""
        return tuple(shape_of(node)[1:] for node in self.network.inputs)

    @cached_property
    def input_types(self) -> tuple[torch.dtype, ...]:
        """The types of all inputs, as the model was compiled."""
        return tuple(facts_of(node).value.dtype for node in self.network.inputs)

    @cached_property
    def logits_shape(self) -> Shape:
        """The shape of the logits, without the batch."""
        return shape_of(self.network.output.args[0])[1:]

    @property
    def relevance_shape(self) -> Shape:
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

    @cached_property
    def flows(self) -> Flows:
        """Label of a layer's relevance -> the layer's label and path."""
        return flows_of(self.network, self.method)

    def recorded_nodes(self, network: Network) -> dict[str, fx.Node]:
        """The relevance nodes of a lowered or legal network that ``record`` names."""
        return recorded_nodes(network, self.record, self.flows)

    def check_input(
        self,
        inputs: Sequence[torch.Tensor],
        target: torch.Tensor | int | None = None,
        types: Iterable[torch.dtype] | None = None,
    ) -> None:
        """Refuse inputs or a target that the explainer was not compiled for.

        Parameters
        ----------
        inputs, target
            As for the explainer.
        types
            What each input must be of; by default they may be of any type.

        Raises
        ------
        InputError
            If a shape or type differs, or the target is neither a class nor weights of the logits.
        """
        count = len(self.input_shapes)
        if len(inputs) != count:
            known = "one input" if count == 1 else f"{count} inputs"
            raise InputError(f"the explainer takes {known}, and a target, not {len(inputs)}")
        if types is None:
            pairs = zip(inputs, self.input_types, strict=True)
            types = [x.dtype if isinstance(x, torch.Tensor) else dtype for x, dtype in pairs]
        try:
            for x, shape, dtype in zip(inputs, self.input_shapes, types, strict=True):
                helpers.check_input(x, shape, dtype, None if x is inputs[0] else len(inputs[0]))
            helpers.check_target(target, (len(inputs[0]), *self.logits_shape))
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None


def flows_of(network: Network, method: Method) -> Flows:
    """Label of a layer's relevance -> the layer's label and path, of an annotated network.

    The inputs are among them, for methods whose flows meet there.
    """
    named = [(facts_of(node).label, facts_of(node).path) for node in network.layers]
    named += [(input_label(network, image),) * 2 for image in network.inputs]
    return {
        in_flow(label, flow): (label, path) for label, path in named for flow in method.flow_names
    }


def recorded_nodes(network: Network, patterns: Iterable[str], flows: Flows) -> dict[str, fx.Node]:
    """The relevance nodes of a lowered or legal network that patterns of layers name.

    Raises
    ------
    MethodError
        If a pattern matches no layer that relevance reaches.
    """
    relevances: dict[str, fx.Node] = network.output.args[0][2]
    chosen: dict[str, fx.Node] = {}
    for pattern in patterns:
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
