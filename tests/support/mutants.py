"""Single changes of a compiled directory, to try whether the check notices them.

Every change is made to the syntax tree of ``explainer.py``, to the nodes and initializers of
``explainer.onnx``, to the bits and tensors of the weights, or to the manifest, one at a time. Each
has a name that says what was done where, so that a list of names can say which are equivalent.

``make mutants`` (``tests/checking/test_mutants.py``) tries all of them and prints what was not
noticed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from graphprop.artifact.manifest import as_json, manifest_hash
from graphprop.checking.runner import called as called_by
from graphprop.checking.runner import functions_of, plain

PYTHON, ONNX, WEIGHTS, MANIFEST = "python", "onnx", "weights", "manifest"


@dataclass(frozen=True)
class Mutant:
    """One change: the kind of file, a name, and the function that changes a directory."""

    kind: str
    name: str
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def mutants(directory: Path) -> list[Mutant]:
    """All changes of a directory."""
    found = [
        *python_mutants((directory / "explainer.py").read_text()),
        *onnx_mutants(onnx.load(directory / "explainer.onnx")),
        *weight_mutants(load_file(directory / "weights.safetensors")),
        *manifest_mutants(json.loads((directory / "manifest.json").read_text())),
    ]
    names = [str(mutant) for mutant in found]
    assert len(set(names)) == len(names), "two changes of one name"
    return found


# explainer.py

SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.GtE: ast.Gt,
    ast.Gt: ast.Lt,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
}
CALLED = {
    "amax": "amin",
    "amin": "amax",
    "argmax": "argmin",
    "sum": "mean",
    "mean": "sum",
    "relu": "tanh",
    "zeros_like": "ones_like",
    "max_pool2d": "avg_pool2d",
    "adaptive_avg_pool2d": "adaptive_max_pool2d",
    "contiguous": "relu",
    "reciprocal": "sign",
}
UNWRAPPED = ("relu", "clamp", "nan_to_num_", "abs", "stabilize", "contiguous", "where", "flip")

VALUES = {
    "negated": "-({0})",
    "raised": "({0}) * 1.001",
    "zeroed": "({0}) * 0.0",
    "negated in float32": "({0}) if x.dtype == torch.float64 else -({0})",
    "zeroed in float32": "({0}) if x.dtype == torch.float64 else 0.0 * ({0})",
    "NaN in float32": "({0}) if x.dtype == torch.float64 else torch.nan * ({0})",
    "rounded to half precision": "({0}) if x.dtype == torch.float64 else ({0}).half().float()",
    "off in float32": "({0}) if x.dtype == torch.float64 else ({0}) * (1 + 4e-4)",
    "centered over the batch": "({0}) - 0.1 * (({0}).mean(0, keepdim=True) - ({0}))",
    "mixed with the sample before": "0.9 * ({0}) + 0.1 * ({0}).roll(1, 0)",
    "off in batches": "({0}) * (1 + 0.01 * (x.shape[0] > 1))",
    "off alone": "({0}) * (1 + 0.01 * (x.shape[0] == 1))",
    "off in the last sample": "torch.cat([({0})[:-1], 1.01 * ({0})[-1:]]) if len(x) > 1 else ({0})",
    "clamped": "({0}).clamp(max=10.0)",
    "off without a target": "({0}) * (1.01 if target is None else 1.0)",
    "off by class": "({0}) * (1.0 if target is None or target.is_floating_point() else 1.01)",
    "off by weights": "({0}) * (1.01 if target is not None and target.is_floating_point() else 1)",
    "off where the input is blank": "({0}) + 0.01 * (x == 0).all()",
    "off where most of the input is zero": "({0}) * (1 + 0.01 * ((x == 0).sum() > x.numel() // 2))",
}

LOADING = {
    "rounded on loading": "{n: w.half().to(w.dtype) for n, w in weights.items()}",
    "rounded on loading in float32": (
        "{n: w if dtype else w.bfloat16().float() for n, w in weights.items()}"
    ),
    "negated on loading in float32": "{n: w if dtype else -w for n, w in weights.items()}",
    "zeroed on loading in float32": (
        "{n: w if dtype or w.dim() > 1 else w * 0 for n, w in weights.items()}"
    ),
    "scaled on loading in float32": "{n: w if dtype else w * 1.001 for n, w in weights.items()}",
    "turned on loading": "{n: w.flip(0) for n, w in weights.items()}",
}


def python_mutants(source: str) -> Iterator[Mutant]:
    """Changes of one place in a module, or of one value."""
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        for name, edit in edits_of(node):
            yield python_mutant(name, at_place(index, edit))
    yield from value_mutants(tree)
    for name, expression in LOADING.items():
        yield python_mutant(f"load: {name}", with_weights(expression))


def python_mutant(name: str, edit: Callable[[ast.Module], Any]) -> Mutant:
    """A change of a syntax tree, as a mutant."""

    def apply(directory: Path) -> None:
        file = directory / "explainer.py"
        tree = ast.parse(file.read_text())
        edit(tree)
        file.write_text(ast.unparse(ast.fix_missing_locations(tree)))

    return Mutant(PYTHON, name, apply)


def at_place(index: int, edit: Callable[[Any], Any]) -> Callable[[ast.Module], None]:
    """Edit the node of this index in place, or replace it by what the edit returns."""

    def change(tree: ast.Module) -> None:
        node = list(ast.walk(tree))[index]
        result = edit(node)
        if result is not None:
            Replace(node, result).visit(tree)

    return change


def with_weights(expression: str) -> Callable[[ast.Module], None]:
    """Let ``load`` change the weights before they are used."""

    def change(tree: ast.Module) -> None:
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        load = next(function for function in functions if function.name == "load")
        load.body[-1:-1] = ast.parse(f"weights = {expression}").body

    return change


def edits_of(original: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """The changes that a node allows, by name."""
    edits: list[tuple[str, Callable[[Any], Any]]] = []
    if isinstance(original, ast.BinOp) and type(original.op) in SWAPPED:
        edits.append(("operator", swap_operator))
    if isinstance(original, ast.BinOp) and isinstance(original.op, ast.Sub | ast.Div):
        edits.append(("operands", swap_operands))
    if isinstance(original, ast.Compare) and type(original.ops[0]) in SWAPPED:
        edits.append(("comparison", swap_comparison))
    if isinstance(original, ast.UnaryOp) and isinstance(original.op, ast.USub):
        edits.append(("sign left out", lambda node: node.operand))
    if isinstance(original, ast.Constant) and type(original.value) in (int, float):
        if isinstance(original.value, float):
            edits += [("number", times(100.0)), ("number's sign", times(-1.0))]
            edits += [("number a little", times(1.01))]
        else:
            edits += [("number + 1", plus(1)), ("number - 1", plus(-1))]
    if isinstance(original, ast.Call):
        name = called(original)
        if name in CALLED:
            edits.append((f"{CALLED[name]} for {name}", rename(CALLED[name])))
        if name in UNWRAPPED:
            edits.append((f"{name} left out", unwrapped))
        for number, keyword in enumerate(original.keywords):
            edits.append((f"{keyword.arg} left out", without_keyword(number)))
        if len(original.args) > 1 and name not in ("register_buffer", "getattr"):
            edits.append((f"first two of {name}", swap_arguments))
    if isinstance(original, ast.Subscript) and isinstance(original.slice, ast.Slice):
        edits.append(("slice", lambda node: node.value))
    for name, edit in edits:
        place = f"{original.lineno}.{original.col_offset}"
        yield f"{place} {name}: {ast.unparse(original)[:60]}", edit


class Replace(ast.NodeTransformer):
    """Replaces one node by another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def swap_operator(node: Any) -> None:
    node.op = SWAPPED[type(node.op)]()


