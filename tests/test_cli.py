"""The command line: texts, exit codes, and what goes to stdout and what to stderr."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import graphprop
from graphprop import commands, console
from graphprop.cli import main
from graphprop.errors import EquivalenceError, GraphpropError, VerificationError
from graphprop.rules import METHODS, RULES

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

example_input = torch.zeros(2, 1, 6, 6)
preprocessing = {"mean": [0.5], "std": [0.5]}
"""
COMMANDS = ["compile", "check", "explain", "inspect", "methods"]


def graphprop_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def compiled(net, tmp_path_factory):
    """A compiled directory, and what compiling it printed."""
    folder = tmp_path_factory.mktemp("build") / "net"
    done = graphprop_command("compile", net, "-o", folder)
    assert done.exit_code == 0, done.output
    return folder, done


@pytest.fixture
def digit(tmp_path):
    path = tmp_path / "digit.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# Help


def test_help_names_the_commands_in_the_order_of_use():
    done = graphprop_command("--help")
    assert done.exit_code == 0
    listed = done.output.partition("Commands:")[2].split("\n")
    assert [line.split()[0] for line in listed if line.strip()] == COMMANDS
    assert "graphprop compile models/digits.py" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    done = graphprop_command(name, "--help")
    assert done.exit_code == 0
    assert "graphprop compile model.py" in done.output or f"  graphprop {name} " in done.output
    assert "--json" in done.output
    assert "--debug" in done.output
    assert max(map(len, done.output.splitlines())) <= 100


def test_help_names_the_default_method():
    from graphprop.explainer import DEFAULT_METHOD

    assert f"[default: {DEFAULT_METHOD}]" in graphprop_command("compile", "--help").output


def test_help_says_whose_code_is_run():
    assert "is code, and is run" in graphprop_command("explain", "-h").output
    assert "is code, and is run" in graphprop_command("compile", "-h").output


def test_version():
    assert graphprop_command("--version").output == f"graphprop, version {graphprop.__version__}\n"


