"""The files of onnxruntime-web are those of one version, wherever they come from."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from graphprop.errors import InputError
from graphprop.web import runtime
from support.browser import need_browser


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A package of three small files in place of the real one, and an empty cache."""
    contents = {name: name.encode() for name in runtime.WASM}
    import base64
    import hashlib

    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as package:
        for name, content in {**contents, "../../evil": b"evil", "other.js": b"other"}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(archive.getvalue()).digest()).decode()
    monkeypatch.setattr(runtime, "HASHES", hashes)
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(runtime.VARIABLE, raising=False)
    return contents, archive.getvalue()


def npm_that(monkeypatch, write=None, code=0, message=""):
    """Let npm write an archive, or fail."""

    def run(command, *, cwd, **options):
        assert command[1:3] == ["pack", runtime.PACKAGE]
        if write is not None:
            (Path(cwd) / f"onnxruntime-web-{runtime.VERSION}.tgz").write_bytes(write)
        return subprocess.CompletedProcess(command, code, "", message)

    monkeypatch.setattr(runtime.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(runtime.subprocess, "run", run)


def test_npm_fetches_once_and_only_what_is_used_is_kept(monkeypatch, small):
    contents, archive = small
    npm_that(monkeypatch, archive)
    said = []
    folder = runtime.runtime_folder(say=said.append)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == contents
    assert said == [f"fetch {runtime.PACKAGE} by npm"]
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    npm_that(monkeypatch, code=1)
    assert runtime.runtime_folder() == folder
    (folder / runtime.WASM[0]).write_bytes(b"damaged")
    npm_that(monkeypatch, archive)
    assert runtime.runtime_folder() == folder
    assert (folder / runtime.WASM[0]).read_bytes() == contents[runtime.WASM[0]]


def test_another_archive_than_was_published_is_refused_and_nothing_is_kept(monkeypatch, small):
    npm_that(monkeypatch, small[1] + b"more")
    with pytest.raises(InputError, match="another hash than was published"):
        runtime.runtime_folder()
    assert not any((runtime.cache()).iterdir())


def test_why_npm_fails_is_said_with_what_to_do(monkeypatch, small):
    npm_that(monkeypatch, code=1, message="\nnpm error network request failed\nmore\n")
    with pytest.raises(InputError, match=r"\(npm error network request failed\): on a machine"):
        runtime.runtime_folder()
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="fetched by npm, which isn't here: on a machine with npm"):
        runtime.runtime_folder()


def test_a_folder_is_taken_as_it_is_or_refused(monkeypatch, small, tmp_path):
    contents, _ = small
    given = tmp_path / "package"
    with pytest.raises(InputError, match=r"package holds no ort.wasm.min.mjs of onnxruntime-web"):
        runtime.runtime_folder(given)
    (given / "dist").mkdir(parents=True)
    for name, content in contents.items():
        (given / "dist" / name).write_bytes(content)
    assert runtime.runtime_folder(given) == given / "dist"
    assert runtime.runtime_folder(given / "dist") == given / "dist"
    monkeypatch.setenv(runtime.VARIABLE, str(given))
    assert runtime.runtime_folder() == given / "dist"
    (given / "dist" / runtime.WASM[2]).write_bytes(b"older")
    with pytest.raises(InputError, match=f"{runtime.WASM[2]} is not that of onnxruntime-web"):
        runtime.runtime_folder()


def test_what_npm_gives_here_has_the_hashes_that_are_known():
    need_browser()
    assert runtime.complaint_about(runtime.runtime_folder()) is None
