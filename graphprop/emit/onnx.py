"""ONNX: a network written node by node, with readable names and the same bytes every time.

Every operator says itself what it becomes (`Operator.onnx`), in terms of an :class:`OnnxWriter`.

A graph can't raise an error, so what is no class gives NaN: the input ``target`` holds a class for
each sample, or one for all; -1 means the largest logit; anything else below 0 or from the number of
classes on makes all of that sample's relevance NaN. The model's documentation says so, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import fx

from graphprop.ir.facts import facts_of, shape_of
from graphprop.ir.network import Network
from graphprop.ir.samples import Samples
from graphprop.ops import Start
from graphprop.ops.onnx_writer import (
    BATCH_NAME,
    IR_VERSION,
    OPSET,
    SAMPLES_NAME,
    OnnxWriter,
    name_nodes,
    with_type_of,
)
from graphprop.ops.start import chosen_classes, nan_without_class

EXTERNAL_ABOVE = 64 * 2**20
"""How many bytes of weights a model file holds at most; more lie in ``<file>.data`` beside it.

Far below the 2 GiB that a protobuf message can have, and small enough to be read at once."""

EMBEDDED_UP_TO = 1024
"""How many bytes a tensor has at most that stays in the model file even so.

Shapes, axes and biases: a viewer shows them, and ONNX Runtime needs shapes where it loads."""

INPUT = "input"
"""What the input is called; a second and third have a number, too."""

TARGETS_NAME = "N_or_1"

TARGET = "target"
"""The input that says which class to explain."""


def to_onnx(
    network: Network,
    recorded: Mapping[str, fx.Node] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ir.Model:
    """Write a network as an ONNX model; it keeps the network's tensors, without copying them.

    Parameters
    ----------
    network
        At level ``"onnx"``. Its placeholder ``x`` becomes the input ``input``, ``target`` stays.
    recorded
        Further values to return, after ``logits`` and ``relevance`` and in this order, as outputs
        called ``relevance:<label>``, the label cleaned of all but ``A-Z a-z 0-9 . # _ -``.
    metadata
        What the model shall say of itself, see `graphprop.emit.metadata`.

    Returns
    -------
    onnx_ir.Model
        Of opset 20, with a symbolic batch size ``N``.
    """
    writer = OnnxWriter(node.name for node in network.graph.nodes if node.op != "placeholder")
    values: dict[fx.Node, ir.Value] = {}
    inputs: list[ir.Value] = []
    classes, count = None, 0
    for node in network.graph.nodes:
        if node.op == "placeholder":
            name = re.sub("^x(?=$|_)", INPUT, node.name)
            # a further input's is called otherwise, or ONNX Runtime would believe it is the same
            batch = TARGETS_NAME if name == TARGET else name.replace(INPUT, BATCH_NAME)
            values[node] = with_type_of(ir.Value(name=writer.unique(name)), node, batch)
            inputs.append(values[node])
        elif node.op == "get_attr":
            values[node] = writer.tensor(network.tensor(node), node.name)
        elif node.op == "call_function":
            if isinstance(node.target, Start) and classes is None:
                logits, target = node.args
                count = shape_of(logits)[1]
                writer.stem(TARGET)
                classes = chosen_classes(writer, values[logits], values[target])
                for given in inputs[:-1] if len(inputs) > 2 else ():
                    writer.stem(str(given.name))
                    classes = with_as_many(writer, classes, given)
                values[target] = with_type_of(classes, target)
            values[node] = writer.write(
                node, [values[a] if isinstance(a, fx.Node) else a for a in node.args]
            )
    if network.samples is not None:
        result: Any = network.output.args[0]
        values[result[1]] = mean_over_samples(writer, network, network.samples, values)
    outputs: list[ir.Value] = []
    for name, node in named_outputs(network, recorded or {}).items():
        value = values[node]
        if classes is not None and name != "logits":
            writer.stem(node.name)
            value = nan_without_class(writer, value, classes, count)
        elif value.producer() is None or value in outputs:
            # an input or a weight can't bear an output's name, nor one value two names
            value = writer.node("Identity", value)
        value.name = name
        outputs.append(with_type_of(value, node))
    name_nodes(writer.nodes, writer.groups)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=writer.nodes,
        initializers=writer.initializers,
        opset_imports={"": OPSET},
        name="explainer",
    )
    graph.doc_string = documentation(graph, count)
    model = ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="graphprop",
        producer_version=(metadata or {}).get("graphprop.version"),
        doc_string=graph.doc_string,
        metadata_props=dict(sorted((metadata or {}).items())),
    )
    RemoveUnusedNodesPass()(model)
    return model


def with_as_many(writer: OnnxWriter, classes: ir.Value, given: ir.Value) -> ir.Value:
    """Write what does not run unless an input has as many samples as there are classes."""
    zero = ir.tensor(np.array([0], np.int64))
    zeros = writer.node("ConstantOfShape", writer.node("Shape", given, start=0, end=1), value=zero)
    zeros = writer.node("Reshape", zeros, writer.node("Shape", classes))
    same: ir.Value = writer.node("Add", classes, zeros)
    return same


def documentation(graph: ir.Graph, classes: int) -> str:
    """The description of a model's inputs and outputs."""

    def listed(values: Iterable[ir.Value]) -> str:
        shown = (f"{v.name} {v.dtype} [{', '.join(map(str, v.shape or ()))}]" for v in values)
        return "; ".join(shown)

    several = len(graph.inputs) > 2
    return (
        "Logits, and the relevance of every entry of the input for one class of each sample.\n"
        f"Inputs: {listed(graph.inputs)}.\nOutputs: {listed(graph.outputs)}.\n"
        f"The target is a class from 0 to {classes - 1} for each sample, or one for all; -1 is the "
        "class of the largest logit. Any other number gives NaN as that sample's relevance."
        + " There are as many samples of each input."
        * several
    )


