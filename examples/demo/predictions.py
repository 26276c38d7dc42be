"""The held-out images through both doors of the server, compared with onnxruntime on the very bytes it serves."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.grpc.aio as grpc_door
import tritonclient.http.aio as http_door
from tritonclient.utils import InferenceServerException

from .load import percentile
from .screen import DemoError

__all__ = ["Answers", "Comparison", "Door", "HeldOut", "compare", "predict", "reference", "v2_request"]

_ANSWER_SECONDS = 30
_CALLERS = 8
"""For throughput; latency is measured with one."""


@dataclass(frozen=True)
class HeldOut:
    """Images as rows of 64 FP32 pixels, and what they show."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "HeldOut":
        """What examples/digits/train.py has written."""
        with np.load(path) as found:
            return cls(found["image"], found["label"])


@dataclass(frozen=True)
class Answers:
    """One label and ten probabilities per image."""

    labels: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Door:
    """How long one caller waited for each image, and how many images a second eight callers got."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float


@dataclass(frozen=True)
class Comparison:
    """Answers against the reference and against the truth."""

    accuracy: float
    reference_accuracy: float
    mismatches: int
    max_abs_difference: float


def reference(model: bytes, images: np.ndarray) -> Answers:
    """What onnxruntime says on this machine, image by image as the server is asked."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = [session.run(["label", "probabilities"], {"image": image[None]}) for image in images]
    return Answers(np.array([int(row[0].item()) for row in rows]), np.concatenate([row[1] for row in rows]))


def compare(answers: Answers, expected: Answers, truth: np.ndarray) -> Comparison:
    """How far the server is from the reference; NaN anywhere counts as the largest difference."""
    difference = np.abs(answers.probabilities.astype(np.float64) - expected.probabilities.astype(np.float64))
    return Comparison(
        accuracy=float(np.mean(answers.labels == truth)),
        reference_accuracy=float(np.mean(expected.labels == truth)),
        mismatches=int(np.sum(answers.labels != expected.labels)),
        max_abs_difference=float(np.nan_to_num(difference, nan=np.inf).max()),
    )


def predict(door: Any, address: str, name: str, images: np.ndarray) -> tuple[Answers, Door]:
    """Every image once by one caller, then again by eight at a time; `door` is an aio module of tritonclient."""
    try:
        return asyncio.run(_predict(door, address, name, images))
    except (InferenceServerException, OSError) as error:
        detail = str(error) or f"no answer within {_ANSWER_SECONDS} s"
        raise DemoError(f"a prediction by {door.__name__.split('.')[1]} at {address} failed: {detail}") from error


async def _predict(door: Any, address: str, name: str, images: np.ndarray) -> tuple[Answers, Door]:
    async with door.InferenceServerClient(address) as client:

        async def ask(image: np.ndarray) -> Any:
            tensor = door.InferInput("image", [1, image.size], "FP32")
            tensor.set_data_from_numpy(image[None])
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await client.infer(name, [tensor])

        await ask(images[0])
        found, seconds = [], []
        for image in images:
            start = time.perf_counter()
            found.append(await ask(image))
            seconds.append(time.perf_counter() - start)
        rate = await _throughput(ask, images)
    labels = np.array([int(result.as_numpy("label").reshape(-1)[0]) for result in found])
    probabilities = np.stack([result.as_numpy("probabilities").reshape(-1) for result in found])
    p50, p95, p99 = (round(percentile(seconds, q) * 1000, 3) for q in (50, 95, 99))
    return Answers(labels, probabilities), Door(p50, p95, p99, round(rate, 1))


async def _throughput(ask: Callable[[np.ndarray], Awaitable[Any]], images: np.ndarray) -> float:
    left = iter(images)

    async def call() -> None:
        for image in left:
            await ask(image)

    start = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return len(images) / (time.perf_counter() - start)


def v2_request(image: np.ndarray) -> dict[str, Any]:
    """An image as the JSON body that any HTTP client can send."""
    return {"inputs": [{"name": "image", "shape": [1, image.size], "datatype": "FP32", "data": image.tolist()}]}


DOORS = {"http": (http_door, 8000), "grpc": (grpc_door, 8001)}