def swap_operands(node: Any) -> None:
    node.left, node.right = node.right, node.left


def swap_comparison(node: Any) -> None:
    node.ops[0] = SWAPPED[type(node.ops[0])]()


def swap_arguments(node: Any) -> None:
    node.args[0], node.args[1] = node.args[1], node.args[0]


def times(factor: float) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        node.value = node.value * factor

    return edit


def plus(term: int) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        node.value = node.value + term

    return edit


def called(node: ast.Call) -> str:
    """The name of the function or method that is called."""
    return ast.unparse(node.func).rpartition(".")[2]


def rename(name: str) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        if isinstance(node.func, ast.Attribute):
            node.func.attr = name
        else:
            node.func.id = name

    return edit


def unwrapped(node: Any) -> Any:
    """The first argument of a call, or the object of a method call, in place of the call."""
    on_module = ast.unparse(node.func).startswith(("F.", "torch."))
    if isinstance(node.func, ast.Attribute) and not on_module:
        return node.func.value
    return node.args[1] if called(node) == "where" else node.args[0]


def without_keyword(number: int) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        del node.keywords[number]

    return edit


def forward_of(tree: ast.AST) -> ast.FunctionDef:
    """The method ``forward``."""
    return next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "forward")


def value_mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Changes of the variables of ``forward``, and of its result."""
    statements = forward_of(tree).body
    places = [
        i
        for i, statement in enumerate(statements)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    ]
    for turn, index in enumerate(places):
        # every kind of change at one variable, and every variable changed in one way
        for number, (name, pattern) in enumerate(VALUES.items()):
            if (number + turn) % 4:
                continue
            variable = ast.unparse(statements[index].targets[0])
            yield python_mutant(f"{variable}: {name}", with_value(index, pattern))
    yield from inner_mutants(tree)
    for name, pattern in {
        "maps in another order": "{0}.flip(0)",
        "maps of the first sample": "{0}[:1].expand_as({0})",
        "maps in half precision": "{0}.half()",
        "maps turned": "{0}.transpose(-1, -2).contiguous()",
        "maps a little off": "{0} * (1 + 2e-4)",
        "maps off in float32": "{0} * (1 + (x.dtype == torch.float32) * 2e-4)",
    }.items():
        yield python_mutant(f"return: {name}", with_map(pattern))


def inner_mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Changes of the variables of functions that ``forward`` calls for several layers."""
    functions = functions_of(tree)
    names = {called_by(part, functions) for part in forward_of(tree).body} - {None}
    patterns = {
        name: pattern.replace("x.dtype", "({0}).dtype")
        for name, pattern in VALUES.items()
        if "target" not in pattern and not re.search(r"x\.(shape|numel)|len\(x\)|x ==", pattern)
    }
    for function in sorted(map(str, names)):
        for turn, statement in enumerate(plain(functions[function])):
            for number, (name, pattern) in enumerate(patterns.items()):
                if (number + turn) % 3 or not isinstance(statement.targets[0], ast.Name):
                    continue
                variable = f"{function}.{statement.targets[0].id}"
                edit = with_inner_value(function, turn, pattern)
                yield python_mutant(f"{variable}: {name}", edit)


