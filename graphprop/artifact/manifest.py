"""The manifest of a compiled directory, read as what anyone may have written.

`read_manifest` runs nothing, opens nothing outside the directory, and checks the type of every
field and the kind of every file before anything else uses them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphprop.errors import OutputError

VERSION = 1
GENERATOR = "graphprop"
MANIFEST = "manifest.json"
ONNX = "explainer.onnx"
FILES = ("explainer.py", "weights.safetensors", ONNX, "explainer.onnx.data")

LARGEST_MANIFEST = 64 * 2**20
"""Bytes of a manifest."""
LARGEST_ONNX = 2**31
"""Bytes of an ONNX file without the data beside it: what protobuf can hold."""
LARGEST_FILE = 16 * 2**30
"""Bytes of any other file."""
LARGEST_TENSOR = 2**28
"""Entries of one input or one map, without the batch."""
LONGEST_TEXT = 2**20
"""Characters of one name or note."""
DEEPEST = 32
"""How deep lists and objects may be nested."""

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
    """What lies under a name, in words."""
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


# The fields. A kind takes a value and its place, and returns what is wrong with it, or None.

Kind = Callable[[Any, str], "str | None"]


def kind(words: str, holds: Callable[[Any], bool]) -> Kind:
    """Values of which a predicate holds."""

    def complaint(value: Any, place: str) -> str | None:
        return None if holds(value) else f"{place} is {shown(value)}, not {words}"

    return complaint


def shown(value: Any) -> str:
    """A value in a message: not too long, and nothing in it that a terminal obeys."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_text(value: Any) -> bool:
    """Whether a value is text that isn't too long."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e300 and math.isfinite(value)


def whole(low: int, high: int) -> Kind:
    """Whole numbers of a range."""
    return kind(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def optional(inner: Kind) -> Kind:
    """A kind, or null."""
    return lambda value, place: None if value is None else inner(value, place)


def items(inner: Kind, least: int = 0) -> Kind:
    """Lists, all entries of one kind."""

    def complaint(value: Any, place: str) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return f"{place} is {shown(value)}, not a list{' with entries' if least else ''}"
        found = (inner(item, f"{place}[{number}]") for number, item in enumerate(value))
        return next(filter(None, found), None)

    return complaint


def mapping(inner: Kind, key: Callable[[str], bool] = is_text, words: str = "text") -> Kind:
    """Objects, all values of one kind."""

    def complaint(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return f"{place} is {shown(value)}, not an object"
        for name, item in value.items():
            if not key(name):
                return f"a name in {place} is {shown(name)}, not {words}"
            found = inner(item, f"{place}.{shown(name)[1:-1]}")
            if found:
                return found
        return None

    return complaint


def record(needed: Mapping[str, Kind], allowed: Mapping[str, Kind] | None = None) -> Kind:
    """Objects with fields, each of its kind; those of other names are nobody's business."""

    def complaint(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return f"{place} is {shown(value)}, not an object"
        prefix = f"{place}." if place else ""
        for name, inner in needed.items():
            if name not in value:
                return f"{prefix}{name} is missing"
            found = inner(value[name], prefix + name)
            if found:
                return found
        for name, inner in (allowed or {}).items():
            if name in value:
                found = inner(value[name], prefix + name)
                if found:
                    return found
        return None

    return complaint


def anything(value: Any, place: str) -> str | None:
    """Values that are shown at most."""
    return None


def is_shape(value: Any) -> bool:
    """Whether a value is the shape of a tensor of bearable size."""
    lengths = isinstance(value, list) and all(type(size) is int and size > 0 for size in value)
    return lengths and len(value) <= 16 and math.prod(value) <= LARGEST_TENSOR


def is_plain_name(name: str) -> bool:
    """Whether a name is one of a file in this very directory, on every system."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name)) and name[-1] != "."


def is_hash(value: Any) -> bool:
    """Whether a value is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value))


TEXT = kind("text", is_text)
NUMBER = kind("a finite number", is_number)
FLAG = kind("true or false", lambda value: isinstance(value, bool))
SHAPE = kind(f"a shape of at most {LARGEST_TENSOR} entries", is_shape)
HASH = kind("a SHA-256", is_hash)
NUMBERS = items(optional(NUMBER))

