"""Ranges of values: an interval that holds the entries of a value, whatever the input is.

Signs follow from intervals, and so does which factor of a product is a gate (docs/methods.md,
section 0). Bounds are computed in double precision and widened by more than the rounding error of
single precision, so that they hold for what is computed in float32, too. A bound of zero is kept as
it is: no operator moves a value across zero by rounding.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, isnan

WIDENING = 2.0**-20
"""How far a computed bound is moved outward, relative to itself: 16 units in the last place of
float32, which covers one operator's rounding."""


class Sign(enum.IntFlag):
    """Which signs the entries of a value can have: a lattice of four elements."""

    ZERO = 0
    POSITIVE = 1
    NEGATIVE = 2
    MIXED = 3

    def __str__(self) -> str:
        return ("zero", "non-negative", "non-positive", "mixed")[self]


@dataclass(frozen=True)
class Interval:
    """The numbers from ``low`` to ``high``, both included; NaN is in none."""

    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        if isnan(self.low) or isnan(self.high) or self.low > self.high:
            raise ValueError(f"there is no interval from {self.low} to {self.high}")

    def __str__(self) -> str:
        return f"[{self.low:.4g}, {self.high:.4g}]"

    @classmethod
    def of(cls, *numbers: float) -> Interval:
        """The smallest interval that holds some numbers; if NaN is among them, `UNBOUNDED`."""
        if any(map(isnan, numbers)):
            return cls()
        return cls(min(numbers), max(numbers))

    @property
    def sign(self) -> Sign:
        """The signs of its numbers."""
        positive = Sign.POSITIVE if self.high > 0 else Sign.ZERO
        return positive | (Sign.NEGATIVE if self.low < 0 else Sign.ZERO)

    def within(self, low: float, high: float) -> bool:
        """Whether it lies between two limits, up to `TOLERANCE`."""
        return self.low >= low - TOLERANCE and self.high <= high + TOLERANCE

    def holds(self, number: float) -> bool:
        """Whether a number lies in it."""
        return self.low <= number <= self.high

    def widened(self) -> Interval:
        """Move both bounds outward by more than the rounding error of one operator."""
        low, high = self.low, self.high
        low = low - abs(low) * WIDENING if isfinite(low) else low
        high = high + abs(high) * WIDENING if isfinite(high) else high
        return Interval(low, high)

    def cone(self) -> Interval:
        """All sums, empty ones included, of multiples of its numbers by factors above zero."""
        return Interval(-inf if self.low < 0 else 0.0, inf if self.high > 0 else 0.0)

    def clipped(self, low: float = -inf, high: float = inf) -> Interval:
        """Its numbers clamped to limits; where the limits are crossed, ``high`` wins."""
        return Interval(*(min(max(bound, low), high) for bound in (self.low, self.high)))

    def __or__(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        bounds = (self.low, self.high, other.low, other.high)
        slack = max((abs(bound) for bound in bounds if isfinite(bound)), default=0.0) * WIDENING
        low, high = self.low + other.low - slack, self.high + other.high + slack
        # terms of one sign add up to that sign, however the sum is rounded
        if self.low >= 0 and other.low >= 0:
            low = max(low, 0.0)
        if self.high <= 0 and other.high <= 0:
            high = min(high, 0.0)
        return _interval(low, high)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        products = [_product(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return _interval(min(products), max(products)).widened()

    def __truediv__(self, other: Interval) -> Interval:
        if other.low > 0 or other.high < 0:
            return self * Interval(*sorted((1.0 / other.low, 1.0 / other.high)))
        # the quotient has no bound, but a sign
        if other == ZERO:
            return UNBOUNDED
        return (self.cone() * other.cone()).cone()

    def size(self) -> Interval:
        """The absolute values of its numbers."""
        if self.low >= 0 or self.high <= 0:
            return self if self.low >= 0 else -self
        return Interval(0.0, max(-self.low, self.high))

    def times(self, count: float) -> Interval:
        """Multiply by a number."""
        return self * Interval(count, count)

    def monotone(
        self, function: Callable[[float], float], low: float = -inf, high: float = inf
    ) -> Interval:
        """Its image under a monotone function, clipped to a range."""
        ends = (_value(function, self.low), _value(function, self.high))
        return Interval.of(*ends).widened().clipped(low, high)

    def valley(self, function: Callable[[float], float], lowest: float) -> Interval:
        """Its image under a function like SiLU, whose minimum is known.

        The function is 0 at 0, rises from there on, lies between ``lowest`` and 0 below, and tends
        to 0.
        """
        high = max(_value(function, self.high), 0.0) if self.high > 0 else 0.0
        low = lowest if self.low < 0 else _value(function, self.low)
        return Interval(low, max(high, low)).widened().clipped(-inf, inf if self.high > 0 else 0.0)


def _interval(low: float, high: float) -> Interval:
    """An interval whose bounds may be the difference of two infinities: then it has none."""
    return Interval(-inf if isnan(low) else low, inf if isnan(high) else high)


def _product(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _value(function: Callable[[float], float], x: float) -> float:
    try:
        return function(x)
    except OverflowError:
        return inf
    except ValueError:
        return float("nan")


TOLERANCE = 1e-3
"""How far `Interval.within` lets a bound lie beyond a limit.

More than the widening of a chain of a thousand operators adds up to (`WIDENING` is 1e-6), and less
than a factor that is written on purpose is away from 1.
"""

UNBOUNDED = Interval()
ZERO = Interval(0.0, 0.0)
ONE = Interval(1.0, 1.0)
UNIT = Interval(0.0, 1.0)
NON_NEGATIVE = Interval(0.0, inf)
NON_POSITIVE = Interval(-inf, 0.0)
