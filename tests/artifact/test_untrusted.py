"""A directory from anyone: ONNX Runtime explains without running or opening what is not data."""

import json
import shutil
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from graphprop.artifact import engines
from graphprop.artifact.manifest import read_manifest
from graphprop.artifact.schema import complaint_about
from graphprop.checking.stages import stages_of
from graphprop.cli import main
from graphprop.errors import InputError, MethodError, OutputError
from graphprop.pictures.preprocessing import Preprocessing
from support import hostile
from support.sources import NET

TRAP = "import pathlib\npathlib.Path({!r}).touch()\n"


def graphprop_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "net.py").write_text(NET)
    done = graphprop_command("compile", folder / "net.py", "-o", folder / "net")
    assert done.exit_code == 0, done.output
    return folder / "net"


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "digit.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def trapped(compiled, tmp_path):
    """A copy whose code would leave a trace."""
    folder = tmp_path / "net"
    shutil.copytree(compiled, folder)
    (folder / "explainer.py").write_text(TRAP.format(str(tmp_path / "ran")))
    return folder


def test_onnxruntime_explains_as_python_does(compiled, digit, tmp_path):
    for target in ((), ("--target", "1")):
        found = []
        for backend in ("python", "onnxruntime"):
            done = graphprop_command(
                "explain", compiled, digit, *target, "--backend", backend, "-o", tmp_path / backend
            )
            assert done.exit_code == 0, done.output
            found.append(np.load(tmp_path / backend / "digit.npz"))
        assert found[0]["target"] == found[1]["target"]
        for name in ("logits", "relevance"):
            np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_onnxruntime_runs_no_code(trapped, digit, tmp_path):
    out = ("-o", tmp_path / "o")
    done = graphprop_command("explain", trapped, digit, "--backend", "onnxruntime", *out)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "ran").exists()
    graphprop_command("explain", trapped, digit, *out)
    assert (tmp_path / "ran").exists()


def refused(arguments, said):
    began = time.perf_counter()
    done = graphprop_command(*arguments)
    assert time.perf_counter() - began < 20
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "defect" not in done.stderr
    assert done.stderr.isprintable() or done.stderr.rstrip("\n").isprintable()
    assert len(done.stderr) < 1000
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize("name", hostile.CASES)
@pytest.mark.parametrize("command", ["explain", "check"])
def test_a_hostile_directory_is_one_message(trapped, digit, tmp_path, name, command):
    said, change = hostile.CASES[name]
    change(trapped)
    pictures = [digit, "-o", tmp_path / "o"] if command == "explain" else []
    refused([command, trapped, *pictures, "--backend", "onnxruntime"], said)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", hostile.ONNX_CASES)
def test_a_hostile_onnx_file_is_one_message(trapped, digit, tmp_path, name):
    said, change = hostile.ONNX_CASES[name]
    change(trapped)
    arguments = ["explain", trapped, digit, "--backend", "onnxruntime", "-o", tmp_path / "o"]
    refused(arguments, said)
    assert not (tmp_path / "ran").exists()


JUNK = (None, True, -1, 0, 2**70, 1e308, "x", "../x", "\x1b[2J", [], [[]], {}, {"a": []})


