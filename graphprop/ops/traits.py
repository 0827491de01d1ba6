"""Traits: what passes ask of an operator, in place of which operator it is.

A pass looks for a property, never for a class, so that an operator from outside the package takes
part in every pass by declaring what it is (`Operator.traits`).
"""

from __future__ import annotations

import enum


class Trait(enum.Flag):
    """A property of an operator that a pass asks for."""

    NONE = 0
    """No property at all."""

    ENTRYWISE = enum.auto()
    """Each entry of the result is computed from the entries of the operands at its own place."""

    SUM = enum.auto()
    """The result is the sum or the difference of the operands: branches meet here."""

    ASSOCIATIVE = enum.auto()
    """``op(op(a, b), c)`` is ``op(a, b, c)``: nested calls are joined into one."""

    PRODUCT = enum.auto()
    """The result is the product of two operands, of which ranges may find one to be a gate."""

    QUOTIENT = enum.auto()
    """The result is the first operand divided by the second."""

    NEGATIVE_POWER = enum.auto()
    """The result falls as the operand grows, as ``1 / x``: a product with it is a quotient."""

    ALIGNMENT = enum.auto()
    """It gives a value the shape in which it meets another: a reshape, a broadcast."""

    REARRANGEMENT = enum.auto()
    """The entries of the result are entries of the operands, or constants between them."""

    CONCATENATION = enum.auto()
    """A rearrangement of several operands, one after another."""

    POOLING = enum.auto()
    """It pools or resizes maps by windows of places; relevance counts it as a layer of depth."""

    REDUCTION = enum.auto()
    """It reduces axes to length 1: a sum, a mean, a soft maximum."""

    AXIS_SUM = enum.auto()
    """It is the plain sum along axes."""

    POOLED_ARITHMETIC = enum.auto()
    """Generalized poolings apply it before or after they sum: ``x^p`` and its root (GeM), ``exp``
    and ``log``, a clamp away from zero, arithmetic with constants."""

    NORM = enum.auto()
    """It normalizes: batch norm and the norms by statistics of the sample."""

    DENSE = enum.auto()
    """A layer with weights that reads a vector of features, and no places around it."""

    CHANNELS_SECOND = enum.auto()
    """A layer with weights that reads channels on axis 1 and places on the axes behind it: layouts
    are inferred from it."""

    RECTIFIER = enum.auto()
    """It clips at zero: 0 for what is not positive, and what is positive as it is, up to a limit
    that there may be."""

    ORDER_PRESERVING = enum.auto()
    """With constants as its other operands it keeps the order of the entries: at the end of a
    network, behind a softmax, it chooses the same class."""


class Signal(enum.Enum):
    """Which operands relevance flows to, where not fixed ones: see `Operator.signal`."""

    FIRST = "first"
    """The first operand that depends on the input; all others are parameters."""

    ALL = "all"
    """Every operand that depends on the input: sums, concatenation, choices."""

    FACTORS = "factors"
    """The factors of a product: all that depend on the input, but for one that is a gate. Which
    one is a gate follows from ranges and layouts (docs/methods.md, section 0)."""
