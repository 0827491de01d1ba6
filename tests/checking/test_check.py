"""The check finds what is wrong, names the layer, and does not cry wolf."""

import dataclasses
import json
import math
import shutil

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graphprop
from graphprop.api import check as check_explainer
from graphprop.api import save
from graphprop.checking import bounds, probes
from graphprop.checking.arbiter import GraphArbiter, errors
from graphprop.checking.backends import ConvTranspose, MaxPool
from graphprop.checking.check import check_directory
from graphprop.checking.check import check_explainer as check_compiled
from graphprop.checking.compare import Session
from graphprop.checking.compared import Backend
from graphprop.checking.fingerprint import rounded
from graphprop.checking.probes import Probes, batches
from graphprop.checking.report import BackendResult, Comparison, backend_lines
from graphprop.checking.stages import stages_of
from graphprop.errors import EquivalenceError, InputError, MethodError
from graphprop.ir.interpret import interpret

pytestmark = pytest.mark.usefixtures("same_process")


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block = Block(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.pool(torch.relu(self.stem(x)))).mean((2, 3)))


def explainer_of(method="epsilon_plus_flat", **options):
    torch.manual_seed(0)
    return graphprop.compile(Net().eval(), torch.zeros(2, 2, 10, 10), method, **options)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    torch.set_num_threads(1)
    return save(explainer_of(), tmp_path_factory.mktemp("compiled") / "net")


@pytest.fixture
def directory(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "net")


def result_of(report, name):
    (result,) = (result for result in report.backends if result.name == name)
    return result


def replace(directory, old, new):
    file = directory / "explainer.py"
    text = file.read_text()
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("method", "samples"), [("lrp_z", 1), ("lrp_alpha2_beta1", 2), ("rap", 4), ("rap-bn", 3)]
)
def test_passes_on_every_backend(method, samples):
    report = check_explainer(explainer_of(method), samples=samples)
    assert report.passed, report.render()
    assert [result.name for result in report.backends] == [
        "python",
        "onnxruntime",
        "onnx.reference",
    ]
    kinds = ["uniform", "sparse", "blank", "constant", "weights on noise 0", "weights on sparse"]
    assert report.samples == [*(f"noise {i}" for i in range(samples)), *kinds]
    for result in report.backends:
        python = result.name == "python"
        assert result.rows == (report.samples if python else report.samples[:-2])
        assert result.worst.error <= result.worst.allowed
        assert result.seconds > 0
    assert all(warning.startswith("relevance vanishes") for warning in report.warnings)


@pytest.mark.usefixtures("fresh_process")
def test_directory_passes_without_the_model(compiled):
    report = check_directory(compiled, samples=5)
    assert report.passed, report.render()
    assert report.arbiter == "explainer.py in float64"
    assert [len(result.samples) for result in report.backends] == [11, 9, 9]
    assert len(set(report.targets)) > 2
    few = check_explainer(explainer_of(), backends=["python"])
    found, wanted = (dict(zip(r.samples, r.targets, strict=True)) for r in (report, few))
    assert wanted.items() <= found.items()


def noise(*numbers):
    drawn = [probes.drawn(f"noise {number}", [(2, 10, 10)], None)[0] for number in numbers]
    return torch.stack(drawn)


def test_first_target_is_the_largest_logit(compiled):
    report = check_explainer(explainer_of(), samples=1, backends=["python"])
    assert report.targets[0] == int(explainer_of()(noise(0))[0].argmax())


def test_ledger_starts_at_the_logit_and_conserves_it():
    explainer = explainer_of("lrp_z", bias="ignored")
    report = check_explainer(explainer, samples=2, backends=["python"])
    ledger = report.ledger
    assert ledger["samples"] == ["noise 0", "noise 1", "uniform"]
    assert [row["label"] for row in ledger["layers"]] == [
        layer.label for layer in reversed(explainer.layers)
    ]
    logits, relevance = explainer(noise(0, 1), torch.tensor(report.targets[:2]))
    start, end = ledger["start"][:2], ledger["input"][:2]
    assert start == pytest.approx(logits[[0, 1], report.targets[:2]].tolist(), rel=1e-4)
    assert end == pytest.approx(relevance.sum((1, 2, 3)).tolist(), rel=1e-3)
    assert ledger["input"] == pytest.approx(ledger["start"], rel=1e-5)
    assert "'block.conv'" in report.render(layers=True)
    assert "'block.conv'" not in report.render()


