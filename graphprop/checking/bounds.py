"""How far rounding alone can carry single precision, found while a step runs in double precision.

Within `RunningBounds` every torch operation on the CPU also computes a bound of what the same
operation in float32 may be off by, entry by entry: a running error analysis. An entry that is a sum
of n products gets ``C * sqrt(n) * u * op(|x|, |w|)``, u being half the distance from 1 to the next
number, so that a sum of large terms that cancel is allowed what its terms make unavoidable; what is
computed from one entry gets a few u of it. What an operand may be off by is carried on.

The square root is that of a random walk: the worst case, n in its place, is never met, and a bound
as wide as that would let wrong steps pass.

This file runs in the process of a generated module, too: it needs nothing but torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

UNIT = 2.0**-24
"""The unit roundoff of float32."""

C = 8.0
"""How many deviations of a random walk of roundings a sum may be off."""

C_SUM = 4.0
"""The same of sums without products, which libraries add up in pairs or in several lanes.

ONNX Runtime's sum over a whole sample (60,000 entries that nearly cancel) came to 2.3."""

WINDOW = 9.0
"""How many terms a sum has at least: as many as a small window."""

DRIFT = 1e-6
"""How far the errors of a step may point in the direction of its result, ``<e, y> / <y, y>``.

Rounding has no direction: in VGG-16, ResNet-50, DenseNet-121 and Inception by four methods no step
with more than a hundred entries came to 1e-7 (a constant such as 1/49 is rounded once for all of
them: that is up to 6e-8). A factor wrong by 1e-6 at a hundred steps changes a map by 1e-4. Of a few
entries, one that happens to be rounded up is a direction already: there, what independent errors
within the bounds can come to is allowed (`judge`).
"""

SMALLEST = 2.0**-126
"""Below this, float32 has fewer digits or none."""

aten = torch.ops.aten

Tensor: TypeAlias = torch.Tensor
Bounds: TypeAlias = Tensor | float | tuple[Tensor | None, ...] | None
"""Of one result, or of each of several; None where nothing is rounded."""

Rule = Callable[["Operation"], Bounds]
RULES: dict[Any, Rule] = {}


@dataclass
class Operation:
    """One call of an operator: what went in, what came out, and the bounds of what went in."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    known: dict[int, torch.Tensor]

    def bound(self, value: Any) -> torch.Tensor:
        """What an operand may be off by."""
        found = self.known.get(id(value))
        return torch.zeros_like(value) if found is None else found

    def call(self, change: Callable[[torch.Tensor], torch.Tensor], *args: Any) -> Any:
        """The same operation on other numbers: ``change`` is applied to every float operand."""

        def replaced(value: Any) -> Any:
            return change(value) if is_float(value) else value

        given = tree_map(replaced, args or self.args)
        return self.function(*given, **tree_map(replaced, self.kwargs))

    @property
    def operands(self) -> list[torch.Tensor]:
        """The float tensors that went in."""
        leaves, _ = tree_flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if is_float(leaf)]

    @property
    def exact(self) -> bool:
        """Whether no operand is off."""
        return not any(id(operand) in self.known for operand in self.operands)


class RunningBounds(TorchDispatchMode):
    """Finds bounds of rounding for everything that is computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds: Any = WeakTensorKeyDictionary()

    def of(self, value: torch.Tensor) -> torch.Tensor | None:
        """What a value may be off by; None where it is exact."""
        found: torch.Tensor | None = self.bounds.get(value)
        return found

    def set(self, value: torch.Tensor, bound: torch.Tensor) -> None:
        """Set what a value may be off by."""
        self.bounds[value] = bound

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and find the bound of its result."""
        kwargs = kwargs or {}
        packet = function.overloadpacket
        in_place = function._schema.is_mutable
        leaves, _ = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        known = {id(t): b for t in tensors if (b := self.bounds.get(t)) is not None}
        before = args
        if in_place:
            # what was there counts, and is gone afterwards
            first = args[0]
            before = (first.clone(), *args[1:])
            if id(first) in known:
                known[id(before[0])] = known[id(first)]
            function_again = getattr(packet, function._overloadname)
        result = function(*args, **kwargs)
        functional = function
        if in_place:
            functional = functional_form(packet) or function_again
        rule = RULES.get(packet) or RULES.get(getattr(functional, "overloadpacket", None))
        operation = Operation(functional, before, kwargs, result, known)
        if rule is None:
            rule = unknown
        bounds = rule(operation)
        self._keep(result, bounds)
        return result

    def _keep(self, result: Any, bounds: Any) -> None:
        results = result if isinstance(result, tuple | list) else (result,)
        given = bounds if isinstance(bounds, tuple | list) else (bounds,)
        for value, bound in zip(results, given, strict=False):
            if isinstance(value, torch.Tensor) and bound is not None:
                self.bounds[value] = laid_out_like(bound, value)
            elif isinstance(value, torch.Tensor) and value in self.bounds:
                del self.bounds[value]


def laid_out_like(bound: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A bound that lies in memory as its value does, so that it can be viewed alike."""
    if bound.stride() == value.stride() and bound.shape == value.shape:
        return bound
    return torch.empty_like(value, dtype=bound.dtype).copy_(bound)


