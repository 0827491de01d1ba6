"""Canonicalize: from captured ATen operators to graphprop's own, one spelling each.

What depends on parameters alone (a weight norm, a buffer computed in ``forward``) is computed
here, once. Dropout, aliases and copies disappear. A softmax or sigmoid at the end is removed, with
a note: relevance explains logits.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from graphprop.errors import CaptureError, GraphpropError, UnsupportedOperator, VerificationError
from graphprop.frontend.capture import is_user_file, named_leaves
from graphprop.ir.facts import BATCH, facts_of, origin_of, where
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.ops import ATEN, Add, Clamp, LogSoftmax, Multiply, Simple, Softmax
from graphprop.ops.composed import ATTENTION
from graphprop.ops.shape import LIKE, Rearrangement
from graphprop.passes.constants import evaluated
from graphprop.passes.folded import Folded
from graphprop.passes.folded_layers import is_folded, over_frames

aten = torch.ops.aten

SHAPE_ONLY = {aten.sym_size.int, *LIKE}
"""What reads the shape and type of a tensor, not its values."""


def canonicalize(program: ExportedProgram, output: str | int | None = None) -> Network:
    """Translate a captured program into a canonical network.

    Parameters
    ----------
    output
        Which result to explain, where there are several: a key or index.

    Raises
    ------
    UnsupportedOperator
        Naming the operator, the user's module and line, and what would be accepted.
    """
    network = Network()
    writer = Writer(network)
    network.output_name, result = choose_output(program, output)
    needed = {result, *needed_for(result)}
    environment = bind_inputs(program, network, writer)
    labels: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function" and node in needed:
            try:
                environment[node] = translate(node, environment, writer, labels)
            except UnsupportedOperator as error:
                text = about_attention(program, needed) or str(error)
                raise UnsupportedOperator(f"{text}{what_was_fine(network)}") from error
    if isinstance(environment[result], Folded):
        raise UnsupportedOperator(
            f"the result, of {layer_of(origin(result, labels))}, is one for each frame that was "
            "folded into the batch: return one for each sample, as view(N, T, -1)"
        )
    network.graph.output(without_tail(environment[result].node, network))
    network.graph.eliminate_dead_code()
    return network


def needed_for(result: fx.Node) -> set[fx.Node]:
    """The captured nodes that a result is computed from."""
    found: set[fx.Node] = set()
    waiting = [result]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def about_attention(program: ExportedProgram, needed: set[fx.Node]) -> str:
    """The refusal of attention, if that is what a network is refused for.

    Its values are rearranged in ways that nothing else is, and fail first: what is refused is still
    the product of two values.
    """
    for node in program.graph.nodes:
        if node not in needed or node.target not in PRODUCTS:
            continue
        factors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        if sum(depends_on_input(factor, program) for factor in factors) > 1:
            place, name = layer_of(origin(node, Counter())), short_name(node.target)
            return f"{place}: {ATTENTION.format(name)}"
    return ""


def bind_inputs(program: ExportedProgram, network: Network, writer: Writer) -> dict[fx.Node, Any]:
    """Give every placeholder its meaning: an input, or a tensor of the model.

    Casts being identities, every floating-point tensor takes the type of the input. An input of
    whole numbers is taken as floating-point numbers of the same values.
    """
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    dtype = next(
        node.meta["val"].dtype
        for node in placeholders
        if kinds[node.name].kind == InputKind.USER_INPUT
    )
    if not dtype.is_floating_point:
        kind, dtype = str(dtype).removeprefix("torch."), torch.get_default_dtype()
        network.notes.append(
            f"the model takes whole numbers ({kind}): the explainer takes the same values as "
            f"{str(dtype).removeprefix('torch.')}"
        )
    environment: dict[fx.Node, Any] = {}
    for node in placeholders:
        spec = kinds[node.name]
        if spec.kind == InputKind.USER_INPUT:
            shape = (BATCH, *node.meta["val"].shape[1:])
            value = torch.empty(shape, dtype=dtype, device="meta")
            name = "x" if not network.inputs else f"x_{len(network.inputs) + 1}"
            environment[node] = writer.placeholder(name, value)
        else:
            name = str(spec.target)
            tensor = program.state_dict.get(name, program.constants.get(name))
            assert tensor is not None
            # channels_last is a matter of memory only
            tensor = tensor.detach().contiguous()
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            environment[node] = tensor
            writer.register(tensor, name)
    return environment


PRODUCTS = {
    *(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.baddbmm.default),
    *(aten.scaled_dot_product_attention.default, aten._native_multi_head_attention.default),
}
"""What multiplies matrices."""


def translate(
    node: fx.Node, environment: dict[fx.Node, Any], writer: Writer, labels: Counter[str]
) -> Any:
    """Give one captured node its meaning: values, a tensor, or a number."""

    def known(argument: Any) -> Any:
        return environment[argument] if isinstance(argument, fx.Node) else argument

    arguments = fx.map_arg(node.args, known)
    options = fx.map_arg(node.kwargs, known)
    refuse_mixing(node, labels)
    if node.target is operator.getitem:
        return arguments[0][arguments[1]]
    if node.target is aten.sym_size.int:
        size = arguments[0].shape[arguments[1]]
        return BATCH if size == -1 else size
    given = leaves((arguments, options))
    if not any(isinstance(leaf, Value | Folded) for leaf in given):
        dtype = facts_of(writer.network.inputs[0]).value.dtype
        try:
            return evaluated(node.target, arguments, options, dtype)
        except UnsupportedOperator as error:
            place = layer_of(origin(node, labels))
            raise UnsupportedOperator(f"{place}: {error}") from error
    facts = origin(node, labels)
    function = ATEN.get(node.target)
    if function is None:
        raise UnsupportedOperator(
            f"the operator {short_name(node.target)} at {layer_of(facts)} has no relevance rule. "
            "Replace it by operators that have one (graphprop.ops lists them), or register its "
            "meaning with graphprop.ops.base.from_aten"
        )
    before = next(reversed(writer.graph.nodes), None)
    with writer.at(prefix=name_of(facts), **facts):
        try:
            if is_folded(node, arguments, given):
                function = over_frames(node)
            result = function(*arguments, **options)
        except (VerificationError, TypeError, ValueError, IndexError) as error:
            raise UnsupportedOperator(
                f"the operator {short_name(node.target)} at {layer_of(facts)} is used in a way "
                f"that graphprop can't explain: {error}"
            ) from error
        except GraphpropError as error:
            raise UnsupportedOperator(f"{layer_of(facts)}: {error}") from error
    name_written(writer, before, result, facts, labels)
    return result


def refuse_mixing(node: fx.Node, labels: Counter[str]) -> None:
    """Refuse what would freeze a random number, or the number of samples, into the network."""
    numbers = torch.SymInt | torch.SymFloat | torch.SymBool
    counts = (
        isinstance(argument, fx.Node) and isinstance(argument.meta.get("val"), numbers)
        for argument in (*node.args, *node.kwargs.values())
    )
    if isinstance(node.meta.get("val"), torch.Tensor) and any(counts):
        raise UnsupportedOperator(
            f"the operator {short_name(node.target)} at {layer_of(origin(node, labels))} computes "
            "with the number of samples, so that a result depends on the batch it came in"
        )
    if re.match(r"(lstm|gru|rnn_tanh|rnn_relu)(_cell)?\b", short_name(node.target)):
        raise UnsupportedOperator(
            f"the operator {short_name(node.target)} at {layer_of(origin(node, labels))} is a "
            "recurrent layer, and graphprop explains feed-forward networks: compile the part of "
            "the model before it"
        )
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if random and node.target not in ATEN:
        raise UnsupportedOperator(
            f"the operator {short_name(node.target)} at {layer_of(origin(node, labels))} draws "
            "random numbers: draw them once, and keep them as a buffer of the model"
        )


def name_written(
    writer: Writer,
    before: fx.Node | None,
    result: Any,
    facts: dict[str, Any],
    labels: Counter[str],
) -> None:
    """Name the nodes written for one captured operator: the result like the layer itself.

    ``before`` is the last node that was there already; tensors go to the front of the graph.
    """
    found = (leaf.inner if isinstance(leaf, Folded) else leaf for leaf in leaves(result))
    first = next((leaf for leaf in found if isinstance(leaf, Value)), None)
    for node in reversed(writer.graph.nodes):
        if node is before:
            break
        if first is not None and node is first.node:
            writer.rename(first, name_of(facts))
        elif node.op == "call_function":
            stem = f"{name_of(facts)}.{node.target.__name__}"
            labels[stem] += 1
            facts_of(node).label = stem if labels[stem] == 1 else f"{stem}#{labels[stem]}"


def leaves(tree: Any) -> list[Any]:
    """Everything in nested lists, tuples and dicts."""
    return torch.utils._pytree.tree_leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Value))


def origin(node: fx.Node, labels: Counter[str]) -> dict[str, Any]:
    """The facts about where a captured node comes from: module path, label, kind, line."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = re.sub(r"^_orig_mod\.?|^module\.(?=.)", "", path)
    kind = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
    container = not stack or not is_leaf_module(stack[-1][1])
    operator_name = short_name(node.target).split(".")[0].strip("_")
    stem = ".".join(filter(None, (path, operator_name))) if container else path
    labels[stem] += 1
    label = stem if labels[stem] == 1 else f"{stem}#{labels[stem]}"
    return {"path": path, "label": label, "kind": kind, "line": source_line(node)}


