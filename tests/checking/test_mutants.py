"""The check notices every change of what was compiled that changes a map.

Single changes are made to a compiled directory (`mutants`), and the check looks at each, without
the hashes of the files, which would give all of them away. Whether a change matters is found out
without the check: the changed files explain other inputs than the check does. A change that moves a
map by more than 1e-4 there must fail the check; of those that don't, nothing is demanded.

A fixed sample is tried here, and all of them by ``make mutants``.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.artifact.manifest import read_manifest
from graphprop.checking import backends
from graphprop.checking.arbiter import ModuleArbiter, Truth, errors
from graphprop.checking.check import check_directory
from graphprop.checking.compare import Session
from graphprop.checking.compared import PythonBackend
from graphprop.checking.files import changes
from graphprop.checking.probes import probes
from graphprop.checking.stages import stages_of
from graphprop.errors import GraphpropError
from support.mutants import MANIFEST, ONNX, PYTHON, Mutant, mutants
from support.processes import in_this_process

MATTERS = 1e-4
"""From this on a change of a map must be noticed."""

SAMPLE = {PYTHON: 35, ONNX: 25, "weights": 10, MANIFEST: 8}
"""How many of each kind are tried for each method."""

METHODS = ("epsilon_plus_flat", "rap")

LEFT: dict[str, str] = {}
"""Changes that matter, and are not noticed: name -> why."""

FOR_PEOPLE = {
    "batch_norms": "what was done with them is in the weights",
    "check": "results of an earlier check; they are compared with nothing",
    "layers": "facts about layers; their values' names are compared",
    "notes": "texts",
    "onnx_names": "with fewer names fewer values are looked at where steps are followed",
    "parameters": "what came of them is in explainer.py, whose long lines are cut",
    "output": "the name of one of the model's results",
    "roles": "what was asked for; what came of it is in explainer.py",
    "rules": "what was asked for; what came of it is in explainer.py",
    "source": "where the model came from",
    "torch": "which torch compiled it",
    "fingerprint": "less of it is compared; what is computed stays",
}
"""Fields that nothing else says, and that change no map: the hash alone covers them."""


class Net(nn.Module):
    """Small, with what makes rules differ: padding, strides, a pool, a sum, a bias, batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.down = nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = torch.relu(self.conv(x) + x)
        return self.head(torch.relu(self.down(x)).mean((2, 3)))


SHAPE = (2, 12, 10)


def inputs() -> list[torch.Tensor]:
    """Batches that the check does not explain: noise, pictures, nearly nothing, one and several."""
    generator = torch.Generator().manual_seed(1234)
    noise = torch.randn(4, *SHAPE, generator=generator)
    ramp = torch.linspace(0, 1, SHAPE[-1]).expand(*SHAPE)
    bright = torch.rand(2, *SHAPE, generator=generator)
    few = noise * (noise.abs() > 1.6)
    blank = torch.zeros(1, *SHAPE)
    return [noise, bright, noise[:1], blank, torch.cat([few[:1], noise[1:3], blank, ramp[None]])]


@dataclass
class Subject:
    """A compiled directory, and what it computes."""

    directory: Path
    method: str

    @cached_property
    def mutants(self) -> list[Mutant]:
        return mutants(self.directory)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.directory)

    @cached_property
    def python_results(self) -> list[torch.Tensor]:
        return explained_by_python(self.directory)

    @cached_property
    def onnx_results(self) -> list[torch.Tensor]:
        return explained_by_onnx(self.directory)

    @cached_property
    def truth(self) -> tuple[ModuleArbiter, Truth]:
        """What the unchanged module computes; only the ONNX file differs from it."""
        manifest, stages = self.manifest, self.stages
        samples = probes(manifest["input_shapes"], manifest["logits_shape"], 2)
        arbiter = ModuleArbiter(self.directory, stages, samples, manifest["onnx_names"])
        session = Session(self.directory, stages, arbiter, arbiter.truth(), lambda text: None)
        session.begin()
        result = session.compare("python", PythonBackend(self.directory))
        truth = session.truth
        truth.float32["relevance"] = [sample.error for sample in result.samples]
        truth.float32["logits"] = [sample.logits_error for sample in result.samples]
        arbiter.samples = truth.samples
        return arbiter, truth

    @cached_property
    def stages(self) -> list[Any]:
        return stages_of(self.manifest["layers"], self.manifest["onnx_names"])

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "net"
            shutil.copytree(self.directory, directory)
            mutant.apply(directory)
            yield directory

    def noticed(self, mutant: Mutant, directory: Path) -> bool:
        """Whether the check fails, hashes left aside."""
        if mutant.kind == ONNX:
            arbiter, truth = self.truth
            session = Session(directory, self.stages, arbiter, truth, lambda text: None)
            session.compare_onnx(["onnxruntime"], explicit=True)
            return not session.report.passed
        if mutant.kind == MANIFEST:
            try:
                found = changes(directory, read_manifest(directory))
                return bool(found) or not check_directory(directory)
            except (GraphpropError, KeyError):
                return True
        return not check_directory(directory, backends=["python"], allow_changed=True)

    def effect(self, mutant: Mutant, directory: Path) -> float:
        """How far a change moves a map, or logits; infinite where nothing comes out."""
        if mutant.kind == MANIFEST:
            field = re.split(r"[ .\[]", mutant.name)[0]
            return 0.0 if field in FOR_PEOPLE else float("inf")
        run, before = (
            (explained_by_onnx, self.onnx_results)
            if mutant.kind == ONNX
            else (explained_by_python, self.python_results)
        )
        try:
            found = run(directory)
        except Exception:
            return float("inf")
        pairs = list(zip(found, before, strict=True))
        if any(a.shape != b.shape or not a.isfinite().all() for a, b in pairs):
            return float("inf")
        return max(max(errors(a, b.double())) for a, b in pairs)