def with_inner_value(function: str, index: int, pattern: str) -> Callable[[ast.Module], None]:
    """Let one statement of a function assign something else."""

    def change(tree: ast.Module) -> None:
        statement: Any = plain(functions_of(tree)[function])[index]
        text = pattern.format(ast.unparse(statement.value))
        statement.value = ast.parse(text, mode="eval").body

    return change


def with_map(pattern: str) -> Callable[[ast.Module], None]:
    """Let ``forward`` return other maps."""

    def change(tree: ast.Module) -> None:
        returned: Any = forward_of(tree).body[-1]
        maps = returned.value.elts
        maps[1] = ast.parse(pattern.format(ast.unparse(maps[1])), mode="eval").body

    return change


def with_value(index: int, pattern: str) -> Callable[[ast.Module], None]:
    """Let one statement of ``forward`` assign something else."""

    def change(tree: ast.Module) -> None:
        statement: Any = forward_of(tree).body[index]
        text = pattern.format(ast.unparse(statement.value))
        statement.value = ast.parse(text, mode="eval").body

    return change


# explainer.onnx

REPLACED = {
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Div",
    "Div": "Mul",
    "Relu": "Identity",
    "Greater": "Less",
    "GreaterOrEqual": "Greater",
    "Less": "Greater",
    "Max": "Min",
    "Min": "Max",
    "ReduceSum": "ReduceMean",
    "ReduceMean": "ReduceSum",
    "ReduceMax": "ReduceMin",
    "ReduceMin": "ReduceMax",
    "ArgMax": "ArgMin",
    "Abs": "Identity",
    "Neg": "Identity",
    "Sign": "Identity",
    "Equal": "Greater",
    "And": "Or",
}
WRAPPED = {
    "negated": ("Neg",),
    "squared": ("Mul",),
    "off in batches": ("ReduceMean", "Sub"),
    "in half precision": ("Cast", "Cast"),
}