def mean_over_samples(
    writer: OnnxWriter, network: Network, samples: Samples, values: Mapping[fx.Node, ir.Value]
) -> ir.Value:
    """Write a loop that explains a chunk of the samples at a time, and sums up by weight.

    Its body holds the network once more, but for what does not depend on the input.
    """
    inputs = {node.target: values[node] for node in network.inputs}
    x, target = inputs["x"], inputs["target"]
    rank = len(writer.shape(x))
    column = (-1, *[1] * rank)
    scale, offset, weight = (
        writer.tensor(tensor, writer.unique(name))
        for name, tensor in (
            ("loop_scale", samples.scale.reshape(column)),
            ("loop_offset", samples.offset.unsqueeze(1)),
            ("loop_weight", samples.weight.reshape(column)),
        )
    )
    writer.stem("loop")
    sizes = writer.node("Shape", x)
    zeros = writer.filled(0.0, sizes, like=x)
    trips = writer.integer(-(-samples.count // samples.chunk))

    with writer.body("sample") as nodes:
        trip, go_on = (
            ir.Value(name=writer.unique(name), type=ir.TensorType(kind), shape=ir.Shape([]))
            for name, kind in (("loop_trip", ir.DataType.INT64), ("loop_on", ir.DataType.BOOL))
        )
        total = ir.Value(name=writer.unique("loop_total"), type=x.type, shape=x.shape)
        first = writer.node(
            "Mul", writer.node("Reshape", trip, writer.integers([1])), samples.chunk
        )
        last = writer.node("Add", first, samples.chunk)
        rows = [
            writer.node("Slice", tensor, first, last, writer.integers([0]))
            for tensor in (scale, offset, weight)
        ]
        points = writer.node("Add", writer.node("Mul", rows[0], x), rows[1])
        flat = writer.node("Reshape", points, writer.integers((-1, *writer.shape(x)[1:])))
        count = writer.node("Shape", rows[0], start=0, end=1)
        repeated = writer.node("Concat", count, writer.node("Shape", target), axis=0)
        targets = writer.node("Expand", target, repeated)
        targets = writer.node("Reshape", targets, writer.integers([-1]))
        flat.type, targets.type = x.type, target.type
        flat.shape = ir.Shape([SAMPLES_NAME, *writer.shape(x)[1:]])
        targets.shape = ir.Shape([SAMPLES_NAME])
        inner = dict(values)
        inner |= {node: flat if node.target == "x" else targets for node in network.inputs}
        for node in network.layers:
            if facts_of(node).batched:
                operands = [inner[a] if isinstance(a, fx.Node) else a for a in node.args]
                inner[node] = writer.write(node, operands)
        writer.stem("loop_end")
        result: Any = network.output.args[0]
        found = writer.node("Reshape", inner[result[1]], writer.node("Shape", points))
        weighted = writer.node("Mul", found, rows[2])
        summed = writer.node("ReduceSum", weighted, writer.integers([0]), keepdims=0)
        added = writer.node("Add", total, summed)
        added.type, added.shape = x.type, x.shape
        still = writer.node("Identity", go_on)
    body = ir.Graph(
        [trip, go_on, total], [still, added], nodes=nodes, name="one_chunk_of_the_samples"
    )
    name_nodes(nodes, writer.groups)
    writer.stem("loop")
    mean = writer.node("Loop", trips, writer.true(), zeros, body=body)
    mean.type, mean.shape = x.type, x.shape
    if samples.baseline is not None:
        baseline = writer.tensor(samples.baseline, writer.unique("loop_baseline"))
        mean = writer.node("Mul", mean, writer.node("Sub", x, baseline))
    return mean


def save(model: ir.Model, path: str | Path) -> None:
    """Write a model to ``path``; large weights go to ``<path>.data`` beside it.

    The same model gives the same bytes, wherever it is written.
    """
    path = Path(path)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    beside = f"{path.name}.data" if size > EXTERNAL_ABOVE else None
    ir.save(model, path, external_data=beside, size_threshold_bytes=EMBEDDED_UP_TO)


def named_outputs(network: Network, recorded: Mapping[str, fx.Node]) -> dict[str, fx.Node]:
    """Give the nodes to return the names of the model's outputs."""
    result: Any = network.output.args[0]
    outputs = {"logits": result[0] if isinstance(result, tuple) else result}
    if isinstance(result, tuple):
        outputs |= named_maps(network)
    for label, node in recorded.items():
        stem = name = "relevance:" + re.sub(r"[^0-9A-Za-z_.#-]", "_", label)[:80]
        count = 0
        while name in outputs:
            count += 1
            name = f"{stem}_{count}"
        outputs[name] = node
    return outputs


def named_maps(network: Network) -> dict[str, fx.Node]:
    """The relevance of each input, by the name of the output."""
    return {
        "relevance" if number == 1 else f"relevance_{number}": node
        for number, node in enumerate(network.maps, 1)
    }
