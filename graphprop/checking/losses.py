"""What rules are known to lose, for the ledger: see `graphprop.checking.ledger`.

Each account is worked out from a layer's operands in other words than the rule is written in. A
rule that isn't meant to conserve relevance stands in a table of its own, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from graphprop.ops import Cat, Linear, LinearTranspose
from graphprop.rules import Layer

DERIVATIVE = "it carries a derivative, which is no share of what comes in"
BUDGET = "it normalizes relevance to a budget, and shifts it"
PATTERN = "its weights are not those of the forward part"
COMPENSATION = "it takes off and adds what makes up for bias and batch norm"

NOT_CONSERVING: Mapping[str, str] = {
    **dict.fromkeys(("gradient", "guided", "deconvnet", "deeplift", "bias_map"), DERIVATIVE),
    **dict.fromkeys(("pattern_attribution", "pattern_net"), PATTERN),
    **dict.fromkeys(("hedge", "hedge_start"), BUDGET),
    **dict.fromkeys(("compensate", "rap_bn", "rap_bn_input"), COMPENSATION),
    "rap_bn_start": "it seeds two flows that sum to zero",
}
"""Rule -> why what leaves a layer isn't meant to be what comes in."""

LOSSES = ("bias", "zero_denominators", "stabilizer", "outside", "scaled")
"""What is accounted for."""


Amount: TypeAlias = torch.Tensor | float
"""One for each sample, or the same for all."""


@dataclass
class Losses:
    """What did not go on, per sample."""

    bias: Amount = 0.0
    zero_denominators: Amount = 0.0
    stabilizer: Amount = 0.0
    outside: Amount = 0.0
    scaled: Amount = 0.0

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

    def through(
        self, given: torch.Tensor, bias: torch.Tensor | None = None, *, epsilon: float | None = None
    ) -> Losses:
        """What is lost where r is divided by ``given + bias`` and multiplied by ``given``."""
        return lost(
            self.r,
            given,
            self.along_channels(bias, given),
            self.stabilizer if epsilon is None else epsilon,
        )

    def along_channels(self, bias: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """A bias as it meets the layer's result; zeros without one."""
        zeros = torch.zeros_like(like)
        result: torch.Tensor = self.layer.plus_bias(zeros, bias)
        return result

    @property
    def sink(self) -> torch.Tensor | None:
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
    """What of r is lost where the operands receive ``given r / (given + bias)``.

    With a stabilizer the denominator is ``c + epsilon`` where ``c >= 0`` and else ``c - epsilon``;
    without one the operands receive nothing where c is 0.
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
    """Alpha times the shares of what is positive, less beta times those of what is negative.

    Where alpha and beta don't differ by 1, so much more or less than everything is handed on.
    """
    alpha = account.parameters.get("alpha", 1.0)
    beta = account.parameters.get("beta", 0.0)
    above, below = account.halves()
    b = account.sink
    total = account.through(above, None if b is None else b.clamp(min=0)) * alpha
    total += Losses(scaled=each(account.r) * (1.0 - (alpha - beta)))
    if not beta:
        return total
    return total + account.through(-below, None if b is None else -b.clamp(max=0)) * -beta


def favored(account: Account) -> Losses:
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


def bound_of(account: Account, name: str) -> Amount:
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
    """RAP: nothing is lost, unless no input is active."""
    x, r = account.x, account.r
    active = x.flatten(1).any(1)
    if account.parameters.get("active") == "support":
        reached = account.layer.op(x.abs(), account.layer.weight.abs()) * r.abs()
        active = reached.flatten(1).any(1)
    return Losses(zero_denominators=torch.where(active, 0.0, each(r)))


def started(account: Account) -> Losses:
    """RAP's start: by the absolute value of contributions, or the total of the basic rule."""
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
    """Nothing is lost."""
    return Losses()


ACCOUNTS: Mapping[str, Callable[[Account], Losses]] = {
    "z": linear,
    "epsilon": linear,
    "alpha_beta": two_sided,
    "z_plus": two_sided,
    "gamma": favored,
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
