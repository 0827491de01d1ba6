"""The files of onnxruntime-web, of one version: found on this machine, or fetched by npm once.

They are 40 MB of WebAssembly, too much for graphprop's own package. npm knows where packages come
from here (a mirror, a company's registry), so that no address stands in graphprop; whatever comes
is held against the hashes below.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from graphprop.artifact.manifest import sha256
from graphprop.errors import InputError

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4C"
    "XAfKYQ=="
)
"""The hash of the package, as npm writes it into a lock file."""

WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What runs on the processor: the script, what loads the WebAssembly, and that."""
WEBGPU = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The same with WebGPU; what a GPU can't do runs on the processor."""

HASHES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": (
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}
"""SHA-256 of each file that is used."""

VARIABLE = "GRAPHPROP_ONNXRUNTIME_WEB"
"""The environment variable that names a folder with the files."""

LONGEST_FETCH = 600
"""Seconds that npm may take: the package has 36 MB."""

ELSEWHERE = (
    f"on a machine with npm, run `npm pack {PACKAGE}`, unpack the file here, and name its folder "
    f"by --runtime or the variable {VARIABLE}"
)


def runtime_folder(folder: Path | None = None, say: Callable[[str], None] | None = None) -> Path:
    """The folder with the files of onnxruntime-web, each of them as it was published.

    Parameters
    ----------
    folder
        One that holds them: the unpacked package, or its folder ``dist``. By default the one that
        the variable ``GRAPHPROP_ONNXRUNTIME_WEB`` names, or the user's cache, to which npm
        fetches them the first time.
    say
        Called with what is about to be done.

    Raises
    ------
    InputError
        If a file is missing or of another version, or they can't be fetched.
    """
    given = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if given is not None:
        found = next((f for f in (given / "dist", given) if (f / WASM[0]).is_file()), given)
        complaint = complaint_about(found)
        if complaint:
            raise InputError(f"{complaint}: `npm pack {PACKAGE}` gives what is needed")
        return found
    cached = cache() / PACKAGE.replace("@", "-")
    if complaint_about(cached):
        fetch(cached, say or (lambda text: None))
    return cached


def complaint_about(folder: Path) -> str | None:
    """Which file of onnxruntime-web a folder lacks, or has of another version."""
    for name, known in HASHES.items():
        file = folder / name
        if not file.is_file():
            return f"{folder} holds no {name} of onnxruntime-web {VERSION}"
        if sha256(file) != known:
            return f"{file} is not that of onnxruntime-web {VERSION}"
    return None


def cache() -> Path:
    """The folder of this user for what can be fetched again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphprop"


def fetch(folder: Path, say: Callable[[str], None]) -> None:
    """Let npm fetch the package, and keep the files that are used."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"onnxruntime-web {VERSION} is fetched by npm, which isn't here: {ELSEWHERE}"
        )
    say(f"fetch {PACKAGE} by npm")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".graphprop-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "dist"
            unpack(pack(npm, Path(scratch)), fresh)
            complaint = complaint_about(fresh)
            if complaint:
                raise InputError(f"what npm fetched is no {PACKAGE}: {complaint}")
            if folder.exists():  # damaged, or another process was faster
                folder.rename(Path(scratch) / "old")
            fresh.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror or error}") from error


def pack(npm: str, scratch: Path) -> Path:
    """Run ``npm pack``; returns the archive, of which the hash is right."""
    command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts"]
    command += ["--pack-destination", str(scratch)]
    try:
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, check=False, timeout=LONGEST_FETCH
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"npm took more than {LONGEST_FETCH} seconds: {ELSEWHERE}") from None
    archive = scratch / f"{PACKAGE.replace('@', '-')}.tgz"
    if done.returncode or not archive.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[0][:200] if lines else f"it ended with code {done.returncode}"
        raise InputError(f"npm can't fetch {PACKAGE} ({reason}): {ELSEWHERE}")
    with archive.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode("ascii")
    if f"sha512-{found}" != INTEGRITY:
        raise InputError(f"what npm fetched as {PACKAGE} has another hash than was published")
    return archive


def unpack(archive: Path, folder: Path) -> None:
    """Take the files that are used out of the package, and nothing else."""
    folder.mkdir()
    with tarfile.open(archive) as package:
        for name in HASHES:
            source = package.extractfile(f"package/dist/{name}")
            if source is not None:
                with source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
