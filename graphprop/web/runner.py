"""Run an ONNX file in a headless browser: a script for a process of its own.

It is started by `graphprop.web.browser` with the name of a job, and imports nothing of graphprop.
A server on this machine's own address hands the browser the files that the job names, and takes
the results; the browser reaches nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


class Exchange:
    """What the browser is given, and what has come back.

    Parameters
    ----------
    files
        Path in the address -> file.
    results
        The folder for what it sends.
    """

    def __init__(self, files: dict[str, str], results: Path) -> None:
        self.files, self.results = files, results
        self.ended = threading.Event()
        self.failure: str | None = None

    def take(self, path: str, body: bytes) -> bool:
        """Take what was sent; whether it was expected."""
        if path == "/done":
            self.ended.set()
        elif path == "/failed":
            self.failure = body.decode(errors="replace")
            self.ended.set()
        elif re.fullmatch(r"/result/\d+", path):
            (self.results / path.rpartition("/")[2]).write_bytes(body)
        else:
            return False
        return True


def handler_of(exchange: Exchange) -> type[BaseHTTPRequestHandler]:
    """What answers the browser's requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing on stderr."""

        def do_GET(self) -> None:
            """Hand out a file of the job."""
            name = exchange.files.get(self.path)
            if name is None:
                self.send_error(404)
                return
            with open(name, "rb") as file:
                self.send_response(200)
                kind = TYPES.get(Path(self.path).suffix, "application/octet-stream")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile)

        def do_POST(self) -> None:
            """Take a result."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204 if exchange.take(self.path, body) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def watch(job: dict[str, Any]) -> str | None:
    """Let the browser do a job; returns what went wrong."""
    from playwright.sync_api import Error, sync_playwright

    exchange = Exchange(job["files"], Path(job["results"]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(exchange))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=job["browser"], args=job["arguments"]
            )
            page = browser.new_page()
            crashes: list[str] = []
            page.on("crash", lambda _: crashes.append("the browser's page ran out of memory"))
            page.on("pageerror", lambda error: crashes.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_port}/check.html")
            waited = 0.0
            while not exchange.ended.is_set() and not crashes and waited < job["longest"]:
                page.wait_for_timeout(50)  # the page's events are heard meanwhile
                waited += 0.05
            browser.close()
            if crashes:
                return crashes[0]
            if not exchange.ended.is_set():
                return f"it took more than {job['longest']:g} seconds"
            return exchange.failure
    except Error as error:
        return str(error)
    finally:
        server.shutdown()


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text())
    problem = watch(content)
    Path(content["problem"]).write_text(json.dumps(problem))
