"""What a rule and a method are, and where they are found by name.

A rule is a plain function of a layer and tensors. Decorated with :func:`rule`, it can be named in
a method's table and on the command line. A method is data: a table from roles to rules, and the
parameters that the rules share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphprop.errors import MethodError, nearest
from graphprop.ops import AddBias, Layout, Operator, Shape

if TYPE_CHECKING:
    from graphprop.ir.samples import Samples

CHOICES: Mapping[str, tuple[str, ...]] = {
    "active": ("input", "support"),
    "bias": ("sink", "ignored"),
    "input": ("zB", "flow"),
    "lost": ("drop", "spread"),
    "negative": ("both", "inhibitory"),
    "norm": ("pass", "affine"),
    "nu": ("inhibitory", "printed"),
    "residual": ("signed", "absolute"),
    "units": ("active", "all"),
}
"""The words that graphprop's own parameters can be."""

RuleFunction = Callable[..., Any]
Table = Sequence[tuple[str, str] | tuple[str, str, Mapping[str, Any]]]


@dataclass
class Layer:
    """A layer as a rule sees it: what methods.md calls ``op``, ``opT``, ``w`` and ``b``.

    Attributes
    ----------
    operator
        The operator, without bias.
    weight, bias
        The parameters of a weighted layer, or None. (For any other operator, ``weight`` is its
        second operand if it has one.)
    shapes
        The operands' shapes, -1 standing for the batch.
    label
        The user's name for the layer, for messages.
    signal
        For an operator where values meet: which of its operands relevance flows to.
    operands
        All of them, as the layer is called.
    reference
        The operands where the model's input is the method's baseline, if it has one.
    budget
        The relevance that the layer's own is measured against, in methods that keep count of it.
    image
        The shape of the model's input.
    final
        Whether the layer's result is the model's output.
    layout
        What the axes of the layer's result are: for a map made at a layer, of the layer's value.
        None stands for ``[N, C, places ...]``.
    before
        Zero padding that the model applies first: a part of ``op``, so that x has no padding.
    """

    operator: Any
    weight: Any = None
    bias: Any = None
    shapes: Sequence[Shape] = ()
    label: str = "layer"
    signal: tuple[int, ...] = (0,)
    operands: tuple[Any, ...] = ()
    reference: tuple[Any, ...] = ()
    budget: Any = None
    image: Shape = ()
    final: bool = True
    layout: Layout | None = None
    before: Operator | None = None
    rename: Callable[[Any, str, bool], Any] | None = None

    @classmethod
    def of(cls, operator: Operator, x: Any, weight: Any = None, bias: Any = None) -> Layer:
        """A layer for eager use, the shapes being taken from the tensors."""
        operands = x if isinstance(x, tuple) else (x,) if weight is None else (x, weight)
        shapes = [(-1, *operand.shape[1:]) for operand in operands]
        if weight is not None:
            shapes[1] = tuple(weight.shape)
        signal = tuple(range(len(operands)))
        return cls(operator, weight, bias, shapes, signal=signal, operands=operands)

    @property
    def constants(self) -> tuple[Any, ...]:
        """The operands behind the first."""
        return self.operands[1:]

    def op(self, x: Any, w: Any = None) -> Any:
        """Apply the layer without bias: ``op(x, w)``."""
        x = x if self.before is None else self.before(x)
        return self.operator(x) if w is None else self.operator(x, w)

    def opT(self, w: Any, r: Any) -> Any:
        """Apply the adjoint in x: ``opT(w, r)``, of the shape of x."""
        adjoint = self.operator.adjoint(*self.shapes)
        back = adjoint(r) if w is None else adjoint(r, w)
        return back if self.before is None else self.before.adjoint()(back)

    def plus_bias(self, z: Any, bias: Any) -> Any:
        """Add a bias along the layer's channels; None adds nothing."""
        if bias is None:
            return z
        return AddBias(getattr(self.operator, "channel_axis", 1))(z, bias)

    def named(self, name: str, value: Any, *, shared: bool = False) -> Any:
        """Give a value a name in the compiled graph and source: ``<layer>_<name>``.

        Where a method has several flows the name bears the flow's too, unless the value is
        ``shared``: the same in all of them.
        """
        return value if self.rename is None else self.rename(value, name, shared)


