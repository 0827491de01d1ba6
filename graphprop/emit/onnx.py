"""ONNX: a network written node by node, with readable names and the same bytes every time.

Every operator says itself what it becomes (`Operator.onnx`), in terms of an :class:`OnnxWriter`.
Floating point is single precision throughout: ONNX Runtime has no float64 convolution on the CPU.

A graph can't raise an error, so what is no class gives NaN: the input ``target`` holds a class for
each sample, or one for all; -1 means the largest logit; anything else below 0 or from the number of
classes on makes all of that sample's relevance NaN. The model's documentation says so, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.shape_inference import infer_node_outputs
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch import fx

from graphprop.network import Network, has_shape, identifier, shape_of
from graphprop.ops import Start
from graphprop.ops.base import Shape, snake_case
from graphprop.ops.start import chosen_classes, nan_without_class
from graphprop.sampling import Samples

OPSET = 20
IR_VERSION = 10  # the first in which a node can carry metadata

EXTERNAL_ABOVE = 64 * 2**20
"""Weights of more bytes than these, all together, lie in a file beside the model."""

EMBEDDED_UP_TO = 1024
"""A tensor of at most this many bytes stays in the model even so."""

INPUT = "input"
"""What the input is called; a second and third have a number, too."""

BATCH_NAME = "N"
SAMPLES_NAME = "samples"
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
    values: dict[fx.Node, Any] = {}
    inputs: list[ir.Value] = []
    classes, count = None, 0
    for node in network.graph.nodes:
        if node.op == "placeholder":
            name = re.sub("^x(?=$|_)", INPUT, node.name)
            # a further input's is called otherwise, or ONNX Runtime would believe it is the same
            batch = TARGETS_NAME if name == TARGET else name.replace(INPUT, BATCH_NAME)
            values[node] = described(ir.Value(name=writer.unique(name)), node, batch)
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
                values[target] = described(classes, target)
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
        outputs.append(described(value, node))
    for written in writer.nodes:
        written.name = written.outputs[0].name
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
    """What a model says of its inputs and outputs."""

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
    writer: OnnxWriter, network: Network, samples: Samples, values: Mapping[fx.Node, Any]
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
            if node.meta["batched"]:
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
    for written in nodes:
        written.name = written.outputs[0].name
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


def described(value: ir.Value, node: fx.Node, batch: str = BATCH_NAME) -> ir.Value:
    """Give a value the type and shape of the node it stands for."""
    value.dtype = single_precision(node.meta["value"].dtype)
    value.shape = ir.Shape([batch if length == -1 else length for length in shape_of(node)])
    return value


def single_precision(dtype: torch.dtype) -> ir.DataType:
    """The ONNX type of a torch type: float32 for everything with a fraction."""
    return ir.DataType.FLOAT if dtype.is_floating_point else from_torch_dtype(dtype)


class OnnxWriter:
    """What operators write their ONNX nodes with.

    Attributes
    ----------
    nodes
        The nodes written so far, in the order of computation.
    initializers
        The tensors and constants they use.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._names = {*names}
        self._constants: dict[tuple[ir.DataType, Shape, bytes], ir.Value] = {}
        self._stem = ""
        self._prefix = ""
        self._metadata: dict[str, str] = {}

    @contextmanager
    def body(self, prefix: str) -> Iterator[list[ir.Node]]:
        """Write nodes into the body of a loop; their names begin with ``prefix``."""
        outer = self.nodes, self._prefix
        self.nodes, self._prefix = [], f"{prefix}_"
        try:
            yield self.nodes
        finally:
            self.nodes, self._prefix = outer

    def stem(self, name: str) -> None:
        """Let names begin so, of what isn't written for a node of the network."""
        self._stem, self._metadata = name, {}

    def true(self) -> ir.Value:
        """A constant."""
        return self._constant(True, ir.DataType.BOOL)

    def node(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Write one ONNX node.

        Parameters
        ----------
        op_type
            The ONNX operator.
        inputs
            Values; numbers, which become constants of the other inputs' type; None for an
            optional input that is left out.
        outputs
            How many results there are.
        attributes
            Numbers, strings, tensors, or sequences of numbers.

        Returns
        -------
        onnx_ir.Value
            The result; a tuple of them where there are several.
        """
        values = [v for v in inputs if isinstance(v, ir.Value)]
        operands = [
            self.number(v, like=self._numeric(values)) if isinstance(v, int | float) else v
            for v in inputs
        ]
        while operands and operands[-1] is None:
            operands.pop()
        name = f"{self._stem}_{snake_case(op_type)}"
        names = [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        node = ir.node(
            op_type,
            operands,
            attributes,
            outputs=[ir.Value(name=self.unique(name)) for name in names],
            metadata_props=self._metadata,
        )
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def number(self, value: float, *, like: ir.Value) -> ir.Value:
        """A scalar constant of the type of ``like``."""
        return self._constant(value, self.dtype(like))

    def numbers(self, values: Sequence[float], shape: Shape, *, like: ir.Value) -> ir.Value:
        """A constant of the given shape and of the type of ``like``."""
        return self._constant(values, self.dtype(like), shape)

    def integer(self, value: int) -> ir.Value:
        """A scalar int64 constant."""
        return self._constant(value, ir.DataType.INT64)

    def integers(self, values: Iterable[int]) -> ir.Value:
        """A one-dimensional int64 constant: a shape, axes, limits."""
        return self._constant(list(values), ir.DataType.INT64)

    def filled(self, value: float, shape: ir.Value, *, like: ir.Value) -> ir.Value:
        """A tensor full of one number, of a computed shape and of the type of ``like``."""
        content = ir.tensor(np.array([value], self.dtype(like).numpy()))
        filled: ir.Value = self.node("ConstantOfShape", shape, value=content)
        return filled

    def shape(self, value: ir.Value) -> Shape:
        """The shape of a value, -1 standing for what isn't known: the batch."""
        known = self._inferred(value).shape
        if known is None:
            raise TypeError(f"the shape of {value.name} is not known")
        return tuple(length if isinstance(length, int) else -1 for length in known)

    def dtype(self, value: ir.Value) -> ir.DataType:
        """The type of a value's entries."""
        known = self._inferred(value).dtype
        assert known is not None
        return known

    def tensor(self, tensor: torch.Tensor, name: str) -> ir.Value:
        """Add a tensor of the network as an initializer."""
        dtype = single_precision(tensor.dtype)
        content: TorchTensor | ir.LazyTensor
        if from_torch_dtype(tensor.dtype) == dtype:
            content = TorchTensor(tensor, name=name)
        else:
            # converted when it is written, so that the weights aren't held twice
            content = ir.LazyTensor(
                lambda: TorchTensor(tensor.float()), dtype, ir.Shape(tensor.shape), name=name
            )
        return self._initializer(content)

    def write(self, node: fx.Node, operands: Sequence[Any]) -> Any:
        """Write a node of the network, and call its result what the node is called."""
        self._stem = self._prefix + node.name
        self._metadata = {
            key: ascii(str(node.meta[key]))[1:-1]
            for key in ("label", "rule")
            if node.meta.get(key) is not None
        }
        result = node.target.onnx(self, *operands)
        if isinstance(result, ir.Value) and has_shape(node) and result.producer() is not None:
            self._names.discard(str(result.name))
            result.name = self.unique(self._prefix + node.name) if self._prefix else node.name
            described(result, node, SAMPLES_NAME if self._prefix else BATCH_NAME)
        return result

    def _numeric(self, values: Sequence[ir.Value]) -> ir.Value:
        return next(value for value in values if self.dtype(value) != ir.DataType.BOOL)

    def _constant(self, data: Any, dtype: ir.DataType, shape: Shape | None = None) -> ir.Value:
        array = np.array(data, dtype.numpy())
        array = array if shape is None else array.reshape(shape)
        key = dtype, array.shape, array.tobytes()
        if key not in self._constants:
            name = identifier(f"constant {data}".replace("-", "minus "))
            self._constants[key] = self._initializer(ir.Tensor(array, name=self.unique(name)))
        return self._constants[key]

    def _initializer(self, content: ir.Tensor[Any] | ir.LazyTensor) -> ir.Value:
        value = ir.Value(
            name=content.name,
            type=ir.TensorType(content.dtype),
            shape=content.shape,
            const_value=content,
        )
        self.initializers.append(value)
        return value

    def unique(self, name: str) -> str:
        """A name that nothing else has, beginning so."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def _inferred(self, value: ir.Value) -> ir.Value:
        """Find the type and shape of a value written inside an operator, if they aren't known."""
        node = value.producer()
        if value.type is not None or node is None:
            return value
        sources = [self._inferred(source) for source in node.inputs if source is not None]
        # what a shape is computed from is small; weights are not needed for it
        data = {
            str(source.name): ir.to_proto(source.const_value)
            for source in sources
            if source.const_value is not None and source.const_value.nbytes <= EMBEDDED_UP_TO
        }
        found = infer_node_outputs(
            onnx.defs.get_schema(node.op_type, OPSET),
            ir.to_proto(node),
            {str(source.name): ir.to_proto(source).type for source in sources},
            data,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        for output in node.outputs:
            kind = found[str(output.name)]
            output.type = ir.serde.deserialize_type_proto_for_type(kind)
            output.shape = ir.serde.deserialize_type_proto_for_shape(kind)
        return value
