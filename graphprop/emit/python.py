"""Emit Python: a legal network as readable, stand-alone torch source.

Nothing from the user's model becomes code unescaped: identifiers are the nodes' names, made of
ASCII letters; raw paths appear through ``ascii`` alone; comments are escaped and one line long. The
finished source is formatted, parsed, and its calls compared with what may be called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from graphprop.emit.documentation import wrapped
from graphprop.emit.source import check_calls, formatted, functions_of, text_of_function
from graphprop.emit.statements import Statements
from graphprop.emit.templates import FORWARD_DOC, HEADER, LOAD, REFRESHING, SINGLE_DOC
from graphprop.emit.text import comment as comment
from graphprop.emit.text import heading_of as heading_of
from graphprop.emit.text import text_of
from graphprop.emit.weights import deriving, registering, tables
from graphprop.ir.facts import facts_of
from graphprop.ir.network import Network
from graphprop.ir.samples import Samples

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
    variables
        The local variables that ``forward`` assigns, each once, in the order of computation. What
        is nested in an expression, or is an attribute of the module, is not among them.
    places
        The name of a node of the legal network -> the variable that holds its value: one of
        ``forward``, or ``"result.variable"``, a variable of the function whose call assigns the
        ``result`` first.
    """

    source: str
    results: dict[str, str] = field(default_factory=dict)
    relevances: dict[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)


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
    statements = printer.statements
    body = statements.body()
    outlined = ["\n".join(function.lines) for function in statements.functions]
    operators = [node.target for node in network.layers]
    sampled = ("check_target", "mean_over_samples", "target_of") if network.samples else ()
    functions = functions_of(operators, "check_finite", "check_input", "check_weights", *sampled)
    relevances = network.output.args[0][2]
    parts = [
        printer.header(title, summary, version),
        *map(text_of_function, functions.values()),
        *outlined,
        printer.class_text(body),
        LOAD,
    ]
    source = formatted("\n\n".join(parts))
    methods = {method for operator in operators for method in operator.calls}
    known = {*functions, *(function.name for function in statements.functions)}
    check_calls(source, {*known, "explain"} if network.samples else known, methods)
    places = statements.places()
    called = statements.names | places
    results = {
        records: called[node]
        for node in network.layers
        if (records := facts_of(node).records) is not None
    }
    return PythonModule(
        source,
        results,
        {label: called[node] for label, node in relevances.items()},
        statements.variables(),
        {} if network.samples else {node.name: place for node, place in places.items()},
    )


class Printer:
    """Prints the class of the generated module."""

    def __init__(self, network: Network, record: Mapping[str, fx.Node]) -> None:
        self.network, self.record = network, record
        self.statements = Statements(network, record)
        self.names, self.logits = self.statements.names, self.statements.logits
        self.images = self.statements.images

    def header(self, title: str, summary: str, version: str) -> str:
        """The module's docstring, and its imports."""
        shown = [f"{node.name} {text_of(node)}" for node in self.images]
        maps = " and ".join(text_of(node) for node in self.network.maps)
        shapes = f"Shapes: {', '.join(shown)}; logits {text_of(self.logits)}; relevance {maps}."
        return HEADER.format(
            title=comment(title),
            summary="\n".join(wrapped(summary)),
            version=version,
            shapes="\n".join(wrapped(shapes)),
        )

    def class_text(self, body: list[str]) -> str:
        """The class with its buffers and ``forward``."""
        shapes = "\n        ".join(f"{node.name}: {text_of(node)}" for node in self.images)
        fields = {"shapes": shapes, "logits": text_of(self.logits)}
        given = ", ".join(node.name for node in self.images)
        samples = self.network.samples
        shown = tables(self.network, self.names)
        lines = [
            *shown,
            "",
            "",
            "class Explainer(torch.nn.Module):",
            '    """Logits and the relevance of every entry of the input."""',
            "",
            "    def __init__(self, weights):",
            "        super().__init__()",
            "        check_weights(weights, SHAPES)",
            *indented(registering(shown), 2),
            *indented(self.deriving()),
        ]
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
                for node in self.statements.reordered
            ),
            "        # fmt: off",
            *indented(body, 2),
            "",
            "        # fmt: on",
        ]
        if self.record:
            recorded = ", ".join(
                f"{label!a}: {self.names[node]}" for label, node in self.record.items()
            )
            lines.append(f"        self.recorded = {{{recorded}}}")
        results = [self.names[node] for node in (self.logits, *self.network.maps)]
        if samples is None:
            lines.append(f"        check_finite({', '.join(results)})")
        maps = [f"{name}.contiguous()" for name in results[1:]]
        returned = maps[0] if len(maps) == 1 else f"({', '.join(maps)})"
        lines.append(f"        return {self.names[self.logits]}, {returned}")
        return "\n".join(lines)

    def deriving(self) -> list[str]:
        """The end of ``__init__`` and the methods that compute what follows from the weights."""
        lines = indented(deriving(self.network, self.names))
        if self.statements.is_planar():
            lines += [
                "    for name, tensor in self._buffers.items():",
                "        if tensor.dim() == 4:",
                "            self._buffers[name] = "
                f"tensor.contiguous(memory_format={CHANNELS_LAST})",
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
        fields = {
            "shapes": f"x: {text_of(self.images[0])}",
            "logits": text_of(self.logits),
        }
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
        return [*lines, "    check_finite(logits, relevance)", "    return logits, relevance"]


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    """Lines further in; empty ones stay empty."""
    return [f"{'    ' * levels}{line}" if line else "" for line in lines]