LAYER = record(
    {
        "label": TEXT,
        "rule": optional(TEXT),
        "value": optional(TEXT),
        "relevance": optional(TEXT),
        "flows": mapping(optional(TEXT)),
        "signal": items(optional(TEXT)),
        "shape": SHAPE,
    },
    {"path": TEXT, "operator": TEXT, "kind": TEXT, "role": TEXT, "roles": items(TEXT)},
)
PREPROCESSING = record(
    {},
    {
        "size": items(whole(1, LARGEST_TENSOR)),
        "mean": items(NUMBER),
        "std": items(kind("a number above zero", lambda v: is_number(v) and v > 0)),
    },
)
CHECK = record({"passed": FLAG}, {"warnings": items(TEXT), "backends": items(mapping(anything))})
MEASURED = record({"norm": NUMBERS, "product": NUMBERS})
FINGERPRINT = record(
    {
        "rows": items(TEXT, 1),
        "targets": items(whole(-2, LARGEST_TENSOR), 1),
        "float32": record({"logits": NUMBERS, "relevance": NUMBERS}),
        "input": NUMBERS,
        "result": mapping(NUMBERS),
        "relevance": mapping(NUMBERS),
        "logits": MEASURED,
        "input_relevance": MEASURED,
    },
    {"seed": whole(0, 2**63 - 1)},
)
CONSERVATION = record(
    {
        "start": TEXT,
        "places": whole(1, LARGEST_TENSOR),
        "cause": optional(TEXT),
        "remedy": optional(TEXT),
    }
)
FIELDS = record(
    {
        "graphprop": TEXT,
        "model": TEXT,
        "method": TEXT,
        "parameters": mapping(anything),
        "input_shape": SHAPE,
        "input_shapes": items(SHAPE, 1),
        "logits_shape": SHAPE,
        "relevance_shape": SHAPE,
        "classes": whole(1, LARGEST_TENSOR),
        "layers": items(LAYER, 1),
        "onnx_names": mapping(TEXT),
        "notes": items(TEXT),
        "preprocessing": optional(PREPROCESSING),
        "check": optional(CHECK),
        "fingerprint": optional(FINGERPRINT),
        "files": mapping(HASH, is_plain_name, "the plain name of a file"),
    },
    {
        "conservation": optional(CONSERVATION),
        "sha256": HASH,
        "torch": TEXT,
        "rules": mapping(anything),
        "roles": mapping(anything),
        "output": anything,
        "batch_norms": mapping(TEXT),
        "source": record({}, {"name": optional(TEXT), "sha256": optional(HASH)}),
    },
)


def complaint_about(content: Any) -> str | None:
    """What is wrong with the fields of a manifest, or None."""
    return FIELDS(content, "") or contradiction(content)


def contradiction(content: Mapping[str, Any]) -> str | None:
    """What two fields say that can't both hold, or None."""
    shapes = content["input_shapes"]
    if shapes[0] != content["input_shape"]:
        return f"input_shape is {content['input_shape']}, and input_shapes begins with {shapes[0]}"
    found = contradiction_in_fingerprint(content["fingerprint"] or {}, content["classes"])
    if found:
        return found
    given = content["preprocessing"] or {}
    channels, *size = content["input_shape"] or [0]
    if given.get("size", size) != size:
        return f"preprocessing.size is {shown(given['size'])}, and inputs have the size {size}"
    for name in ("mean", "std"):
        if len(given.get(name, [0] * channels)) != channels:
            return f"preprocessing.{name} has {len(given[name])} entries for {channels} channels"
    return None


def contradiction_in_fingerprint(content: Mapping[str, Any], classes: int) -> str | None:
    """What a fingerprint says that can't be, or None: of everything there is one per sample."""
    targets = content.get("targets", [])
    if any(target >= classes for target in targets):
        return f"a target of fingerprint is none of the {classes} classes"
    rows = content.get("rows", [])
    if len(rows) != len(targets) or len(set(rows)) != len(rows):
        return f"fingerprint.rows has not a name for each of {len(targets)} targets"
    for name, part in content.items():
        lists = {name: part} if isinstance(part, list) else part
        for key, values in lists.items() if isinstance(lists, dict) else ():
            if isinstance(values, list) and len(values) != len(targets):
                return (
                    f"fingerprint.{name} has {len(values)} entries at {shown(key)}, and there are "
                    f"{len(targets)} samples"
                )
    return None