def test_help_and_version_need_no_torch():
    code = (
        "import sys\n"
        "from graphprop.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_names_are_loaded_when_asked_for():
    assert set(graphprop.__all__) <= set(dir(graphprop))
    for name in graphprop.__all__:
        assert getattr(graphprop, name) is not None
    with pytest.raises(AttributeError, match="module 'graphprop' has no attribute 'nothing'"):
        _ = graphprop.nothing


# compile


def test_compile_says_what_came_of_it(compiled):
    folder, done = compiled
    assert done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("net: compiled with epsilon_plus_flat in ")
    assert "input 1,6,6 -> 3 logits" in lines
    assert "roles 1 input, 1 dense_head" in lines
    assert "rules 1 flat, 1 epsilon" in lines
    assert "batch norms 1 merged" in lines
    assert f"{folder}/" in lines
    assert any(line.startswith("explainer.py ") for line in lines)
    assert "check: passed" in lines
    assert any(line.startswith("python") and "allowed" in line for line in lines)
    assert any(line.startswith("input") and len(line.split()) == 4 for line in lines)


def test_compile_writes_the_directory(compiled):
    folder, _ = compiled
    written = {path.name for path in folder.iterdir()}
    assert {"explainer.py", "weights.safetensors", "explainer.onnx", "manifest.json"} <= written


def test_compile_as_json(net, tmp_path):
    done = graphprop_command(
        "compile", net, "-o", tmp_path / "o", "--no-onnx", "--no-check", "--json"
    )
    assert done.exit_code == 0
    content = json.loads(done.stdout)
    assert content["version"] == 1
    assert content["command"] == "compile"
    assert content["directory"] == str(tmp_path / "o")
    assert content["manifest"]["input_shape"] == [1, 6, 6]
    assert not (tmp_path / "o" / "explainer.onnx").exists()


def test_compile_into_the_default_directory(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = graphprop_command(
        "compile", net, "-m", "lrp_epsilon", "--set", "epsilon=0.5", "--no-onnx", "--no-check"
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "build" / "net-lrp_epsilon" / "explainer.py").exists()
    assert "epsilon=0.5" in done.stdout
    assert "not checked" in done.stdout


def test_compile_dumps_each_pass(net, tmp_path):
    done = graphprop_command(
        "compile", net, "-o", tmp_path / "o", "--dump-ir", tmp_path / "ir", "--no-onnx",
        "--no-check",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "01_canonicalise.txt" in {path.name for path in (tmp_path / "ir").iterdir()}


def test_a_directory_of_someone_else_is_kept(net, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    done = graphprop_command("compile", net, "-o", tmp_path, "--no-onnx", "--no-check")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "--force" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


# Errors and exit codes


def one_error(done, code):
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").strip()


def test_what_does_not_exist_is_one_message(net):
    assert one_error(graphprop_command("compile", net.parent / "nett.py"), 2).endswith(
        "did you mean 'net.py'?"
    )
    assert one_error(graphprop_command("inspect", net, "-m", "epsilon_plus_flatt"), 2) == (
        "there is no method 'epsilon_plus_flatt': did you mean 'epsilon_plus_flat'?"
    )
    assert one_error(graphprop_command("inspect", net, "--set", "epsilom=1"), 2) == (
        "the method 'epsilon_plus_flat' has no parameter 'epsilom': did you mean 'epsilon'?"
    )
    assert one_error(graphprop_command("inspect", net, "--set", "name=x"), 2).startswith(
        "the method 'epsilon_plus_flat' has no parameter 'name'"
    )
    assert one_error(graphprop_command("inspect", net, "--rule", "fc=epsilom:epsilon=1"), 2) == (
        "there is no rule 'epsilom': did you mean 'epsilon'?"
    )
    assert one_error(graphprop_command("inspect", net, "--role", "fc=head"), 2).startswith(
        "there is no role 'head'"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "epsilon"], "Invalid value for --set: write KEY=VALUE, not 'epsilon'"),
        (["--rule", "fc"], "Invalid value for --rule: write PATTERN=RULE, such as"),
        (["--role", "fc"], "Invalid value for --role: write PATTERN=ROLE, such as"),
        (["--input-shape", "3x224"], "'3x224' is no shape: give whole numbers without the batch"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_is_click_s_own(net, options, said):
    done = graphprop_command("inspect", net, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage: graphprop inspect " in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (GraphpropError("mend this"), 2, "mend this"),
        (EquivalenceError("they differ"), 1, "they differ"),
        (VerificationError("broken"), 3, "broken"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written"),
        (ZeroDivisionError("by zero"), 3, "ZeroDivisionError: by zero. This is a defect in"),
        (GraphpropError("\x1b[2Jname"), 2, "\\x1b[2Jname"),
    ],
)
def test_a_failure_is_one_message_and_an_exit_code(monkeypatch, error, code, said):
    def fail(as_json):
        raise error

    monkeypatch.setattr(commands, "run_methods", fail)
    assert one_error(graphprop_command("methods"), code).startswith(said)


@pytest.mark.parametrize("arguments", [["--debug", "methods"], ["methods", "--debug"]])
def test_debug_shows_the_traceback(monkeypatch, arguments):
    def fail(as_json):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(commands, "run_methods", fail)
    done = graphprop_command(*arguments)
    assert done.exit_code == 3
    assert "Traceback (most recent call last)" in done.stderr
    monkeypatch.setenv("GRAPHPROP_DEBUG", "1")
    assert "Traceback" in graphprop_command("methods").stderr


def test_sigterm_ends_with_143(tmp_path):
    source = tmp_path / "slow.py"
    source.write_text(
        "import time, pathlib\n"
        "pathlib.Path(__file__).with_name('started').touch()\n"
        "time.sleep(60)\n"
    )
    code = "import sys; from graphprop.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "compile", str(source)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if (tmp_path / "started").exists():
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143
    assert stderr == "error: terminated; nothing was left half-written\n"
    assert {path.name for path in tmp_path.iterdir()} == {"slow.py", "started"}


# check


def test_check_passes(compiled):
    done = graphprop_command("check", compiled[0], "--samples", "1")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("check: passed")
    assert done.stderr == ""


def test_check_as_json(compiled):
    done = graphprop_command("check", compiled[0], "--samples", "1", "--json")
    content = json.loads(done.stdout)
    assert content["version"] == 1
    assert content["command"] == "check"
    assert content["passed"] is True
    assert {entry["name"] for entry in content["check"]["backends"]} >= {"python"}


def test_check_fails_with_1(compiled, monkeypatch):
    from graphprop.checking.report import BackendResult, Report

    report = Report("float64", [0], {}, [BackendResult("onnx", problem="it is off")])
    monkeypatch.setattr("graphprop.check.check_directory", lambda *a, **k: report)
    done = graphprop_command("check", compiled[0])
    assert done.exit_code == 1
    assert "check: FAILED" in done.stdout
    assert "it is off" in done.stdout
    done = graphprop_command("check", compiled[0], "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["passed"] is False


def test_check_of_something_else(tmp_path):
    assert str(tmp_path) in one_error(graphprop_command("check", tmp_path), 2)


# explain


def test_explain_says_what_was_written(compiled, digit, tmp_path):
    done = graphprop_command("explain", compiled[0], digit, "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    # biases at random swallow most of the relevance
    assert [line for line in done.stderr.splitlines() if "relevance vanishes" not in line] == []
    header, line = (line.split() for line in done.stdout.splitlines())
    assert header == ["picture", "class", "logit", "relevance", "sum", "scale", "written"]
    assert line[0] == str(digit)
    assert line[-1] == str(tmp_path / "o" / "digit.png")
    assert (tmp_path / "o" / "digit.npz").exists()


def test_explain_as_json(compiled, digit, tmp_path):
    done = graphprop_command(
        "explain", compiled[0], digit, "--target", 2, "-o", tmp_path / "o", "--json"
    )
    content = json.loads(done.stdout)
    assert content["version"] == 1
    assert content["command"] == "explain"
    assert content["images"][0]["target"] == 2
    assert content["images"][0]["limit"] > 0


def test_explain_uses_the_preprocessing_of_the_model(compiled, digit, tmp_path):
    import torch

    from graphprop.explain import load_explainer

    graphprop_command("explain", compiled[0], digit, "-o", tmp_path / "o")
    x = torch.from_numpy(np.array(Image.open(digit)))[None, None] / 255
    _, relevance = load_explainer(compiled[0])((x - 0.5) / 0.5)
    written = np.load(tmp_path / "o" / "digit.npz")["relevance"]
    torch.testing.assert_close(torch.from_numpy(written), relevance[0])


def test_explain_warns_on_stderr(net, tmp_path):
    black = tmp_path / "gray.png"
    source = tmp_path / "net.py"
    source.write_text(NET.replace('"mean": [0.5]', '"mean": [0.0]').replace("[0.5]", "[1.0]"))
    Image.new("L", (6, 6)).save(black)
    graphprop_command(
        "compile", source, "-m", "lrp_z", "-o", tmp_path / "c", "--no-onnx", "--no-check"
    )
    done = graphprop_command("explain", tmp_path / "c", black, "-o", tmp_path / "o")
    assert done.exit_code == 0
    assert done.stderr.startswith(f"warning: {black}, class ")
    assert "zero everywhere" in done.stderr
    assert done.stdout.split()[-1] == str(tmp_path / "o" / "gray.npz")


def test_explain_refuses(compiled, digit, tmp_path):
    folder = compiled[0]
    assert one_error(graphprop_command("explain", folder, tmp_path / "no.png"), 2) == (
        f"there is no picture {tmp_path / 'no.png'}"
    )
    assert one_error(graphprop_command("explain", folder, digit, "--target", 3), 2) == (
        "the target must be a class from 0 to 2, not 3"
    )
    assert str(tmp_path) in one_error(graphprop_command("explain", tmp_path, digit), 2)
    done = graphprop_command("explain", folder)
    assert done.exit_code == 2
    assert "Missing argument 'IMAGE...'" in done.stderr


# inspect


def test_inspect_shows_layers_and_batch_norms(net):
    done = graphprop_command("inspect", net, "--rule", "type:Linear=epsilon:epsilon=0.25")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["layer", "operator", "shape", "role", "input", "sign", "rule"] in lines
    assert ["features.0", "conv", "4x4x4", "input,", "conv_stack", "mixed",
            "flat(stabilizer=1e-06)"] in lines  # fmt: skip
    assert ["fc", "linear", "3", "dense_head,", "logits", "non-negative", "epsilon(epsilon=0.25,",
            "bias=sink)"] in lines  # fmt: skip
    assert ["features.1", "merged", "into", "features.0"] in lines
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_inspect_as_json(net):
    done = graphprop_command("inspect", net, "--json", "--set", "batch_norm=pass")
    content = json.loads(done.stdout)
    assert content["version"] == 1
    assert content["command"] == "inspect"
    assert content["parameters"]["batch_norm"] == "pass"
    assert list(content["batch_norms"]) == ["features.1"]
    assert content["batch_norms"]["features.1"].startswith("pass")
    assert [layer["path"] for layer in content["layers"]][:2] == ["features.0", "features.1"]


def test_inspect_does_not_cut_long_names(tmp_path):
    name = "a_layer_with_a_name_" * 8
    source = tmp_path / "net.py"
    source.write_text(NET.replace("fc", name))
    assert f"{name}  linear" in graphprop_command("inspect", source).stdout


# methods


def test_methods_lists_all():
    done = graphprop_command("methods")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert set(METHODS) | set(RULES) <= {line.removesuffix(" (default)") for line in lines}
    assert "epsilon_plus_flat (default)" in lines
    assert (
        "  epsilon=1e-06, bias=sink, stabilizer=1e-06, start=logit, batch_norm=merge, norm=pass"
        in lines
    )


def test_methods_as_json():
    content = json.loads(graphprop_command("methods", "--json").stdout)
    assert content["version"] == 1
    assert [method["name"] for method in content["methods"]] == list(METHODS)
    assert [rule["name"] for rule in content["rules"]] == list(RULES)
    assert all(method["summary"] and method["source"] for method in content["methods"])
    assert content["methods"][0]["parameters"]["batch_norm"] == "merge"


# Reading options


@pytest.mark.parametrize(
    ("text", "pattern", "rule", "own"),
    [
        ("features.0=flat", "features.0", "flat", {}),
        ("a=b=flat", "a=b", "flat", {}),
        ("a=flat=flat", "a=flat", "flat", {}),
        ("role:input=zB:low=-1,0.5,high=2", "role:input", "zB", {"low": (-1, 0.5), "high": 2}),
        ("type:Conv2d=epsilon:epsilon=0.1,bias=sink", "type:Conv2d", "epsilon",
         {"epsilon": 0.1, "bias": "sink"}),
        ("fc=nothing:z=1", "fc", "nothing", {"z": 1}),
    ],
)  # fmt: skip
def test_a_rule_is_split_where_a_rule_follows(text, pattern, rule, own):
    assert commands.split_rule(text) == (pattern, (rule, own))


def test_a_role_is_split_at_the_last_sign():
    assert commands.split_role("a=b=input") == ("a=b", "input")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (553e6, "553 MB"), (2.5e9, "2.50 GB")],
)
def test_file_sizes(count, shown):
    assert console.file_size(count) == shown