def test_report_survives_json():
    report = check_explainer(explainer_of(), backends=["python", "onnxruntime"])
    for result in report.backends:
        result.seconds = 0.25
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert read == report.as_dict()
    assert read["version"] == 2
    assert [entry["seconds"] for entry in read["backends"]] == [0.25, 0.25]
    assert "seconds" not in json.dumps(report.as_dict(timing=False))
    assert "check: passed" in report.render()
    assert report.render().replace(", 0.2 s", "") == report.render(timing=False)


def test_only_the_backends_asked_for(compiled):
    report = check_directory(compiled, samples=1, backends=["onnxruntime"])
    assert [result.name for result in report.backends] == ["onnxruntime"]


def test_unknown_backend(compiled):
    with pytest.raises(MethodError, match="there is no backend 'onnxrt': did you mean 'onnxrun"):
        check_directory(compiled, backends=["onnxrt"])
    with pytest.raises(InputError, match="at least one sample, not 0"):
        check_directory(compiled, samples=0)


def test_no_onnx_to_check(tmp_path):
    directory = save(explainer_of(), tmp_path / "net", onnx=False, check=False)
    with pytest.raises(MethodError, match="was compiled without ONNX: check the backend 'python'"):
        check_directory(directory, backends=["onnxruntime"])
    report = check_directory(directory, samples=1)
    assert report.passed
    assert "compiled without a check" in report.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "layers", "place"),
    [
        # a sign in the rule of the residual sum
        (
            "r_block_conv = block_conv * ",
            "r_block_conv = -block_conv * ",
            ("block.add",),
            "the relevance of the result of 'block.conv', from the rule of 'block.add'",
        ),
        # the head's epsilon
        (
            "stabilize(head, 1e-06)",
            "stabilize(head, 1e-03)",
            ("head",),
            "the relevance of the result of 'mean', from the rule of 'head'",
        ),
        # a step of the forward part
        (
            "F.conv2d(x, self.stem_weight, self.stem_bias, padding=1)",
            "F.conv2d(x, self.stem_weight, padding=1)",
            ("stem",),
            "the result of 'stem'",
        ),
        # the start
        (
            "= head * at_target",
            "= 0.9 * head * at_target",
            (),
            "the start: the relevance of the res",
        ),
    ],
)
def test_altered_module_is_found(directory, old, new, layers, place):
    replace(directory, old, new)
    report = check_directory(directory, samples=3)
    python, onnxruntime = result_of(report, "python"), result_of(report, "onnxruntime")
    assert not report.passed
    assert "no longer compute what was compiled" in python.problem
    assert python.divergence.layers == layers
    assert python.divergence.place.startswith(place)
    assert not onnxruntime.passed
    assert report.changes == ["explainer.py was changed after it was written"]
    assert report.warnings == []
    # without ONNX the recorded fingerprint alone says so
    alone = check_directory(directory, samples=3, backends=["python"])
    assert not alone.passed
    assert alone.backends[0].divergence.place == python.divergence.place


def test_onnx_alone_is_held_against_the_record_without_running_python(directory):
    (directory / "explainer.py").write_text("raise SystemExit('this was run')")
    report = check_directory(directory, backends=["onnxruntime", "onnx.reference"])
    assert [result.passed for result in report.backends] == [True, True]
    assert report.status == "failed"
    allowed = check_directory(directory, backends=["onnxruntime"], allow_changed=True)
    assert allowed.passed, allowed.render()
    model = onnx.load(directory / "explainer.onnx")
    (node,) = (node for node in model.graph.node if node.output[0] == "block_add")
    node.op_type = "Sub"
    onnx.save(model, directory / "explainer.onnx")
    report = check_directory(directory, backends=["onnxruntime"], allow_changed=True)
    assert report.backends[0].divergence.layers == ("block.add",)


