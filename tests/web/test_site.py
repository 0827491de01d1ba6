"""What does not fit a browser is refused before anything is written; nothing of others is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from graphprop.artifact.manifest import read_manifest
from graphprop.checking.web import allowed_apart
from graphprop.cli import main
from graphprop.errors import EquivalenceError, InputError, MethodError, OutputError
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.web import runtime, trial
from graphprop.web.place import own_files
from graphprop.web.site import build_site
from support.artifacts import explainer_of
from support.browser import need_browser

PICTURE = Path(__file__).parents[2] / "models" / "digits_examples" / "3.png"
PLAIN = {"mean": [0.0], "std": [1.0]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site") / "small"
    explainer_of().save(directory, check=False, preprocessing=PLAIN)
    return directory


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Small files in place of onnxruntime-web's."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in runtime.HASHES:
        (folder / name).write_text(name)
    monkeypatch.setattr(runtime, "HASHES", {n: runtime.sha256(folder / n) for n in runtime.HASHES})
    return folder


@pytest.fixture
def build(directory, files, tmp_path):
    """Writes a site of the small network."""

    def build(output=tmp_path / "site", directory=directory, **options):
        options = {"browser": False, "allowed": 1e-5, "runtime": files, **options}
        return build_site(directory, output, **options)

    return build


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_site_is_the_same_each_time_and_lists_its_files(build, tmp_path):
    site = build()
    first = contents(site.folder)
    assert first == contents(build(tmp_path / "other").folder)
    assert set(own_files(site.folder)) == set(first) - {"page.json"}
    assert site.size == sum(map(len, first.values()))
    folders = {name.partition("/")[0] for name in first if "/" in name}
    assert all(len(name.rpartition("-")[2]) == 12 for name in folders)
    page = first["index.html"].decode()
    assert "http://" not in page
    assert "https://" not in page
    assert "Content-Security-Policy" in page
    assert "unsafe-inline" not in page


def test_without_webgpu_its_files_are_left_out(build):
    names = " ".join(contents(build(webgpu=False).folder))
    assert "wasm-simd-threaded.wasm" in names
    assert "webgpu" not in names
    assert "asyncify" not in names


def test_only_what_changed_has_another_address(build, tmp_path):
    before = build().folder
    after = build(tmp_path / "other", examples=[PICTURE], title="Other").folder
    old, new = ({path.name for path in folder.iterdir()} for folder in (before, after))
    assert {name.partition("-")[0] for name in new - old} == {"examples"}


def test_the_site_replaces_an_older_one_and_nothing_else(build, tmp_path):
    folder = build(examples=[PICTURE]).folder
    build()
    assert not list(folder.glob("examples-*"))
    (folder / "CNAME").write_text("example.org")
    with pytest.raises(OutputError, match="site holds CNAME, which graphprop did not write"):
        build()
    build(force=True, examples=[PICTURE])
    build(force=True)
    assert (folder / "CNAME").read_text() == "example.org"
    assert not list(folder.glob("examples-*"))
    (folder / "CNAME").unlink()
    (folder / "index.html").write_text("mine")
    with pytest.raises(OutputError, match=r"holds index\.html, which was changed"):
        build()
    assert (folder / "index.html").read_text() == "mine"
    build(force=True)
    assert (folder / "index.html").read_text() != "mine"


def test_a_folder_of_others_is_refused(build, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match=r"index\.html, which graphprop did not write"):
            build(other, force=force)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file: name a folder"):
        build(tmp_path / "file")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="is the folder you are in, or above it"):
        build(tmp_path)


def test_a_record_that_names_files_elsewhere_removes_none(build, tmp_path):
    folder = build().folder
    secret = tmp_path / "secret"
    secret.write_text("keep")
    record = json.loads((folder / "page.json").read_text())
    record["files"]["../secret"] = "0" * 64
    record["files"][str(secret)] = "0" * 64
    (folder / "page.json").write_text(json.dumps(record))
    build(force=True)
    assert secret.read_text() == "keep"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("memory", OutputError, r"takes .* GiB to explain one picture, and WebAssembly has 4"),
        ("example", InputError, "the example .* is no picture: give one of .png"),
        ("runtime", InputError, r"holds no ort.wasm.min.mjs of onnxruntime-web"),
        ("onnx", MethodError, "was compiled without ONNX"),
        ("shape", InputError, r"takes inputs of shape \(2, 6, 6\), and a picture has the shape"),
        ("broken", OutputError, "explainer.onnx fails: .*: compile it again"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    build, directory, tmp_path, monkeypatch, change, error, text
):
    options = {}
    if change == "memory":
        monkeypatch.setattr(trial, "LARGEST_MEMORY", 0)
    elif change == "example":
        (tmp_path / "text.txt").write_text("text")
        options["examples"] = [tmp_path / "text.txt"]
    elif change == "runtime":
        (tmp_path / "empty").mkdir()
        options["runtime"] = tmp_path / "empty"
    else:
        options["directory"] = other(change, directory, tmp_path / "changed")
    with pytest.raises(error, match=text):
        build(**options)
    assert not (tmp_path / "site").exists()


def other(change, directory, folder):
    """A directory of which no page can be made."""
    if change == "onnx":
        return explainer_of().save(folder, check=False, onnx=False)
    if change == "shape":
        import torch
        from torch import nn

        import graphprop

        model = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
        return graphprop.compile(model, torch.zeros(2, 2, 6, 6)).save(folder, check=False)
    explainer_of().save(folder, check=False, preprocessing=PLAIN)
    model = onnx.load(folder / "explainer.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, folder / "explainer.onnx")
    return folder


def test_a_browser_that_gives_another_map_is_an_error(build, tmp_path, monkeypatch):
    def run(model, beside, batches, names, runtime):
        return [{"logits": np.ones((1, 4)), "relevance": np.ones((1, 1, 6, 6), np.float32)}]

    monkeypatch.setattr(trial, "lacking", lambda: None)
    monkeypatch.setattr(trial, "run_in_browser", run)
    with pytest.raises(EquivalenceError, match=r"is off by .* and 1\.0e-05 is allowed"):
        build(browser=True)
    assert not (tmp_path / "site").exists()


def test_what_is_not_known_is_a_warning(build, tmp_path, directory):
    assert build().warnings == []
    explainer_of().save(tmp_path / "unknown", check=False)
    (warning,) = build(tmp_path / "other", directory=tmp_path / "unknown").warnings
    assert warning.startswith("no preprocessing is recorded")


def test_noise_is_a_picture_of_all_values(directory):
    x = trial.noise(Preprocessing((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert x.shape == (1, 3, 64, 64)
    counts = np.histogram(x, 16, (0, 1))[0] / x.size
    assert np.allclose(counts, 1 / 16, atol=0.01)


def test_twice_what_the_check_allows_is_allowed(tmp_path, directory):
    assert allowed_apart(read_manifest(directory)) == 2e-5
    recorded = {"rows": ["noise 0", "blank"], "float32": {"relevance": [4e-6, 1e-2]}}
    assert allowed_apart({"fingerprint": recorded}) == pytest.approx(8e-5)
    recorded["float32"]["relevance"][0] = 1e-3
    assert allowed_apart({"fingerprint": recorded}) == 2e-4


def test_the_command_says_what_a_page_needs(directory, files, tmp_path):
    output = tmp_path / "site"
    arguments = ["page", str(directory), "-o", str(output), "--runtime", str(files), "--no-try"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "of which a visitor loads" in done.stdout
    assert "not tried in a browser: it was not asked for" in done.stdout
    assert f"python -m http.server -d {output}" in done.stdout
    done = CliRunner().invoke(main, [*arguments, "--json"])
    content = json.loads(done.stdout)
    assert content["command"] == "page"
    assert content["bytes"] > content["bytes_visit"] > 0
    assert content["browser_error"] is None
    done = CliRunner().invoke(main, ["page", str(tmp_path), "-o", str(output)])
    assert done.exit_code == 2
    assert "holds no manifest.json" in done.stderr


@pytest.mark.slow
def test_it_is_tried_in_a_browser_first(directory, tmp_path):
    need_browser()
    site = build_site(directory, tmp_path / "site", allowed=1e-5)
    assert site.trial.in_browser is not None
    assert site.trial.in_browser < 1e-5