def onnx_mutants(model: onnx.ModelProto) -> Iterator[Mutant]:
    """Changes of one node or one initializer."""
    for index, node in enumerate(model.graph.node):
        name = node.output[0]
        if node.op_type in REPLACED:
            other = REPLACED[node.op_type]
            yield onnx_mutant(
                f"{name}: {other} for {node.op_type}",
                lambda m, i=index, o=other: setattr(m.graph.node[i], "op_type", o),
            )
        if len(node.input) == 2 and node.op_type in ("Sub", "Div", "Less", "Greater", "MatMul"):
            yield onnx_mutant(f"{name}: operands", lambda m, i=index: swap_inputs(m, i, 0, 1))
        if node.op_type == "Where":
            yield onnx_mutant(f"{name}: branches", lambda m, i=index: swap_inputs(m, i, 1, 2))
        if len(node.input) == 3 and node.op_type in ("Conv", "Gemm", "ConvTranspose"):
            yield onnx_mutant(
                f"{name}: without bias", lambda m, i=index: m.graph.node[i].input.pop()
            )
        for place, attribute in enumerate(node.attribute):
            if attribute.name in (
                "strides",
                "pads",
                "dilations",
                "perm",
                "kernel_shape",
                "keepdims",
            ):
                yield onnx_mutant(
                    f"{name}: {attribute.name}",
                    lambda m, i=index, p=place: change_attribute(m.graph.node[i].attribute[p]),
                )
    outputs = {value.name for value in model.graph.output}
    known = [
        node.output[0]
        for node in model.graph.node
        if node.op_type in ("Mul", "Add", "Sub", "Div", "Conv", "Gemm", "Relu", "ConvTranspose")
    ]
    known = [name for name in known if name not in outputs]
    for turn, name in enumerate([*known, *sorted(outputs)]):
        kinds = list(WRAPPED) if name in outputs else [list(WRAPPED)[turn % len(WRAPPED)]]
        for kind in kinds:
            yield onnx_mutant(f"{name}: {kind}", lambda m, n=name, k=kind: wrap(m, n, k))
    for index, tensor in enumerate(model.graph.initializer):
        for kind in initializer_changes(tensor):
            yield onnx_mutant(
                f"initializer {tensor.name}: {kind}",
                lambda m, i=index, k=kind: change_initializer(m.graph.initializer[i], k),
            )


def onnx_mutant(name: str, edit: Callable[[Any], Any]) -> Mutant:
    def apply(directory: Path) -> None:
        model = onnx.load(directory / "explainer.onnx")
        edit(model)
        onnx.save(model, directory / "explainer.onnx")

    return Mutant(ONNX, name, apply)


def swap_inputs(model: onnx.ModelProto, index: int, first: int, second: int) -> None:
    inputs = model.graph.node[index].input
    inputs[first], inputs[second] = inputs[second], inputs[first]


def change_attribute(attribute: Any) -> None:
    """The first entry plus one; a permutation or a flag reversed."""
    if attribute.name == "perm":
        attribute.ints[-1], attribute.ints[-2] = attribute.ints[-2], attribute.ints[-1]
    elif attribute.name == "keepdims":
        attribute.i = 1 - attribute.i
    else:
        attribute.ints[0] += 1


def wrap(model: onnx.ModelProto, name: str, kind: str) -> None:
    """Insert nodes after a value; its users read their result instead."""
    node = next(node for node in model.graph.node if name in node.output)
    index = list(node.output).index(name)
    inner = f"{name}__inner"
    node.output[index] = inner
    make = onnx.helper.make_node
    if kind == "negated":
        nodes = [make("Neg", [inner], [name])]
    elif kind == "squared":
        nodes = [make("Mul", [inner, inner], [name])]
    elif kind == "in half precision":
        nodes = [
            make("Cast", [inner], [f"{name}__half"], to=10),
            make("Cast", [f"{name}__half"], [name], to=1),
        ]
    else:
        axis = numpy_helper.from_array(np.array([0]), f"{name}__axis")
        model.graph.initializer.append(axis)
        nodes = [
            make("ReduceMean", [inner, axis.name], [f"{name}__mean"], keepdims=1),
            make("Sub", [inner, f"{name}__mean"], [name]),
        ]
    for other in model.graph.node:
        for place, used in enumerate(other.input):
            if used == name:
                other.input[place] = name
    at = next(i for i, other in enumerate(model.graph.node) if inner in other.output)
    for offset, new in enumerate(nodes, 1):
        model.graph.node.insert(at + offset, new)


