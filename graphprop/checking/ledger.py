"""A ledger of relevance: what enters each layer, what leaves it, and where the rest went.

Rules conserve relevance except for known losses: a bias that is a sink absorbs its share, a zero
denominator passes nothing to the operands, a stabilizer absorbs a little, and padding and constants
receive their shares. `ledger` computes the account of each layer from the layer's operands and the
relevance that the explainer computed there, in float64. `losses` computes the losses by formulas
independent of the rules, so that a rule that loses relevance in any other way is detected.

The relevance of a layer's result is the sum of what all its consumers send. The account of a layer
therefore applies its rule again; whether the parts add up to what the explainer computed for each
operand is a separate result, see `LedgerEntry.misplaced`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphprop.checking.losses import ACCOUNTS, LOSSES, NOT_CONSERVING, Account, each
from graphprop.explainer import Compiled
from graphprop.ir.facts import facts_of
from graphprop.ir.interpret import interpret
from graphprop.lowering import in_flow
from graphprop.lowering.layer import layer_at, read_by_rule, receivers

TOLERANCE = 1e-6
"""What may remain unexplained in float64, in units of the relevance that moves through a layer."""

UNKNOWN = "the ledger doesn't know this rule"
AT_THE_MAP = "the map is made here: what continues is another relevance"


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
    bias, zero_denominators, stabilizer
        What biases absorbed, what zero denominators did not pass on, and what was lost (or,
        below zero, gained) because a stabilizer moved denominators away from zero.
    outside
        What fell on padding and on constants.
    scaled
        What a rule leaves out or adds on purpose: alpha and beta that don't differ by 1.
    moved
        The sum of the absolute values of all relevance that came in or went out: the scale that
        the rest is compared with.
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
    stabilizer: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()
    scaled: tuple[float, ...] = ()
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
        return worst(abs(rest) / (moved or abs(rest)) if rest else 0.0 for rest, moved in pairs)

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
    compiled: Compiled,
    x: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor | int | None = None,
) -> list[LedgerEntry]:
    """Draw up the account of every layer that relevance passes, from the output back.

    Parameters
    ----------
    compiled
        What a compile resulted in; `graphprop.api.ledger` takes the module that users call.
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
    compiled.check_input(inputs, target)
    return Ledger(compiled, inputs, target).entries()


class Ledger:
    """Goes through the layers of an explainer from the output back.

    Attributes
    ----------
    values
        What each input is, and what each layer of the annotated network computes.
    recorded
        Label (and flow) -> the relevance of that layer's result, as the explainer computes it.
    arrived
        Flow and node -> what its consumers sent, and the sizes of the parts; None where one of
        them isn't accounted for.
    """

    def __init__(self, compiled: Compiled, inputs: Sequence[torch.Tensor], target: Any) -> None:
        self.compiled, self.network, legal = compiled, compiled.network, compiled.legal
        self.images = tuple(self.network.inputs)
        given = dict(zip(self.images, inputs, strict=True))
        self.values: dict[fx.Node, Any] = {image: x.double() for image, x in given.items()}
        by_name = {image.target: x for image, x in given.items()}
        interpret(self.network, by_name, observe=self._keep)
        (_, found, recorded), _ = interpret(legal, {**by_name, "target": target})
        self.recorded: dict[str, torch.Tensor] = dict(recorded)
        maps = found if isinstance(found, tuple) else (found,)
        self.maps: dict[fx.Node, torch.Tensor] = dict(zip(self.images, maps, strict=False))
        self.arrived: dict[tuple[str, fx.Node], tuple[Any, Any] | None] = {}

    def _keep(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value

    def value(self, node: fx.Node) -> Any:
        """The value of a node; weights are many, and brought to float64 when they are asked for."""
        return cast(self.network.tensor(node)) if node.op == "get_attr" else self.values[node]

    def entries(self) -> list[LedgerEntry]:
        """One entry for each layer and flow, and one for the input."""
        found = [
            self.entry(node, flow)
            for flow in self.compiled.method.flow_names
            for node in reversed(self.network.layers)
            if in_flow(facts_of(node).label, flow) in self.recorded
            and facts_of(node).rule is not None
        ]
        method = self.compiled.method
        ends_here = self.network.map_layer is None or method.continues_to_input
        if ends_here and method.at_input is None and method.layer_contribution is None:
            found += map(self.input_entry, self.images)
        return found

    def entry(self, node: fx.Node, flow: str) -> LedgerEntry:
        """Compute the account of one layer, and send its parts to the operands."""
        label = in_flow(facts_of(node).label, flow)
        r = self.recorded[label]
        own = dict(self.compiled.method.flows).get(flow, {})
        assigned = facts_of(node).rule
        assert assigned is not None
        rule = assigned.in_flow(own)
        name = rule.name
        facts = (label, node.target.__name__, str(rule))
        note = NOT_CONSERVING.get(name, "" if name in ACCOUNTS else UNKNOWN)
        if node is self.network.map_layer and (flow or "" in dict(self.compiled.method.flows)):
            note = AT_THE_MAP
        misplaced = self.misplaced(node, flow, r)
        if note:
            for receiver in receivers(node):
                self.send(receiver, flow, None)
            return LedgerEntry(*facts, came_in=listed(each(r)), misplaced=misplaced, note=note)
        layer = layer_at(node, self.network, self.value)
        x = read_by_rule(layer)
        with torch.no_grad():
            sent = rule(layer, x, r)
            losses = ACCOUNTS[name](Account(layer, x, r, rule.parameters))
        parts = sent if isinstance(sent, tuple) else (sent,)
        moved, went_out = each(r.abs()), torch.zeros(len(r), dtype=r.dtype)
        for receiver, part in zip(receivers(node), parts, strict=True):
            whole = self.values[receiver] * 0.0 + part
            moved, went_out = moved + each(whole.abs()), went_out + each(whole)
            self.send(receiver, flow, whole)
        lost: dict[str, Any] = {
            kind: listed(went_out * 0.0 + getattr(losses, kind)) for kind in LOSSES
        }
        return LedgerEntry(
            *facts,
            came_in=listed(each(r)),
            went_out=listed(went_out),
            **lost,
            moved=listed(moved),
            misplaced=misplaced,
        )

    def input_entry(self, image: fx.Node) -> LedgerEntry:
        """Compare the map with what the layers sent to an input."""
        relevance = self.maps[image]
        total = listed(each(relevance))
        lost: dict[str, Any] = dict.fromkeys(LOSSES, listed(each(relevance) * 0.0))
        return LedgerEntry(
            image.name,
            "input",
            "",
            came_in=total,
            went_out=total,
            **lost,
            moved=listed(each(relevance.abs())),
            misplaced=self.misplaced(image, "", relevance),
        )

    def send(self, receiver: fx.Node, flow: str, part: torch.Tensor | None) -> None:
        """Add what a layer sends to one of its operands; None where that isn't known."""
        # flows meet in the inputs
        key = ("" if receiver in self.images else flow, receiver)
        before = self.arrived.get(key, (0.0, 0.0))
        if before is None or part is None:
            self.arrived[key] = None
        else:
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
