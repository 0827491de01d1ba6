"""The intermediate representation: a ``torch.fx.Graph`` of graphprop's operators, and its facts.

A :class:`Network` is a graph and the tensors it refers to. Every node carries facts in
``node.meta``:

========== ==========================================================================
``value``   a tensor on the meta device: shape and dtype, with `BATCH` samples
``batched`` whether the value depends on the input (its axis 0 is then the batch)
``varies``  whether a small change of the input changes it: masks and indices only step
``range``   an interval that its entries lie in, whatever the input is
``layout``  which of its axes hold channels and which places, from `passes.infer_layouts`
``path``    the user's module path the node comes from, ``""`` for the root
``label``   the name shown to the user: the path, made unique
``line``    the user's source line, ``file:number``
``kind``    the class of the user's module
``roles``   what the layer is for, from `passes.tag_roles`
``pooled``  whether an average pooling that changed nothing was left out behind it
``signal``  the operands that relevance flows to, from `passes.tag_roles`
``depth``   how many weighted and pooling layers lie before it
``rule``    how relevance is carried through it, from `passes.assign_rules`; None: not at all
``middle``  whether the method makes its map there, from `passes.find_layer`
``above``   whether it lies between there and the logits
``section`` in a lowered graph: the heading it is printed under
``named``   whether its name was given on purpose
``records`` in a lowered graph: the label of the layer whose relevance (or result) it is
========== ==========================================================================

Nodes are written through a :class:`Writer`, which infers value, batch and range as it goes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from graphprop.errors import MethodError, VerificationError
from graphprop.ops import elementwise
from graphprop.ops.base import Operator, Shape, functions_of_source
from graphprop.ops.interval import UNBOUNDED, Interval, Sign
from graphprop.ops.layout import Layout

if TYPE_CHECKING:
    from graphprop.sampling import Samples

BATCH = 7919
"""The batch size that stands for "any" while shapes are inferred: a prime no layer size has."""

FACTS = ("path", "label", "line", "kind", "roles", "signal", "depth", "rule", "section")

RESERVED = frozenset(
    [
        "x",
        "target",
        "logits",
        "relevance",
        "self",
        "torch",
        "F",
        "Explainer",
        "load",
        "weights",
        "derive",
        "recorded",
        "single",
        "sample_scale",
        "sample_offset",
        "sample_weight",
        "sample_baseline",
    ]
)


class Place(int):
    """Which of a network's nodes an operand is, while the network is pickled."""


