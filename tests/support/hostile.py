"""Manipulated artifact directories, as an attacker might write them.

`CASES` maps a name to a text that the error message must contain, and to a function that changes
a valid directory. graphprop must run none of their code, open no file outside the directory, not
hang, and report one typed error.
"""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

CASES: dict[str, tuple[str, Callable[[Path], None]]] = {}
ONNX_CASES: dict[str, tuple[str, Callable[[Path], None]]] = {}
"""Those that only reading ``explainer.onnx`` can find."""


def case(said, cases=CASES):
    def add(function):
        cases[function.__name__] = (said, function)
        return function

    return add


# The manifest as a file


@case("holds no manifest.json")
def no_manifest(folder):
    (folder / "manifest.json").unlink()


@case("manifest.json is no regular file, but a folder")
def manifest_is_a_folder(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@case("manifest.json is no regular file, but a pipe")
def manifest_is_a_pipe(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


@case("manifest.json is a link that leads out of its directory")
def manifest_lies_elsewhere(folder):
    moved = (folder / "manifest.json").rename(folder.parent / "elsewhere.json")
    (folder / "manifest.json").symlink_to(moved)


@case("manifest.json is a link that leads out of its directory")
def manifest_is_an_endless_device(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")


@case("manifest.json can't be read")
def manifest_leads_to_itself(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


@case("manifest.json has 67108865 bytes, more than the 67108864 that are read")
def manifest_is_huge(folder):
    os.truncate(folder / "manifest.json", 64 * 2**20 + 1)


def written(name, said, content):
    def write(folder):
        (folder / "manifest.json").write_bytes(content)

    CASES[name] = (said, write)


written("manifest_is_no_json", "manifest.json can't be read", b"import os; os.abort()")
written("manifest_is_empty", "manifest.json can't be read", b"")
written("manifest_is_binary", "manifest.json can't be read", b"\xff\xfe\x00\xd8{}")
written("manifest_is_a_list", "was not written by graphprop", b"[1, 2]")
written("manifest_of_another", "was not written by graphprop", b'{"generator": "npm"}')
written("manifest_is_deep", "is nested deeper than 32 levels", b"[" * 100_000 + b"]" * 100_000)
written("manifest_never_ends", "can't be read", b'{"a":' * 100)
written("number_of_a_million_digits", "can't be read", b'{"version": ' + b"9" * 1_000_000 + b"}")
written("version_is_true", "has version True", b'{"generator": "graphprop", "version": true}')
written("version_is_text", "has version '1'", b'{"generator": "graphprop", "version": "1"}')
written("no_fields", "graphprop is missing", b'{"generator": "graphprop", "version": 1}')


# Its fields


def edited(folder, change):
    file = folder / "manifest.json"
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


def field(name, said, *path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    CASES[name] = (said, lambda folder: edited(folder, change))


def names(name, said, file):
    field(name, said, "files", file, value="0" * 64)


PLAIN = "not the plain name of a file"
names("name_leads_up", f"a name in files is '../secret', {PLAIN}", "../secret")
names("name_is_absolute", f"a name in files is '/etc/passwd', {PLAIN}", "/etc/passwd")
names("name_leads_down", PLAIN, "a/b")
names("name_is_the_folder_above", PLAIN, "..")
names("name_of_windows", PLAIN, "C:\\secret")
names("name_with_a_zero", PLAIN, "a\0b")
names("name_is_empty", PLAIN, "")
names("name_steers_a_terminal", PLAIN, "\x1b[2J")
names("name_is_endless", PLAIN, "a" * 10_000)
field("files_is_a_list", "files is ['explainer.py'], not an obj", "files", value=["explainer.py"])
field("hash_is_none", "explainer.py is None, not a SHA-256", "files", "explainer.py", value=None)
field("shape_of_words", "input_shape is ['one'], not a shape", "input_shape", value=["one"])
field("shape_is_negative", "not a shape of at most", "input_shape", value=[1, -6, 6])
field("shape_of_fractions", "not a shape of at most", "input_shapes", value=[[1, 6.0, 6]])
field("shape_is_huge", "not a shape of at most", "input_shape", value=[1, 2**20, 2**20])
field("shapes_are_none", "not a list with entries", "input_shapes", value=[])
field("shapes_differ", "input_shapes begins with", "input_shapes", value=[[1, 7, 7]])
field("map_is_huge", "not a shape of at most", "relevance_shape", value=[2**60])
field("no_classes", "classes is 0, not a whole number", "classes", value=0)
field("classes_are_true", "classes is True, not a whole number", "classes", value=True)
field("more_classes_than_memory", "not a whole number", "classes", value=2**60)
field("method_is_an_object", "method is {'a': 1}, not text", "method", value={"a": 1})
field("layers_are_none", "layers is None, not a list", "layers", value=None)
field("layer_is_text", "layers[0] is 'conv', not an object", "layers", 0, value="conv")
field("signal_is_a_number", "layers[0].signal is 3, not a list", "layers", 0, "signal", value=3)
field("names_are_numbers", "onnx_names.fc is 1, not text", "onnx_names", "fc", value=1)
field("check_says_maybe", "check.passed is 'maybe'", "check", "passed", value="maybe")
field("target_is_no_class", "a target of fingerprint", "fingerprint", "targets", value=[3])
field("fewer_numbers_than_samples", "fingerprint.input has 0 ent", "fingerprint", "input", value=[])
field("fingerprint_of_words", "rows is missing", "fingerprint", value={"a": "b"})
field("method_is_endless", "not text", "method", value="a" * 2**21)
field("conservation_is_text", "not an object", "conservation", value="all of it")
field("std_is_zero", "std[0] is 0, not a number above zero", "preprocessing", "std", value=[0])
field("version_is_a_number", "versions.ruff is 1, not text", "versions", "ruff", value=1)
field("mean_is_nan", "mean[0] is 'nan', not a finite", "preprocessing", "mean", value=["nan"])
field("mean_is_too_long", "has 2 entries for 1 channels", "preprocessing", "mean", value=[0, 0])
field("size_is_huge", "preprocessing.size", "preprocessing", "size", value=[10**5, 10**5])
field("parameters_are_deep", "deeper than 32", "parameters", "a", value=eval("[" * 40 + "]" * 40))


@case("NaN is no number in JSON")
def number_is_nan(folder):
    edited(folder, lambda content: content["parameters"].update(a=float("nan")))


# The files


def replaced(name, said, file, make):
    def change(folder):
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

    CASES[name] = (said, change)


def make_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have about a hundred characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def make_sparse(path):
    path.touch()
    os.truncate(path, 2**31 + 1)


replaced("onnx_is_a_pipe", "onnx is no regular file, but a pipe", "explainer.onnx", os.mkfifo)
replaced("onnx_is_a_folder", "no regular file, but a folder", "explainer.onnx", os.mkdir)
replaced("onnx_is_a_socket", "no regular file, but a socket", "explainer.onnx", make_socket)
replaced("onnx_is_huge", "has 2147483649 bytes, more than", "explainer.onnx", make_sparse)
replaced(
    "onnx_lies_elsewhere", "explainer.onnx is a link that leads out of its directory",
    "explainer.onnx", lambda path: path.symlink_to("/etc/passwd"),
)  # fmt: skip
replaced("weights_are_a_pipe", "weights.safetensors is no", "weights.safetensors", os.mkfifo)
replaced(
    "data_is_a_device", "explainer.onnx.data is a link that leads out of its directory",
    "explainer.onnx.data", lambda path: path.symlink_to("/dev/zero"),
)  # fmt: skip


# ONNX


@case("was compiled without ONNX", ONNX_CASES)
def onnx_is_not_named(folder):
    edited(folder, lambda content: content["files"].pop("explainer.onnx"))


@case("explainer.onnx can't be read: No such file or directory", ONNX_CASES)
def onnx_is_gone(folder):
    (folder / "explainer.onnx").unlink()


@case("explainer.onnx is no ONNX file", ONNX_CASES)
def onnx_is_something_else(folder):
    (folder / "explainer.onnx").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")


@case("explainer.onnx is no ONNX file", ONNX_CASES)
def onnx_is_cut(folder):
    content = (folder / "explainer.onnx").read_bytes()
    (folder / "explainer.onnx").write_bytes(content[: len(content) // 2])


@case("can't be loaded", ONNX_CASES)
def onnx_is_empty(folder):
    (folder / "explainer.onnx").write_bytes(b"")


def altered(said):
    def add(function):
        def change(folder):
            file = folder / "explainer.onnx"
            model = onnx.load(file)
            function(folder, model)
            file.write_bytes(model.SerializeToString())

        ONNX_CASES[function.__name__] = (said, change)
        return function

    return add


def keep_outside(tensor, location):
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(location))
    tensor.ClearField("raw_data")


def first_weights(model):
    return next(tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)


@altered("its data lie in '../secret', which the manifest does not name")
def data_leads_up(folder, model):
    (folder.parent / "secret").write_bytes(bytes(1000))
    keep_outside(first_weights(model), "../secret")


@altered("its data lie in '/etc/passwd'")
def data_is_absolute(folder, model):
    keep_outside(first_weights(model), "/etc/passwd")


@altered("its data lie in 'explainer.py', which the manifest does not name")
def data_is_not_named(folder, model):
    edited(folder, lambda content: content["files"].pop("explainer.py"))
    keep_outside(first_weights(model), "explainer.py")


@altered("explainer.onnx can't be loaded")
def data_is_too_short(folder, model):
    edited(folder, lambda content: content["files"].update({"explainer.onnx.data": "0" * 64}))
    (folder / "explainer.onnx.data").write_bytes(b"1")
    keep_outside(first_weights(model), "explainer.onnx.data")


@altered("explainer.onnx can't be loaded")
def data_is_gone(folder, model):
    edited(folder, lambda content: content["files"].update({"explainer.onnx.data": "0" * 64}))
    keep_outside(first_weights(model), "explainer.onnx.data")


@altered("it keeps a constant in another file")
def constant_lies_elsewhere(folder, model):
    tensor = helper.make_tensor("secret", TensorProto.FLOAT, [1], [0.0])
    keep_outside(tensor, "/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["secret"], value=tensor))


@altered("the operator 'com.microsoft.EPContext' isn't one of ONNX")
def operator_of_another(folder, model):
    model.graph.node.add(op_type="EPContext", domain="com.microsoft", output=["secret"])


@altered("the operator 'evil.Run' isn't one of ONNX")
def operator_in_a_loop(folder, model):
    body = helper.make_graph([helper.make_node("Run", [], ["a"], domain="evil")], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["trips", ""], ["b"], body=body))
    with_number(model, "trips", 2)


@altered("it defines functions of its own")
def functions(folder, model):
    model.functions.add(name="f", domain="evil")


@altered("can't be loaded")
def operator_that_is_none(folder, model):
    model.graph.node.add(op_type="System", input=["input"], output=["secret"])


@altered("fails")
def outputs_are_called_otherwise(folder, model):
    for output in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"{n}_2" if n == output.name else n for n in node.output]
            node.input[:] = [f"{n}_2" if n == output.name else n for n in node.input]
        output.name += "_2"


@altered("fails")
def input_is_of_another_type(folder, model):
    small(model, [helper.make_node("Cast", ["input"], ["relevance"], to=1)])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def small(model, nodes, relevance=TensorProto.FLOAT):
    """Keep inputs and outputs, and replace the nodes between them."""
    logits = np.zeros((1, 3), dtype=np.float32)
    constant = helper.make_node(
        "Constant", [], ["logits"], value=onnx.numpy_helper.from_array(logits)
    )
    graph = helper.make_graph(
        [constant, *nodes],
        "graph",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("target", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("relevance", relevance, None),
        ],
    )
    model.graph.CopyFrom(graph)


def integers(name, values):
    content = onnx.numpy_helper.from_array(np.array(values))
    return helper.make_node("Constant", [], [name], value=content)


@altered("returns relevance of shape (1, 1, 3, 3), and its manifest names (1, 1, 6, 6)")
def map_is_smaller(folder, model):
    pool = helper.make_node(
        "MaxPool", ["input"], ["relevance"], kernel_shape=[2, 2], strides=[2, 2]
    )
    small(model, [pool])


@altered("the relevance of")
def map_is_of_whole_numbers(folder, model):
    cast = helper.make_node("Cast", ["input"], ["relevance"], to=TensorProto.INT64)
    small(model, [cast], TensorProto.INT64)


@altered("returns logits of shape (1, 3), and its manifest names 4 classes")
def classes_are_missing(folder, model):
    edited(folder, lambda content: content.update(classes=4, logits_shape=[4]))
    small(model, [helper.make_node("Identity", ["input"], ["relevance"])])


@altered("fails")
def more_than_memory(folder, model):
    small(
        model,
        [
            integers("shape", [2**20, 2**20, 2**10]),
            helper.make_node("ConstantOfShape", ["shape"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["input", "largest"], ["relevance"]),
        ],
    )


def loop(trips, nodes=None):
    """A loop that negates a value this many times."""
    state = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
    ]
    results = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    inner = nodes or [helper.make_node("Neg", ["x"], ["y"])]
    inner = [helper.make_node("Identity", ["go"], ["go_on"]), *inner]
    body = helper.make_graph(inner, "body", state, results)
    return helper.make_node("Loop", [trips, "", "input"], ["relevance"], body=body)


def with_number(model, name, value):
    tensor = onnx.numpy_helper.from_array(np.array(value), name)
    model.graph.initializer.append(tensor)


@altered("a loop in it may run more than 1048576 times")
def loop_without_end(folder, model):
    small(model, [loop("trips")])
    with_number(model, "trips", 2**62)


@altered("a loop in it may run more than 1048576 times")
def loop_of_computed_length(folder, model):
    small(model, [integers("trips", 3), loop("trips")])


@altered("a loop in it may run more than 1048576 times")
def loop_of_any_length(folder, model):
    small(model, [loop("")])


@altered("the operator Loop may compute without end")
def loop_in_a_loop(folder, model):
    inner = loop("trips")
    inner.input[2], inner.output[0] = "x", "y"
    small(model, [loop("trips", [inner])])
    with_number(model, "trips", 2**20)


@altered("the operator Scan may compute without end")
def scan(folder, model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(
        helper.make_node("Scan", ["input"], ["b"], body=body, num_scan_inputs=1)
    )
