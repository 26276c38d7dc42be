"""The catalogue against a real tritonserver: what it answers today is what was recorded, and our rules agree.

`PENSTOCK_RECORD=1` puts every case to it, the dangerous ones to servers of their own, and writes answers.json.
Otherwise every bad case that is safe and every third valid one is asked.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pytest

from tests.catalogue.cases import ANSWERS, Case, load_answers, load_cases
from tests.integration.tritonserver import VERSION, Answer, Installation, TritonServer, TritonUnavailable, install

PROJECT = Path(__file__).parents[2]
RECORD = os.environ.get("PENSTOCK_RECORD") == "1"
BAD = [case for case in load_cases("bad") if not case.offline]
VALID = [case for case in load_cases("valid") if not case.offline]
HANG = 6.0
SERVERS = 2


@pytest.fixture(scope="module")
def installation() -> Installation:
    try:
        return install()
    except TritonUnavailable as error:
        pytest.skip(f"no tritonserver here: {error}")


@pytest.fixture(scope="module")
def answers(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What the server says to each case that is asked."""
    cases = [case for case in BAD if not case.dangerous] + (VALID if RECORD else VALID[::3])
    shards = [(cases[first::SERVERS], tmp_path_factory.mktemp("triton")) for first in range(SERVERS)]
    found: dict[str, Answer] = {}
    with ThreadPoolExecutor(SERVERS, thread_name_prefix="triton") as pool:
        for part in pool.map(lambda shard: ask_in_turn(installation, *shard), shards):
            found |= part
    if RECORD:
        found |= dict(ask_dangerous(installation, tmp_path_factory))
        record(found)
    return found


def ask_in_turn(installation: Installation, cases: list[Case], work: Path) -> dict[str, Answer]:
    """One load after the other; a server that dies is followed by another, which is asked the last case again.

    This server dies about once in a dozen runs of the suite, mostly where several load at a time, and of no case in
    particular: it still unloads one model when it loads the next. One that kills two servers is to blame.
    """
    repository, found, killer = lay_out(cases, work), dict[str, Answer](), ""
    for number in count():
        place = work / f"server-{number}"
        place.mkdir()
        with TritonServer(installation, repository, place, PROJECT) as server:
            for case in cases[len(found) :]:
                answer = server.load(case.model)
                if answer.code == 200:
                    server.unload(case.model)
                if not server.alive:
                    assert case.id != killer, f"two servers died of {case.id}: {server.log()[-2000:]}"
                    killer = case.id
                    break
                found[case.id] = answer
            else:
                break
    return found


def ask_dangerous(installation: Installation, factory: pytest.TempPathFactory) -> Iterator[tuple[str, Answer]]:
    for case in BAD:
        if case.dangerous:
            work = factory.mktemp("dangerous")
            with TritonServer(installation, lay_out([case], work), work, PROJECT) as server:
                answer = server.load(case.model, timeout=HANG)
                yield case.id, answer if server.alive else replace(answer, code=0)


def lay_out(cases: list[Case], work: Path) -> Path:
    repository = work / "repository"
    repository.mkdir()
    for case in cases:
        for model in filter(Path.is_dir, case.root.iterdir()):
            shutil.copytree(model, repository / model.name)
    return repository


def record(found: dict[str, Answer]) -> None:
    """Write answers.json without what differs from run to run."""
    rows = {
        name: asdict(answer) | {"reason": tidy(answer.reason), "log": tidy(answer.log)}
        for name, answer in sorted(found.items())
    }
    ANSWERS.write_text(json.dumps({"server": VERSION, "answers": rows}, indent=1, ensure_ascii=False) + "\n")


def tidy(reason: str) -> str:
    """A reason without places of this machine and without a backend's stack trace."""
    return re.sub(r"/tmp/\S*?/repository/", "<repository>/", reason.partition("\n\nAt:")[0])


def test_the_server_answers_as_recorded(answers: dict[str, Answer]) -> None:
    recorded = load_answers()
    today = {name: (answer.code, answer.ready) for name, answer in answers.items()}
    assert today == {name: (recorded[name]["code"], recorded[name]["ready"]) for name in answers}


def test_what_the_server_refuses_we_refuse(answers: dict[str, Answer]) -> None:
    missed = [
        case.id
        for case in BAD
        if case.id in answers
        and answers[case.id].code != 200
        and not any(found.problem.severity == "error" for found in case.check())
    ]
    assert missed == []


def test_what_the_server_serves_of_the_valid_ones_we_take(answers: dict[str, Answer]) -> None:
    asked = [case for case in VALID if case.id in answers]
    not_served = [case.id for case in asked if not answers[case.id].ready]
    refused = [case.id for case in asked if any(found.problem.severity == "error" for found in case.check())]
    assert (not_served, refused) == ([], [])


def test_rendered_scalars_and_strings_are_answered(installation: Installation, tmp_path: Path) -> None:
    """The shapes a server can only prove by answering: a reshaped scalar per row, strings, a batch of clients."""
    wanted = {case.id: case for case in VALID}
    scalar, strings = wanted["rendered-scalar-rows"], wanted["rendered-scalar-string-rows"]
    with TritonServer(installation, lay_out([scalar, strings], tmp_path), tmp_path, PROJECT) as server:
        for case, kind, values in ((scalar, "INT64", [7, 8, 9]), (strings, "BYTES", ["a", "b", "c"])):
            assert server.load(case.model).ready
            tensor = {"name": "x", "shape": [3, 1], "datatype": kind, "data": values}
            code, body = server.infer(case.model, {"inputs": [tensor]})
            assert code == 200, body
            outputs = body["outputs"]
            assert isinstance(outputs, list)
            assert (outputs[0]["shape"], outputs[0]["data"]) == ([3, 1], values)
