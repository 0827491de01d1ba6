"""A ledger of relevance: what comes into every layer, what leaves it, and where the rest went.

Rules conserve relevance but for what is known to be lost: a bias that is a sink swallows its share,
a zero denominator hands nothing on, a stabiliser takes a little, and padding and constants get
theirs. `ledger` draws up the account of each layer from the layer's operands and from the relevance
that the explainer computed there, in float64. The losses are worked out here, in other words than
the rules are written in, so that a rule that loses relevance in any other way is found out.

The relevance of a layer's result is the sum of what all its consumers send. The account of one
layer is therefore drawn up with its rule applied anew; that the parts add up to what the explainer
computed for each operand is a second finding, see `LedgerEntry.misplaced`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from graphprop.interpret import interpret
from graphprop.lower import in_flow, padding_of, receivers
from graphprop.network import shape_of
from graphprop.ops import Cat, Linear, LinearTranspose, Operator
from graphprop.rules import BoundRule, Layer

if TYPE_CHECKING:
    from graphprop.explainer import CompiledExplainer

TOLERANCE = 1e-6
"""What may remain unexplained in float64, in units of the relevance that moves through a layer."""

DERIVATIVE = "it carries a derivative, which is no share of what comes in"
BUDGET = "it normalises relevance to a budget, and shifts it"
COMPENSATION = "it takes off and adds what makes up for bias and batch norm"

NOT_CONSERVING: Mapping[str, str] = {
    **dict.fromkeys(("gradient", "guided", "deconvnet", "deeplift", "bias_map"), DERIVATIVE),
    **dict.fromkeys(("hedge", "hedge_start"), BUDGET),
    **dict.fromkeys(("compensate", "rap_bn", "rap_bn_input"), COMPENSATION),
    "rap_bn_start": "it seeds two flows that sum to zero",
}
"""Rule -> why what leaves a layer isn't meant to be what comes in."""

UNKNOWN = "the ledger doesn't know this rule"
AT_THE_MAP = "here the map is made: what goes on is another relevance"

LOSSES = ("bias", "zero_denominators", "stabiliser", "outside")
"""What is accounted for."""


@dataclass(frozen=True)
class LedgerEntry:
    """The account of one layer, a number per sample.

    Attributes
    ----------
    label, operator, rule
        The layer, what it is, and how relevance is carried through it. The last entry is the
        input's, which has no rule.
    came_in, went_out
        The sum of relevance of the layer's result, and of what the layer sent to its operands.
    bias, zero_denominators, stabiliser
        What biases swallowed, what denominators of zero did not hand on, and what was lost (or,
        below zero, gained) because a stabiliser moved denominators away from zero.
    outside
        What fell on padding and on constants.
    moved
        The sum of the sizes of all relevance that came in or went out: what the rest is held
        against.
    misplaced
        How far the relevance of the layer's result is from the sum of what its consumers sent,
        relative to those; empty where one of them isn't accounted for.
    note
        Why there is no account; empty where there is one.
    """

    label: str
    operator: str
    rule: str
    came_in: tuple[float, ...]
    went_out: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    zero_denominators: tuple[float, ...] = ()
    stabiliser: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()
    moved: tuple[float, ...] = ()
    misplaced: tuple[float, ...] = ()
    note: str = ""

    @property
    def unexplained(self) -> tuple[float, ...]:
        """What came in, less what went out and is accounted for."""
        columns = (self.went_out, *(getattr(self, name) for name in LOSSES))
        return tuple(
            came_in - sum(parts)
            for came_in, *parts in zip(self.came_in, *columns, strict=not self.note)
        )

    @property
    def error(self) -> float:
        """The largest unexplained part of what moved, of any sample; 0 without an account."""
        pairs = zip(self.unexplained, self.moved, strict=True)
        return worst(abs(rest) / moved if rest else 0.0 for rest, moved in pairs)

    @property
    def astray(self) -> float:
        """The largest of `misplaced`."""
        return worst(self.misplaced)

    def balanced(self, tolerance: float = TOLERANCE) -> bool:
        """Whether nothing remains unexplained, and relevance lies where it was sent."""
        return self.error <= tolerance and self.astray <= tolerance

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON knows it."""
        return {**vars(self), "unexplained": self.unexplained}

    def __str__(self) -> str:
        name = f"{self.label} ({self.operator}{', ' * bool(self.rule)}{self.rule})"
        if self.note:
            return f"{name}: {self.note}"
        return f"{name}: {self.error:.1e} unexplained, {self.astray:.1e} misplaced"


def worst(errors: Any) -> float:
    """The largest of some errors, what isn't a number being larger than any; 0 of none."""
    return max((e if e == e else float("inf") for e in errors), default=0.0)