def is_leaf_module(kind: Any) -> bool:
    """Whether a module class is one of torch's own layers: its one operator bears its name."""
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return name.startswith("torch.nn.modules.") and ".container." not in name


def name_of(facts: dict[str, Any]) -> str:
    """The name of the node with these facts."""
    label: str = facts["label"]
    return label.split("#")[0]


def source_line(node: fx.Node) -> str | None:
    """The user's line that a captured node comes from."""
    for file, line in reversed(
        re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    ):
        if is_user_file(file):
            return f"{Path(file).name}:{line}"
    return None


def short_name(target: Any) -> str:
    """``aten.conv2d.default`` -> ``conv2d``."""
    name = str(target)
    if name.startswith("aten."):
        name = name.removeprefix("aten.").removesuffix(".default")
    return name


def layer_of(facts: dict[str, Any]) -> str:
    """The place of a node in the user's terms."""
    line = f", line {facts['line']}" if facts["line"] else ""
    return f"layer {facts['label']!r}{line}"


def what_was_fine(network: Network) -> str:
    """Say how far the translation came."""
    layers = [node for node in network.layers if node.target.weighted]
    if not layers:
        return ""
    return f". The {len(layers)} weighted layers before it, up to {where(layers[-1])}, were fine"


def choose_output(program: ExportedProgram, wanted: str | int | None) -> tuple[str, fx.Node]:
    """The result to explain: the one that is named, or the only one that depends on the input."""
    values = {
        name: node
        for name, node in named_results(program).items()
        if isinstance(node, fx.Node) and depends_on_input(node, program)
    }
    shown = ", ".join(
        f"{name!r} of shape ({', '.join(map(str, ('N', *node.meta['val'].shape[1:])))})"
        for name, node in values.items()
    )
    if wanted is not None:
        if str(wanted) not in values:
            raise CaptureError(f"the model has no result {str(wanted)!r}: it returns {shown}")
        return str(wanted), values[str(wanted)]
    if len(values) != 1:
        raise CaptureError(
            f"the model returns {len(values)} results that depend on the input"
            f"{f': {shown}' if shown else ''}; graphprop explains one: choose it by --output NAME "
            "(in Python: output=NAME)"
        )
    return next(iter(values.items()))