def explained_by_python(directory: Path) -> list[torch.Tensor]:
    """Logits and maps as users get them, with every kind of target."""
    file = directory / "explainer.py"
    module = ModuleType("explainer")
    module.__file__ = str(file)
    exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
    explainer = module.load()
    generator = torch.Generator().manual_seed(5)
    found = []
    for x in inputs():
        classes = torch.randint(5, (len(x),), generator=generator)
        for target in (None, classes, torch.randn(len(x), 5, generator=generator)):
            with torch.no_grad():
                found += explainer(x.clone(), target)
    return found


def explained_by_onnx(directory: Path) -> list[torch.Tensor]:
    """The same by ONNX Runtime, by class, and by -1 where that means the largest logit."""
    file = directory / "explainer.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options)
    largest = backends.takes_largest(file)
    generator = torch.Generator().manual_seed(5)
    found = []
    for x in inputs():
        targets = [torch.randint(5, (len(x),), generator=generator)]
        targets += [torch.full((len(x),), -1)] if largest else []
        for target in targets:
            feeds = {"input": x.numpy(), "target": target.numpy()}
            found += session.run(["logits", "relevance"], feeds)
    return [torch.from_numpy(value) for value in found]


def survivors(subject: Subject, chosen: list[Mutant], same: list[str] | None = None) -> Any:
    """The changes that matter and are not noticed, with how far they move a map.

    Those that change nothing that matters are added to ``same``.
    """
    found = []
    with in_this_process():
        for mutant in chosen:
            with subject.changed(mutant) as directory:
                if subject.noticed(mutant, directory):
                    continue
                effect = subject.effect(mutant, directory)
                if effect <= MATTERS and same is not None:
                    same.append(f"{effect:.1e} {mutant}")
                if not effect <= MATTERS:
                    found.append((f"{subject.method} {mutant}", effect))
    return found


def compiled(method: str, folder: Path) -> Subject:
    torch.manual_seed(0)
    model = Net()
    nn.init.normal_(model.norm.running_mean, 0, 0.2)
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)
    explainer = graphprop.compile(model.eval(), torch.zeros(2, *SHAPE), method)
    preprocessing = (
        None
        if method == "rap"
        else {
            "size": list(SHAPE[1:]),
            "mean": [0.4, 0.5],
            "std": [0.3, 0.2],
        }
    )
    with in_this_process():
        directory = save(explainer, folder / method, preprocessing=preprocessing)
    return Subject(directory, method)


@pytest.fixture(scope="module", params=METHODS)
def subject(request: Any, tmp_path_factory: Any) -> Subject:
    torch.set_num_threads(1)
    return compiled(request.param, tmp_path_factory.mktemp("mutants"))


def sample_of(found: list[Mutant], seed: int = 0) -> list[Mutant]:
    """So many of each kind, the same ones each time."""
    chosen = []
    for kind, count in SAMPLE.items():
        known = sorted((m for m in found if m.kind == kind), key=str)
        chosen += random.Random(f"{seed} {kind}").sample(known, min(count, len(known)))
    return chosen


def test_there_are_enough_changes_of_each_kind(subject):
    kinds = [mutant.kind for mutant in subject.mutants]
    assert len(kinds) >= 402
    assert all(kinds.count(kind) > count for kind, count in SAMPLE.items())


@pytest.mark.parametrize("kind", SAMPLE)
def test_changes_that_matter_are_noticed(subject, kind):
    chosen = [mutant for mutant in sample_of(subject.mutants) if mutant.kind == kind]
    left = dict(survivors(subject, chosen))
    assert left.keys() <= LEFT.keys(), left


def test_the_unchanged_directory_passes(subject):
    """Or else everything would be noticed."""
    with in_this_process():
        assert check_directory(subject.directory)
        nothing = Mutant(PYTHON, "nothing", lambda directory: None)
        for kind in (PYTHON, ONNX, MANIFEST):
            with subject.changed(nothing) as directory:
                assert not subject.noticed(Mutant(kind, "nothing", nothing.apply), directory)
    assert subject.effect(nothing, subject.directory) == 0.0


def test_the_effect_of_a_change_is_measured(subject):
    """A known change is as large as it is."""
    (mutant,) = (m for m in subject.mutants if m.name == "return: maps a little off")
    with subject.changed(mutant) as directory:
        assert subject.effect(mutant, directory) == pytest.approx(2e-4, rel=1e-2)


def main() -> None:
    """Try all changes, and print those that matter and are not noticed."""
    torch.set_num_threads(1)
    unexplained = 0
    for method in METHODS:
        with tempfile.TemporaryDirectory() as scratch:
            subject = compiled(method, Path(scratch))
            found = subject.mutants
            only = os.environ.get("KIND") or None
            chosen = [mutant for mutant in found if only in (None, mutant.kind)]
            same: list[str] = []
            left = survivors(subject, chosen, same)
            print(f"{method}: {len(chosen)} changes: {len(same)} change no map by {MATTERS:g},")
            print(f"  {len(chosen) - len(same) - len(left)} are noticed, {len(left)} are not")
            if os.environ.get("SAME"):
                print("  same:", *same, sep="\n    ")
            for name, effect in left:
                why = LEFT.get(name)
                unexplained += why is None
                print(f"  {effect:8.1e}  {name}  {why or 'NOT EXPLAINED'}")
    raise SystemExit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