def test_altered_weights_are_found(directory):
    weights = load_file(directory / "weights.safetensors")
    weights["block.conv.weight"][0, 0, 0, 0] += 0.001
    save_file(weights, directory / "weights.safetensors")
    report = check_directory(directory, samples=1)
    assert result_of(report, "python").divergence.place == "the result of 'block.conv'"
    assert report.changes == ["weights.safetensors was changed after it was written"]


def test_altered_onnx_is_found(directory):
    model = onnx.load(directory / "explainer.onnx")
    (node,) = (node for node in model.graph.node if node.output[0] == "block_add")
    node.op_type = "Sub"
    onnx.save(model, directory / "explainer.onnx")
    report = check_directory(directory, samples=3)
    assert result_of(report, "python").passed
    for name in ("onnxruntime", "onnx.reference"):
        result = result_of(report, name)
        assert not result.passed
        assert result.divergence.layers == ("block.add",)
        assert result.divergence.place == "the result of 'block.add'"
        assert result.divergence.error > 0.01
    assert "onnxruntime: relevance off by" in report.complaint()
    assert "FAILED" in report.render()


def test_damaged_onnx_is_told(directory):
    (directory / "explainer.onnx").write_bytes(b"no model")
    result = result_of(check_directory(directory, samples=1), "onnxruntime")
    assert "ONNX Runtime can't load explainer.onnx" in result.problem
    (directory / "explainer.onnx").unlink()
    report = check_directory(directory, samples=1)
    assert result_of(report, "onnxruntime").problem == "there is no explainer.onnx"
    assert "explainer.onnx is missing" in report.changes


@pytest.mark.usefixtures("fresh_process")
def test_module_that_does_not_run(directory):
    replace(directory, "return head, relevance", "return head, relevence")
    report = check_directory(directory)
    assert not report.passed
    problem = report.backends[0].problem
    assert problem.startswith("explainer.py does not run: NameError: name 'relevence' is not defi")
    assert "(explainer.py, line " in problem


def printed_as(explainer, old, new):
    """The same explainer, had the printer printed something else."""
    compiled = explainer.compiled
    generated = dataclasses.replace(compiled.generated, source=compiled.source.replace(old, new))
    return graphprop.CompiledExplainer(dataclasses.replace(compiled, generated=generated))


@pytest.mark.usefixtures("fresh_process")
def test_module_may_not_need_graphprop():
    explainer = printed_as(explainer_of(), "import torch\n", "import torch\nimport graphprop\n")
    report = check_explainer(explainer, samples=1, backends=["python"])
    assert "imports graphprop, which it must not need" in report.backends[0].problem


def test_wrong_printing_fails_the_compile(tmp_path):
    explainer = printed_as(explainer_of(), "r_pool = ", "r_pool = 1.01 * ")
    assert explainer.source != explainer_of().source
    with pytest.raises(EquivalenceError, match=r"python: relevance off by .* from the rule of"):
        save(explainer, tmp_path / "net")


def test_wrong_legalization_is_found():
    explainer = explainer_of()
    tensors = explainer.legal.tensors
    tensors["head.weight"] = tensors["head.weight"] * 1.01
    report = check_compiled(explainer.compiled, samples=1, backends=["python"])
    assert report.backends[0].divergence.layers == ("head",)


def test_nan_in_a_backend_is_a_failure_that_says_so(directory):
    explainer = printed_as(
        explainer_of(), "    return head, ", "    return head, 0.0 * float('inf') * "
    )
    (result,) = check_explainer(explainer, samples=2, backends=["python"]).backends
    assert not result.passed
    assert result.problem == "NaN or infinity in the relevance of noise 0 without a target"
    assert math.isnan(result.worst.error)
    assert result.divergence.place.startswith("the relevance of the input")


