"""The command line: texts, exit codes, and what goes to stdout and what to stderr."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import graphprop
from graphprop import builtin
from graphprop.cli import catalog, commands, main
from graphprop.errors import EquivalenceError, GraphpropError, VerificationError
from graphprop.rules import METHODS, RULES
from support.processes import signaled
from support.sources import NET

COMMANDS = [
    "compile",
    "check",
    "explain",
    "summary",
    "evaluate",
    "figure",
    "report",
    "page",
    "profile",
    "inspect",
    "methods",
]


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
    from graphprop.api import DEFAULT_METHOD

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
    assert "01_canonicalize.txt" in {path.name for path in (tmp_path / "ir").iterdir()}


def test_a_directory_of_someone_else_is_kept(net, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    done = graphprop_command("compile", net, "-o", tmp_path, "--no-onnx", "--no-check")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "--force" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_folder_of_the_model_is_kept_and_refused_at_once(net, tmp_path, monkeypatch, force):
    monkeypatch.setattr(commands, "load_source", lambda *a, **k: pytest.fail("too late"))
    source = tmp_path / "models" / "net.py"
    source.parent.mkdir()
    source.write_text(NET)
    said = one_error(graphprop_command("compile", source, "-o", source.parent, *force), 2)
    assert said == f"{source.parent} holds net.py, which is read: name another one"
    weights = tmp_path / "weights" / "net.pt"
    weights.parent.mkdir()
    weights.touch()
    done = graphprop_command("compile", source, "--weights", weights, "-o", weights.parent, *force)
    assert one_error(done, 2).endswith("holds net.pt, which is read: name another one")
    monkeypatch.chdir(tmp_path)
    assert "the folder you are in" in one_error(
        graphprop_command("compile", source, "-o", ".", *force), 2
    )
    assert source.read_text() == NET


def test_an_output_that_is_no_directory_is_refused_at_once(net, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load_source", lambda *a, **k: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    assert one_error(graphprop_command("compile", net, "-o", "net.onnx"), 2) == (
        "-o names the directory to write several files to, and net.onnx looks like one file: give "
        "-o net"
    )
    (tmp_path / "notes").write_text("precious")
    assert one_error(graphprop_command("compile", net, "-o", "notes"), 2) == (
        "notes is a file: name a directory"
    )
    done = graphprop_command("compile", net, "-o", "out", "--dump-ir", "out/ir")
    assert one_error(done, 2) == (
        "--dump-ir out/ir lies in out, which holds what is compiled alone: name a folder beside it"
    )
    assert os.listdir(tmp_path) == ["notes"]


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
        (MemoryError(), 2, "there is not enough memory (MemoryError): use a smaller input, or"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            2,
            "there is not enough memory",
        ),
        (RuntimeError("I/O error: full (os error 28)"), 2, "No space left on device"),
        (GraphpropError("\x1b[2Jname"), 2, "\\x1b[2Jname"),
    ],
)
def test_a_failure_is_one_message_and_an_exit_code(monkeypatch, error, code, said):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(catalog, "run_methods", fail)
    assert one_error(graphprop_command("methods"), code).startswith(said)


@pytest.mark.parametrize("arguments", [["--debug", "methods"], ["methods", "--debug"]])
def test_debug_shows_the_traceback(monkeypatch, arguments):
    def fail(*arguments):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(catalog, "run_methods", fail)
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


FAKE_TORCH = """
import pathlib, time
pathlib.Path("started").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("as an extension module says it")
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_while_torch_is_imported(tmp_path, number, code, said):
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.path.insert(0, {str(tmp_path)!r}); from graphprop.cli import main; main(['methods'])"
    )
    stderr, returncode = signaled([sys.executable, "-c", program], tmp_path, number)
    assert stderr == f"error: {said}; nothing was left half-written\n"
    assert returncode == code


def shell(text, *arguments):
    code = f"{sys.executable} -c 'from graphprop.cli import main; main()'"
    text = text.replace("graphprop", code)
    command = ["bash", "-c", f"set -o pipefail; {text}", "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", ["--help", "compile --help", "--version"])
@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("| true", 141, ""),
        (">&-", 0, ""),
        (">/dev/full", 2, "No space left on device\n"),
    ],
)
def test_a_stdout_that_takes_nothing(arguments, where, code, said):
    if "full" in where and not os.path.exists("/dev/full"):
        pytest.skip("there is no device that is always full")
    late = "sleep 0.5;" if where == "| true" else ""
    done = shell(f"({late} graphprop {arguments}) {where}")
    assert done.stderr.removeprefix("error: ").removeprefix("the result can't be written: ") == said
    assert done.returncode == code


