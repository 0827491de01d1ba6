"""What operators write their ONNX nodes with.

Floating point is single precision throughout: ONNX Runtime has no float64 convolution on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.shape_inference import infer_node_outputs
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch import fx

from graphprop.ir.facts import facts_of, has_shape, shape_of
from graphprop.ir.names import identifier, snake_case
from graphprop.ir.operation import Shape

OPSET = 20
IR_VERSION = 10  # the first in which a node can carry metadata

SMALL = 1024
"""How many bytes a constant has at most whose content is read where a shape is inferred.

Shapes and axes have a few dozen; weights, which no shape depends on, have thousands."""

Input: TypeAlias = ir.Value | float | None
"""What an ONNX node is given: a value, a number that becomes a constant, or nothing."""

Attribute: TypeAlias = "float | str | Sequence[int] | ir.Tensor[Any] | ir.TensorProtocol | ir.Graph"

BATCH_NAME = "N"
"""The symbolic length of the batch axis."""

SAMPLES_NAME = "samples"
"""The symbolic length of the batch axis in the body of a loop over samples."""


def with_type_of(value: ir.Value, node: fx.Node, batch: str = BATCH_NAME) -> ir.Value:
    """Give a value the type and shape of the node it stands for."""
    value.dtype = single_precision(facts_of(node).value.dtype)
    value.shape = ir.Shape([batch if length == -1 else length for length in shape_of(node)])
    return value


@dataclass(frozen=True)
class Group:
    """What ONNX nodes have in common that a rule at a layer becomes.

    Attributes
    ----------
    name
        What their names begin with: ``conv2/rap/``.
    prefix
        What the names of their results begin with: ``conv2_``.
    """

    name: str = ""
    prefix: str = ""


def group_of(node: fx.Node) -> Group:
    """The group of the ONNX nodes that a node of the network becomes."""
    facts, applied = facts_of(node), facts_of(node).applied
    parts = [facts.label or facts.section]
    if applied is not None:
        parts = [applied.flow, applied.label, applied.rule.name]
    cleaned = (re.sub(r"[^0-9A-Za-z_.#-]", "_", part)[:80] for part in parts if part)
    prefix = "" if applied is None else f"{applied.prefix}_"
    return Group("".join(f"{part}/" for part in cleaned), prefix)


def name_nodes(nodes: Iterable[ir.Node], groups: Mapping[ir.Node, Group]) -> None:
    """Call each node like its first result, in the group of its layer and rule."""
    taken: set[str] = set()
    for node in nodes:
        result, group = str(node.outputs[0].name), groups.get(node, Group())
        name = group.name + result.removeprefix(group.prefix)
        node.name = group.name + result if name in taken or name == group.name else name
        taken.add(node.name)


def single_precision(dtype: torch.dtype) -> ir.DataType:
    """The ONNX type of a torch type: float32 for everything with a fraction."""
    return ir.DataType.FLOAT if dtype.is_floating_point else from_torch_dtype(dtype)


class OnnxWriter:
    """What operators write their ONNX nodes with.

    Attributes
    ----------
    nodes
        The nodes written so far, in the order of computation.
    groups
        What the name of each node begins with: the layer, and the rule applied to it.
    initializers
        The tensors and constants they use.
    FROM_THE_END, TO_THE_FRONT
        Start and end of a slice that runs backward over a full axis: an end below any index.
    """

    FROM_THE_END, TO_THE_FRONT = -1, -(2**31)

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes: list[ir.Node] = []
        self.groups: dict[ir.Node, Group] = {}
        self.initializers: list[ir.Value] = []
        self._names = {*names}
        self._constants: dict[tuple[ir.DataType, Shape, bytes], ir.Value] = {}
        self._stem = ""
        self._prefix = ""
        self._metadata: dict[str, str] = {}
        self._group = Group()

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
        self._stem, self._metadata, self._group = name, {}, Group()

    def true(self) -> ir.Value:
        """A constant."""
        return self._constant(True, ir.DataType.BOOL)

    @overload
    def node(
        self, op_type: str, *inputs: Input, outputs: Literal[1] = 1, **attributes: Attribute
    ) -> ir.Value: ...

    @overload
    def node(
        self, op_type: str, *inputs: Input, outputs: int, **attributes: Attribute
    ) -> ir.Value | tuple[ir.Value, ...]: ...

    def node(
        self, op_type: str, *inputs: Input, outputs: int = 1, **attributes: Attribute
    ) -> ir.Value | tuple[ir.Value, ...]:
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
        self.groups[node] = self._group
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
        return self.node("ConstantOfShape", shape, value=content)

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
            # converted when it is written, so that the weights aren't in memory twice
            content = ir.LazyTensor(
                lambda: TorchTensor(tensor.float()), dtype, ir.Shape(tensor.shape), name=name
            )
        return self._initializer(content)

    def write(self, node: fx.Node, operands: Sequence[Any]) -> Any:
        """Write a node of the network, and call its result what the node is called."""
        self._stem = self._prefix + node.name
        self._metadata = {
            key: ascii(str(fact))[1:-1]
            for key in ("label", "rule")
            if (fact := getattr(facts_of(node), key)) not in (None, "")
        }
        self._group = group_of(node)
        result = node.target.onnx(self, *operands)
        if isinstance(result, ir.Value) and has_shape(node) and result.producer() is not None:
            self._names.discard(str(result.name))
            result.name = self.unique(self._prefix + node.name) if self._prefix else node.name
            with_type_of(result, node, SAMPLES_NAME if self._prefix else BATCH_NAME)
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
            if source.const_value is not None and source.const_value.nbytes <= SMALL
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
