"""Metrics by name: a metric is a function with a decorator, as a rule is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from graphprop.errors import MethodError, nearest
from graphprop.evaluation.sample import Sample

MetricFunction: TypeAlias = Callable[..., Any]
Missing: TypeAlias = "float | Callable[[Sample], float]"


class NotApplicable(Exception):
    """A metric has no value on a case; the text says why, and stands where a row is missing."""


@dataclass(frozen=True)
class Metric:
    """A metric with its parameters set.

    Attributes
    ----------
    name
        What it is called.
    function
        ``(sample, *, parameter=default ...) -> float``, or for a batched one ``(samples, ...) ->
        list``.
    higher_is_better
        The orientation.
    missing
        The value of a map with NaN or infinite entries: the worst there is. A metric also gives it
        to a constant map where that singles out nothing.
    needs_mask
        Whether it compares with the place of the object.
    batched
        Whether the function takes all samples of a batch at once.
    parameters
        Its parameters and their values.
    given
        Those that differ from the defaults.
    """

    name: str
    function: MetricFunction
    higher_is_better: bool
    missing: Missing
    needs_mask: bool = False
    batched: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, with the parameters that differ from the defaults."""
        if not self.given:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.given.items())})"

    @property
    def summary(self) -> str:
        """The first line of its documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def worst(self, sample: Sample) -> float:
        """The value of a map that says nothing."""
        return self.missing(sample) if callable(self.missing) else self.missing

    def values(self, samples: Sequence[Sample]) -> list[float | NotApplicable]:
        """The metric of each sample of a batch, or why there is none."""
        found: dict[int, float | NotApplicable] = {}
        rest = []
        for sample in samples:
            if self.needs_mask and sample.mask is None:
                found[sample.index] = NotApplicable("needs masks or boxes, and the data has none")
            elif self.needs_mask and not sample.object.any():
                found[sample.index] = NotApplicable("the object lies outside of the picture")
            elif not sample.finite:
                found[sample.index] = self.worst(sample)
            else:
                rest.append(sample)
        if self.batched and rest:
            try:
                results = self.function(rest, **self.parameters)
            except NotApplicable as reason:
                results = [reason] * len(rest)
            found |= {sample.index: v for sample, v in zip(rest, results, strict=True)}
        for sample in [] if self.batched else rest:
            try:
                found[sample.index] = float(self.function(sample, **self.parameters))
            except NotApplicable as reason:
                found[sample.index] = reason
        return [self.finite(found[sample.index], sample) for sample in samples]

    def finite(self, value: float | NotApplicable, sample: Sample) -> float | NotApplicable:
        """A value, or the worst one where it isn't finite (the network returned NaN)."""
        if isinstance(value, NotApplicable) or math.isfinite(value):
            return value
        return self.worst(sample)

    def having(self, **parameters: Any) -> Metric:
        """The same metric with other parameters.

        Raises
        ------
        MethodError
            If it has no such parameter, or the value is of another type than the default.
        """
        for key, value in parameters.items():
            if key not in self.parameters:
                known = nearest(key, self.parameters) if self.parameters else "it has none"
                raise MethodError(f"the metric {self.name!r} has no parameter {key!r}: {known}")
            default = self.parameters[key]
            number = isinstance(default, int | float) and not isinstance(default, bool)
            fits = (
                isinstance(value, int | float) and not isinstance(value, bool)
                if number
                else isinstance(value, type(default))
            )
            if not fits:
                raise MethodError(
                    f"{key} of the metric {self.name!r} must be like {default!r}, not {value!r}"
                )
        given = {**self.given, **parameters}
        return replace(self, parameters={**self.parameters, **parameters}, given=given)


METRICS: dict[str, Metric] = {}


def metric(
    name: str | None = None,
    *,
    higher_is_better: bool,
    missing: Missing,
    needs_mask: bool = False,
    batched: bool = False,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a function ``(sample, *, parameter=default ...) -> float`` as a metric.

    Parameters
    ----------
    name
        By default the function's.
    higher_is_better
        The orientation.
    missing
        The value of a map with NaN or infinite entries, the worst there is: a number, or a function
        of the sample. The function isn't called for such a map.
    needs_mask
        Whether the function reads ``sample.object``. It isn't called where there is no mask, or an
        empty one.
    batched
        Whether it takes a list of samples and returns a list, so that what is expensive is done
        once for all of them.

    Raises
    ------
    MethodError
        If the function has other parameters than keyword-only ones with defaults.
    """

    def register(function: MetricFunction) -> MetricFunction:
        called = name or function.__name__
        positional, parameters = [], {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and (
                parameter.default is not parameter.empty
            ):
                parameters[parameter.name] = parameter.default
            else:
                positional.append(parameter)
        if len(positional) != 1:
            raise MethodError(
                f"the metric {called!r} must take one sample and keyword-only parameters with "
                "defaults"
            )
        METRICS[called] = Metric(
            called, function, higher_is_better, missing, needs_mask, batched, parameters
        )
        return function

    return register


def find_metric(spec: str | Metric | tuple[str, Mapping[str, Any]]) -> Metric:
    """Look a metric up: a name, ``"name:key=value,..."``, or ``(name, parameters)``.

    Raises
    ------
    MethodError
        If there is no such metric or parameter.
    """
    if isinstance(spec, Metric):
        return spec
    parameters: Mapping[str, Any] = {}
    if isinstance(spec, tuple):
        name, parameters = spec
    else:
        name, _, rest = spec.partition(":")
        parameters = dict(read_assignment(part, spec) for part in rest.split(",") if part.strip())
    if name.strip() not in METRICS:
        raise MethodError(f"there is no metric {name!r}: {nearest(name, METRICS)}")
    found = METRICS[name.strip()]
    return found.having(**parameters) if parameters else found


def read_assignment(text: str, spec: str) -> tuple[str, Any]:
    """Read ``key=value``: a number, true or false, or a word."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise MethodError(f"write a metric as NAME:KEY=VALUE,..., not {spec!r}")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    for read in (int, float):
        try:
            return key, read(value)
        except ValueError:
            continue
    return key, value


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """Refuse a word that a parameter doesn't know."""
    if value not in known:
        raise MethodError(f"{name} is {' or '.join(map(repr, known))}, not {value!r}")
    return value
