"""The manifest of a compiled directory, read as what anyone may have written.

`read_manifest` runs nothing, opens nothing outside the directory, and checks the type of every
field and the kind of every file before anything else uses them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from graphprop.artifact.schema import Json, complaint_about, shown
from graphprop.errors import OutputError

VERSION = 1
GENERATOR = "graphprop"
MANIFEST = "manifest.json"
ONNX = "explainer.onnx"
FILES = ("explainer.py", "weights.safetensors", ONNX, "explainer.onnx.data")

OWN_HASH = "sha256"
"""The field that holds the hash of all others."""

LARGEST_MANIFEST = 64 * 2**20
"""Bytes of a manifest: a network of a thousand layers has about one MiB."""
LARGEST_ONNX = 2**31
"""Bytes of an ONNX file without the data beside it: what protobuf can hold."""
LARGEST_FILE = 16 * 2**30
"""Bytes of any other file: the weights of four billion parameters in float32."""
DEEPEST = 32
"""How deep lists and objects may be nested: graphprop writes no more than six levels, and deeper
ones would exhaust the stack of what reads them."""

AGAIN = "compile it again, or get the directory from its source again"


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Read and check the manifest of a compiled directory, and what kinds of files lie there.

    Parameters
    ----------
    directory
        What ``graphprop compile`` wrote, or claims to have.

    Returns
    -------
    dict
        The manifest. The fields that graphprop reads are there and have the right types; the names
        under ``files`` are names in the directory.

    Raises
    ------
    OutputError
        If there is no such directory, graphprop did not make it, a field is missing or of another
        type, or a file is a link out of the directory, a device, or too large.
    """
    directory = Path(directory)
    if not directory.exists():
        raise OutputError(f"there is no directory {directory}: `graphprop compile` writes one")
    if not directory.is_dir():
        raise OutputError(f"{directory} is a file: give the directory that holds explainer.py")
    file = directory / MANIFEST
    if not os.path.lexists(file):
        raise OutputError(
            f"{directory} holds no {MANIFEST}: give a directory that `graphprop compile` wrote"
        )
    check_file(file, LARGEST_MANIFEST)
    content = read_json(file)
    if not isinstance(content, dict) or content.get("generator") != GENERATOR:
        raise OutputError(f"{file} was not written by graphprop: give another directory")
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        raise OutputError(
            f"{file} has version {shown(content.get('version'))}, and this graphprop reads version "
            f"{VERSION}: compile it again"
        )
    complaint = complaint_about(content)
    if complaint:
        raise OutputError(f"{file} is damaged: {complaint}; {AGAIN}")
    for name in dict.fromkeys([*FILES, *content["files"]]):
        if os.path.lexists(directory / name):
            check_file(directory / name, LARGEST_ONNX if name == ONNX else LARGEST_FILE)
    return content


def read_json(file: Path) -> Any:
    """Read a JSON file of limited size and depth, without NaN and infinities."""
    try:
        content = json.loads(read_limited(file, LARGEST_MANIFEST), parse_constant=refuse_constant)
        too_deep = depth_exceeds(content, DEEPEST)
    except RecursionError:
        too_deep = True
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} can't be read ({error}): compile it again") from error
    if too_deep:
        raise OutputError(f"{file} is nested deeper than {DEEPEST} levels: {AGAIN}")
    return content


def refuse_constant(name: str) -> None:
    """JSON has no such numbers."""
    raise ValueError(f"{name} is no number in JSON")


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested deeper than so."""
    level: list[Any] = [value]
    for _ in range(limit + 1):
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children += item.values()
            elif isinstance(item, list):
                children += item
        if not children:
            return False
        level = children
    return True


def read_limited(file: Path, limit: int) -> bytes:
    """Read a regular file that is no larger than the limit."""
    # a pipe would otherwise wait for whoever writes into it
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it is larger than {limit} bytes")
    return content


def check_file(file: Path, limit: int) -> None:
    """Refuse what is no regular file of the directory itself, or too large to be one of ours."""
    try:
        inside = file.resolve().parent == file.parent.resolve()
        if file.is_symlink() and not inside:
            raise OutputError(
                f"{file} is a link that leads out of its directory: put a copy of the file there"
            )
        status = file.stat()
    except (OSError, RuntimeError) as error:  # a link to itself is either, by version of Python
        raise OutputError(
            f"{file} can't be read ({getattr(error, 'strerror', None) or error}): {AGAIN}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{file} is no regular file, but {kind_of(status.st_mode)}: {AGAIN}")
    if status.st_size > limit:
        raise OutputError(
            f"{file} has {status.st_size} bytes, more than the {limit} that are read: {AGAIN}"
        )


def kind_of(mode: int) -> str:
    """What kind of file it is."""
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for is_kind, words in kinds if is_kind(mode)), "something else")


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(content: Any) -> str:
    """JSON with sorted keys, lists of numbers on one line."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    return re.sub(r"\[\n[-+\d.e,\s]*\]", lambda m: " ".join(m[0].split()), text) + "\n"


def manifest_hash(content: Json) -> str:
    """The hash of a manifest: of its JSON, sorted and without spaces, but for the hash itself."""
    rest = {key: value for key, value in content.items() if key != OWN_HASH}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