def test_nan_in_the_arbiter_names_its_layer():
    explainer = explainer_of()
    name = next(name for name in explainer.lowered.tensors if name.startswith("block"))
    explainer.lowered.tensors[name] = torch.full_like(explainer.lowered.tensors[name], math.nan)
    report = check_explainer(explainer, samples=1)
    assert not report.passed
    assert report.status == "not checked"
    assert "the network itself gives NaN or infinity on noise 0" in report.complaint()
    assert "first at the result of 'block.conv'" in report.complaint()


class IllConditioned(nn.Module):
    """The sums of its second layer all but cancel."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            self.first.weight[2:] = self.first.weight[:2] * (1 + 1e-6)
            self.second.weight[:, :2] = 1.0
            self.second.weight[:, 2:] = -1.0

    def forward(self, x):
        return self.second(self.first(x))


def test_ill_conditioned_map_is_a_warning_not_a_failure():
    explainer = graphprop.compile(
        IllConditioned().eval(), torch.zeros(2, 4), "lrp_epsilon", epsilon=1e-12
    )
    report = check_explainer(explainer, samples=2, backends=["python"])
    assert max(report.float32["relevance"]) > 1e-2
    (warning,) = report.warnings
    assert warning.startswith("the map is ill-conditioned: torch's own float32 is off by ")
    assert "first exceeds 0.01 at the result of 'second'" in warning
    assert report.passed, report.render()


class Noisy(Backend):
    """The generated graph, every step of it rounded anew; one perhaps wrong, or all of them."""

    level = "torch"

    def __init__(self, explainer, wrong="", factor=1.0):
        self.explainer, self.wrong, self.factor = explainer, wrong, factor

    def _run(self, samples, keep):
        generator = torch.Generator().manual_seed(1)
        inputs = {"x": samples.x, "target": samples.target}

        def disturb(node, value):
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return None
            noise = torch.rand(value.shape, generator=generator) * 2 - 1
            value = value * (1 + noise * bounds.UNIT)
            if node.name == self.wrong or not self.wrong:
                value = value * self.factor
            keep[node.name] = value
            return value

        output, _ = interpret(self.explainer.legal, inputs, dtype=torch.float32, observe=disturb)
        return output[0], output[1]

    def run(self, samples, batches):
        logits, relevance = self._run(samples, {})
        rows = [row for batch in batches for row in batch.rows]
        return logits[rows], relevance[rows]

    def values(self, samples, batch, row, names):
        kept = {}
        logits, relevance = self._run(samples, kept)
        kept |= {"logits": logits, "relevance": relevance}
        return {name: kept[name][row : row + 1] for name in names if name in kept}


def held(explainer, tmp_path, *shape, **options):
    from graphprop.artifact.write import layer_entries, onnx_names

    stages = stages_of(layer_entries(explainer.compiled), onnx_names(explainer.compiled))
    samples = Probes(torch.randn(2, *shape), torch.tensor([0, 1]))
    arbiter = GraphArbiter(explainer.compiled, stages, samples)
    session = Session(tmp_path, stages, arbiter, arbiter.truth(), lambda text: None)
    session.begin()
    return session.compare("noisy", Noisy(explainer, **options))


@pytest.mark.parametrize("wrong", ["", "r_first"])
def test_magnified_rounding_is_told_from_a_wrong_step(wrong, tmp_path):
    explainer = graphprop.compile(
        IllConditioned().eval(), torch.zeros(2, 4), "lrp_epsilon", epsilon=1e-12
    )
    factor = 1.001 if wrong else 1.0
    result = held(explainer, tmp_path, 4, wrong=wrong, factor=factor)
    assert not all(sample.passed for sample in result.samples)
    if wrong:
        assert not result.passed
        assert result.divergence.place == (
            "the relevance of the result of 'first', from the rule of 'second'"
        )
    else:
        assert result.passed
        assert "that is rounding, which the map magnifies" in "".join(backend_lines(result))


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "lrp_z", "rap"])
def test_errors_may_not_pile_up_in_one_direction(method, tmp_path):
    """Each step is off by less than what a map may be off; all together by far more."""
    explainer = explainer_of(method)
    result = held(explainer, tmp_path, 2, 10, 10, factor=1 + 9e-6)
    assert max(sample.error for sample in result.samples) > 5e-5
    assert not result.passed
    assert result.divergence.error < 1e-5


def test_errors_pile_up_in_a_directory_too(directory):
    """The same without the model, in what float32 alone computes."""
    text = (directory / "explainer.py").read_text()
    start, end = text.index("    def forward"), text.index("        return head, relevance")
    lines = text[start:end].splitlines()
    factor = "(1 + 9e-6 * (x.dtype == torch.float32))"
    altered = []
    for line in lines:
        name, equals, value = line.partition(" = ")
        plain = equals and name.strip().isidentifier() and line.startswith("        ")
        altered.append(f"{name} = {factor} * ({value})" if plain and ")" in value else line)
    (directory / "explainer.py").write_text(text[:start] + "\n".join([*altered, text[end:]]))
    report = check_directory(directory, backends=["python"], allow_changed=True)
    (result,) = report.backends
    assert result.problem is None
    assert 2e-5 < result.worst.error < 1e-3
    assert not report.passed
    assert result.divergence.error < 1e-5


def test_errors_are_relative_per_sample_and_absolute_at_zero():
    reference = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    found = torch.tensor([[3.0, 4.5], [0.0, 0.25]])
    assert errors(found, reference) == [0.1, 0.25]


def test_batches_are_of_one_two_and_the_rest():
    found = batches(range(5), "class", 1, 2)
    assert [batch.rows for batch in found] == [[0], [1, 2], [3, 4]]
    assert [batch.rows for batch in batches([3], "none", 1, 2)] == [[3]]
    assert [len(batch.rows) for batch in batches(range(20), "class")] == [8, 8, 4]


def test_rounded_keeps_what_is_known():
    assert rounded(0.123456789123, 1.0, 1e-7) == 0.1234567891
    assert rounded(1e-13, 1.0, 1e-7) == 0.0
    assert str(rounded(-1e-13, 1.0, 1e-7)) == "0.0"
    assert rounded(0.123456789, 1.0, 1e-2) == 0.12346


def test_nothing_beats_an_unknown_error():
    samples = [Comparison(1e-7, 1e-5, 0.0, 1e-5), Comparison(math.nan, 1e-5, 0.0, 1e-5)]
    assert math.isnan(BackendResult("b", samples).worst.error)
    assert not BackendResult("b", samples).passed


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    [(2, 2, 0, 1, False), (3, 1, 1, 1, False), (3, 2, 1, 1, True), (2, 1, 0, 2, False)],
)
def test_reference_max_pool(kernel, stride, padding, dilation, ceil):
    x = torch.randn(2, 3, 7, 6)
    operator = MaxPool.__new__(MaxPool)
    arguments = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "dilations": [dilation] * 2,
        "ceil_mode": int(ceil),
    }
    found, indices = operator._run(x.numpy(), **arguments)
    wanted = nn.functional.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    assert torch.equal(torch.from_numpy(found), wanted)
    assert torch.equal(x.flatten()[torch.from_numpy(indices)], wanted)


@pytest.mark.parametrize("groups", [1, 2])
def test_reference_transposed_convolution(groups):
    x, w = torch.randn(2, 4, 5, 4), torch.randn(4, 3, 3, 2)
    operator = ConvTranspose.__new__(ConvTranspose)
    bias = torch.randn(3 * groups)
    (found,) = operator._run(
        x.numpy(),
        w.numpy(),
        bias.numpy(),
        group=groups,
        strides=[2, 3],
        pads=[1, 0, 1, 0],
        dilations=[1, 2],
        output_padding=[1, 0],
    )
    wanted = nn.functional.conv_transpose2d(x, w, bias, (2, 3), (1, 0), (1, 0), groups, (1, 2))
    torch.testing.assert_close(torch.from_numpy(found), wanted)