@dataclass(frozen=True)
class Rule:
    """A rule with its parameters' defaults."""

    name: str
    function: RuleFunction
    parameters: Mapping[str, Any]
    everywhere: bool = False
    """Whether it reaches every operand that depends on the input: gates, too."""

    @property
    def summary(self) -> str:
        """The first line of the rule's documentation."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def bind(self, **parameters: Any) -> BoundRule:
        """Fix the rule's parameters.

        Raises
        ------
        MethodError
            If the rule has no parameter of one of the names.
        """
        for name in parameters:
            if name not in self.parameters:
                raise MethodError(
                    f"the rule {self.name!r} has no parameter {name!r}: "
                    + (nearest(name, self.parameters) if self.parameters else "it has none")
                )
        return BoundRule(self, {**self.parameters, **parameters})


@dataclass(frozen=True)
class BoundRule:
    """A rule with its parameters: what a layer is assigned."""

    rule: Rule
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    def __call__(self, layer: Layer, x: Any, r: Any) -> Any:
        return self.rule.function(layer, x, r, **self.parameters)

    def in_flow(self, parameters: Mapping[str, Any]) -> BoundRule:
        """The rule in one flow of a method: with those of the flow's parameters that it has."""
        own = {key: value for key, value in parameters.items() if key in self.rule.parameters}
        return self.rule.bind(**{**self.parameters, **own}) if own else self

    def __str__(self) -> str:
        shown = (
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in self.parameters.items()
            if not (key == "stabilizer" and not value)
        )
        inside = ", ".join(shown)
        return f"{self.rule.name}({inside})" if inside else self.rule.name