def test_a_reader_who_has_seen_enough():
    done = shell("graphprop methods | head -1")
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert done.returncode in (0, 141)  # 0: all of it fitted into the pipe in time


def test_a_closed_stderr_changes_nothing(tmp_path):
    assert shell("graphprop check $1 2>&-", tmp_path).returncode == 2


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
    monkeypatch.setattr("graphprop.api.check_directory", lambda *a, **k: report)
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

    from graphprop.artifact.engines import load_explainer

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
        f"there is neither a compiled directory nor a picture {tmp_path / 'no.png'}"
    )
    assert one_error(graphprop_command("explain", folder, digit, "--target", 3), 2) == (
        "the target must be a class from 0 to 2, not 3"
    )
    assert "is a compiled directory" in one_error(graphprop_command("explain", tmp_path, digit), 2)
    done = graphprop_command("explain", folder)
    assert done.exit_code == 2
    assert "Missing argument 'IMAGE...'" in done.stderr


def test_explain_takes_directories_folders_and_globs_in_any_order(compiled, digit, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(compiled[0], other)
    (tmp_path / "more").mkdir()
    shutil.copy(digit, tmp_path / "more" / "digit.png")
    shutil.copy(digit, tmp_path / "more" / "digit_2.png")
    arguments = (digit, compiled[0], tmp_path / "more", tmp_path / "d*.png", other)
    done = graphprop_command("explain", *arguments, "-o", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    images = json.loads(done.stdout)["images"]
    assert [one["image"] for one in images[::2]] == [
        str(digit),
        str(tmp_path / "more" / "digit.png"),
        str(tmp_path / "more" / "digit_2.png"),
    ]
    written = {one["npz"] for one in images}
    assert len(written) == len(images) == 6  # none replaces another


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


def test_methods_lists_all_by_groups_and_in_short():
    done = graphprop_command("methods")
    assert done.exit_code == 0
    entries = [line.split() for line in done.stdout.splitlines() if line.startswith("    ")]
    own = [*builtin.METHODS, *builtin.RULES]
    assert sorted(entry[0] for entry in entries if entry[0] in own) == sorted(own)
    assert ["epsilon_plus_flat", "(default)"] in [entry[:2] for entry in entries]
    assert "  LRP, one rule on every layer" in done.stdout.splitlines()
    assert max(map(len, done.stdout.splitlines())) <= 130
    assert "stabilizer=" not in done.stdout  # parameters stand in the whole entry
    for groups, known in (
        (catalog.METHOD_GROUPS, builtin.METHODS),
        (catalog.RULE_GROUPS, builtin.RULES),
    ):
        assert sorted(name for names in groups.values() for name in names) == sorted(known)


def test_what_the_user_registers_is_a_group_of_its_own(registries):
    graphprop.method("own_for_test", [("*", "epsilon")], parameters={"epsilon": 1e-6})
    listed = graphprop_command("methods").stdout
    assert "own_for_test" in listed.partition("  Registered by the user")[2].partition("RULES")[0]


def test_methods_as_json():
    content = json.loads(graphprop_command("methods", "--json").stdout)
    assert content["version"] == 1
    assert [method["name"] for method in content["methods"]] == list(METHODS)
    assert [rule["name"] for rule in content["rules"]] == list(RULES)
    assert all(method["summary"] and method["source"] for method in content["methods"])
    assert content["methods"][0]["parameters"]["batch_norm"] == "merge"


def test_a_method_is_shown_whole():
    done = graphprop_command("methods", "rap")
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "method rap"
    assert METHODS["rap"].summary in lines
    for pattern, rule, *_ in METHODS["rap"].table:
        assert any(rule in line and RULES[rule].summary.split("``")[0] in line for line in lines)
        assert pattern == "*" or any(line.startswith(pattern) for line in lines)
    assert "bias" not in done.stdout.split("parameter")[1].split("source")[0]
    assert f"source: {METHODS['rap'].source}" in lines
    assert "rule rap" in lines  # one of that name, too
    assert any(line.startswith("Rbar = JP(R) + JN(nu)") for line in lines)


def test_what_parameters_can_be_is_shown():
    lines = [
        " ".join(line.split()) for line in graphprop_command("methods", "hedge").stdout.split("\n")
    ]
    assert "gamma 1 a number from 1 to 2 hedge" in lines
    lines = graphprop_command("methods", "epsilon_plus_flat").stdout.splitlines()
    lines = [" ".join(line.split()) for line in lines]
    assert "bias sink sink, ignored epsilon, z_plus" in lines
    assert lines[0] == "method epsilon_plus_flat (default)"
    assert any("x * opT(w, r / stab(z))" in line for line in lines)


@pytest.mark.parametrize("name", [*METHODS, *RULES])
def test_every_method_and_rule_can_be_shown(name):
    done = graphprop_command("methods", name)
    assert done.exit_code == 0, done.output
    assert name in done.stdout
    assert "``" not in done.stdout


def test_one_method_as_json():
    content = json.loads(graphprop_command("methods", "gradient", "--json").stdout)
    assert [method["name"] for method in content["methods"]] == ["gradient"]
    assert [rule["name"] for rule in content["rules"]] == ["gradient"]


def test_no_such_method():
    assert one_error(graphprop_command("methods", "epsilon_plus_flatt"), 2) == (
        "there is no method 'epsilon_plus_flatt': did you mean 'epsilon_plus_flat'?"
    )


# Methods that are not graphprop's own

MORE = """
import graphprop

@graphprop.rule
def cubes_{0}(layer, x, r, *, power=3.0):
    \"\"\"Shares by the third power.\"\"\"
    return x * layer.opT(layer.weight, r)

graphprop.method("by_{0}", [("*", "cubes_{0}")], summary="Cubes everywhere.")
"""


@pytest.fixture
def registries():
    """Forgets afterwards what a test registers."""
    before = [(registry, dict(registry)) for registry in (METHODS, RULES)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_the_model_s_file_registers_a_method(tmp_path, registries):
    source = tmp_path / "net.py"
    source.write_text(NET + MORE.format("file"))
    options = ("-o", tmp_path / "o", "--no-onnx", "--no-check", "--set", "power=2")
    done = graphprop_command("compile", source, "-m", "by_file", *options[:4])
    assert done.exit_code == 0, done.output
    done = graphprop_command("inspect", source, "-m", "by_file", "--rule", "fc=cubes_file:power=2")
    assert done.exit_code == 0, done.output
    assert "cubes_file(power=2)" in done.stdout
    assert "registered anew" not in done.stdout


@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_a_module_registers_a_method(net, tmp_path, registries, monkeypatch, command):
    (tmp_path / "more_rules.py").write_text(MORE.format("module"))
    monkeypatch.chdir(tmp_path)
    options = ["-o", "o", "--no-onnx", "--no-check"] if command == "compile" else []
    assert "there is no method 'by_module'" in one_error(
        graphprop_command(command, net, "-m", "by_module", *options), 2
    )
    done = graphprop_command(command, net, "-m", "by_module", "--import", "more_rules.py", *options)
    assert done.exit_code == 0, done.output
    assert "cubes_module" in done.stdout


def test_methods_of_an_installed_module(tmp_path, registries, monkeypatch):
    (tmp_path / "rules_for_test.py").write_text(MORE.format("installed") + "print('hello')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    done = graphprop_command("methods", "by_installed", "--import", "rules_for_test", "--json")
    assert json.loads(done.stdout)["methods"][0]["summary"] == "Cubes everywhere."
    assert done.stderr == "hello\n"


def test_an_import_that_fails_is_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import sys\nsys.exit('no')\n")
    for name, said in (
        ("mine", "there is no module 'mine': did you mean mine.py?"),
        ("mine.py", "mine.py can't be run (mine.py:2): SystemExit: no"),
        ("yours.py", "there is no file yours.py: there are: mine.py"),
        ("a/b", "'a/b' is neither a .py file nor the name of a module"),
        ("no_such_module", "there is no module 'no_such_module': install the package into"),
    ):
        assert one_error(graphprop_command("methods", "--import", name), 2).startswith(said)


def test_a_method_registered_anew_is_said(tmp_path, registries):
    source = tmp_path / "net.py"
    source.write_text(NET + 'import graphprop\ngraphprop.method("lrp_z", [("*", "epsilon")])\n')
    done = graphprop_command("inspect", source)
    said = "note: the method 'lrp_z' is not graphprop's own, but one registered anew"
    assert said in done.stdout.splitlines()


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


def test_the_default_directory_has_a_name_that_systems_take():
    assert str(commands.default_directory("net v2", "rap")) == "build/net_v2-rap"
    long = [commands.default_directory(c + "n" * 250, "rap").name for c in "ab"]
    assert all(len(name) <= 220 for name in long)
    assert long[0] != long[1]
