"""The fields of a manifest: what each must be, and which can't hold together.

A kind is a function of a value and its place that returns what is wrong with the value, or None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

LARGEST_TENSOR = 2**28
"""Entries of one input or one map, without the batch: a GiB of float32, more than any network's."""
MOST_AXES = 16
"""Axes of a shape: torch computes with no more than 64, networks have 5."""
LONGEST_TEXT = 2**20
"""Characters of one name or note."""
LARGEST_NUMBER = 1e300
"""Above this a number is damaged: its square is infinite."""
LONGEST_SHOWN = 60
"""Characters of a value in a message, which is to stay on one line."""

Json: TypeAlias = Mapping[str, Any]
"""An object of a manifest, or of what is to become a part of one: what its fields hold is what
`FIELDS` says."""

Kind: TypeAlias = Callable[[object, str], str | None]


def kind(words: str, holds: Callable[[object], bool]) -> Kind:
    """Values of which a predicate holds."""

    def complaint(value: object, place: str) -> str | None:
        return None if holds(value) else f"{place} is {shown(value)}, not {words}"

    return complaint


def shown(value: object) -> str:
    """A value in a message: not too long, and nothing in it that a terminal obeys."""
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def is_text(value: object) -> bool:
    """Whether a value is text that isn't too long."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_index(value: object) -> bool:
    """Whether a value is a place in a list."""
    return type(value) is int and 0 <= value <= LARGEST_TENSOR


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < LARGEST_NUMBER and math.isfinite(value)


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

    def complaint(value: object, place: str) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return f"{place} is {shown(value)}, not a list{' with entries' if least else ''}"
        found = (inner(item, f"{place}[{number}]") for number, item in enumerate(value))
        return next(filter(None, found), None)

    return complaint


def mapping(inner: Kind, key: Callable[[str], bool] = is_text, words: str = "text") -> Kind:
    """Objects, all values of one kind."""

    def complaint(value: object, place: str) -> str | None:
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
    """Objects with fields, each of its kind; fields of other names are not looked at."""

    def complaint(value: object, place: str) -> str | None:
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


def anything(value: object, place: str) -> str | None:
    """Values of any kind, which are shown at most."""
    return None


def is_shape(value: object) -> bool:
    """Whether a value is the shape of a tensor no larger than `LARGEST_TENSOR`."""
    if not isinstance(value, list) or len(value) > MOST_AXES:
        return False
    lengths = all(type(size) is int and size > 0 for size in value)
    return lengths and math.prod(value) <= LARGEST_TENSOR


def is_resize(value: object) -> bool:
    """Whether a value says how a picture is scaled."""
    lengths = value if isinstance(value, list) and len(value) == 2 else [value]
    return value == "cover" or all(type(n) is int and 1 <= n <= 65536 for n in lengths)


def word(*words: str) -> Kind:
    """One of some words."""
    return kind(f"one of {', '.join(words)}", lambda value: value in words)


def is_plain_name(name: str) -> bool:
    """Whether a name is one of a file in this very directory, on every system."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name)) and name[-1] != "."


def is_hash(value: object) -> bool:
    """Whether a value is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value))


TEXT = kind("text", is_text)
NUMBER = kind("a finite number", is_number)
FLAG = kind("true or false", lambda value: isinstance(value, bool))
SHAPE = kind(f"a shape of at most {LARGEST_TENSOR} entries", is_shape)
HASH = kind("a SHA-256", is_hash)
NUMBERS = items(optional(NUMBER))
OPERAND = kind("text or the index of an input", lambda v: is_text(v) or is_index(v))

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
    {
        "path": TEXT,
        "operator": TEXT,
        "kind": TEXT,
        "role": TEXT,
        "roles": items(TEXT),
        "sign": TEXT,
        "line": optional(TEXT),
        "operands": items(OPERAND),
        "places": SHAPE,
        "details": TEXT,
    },
)
PREPROCESSING = record(
    {},
    {
        "size": items(whole(1, LARGEST_TENSOR)),
        "mean": items(NUMBER),
        "std": items(kind("a number above zero", lambda v: is_number(v) and v > 0)),
        "resize": kind("'cover', a length or two of at most 65536", is_resize),
        "interpolation": word("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"),
        "channels": word("RGB", "BGR", "gray"),
    },
)
OFF = {name: optional(NUMBER) for name in ("error", "allowed", "logits_error", "logits_allowed")}
BACKEND = record(
    {},
    {
        **OFF,
        "name": TEXT,
        "passed": FLAG,
        **dict.fromkeys(("skipped", "problem", "explained"), optional(TEXT)),
        "samples": items(record({}, {"sample": TEXT, **OFF})),
        "divergence": optional(record({}, {"layers": items(TEXT), "place": TEXT, **OFF})),
    },
)
ACCOUNT = record(
    {"label": TEXT, "lost": mapping(optional(NUMBER))},
    {
        "operator": TEXT,
        "rule": TEXT,
        "came_in": optional(NUMBER),
        "went_out": optional(NUMBER),
        "note": optional(TEXT),
    },
)
LEDGER = record(
    {},
    {
        "samples": items(TEXT),
        "start": NUMBERS,
        "input": NUMBERS,
        "layers": items(record({"label": TEXT, "relevance": NUMBERS})),
        "accounts": items(ACCOUNT),
    },
)
STAGES = record(
    {
        "sample": TEXT,
        "rows": items(
            record(
                {
                    "label": optional(TEXT),
                    "flow": TEXT,
                    "kind": TEXT,
                    "float32": optional(NUMBER),
                    "allowed": optional(NUMBER),
                    "errors": mapping(optional(NUMBER)),
                }
            )
        ),
    }
)
CHECK = record(
    {"passed": FLAG},
    {
        "status": TEXT,
        "arbiter": TEXT,
        "samples": items(TEXT),
        "targets": items(whole(-2, LARGEST_TENSOR)),
        "float32": mapping(NUMBERS),
        "backends": items(BACKEND),
        "ledger": LEDGER,
        "stages": optional(STAGES),
        "warnings": items(TEXT),
        "changes": items(TEXT),
        "overflow": optional(TEXT),
    },
)
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
        "class_names": optional(items(TEXT)),
        "conservation": optional(CONSERVATION),
        "fit": record({"samples": whole(1, LARGEST_TENSOR), "sha256": HASH}),
        "sha256": HASH,
        "torch": TEXT,
        "versions": mapping(TEXT),
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
    names = content.get("class_names")
    if names is not None and len(names) != content["classes"]:
        return f"class_names has {len(names)} entries for {content['classes']} classes"
    given = content["preprocessing"] or {}
    channels, *size = content["input_shape"] or [0]
    if given.get("size", size) != size:
        return f"preprocessing.size is {shown(given['size'])}, and inputs have the size {size}"
    for name in ("mean", "std"):
        if len(given.get(name, [0] * channels)) != channels:
            return f"preprocessing.{name} has {len(given[name])} entries for {channels} channels"
    order = given.get("channels")
    if order is not None and channels != (1 if order == "gray" else 3):
        return f"preprocessing.channels is {order!r}, and the input has {channels} channels"
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