@dataclass(frozen=True)
class Method:
    """A method: which rule each role gets, and what the rules share.

    Attributes
    ----------
    name, summary, source
        The name, one sentence, and where it was published.
    table
        ``(pattern, rule)`` or ``(pattern, rule, parameters)``, first match wins. A pattern is a
        role, ``*`` for every weighted layer, or what `passes.tag_roles.matches` accepts.
    parameters
        The method's parameters and their defaults. One reaches every rule that has a parameter
        of the same name, unless the table gives that rule its own.
    batch_norm
        The strategy: ``merge``, ``pass``, ``affine`` or ``compensate``.
    flows
        ``(name, parameters)`` of each flow of relevance. The flows run separately and are added
        up where they end; a flow's parameters reach every rule that has them.
    switches
        Parameter -> the parameters that it sets when it is true.
    limits
        Parameter -> the smallest and the largest value it can have.
    refused
        ``(parameter, value)`` -> why the method can't have it.
    arrays
        The parameters that can be a number, but also several or a tensor.
    start
        What relevance starts as, see `graphprop.ops.Start`, unless a parameter or a flow says so.
    layer
        Where the flows end: at the input (None), or at the layer that the parameter ``layer``
        names; then this is its default, see `passes.find_layer`.
    at_layer
        The rule that makes what the flows bring to that layer the map, or what goes on from there.
        Where there are several flows, it gets a tuple.
    continues_to_input
        Whether relevance goes on from that layer to the input, by the table.
    at_input
        The rule that makes what arrives at the input the map.
    besides
        The rule that says what each layer adds to the map.
    budgets
        Whether each layer is told how much relevance its own is measured against.
    samples
        Which inputs to explain in place of the given one, and with what weights: a function of
        the method's parameters and the shape of an input that returns
        `graphprop.ir.samples.Samples`.
    """

    name: str
    table: Table
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch_norm: str = "merge"
    summary: str = ""
    source: str = ""
    flows: Sequence[tuple[str, Mapping[str, Any]]] = (("", {}),)
    switches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    refused: Mapping[tuple[str, Any], str] = field(default_factory=dict)
    arrays: Sequence[str] = ()
    start: str = "logit"
    layer: str | None = None
    at_layer: str | None = None
    continues_to_input: bool = False
    at_input: str | None = None
    layer_contribution: str | None = None
    budgets: bool = False
    samples: Callable[[Mapping[str, Any], Shape], Samples] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters: the method's own, and those that every method has.

        ``batch_norm`` is the strategy; ``norm`` says how relevance goes through the other norms,
        unless the table already gives those a rule: that of every layer.
        """
        every: dict[str, Any] = {"batch_norm": self.batch_norm}
        if all(pattern != "**" for pattern, *_ in self.table):
            every["norm"] = "pass"
        return {**self.parameters, **{k: v for k, v in every.items() if k not in self.parameters}}

    @property
    def flow_names(self) -> tuple[str, ...]:
        """The names of all flows, that which goes on from a layer among them."""
        names = tuple(name for name, _ in self.flows)
        return names if not self.continues_to_input or "" in names else (*names, "")


RULES: dict[str, Rule] = {}
METHODS: dict[str, Method] = {}


def rule(name: str | RuleFunction | None = None, *, everywhere: bool = False) -> Any:
    """Register a function ``(layer, x, r, *, parameter=default ...) -> relevance of x`` as a rule.

    Use as ``@rule`` (named like the function) or ``@rule("name")``. The function computes with
    ``layer.op``, ``layer.opT``, arithmetic and the functions of `graphprop.ops`; it is run on
    tensors by tests and on graph values by the compiler. With ``everywhere`` it returns something
    for each operand that depends on the input, as the gradient does, gates among them.

    Raises
    ------
    MethodError
        If the function doesn't take ``(layer, x, r)`` and keyword-only parameters with defaults.
    """
    if callable(name):
        return _register_rule(name.__name__, name, everywhere)
    return lambda function: _register_rule(name or function.__name__, function, everywhere)


def _register_rule(name: str, function: RuleFunction, everywhere: bool) -> RuleFunction:
    positional, parameters = [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            parameters[parameter.name] = parameter.default
        else:
            positional.append(parameter)
    if len(positional) != 3:
        raise MethodError(
            f"the rule {name!r} must take (layer, x, r) and keyword-only parameters with defaults"
        )
    RULES[name] = Rule(name, function, parameters, everywhere)
    return function


def method(
    name: str,
    table: Table,
    *,
    parameters: Mapping[str, Any] | None = None,
    switches: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: Any,
) -> Method:
    """Register a method; it can then be named in `graphprop.compile`.

    The arguments are the fields of `Method`.
    """
    made = Method(
        name,
        tuple(table),
        parameters=dict(parameters or {}),
        switches=dict(switches or {}),
        **fields,
    )
    named = (entry[1] for entry in made.table)
    for rule_name in (*named, made.at_layer, made.at_input, made.layer_contribution):
        if rule_name is not None:
            find_rule(rule_name)
    METHODS[name] = made
    return made


def one_of(name: str, value: Any) -> None:
    """Refuse a word that a parameter doesn't know."""
    if value not in CHOICES[name]:
        known = " or ".join(map(repr, CHOICES[name]))
        raise MethodError(f"{name} is {known}, not {value!r}")


def find_rule(name: str) -> Rule:
    """Look a rule up by name, naming the nearest where there is none."""
    if name not in RULES:
        raise MethodError(f"there is no rule {name!r}: {nearest(name, RULES)}")
    return RULES[name]


def find_method(name: str) -> Method:
    """Look a method up by name, naming the nearest where there is none."""
    if name not in METHODS:
        raise MethodError(f"there is no method {name!r}: {nearest(name, METHODS)}")
    return METHODS[name]