def ledger(
    explainer: CompiledExplainer,
    x: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor | int | None = None,
) -> list[LedgerEntry]:
    """Draw up the account of every layer that relevance passes, from the output back.

    Parameters
    ----------
    explainer
        What `graphprop.compile` made.
    x, target
        As for the explainer; of a model with several inputs, all of them. Computed in float64,
        whatever the type of x.

    Returns
    -------
    list of LedgerEntry
        Where a method has several flows, an account for each; last the inputs, unless the method
        makes something else of what arrives there.

    Raises
    ------
    InputError
        If x or the target doesn't fit the explainer.
    """
    inputs = (x,) if isinstance(x, torch.Tensor) else tuple(x)
    explainer.check_input(inputs, target)
    return Ledger(explainer, inputs, target).entries()


# What becomes of relevance, rule by rule.


@dataclass
class Losses:
    """What did not go on, per sample."""

    bias: Any = 0.0
    zero_denominators: Any = 0.0
    stabiliser: Any = 0.0
    outside: Any = 0.0

    def __add__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, name) + getattr(other, name) for name in LOSSES))

    def __mul__(self, factor: float) -> Losses:
        return Losses(*(getattr(self, name) * factor for name in LOSSES))


@dataclass
class Account:
    """A layer's operands, its relevance, and its rule's parameters.

    Attributes
    ----------
    layer
        The layer, for its linear map.
    x
        What it reads: the signal, or all operands where several get relevance.
    r
        Relevance of its result.
    parameters
        Of its rule.
    """

    layer: Layer
    x: Any
    r: torch.Tensor
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stabilizer(self) -> float:
        """What moves denominators away from zero, 0 where they are exact."""
        return float(self.parameters.get("stabilizer", 0.0))

    def through(self, given: Any, bias: Any = None, *, epsilon: float | None = None) -> Losses:
        """What is lost where r is divided by ``given + bias`` and ``given`` of it goes on."""
        return lost(
            self.r,
            given,
            self.along_channels(bias, given),
            self.stabilizer if epsilon is None else epsilon,
        )

    def along_channels(self, bias: Any, like: torch.Tensor) -> torch.Tensor:
        """A bias as it meets the layer's result; zeros without one."""
        zeros = torch.zeros_like(like)
        result: torch.Tensor = self.layer.plus_bias(zeros, bias)
        return result

    @property
    def sink(self) -> Any:
        """The bias, where it stays in denominators."""
        return self.layer.bias if self.parameters.get("bias") == "sink" else None

    def halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of all positive and of all negative contributions ``x w``."""
        w = self.layer.weight
        up, down = w.clamp(min=0), w.clamp(max=0)
        x, y = self.x.clamp(min=0), self.x.clamp(max=0)
        op = self.layer.op
        return op(x, up) + op(y, down), op(x, down) + op(y, up)


def lost(r: torch.Tensor, given: torch.Tensor, bias: torch.Tensor, epsilon: float) -> Losses:
    """What of r is lost where ``given r / (given + bias)`` goes on.

    With a stabiliser the denominator is ``c + epsilon`` where ``c >= 0`` and else ``c - epsilon``;
    without one nothing goes on where c is 0.
    """
    c = given + bias
    zero = c == 0
    if not epsilon:
        q = torch.where(zero, 0.0, r / torch.where(zero, 1.0, c))
        return Losses(each(bias * q), each(torch.where(zero, r, 0.0)))
    moved = torch.where(c >= 0, epsilon, -epsilon)
    q = r / (c + moved)
    taken = moved * q
    return Losses(
        each(bias * q),
        each(torch.where(zero, taken, 0.0)),
        each(torch.where(zero, 0.0, taken)),
    )


def each(values: torch.Tensor) -> torch.Tensor:
    """The sum over each sample."""
    return values.flatten(1).sum(1)


def linear(account: Account) -> Losses:
    """Shares of the pre-activation: z and epsilon."""
    epsilon = account.parameters.get("epsilon")
    return account.through(
        account.layer.op(account.x, account.layer.weight), account.sink, epsilon=epsilon
    )


def two_sided(account: Account) -> Losses:
    """Alpha times the shares of what is positive, less beta times those of what is negative."""
    alpha = account.parameters.get("alpha", 1.0)
    beta = account.parameters.get("beta", 0.0)
    above, below = account.halves()
    b = account.sink
    total = account.through(above, None if b is None else b.clamp(min=0)) * alpha
    if not beta:
        return total
    return total + account.through(-below, None if b is None else -b.clamp(max=0)) * -beta


def favoured(account: Account) -> Losses:
    """Gamma: the contributions of the result's own sign count ``1 + gamma`` times."""
    g, r, b = account.parameters["gamma"], account.r, account.sink
    above, below = account.halves()
    y = above + below
    # what decides is the result as the layer computes it
    z = account.layer.op(account.x, account.layer.weight)
    z = z + account.along_channels(b, z)
    total = Losses(zero_denominators=each(torch.where(z == 0, r, 0.0)))
    for chosen, half, part in ((z > 0, above, "min"), (z < 0, below, "max")):
        bias = None if b is None else b + g * b.clamp(**{part: 0})
        taken = torch.where(chosen, r, 0.0)
        given = y + g * half
        total += lost(taken, given, account.along_channels(bias, given), account.stabilizer)
    return total


