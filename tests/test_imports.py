"""Imports go one way through the package, lazy and type-only imports included."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Lint the package in a folder by the contracts of its ``pyproject.toml``."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {LINT}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_go_one_way() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        (
            "ops/base.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from graphprop import rules\n",
            "graphprop.ops is not allowed to import graphprop.rules",
        ),
        (
            "artifact/manifest.py",
            "def lazy():\n    from graphprop.checking.check import check_directory\n",
            "graphprop.artifact is not allowed to import graphprop.checking",
        ),
        (
            "ir/network.py",
            "import graphprop\n",  # the public names are imported from above
            "graphprop.ir is not allowed to import graphprop.api",
        ),
        ("places.py", "", "places"),
    ],
)
def test_an_import_back_up_is_found(tmp_path: Path, module: str, text: str, broken: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "graphprop", tmp_path / "graphprop", ignore=ignored)
    with (tmp_path / "graphprop" / module).open("a") as file:
        file.write(text)
    done = lint(tmp_path)
    assert done.returncode != 0
    assert broken in " ".join((done.stdout + done.stderr).split())
