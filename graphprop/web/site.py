"""A static site that runs an ``explainer.onnx`` in the visitor's browser.

Every file but ``index.html``, ``sw.js`` and ``page.json`` lies in a folder named by its content's
hash: a browser may keep it forever, and a new build has other addresses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphprop.artifact.atomic import writing_beside
from graphprop.artifact.engines import checked_onnx
from graphprop.artifact.manifest import ONNX, as_json, read_manifest, sha256
from graphprop.artifact.schema import Json
from graphprop.emit.onnx import INPUT
from graphprop.errors import InputError
from graphprop.pictures.preprocessing import Preprocessing
from graphprop.pictures.sources import refuse_rejected
from graphprop.version import __version__
from graphprop.web.browser import ASSETS, data_files, on_processor
from graphprop.web.place import GENERATOR, RECORD, put_in_place, refuse_foreign
from graphprop.web.runtime import VERSION, WASM, WEBGPU, runtime_folder
from graphprop.web.trial import Trial, try_out

PAGE = Path(__file__).with_name("site")
SCRIPTS = ("page.js", "worker.js", "pixels.js", "resample.js", "heatmap.js", "camera.js")
OWN_FILES = (*SCRIPTS, "drawing.js", "offline.js", "page.css", "icon.svg")

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob: mediastream:; worker-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With these a browser allows threads; the service worker adds them, a folder of files can't."""

EXAMPLES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""The pictures that every browser shows."""

LARGE = 2**20
"""Bytes of a network from which WebGPU and threads are used: starting them takes a while."""

LARGEST_ON_HOSTS = 100 * 10**6
"""Bytes of a file above which GitHub, among others, takes none."""


@dataclass(frozen=True)
class Site:
    """A site that was written.

    Attributes
    ----------
    folder
        Where it lies.
    size
        Bytes of all files.
    visit
        Bytes that a visitor without WebGPU loads.
    trial
        What was found out before.
    warnings
        What the user should know.
    """

    folder: Path
    size: int
    visit: int
    trial: Trial
    warnings: list[str]


def build_site(
    directory: Path,
    output: Path,
    *,
    allowed: float,
    title: str | None = None,
    examples: Sequence[Path] = (),
    runtime: Path | None = None,
    webgpu: bool = True,
    browser: bool = True,
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> Site:
    """Write the site of a compiled directory.

    Parameters
    ----------
    directory
        What ``graphprop compile`` wrote.
    output
        The folder to write to.
    allowed
        How far a browser's map may be off from ONNX Runtime's, relative to it.
    title
        The page's heading, by default the model's name.
    examples
        Pictures to choose from.
    runtime
        The folder of onnxruntime-web, see `graphprop.web.runtime.runtime_folder`.
    webgpu
        Whether the page uses WebGPU where there is one.
    browser
        Whether to try the network in a browser first, if there is one here.
    force
        Replace what graphprop wrote, even where it was changed; other files stay.
    say
        Called with what is about to be done.

    Raises
    ------
    OutputError
        If the folder can't be written, or the network does not fit a browser.
    MethodError
        If it was compiled without ONNX.
    InputError
        If it takes no pictures, an example is none, or onnxruntime-web is not to be had.
    EquivalenceError
        If the browser's map is another one.
    """
    say = say or (lambda text: None)
    manifest = read_manifest(directory)
    refuse_rejected(directory, manifest)
    checked_onnx(directory, manifest)
    preprocessing = Preprocessing.of(manifest)
    refuse_foreign(output, force, keep=[directory / ONNX, *examples])
    for file in examples:
        if not file.is_file() or file.suffix.lower() not in EXAMPLES:
            raise InputError(f"the example {file} is no picture: give one of {', '.join(EXAMPLES)}")
        preprocessing.read(file)
    model = directory / ONNX
    beside = data_files(onnx.load(model, load_external_data=False), directory)
    found = runtime_folder(runtime, say)
    say("explain noise, to compare with")
    trial = try_out(model, beside, preprocessing, found, allowed, browser=browser)
    say("write the site")
    warnings = warnings_of(manifest, [model, *beside.values()])
    with writing_beside(output) as fresh:
        files = Files(fresh)
        write(
            files,
            manifest,
            preprocessing,
            trial,
            {ONNX: model, **beside},
            {"wasm": WASM, **({"webgpu": WEBGPU} if webgpu else {})},
            found,
            examples,
            title or manifest["model"] or "An explained network",
            allowed,
        )
        put_in_place(fresh, output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    gpu = sum((found / name).stat().st_size for name in WEBGPU) if webgpu else 0
    return Site(output, size, size - gpu, trial, warnings)


def warnings_of(manifest: Json, files: Sequence[Path]) -> list[str]:
    """What the user should know of a page."""
    found = []
    if not manifest["preprocessing"]:
        found.append(
            "no preprocessing is recorded: the page gives the network pictures with values from 0 "
            "to 1; if it was trained on others, compile again with --preprocessing"
        )
    found += [
        f"{file.name} has {file.stat().st_size / 1e6:.0f} MB: some hosts of static sites take no "
        "file above 100 MB"
        for file in files
        if file.stat().st_size > LARGEST_ON_HOSTS
    ]
    return found


class Files:
    """The files of a site, written into folders that are named by what they hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}

    def folder(self, stem: str, contents: Mapping[str, Path | bytes] | Mapping[str, Path]) -> str:
        """Write a folder of files; returns its name."""
        digest = hashlib.sha256()
        for name, content in sorted(contents.items()):
            known = sha256(content) if isinstance(content, Path) else hashed(content)
            digest.update(f"{name} {known}\n".encode())
        folder = f"{stem}-{digest.hexdigest()[:12]}"
        (self.root / folder).mkdir()
        for name, content in contents.items():
            self.add(f"{folder}/{name}", content)
        return folder

    def add(self, path: str, content: Path | bytes) -> None:
        """Write one file."""
        target = self.root / path
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        self.hashes[path] = sha256(target)