def counted(account: Account) -> Losses:
    """An equal share for each connected input: lost where none is."""
    layer = account.layer
    if not layer.operator.weighted:
        return empty_windows(account)
    one = torch.ones_like(account.x[:1])
    return account.through(layer.op(one, torch.ones_like(layer.weight)).expand_as(account.r))


def squared(account: Account) -> Losses:
    """Shares of squared weights."""
    one = torch.ones_like(account.x[:1])
    weight = account.layer.weight
    return account.through(account.layer.op(one, weight * weight).expand_as(account.r))


def boxed(account: Account) -> Losses:
    """Shares of ``x w - low w+ - high w-``."""
    x, w, layer = account.x, account.layer.weight, account.layer
    low, high = (bound_of(account, name) for name in ("low", "high"))
    up, down = w.clamp(min=0), w.clamp(max=0)
    return account.through(layer.op(x - low, up) + layer.op(x - high, down))


def bound_of(account: Account, name: str) -> Any:
    """A bound of zB as it meets x."""
    x, given = account.x, account.parameters[name]
    if given == "per_sample":
        flat = x.flatten(1)
        extreme = flat.min(1).values if name == "low" else flat.max(1).values
        return extreme.reshape(-1, *[1] * (x.dim() - 1))
    if isinstance(given, int | float):
        return given
    dense = isinstance(account.layer.operator, Linear | LinearTranspose)
    behind = 0 if dense else x.dim() - 2
    return torch.tensor(given, dtype=x.dtype).reshape(-1, *[1] * behind)


def shifted(account: Account) -> Losses:
    """RAP: all goes on, unless no input is active."""
    x, r = account.x, account.r
    active = x.flatten(1).any(1)
    if account.parameters.get("active") == "support":
        reached = account.layer.op(x.abs(), account.layer.weight.abs()) * r.abs()
        active = reached.flatten(1).any(1)
    return Losses(zero_denominators=torch.where(active, 0.0, each(r)))


def started(account: Account) -> Losses:
    """RAP's start: by the size of contributions, or in total what the basic rule hands on."""
    x, w = account.x, account.layer.weight
    if account.layer.final:
        x, w = x.abs(), w.abs()
    return account.through(account.layer.op(x, w), epsilon=0.0)


def excited(account: Account) -> Losses:
    """Excitation: shares of what is positive in both input and weight."""
    w = account.layer.weight
    w = -w if account.parameters.get("negated") else w
    return account.through(account.layer.op(account.x.clamp(min=0), w.clamp(min=0)))


def shared(account: Account) -> Losses:
    """Residual add: shares of the sum, or of sizes, which lose nothing."""
    if len(account.layer.signal) == 1 or account.parameters.get("residual") == "absolute":
        return Losses()
    return account.through(account.layer.operator(*account.x))