def functional_form(packet: Any) -> Any:
    """The operator that does the same without changing an operand."""
    name = packet._qualified_op_name.split("::")[1]
    if not name.endswith("_") or not hasattr(aten, name[:-1]):
        return None
    found = getattr(aten, name[:-1])
    return Packet(found)


class Packet:
    """An overload packet called like one overload."""

    def __init__(self, packet: Any) -> None:
        self.overloadpacket = packet

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.overloadpacket(*args, **kwargs)


def is_float(value: object) -> bool:
    """Whether a value is a tensor of numbers with a fraction."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register how the bounds of operators are found, by the names of those that exist."""

    def register(function: Rule) -> Rule:
        for name in names:
            if hasattr(aten, name):
                RULES[getattr(aten, name)] = function
        return function

    return register


@rule(
    *"view reshape _unsafe_view _reshape_alias permute transpose t expand slice select unsqueeze "
    "squeeze cat stack index index_select gather flip clone detach alias split "
    "split_with_sizes unbind repeat roll diagonal unfold im2col pixel_shuffle pixel_unshuffle "
    "masked_fill scatter slice_scatter select_scatter copy lift_fresh relu neg abs view_as "
    "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d slice_copy channel_shuffle".split()
)
def moved(operation: Operation) -> Bounds:
    """Entries go elsewhere, lose their sign or are left out: nothing is rounded."""
    if operation.exact:
        return None
    args = operation.args
    name = operation.function.overloadpacket
    if name is aten.constant_pad_nd:
        return operation.function(operation.bound(args[0]), args[1], 0.0)
    if name in (aten.relu, aten.neg, aten.abs):
        return operation.bound(args[0])
    if name in (aten.masked_fill, aten.scatter):
        args = (*args[:-1], torch.zeros_like(args[-1]) if is_float(args[-1]) else 0.0)
    return operation.call(operation.bound, *args)


@rule("_to_copy")
def converted(operation: Operation) -> Bounds:
    """Another type or place in memory; a condition that rounding decides becomes 0 or 1."""
    x = operation.args[0]
    known = operation.known.get(id(x))
    return None if known is None else known.to(operation.result.dtype)


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def clamped(operation: Operation) -> Bounds:
    """Limits move a value no further than it moved before."""
    return None if operation.exact else operation.bound(operation.args[0])


@rule("maximum", "minimum")
def either(operation: Operation) -> Bounds:
    """The larger or smaller of two values."""
    if operation.exact:
        return None
    first, second = operation.args[:2]
    return torch.maximum(*torch.broadcast_tensors(operation.bound(first), operation.bound(second)))


@rule("amax", "amin")
def extreme(operation: Operation) -> Bounds:
    """The extreme of values moves as far as the furthest of them."""
    if operation.exact:
        return None
    return aten.amax(operation.bound(operation.args[0]), *operation.args[1:], **operation.kwargs)


@rule(
    *"max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool2d adaptive_max_pool3d".split()
)
def pooled(operation: Operation) -> Bounds:
    """The largest of a window."""
    if operation.exact:
        return None, None
    return operation.function(operation.bound(operation.args[0]), *operation.args[1:])[0], None


