"""What is written: all of it or nothing, the same bytes everywhere, and it stands alone."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from ruff import __main__ as ruff

import graphprop
from graphprop import api
from graphprop.api import save
from graphprop.artifact import atomic, write
from graphprop.artifact.manifest import as_json, read_manifest
from graphprop.artifact.write import contiguous, plain
from graphprop.errors import EquivalenceError, OutputError
from support.artifacts import explainer_of

pytestmark = pytest.mark.usefixtures("same_process")

FILES = {"explainer.py", "weights.safetensors", "explainer.onnx", "manifest.json"}


@pytest.fixture(scope="module")
def explainer():
    return explainer_of()


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_files(explainer, tmp_path):
    said = []
    found = save(explainer, tmp_path / "a" / "net", progress=said.append)
    assert found == tmp_path / "a" / "net"
    assert set(contents(found)) == FILES
    assert os.listdir(tmp_path / "a") == ["net"]
    assert said[:2] == ["write", "check: explain in float64"]
    assert "check: onnxruntime" in said
    modes = {path.stat().st_mode & 0o777 for path in found.iterdir()}
    assert len(modes) == 1
    assert (found.stat().st_mode & 0o777) == (tmp_path / "a").stat().st_mode & 0o777


def test_without_onnx(explainer, tmp_path):
    found = save(explainer, tmp_path / "net", onnx=False)
    assert set(contents(found)) == FILES - {"explainer.onnx"}
    assert [b["name"] for b in read_manifest(found)["check"]["backends"]] == ["python"]


def test_manifest(tmp_path):
    explainer = explainer_of(
        "epsilon_plus",
        rules={"head": ("epsilon", {"epsilon": 0.25}), "conv": "w_square"},
        roles={"head": "dense_head"},
    )
    save(
        explainer,
        tmp_path / "net",
        source="/home/someone/model.py:Net",
        source_sha256="ab" * 32,
        preprocessing={"size": [6, 6], "mean": (0.5,), "std": [0.25]},
    )
    manifest = read_manifest(tmp_path / "net")
    assert manifest["generator"] == "graphprop"
    assert manifest["version"] == 1
    assert manifest["graphprop"] == graphprop.__version__
    assert manifest["torch"] == torch.__version__
    versions = manifest["versions"]
    assert versions.pop("graphprop") == graphprop.__version__
    assert versions.pop("python") == platform.python_version()
    assert versions == {name: metadata.version(name) for name in versions}
    assert versions.keys() >= {"torch", "onnx", "onnx-ir", "safetensors", "ruff", "numpy"}
    assert manifest["model"] == "Net"
    assert manifest["source"] == {"name": "model.py:Net", "sha256": "ab" * 32}
    assert manifest["method"] == "epsilon_plus"
    assert manifest["parameters"]["epsilon"] == 1e-6
    assert manifest["rules"] == {"head": ["epsilon", {"epsilon": 0.25}], "conv": "w_square"}
    assert manifest["roles"] == {"head": "dense_head"}
    assert manifest["input_shape"] == [1, 6, 6]
    assert manifest["classes"] == 4
    assert manifest["batch_norms"] == {"norm": "merged into conv"}
    assert manifest["notes"] == []
    assert manifest["preprocessing"] == {
        "size": [6, 6],
        "mean": [0.5],
        "std": [0.25],
        "resize": "cover",
        "interpolation": "bilinear",
        "channels": "gray",
    }
    assert manifest["check"]["passed"]
    assert manifest["fingerprint"]["rows"][:3] == ["noise 0", "noise 1", "uniform"]
    layers = {layer["label"]: layer for layer in manifest["layers"]}
    assert [layer["label"] for layer in manifest["layers"]] == [x.label for x in explainer.layers]
    head, conv = layers["head"], layers["conv"]
    assert head["rule"].startswith("epsilon(epsilon=0.25")
    assert conv["rule"].startswith("w_square")
    assert (conv["operator"], conv["kind"], conv["shape"]) == ("conv", "Conv2d", [3, 4, 4])
    assert conv["line"].startswith("artifacts.py:")
    assert (conv["value"], conv["relevance"], conv["signal"]) == ("conv", "r_relu", [None])
    assert head["value"] == "head"
    assert manifest["onnx_names"] == {"head": "logits"}


def test_values_named_in_the_manifest_are_in_both_files(explainer, tmp_path):
    import onnx

    directory = save(explainer, tmp_path / "net", check=False)
    manifest = read_manifest(directory)
    model = onnx.load(directory / "explainer.onnx")
    values = {name for node in model.graph.node for name in node.output}
    source = (directory / "explainer.py").read_text()
    assert manifest["check"] is manifest["fingerprint"] is None
    for layer in manifest["layers"]:
        for name in (layer["value"], layer["relevance"]):
            assert re.search(rf"\b{name}\b.* = ", source)
            assert manifest["onnx_names"].get(name, name) in values


def test_same_bytes_in_another_directory(explainer, tmp_path):
    first = save(explainer, tmp_path / "first")
    second = save(explainer_of(), tmp_path / "deeper" / "second")
    assert contents(first) == contents(second)


PROGRAM = """
import sys
import torch
sys.path[:0] = {folders!r}
from support.artifacts import explainer_of
from graphprop.api import save
torch.set_num_threads(int(sys.argv[2]))
{before}
save(explainer_of(), sys.argv[1], samples=1)
"""


def program(before=""):
    folders = [str(Path(__file__).parents[1]), str(Path(graphprop.__file__).parent.parent)]
    return PROGRAM.format(folders=folders, before=before)


def test_same_bytes_in_every_process_and_no_trace_of_the_place(tmp_path):
    found = []
    for seed, threads in (("1", "1"), ("2", "2")):
        folder = tmp_path / f"unmistakable{seed}"
        folder.mkdir()
        command = [sys.executable, "-c", program(), "net", threads]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        found.append(contents(folder / "net"))
    assert found[0] == found[1]
    assert set(found[0]) == FILES
    year = time.strftime("%Y")
    for name, content in found[0].items():
        for text in ("unmistakable", str(tmp_path), str(Path.home()), os.getcwd(), "/work", "/tmp"):
            assert text.encode() not in content, (name, text)
        if name != "weights.safetensors":
            assert not re.search(rf"{year}-\d\d".encode(), content), name


def test_module_stands_alone_and_is_clean(explainer, tmp_path):
    directory = save(explainer, tmp_path / "net", onnx=False, check=False)
    x = torch.randn(2, 1, 6, 6)
    torch.save(x, tmp_path / "x.pt")
    program = (
        "import sys; sys.modules['graphprop'] = None; sys.path.insert(0, 'net'); import torch\n"
        "import explainer; torch.save(explainer.load()(torch.load('x.pt')), 'y.pt')"
    )
    command = [sys.executable, "-B", "-c", program]
    subprocess.run(command, cwd=tmp_path, check=True)
    logits, relevance = torch.load(tmp_path / "y.pt")
    wanted = explainer(x)
    torch.testing.assert_close(logits, wanted[0])
    torch.testing.assert_close(relevance, wanted[1])
    file = str(directory / "explainer.py")
    for command in (["format", "--check", "--isolated"], ["check", "--isolated"]):
        done = subprocess.run(
            [ruff.find_ruff_bin(), *command, file], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_own_directory_is_replaced(explainer, tmp_path):
    directory = save(explainer, tmp_path / "net", check=False)
    (directory / "__pycache__").mkdir()  # left by whoever imported it
    (directory / "__pycache__" / "explainer.cpython-313.pyc").write_bytes(b"stale")
    save(explainer, directory, onnx=False, check=False)
    assert set(contents(directory)) == FILES - {"explainer.onnx"}
    assert os.listdir(tmp_path) == ["net"]


def test_nothing_of_the_user_s_is_replaced(explainer, tmp_path):
    directory = save(explainer, tmp_path / "net", check=False)
    (directory / "notes.txt").write_text("years of work")
    (directory / "maps").mkdir()
    (directory / "maps" / "one.npz").write_text("a result")
    inode = (directory / "notes.txt").stat().st_ino
    message = (
        "net holds maps, notes.txt, which graphprop did not write: name another directory, or "
        "replace by --force what graphprop wrote there; the rest then stays"
    )
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(OutputError) as caught:
        save(explainer, directory, check=False)
    assert str(caught.value).endswith(message)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before
    save(explainer_of("epsilon_plus"), directory, onnx=False, check=False, force=True)
    assert sorted(os.listdir(directory)) == sorted(
        {*FILES, "notes.txt", "maps"} - {"explainer.onnx"}
    )
    assert read_manifest(directory)["method"] == "epsilon_plus"
    assert (directory / "notes.txt").read_text() == "years of work"
    assert (directory / "notes.txt").stat().st_ino == inode
    assert (directory / "maps" / "one.npz").read_text() == "a result"
    assert os.listdir(tmp_path) == ["net"]


def test_a_file_added_while_compiling_stays(explainer, tmp_path, monkeypatch):
    directory = save(explainer, tmp_path / "net", check=False)

    def noting(tensors, path):
        (directory / "notes.txt").write_text("an idea")
        write_tensors(tensors, path)

    write_tensors = write.save_file
    monkeypatch.setattr(write, "save_file", noting)
    save(explainer, directory, onnx=False, check=False)
    assert sorted(os.listdir(directory)) == sorted({*FILES, "notes.txt"} - {"explainer.onnx"})


def test_a_changed_file_is_replaced_by_force_alone(explainer, tmp_path):
    directory = save(explainer, tmp_path / "net", check=False)
    source = directory / "explainer.py"
    source.write_text(source.read_text() + "# my own remark\n")
    with pytest.raises(OutputError, match=r"net holds explainer.py, which was changed after"):
        save(explainer, directory, check=False)
    assert source.read_text().endswith("# my own remark\n")
    save(explainer, directory, check=False, force=True)
    assert not source.read_text().endswith("# my own remark\n")


def test_the_folder_of_the_model_is_never_replaced(explainer, tmp_path):
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "net.py").write_text("model = 1")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "net.py"
    link.symlink_to(folder / "deep" / "net.py")
    for directory in (folder, folder / "deep", tmp_path, tmp_path / "links"):
        with pytest.raises(OutputError, match=r"holds net.py, which is read: name another one"):
            save(explainer, directory, force=True, keep=[link])
    assert len([*tmp_path.rglob("*")]) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("done", [False, True])
def test_interrupted_replacement_of_files_restores_them(
    explainer, tmp_path, monkeypatch, error, done
):
    own = save(explainer, tmp_path / "own", check=False)
    (own / "notes.txt").write_text("years of work")
    before, rename = contents(own), os.rename
    for last in range(1, 8):  # four files make room, three come
        count = 0

        def interrupt(source, target, last=last):
            nonlocal count
            count += 1
            if count != last or done:
                rename(source, target)
            if count == last:
                raise error

        monkeypatch.setattr(atomic.os, "rename", interrupt)
        with pytest.raises((KeyboardInterrupt, OutputError)):
            save(explainer, own, onnx=False, check=False, force=True)
        assert contents(own) == before
        assert os.listdir(tmp_path) == ["own"]


def test_empty_directory_is_replaced(explainer, tmp_path):
    (tmp_path / "net").mkdir()
    assert "manifest.json" in contents(save(explainer, tmp_path / "net", check=False))


def test_link_is_kept(explainer, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(tmp_path / "real")
    save(explainer, link, check=False)
    assert link.is_symlink()
    assert "manifest.json" in contents(tmp_path / "real")
    assert os.listdir(tmp_path / "elsewhere") == ["link"]


@pytest.mark.parametrize("manifest", [None, "{", "[]", '{"generator": "other"}'])
def test_foreign_directory_is_refused(explainer, tmp_path, manifest):
    directory = tmp_path / "net"
    directory.mkdir()
    (directory / "thesis.tex").write_text("years of work")
    if manifest:
        (directory / "manifest.json").write_text(manifest)
    before = contents(directory)
    with pytest.raises(OutputError, match=r"thesis.tex, which graphprop did not write: name"):
        save(explainer, directory, check=False)
    assert contents(directory) == before
    if manifest:
        with pytest.raises(
            OutputError, match=r"holds manifest.json, which graphprop did not .*mov"
        ):
            save(explainer, directory, check=False, force=True)
        assert contents(directory) == before
        return
    save(explainer, directory, check=False, force=True)
    assert contents(directory)["thesis.tex"] == b"years of work"
    assert read_manifest(directory)["model"] == "Net"


def test_a_manifest_does_not_make_the_user_s_files_graphprop_s(explainer, tmp_path):
    directory = save(explainer, tmp_path / "net", check=False)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    manifest["files"] |= {"thesis.tex": "0" * 64, "../thesis.tex": "0" * 64}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for thesis in (directory / "thesis.tex", tmp_path / "thesis.tex"):
        thesis.write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis.tex, which graphprop did not write"):
        save(explainer, directory, check=False)
    save(explainer, directory, check=False, force=True)
    for thesis in (directory / "thesis.tex", tmp_path / "thesis.tex"):
        assert thesis.read_text() == "years of work"


def test_file_and_own_folder_are_refused(explainer, tmp_path, monkeypatch):
    (tmp_path / "net").write_text("a file")
    with pytest.raises(OutputError, match="net is a file: name a directory"):
        save(explainer, tmp_path / "net", force=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="the folder you are in, or above it"):
        save(explainer, tmp_path, force=True)
    with pytest.raises(OutputError, match=r"below can't be written: .*net is a file"):
        save(explainer, tmp_path / "net" / "below", check=False)
    with pytest.raises(OutputError, match=r"x can't be written: File name too long"):
        save(explainer, tmp_path / ("x" * 300), check=False)
    assert sorted(os.listdir(tmp_path)) == ["here", "net"]


def wrong(explainer):
    """The same explainer, had the printer printed something else."""
    compiled = explainer.compiled
    source = compiled.source.replace("F.relu(conv)", "F.relu(conv + 0.1)")
    generated = replace(compiled.generated, source=source)
    return graphprop.CompiledExplainer(replace(compiled, generated=generated))


def test_rejected_output_is_kept_aside(explainer, tmp_path):
    good = save(explainer, tmp_path / "net")
    before = contents(good)
    for _ in range(2):
        message = r"the check failed\. python: .*result of 'relu'.*output is in .*net\.rejected\)"
        with pytest.raises(EquivalenceError, match=message):
            save(wrong(explainer_of()), tmp_path / "net")
    assert contents(good) == before
    assert sorted(os.listdir(tmp_path)) == ["net", "net.rejected"]
    manifest = read_manifest(tmp_path / "net.rejected")
    assert not manifest["check"]["passed"]
    assert manifest["check"]["backends"][0]["divergence"]["layers"] == ["relu"]


def test_rejected_output_has_a_name_that_systems_take(tmp_path):
    name = "n" * 250
    with pytest.raises(EquivalenceError, match=r"the output is in .*n\.rejected"):
        save(wrong(explainer_of()), tmp_path / name)
    assert os.listdir(tmp_path) == ["n" * 246 + ".rejected"]


def test_rejected_output_spares_a_foreign_directory(tmp_path):
    foreign = tmp_path / "net.rejected"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(EquivalenceError, match=r"nothing is kept: .*rejected holds thesis.tex"):
        save(wrong(explainer_of()), tmp_path / "net")
    assert os.listdir(tmp_path) == ["net.rejected"]
    assert os.listdir(foreign) == ["thesis.tex"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("place", ["save_file", "as_json", "put_in_place"])
def test_interrupted_save_leaves_nothing(explainer, tmp_path, monkeypatch, error, place):
    own = save(explainer, tmp_path / "own", check=False)
    before = contents(own)

    def interrupt(*arguments):
        raise error

    monkeypatch.setattr(api if place == "put_in_place" else write, place, interrupt)
    for directory in (tmp_path / "new" / "net", own):
        with pytest.raises(error):
            save(explainer, directory, check=False)
    assert os.listdir(tmp_path) == ["own"]
    assert contents(own) == before


def test_interrupted_exchange_restores_the_old(explainer, tmp_path, monkeypatch):
    own = save(explainer, tmp_path / "own", check=False)
    before, rename = contents(own), os.rename

    def interrupt(source, target):
        if Path(source).name == "new":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(explainer, own, check=False)
    assert contents(own) == before
    assert os.listdir(tmp_path) == ["own"]


def test_full_disk_is_told(explainer, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(OutputError, match="net can't be written: No space left on device"):
        save(explainer, tmp_path / "net", check=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limit", [1500, 4000])
def test_a_limit_on_the_size_of_files_is_one_message(explainer, tmp_path, limit):
    """What a full disk does, by the system itself: the weights and ONNX are larger than that."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match=r"net can't be written: File too large$"):
            save(explainer, tmp_path / "net", check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


STALL = """
import signal
import time
from dataclasses import replace
from importlib import metadata
# a process started in the background by a shell inherits that interrupts are ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from graphprop.artifact import write
def stall(content):
    print("stalling", flush=True)
    time.sleep(60)
write.as_json = stall
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_signal_leaves_nothing(tmp_path, number, code):
    command = [sys.executable, "-c", program(STALL), "build/net", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "stalling\n"
    assert os.listdir(tmp_path) == ["build"]
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (code or -signal.SIGINT)
    assert os.listdir(tmp_path) == []


def test_read_manifest_says_what_is_wrong(tmp_path):
    file = tmp_path / "manifest.json"
    for content, message in (
        (None, "holds no manifest.json: give a directory that `graphprop compile` wrote"),
        ("{", r"can't be read \(.*\): compile it again"),
        ("[1]", "was not written by graphprop: give another directory"),
        ('{"generator": "x"}', "was not written by graphprop"),
        ('{"generator": "graphprop", "version": 9}', "has version 9, and this graphprop reads"),
    ):
        if content:
            file.write_text(content)
        with pytest.raises(OutputError, match=message):
            read_manifest(tmp_path)
    with pytest.raises(OutputError, match=r"manifest.json is a file: give the directory that"):
        read_manifest(file)
    with pytest.raises(OutputError, match=r"there is no directory .*nowhere: `graphprop compile`"):
        read_manifest(tmp_path / "nowhere")


def test_json_is_sorted_and_short():
    content = {"b": [1, -2.5e-7], "a": {"x": [], "text": "[\n 1,\n 2\n]", "of": [[1, 2], ["s"]]}}
    text = as_json(content)
    assert json.loads(text) == content
    assert '"b": [ 1, -2.5e-07 ]' in text
    assert text.index('"a"') < text.index('"b"')


def test_parameters_become_plain():
    assert plain({"low": torch.tensor([0.5, 1.0]), "n": (1, None), "inf": float("inf")}) == {
        "low": [0.5, 1.0],
        "n": [1, None],
        "inf": "inf",
    }
    assert plain(torch.zeros(3, 50)) == {"tensor": [3, 50]}
    assert plain(object()) == "object"


def test_shared_weights_are_written_once_each():
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = contiguous({"b": whole, "a": whole.detach(), "t": whole.T, "row": whole[1]})
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert len(places) == 4
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert torch.equal(tensors["t"], whole.T)
