"""Serves explanations over HTTP: a picture in, logits and relevance out. Ray Serve batches.

    python serve.py build/digits-epsilon_plus_flat --port 8000
    curl --data-binary @3.png 'http://localhost:8000/?target=3' -o 3.npz

Needs ray[serve], onnxruntime, numpy and Pillow, and of a compiled directory explainer.onnx and
manifest.json. No code from the directory is run.
"""

import argparse
import asyncio
import hashlib
import io
import json
import signal
from pathlib import Path

import numpy as np
import onnxruntime
import ray
from PIL import Image, ImageOps, UnidentifiedImageError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

LARGEST_BODY = 16 * 2**20  # bytes
MOST_PIXELS = 2**25  # a picture of few bytes can unpack to gigabytes
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


class Refused(Exception):
    """A request that can't be answered: the status, and what the client is told."""


def opened(body: bytes) -> Image.Image:
    """Read a picture: upright, with 8 bits, on white."""
    try:
        picture = Image.open(io.BytesIO(body), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        picture = ImageOps.exif_transpose(picture)
        picture.load()
    except (Image.DecompressionBombError, MemoryError) as error:
        raise Refused(413, f"the picture has more than {MOST_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise Refused(400, "the body is no PNG, JPEG, WebP or BMP, and no .npy") from error
    except Exception as error:  # Pillow has many ways to say so
        raise Refused(400, "the picture is damaged") from error
    if picture.mode.startswith(("I", "F")):
        raise Refused(422, f"the picture has the mode {picture.mode}: give 8 bits a channel")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture


# --8<-- [start:prepare]
def from_picture(body: bytes, manifest: dict) -> np.ndarray:
    """Make an input [C, H, W] of the bytes of a picture, as the manifest says."""
    shape = manifest["input_shape"]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise Refused(422, f"the network takes inputs of shape {tuple(shape)}: give an .npy")
    channels, height, width = shape
    given = manifest["preprocessing"] or {}
    picture = opened(body).convert("L" if channels == 1 else "RGB")
    interpolation = Image.Resampling[given.get("interpolation", "bilinear").upper()]
    resize = given.get("resize", "cover")
    if resize == "cover":
        picture = ImageOps.fit(picture, (width, height), interpolation)
    else:
        # one number is the length of the shorter side, two are height and width
        shorter = min(picture.size)
        sides = [resize * side // shorter for side in picture.size] if type(resize) is int else None
        if sides and sides[0] * sides[1] > MOST_PIXELS:
            raise Refused(422, "the picture is too narrow to scale its shorter side")
        picture = picture.resize(sides or resize[::-1], interpolation)
        left, top = (
            round((have - want) / 2) if have >= want else -((want - have) // 2)
            for have, want in zip(picture.size, (width, height), strict=True)
        )
        picture = picture.crop((left, top, left + width, top + height))
    pixels = np.asarray(picture, np.float32).reshape(height, width, channels).transpose(2, 0, 1)
    if given.get("channels") == "BGR":
        pixels = pixels[::-1]
    mean, std = (
        np.float32(given.get(name) or [default] * channels)[:, None, None]
        for name, default in (("mean", 0), ("std", 1))
    )
    return (pixels / np.float32(255) - mean) / std


def from_array(body: bytes, manifest: dict) -> np.ndarray:
    """Take an .npy as the input itself; its header is read before room is made for its entries."""
    wanted = tuple(manifest["input_shape"])
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(file)
    except Exception as error:
        raise Refused(400, "the body begins as an .npy, and is none") from error
    if shape != wanted:
        raise Refused(422, f"the array has the shape {shape}, and the network takes {wanted}")
    if dtype.kind not in "fiu":
        raise Refused(422, f"the array is of type {dtype}: give numbers")
    try:
        x = np.load(io.BytesIO(body), allow_pickle=False).astype(np.float32)
    except Exception as error:
        raise Refused(400, "the array is shorter than its header says") from error
    if not np.isfinite(x).all():
        raise Refused(422, "the array holds NaN or infinity")
    return x


# --8<-- [end:prepare]


async def body_of(request: Request) -> bytes:
    """Read the body, and no more of it than is allowed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"the body has more than {LARGEST_BODY} bytes")
    return bytes(body)


def target_of(request: Request, classes: int) -> int:
    """The class to explain; -1 is that of the largest logit."""
    text = request.query_params.get("target", "-1")
    known = text.isascii() and text.isdecimal() and len(text) < 9 and int(text) < classes
    if text != "-1" and not known:
        raise Refused(422, f"target is {text[:20]!r}, not a class from 0 to {classes - 1}")
    return int(text)


# --8<-- [start:deployment]
@serve.deployment(max_ongoing_requests=64, max_queued_requests=256)
class Explainer:
    """Answers requests; those that come at about the same time are explained as one batch."""

    def __init__(self, directory: str, threads: int, batch: int, wait: float) -> None:
        folder = Path(directory)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        if len(self.manifest["input_shapes"]) > 1:
            raise ValueError("the explainer takes several inputs, and a request holds one")
        for name, digest in self.manifest["files"].items():
            if name.startswith("explainer.onnx"):
                found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
                if found != digest:
                    raise ValueError(f"{name} is not as it was written: compile it again")
        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = False  # batches of any size: a third less memory
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            folder / "explainer.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.explain.set_max_batch_size(batch)
        self.explain.set_batch_wait_timeout_s(wait)
        self.batches = self.samples = 0

    async def __call__(self, request: Request) -> Response:
        try:
            return await self.answer(request)
        except Refused as error:
            status, message = error.args
            return JSONResponse({"error": message}, status)

    async def answer(self, request: Request) -> Response:
        if request.method == "GET":
            known = {name: self.manifest[name] for name in ("model", "method", "input_shape")}
            return JSONResponse({**known, "batches": self.batches, "samples": self.samples})
        if request.method != "POST":
            raise Refused(405, "POST a picture or an .npy; GET says what is served")
        target = target_of(request, self.manifest["classes"])
        body = await body_of(request)
        read = from_array if body.startswith(b"\x93NUMPY") else from_picture
        x = await asyncio.to_thread(read, body, self.manifest)
        logits, relevance = await self.explain((x, target))
        if not np.isfinite(relevance).all():
            raise Refused(422, "the map holds NaN or infinity: the input is too large")
        file = io.BytesIO()
        np.savez(file, logits=logits, relevance=relevance, target=target)
        return Response(file.getvalue(), media_type="application/octet-stream")

    @serve.batch
    async def explain(self, items: list) -> list:
        inputs, targets = zip(*items, strict=True)
        feed = {"input": np.stack(inputs), "target": np.array(targets, np.int64)}
        # in a thread: meanwhile, the next requests are read and decoded
        logits, relevance = await asyncio.to_thread(self.session.run, ["logits", "relevance"], feed)
        self.batches += 1
        self.samples += len(items)
        return list(zip(logits, relevance, strict=True))


def build(arguments: dict) -> serve.Application:
    """The application, for ``serve run serve:build directory=... threads=2``."""
    return Explainer.bind(
        str(Path(arguments["directory"]).resolve()),
        int(arguments.get("threads", 1)),
        int(arguments.get("batch", 16)),
        float(arguments.get("wait", 0.005)),
    )


# --8<-- [end:deployment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="what graphprop compile wrote")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--batch", type=int, default=16, help="the most samples at once")
    parser.add_argument("--wait", type=float, default=0.005, help="for others, in seconds")
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=10**8)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    for number in (signal.SIGINT, signal.SIGTERM):  # both end it in order, whatever Ray set
        signal.signal(number, signal.default_int_handler)
    serve.run(build(vars(arguments)), blocking=True)


if __name__ == "__main__":
    main()