@rule("nan_to_num")
def without_infinities(operation: Operation) -> Bounds:
    """What is infinite becomes 0, and isn't off any more."""
    if operation.exact:
        return None
    x = operation.args[0]
    return torch.where(x.isfinite(), operation.bound(x), 0.0).nan_to_num(0.0, 0.0, 0.0)


@rule(
    *"sum mean avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_avg_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d cumsum "
    "scatter_add index_add col2im index_put _unsafe_index_put scatter_reduce "
    "max_unpool2d max_unpool3d".split()
)
def summed(operation: Operation) -> Bounds:
    """Sums with weights that aren't negative."""
    if not operation.operands:
        return None
    size = max(operand.numel() for operand in operation.operands)
    # windows overlap, and several entries may meet at one place
    terms = max(WINDOW, size / max(1, operation.result.numel()))
    fresh = operation.call(torch.abs) * rounding(terms, C_SUM)
    return fresh if operation.exact else fresh + operation.call(operation.bound)


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def interpolated(operation: Operation) -> Bounds:
    """Weights that come of places, which are rounded in proportion to how far along they are."""
    sides = max(*operation.args[0].shape[2:], *operation.result.shape[2:])
    fresh = widest(operation.call(torch.abs)) * ((4 + sides) * UNIT)
    return fresh if operation.exact else fresh + operation.call(operation.bound)


def rounding(terms: float, c: float = C) -> float:
    """How far a sum of so many terms may be off, relative to the sum of their magnitudes."""
    return c * math.sqrt(terms) * UNIT


@rule("convolution")
def convolved(operation: Operation) -> Bounds:
    """A convolution; fast algorithms spread the errors of a place over its neighbors."""
    x, weight, bias, *options = operation.args
    transposed, groups = options[3], options[5]
    count = weight.shape[0] // groups if transposed else weight.shape[1]
    terms = count * math.prod(weight.shape[2:])

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # a bound need not be exact, and this is several times faster
        bias = None if bias is None else bias.float()
        return operation.function(x.float(), weight.float(), bias, *options).double()

    fresh = run(x.abs(), weight.abs(), None if bias is None else bias.abs()) * rounding(terms)
    return carried(operation, widest(fresh), run, x, weight, bias)


def widest(bound: torch.Tensor) -> torch.Tensor:
    """The largest bound of each channel, at all its places."""
    places = tuple(range(2, bound.dim()))
    return bound.amax(places, keepdim=True).expand_as(bound) if places else bound


