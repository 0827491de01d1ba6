"""Emit Python: a legal network as readable, stand-alone torch source.

Nothing from the user's model becomes code unescaped: identifiers are the nodes' names, made of
ASCII letters; raw paths appear through ``ascii`` alone; comments are escaped and one line long. The
finished source is formatted, parsed, and its calls compared with what may be called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import fx

from graphprop.emit.source import check_calls, formatted, functions_of, text_of_function
from graphprop.emit.templates import FORWARD_DOC, HEADER, LOAD, REFRESHING, SINGLE_DOC
from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.ir.samples import Samples
from graphprop.ops import Add, Conv, Divide, Item, Multiply, Negate, Subtract

INFIX = (Add, Subtract, Multiply, Divide, Negate)
WIDEST_INLINE = 72
CHANNELS_LAST = "torch.channels_last"


@dataclass
class PythonModule:
    """The generated source, and where to find each layer's values in it.

    Attributes
    ----------
    source
        The text of ``explainer.py``.
    results, relevances
        Layer's label -> the name of the local variable of ``forward`` that holds its result,
        or the relevance of its result.
    """

    source: str
    results: dict[str, str] = field(default_factory=dict)
    relevances: dict[str, str] = field(default_factory=dict)


def to_python(
    network: Network,
    *,
    title: str,
    summary: str,
    version: str,
    record: Mapping[str, fx.Node] | None = None,
) -> PythonModule:
    """Print a network at level ``torch``.

    Parameters
    ----------
    title, summary
        What the module's docstring says.
    record
        Label -> relevance node: kept in ``self.recorded`` by every call.

    Raises
    ------
    VerificationError
        If the finished source calls anything that it may not.
    OperatorError
        If an operator's helpers can't stand in it.
    """
    printer = Printer(network, record or {})
    body = printer.body()
    operators = [node.target for node in network.layers]
    sampled = ("check_target", "mean_over_samples", "target_of") if network.samples else ()
    functions = functions_of(operators, "check_input", "check_weights", *sampled)
    relevances = network.output.args[0][2]
    parts = [
        HEADER.format(title=comment(title), summary=comment(summary), version=version),
        *map(text_of_function, functions.values()),
        printer.class_text(body),
        LOAD,
    ]
    source = formatted("\n\n".join(parts))
    methods = {method for operator in operators for method in operator.calls}
    check_calls(source, {*functions, "explain"} if network.samples else functions, methods)
    results = {
        records: printer.names[node]
        for node in network.layers
        if (records := facts_of(node).records) is not None and node in printer.names
    }
    return PythonModule(
        source, results, {label: printer.names[node] for label, node in relevances.items()}
    )


class Printer:
    """Prints the nodes of one network."""

    def __init__(self, network: Network, record: Mapping[str, fx.Node]) -> None:
        self.network = network
        self.record = record
        self.logits, _, self.relevances = network.output.args[0]
        self.maps = network.maps
        self.kept = {self.logits, *self.maps, *self.relevances.values()}
        self.names = self._names()
        self.inlined: dict[fx.Node, str] = {}
        self.compound: set[fx.Node] = set()

    def _names(self) -> dict[fx.Node, str]:
        """The variable of each node; weights are attributes of the module."""
        names: dict[fx.Node, str] = {}
        taken = {node.name for node in self.network.graph.nodes}
        for node in self.network.graph.nodes:
            if node.op == "output":
                continue
            if node.op == "placeholder":
                names[node] = node.name
            elif not facts_of(node).batched:
                name = node.name
                while hasattr(torch.nn.Module, name) or name in ("training", "recorded"):
                    name += "_"
                names[node] = name if self._is_temporary(node) else f"self.{name}"
            elif isinstance(node.target, Item) and node.target.index > 0:
                names[node] = f"{self._first_item(node.args[0])}_indices"
            else:
                names[node] = node.name
        for number, node in enumerate(self.maps, 1):
            name = "relevance" if number == 1 else f"relevance_{number}"
            if node.op == "call_function" and name not in taken:
                names[node] = name
        return names

    def _first_item(self, pair: fx.Node) -> str:
        first = [user for user in pair.users if user.target == Item(0)]
        return first[0].name if first else pair.name

    def body(self) -> list[str]:
        """The statements of ``forward``, with headings, and what is no longer needed deleted."""
        nodes = [n for n in self.network.layers if facts_of(n).batched]
        last_use = self._last_uses(nodes)
        lines: list[str] = []
        heading = None
        pending: list[str] = []
        for node in nodes:
            section, statement = heading_of(node), self._statement(node)
            if statement and section is not None and section != heading:
                lines += self._deleted(pending)
                pending = []
                lines += ["", f"# {comment(section)}"]
                heading = section
            lines += statement
            pending += [self.names[dead] for dead in last_use.get(node, ())]
        return lines

    def _deleted(self, names: list[str]) -> list[str]:
        return [f"del {', '.join(names)}"] if names else []

    def _last_uses(self, nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
        """For each node, the variables that nothing behind it needs."""
        self._choose_inlined(nodes)
        seen: set[fx.Node] = set()
        result: dict[fx.Node, list[fx.Node]] = {}
        returned = {self.logits, *self.maps, *self.record.values()}
        for node in reversed(nodes):
            for operand in self._variables(node):
                if operand not in seen:
                    seen.add(operand)
                    if operand.op == "call_function" and operand not in returned:
                        result.setdefault(node, []).append(operand)
        for node in result:
            result[node].sort(key=nodes.index)
        return result

    def _variables(self, node: fx.Node) -> Iterator[fx.Node]:
        """The variables that a node's statement reads, those of inlined operands included."""
        if node in self.inlined:
            return
        for operand in node.all_input_nodes:
            if operand in self.inlined:
                yield from self._inner_variables(operand)
            elif facts_of(operand).batched and not isinstance(facts_of(operand).value, tuple):
                yield operand

    def _inner_variables(self, node: fx.Node) -> Iterator[fx.Node]:
        for operand in node.all_input_nodes:
            if operand in self.inlined:
                yield from self._inner_variables(operand)
            elif facts_of(operand).batched:
                yield operand

    def _choose_inlined(self, nodes: list[fx.Node]) -> None:
        """Nest an expression in the one statement that uses it, where it stays short."""
        for node in nodes:
            users = list(node.users)
            if not node.target.inline or node in self.kept or len(users) != 1:
                continue
            user = users[0]
            if user.op == "output" or heading_of(user) not in (heading_of(node), None):
                continue
            text = self.expression(node)
            if len(text) <= WIDEST_INLINE:
                self.inlined[node] = text
                if isinstance(node.target, INFIX):
                    self.compound.add(node)

    def expression(self, node: fx.Node) -> str:
        """The source of one node, inlined operands nested in it."""
        marks = [f"\0{index}\0" for index in range(len(node.args))]
        text = node.target.source(*marks)
        for mark, operand in zip(marks, node.args, strict=True):
            text = re.sub(mark, partial(self._operand, operand), text)
        return text

    def _operand(self, operand: Any, found: re.Match[str]) -> str:
        if not isinstance(operand, fx.Node):
            return f"({operand!r})" if operand < 0 else repr(operand)
        if operand not in self.inlined:
            return self.names[operand]
        text = self.inlined[operand]
        before, after = found.string[: found.start()], found.string[found.end() :]
        alone = before.endswith(("(", ", ", "[")) and after.startswith((")", ",", "]"))
        return text if alone or operand not in self.compound else f"({text})"

    def _statement(self, node: fx.Node) -> list[str]:
        if node in self.inlined or isinstance(node.target, Item):
            return []
        if isinstance(facts_of(node).value, tuple):
            items = {user.target.index: self.names[user] for user in node.users}
            targets = ", ".join(items.get(i, "_") for i in range(len(facts_of(node).value)))
            return [f"{targets} = {self.expression(node)}"]
        return [f"{self.names[node]} = {self.expression(node)}"]

    def class_text(self, body: list[str]) -> str:
        """The class with its buffers and ``forward``."""
        shapes = "\n        ".join(f"{node.name}: {text_of(node)}" for node in self.images)
        fields = {"shapes": shapes, "logits": text_of(self.logits)}
        given = ", ".join(node.name for node in self.images)
        stored = {name: tuple(tensor.shape) for name, tensor in self.network.stored.items()}
        lines = [
            "SHAPES = {",
            *(f"    {name!a}: {shape}," for name, shape in stored.items()),
            "}",
            "",
            "",
            "class Explainer(torch.nn.Module):",
            '    """Logits and the relevance of every entry of the input."""',
            "",
            "    def __init__(self, weights):",
            "        super().__init__()",
            "        check_weights(weights, SHAPES)",
        ]
        for node in self.network.graph.nodes:
            if node.op == "get_attr":
                name = self.names[node].removeprefix("self.")
                lines.append(f"        self.register_buffer({name!r}, weights[{node.target!a}])")
        samples = self.network.samples
        if samples is not None:
            for name in samples.tensors:
                attribute = name.rpartition(".")[2]
                lines.append(f"        self.register_buffer({attribute!r}, weights[{name!r}])")
        lines += indented(self.deriving())
        if samples is not None:
            lines += ["", *indented(self.averaging(samples))]
        name = "forward" if samples is None else "single"
        doc = FORWARD_DOC if samples is None else SINGLE_DOC
        lines += [
            "",
            f"    def {name}(self, {given}, target{'=None' * (samples is None)}):",
            "        " + doc.format(**fields),
            *(indented(self.checks(), 2) if samples is None else ()),
            *(
                f"        {node.name} = {node.name}.contiguous(memory_format={CHANNELS_LAST})"
                for node in self.images
                if self.is_planar() and len(facts_of(node).value.shape) == 4
            ),
            *indented(body, 2),
        ]
        if self.record:
            recorded = ", ".join(
                f"{label!a}: {self.names[node]}" for label, node in self.record.items()
            )
            lines.append(f"        self.recorded = {{{recorded}}}")
        lines.append("")
        maps = [f"{self.names[node]}.contiguous()" for node in self.maps]
        returned = maps[0] if len(maps) == 1 else f"({', '.join(maps)})"
        lines.append(f"        return {self.names[self.logits]}, {returned}")
        return "\n".join(lines)

    def deriving(self) -> list[str]:
        """The end of ``__init__`` and the methods that compute what follows from the weights."""
        lines = []
        for node in self.network.layers:
            if facts_of(node).batched:
                continue
            value, name = self.expression(node), self.names[node]
            if self._is_temporary(node):
                lines.append(f"    {name} = {value}")
            else:
                name = name.removeprefix("self.")
                lines.append(f"    self.register_buffer({name!r}, {value}, persistent=False)")
        if self.is_planar():
            lines += [
                "    for name, tensor in self._buffers.items():",
                "        if tensor.dim() == 4:",
                f"            tensor = tensor.contiguous(memory_format={CHANNELS_LAST})",
                "            self._buffers[name] = tensor",
            ]
        if not lines:
            return []
        return [
            "    self.derive()",
            "",
            "def derive(self):",
            '    """Compute what follows from the weights; again whenever these change."""',
            *lines,
            *REFRESHING.splitlines(),
        ]

    def checks(self) -> list[str]:
        """The statements that refuse inputs of another kind than the network was compiled for."""
        weights = (n for n in self.network.graph.nodes if n.op == "get_attr")
        floating = [self.names[n] for n in weights if facts_of(n).value.is_floating_point()]
        lines = []
        for node in self.images:
            value = facts_of(node).value
            dtype = str(value.dtype)
            if value.is_floating_point() and floating:
                dtype = f"{floating[0]}.dtype"
            count = "" if node is self.images[0] else f", {self.images[0].name}.shape[0]"
            lines.append(f"check_input({node.name}, {tuple(value.shape[1:])}, {dtype}{count})")
        return lines

    def averaging(self, samples: Samples) -> list[str]:
        """The ``forward`` of a map that is a mean over samples."""
        fields = {"shapes": f"x: {text_of(self.images[0])}", "logits": text_of(self.logits)}
        lines = [
            "def forward(self, x, target=None):",
            "    " + FORWARD_DOC.format(**fields).replace("\n    ", "\n"),
            *indented(self.checks()),
            "    logits, _ = self.single(x, target)",
            *["    recorded = self.recorded"] * bool(self.record),
            "    relevance = mean_over_samples(",
            "        self.single, x, target_of(target, logits), self.sample_scale,",
            f"        self.sample_offset, self.sample_weight, {samples.chunk},",
            "    )",
        ]
        if samples.baseline is not None:
            lines.append("    relevance = relevance * (x - self.sample_baseline)")
        lines += ["    self.recorded = recorded"] * bool(self.record)
        return [*lines, "    return logits, relevance"]

    @property
    def images(self) -> list[fx.Node]:
        """The model's inputs."""
        return [node for node in self.network.inputs if node.name != "target"]

    def is_planar(self) -> bool:
        """Whether the network has two-dimensional convolutions.

        On a CPU they run up to a third faster with the channels last in memory, where nothing
        needs reordering between them.
        """
        return any(
            isinstance(n.target, Conv) and len(n.target.stride) == 2 for n in self.network.layers
        )

    def _is_temporary(self, node: fx.Node) -> bool:
        """Whether a constant only serves to make others."""
        return node.op == "call_function" and not any(facts_of(u).batched for u in node.users)


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    """Lines further in; empty ones stay empty."""
    return [f"{'    ' * levels}{line}" if line else "" for line in lines]


def text_of(node: fx.Node) -> str:
    """A value's shape as people write it: ``[N, 3, 224, 224]``."""
    return "[N, " + ", ".join(map(str, facts_of(node).value.shape[1:])) + "]"


def heading_of(node: fx.Node) -> str | None:
    """The heading that a node stands under; None where it belongs to the one before."""
    section = facts_of(node).section
    if section == "forward":
        kind = facts_of(node).kind or ""
        operator_name = str(node.target.__name__)
        named_like_module = facts_of(node).label.split("#")[0] == facts_of(node).path
        shown = kind if kind and named_like_module else operator_name
        return f"{facts_of(node).label}: {shown}"
    if section == "start":
        return "Relevance, from the logits back to the input"
    return section or None


def comment(text: str) -> str:
    """Text as one line of printable ASCII that can't end a comment or a docstring."""
    pieces = ["'" if letter == '"' else ascii(letter)[1:-1] for letter in text]
    shown = "".join(pieces)
    if len(shown) <= 90:
        return shown
    # cut between letters: half an escape is a syntax error in a docstring
    count = sum(end <= 87 for end in accumulate(map(len, pieces)))
    return "".join(pieces[:count]) + "..."
