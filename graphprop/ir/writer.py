"""Writing nodes: values that rules compute with, and the writer that infers facts.

Arithmetic with values, and calls of operators on them, write nodes into the writer's graph:

>>> writer = Writer(network)
>>> x = writer.placeholder("x", torch.empty(BATCH, 3, device="meta"))
>>> y = Relu()(x) * 2.0
>>> network.graph.output(y.node)

So a rule that is written once, as a function of ``layer``, ``x`` and ``r``, runs on tensors, and
writes the graph that computes it where it is called with values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import fx

from graphprop.errors import MethodError, VerificationError
from graphprop.ir.facts import BATCH, facts_of, has_shape, range_of, shape_of, sign_of, where
from graphprop.ir.interval import UNBOUNDED, Interval, Sign
from graphprop.ir.names import RESERVED, identifier, tensor_name
from graphprop.ir.network import Network
from graphprop.ir.operation import Operation, Shape, reserved_names

Operand: TypeAlias = "Value | torch.Tensor | float | int"
"""What an operator is applied to while nodes are written: a value, a tensor of the network, which
becomes one, or a number."""

Argument: TypeAlias = "fx.Node | float | int"
"""What stands in the arguments of a node that has been written: a node or a number."""


class Value(fx.Proxy):
    """A node being written: what rules and capture functions compute with.

    Arithmetic with ``+ - * /`` and calls of graphprop's operators write nodes.
    """

    tracer: Writer

    @property
    def shape(self) -> Shape:
        """The shape, -1 standing for the batch."""
        return shape_of(self.node)

    @property
    def dtype(self) -> torch.dtype:
        """The data type."""
        dtype: torch.dtype = facts_of(self.node).value.dtype
        return dtype

    @property
    def sign(self) -> Sign:
        """Which signs the entries can have."""
        return sign_of(self.node)

    def __getattr__(self, name: str) -> Any:
        raise MethodError(
            f"a value being compiled has no {name!r}: rules compute with + - * / and the "
            "functions of graphprop.ops"
        )


ARITHMETIC: dict[Callable[..., object], Callable[..., Value]] = {operator.pos: lambda value: value}
"""What ``+ - * /`` between values write; `graphprop.ops.elementwise` registers its operators."""


class Writer(fx.proxy.GraphAppendingTracer):
    """Writes nodes into a network's graph, inferring their facts."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.graph)
        self.network = network
        self.facts: dict[str, Any] = {}
        self.prefix = ""
        self._names = {node.name for node in network.graph.nodes} | RESERVED
        self._names |= reserved_names()
        self._tensor_names = {id(tensor): name for name, tensor in network.tensors.items()}
        self._attributes = {
            node.target: node for node in network.graph.nodes if node.op == "get_attr"
        }

    @contextmanager
    def at(self, prefix: str = "", **facts: Any) -> Iterator[None]:
        """Give every node written in a block some facts, and names that begin with ``prefix``."""
        before = self.facts, self.prefix
        self.facts, self.prefix = {**self.facts, **facts}, prefix or self.prefix
        try:
            yield
        finally:
            self.facts, self.prefix = before

    def unique(self, name: str) -> str:
        """Make an identifier of ``name`` that nothing else in the graph has."""
        stem = candidate = identifier(name)
        count = 0
        while candidate in self._names:
            count += 1
            candidate = f"{stem}_{count}"
        self._names.add(candidate)
        return candidate

    def placeholder(self, name: str, value: torch.Tensor, range: Interval = UNBOUNDED) -> Value:
        """Add an input; ``value`` is a meta tensor of BATCH samples."""
        self._names.add(name)
        node = self.graph.create_node("placeholder", name, name=name)
        facts_of(node).update(value=value, batched=True, varies=True, range=range, label=name)
        return Value(node, self)

    def value(self, node: fx.Node) -> Value:
        """Return a node of the graph as a value to compute with."""
        return Value(node, self)

    def values(self, operands: Iterable[Argument]) -> list[Value | float]:
        """Return arguments of a node as operands to compute with: numbers stay what they are."""
        return [Value(a, self) if isinstance(a, fx.Node) else a for a in operands]

    def tensor(self, tensor: torch.Tensor, name: str = "constant") -> Value:
        """Refer to a tensor, adding it to the network under ``name`` where it is new."""
        known = self._tensor_names.get(id(tensor))
        # the id may be that of another tensor, which has been freed since
        if known is None or self.network.tensors.get(known) is not tensor:
            stem = known = tensor_name(name)
            count = 0
            while known in self.network.tensors:
                count += 1
                known = f"{stem}_{count}"
            self.network.tensors[known] = tensor
            self._tensor_names[id(tensor)] = known
        return self.attribute(known)

    def register(self, tensor: torch.Tensor, name: str) -> None:
        """Make a tensor of the model known by its own name."""
        self.network.tensors.setdefault(tensor_name(name), tensor)
        self._tensor_names.setdefault(id(tensor), tensor_name(name))

    def attribute(self, name: str) -> Value:
        """Refer to the network's tensor ``name``."""
        node = self._attributes.get(name)
        if node is None or node.graph is not self.graph or node._erased:
            first = next((n for n in self.graph.nodes if n.op != "get_attr"), None)
            with self.graph.inserting_before(first) if first else nullcontext():
                node = self.graph.create_node("get_attr", name, name=self.unique(name))
            tensor = self.network.tensors[name]
            facts_of(node).update(value=tensor.to("meta"), label=name)
            self._attributes[name] = node
        return Value(node, self)

    def write(
        self, target: Operation, operands: tuple[Operand, ...], name: str | None = None
    ) -> Value:
        """Add a node that calls ``target``."""
        arguments = tuple(
            self._operand(operand, target, index) for index, operand in enumerate(operands)
        )
        if name is None:
            stem = self.prefix
            values = [a for a in arguments if isinstance(a, fx.Node)]
            if values and not any(facts_of(v).batched for v in values):
                stem = values[0].name
            name = f"{stem}_{target.__name__}" if stem else target.__name__
        wanted = self.unique(name)
        node = self.graph.create_node("call_function", target, arguments, {}, name=wanted)
        if node.name != wanted and node.name in self._names:
            # torch.fx counts names by itself, and doesn't know those that `rename` gave
            node.name = wanted
        self._names.add(node.name)
        facts_of(node).update(**self.facts)
        infer(node)
        return Value(node, self)

    def rename(self, value: Value, name: str) -> Value:
        """Give a value a better name, unless it is an input."""
        if value.node.op == "call_function":
            self._names.discard(value.node.name)
            value.node.name = self.unique(name)
            facts_of(value.node).named = True
        return value

    def take_name(self, node: fx.Node, other: fx.Node) -> None:
        """Give a node the name of another that is about to disappear."""
        name = other.name
        self._names.discard(node.name)
        node.name, other.name = name, self.unique(f"{name}_old")
        facts_of(node).named |= facts_of(other).named

    def _operand(self, operand: Operand, target: Operation, index: int) -> Argument:
        if isinstance(operand, Value):
            return operand.node
        if isinstance(operand, torch.Tensor):
            path = self.facts.get("path") or self.facts.get("label") or target.__name__
            return self.tensor(operand, f"{path}.{target.operand_name(index)}").node
        return operand

    def create_proxy(
        self,
        kind: str,
        target: Callable[..., object] | str,
        args: tuple[Operand, ...],
        kwargs: dict[str, Operand],
        *rest: object,
        **named: object,
    ) -> Value:
        """Translate what is applied to a `Value` into graphprop's operators."""
        if kind == "call_function" and not isinstance(target, str) and not kwargs:
            written = ARITHMETIC.get(target)
            if written is not None:
                return written(*args)
        name = target if isinstance(target, str) else getattr(target, "__name__", target)
        raise MethodError(
            f"a value being compiled can't go through {name!r}: rules compute with + - * / and "
            "the functions of graphprop.ops"
        )