@dataclass
class Network:
    """A graph at one level of the compiler, with its tensors and the notes made on the way.

    Attributes
    ----------
    graph
        The nodes. Inputs are placeholders, tensors are ``get_attr`` nodes naming an entry of
        `tensors`, everything else calls an `Operator`. The output is the logits, or in a lowered
        graph ``(logits, relevance, {label: relevance of that layer's result})``, where relevance is
        a tuple if there are several inputs.
    tensors
        Parameters, buffers and constants by name.
    level
        ``"canonical"``, ``"lowered"``, ``"torch"`` or ``"onnx"``.
    notes
        What the user should know: softmax removed, model put into evaluation mode ...
    decisions
        What was done with each batch norm, and why, by its label.
    tail
        What stood at the end from a removed softmax or sigmoid on, in order: each operator, and
        its operands behind the first. Its rearrangements (a selection of classes) are still there.
    output_name
        Which of the model's results is explained; empty where it returns but one.
    samples
        In a lowered graph: the inputs whose maps are averaged, if the map is such a mean.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    level: str = "canonical"
    notes: list[str] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)
    tail: tuple[tuple[Operator, tuple[Any, ...]], ...] = ()
    output_name: str = ""
    samples: Samples | None = None

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders, in the order of the model's arguments."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def output(self) -> fx.Node:
        """The output node."""
        return next(node for node in reversed(self.graph.nodes) if node.op == "output")

    @property
    def layers(self) -> list[fx.Node]:
        """The operator nodes in the order of computation."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def weighted(self) -> list[fx.Node]:
        """The layers with weights, in the order of computation."""
        return [node for node in self.layers if node.target.weighted]

    @property
    def logits_before_tail(self) -> fx.Node:
        """In a canonical network: what the `tail` was applied to."""
        node = self.output.args[0]
        for target, _ in reversed(self.tail):
            if target.relevance == "rearrange":
                assert node.target == target
                node = node.args[0]
        return node

    def with_tail(self, logits: torch.Tensor) -> torch.Tensor:
        """The model's own result, the `tail` applied to the logits in front of it."""
        for target, rest in self.tail:
            logits = target.run(logits, *rest)
        return logits

    @property
    def middle(self) -> fx.Node | None:
        """The layer at which the method makes its map, from `passes.find_layer`."""
        return next((node for node in self.layers if node.meta.get("middle")), None)

    @property
    def maps(self) -> tuple[fx.Node, ...]:
        """In a lowered graph: the relevance of each input."""
        results: Any = self.output.args[0]
        return results[1] if isinstance(results[1], tuple) else (results[1],)

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        """All tensors that the explainer needs: the network's, and those of its samples."""
        return self.tensors if self.samples is None else self.tensors | self.samples.tensors

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The tensor that a ``get_attr`` node names."""
        return self.tensors[node.target]

    def __getstate__(self) -> dict[str, Any]:
        """The graph as a list of its nodes: pickled by their links, they would nest too deep."""
        nodes = list(self.graph.nodes)
        places = {node: Place(index) for index, node in enumerate(nodes)}
        listed = [
            (node.op, node.target, fx.map_arg(node.args, places.__getitem__), node.name, node.meta)
            for node in nodes
        ]
        return {**self.__dict__, "graph": listed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the graph of the list again."""
        self.__dict__.update(state)
        self.graph = fx.Graph()
        nodes: list[fx.Node] = []
        for op, target, args, name, meta in state["graph"]:
            args = fx.node.map_aggregate(args, lambda a: nodes[a] if isinstance(a, Place) else a)
            node = self.graph.create_node(op, target, args, name=name)
            node.name, node.meta = name, meta
            nodes.append(node)

    def copy(self) -> Network:
        """Copy the graph and its facts; tensors are shared."""
        graph = fx.Graph()
        mapping: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self.graph, mapping)
        graph.output(result)
        names = {node.name for node in self.graph.nodes}
        copied = replace(
            self,
            graph=graph,
            tensors=dict(self.tensors),
            notes=list(self.notes),
            decisions=dict(self.decisions),
        )
        assert {node.name for node in graph.nodes} <= names | {"output"}
        return copied


def shape_of(node: fx.Node) -> Shape:
    """The shape of a node's value, -1 standing for the batch."""
    size = tuple(node.meta["value"].shape)
    return (-1, *size[1:]) if node.meta["batched"] else size


def facts_of(node: fx.Node) -> dict[str, Any]:
    """The facts about where a node comes from, to hand on to nodes made for it."""
    return {key: node.meta[key] for key in FACTS if key in node.meta}


def where(node: fx.Node) -> str:
    """Name a node in the user's terms, for messages."""
    named = repr(node.meta.get("label") or node.name)
    line = node.meta.get("line")
    return f"{named} ({line})" if line else named


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
        dtype: torch.dtype = self.node.meta["value"].dtype
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


ARITHMETIC: dict[Any, Callable[..., Any]] = {
    operator.add: elementwise.Add(),
    operator.sub: elementwise.Subtract(),
    operator.mul: elementwise.Multiply(),
    operator.truediv: elementwise.Divide(),
    operator.neg: elementwise.Negate(),
    operator.pos: lambda value: value,
}