def fixed_shares(account: Account) -> Losses:
    """Averages, sums and resizing; an exact rule spreads what a zero would lose."""
    if not account.stabilizer:
        return empty_windows(account)
    return account.through(account.layer.op(account.x))


def empty_windows(account: Account) -> Losses:
    """What the windows lose that no cell lies in."""
    cells = account.layer.op(torch.ones_like(account.x))
    return Losses(zero_denominators=each(torch.where(cells == 0, account.r, 0.0)))


def rearranged(account: Account) -> Losses:
    """What comes from no operand: padding, and what a constant was joined in."""
    layer, operands = account.layer, account.layer.operands
    ones = [
        torch.ones_like(part) if index in layer.signal else part * 0.0
        for index, part in enumerate(operands)
    ]
    if not isinstance(layer.operator, Cat):
        ones = [torch.ones_like(account.x)]
    nothing = [part * 0.0 for part in ones]
    from_signal = layer.operator(*ones) - layer.operator(*nothing)
    return Losses(outside=each(account.r * (1.0 - from_signal)))


def around_a_constant(account: Account) -> Losses:
    """The epsilon rule of an affine map: what is no multiple of x is a bias."""
    layer, x = account.layer, account.x
    y = layer.operator(x, *layer.constants)
    linear_part = x * layer.operator.coefficient(x, *layer.constants)
    return lost(account.r, linear_part, y - linear_part, account.parameters["epsilon"])


def nothing(account: Account) -> Losses:
    """All goes on."""
    return Losses()


ACCOUNTS: Mapping[str, Callable[[Account], Losses]] = {
    "z": linear,
    "epsilon": linear,
    "alpha_beta": two_sided,
    "z_plus": two_sided,
    "gamma": favoured,
    "flat": counted,
    "w_square": squared,
    "zB": boxed,
    "rap": shifted,
    "rap_start": started,
    "excitation": excited,
    "excitation_top": excited,
    "share": shared,
    "signal": nothing,
    "winner": nothing,
    "pass": nothing,
    "proportional": fixed_shares,
    "rearrange": rearranged,
    "affine": around_a_constant,
    "hedge_share": nothing,
    "hedge_average": empty_windows,
}
"""Rule -> what it loses."""


# The ledger of one explanation.


