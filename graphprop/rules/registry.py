"""Rules and methods, and the registries in which they are found by name.

A rule is a plain function of a layer and tensors. Decorated with :func:`rule`, it can be named in
a method's table and on the command line. A method is data: a table from roles to rules, and the
parameters that the rules share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, overload

from graphprop.errors import MethodError, nearest
from graphprop.ir.operation import Shape
from graphprop.ir.samples import Samples
from graphprop.rules.fits import Fits
from graphprop.rules.layer import Layer, Tensor

RuleFunction: TypeAlias = Callable[..., Any]
"""``(layer, x, r, *, parameter=default ...)`` -> relevance of x.

x is a tuple where several operands get relevance; so is the result then."""

Function = TypeVar("Function", bound=RuleFunction)

Table: TypeAlias = Sequence[tuple[str, str] | tuple[str, str, Mapping[str, Any]]]
"""``(pattern, rule)`` or ``(pattern, rule, parameters)``, first match wins."""


@dataclass(frozen=True)
class Rule:
    """A rule with its parameters' defaults."""

    name: str
    function: RuleFunction
    parameters: Mapping[str, Any]
    everywhere: bool = False
    """Whether it reaches every operand that depends on the input: gates, too."""
    fitted: bool = False
    """Whether it reads what is fitted to data, `Layer.pattern`."""
    fits: Fits | None = None
    """The layers that it is for; None: any that it can be computed at."""

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

    def __call__(
        self, layer: Layer, x: Tensor | tuple[Tensor, ...], r: Tensor | tuple[Tensor, ...]
    ) -> Any:
        return self.rule.function(layer, x, r, **self.parameters)

    def in_flow(self, parameters: Mapping[str, Any]) -> BoundRule:
        """The rule in one flow of a method: with those of the flow's parameters that it has."""
        own = {key: value for key, value in parameters.items() if key in self.rule.parameters}
        return self.rule.bind(**{**self.parameters, **own}) if own else self

    def __str__(self) -> str:
        # a stabilizer of 0 is the rule as its formula has it
        unlike_formula = {
            key: value
            for key, value in self.parameters.items()
            if not (key == "stabilizer" and not value)
        }
        inside = assignments(unlike_formula)
        return f"{self.rule.name}({inside})" if inside else self.rule.name


def assignments(parameters: Mapping[str, Any]) -> str:
    """Parameters as ``key=value, ...``."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in parameters.items())


def value_text(value: object) -> str:
    """A parameter's value, a float in few digits: ``1e-06``."""
    return f"{value:g}" if isinstance(value, float) else str(value)


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
        The parameters that can be a number, a number per channel or a tensor.
    start
        What relevance starts as, see `graphprop.ops.Start`, unless the parameter ``start`` or a
        flow sets it.
    layer
        Where the flows end: at the input (None), or at the layer that the parameter ``layer``
        names; then this is its default, see `passes.find_layer`.
    at_layer
        The rule that makes the map of what arrives at that layer, or the relevance that continues
        from there. Where there are several flows, its ``r`` is a tuple.
    continues_to_input
        Whether relevance continues from that layer to the input, by the table.
    at_input
        The rule that makes the map of what arrives at the input.
    layer_contribution
        The rule that computes what each layer adds to the map.
    budgets
        Whether relevance comes with a budget, `Layer.budget`.
    samples
        Which inputs to explain in place of the given one, and with what weights: a function of
        the method's parameters and the shape of an input that returns
        `graphprop.ir.samples.Samples`.
    needs
        The layers that make the method what it is: a network without any is refused.
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
    needs: Fits | None = None

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
    def fitted(self) -> bool:
        """Whether it has a rule that reads what is fitted to data."""
        return any(find_rule(name).fitted for name in self.rule_names)

    @property
    def flow_names(self) -> tuple[str, ...]:
        """The names of all flows, that which continues from a layer among them."""
        names = tuple(name for name, _ in self.flows)
        return names if not self.continues_to_input or "" in names else (*names, "")

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The names of the rules that the method assigns."""
        others = (self.at_layer, self.at_input, self.layer_contribution)
        return (*(entry[1] for entry in self.table), *(name for name in others if name))


RULES: dict[str, Rule] = {}
"""Every rule that is registered, by name."""

METHODS: dict[str, Method] = {}
"""Every method that is registered, by name."""


@overload
def rule(name: Function) -> Function: ...


@overload
def rule(
    name: str | None = None,
    *,
    everywhere: bool = False,
    fitted: bool = False,
    fits: Fits | None = None,
) -> Callable[[Function], Function]: ...


def rule(
    name: str | RuleFunction | None = None,
    *,
    everywhere: bool = False,
    fitted: bool = False,
    fits: Fits | None = None,
) -> Any:
    """Register a function ``(layer, x, r, *, parameter=default ...) -> relevance of x`` as a rule.

    Use as ``@rule`` (named like the function) or ``@rule("name")``. The function computes with
    ``layer.op``, ``layer.opT``, arithmetic and the functions of `graphprop.ops`; it is run on
    tensors by tests and on graph values by the compiler. With ``everywhere`` it returns something
    for each operand that depends on the input, gates among them, as the gradient does. With
    ``fitted`` it reads `Layer.pattern`, and data is needed to compile it. ``fits`` says which
    layers it is for (`graphprop.rules.fits`): at others it is refused by name.

    Raises
    ------
    MethodError
        If the function doesn't take ``(layer, x, r)`` and keyword-only parameters with defaults.
    """
    if callable(name):
        return _register_rule(name.__name__, name)
    return lambda function: _register_rule(
        name or function.__name__, function, everywhere=everywhere, fitted=fitted, fits=fits
    )


def _register_rule(name: str, function: Function, **kinds: Any) -> Function:
    """Register a rule, its parameters and their defaults being read off its signature."""
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
    RULES[name] = Rule(name, function, parameters, **kinds)
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

    Raises
    ------
    MethodError
        If it names a rule that isn't registered.
    """
    registered = Method(
        name,
        tuple(table),
        parameters=dict(parameters or {}),
        switches=dict(switches or {}),
        **fields,
    )
    for rule_name in registered.rule_names:
        find_rule(rule_name)
    METHODS[name] = registered
    return registered


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
