"""What is recorded does not depend on threads, and no more of them are used than there are CPUs."""

import threading

import pytest
import torch
from torch import nn

import graphprop
from graphprop.api import save
from graphprop.checking import threads

pytestmark = pytest.mark.usefixtures("same_process")


@pytest.fixture(autouse=True)
def as_many_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def explainer():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(32 * 24 * 24, 5)).eval()
    return graphprop.compile(model, torch.zeros(2, 3, 28, 28), "rap")


def test_a_manifest_does_not_depend_on_threads(tmp_path, monkeypatch):
    """One sample after another on one thread, or four at once: the same bytes."""
    written = []
    for count, large in ((1, 10**9), (4, 0), (3, 10**9)):
        torch.set_num_threads(count)
        monkeypatch.setattr(threads, "LARGE", large)
        monkeypatch.setattr(threads, "available", lambda: 4)
        folder = save(explainer(), tmp_path / f"{count}", onnx=False)
        written.append((folder / "manifest.json").read_bytes())
        assert torch.get_num_threads() == count
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(("large", "most"), [(0, 4), (10**12, 1)])
def test_only_large_networks_run_side_by_side(monkeypatch, large, most):
    monkeypatch.setattr(threads, "LARGE", large)
    monkeypatch.setattr(threads, "available", lambda: 8)
    torch.set_num_threads(8)
    seen, counts = set(), set()
    together = threading.Barrier(most, timeout=20)

    def work(row):
        together.wait()
        seen.add(threading.get_ident())
        counts.add(torch.get_num_threads())
        return 2 * row

    rows = range(4)
    assert threads.for_network(explainer().lowered, work, rows) == [0, 2, 4, 6]
    assert len(seen) == most
    assert counts == {1}
    assert torch.get_num_threads() == 8


def test_no_more_threads_than_there_are_cpus(monkeypatch):
    torch.set_num_threads(8)
    monkeypatch.setattr(threads, "available", lambda: 2)
    assert threads.usable() == 2
    torch.set_num_threads(1)
    assert threads.usable() == 1
    assert threads.usable() <= threads.available()


def test_the_quota_of_a_container_counts(tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "QUOTAS", (str(file),))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for text, count in (("150000 100000", 2), ("max 100000", 64), ("-1", 64), ("400000", 4)):
        file.write_text(text)
        assert threads.available() == count
    file.unlink()
    assert threads.available() == 64
