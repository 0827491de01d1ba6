"""Profiles: every statement and kernel belongs to its layer, and times add up."""

import ast
import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import graphprop
from graphprop.cli import main
from graphprop.errors import InputError, MethodError, OutputError
from graphprop.profiling.profiler import by_layer, events_of
from graphprop.profiling.result import FORWARD, RELEVANCE, Event, Profile
from graphprop.profiling.statements import timed


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


def network():
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*stem, Block(), nn.Flatten(), nn.Linear(36, 3)).eval()


def compiled(method):
    return graphprop.compile(network(), torch.zeros(1, 1, 8, 8), method)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return compiled("rap").save(tmp_path_factory.mktemp("profile") / "net", check=False)


WEIGHTED = {"0", "3.conv1", "3.conv2", "5"}


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "rap", "rap-bn", "hedge", "smoothgrad"])
@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_every_layer_with_weights_has_its_time(method, backend):
    if (method, backend) == ("smoothgrad", "onnxruntime"):
        pytest.skip("ONNX Runtime's profile names no kernel in a loop by its layer")
    found = graphprop.profile(compiled(method), batch=2, backend=backend, runs=1)
    times = {layer.label: layer for layer in found.layers}
    assert times.keys() >= WEIGHTED
    for label in WEIGHTED:
        assert times[label].relevance > 0, label
        assert times[label].forward > 0 or backend == "onnxruntime", label
    assert found.seconds == pytest.approx(found.forward + found.relevance)
    assert found.seconds == pytest.approx(sum(layer.seconds for layer in found.layers))
    seconds = [layer.seconds for layer in found.layers]
    assert seconds == sorted(seconds, reverse=True)


def test_a_statement_is_of_the_layer_that_computes_it(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    _, found = timed((directory / "explainer.py").read_text(), manifest["layers"])
    of = {one.name: (one.layer, one.part) for one in found if one.name}
    for layer in manifest["layers"]:
        assert of[layer["value"]] == (layer["label"], FORWARD)
    parts = [one.part for one in found]
    assert parts == sorted(parts)  # all of the forward part before all relevance
    unowned = [one.name for one in found if one.layer is None and one.part == RELEVANCE]
    assert len(unowned) <= 2  # the start, and the check of the result
    labels = {layer["label"] for layer in manifest["layers"]}
    assert {one.layer for one in found} - {None} <= labels


def test_comments_need_not_name_layers():
    """Sources have more than one form: with functions, and one comment above several layers."""
    layers = [
        {"label": "a.0", "value": "a_0", "relevance": "r_a_0", "rule": "rap", "flows": {}},
        {"label": "a.1", "value": "a_1", "relevance": "r_a_1", "rule": "rap", "flows": {}},
    ]
    layers[0]["signal"], layers[1]["signal"] = [None], ["a.0"]
    layers[0]["path"], layers[1]["path"] = "a.0", "a.1"
    source = """
class Explainer:
    def forward(self, x, target=None):
        # fmt: off

        # a
        a_0 = conv(x, self.a_0_weight)
        half = pool(a_0)
        a_1 = conv(half, self.a_1_weight)

        # Relevance, from the logits back to the input
        r_a_1 = start(a_1)

        # a: rap
        r_half = rap_conv(half, r_a_1, self.a_1_weight_positive)
        r_a_0 = spread(r_half)
        relevance = rap_conv(x, r_a_0, self.a_0_weight_positive)
        return a_1, relevance
"""
    tree, found = timed(source, layers)
    assert [(one.name, one.layer, one.part) for one in found] == [
        ("a_0", "a.0", FORWARD),
        ("half", "a.0", FORWARD),
        ("a_1", "a.1", FORWARD),
        ("r_a_1", None, RELEVANCE),
        ("r_half", "a.1", RELEVANCE),
        ("r_a_0", "a.1", RELEVANCE),
        ("relevance", "a.0", RELEVANCE),
    ]
    assert ast.unparse(tree).count("_mark(") == len(found) + 1


def test_kernels_that_onnxruntime_made_belong_to_their_neighbors():
    places = {"conv": ("a", FORWARD), "r": ("a", RELEVANCE)}
    names = ["ReorderInput", "fused conv", "r", "ReorderOutput"]
    kernels = [
        {"name": f"{name}_kernel_time", "ts": 100 + 10 * i, "dur": 5}
        for i, name in enumerate(names)
    ]
    found = events_of(kernels, places)
    assert [(event.layer, event.part) for event in found] == [
        ("a", FORWARD),
        ("a", FORWARD),
        ("a", RELEVANCE),
        (None, RELEVANCE),
    ]
    assert [event.start for event in found] == pytest.approx([0, 1e-5, 2e-5, 3e-5])


def test_times_are_medians_over_the_runs():
    layers = [{"label": "a", "operator": "conv", "rule": "rap"}]
    runs = [
        [Event("x", "a", FORWARD, 0.0, s), Event("r", "a", RELEVANCE, s, 2 * s)] for s in (1, 5, 3)
    ]
    (one,) = by_layer(layers, runs)
    assert (one.forward, one.relevance, one.seconds) == (3, 6, 9)
    assert (one.operator, one.rule) == ("conv", "rap")


def test_a_trace_has_the_time_and_place_of_every_step(tmp_path):
    events = [Event("x", "a", FORWARD, 0.0, 0.5, 2**20), Event("r", None, RELEVANCE, 0.5, 0.25)]
    found = Profile("python", 1, 1, [], 0.75, None, events)
    found.save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = [event for event in trace if event["ph"] == "X"]
    assert [(s["name"], s["tid"], s["ts"], s["dur"]) for s in steps] == [
        ("a", 1, 0.0, 5e5),
        ("(no layer)", 2, 5e5, 2.5e5),
    ]
    assert [event["args"] for event in trace if event["ph"] == "C"] == [{"MiB": 1.0}]


def profiled(*arguments):
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_the_command_prints_a_table_and_writes_a_trace(directory, tmp_path, backend):
    trace = tmp_path / "trace.json"
    done = profiled(directory, "--batch", 2, "--backend", backend, "--runs", 1, "-o", trace)
    assert done.exit_code == 0, done.output
    assert f"{backend}, batch 2: " in done.stdout
    header = next(line for line in done.stdout.splitlines() if line.startswith("layer "))
    assert header.split() == "layer operator rule forward ms relevance ms ms %".split()
    assert "3.conv2" in done.stdout
    assert json.loads(trace.read_text())["traceEvents"]
    content = json.loads(profiled(directory, "--backend", backend, "--json").stdout)
    assert content["profile"]["backend"] == backend
    assert {layer["label"] for layer in content["profile"]["layers"]} >= WEIGHTED


def test_wrong_input_is_refused(directory, tmp_path):
    for options, kind, text in (
        ({"batch": 0}, InputError, "batch must be a whole number from 1, not 0"),
        ({"runs": 1.5}, InputError, "runs must be a whole number from 1, not 1.5"),
        ({"backend": "onnx"}, MethodError, "no backend 'onnx': did you mean"),
    ):
        with pytest.raises(kind, match=text):
            graphprop.profile(directory, **options)
    with pytest.raises(OutputError):
        graphprop.profile(tmp_path)
    done = profiled(directory, "-o", tmp_path)
    assert done.exit_code == 2
    assert "-o names the file of the trace" in done.stderr
    bare = compiled("rap").save(tmp_path / "bare", onnx=False, check=False)
    assert "compiled without ONNX" in profiled(bare, "--backend", "onnxruntime").stderr
