"""Build the wheel and the sdist, install the wheel into an empty environment, and test it there.

    python tools/package.py

The environment is made anew; nothing in it comes from the checkout. Outside the checkout, the
command and the README's example of the library are run with the installed package. Then the tests
of the unpacked sdist are run, after its copy of the package was removed: they import the installed
one. By default these are the tests that are not marked slow, about two minutes: a package is broken
by a file or a dependency that is missing, which shows in the first test that needs it, while the
slow tests measure the same numbers that they measure in the checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "package"
"""Where everything is built and installed: removed and made anew."""
TORCH = "torch==2.13.0"
"""Installed first, by its exact version: pip then finds the build without CUDA."""
FAST = ("-m", "not slow")
PEERS = ("torchvision", "zennit", "captum", "timm")
"""What the tests compare with; without dependencies, of which they ask for older versions."""
NEEDED_BY_PEERS = ("tqdm", "pyyaml", "huggingface_hub")
"""Those of their dependencies that they do need."""
NOT_IN_SDIST = {".ci", ".gitignore"}
"""What only a checkout needs."""

SETTING = """\
import torch
from torch import nn

torch.manual_seed(0)
features = [nn.Conv2d(3, 4, 3, stride=4), nn.ReLU()]
for _ in range(5):
    features += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(4, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


model, images = Model(), torch.randn(3, 3, 224, 224)
"""
"""What the README's example takes as given: a model with `features` and a batch of images."""

RESULT = """
assert logits.shape == (3, 5) and relevance.shape == images.shape, (logits.shape, relevance.shape)
assert relevance.abs().sum() > 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tests", action="store_true", help="run no tests")
    parser.add_argument(
        "pytest", nargs="*", default=[*FAST, "-n", "2"], help="options of pytest, after --"
    )
    arguments = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    elsewhere = FOLDER / "elsewhere"
    elsewhere.mkdir(parents=True)

    wheel, sdist = build(FOLDER / "dist")
    environment = create_environment(FOLDER / "environment", wheel)
    try_installed(environment, elsewhere)
    if not arguments.no_tests:
        step("installing what the tests need")
        install(environment, f"{wheel}[dev]", *NEEDED_BY_PEERS)
        install(environment, "--no-deps", *PEERS)
        run_tests(environment, sdist, FOLDER / "sdist", arguments.pytest)
    step("everything passed")
    print(wheel, sdist, sep="\n")


def step(text: str) -> None:
    """Print what is done now, and when."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Run a command in a folder, without what this process' environment says of Python."""
    cleared = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in cleared}
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run(command, cwd=folder, env=environment, check=True)


def build(target: Path) -> tuple[Path, Path]:
    """Build the wheel from the sdist, as an installer without the wheel would; look into both."""
    step("building the sdist, and from it the wheel")
    run([sys.executable, "-m", "build", "--quiet", "--outdir", target, ROOT], ROOT)
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        with tarfile.open(sdist) as archive:
            held = {name.partition("/")[2] for name in archive.getnames()}
        missing = [
            name
            for name in listed.stdout.splitlines()
            if name not in held and NOT_IN_SDIST.isdisjoint({name, name.partition("/")[0]})
        ]
        if missing:
            sys.exit(f"not in the sdist (see MANIFEST.in): {', '.join(missing)}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    foreign = [n for n in names if not re.match(r"graphprop(/|-[\d.]+\w*\.dist-info/)", n)]
    if foreign:
        sys.exit(f"in the wheel, but not of the package: {', '.join(foreign)}")
    if not {"graphprop/py.typed", "graphprop/__main__.py"} <= {*names}:
        sys.exit("the wheel lacks py.typed or __main__.py")
    return wheel, sdist


def create_environment(folder: Path, wheel: Path) -> Path:
    """Create an empty environment, and install the wheel and what it depends on; its programs."""
    step("installing the wheel into an empty environment (torch is large: this takes minutes)")
    run([sys.executable, "-m", "venv", folder], ROOT)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    install(programs, TORCH)
    install(programs, str(wheel))
    return programs


def install(programs: Path, *arguments: str) -> None:
    """Install packages in the pinned versions."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    run([programs / "python", "-m", "pip", "install", *quiet, *constraints, *arguments], ROOT)


def try_installed(programs: Path, folder: Path) -> None:
    """Run the command, and the README's example of the library, in a folder of their own."""
    step("running the installed command")
    run([programs / "graphprop", "--version"], folder)
    run([programs / "graphprop", "methods"], folder)
    run([programs / "python", "-m", "graphprop", "--help"], folder)
    step("running the README's example of the library")
    run([programs / "python", "-c", SETTING + readme_example() + RESULT], folder)


def readme_example() -> str:
    """The first block of Python in the README that compiles a model."""
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    found = next((block for block in blocks if "graphprop.compile(" in block), None)
    if found is None:
        sys.exit("README.md holds no example that calls graphprop.compile")
    return found


def run_tests(programs: Path, sdist: Path, folder: Path, options: Sequence[str]) -> None:
    """Run the tests that the sdist holds, with the installed package."""
    step("running the tests of the unpacked sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    shutil.rmtree(unpacked / "graphprop")
    run([programs / "python", "-m", "pytest", *options], unpacked)


if __name__ == "__main__":
    main()