def hashed(content: bytes) -> str:
    """The hash of a file with this content."""
    return hashlib.sha256(content).hexdigest()


def write(
    files: Files,
    manifest: Json,
    preprocessing: Preprocessing,
    trial: Trial,
    model: Mapping[str, Path],
    parts: Mapping[str, Sequence[str]],
    runtime: Path,
    examples: Sequence[Path],
    title: str,
    allowed: float,
) -> None:
    """Write all files of a site."""
    relevance = np.ascontiguousarray(trial.relevance, np.float32)
    network = files.folder("network", {**model, "map.f32": relevance.tobytes()})
    libraries: dict[str, str] = {}
    for part, names in parts.items():
        stem = f"onnxruntime-web-{VERSION}-{part}"
        content = {name: runtime / name for name in names}
        libraries[part] = files.folder(stem, {**content, "LICENSE": PAGE / "license.txt"})
    shown = []
    if examples:
        named = {f"{i}{file.suffix.lower()}": file for i, file in enumerate(examples)}
        folder = files.folder("examples", named)
        shown = [{"address": f"{folder}/{name}", "name": file.stem} for name, file in named.items()]
    config = {
        "class_names": manifest.get("class_names"),
        "classes": manifest["classes"],
        "input": INPUT,
        "input_shape": manifest["input_shape"],
        "relevance_shape": manifest["relevance_shape"],
        "model": f"{network}/{ONNX}",
        "beside": {name: f"{network}/{name}" for name in model if name != ONNX},
        "on_processor": on_processor(model[ONNX]),
        "large": sum(file.stat().st_size for file in model.values()) >= LARGE,
        "preprocessing": {
            "size": list(preprocessing.size),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
            "channels": preprocessing.channels,
        },
        "probe": {"map": f"{network}/map.f32", "target": trial.target, "allowed": allowed},
        "runtime": {
            part: {
                "script": f"{libraries[part]}/{script}",
                "mjs": f"{libraries[part]}/{mjs}",
                "wasm": f"{libraries[part]}/{wasm}",
            }
            for part, (script, mjs, wasm) in parts.items()
        },
    }
    own: dict[str, Path | bytes] = {name: PAGE / name for name in OWN_FILES}
    own["engine.js"] = ASSETS / "engine.js"
    own["config.json"] = json.dumps(config).encode()
    app = files.folder("page", own)
    texts: dict[str, Any] = {
        "app": app,
        "title": title,
        "method": manifest["method"],
        "network": manifest["model"] or "a network",
        "version": __version__,
        "runtime": VERSION,
        "policy": POLICY,
        "draws": manifest["input_shape"][0] == 1,
        "examples": shown,
        "model": config["model"],
    }
    files.add("index.html", rendered("page.html", texts).encode())
    files.add("sw.js", service_worker(files.hashes, list(libraries.values())).encode())
    record = {"generator": GENERATOR, "graphprop": __version__, "files": files.hashes}
    (files.root / RECORD).write_text(as_json(record))


def rendered(name: str, content: Mapping[str, Any]) -> str:
    """A template of the page, with all text escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(PAGE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(name).render(content)


def service_worker(hashes: Mapping[str, str], libraries: Sequence[str]) -> str:
    """The service worker of these files; of onnxruntime-web it keeps what the page uses."""
    content = {
        "build": hashed(as_json(dict(hashes)).encode())[:12],
        "core": [path for path in hashes if path.partition("/")[0] not in libraries],
        "hashes": {path: integrity(known) for path, known in hashes.items() if "/" in path},
        "headers": {**HEADERS, "Content-Security-Policy": POLICY},
    }
    source = (PAGE / "sw.js").read_text(encoding="utf-8")
    return source.replace("{{ content }}", json.dumps(content))


def integrity(known: str) -> str:
    """A hash as browsers write it."""
    return "sha256-" + base64.b64encode(bytes.fromhex(known)).decode("ascii")