RESULTS: dict[object, torch.Tensor | tuple[torch.Tensor, ...]] = {}
"""What operators returned on the meta device.

A network applies few operators to few shapes, again and again, and running torch on the meta device
is most of the time that a compile takes.
"""

MOST_RESULTS = 4096
"""The number of results after which they are forgotten: more than a network of a thousand layers
has, and a few megabytes."""


def result_on_meta(
    target: Operation, operands: list[torch.Tensor | float]
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Run an operator on the meta device, or return what it returned for such operands before."""
    try:
        # 1, 1.0 and True are equal, and lead to different types of the result
        fields = tuple((type(field), field) for field in vars(target).values())
        key = (type(target), fields, tuple(map(metadata, operands)))
        found = RESULTS.get(key)
    except TypeError:
        # an operator whose fields can't be hashed
        return target.run(*operands)
    if found is None:
        if len(RESULTS) >= MOST_RESULTS:
            RESULTS.clear()
        found = RESULTS[key] = target.run(*operands)
    return found


def metadata(operand: torch.Tensor | float) -> tuple[object, ...]:
    """Return all that the result of an operator on the meta device can depend on."""
    if isinstance(operand, torch.Tensor):
        return (operand.shape, operand.stride(), operand.dtype)
    return (type(operand), operand)


def infer(node: fx.Node) -> None:
    """Infer a node's value, batch and range from those of its operands.

    Raises
    ------
    VerificationError
        If the operator can't be applied to its operands, or moves the batch.
    """
    target = node.target
    values = [facts_of(a).value if isinstance(a, fx.Node) else a for a in node.args]
    shapes = [shape_of(a) for a in node.args if isinstance(a, fx.Node) and has_shape(a)]
    complaint = target.verify(*shapes)
    if complaint:
        raise VerificationError(f"{target} at {where(node)}: {complaint}")
    try:
        value = result_on_meta(target, values)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise VerificationError(f"{target} at {where(node)}, operands {shapes}: {error}") from error
    nodes = [a for a in node.args if isinstance(a, fx.Node)]
    batched = any(facts_of(a).batched for a in nodes)
    varies = not target.piecewise_constant and any(facts_of(a).varies for a in nodes)
    for part in value if isinstance(value, tuple) else (value,):
        if batched and (part.dim() == 0 or part.shape[0] != BATCH):
            raise VerificationError(
                f"{target} at {where(node)} moves the batch away from the first axis, "
                f"giving {tuple('N' if d == BATCH else d for d in part.shape)}"
            )
    found = target.interval_at(shapes, *map(range_of, node.args))
    facts_of(node).update(value=value, batched=batched, varies=varies, range=found)