class Ledger:
    """Goes through the layers of an explainer from the output back.

    Attributes
    ----------
    values
        What each node of the annotated network computes.
    recorded
        Label (and flow) -> the relevance of that layer's result, as the explainer computes it.
    arrived
        Flow and node -> what its consumers sent, and the sizes of the parts; None where one of
        them isn't accounted for.
    """

    def __init__(
        self, explainer: CompiledExplainer, inputs: Sequence[torch.Tensor], target: Any
    ) -> None:
        self.explainer, self.network, legal = explainer, explainer.network, explainer.legal
        self.images = tuple(self.network.inputs)
        given = dict(zip(self.images, inputs, strict=True))
        self.values: dict[fx.Node, Any] = {image: x.double() for image, x in given.items()}
        self.values |= {
            node: cast(self.network.tensor(node))
            for node in self.network.graph.nodes
            if node.op == "get_attr"
        }
        by_name = {image.target: x for image, x in given.items()}
        interpret(self.network, by_name, observe=self._keep)
        (_, found, recorded), _ = interpret(legal, {**by_name, "target": target})
        self.recorded: dict[str, torch.Tensor] = dict(recorded)
        maps = found if isinstance(found, tuple) else (found,)
        self.maps: dict[fx.Node, torch.Tensor] = dict(zip(self.images, maps, strict=False))
        self.arrived: dict[tuple[str, fx.Node], tuple[torch.Tensor, torch.Tensor] | None] = {}

    def _keep(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value

    def entries(self) -> list[LedgerEntry]:
        """One entry for each layer and flow, and one for the input."""
        found = [
            self.entry(node, flow)
            for flow in self.explainer.method.flow_names
            for node in reversed(self.network.layers)
            if in_flow(node.meta["label"], flow) in self.recorded and node.meta["rule"] is not None
        ]
        method = self.explainer.method
        ends_here = self.network.middle is None or method.goes_on
        if ends_here and method.at_input is None and method.besides is None:
            found += map(self.input_entry, self.images)
        return found

    def entry(self, node: fx.Node, flow: str) -> LedgerEntry:
        """Draw up the account of one layer, and hand on what it sends."""
        label = in_flow(node.meta["label"], flow)
        r = self.recorded[label]
        own = dict(self.explainer.method.flows).get(flow, {})
        rule: BoundRule = node.meta["rule"].in_flow(own)
        name = rule.rule.name
        facts = (label, node.target.__name__, str(rule))
        note = NOT_CONSERVING.get(name, "" if name in ACCOUNTS else UNKNOWN)
        if node is self.network.middle and (flow or "" in dict(self.explainer.method.flows)):
            note = AT_THE_MAP
        misplaced = self.misplaced(node, flow, r)
        if note:
            for receiver in receivers(node):
                self.arrived[flow, receiver] = None
            return LedgerEntry(*facts, came_in=listed(each(r)), misplaced=misplaced, note=note)
        layer = self.layer_of(node)
        several = node.target.relevance in ("share", "signal") or len(layer.signal) > 1
        x = layer.operands if several else layer.operands[layer.signal[0]]
        with torch.no_grad():
            sent = rule(layer, x, r)
            losses = ACCOUNTS[name](Account(layer, x, r, rule.parameters))
        parts = sent if isinstance(sent, tuple) else (sent,)
        moved, went_out = each(r.abs()), torch.zeros(len(r), dtype=r.dtype)
        for receiver, part in zip(receivers(node), parts, strict=True):
            whole = self.values[receiver] * 0.0 + part
            moved, went_out = moved + each(whole.abs()), went_out + each(whole)
            self.send(receiver, flow, whole)
        return LedgerEntry(
            *facts,
            came_in=listed(each(r)),
            went_out=listed(went_out),
            **{name: listed(went_out * 0.0 + getattr(losses, name)) for name in LOSSES},
            moved=listed(moved),
            misplaced=misplaced,
        )

    def input_entry(self, image: fx.Node) -> LedgerEntry:
        """The map, held against what the layers sent to an input."""
        relevance = self.maps[image]
        total = listed(each(relevance))
        return LedgerEntry(
            image.name,
            "input",
            "",
            came_in=total,
            went_out=total,
            **dict.fromkeys(LOSSES, listed(each(relevance) * 0.0)),
            moved=listed(each(relevance.abs())),
            misplaced=self.misplaced(image, "", relevance),
        )

    def layer_of(self, node: fx.Node) -> Layer:
        """A layer as its rule sees it, its operands being tensors."""
        padding, weighted = padding_of(node), node.target.weighted
        operands = [self.values[a] if isinstance(a, fx.Node) else a for a in node.args]
        shapes = [shape_of(a) for a in node.args if isinstance(a, fx.Node)]
        before: Operator | None = None
        if padding is not None:
            operands[0], shapes[0] = self.values[padding.args[0]], shape_of(padding.args[0])
            before = padding.target
        return Layer(
            node.target,
            weight=operands[1] if weighted else None,
            bias=operands[2] if weighted and len(operands) > 2 else None,
            shapes=shapes,
            label=node.meta["label"],
            signal=node.meta["signal"],
            operands=tuple(operands),
            image=shape_of(self.images[0]),
            final=node is self.network.output.args[0],
            before=before,
        )

    def send(self, receiver: fx.Node, flow: str, part: torch.Tensor) -> None:
        """Add what a layer sends to one of its operands."""
        # flows meet in the inputs
        key = ("" if receiver in self.images else flow, receiver)
        before = self.arrived.get(key, (torch.zeros_like(part), part.new_zeros(len(part))))
        if before is not None:
            total, sizes = before
            self.arrived[key] = total + part, sizes + part.flatten(1).norm(dim=1)

    def misplaced(self, node: fx.Node, flow: str, r: torch.Tensor) -> tuple[float, ...]:
        """How far r is from what arrived at a node, per sample."""
        found = self.arrived.get((flow, node))
        if found is None:
            return ()
        total, sizes = found
        distance = (total - r).flatten(1).norm(dim=1)
        scale = torch.maximum(sizes, r.flatten(1).norm(dim=1))
        return listed(torch.where(distance == 0, 0.0, distance / scale))


def cast(tensor: torch.Tensor) -> torch.Tensor:
    """A floating-point tensor in float64."""
    return tensor.double() if tensor.is_floating_point() else tensor


def listed(values: torch.Tensor) -> tuple[float, ...]:
    """One number per sample."""
    return tuple(values.tolist())
