"""Names: ASCII identifiers for generated source, and names that weight files can hold."""

from __future__ import annotations

import builtins
import keyword
import re

RESERVED = frozenset(
    [
        "x",
        "target",
        "logits",
        "relevance",
        "self",
        "torch",
        "F",
        "Explainer",
        "load",
        "weights",
        "derive",
        "recorded",
        "single",
        "sample_scale",
        "sample_offset",
        "sample_weight",
        "sample_baseline",
    ]
)
"""Names that generated modules use for themselves: no variable can have them."""


def identifier(name: str) -> str:
    """Make an ASCII identifier from any text: short, no keyword, no leading underscore."""
    cleaned = re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_")[:60].rstrip("_")
    if not cleaned or cleaned[0].isdigit():
        cleaned = f"layer_{cleaned}".rstrip("_")
    return cleaned + "_" if is_keyword(cleaned) else cleaned


def tensor_name(name: str) -> str:
    """A tensor's name as a safetensors file can hold it: valid UTF-8, and not its header's key."""
    valid = name.encode("utf-8", "backslashreplace").decode()
    return "metadata" if valid == "__metadata__" else valid


def is_keyword(name: str) -> bool:
    """Whether Python gives the name a meaning of its own."""
    return keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name)


def snake_case(name: str) -> str:
    """``MaxPool`` -> ``max_pool``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