class Writer(fx.proxy.GraphAppendingTracer):
    """Writes nodes into a network's graph, inferring their facts."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.graph)
        self.network = network
        self.facts: dict[str, Any] = {}
        self.prefix = ""
        self._names = {node.name for node in network.graph.nodes} | RESERVED
        self._names |= functions_of_source()
        self._tensor_names = {id(tensor): name for name, tensor in network.tensors.items()}
        self._attributes = {
            node.target: node for node in network.graph.nodes if node.op == "get_attr"
        }

    @contextmanager
    def at(self, prefix: str = "", **facts: Any) -> Iterator[None]:
        """Give every node written inside these facts, and names that begin with ``prefix``."""
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
        node.meta.update(value=value, batched=True, varies=True, range=range, label=name, path="")
        return Value(node, self)

    def tensor(self, tensor: torch.Tensor, name: str = "constant") -> Value:
        """Refer to a tensor, adding it to the network under ``name`` where it is new."""
        known = self._tensor_names.get(id(tensor))
        # an identity may have belonged to a tensor that is gone: believe it only if it holds
        if known is None or self.network.tensors.get(known) is not tensor:
            stem = known = storable(name)
            count = 0
            while known in self.network.tensors:
                count += 1
                known = f"{stem}_{count}"
            self.network.tensors[known] = tensor
            self._tensor_names[id(tensor)] = known
        return self.attribute(known)

    def register(self, tensor: torch.Tensor, name: str) -> None:
        """Make a tensor of the model known by its own name."""
        self.network.tensors.setdefault(storable(name), tensor)
        self._tensor_names.setdefault(id(tensor), storable(name))

    def attribute(self, name: str) -> Value:
        """Refer to the network's tensor ``name``."""
        node = self._attributes.get(name)
        if node is None or node.graph is not self.graph or node._erased:
            first = next((n for n in self.graph.nodes if n.op != "get_attr"), None)
            with self.graph.inserting_before(first) if first else nullcontext():
                node = self.graph.create_node("get_attr", name, name=self.unique(name))
            tensor = self.network.tensors[name]
            node.meta.update(value=tensor.to("meta"), batched=False, range=UNBOUNDED, path="")
            node.meta.update(label=name, varies=False)
            self._attributes[name] = node
        return Value(node, self)

    def write(self, target: Operator, operands: tuple[Any, ...], name: str | None = None) -> Value:
        """Add a node that calls ``target``."""
        arguments = tuple(
            self._operand(operand, target, index) for index, operand in enumerate(operands)
        )
        if name is None:
            stem = self.prefix
            values = [a for a in arguments if isinstance(a, fx.Node)]
            if values and not any(v.meta["batched"] for v in values):
                stem = values[0].name
            name = f"{stem}_{target.__name__}" if stem else target.__name__
        wanted = self.unique(name)
        node = self.graph.create_node("call_function", target, arguments, {}, name=wanted)
        if node.name != wanted and node.name in self._names:
            # fx counts by itself, and doesn't know the names that `rename` gave
            node.name = wanted
        self._names.add(node.name)
        node.meta.update(self.facts)
        infer(node)
        return Value(node, self)

    def rename(self, value: Value, name: str) -> Value:
        """Give a value a better name, unless it is an input."""
        if value.node.op == "call_function":
            self._names.discard(value.node.name)
            value.node.name = self.unique(name)
            value.node.meta["named"] = True
        return value

    def take_name(self, node: fx.Node, other: fx.Node) -> None:
        """Give a node the name of another that is about to disappear."""
        name = other.name
        self._names.discard(node.name)
        node.name, other.name = name, self.unique(f"{name}_old")
        if "named" in other.meta:
            node.meta["named"] = True

    def _operand(self, operand: Any, target: Operator, index: int) -> Any:
        if isinstance(operand, fx.Proxy):
            return operand.node
        if isinstance(operand, torch.Tensor):
            path = self.facts.get("path") or self.facts.get("label") or target.__name__
            return self.tensor(operand, f"{path}.{target.operand_name(index)}").node
        return operand

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any
    ) -> Any:
        """Translate what is applied to a `Value` into graphprop's operators."""
        if kind == "call_function" and target in ARITHMETIC and not kwargs:
            return ARITHMETIC[target](*args)
        name = target if isinstance(target, str) else getattr(target, "__name__", target)
        raise MethodError(
            f"a value being compiled can't go through {name!r}: rules compute with + - * / and "
            "the functions of graphprop.ops"
        )