def places(content, path=()):
    """The path of every field, inner ones first."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        if isinstance(value, dict | list):
            yield from list(places(value, (*path, key)))[:40]
        yield (*path, key)


def test_no_field_of_a_manifest_can_be_a_defect(compiled):
    """Whatever a field is, it is refused, or of a type that the next steps can work with."""
    content = json.loads((compiled / "manifest.json").read_bytes())
    outcomes = Counter()
    for path in places(content):
        for junk in JUNK:
            changed = json.loads(json.dumps(content))
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = junk
            outcomes[complaint_about(changed) is None] += 1
            if complaint_about(changed) is None:
                assert stages_of(changed["layers"], changed["onnx_names"])
                with suppress(InputError):
                    Preprocessing.of(changed)
    assert outcomes[False] > 1000
    assert outcomes[True] > 500  # notes, versions and such can be many things


FORBIDDEN = ("data lie", "keeps a constant", "isn't one of ONNX", "a loop", "without end")


@pytest.mark.parametrize(
    "name",
    [name for name, (said, _) in hostile.ONNX_CASES.items() if any(t in said for t in FORBIDDEN)],
)
def test_a_hostile_onnx_file_is_not_run_by_the_check(trapped, tmp_path, name):
    said, change = hostile.ONNX_CASES[name]
    change(trapped)
    refused(["check", trapped, "--backend", "onnxruntime"], said)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def endless(trapped, monkeypatch):
    """A directory whose ONNX file computes for hours, taken for harmless."""
    hostile.ONNX_CASES["loop_without_end"][1](trapped)
    monkeypatch.setattr(engines, "forbidden_in", lambda *given: None)
    return engines.engine_of(trapped, read_manifest(trapped), "onnxruntime")


def test_what_takes_too_long_is_stopped(endless, monkeypatch):
    monkeypatch.setattr(engines, "LONGEST_RUN", 0.5)
    with pytest.raises(OutputError, match=r"was stopped: it took more than 0.5 seconds for one"):
        endless(torch.zeros(1, 1, 6, 6), 0)


def test_an_interrupt_stops_onnxruntime(endless):
    began = time.perf_counter()
    main_thread = threading.get_ident()
    timer = threading.Timer(0.5, signal.pthread_kill, (main_thread, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            endless(torch.zeros(1, 1, 6, 6), 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - began < 10


def test_a_method_with_a_loop_is_not_refused(tmp_path, digit):
    (tmp_path / "net.py").write_text(NET)
    done = graphprop_command(
        "compile", tmp_path / "net.py", "-m", "smoothgrad", "-o", tmp_path / "net"
    )
    assert done.exit_code == 0, done.output
    arguments = ("explain", tmp_path / "net", digit, "--backend", "onnxruntime")
    assert graphprop_command(*arguments, "-o", tmp_path / "o").exit_code == 0


def test_a_link_inside_the_directory_is_fine(trapped, digit, tmp_path):
    (trapped / "explainer.onnx").rename(trapped / "v2.onnx")
    (trapped / "explainer.onnx").symlink_to("v2.onnx")
    assert read_manifest(trapped)["classes"] == 3
    link = tmp_path / "link"
    link.symlink_to(trapped)
    assert read_manifest(link)["classes"] == 3


def test_half_a_surrogate_pair_is_escaped(trapped, digit, tmp_path):
    hostile.edited(trapped, lambda content: content.update(method="a\ud800"))
    arguments = ("explain", trapped, digit, "--backend", "onnxruntime", "-o", tmp_path / "o")
    assert graphprop_command(*arguments).exit_code == 0
    assert Image.open(tmp_path / "o" / "digit.png").text["Method"] == "a\\ud800"


def test_no_such_backend(compiled, digit):
    with pytest.raises(MethodError, match="there is no backend 'onnx': did you mean 'onnxruntime'"):
        engines.engine_of(compiled, read_manifest(compiled), "onnx")
    done = graphprop_command("explain", compiled, digit, "--backend", "onnx")
    assert done.exit_code == 2
    assert "is not one of 'python', 'onnxruntime'" in done.stderr


# The code of a directory, where it is run


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)", "can't be loaded (SystemExit: 0, line 2): compile it again"),
        ("raise SystemExit", "can't be loaded (SystemExit: , line 1)"),
        ("def load():\n    exit('so long')", "can't be loaded (SystemExit: so long, line 2)"),
        ("1 +", "can't be loaded (SyntaxError: invalid syntax"),
        ("def load():\n    return lambda x, t: exit(3)", "fails (SystemExit: 3, line 2)"),
        ("def load():\n    return lambda x, t: 1 / 0", "fails (ZeroDivisionError: division by"),
        ("def load():\n    return lambda x, t: (x, x)", "returns logits of shape (1, 1, 6, 6)"),
        ("def load():\n    return lambda x, t: 3", "fails (TypeError"),
    ],
)
def test_what_goes_wrong_in_the_code_is_one_message(trapped, digit, tmp_path, code, said):
    (trapped / "explainer.py").write_text(code)
    refused(["explain", trapped, digit, "-o", tmp_path / "o"], said)


@pytest.mark.parametrize("code", ["exit(0)", "def load(dtype=None):\n    raise SystemExit"])
def test_code_that_ends_the_process_fails_the_check(trapped, code):
    (trapped / "explainer.py").write_text(code)
    done = graphprop_command("check", trapped, "--backend", "python")
    assert done.exit_code == 1
    assert "explainer.py does not run: SystemExit" in done.stdout


def test_what_the_code_prints_is_no_result(compiled, trapped, digit, tmp_path):
    source = (compiled / "explainer.py").read_text()
    (trapped / "explainer.py").write_text(source + "\nprint('hello')\n")
    done = graphprop_command("explain", trapped, digit, "-o", tmp_path / "o", "--json")
    assert done.stdout.startswith("{")
    assert done.stderr.startswith("hello\n")


def test_what_failed_its_check_explains_nothing(trapped, digit):
    hostile.edited(trapped, lambda content: content["check"].update(passed=False))
    refused(
        ["explain", trapped, digit],
        f"{trapped} failed its check when it was compiled, so that its maps are wrong: "
        f"`graphprop check {trapped}` says where",
    )


def test_errors_name_the_directory(tmp_path):
    with pytest.raises(OutputError, match="there is no directory"):
        read_manifest(tmp_path / "nowhere")