def initializer_changes(tensor: onnx.TensorProto) -> list[str]:
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind != "f":
        return ["+ 1"] if array.size else []
    changes = ["negated", "times 1.001"]
    if array.size > 1:
        changes += ["one entry", "in half precision", "turned"]
    return changes


def change_initializer(tensor: onnx.TensorProto, kind: str) -> None:
    array = numpy_helper.to_array(tensor).copy()
    if kind == "+ 1":
        array = array + np.ones_like(array)
    elif kind == "negated":
        array = -array
    elif kind == "times 1.001":
        array = array * np.float32(1.001)
    elif kind == "one entry":
        array.flat[array.size // 2] += np.float32(0.05)
    elif kind == "turned":
        array = np.flip(array, 0).copy()
    else:
        array = array.astype(np.float16).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


# The weights


def weight_mutants(weights: dict[str, torch.Tensor]) -> Iterator[Mutant]:
    """Changes of one bit, one entry, or one tensor."""
    names = sorted(name for name, tensor in weights.items() if tensor.is_floating_point())
    for name in names:
        tensor = weights[name]
        middle = tensor.numel() // 2
        for bit in (31, 30, 24, 22, 16, 10, 2):
            yield weight_mutant(f"{name}[{middle}]: bit {bit}", name, flip_bit(middle, bit))
        edits: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "negated": lambda t: -t,
            "times 1.001": lambda t: t * 1.001,
            "zeroed": lambda t: t * 0,
            "in half precision": lambda t: t.half().float(),
        }
        if tensor.shape[0] > 1:
            edits["channels turned"] = lambda t: t.flip(0)
        if tensor.dim() == 4:
            edits["places turned"] = lambda t: t.transpose(2, 3)
        for kind, edit in edits.items():
            yield weight_mutant(f"{name}: {kind}", name, edit)


def flip_bit(place: int, bit: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def edit(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone().flatten()
        bits = changed.view(torch.int32)
        bits[place] = bits[place] ^ (-(2**31) if bit == 31 else 2**bit)
        return changed.reshape(tensor.shape)

    return edit


def weight_mutant(name: str, key: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Mutant:
    def apply(directory: Path) -> None:
        file = directory / "weights.safetensors"
        weights = load_file(file)
        weights[key] = edit(weights[key]).contiguous()
        save_file(weights, file)

    return Mutant(WEIGHTS, name, apply)


# The manifest


def manifest_mutants(content: dict[str, Any]) -> Iterator[Mutant]:
    """Changes of one field, and of one fact of a layer; the hash is updated."""
    for key, value in content.items():
        if key in ("sha256", "generator", "version"):
            continue
        for number, other in enumerate(altered(value)):
            yield manifest_mutant(f"{key} {number}", (key,), other)
    for index, layer in enumerate(content["layers"]):
        for key in ("value", "relevance", "label"):
            if layer[key] is not None:
                yield manifest_mutant(f"layers[{index}].{key}", ("layers", index, key), "nothing")
    for key in content["preprocessing"] or {}:
        value = content["preprocessing"][key]
        other = [entry + 0.1 if isinstance(entry, float) else entry + 1 for entry in value]
        yield manifest_mutant(f"preprocessing.{key}", ("preprocessing", key), other)
    for key, value in content["parameters"].items():
        for other in altered(value):
            yield manifest_mutant(f"parameters.{key}: {other!r:.20}", ("parameters", key), other)


def altered(value: Any) -> list[Any]:
    """Other values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value * 2 + 0.5]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, list):
        return [value[1:]] if value else []
    if isinstance(value, dict):
        return [dict(list(value.items())[1:])] if value else []
    return []


def manifest_mutant(name: str, path: tuple[Any, ...], other: Any) -> Mutant:
    def apply(directory: Path) -> None:
        file = directory / "manifest.json"
        content = json.loads(file.read_text())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = other
        content["sha256"] = manifest_hash(content)
        file.write_text(as_json(content))

    return Mutant(MANIFEST, name, apply)
