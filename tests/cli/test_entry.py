"""The entry point: how fast it answers, what interrupts do to it, and what the shell completes."""

import os
import signal
import subprocess
import sys

import pytest

from graphprop import METHODS, RULES, builtin
from graphprop.rules import methods
from support.processes import signaled

RUN = [sys.executable, "-m", "graphprop"]


def completed(*words):
    """What the shell is offered for the last of the words."""
    environment = {
        **os.environ,
        "_GRAPHPROP_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["graphprop", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(RUN, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_names_are_those_that_are_registered():
    own = {name for name, rule in RULES.items() if rule.function.__module__.startswith("graphprop")}
    assert own == set(builtin.RULES)
    assert set(builtin.METHODS) <= METHODS.keys()
    assert len(set(builtin.METHODS)) == 35
    assert methods.DEFAULT_METHOD in builtin.METHODS


def test_every_method_of_a_fresh_process_is_named():
    code = "import graphprop; print(*graphprop.METHODS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(builtin.METHODS)


@pytest.mark.parametrize(
    ("arguments", "kept_out"),
    [
        (["--help"], ["torch", "numpy", "onnx", "networkx"]),
        (["methods"], ["onnx", "onnx_ir", "sympy", "networkx", "onnxruntime", "graphprop.api"]),
    ],
)
def test_what_answers_at_once_imports_little(arguments, kept_out):
    code = (
        f"import sys; sys.argv[1:] = {arguments}\n"
        "from graphprop.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {kept_out} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_shell_completes_names():
    assert completed("compile", "model.py", "--method", "rap") == ["plain,rap", "plain,rap-bn"]
    assert completed("methods", "zB") == ["plain,zB"]
    assert "plain,inspect" in completed("in")
    assert completed("inspect", "mod") == ["file,mod"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_given_its_script(shell):
    environment = {**os.environ, "_GRAPHPROP_COMPLETE": f"{shell}_source"}
    done = subprocess.run(RUN, env=environment, capture_output=True, text=True)
    assert "_GRAPHPROP_COMPLETE" in done.stdout or "Bash version" in done.stderr


SLOW_CLICK = """
import pathlib, time
pathlib.Path("started").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_while_the_command_is_imported(tmp_path, number, code, message):
    (tmp_path / "click.py").write_text(SLOW_CLICK)
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.path.insert(0, {str(tmp_path)!r}); from graphprop.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "methods"]
    stderr, returncode = signaled(command, tmp_path, number)
    assert stderr == f"error: {message}; nothing was left half-written\n"
    assert returncode == code