def carried(
    operation: Operation,
    fresh: Tensor,
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> torch.Tensor:
    """Add what the operands of a product and a sum were off by already."""
    total = fresh
    if id(x) in operation.known:
        total = total + run(operation.bound(x), weight.abs(), None)
    if id(weight) in operation.known:
        total = total + run(x.abs(), operation.bound(weight), None)
    if bias is not None and id(bias) in operation.known:
        total = total + run(torch.zeros_like(x), torch.zeros_like(weight), operation.bound(bias))
    return total


@rule("mm", "bmm", "mv", "dot")
def multiplied_matrices(operation: Operation) -> Bounds:
    """Products of matrices."""
    x, weight = operation.args[:2]

    def run(x: torch.Tensor, weight: torch.Tensor, bias: None) -> torch.Tensor:
        return operation.function(x.float(), weight.float()).double()

    fresh = run(x.abs(), weight.abs(), None) * rounding(x.shape[-1])
    return carried(operation, fresh, run, x, weight, None)


@rule("addmm", "baddbmm", "addmv")
def added_product(operation: Operation) -> Bounds:
    """Products of matrices, and a bias."""
    bias, x, weight = operation.args[:3]
    scales = {key: abs(value) for key, value in operation.kwargs.items()}

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        none = torch.zeros_like(operation.args[0])
        return operation.function(none if bias is None else bias, x, weight, **scales)

    fresh = run(x.abs(), weight.abs(), bias.abs()) * rounding(x.shape[-1])
    return carried(operation, fresh, run, x, weight, bias)


@rule("add", "sub")
def added(operation: Operation) -> Bounds:
    """The sum or the difference of two."""
    if not is_float(operation.result):
        return None
    first, second = operation.args[:2]
    factor = abs(operation.kwargs.get("alpha", 1))
    fresh = (magnitude(first) + factor * magnitude(second)) * (2 * UNIT)
    return fresh + bound_of(operation, first) + factor * bound_of(operation, second)


def magnitude(value: Tensor | float) -> Tensor | float:
    """The magnitude of a tensor or a number."""
    return value.abs() if isinstance(value, torch.Tensor) else abs(value)


def bound_of(operation: Operation, value: Tensor | float) -> Tensor | float:
    """What a tensor or a number may be off by."""
    return operation.bound(value) if is_float(value) else 0.0


@rule("mul")
def multiplied(operation: Operation) -> Bounds:
    """A product, entry by entry."""
    if not is_float(operation.result):
        return None
    first, second = operation.args[:2]
    fresh = operation.result.abs() * (2 * UNIT)
    return (
        fresh
        + bound_of(operation, first) * magnitude(second)
        + magnitude(first) * bound_of(operation, second)
    )


@rule("div")
def divided(operation: Operation) -> Bounds:
    """A quotient, entry by entry."""
    if not is_float(operation.result):
        return None
    first, second = operation.args[:2]
    size = operation.result.abs()
    moved = bound_of(operation, first) + size * bound_of(operation, second)
    return size * (2 * UNIT) + moved / magnitude(second)


@rule("addcmul")
def added_products(operation: Operation) -> Bounds:
    """One product added."""
    start, first, second = operation.args[:3]
    factor = abs(operation.kwargs.get("value", 1))
    fresh = (start.abs() + factor * (first * second).abs()) * (4 * UNIT)
    product = operation.bound(first) * second.abs() + first.abs() * operation.bound(second)
    return fresh + operation.bound(start) + factor * product


@rule("eq", "ne", "lt", "le", "gt", "ge")
def compared(operation: Operation) -> Bounds:
    """Which entries rounding decides."""
    if operation.exact:
        return None
    first, second = operation.args[:2]
    reach = bound_of(operation, first) + bound_of(operation, second)
    undecided = (first - second).abs() <= reach
    # of a mask of numbers, such an entry may be off by 1
    return undecided.to(operation.result.dtype)


@rule("logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or")
@rule("bitwise_not", "any", "all")
def decided(operation: Operation) -> Bounds:
    """What follows from a condition that rounding decides is decided by it, too."""
    masks = [operation.known[id(a)] for a in operation.args if id(a) in operation.known]
    if not masks:
        return None
    together = masks[0] if len(masks) == 1 else masks[0] | masks[1]
    if together.shape == operation.result.shape:
        return together
    return torch.ones_like(operation.result) * together.any()


@rule("where")
def chosen(operation: Operation) -> Bounds:
    """One of two; where rounding decides, as far off as the other one is away."""
    if len(operation.args) < 3 or not is_float(operation.result):
        return None
    condition, first, second = operation.args[:3]
    ambiguous = operation.known.get(id(condition))
    if operation.exact and ambiguous is None:
        return None
    bound = torch.where(condition, bound_of(operation, first), bound_of(operation, second))
    if ambiguous is not None:
        bound = bound + ambiguous * (first - second).abs().nan_to_num(0.0, 0.0, 0.0)
    return bound.expand_as(operation.result)


@rule("sqrt", "rsqrt", "reciprocal", "exp", "exp2", "sigmoid", "tanh", "erf", "pow", "log", "sin")
@rule("cos", "atan", "expm1", "log1p")
def evaluated(operation: Operation) -> Bounds:
    """A function of one entry, which libraries compute to a few u of its result."""
    if not is_float(operation.result):
        return None
    return operation.result.abs() * (8 * UNIT) + swung(operation)


def swung(operation: Operation) -> Bounds:
    """How far the result moves where the operands move as far as they may."""
    if operation.exact:
        return 0.0
    total: Any = 0.0

    def raised(x: torch.Tensor) -> torch.Tensor:
        return x + operation.bound(x)

    def lowered(x: torch.Tensor) -> torch.Tensor:
        return x - operation.bound(x)

    for change in (raised, lowered):
        other = operation.call(change)
        other = other[0] if isinstance(other, tuple) else other
        result = operation.result
        result = result[0] if isinstance(result, tuple | list) else result
        total = total + (other - result).abs().nan_to_num(0.0, 0.0, 0.0)
    return total


@rule("native_layer_norm", "native_group_norm", "native_batch_norm")
@rule("_native_batch_norm_legit_no_training", "_softmax", "_log_softmax", "logsumexp")
def normalized(operation: Operation) -> Bounds:
    """Functions of all entries of a group: of the size of what they divide."""
    result = operation.result
    first = result[0] if isinstance(result, tuple) else result
    x = operation.args[0]
    scale = result[2].abs().max() if isinstance(result, tuple) and result[2].numel() else 1.0
    weights = [a for a in operation.args[1:3] if is_float(a)]
    largest = max([float(a.abs().max()) for a in weights if a.numel()], default=1.0)
    size = x.abs().max() * scale * max(1.0, largest) + first.abs().max() + largest
    groups = max(1.0, x.numel() / max(1, len(first)))
    bound = torch.full_like(first, float(size) * (C * UNIT * math.log2(2 + groups)))
    bound = bound + swung(operation)
    return (bound, None, None) if isinstance(result, tuple) else bound


@rule("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like")
@rule("new_empty", "zeros", "ones", "full", "arange", "scalar_tensor", "empty", "eye", "zero")
def constant(operation: Operation) -> None:
    """What depends on no operand's entries."""


def unknown(operation: Operation) -> Bounds:
    """Any other function: a few u of what goes in and comes out."""
    result = operation.result
    several = isinstance(result, tuple | list)
    first = result[0] if several and result else result
    if not is_float(first) or not operation.operands:
        return None
    size = max(float(x.abs().max()) for x in operation.operands if x.numel())
    terms = max(1.0, max(x.numel() for x in operation.operands) / max(1, first.numel()))
    fresh = (first.abs() + size) * rounding(terms)
    bound = fresh + swung(operation)
    return (bound, *[None] * (len(result) - 1)) if several else bound


# Judging a step


@dataclass(frozen=True)
class Verdict:
    """Whether one step of a backend is rounding, see `judge`.

    Attributes
    ----------
    error, allowed
        Of the entry that is furthest beyond its bound, relative to the largest entry.
    drift, drift_allowed
        How far the errors of all entries point the same way, and how far they may.
    """

    error: float
    allowed: float
    drift: float
    drift_allowed: float

    @property
    def rounding(self) -> bool:
        """Whether rounding alone explains the step; NaN is not explained."""
        return self.error <= self.allowed and self.drift <= self.drift_allowed

    @property
    def worse(self) -> tuple[float, float]:
        """The error that counts, and what it may be."""
        if not self.error <= self.allowed:
            return self.error, self.allowed
        return self.drift, self.drift_allowed


def judge(own: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor | None) -> Verdict:
    """Compare a backend's value with what follows exactly from the values before it.

    Parameters
    ----------
    own, exact
        What the backend has, and the same in float64.
    bound
        What each entry may be off by; None where nothing is computed.
    """
    with _disable_current_modes():
        return judged(own, exact, bound)


def judged(own: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor | None) -> Verdict:
    """See `judge`."""
    y = exact.double().flatten()
    if not y.numel():
        return Verdict(0.0, 0.0, 0.0, DRIFT)
    off = own.double().flatten() - y
    limit = torch.zeros_like(y) if bound is None else bound.double().expand_as(exact).flatten()
    # entries that both call infinite are alike, and float32 holds nothing smaller
    off = torch.where(own.double().flatten() == y, 0.0, off)
    limit = torch.where(y.isfinite(), limit + y.abs() * UNIT, 0.0) + SMALLEST
    excess = (off.abs() / limit).nan_to_num(math.inf, math.inf)
    worst = int(excess.argmax())
    scale = float(y[y.isfinite()].abs().max()) if bool(y.isfinite().any()) else 1.0
    scale = scale or 1.0
    square = float(y @ y)
    if not 0 < square < math.inf:
        return Verdict(float(off[worst].abs()) / scale, float(limit[worst]) / scale, 0.0, DRIFT)
    drift = abs(float(off @ y)) / square
    # of a few entries, one that rounds by chance is a direction already
    chance = float((limit.nan_to_num(0.0, 0.0) * y).norm()) / square
    return Verdict(
        float(off[worst].abs()) / scale,
        float(limit[worst]) / scale,
        drift,
        max(DRIFT, chance),
    )
