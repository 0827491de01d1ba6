"""Killed at any moment, a run goes on to a store that is the same to the byte.

Processes are forked from one that has imported everything: only what they do takes time.
"""

import json
import subprocess
import sys

import pytest

from support.datasets import class_folders, contents, explainer_in, in_chunks_of, run

COUNT, ROWS = 40, 4
PROGRAM = """
import json, os, random, signal, sys, time
import pandas  # pyarrow imports it where it is there, in each child anew
from pathlib import Path
import graphprop.datasets.plan as plan
from graphprop.datasets import explain_dataset, partial, store
plan.MOST_ROWS = {rows}
folder, mode = Path(sys.argv[1]), sys.argv[2]

def explain(name):
    found = explain_dataset(folder / "ex", folder / "data", folder / name, batch_size=3,
                            resume=True, workers=2)
    Path(folder / (name + ".json")).write_text(json.dumps(found.computed))

def forked(function):
    number = os.fork()
    if number == 0:
        try:
            function()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    return number

def done(name):
    records = folder / (name + ".partial") / "done"
    files = list(records.glob("*.json")) if records.exists() else []
    return sum(len(plan.Plan({count}, {rows}, 3).rows(int(f.stem))) for f in files)

def finish(name):
    before = 0 if not (folder / (name + ".partial")).exists() else done(name)
    whole = (folder / name).exists()
    assert os.waitpid(forked(lambda: explain(name)), 0)[1] == 0
    left = 0 if whole else {count} - before
    assert json.loads((folder / (name + ".json")).read_text()) == left, (name, before, whole)

begin = time.monotonic()
os.waitpid(forked(lambda: explain("whole.zarr")), 0)
length = time.monotonic() - begin
names = []
if mode == "moments":
    chosen = random.Random(15)
    for number in range(10):
        name = f"killed{{number}}.zarr"
        for _ in range(1 + number % 2):
            child = forked(lambda: explain(name))
            time.sleep(chosen.random() * length)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        names.append((name, done(name)))
        finish(name)
else:
    # at each step at which something came to the disk, and a few more
    def ending_at(step, name):
        calls, real = [], store.flush
        def flush(path):
            real(path)
            calls.append(path)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
        store.flush = partial.flush = flush
        from graphprop.datasets import outputs
        outputs.flush = flush
        explain(name)
        os._exit(7)
    step, ended = 1, False
    while not ended:
        name = f"step{{step}}.zarr"
        _, status = os.waitpid(forked(lambda: ending_at(step, name)), 0)
        ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7
        names.append((name, done(name)))
        if not ended:
            finish(name)
        step += {stride}
print(json.dumps(names))
"""


@pytest.fixture
def folder(tmp_path):
    explainer_in(tmp_path / "ex")
    class_folders(tmp_path / "data", COUNT, broken=(6, 30))
    return tmp_path


def killed(folder, mode, stride=1):
    program = PROGRAM.format(rows=ROWS, count=COUNT, stride=stride)
    command = [sys.executable, "-c", program, str(folder), mode]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def assert_whole(folder, names):
    wanted = contents(folder / "whole.zarr")
    assert len([name for name in wanted if name.startswith("relevance/c.")]) == COUNT // ROWS
    for name, _ in names:
        assert contents(folder / name) == wanted, name
        failures = folder / f"{name}.failures.parquet"
        assert failures.read_bytes() == (folder / "whole.zarr.failures.parquet").read_bytes()
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_killed_at_ten_random_moments(folder):
    names = killed(folder, "moments")
    assert_whole(folder, names)
    # some of the moments lie in the middle of the work
    assert any(0 < done < COUNT for _, done in names)


@pytest.mark.slow
def test_killed_behind_any_step_to_the_disk(folder):
    names = killed(folder, "steps", stride=13)
    assert_whole(folder, names)
    assert len(names) > 10


def begun(folder, code):
    """Begin a run in chunks of four, with code before it; what it says, and its exit code."""
    command = in_chunks_of(ROWS, code)
    done = run(command, "explain", folder / "ex", folder / "data", "-o", folder / "a.zarr")
    return done.stderr, done.returncode


FULL = """
import errno, itertools
from graphprop.datasets import store
real, calls = store.flush, itertools.count()
def flush(path):
    if 'relevance/c.' in str(path) and next(calls) >= 2:
        raise OSError(errno.ENOSPC, 'No space left on device')
    real(path)
store.flush = flush
"""
LIMITED = """
import resource
from graphprop.datasets import store
real = store.Writer.write
def write(self, number, arrays):
    if number == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    real(self, number, arrays)
store.Writer.write = write
"""


@pytest.mark.parametrize(
    ("code", "reason"), [(FULL, "No space left on device"), (LIMITED, "File too large")]
)
def test_a_full_disk_is_one_message_and_the_run_goes_on_later(folder, code, reason):
    stderr, status = begun(folder, code)
    assert status == 2
    assert stderr == (
        f"error: {folder}/a.zarr can't be written: {reason}: make room, and go on by --resume\n"
    )
    command = in_chunks_of(ROWS)
    arguments = ["explain", folder / "ex", folder / "data", "--resume", "--json"]
    done = run(command, *arguments, "-o", folder / "a.zarr")
    assert done.returncode == 3
    assert 0 < json.loads(done.stdout)["dataset"]["computed"] < COUNT
    run(command, "explain", folder / "ex", folder / "data", "-o", folder / "whole.zarr")
    assert_whole(folder, [("a.zarr", 0)])


def test_a_small_disk_that_is_full(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        done = run(
            in_chunks_of(ROWS), "explain", folder / "ex", folder / "data", "-o", disk / "a.zarr"
        )
        assert done.returncode == 2, done
        assert done.stderr.startswith(f"error: {disk}/a.zarr can't be written: No space left on")
        assert done.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