def named_results(program: ExportedProgram) -> dict[str, Any]:
    """The model's results by name: keys and indices, joined by dots where they are nested.

    What it changes in place, inputs or buffers, is no result.
    """
    (found,) = next(n for n in program.graph.nodes if n.op == "output").args
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    found = [
        leaf
        for leaf, kind in zip(leaves(found), kinds, strict=True)
        if kind == OutputKind.USER_OUTPUT
    ]
    spec = program.call_spec.out_spec
    if spec is None:
        return {str(index): value for index, value in enumerate(found)}
    tree = torch.utils._pytree.tree_unflatten(range(len(found)), spec)
    return {name: found[place] for name, place in named_leaves(tree).items()}


def depends_on_input(node: fx.Node, program: ExportedProgram) -> bool:
    """Whether a captured tensor is computed from the values of an input, not from its shape."""
    inputs = set(program.graph_signature.user_inputs)
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        if current.name in inputs:
            return True
        if current.target in SHAPE_ONLY:
            continue
        waiting += [n for n in current.all_input_nodes if n not in seen]
        seen.update(current.all_input_nodes)
    return False


SQUASHING = {"sigmoid": "sigmoid", "logsigmoid": "log-sigmoid"}


def without_tail(node: fx.Node, network: Network) -> fx.Node:
    """The node of the logits: a softmax or sigmoid at the end, and what follows it, is removed.

    It may be followed by a logarithm, limits, an addition of a number and a product with a positive
    one, which keep the order of its entries, and by rearrangements (a selection of classes), which
    are applied to the logits instead.
    """
    chain: list[fx.Node] = []
    current = node
    while keeps_order(current) and not is_squashing(current):
        chain.insert(0, current)
        current = current.args[0]
    if not is_squashing(current):
        return node
    chain.insert(0, current)
    logits = current.args[0]
    while is_squashing(logits):
        chain.insert(0, logits)
        logits = logits.args[0]
    network.tail = tuple((link.target, link.args[1:]) for link in chain)
    kept = [link for link in chain if isinstance(link.target, Rearrangement)]
    rest = [link for link in chain if link not in kept]
    removed = [kind_of(link) for link in rest if is_squashing(link)]
    others = [str(link.target.__name__) for link in rest if not is_squashing(link)]
    also = f", and what follows it ({', '.join(others)}), is" if others else " is"
    network.notes.append(
        f"the {' of a '.join(reversed(removed))} at the end ({where(chain[0])}){also} removed: "
        "relevance explains the logits"
    )
    writer = Writer(network)
    result = Value(logits, writer)
    for link in kept:
        with writer.at(**origin_of(link)):
            result = link.target(result)
        facts_of(link).label = f"{facts_of(link).label} (removed)"
        writer.take_name(result.node, link)
    return result.node


def is_squashing(node: fx.Node) -> bool:
    """Whether a node turns logits into probabilities, or their logarithms."""
    if node.op != "call_function":
        return False
    return isinstance(node.target, Softmax) or (
        isinstance(node.target, Simple) and node.target.name in SQUASHING
    )


def kind_of(node: fx.Node) -> str:
    """What the user calls it."""
    if isinstance(node.target, Softmax):
        return "log-softmax" if isinstance(node.target, LogSoftmax) else "softmax"
    return SQUASHING[node.target.name]


def keeps_order(node: fx.Node) -> bool:
    """Whether a node of one operand keeps the order of its entries, or only rearranges them."""
    if node.op != "call_function" or not isinstance(node.args[0], fx.Node):
        return False
    if any(isinstance(operand, fx.Node) for operand in node.args[1:]):
        return False
    target, rest = node.target, node.args[1:]
    if isinstance(target, Multiply):
        return bool(rest[0] > 0)
    increasing = isinstance(target, Simple) and target.name in ("log", "log1p", "sqrt")
    return increasing or isinstance(target, Add | Clamp | Rearrangement)
