"""The server of the documentation: it answers as the explainer does, refuses clearly, stays up."""

import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from graphprop.artifact.manifest import read_manifest
from graphprop.cli import main as graphprop_command
from graphprop.pictures.preprocessing import Preprocessing

pytest.importorskip("ray")
pytest.importorskip("starlette")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
DIGITS = sorted((ROOT / "models" / "digits_examples").glob("*.png"))


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("serve_example", EXAMPLES / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB").convert(mode) if mode != "RGBA" else (
        Image.fromarray(pixels)
    )  # fmt: skip


PREPROCESSING = {
    "none": None,
    "cover": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    "shorter side": {"resize": 29, "interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1]},
    "both sides": {"resize": [30, 40], "channels": "BGR", "mean": [1, 2, 3], "std": [1, 2, 3]},
    "small": {"resize": 9, "mean": [0, 0, 0], "std": [1, 1, 1]},
}


@pytest.mark.parametrize("name", PREPROCESSING)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(50, 31), (31, 50), (24, 20)])
def test_a_picture_is_prepared_as_explain_prepares_it(example, tmp_path, name, mode, size):
    given = PREPROCESSING[name]
    given = given and {"size": [20, 24], **given}
    manifest = {"input_shape": [3, 20, 24], "preprocessing": given}
    body = encoded(noise(*size, mode))
    (tmp_path / "a.png").write_bytes(body)
    preparing = Preprocessing.of(manifest)
    expected = preparing.tensor(preparing.read(tmp_path / "a.png")[0])[0].numpy()
    np.testing.assert_allclose(example.from_picture(body, manifest), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ([1, 4, 4, 4], (8, 8), r"the network takes inputs of shape \(1, 4, 4, 4\): give an .npy"),
        ([3, 20, 24], (60000, 1), "too narrow to scale its shorter side"),
    ],
)
def test_a_picture_that_can_not_become_an_input_is_refused(example, shape, size, words):
    manifest = {"input_shape": shape, "preprocessing": {"resize": 256}}
    with pytest.raises(example.Refused, match=words) as error:
        example.from_picture(encoded(Image.new("L", size)), manifest)
    assert error.value.args[0] == 422


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "digits"
    command = ["compile", str(ROOT / "models/digits.py"), "-o", str(folder), "--no-check"]
    graphprop_command(command, standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def server(compiled, tmp_path_factory):
    """The address of a server in a process of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [sys.executable, EXAMPLES / "serve.py", compiled, "--port", str(port)]
    place = f"http://127.0.0.1:{port}/"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            until = time.monotonic() + 180
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                try:
                    urllib.request.urlopen(place).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield place
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(place: str, body: bytes | None, target: object = None, method: str | None = None):
    """The status of an answer, and what it holds."""
    url = place if target is None else f"{place}?target={target}"
    request = urllib.request.Request(url, body, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def refused(body: bytes, status: int, words: str, **options):
    return body, status, words, options


PICTURE = DIGITS[0].read_bytes()
ZEROS = npy(np.zeros((1, 32, 32), np.float32))
REFUSED = {
    "too many bytes": refused(bytes(17 * 2**20), 413, "the body has more than 16777216 bytes"),
    "no picture": refused(b"#!/bin/sh", 400, "the body is no PNG, JPEG, WebP or BMP, and no .npy"),
    "empty": refused(b"", 400, "the body is no PNG, JPEG, WebP or BMP, and no .npy"),
    "cut off": refused(PICTURE[:120], 400, "the picture is damaged"),
    "too many pixels": refused(
        encoded(Image.new("1", (30000, 30000))), 413, "the picture has more than 33554432 pixels"
    ),
    "16 bits": refused(
        encoded(Image.new("I;16", (4, 4))), 422, "the picture has the mode I;16: give 8 bits"
    ),
    "another shape": refused(
        npy(np.zeros((3, 8, 8), np.float32)), 422,
        "the array has the shape (3, 8, 8), and the network takes (1, 32, 32)",
    ),
    "a header that promises more": refused(
        ZEROS.replace(b"(1, 32, 32), }", b"(9999999999,)}"), 422, "the shape (9999999999,)"
    ),
    "an array cut off": refused(ZEROS[:500], 400, "shorter than its header says"),
    "a damaged header": refused(b"\x93NUMPY" + b"\xff" * 80, 400, "begins as an .npy, and is none"),
    "objects": refused(npy(np.full((1, 32, 32), None)), 422, "the array is of type object"),
    "nan": refused(
        npy(np.full((1, 32, 32), np.nan, np.float32)), 422, "the array holds NaN or infinity"
    ),
    "overflow": refused(
        npy(np.full((1, 32, 32), 1e38, np.float32)), 422, "the map holds NaN or infinity"
    ),
    "no such class": refused(PICTURE, 422, "not a class from 0 to 9", target=10),
    "no class": refused(PICTURE, 422, "not a class from 0 to 9", target="3x"),
    "a long number": refused(PICTURE, 422, "not a class from 0 to 9", target="0" * 9 + "10"),
    "another method": refused(PICTURE, 405, "POST a picture or an .npy", method="PUT"),
}  # fmt: skip


@pytest.mark.slow
def test_every_answer_is_that_of_its_own_request(example, compiled, server):
    manifest = read_manifest(compiled)
    session = onnxruntime.InferenceSession(compiled / "explainer.onnx")
    requests = [(path.read_bytes(), target) for path in DIGITS for target in (None, 0, 7)] * 4
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: ask(server, *one), requests))
    for (body, target), (status, content) in zip(requests, answers, strict=True):
        assert status == 200, content
        x = example.from_picture(body, manifest)[None]
        wanted = np.array([-1 if target is None else target])
        logits, relevance = session.run(None, {"input": x, "target": wanted})
        with np.load(io.BytesIO(content)) as found:
            np.testing.assert_allclose(found["logits"], logits[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["relevance"], relevance[0], rtol=1e-4, atol=1e-5)
    status, content = ask(server, None)
    known = json.loads(content)
    assert known["input_shape"] == [1, 32, 32]
    assert known["samples"] >= len(requests)
    assert known["batches"] < known["samples"]  # some were explained together


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_explained_is_refused_and_the_server_stays_up(server, name):
    body, status, words, options = REFUSED[name]
    found, message = ask(server, body, **options)
    assert found == status, message
    assert words in message
    assert "\n" not in message
    assert ask(server, ZEROS)[0] == 200


@pytest.mark.slow
def test_the_load_is_measured(server):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "load.py", server, *DIGITS, "--clients", "4", "--seconds", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    header, _, row = done.stdout.splitlines()
    found = dict(zip(header.split("|")[1:-1], map(float, row.split("|")[1:-1]), strict=True))
    assert found[" clients "] == 4
    assert found[" requests a second "] > 0
    assert found[" median ms "] <= found[" 95th percentile ms "]
    assert found[" failed "] == 0


def test_the_page_names_what_the_server_limits(example):
    text = (ROOT / "docs/guides/serving.md").read_text(encoding="utf-8")
    assert f"{example.LARGEST_BODY // 2**20} MiB" in text
    assert f"{example.MOST_PIXELS:,}".replace(",", " ") in text
    for _, status, _, _ in REFUSED.values():
        assert f"| {status} |" in text
