"""What surrounds the code: one version everywhere, pinned and tested dependencies, completion."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import graphprop

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras: str) -> list[Requirement]:
    """What the package and these extras need."""
    texts = [text for extra in extras for text in EXTRAS[extra]]
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *texts]]
    return [needed for needed in found if needed.name != PROJECT["name"]]


def pins(name: str) -> dict[str, str]:
    """The versions in a file of constraints."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(separator == "==" for _, separator, _ in found)
    return {canonicalize_name(package): pinned for package, _, pinned in found}


def test_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.search(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert released is not None
    assert released[1] == graphprop.__version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {graphprop.__version__}\n" in citation
    assert f"\ndate-released: {released[2]}\n" in citation


def test_installed_version_is_the_sources():
    try:
        installed = version("graphprop")
    except PackageNotFoundError:
        pytest.skip("graphprop is run from its source and not installed")
    assert installed == graphprop.__version__


def test_types_are_declared():
    assert (Path(graphprop.__file__).parent / "py.typed").is_file()


def test_every_dependency_is_pinned():
    pinned = pins("constraints.txt")
    for needed in requirements(*EXTRAS):
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), needed


def test_lower_bounds_are_the_versions_tested():
    lowest = pins("constraints-lowest.txt")
    for needed in requirements("test"):
        (bound,) = needed.specifier
        assert bound.operator == ">=", needed
        # ">=2.0" means 2.0.0: the files name what pip installs
        tested = lowest[canonicalize_name(needed.name)]
        assert Requirement(f"x=={tested}").specifier.contains(bound.version), needed


def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m graphprop`` outside the checkout."""
    folder = str(Path(graphprop.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": folder, **variables}
    return subprocess.run(
        [sys.executable, "-m", "graphprop", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(sys.executable).parent,
    )


def test_package_is_a_program():
    done = run_command("--version")
    assert (done.returncode, done.stdout) == (0, f"graphprop, version {graphprop.__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    done = run_command(_GRAPHPROP_COMPLETE=f"{shell}_source")
    assert "_graphprop_completion" in done.stdout
    assert f"_GRAPHPROP_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("graphprop ch", ["check"]),
        ("graphprop compile --met", ["--method"]),
        ("graphprop check --al", ["--allow-changed"]),
    ],
)
def test_completion_without_torch(words, completed):
    done = run_command(
        _GRAPHPROP_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(words.count(" ")),
        PYTHONPROFILEIMPORTTIME="1",
    )
    assert done.stdout.split() == [f"plain,{word}" for word in completed]
    assert "click" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
