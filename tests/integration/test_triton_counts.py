"""What the real server counts when things go well and when they do not, and the sentence that comes of it."""

import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from examples.demo.faults import Fault, faulty_repository
from hack.cluster.settings import CHECKOUT

from penstock.api.reasons import Reason
from penstock.core.diagnosis import describe_servers, total_counts
from penstock.probes.triton import TritonReader
from tests.e2e.models import linear_model, some_rows

from .tritonserver import TritonServer, TritonUnavailable, install

ROWS = some_rows(1)
BODY = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 8], "data": ROWS.ravel().tolist()}]}
REQUESTS = 40
RAISES = ("        for request in requests:\n", "        raise RuntimeError('on purpose')\n")
REJECTS = """
dynamic_batching { default_queue_policy {
  default_timeout_microseconds: 100000 timeout_action: REJECT max_queue_size: 4 } }
"""
REASON = Reason.ERROR_RATE_WORSE


def repository(folder: Path, fault: Fault, *, raises: bool = False, more_config: str = "") -> Path:
    for path, content in faulty_repository("m", linear_model(1).data, fault).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if raises and path.endswith("model.py"):
            assert RAISES[0].encode() in content
            content = content.replace(RAISES[0].encode(), RAISES[1].encode() + RAISES[0].encode(), 1)  # noqa: PLW2901
        file.write_bytes(content + (more_config.encode() if path.endswith("config.pbtxt") else b""))
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("fault", "changes", "statuses", "sentence"),
    [
        (Fault("None"), {}, {200: REQUESTS}, f"Triton counted {REQUESTS} requests as served and none as failed: "),
        (Fault("Error"), {}, {500: REQUESTS}, f"Triton counted {REQUESTS} requests as served and none as failed: "),
        (
            Fault("None"),
            {"raises": True},
            {500: REQUESTS},
            rf"Triton counted {REQUESTS} failures of {REQUESTS} requests \(BACKEND: the model's own code raised .+\)$",
        ),
        (Fault("RenamedInput"), {}, {400: REQUESTS}, "No request reached its model in Triton: they were refused"),
        (
            Fault("Slow", seconds=0.02),
            {"more_config": REJECTS},
            None,
            r"Triton counted \d+ (requests as served|failures of \d+ requests \(REJECTED: they waited too long)",
        ),
    ],
    ids=["well", "answered errors", "raised", "refused", "full queue"],
)  # fmt: skip
async def test_after_requests_of_a_kind(
    fault: Fault, changes: dict, statuses: dict[int, int] | None, sentence: str, tmp_path: Path
) -> None:
    port = free_port()
    reader = TritonReader(port)
    models = repository(tmp_path / "models", fault, **changes)
    flags = ("--allow-metrics=true", f"--metrics-port={port}", "--metrics-address=127.0.0.1")
    try:
        with TritonServer(install(), models, tmp_path, CHECKOUT, *flags) as server:
            assert server.load("m").ready
            with ThreadPoolExecutor(16) as callers:
                found = Counter(callers.map(lambda _: server.infer("m", BODY, 5)[0], range(REQUESTS)))
            assert statuses is None or found == statuses
            counts = await reader.count("127.0.0.1")
        assert counts is not None
        said = describe_servers(REASON, total_counts((counts,), "m", 1), None, "")
        assert re.match(sentence, said), said
        assert await reader.count("127.0.0.1") is None, "nobody is there any more"
    except TritonUnavailable as error:
        pytest.skip(str(error))
    finally:
        await reader.close()