def infer(node: fx.Node) -> None:
    """Work out a node's value, batch and range from its operands'."""
    target = node.target
    values = [a.meta["value"] if isinstance(a, fx.Node) else a for a in node.args]
    shapes = [shape_of(a) for a in node.args if isinstance(a, fx.Node) and has_shape(a)]
    complaint = target.verify(*shapes)
    if complaint:
        raise VerificationError(f"{target} at {where(node)}: {complaint}")
    try:
        value = target.run(*values)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise VerificationError(f"{target} at {where(node)}, operands {shapes}: {error}") from error
    nodes = [a for a in node.args if isinstance(a, fx.Node)]
    batched = any(a.meta["batched"] for a in nodes)
    varies = not target.piecewise_constant and any(a.meta["varies"] for a in nodes)
    for part in value if isinstance(value, tuple) else (value,):
        if batched and (part.dim() == 0 or part.shape[0] != BATCH):
            raise VerificationError(
                f"{target} at {where(node)} moves the batch away from the first axis, "
                f"giving {tuple('N' if d == BATCH else d for d in part.shape)}"
            )
    found = target.interval_at(shapes, *map(range_of, node.args))
    node.meta.update(value=value, batched=batched, varies=varies, range=found)


def has_shape(node: fx.Node) -> bool:
    """Whether a node stands for one tensor (and not for several results)."""
    return isinstance(node.meta["value"], torch.Tensor)


def range_of(operand: Any) -> Interval:
    """The range of an operand: a node or a number."""
    if isinstance(operand, fx.Node):
        found: Interval = operand.meta["range"]
        return found
    return Interval.of(operand)


def sign_of(operand: Any) -> Sign:
    """The signs of an operand: a node or a number."""
    return range_of(operand).sign


def layout_of(node: fx.Node) -> Layout | None:
    """The layout of a node's value; None where it does not depend on the input."""
    found: Layout | None = node.meta.get("layout")
    return found


def identifier(name: str) -> str:
    """Make an ASCII identifier from any text: short, no keyword, no leading underscore."""
    cleaned = re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_")[:60].rstrip("_")
    if not cleaned or cleaned[0].isdigit():
        cleaned = f"layer_{cleaned}".rstrip("_")
    return cleaned + "_" if is_keyword(cleaned) else cleaned


def storable(name: str) -> str:
    """A tensor's name as a weight file can hold it: whole characters, and not its header's key."""
    whole = name.encode("utf-8", "backslashreplace").decode()
    return "metadata" if whole == "__metadata__" else whole


def is_keyword(name: str) -> bool:
    """Whether Python gives the name a meaning of its own."""
    import builtins
    import keyword

    return keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name)


def verify(network: Network) -> None:
    """Check that a network holds only what its level allows, with every fact in place.

    Raises
    ------
    VerificationError
        Naming the node and what is wrong with it.
    """
    network.graph.lint()
    for node in network.graph.nodes:
        if node.op == "output":
            continue
        if node.op not in ("placeholder", "get_attr", "call_function"):
            raise VerificationError(f"{node.name}: a {node.op} node has no place in a network")
        if node.op == "get_attr" and node.target not in network.tensors:
            raise VerificationError(f"{node.name}: there is no tensor {node.target!r}")
        if node.op == "call_function":
            if not isinstance(node.target, Operator):
                raise VerificationError(f"{node.name}: {node.target} is not an operator")
            if network.level not in node.target.levels:
                raise VerificationError(
                    f"{node.name}: {node.target.__name__} is not in the {network.level} vocabulary"
                )
        for fact in ("value", "batched", "range"):
            if fact not in node.meta:
                raise VerificationError(f"{node.name}: the fact {fact!r} is missing")


def show(network: Network) -> str:
    """Print a network, a node a line: name, operator, operands, shape, sign and facts."""
    lines = [f"# {network.level}"]
    for node in network.graph.nodes:
        if node.op == "output":
            logits, *rest = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            lines.append("return " + ", ".join(str(part) for part in (logits, *rest[:1])))
            continue
        operands = ", ".join(str(a) for a in node.args)
        what = f"{node.target}" if node.op == "call_function" else node.op
        if node.op == "get_attr":
            what = f"tensor {node.target!r}"
        size = shape_of(node) if has_shape(node) else "several"
        facts = [str(sign_of(node))]
        if node.meta.get("roles"):
            facts.append("/".join(sorted(node.meta["roles"])))
        if node.meta.get("rule") is not None:
            facts.append(str(node.meta["rule"]))
        line = f"{node.name} = {what}({operands})" if operands else f"{node.name} = {what}"
        lines.append(f"{line}  # {size} {' | '.join(facts)}")
    return "\n".join(lines) + "\n"
