"""Canonicalize: from captured ATen operators to graphprop's own, one spelling each.

What depends on parameters alone (a weight norm, a buffer computed in ``forward``) is computed
here, once. Dropout, aliases and copies disappear. A softmax or sigmoid at the end is removed, with
a note: relevance explains logits.
"""

from __future__ import annotations

import operator
import re
from collections import Counter

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graphprop.errors import GraphpropError, UnsupportedOperator, VerificationError
from graphprop.ir.facts import BATCH, facts_of, where
from graphprop.ir.network import Network
from graphprop.ir.writer import Value, Writer
from graphprop.ops import ATEN
from graphprop.ops.composed import ATTENTION
from graphprop.passes.captured import choose_output, depends_on_input, leaves, needed_for
from graphprop.passes.constants import evaluated
from graphprop.passes.folded import Captured, Folded
from graphprop.passes.folded_layers import is_folded, over_frames
from graphprop.passes.origins import Origin, layer_of, name_of, origin, short_name
from graphprop.passes.tail import without_tail

aten = torch.ops.aten


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
    explained = environment[result]
    if isinstance(explained, Folded):
        raise UnsupportedOperator(
            f"the result, of {layer_of(origin(result, labels))}, is one for each frame that was "
            "folded into the batch: return one for each sample, as view(N, T, -1)"
        )
    # the chosen result depends on the input: it is no constant
    assert isinstance(explained, Value)
    network.graph.output(without_tail(explained.node, network))
    network.graph.eliminate_dead_code()
    return network


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


def bind_inputs(
    program: ExportedProgram, network: Network, writer: Writer
) -> dict[fx.Node, Captured]:
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
    environment: dict[fx.Node, Captured] = {}
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
            # a copy: the model may be trained on; channels_last is a matter of memory only
            tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
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
    node: fx.Node, environment: dict[fx.Node, Captured], writer: Writer, labels: Counter[str]
) -> Captured:
    """Give one captured node its meaning: values, a tensor, or a number."""

    def known(argument: object) -> object:
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
    result: Captured,
    facts: Origin,
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


def what_was_fine(network: Network) -> str:
    """The end of a refusal: how many layers were translated before it."""
    layers = [node for node in network.layers if node.target.weighted]
    if not layers:
        return ""
    return f". The {len(layers)} weighted layers before it, up to {where(layers[-1])}, were fine"
