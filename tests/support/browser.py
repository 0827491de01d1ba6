"""Tests that need a browser and onnxruntime-web are skipped, with the reason, without them."""

from __future__ import annotations

from functools import cache

import pytest

from graphprop.checking.web import WebAssembly


@cache
def lacking() -> str | None:
    """What is missing here; npm is asked once."""
    return WebAssembly.lacking()


def need_browser() -> None:
    """Skip the test where there is no browser, or no onnxruntime-web."""
    missing = lacking()
    if missing:
        pytest.skip(missing)
