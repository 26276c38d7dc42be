"""The faulty models of demo and tests in the real server: each goes wrong in its way and in no other."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_door
from examples.demo.faults import MARK, Fault, faulty_repository
from hack.cluster.settings import CHECKOUT
from tritonclient.utils import InferenceServerException

from tests.e2e.models import linear_model, some_rows
from tests.integration.tritonserver import TritonServer, TritonUnavailable, install

MODEL = linear_model(1)
ROWS = some_rows(1)
BODY = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 8], "data": ROWS.ravel().tolist()}]}
REQUESTS = 40


@pytest.fixture(scope="module")
def installation():
    try:
        return install()
    except TritonUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def serve(installation, tmp_path: Path):
    """A server with one faulty model `m`."""
    servers = []

    def start(fault: Fault) -> TritonServer:
        for path, content in faulty_repository("m", MODEL.data, fault).items():
            (tmp_path / "models" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "models" / path).write_bytes(content)
        flags = [f"--{name}={value}" for name, value in fault.flags.items()]
        servers.append(TritonServer(installation, tmp_path / "models", tmp_path, CHECKOUT, *flags))
        answer = servers[-1].load("m")
        assert answer.ready, answer
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(server: TritonServer, timeout: float = 30) -> tuple[Counter[int], list[float], list[dict]]:
    """Statuses, seconds and bodies of requests by eight callers."""

    def one(_: int) -> tuple[int, float, dict]:
        start = time.monotonic()
        status, body = server.infer("m", BODY, timeout)
        return status, time.monotonic() - start, body

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(one, range(REQUESTS)))
    return Counter(status for status, _, _ in found), [one[1] for one in found], [one[2] for one in found]


def ask_grpc(server: TritonServer, timeout: float = 30) -> str:
    """Empty, or what was wrong."""
    tensor = grpc_door.InferInput("features", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    with grpc_door.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        try:
            client.infer("m", [tensor], client_timeout=timeout)
        except InferenceServerException as error:
            return str(error)
    return ""


def test_without_a_fault_it_answers_as_the_model_itself(serve):
    server = serve(Fault("None"))
    statuses, _, bodies = ask(server)
    assert statuses == {200: REQUESTS}
    assert np.allclose(bodies[0]["outputs"][0]["data"], MODEL.answer(ROWS).ravel(), atol=1e-6)
    assert ask_grpc(server) == ""


@pytest.mark.parametrize(("percent", "least", "most"), [(100, REQUESTS, REQUESTS), (40, 4, 32)])
def test_errors_come_for_their_share_at_both_doors(serve, percent, least, most):
    server = serve(Fault("Error", percent))
    statuses, _, bodies = ask(server)
    assert least <= statuses[500] <= most
    assert statuses[500] + statuses[200] == REQUESTS
    assert sum(MARK in str(body) for body in bodies) == statuses[500]
    if percent == 100:
        assert ask_grpc(server) == f"[StatusCode.INTERNAL] {MARK}"


def test_a_slow_one_is_late_by_its_time_and_keeps_up_all_the_same(serve):
    server = serve(Fault("Slow", seconds=0.3))
    start = time.monotonic()
    statuses, seconds, _ = ask(server)
    assert statuses == {200: REQUESTS}
    assert min(seconds) >= 0.3
    assert time.monotonic() - start < 0.75 * REQUESTS * 0.3, "eight callers wait beside each other"


def test_a_hanging_one_never_answers_and_is_alive(serve):
    server = serve(Fault("Hang"))
    statuses, _, _ = ask(server, timeout=0.5)
    assert statuses == {-1: REQUESTS}
    assert "Deadline" in ask_grpc(server, 0.5)
    assert server.alive


def test_a_dying_one_takes_the_server_with_it_after_its_good_answers(serve):
    server = serve(Fault("Die", after=10))
    good = [server.infer("m", BODY, 30)[0] for _ in range(10)]  # one by one: death overtakes answers on their way
    assert good == [200] * 10
    statuses, _, _ = ask(server)
    assert statuses == {0: REQUESTS}
    assert not server.alive


def test_a_grpc_fault_spares_http(serve):
    server = serve(Fault("GrpcError"))
    assert ask(server)[0] == {200: REQUESTS}
    assert MARK in ask_grpc(server)


def test_a_renamed_input_is_a_bad_request(serve):
    server = serve(Fault("RenamedInput"))
    assert ask(server)[0] == {400: REQUESTS}
    assert "INVALID_ARGUMENT" in ask_grpc(server)
