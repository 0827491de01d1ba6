"""Tests that need a browser and onnxruntime-web are skipped, with the reason, without them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graphprop.checking.web import WebAssembly
from graphprop.web.browser import arguments, find_browser


@cache
def lacking() -> str | None:
    """What is missing here; npm is asked once."""
    return WebAssembly.lacking()


def need_browser() -> None:
    """Skip the test where there is no browser, or no onnxruntime-web."""
    missing = lacking()
    if missing:
        pytest.skip(missing)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, as any host of static sites does."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A browser opens many connections at once."""

    request_queue_size = 64


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a folder, served on this machine."""
    server = Server(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def playing() -> Iterator[Any]:
    """Playwright, of which a process has one at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


@contextmanager
def browsing(chromium: Any, *more: str) -> Iterator[Any]:
    """A headless browser."""
    program = chromium.launch(executable_path=find_browser(), args=arguments(*more))
    yield program
    program.close()


class Visit:
    """A page that is open in a browser, with what went wrong in it and what it asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.note(m.text) if m.type != "log" else None)
        self.page.on("pageerror", lambda error: self.note(str(error)))
        self.context.on("request", lambda request: self.asked.append(request.url))

    def note(self, text: str) -> None:
        """Keep what went wrong."""
        self.trouble.append(text)

    def open(self, query: str = "") -> Visit:
        """Open the page, and wait until it is ready."""
        self.page.goto(self.address + query)
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)
        return self

    def fact(self, name: str) -> str:
        """What stands beside a name at the end of the page."""
        row = self.page.locator("#facts div", has_text=name).locator("dd")
        return str(row.inner_text())

    def wait(self, condition: str) -> None:
        """Wait for a condition, JavaScript, to hold; without evaluating text in the page."""
        for _ in range(600):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{condition} never holds: {self.page.inner_text('body')}")

    def close(self) -> None:
        """Close it."""
        self.context.close()
