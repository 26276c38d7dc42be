"""A process is ours by its start, never by its number alone."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hack.cluster import process


@pytest.fixture
def sleeper(tmp_path: Path):
    started = process.start("sleeper", ["sleep", "60"], tmp_path / "log" / "sleeper.log")
    yield started
    process.stop([started], 0)


def test_a_started_process_is_alive_until_stopped(sleeper):
    assert sleeper.alive()
    process.stop([sleeper], 2)
    assert not sleeper.alive()


@pytest.mark.parametrize("other", [{"started": 1}, {"boot": "another boot"}])
def test_the_same_pid_with_another_start_or_boot_is_foreign_and_never_signalled(sleeper, other):
    foreign = replace(sleeper, **other)
    assert not foreign.alive()
    foreign.signal(signal.SIGKILL)
    process.stop([foreign], 0)
    assert sleeper.alive()


def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path):
    log = tmp_path / "deaf.log"
    deaf = process.start("deaf", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], log)
    while "ready" not in log.read_text():
        assert deaf.alive()
    process.stop([deaf], 0.1)
    assert not deaf.alive()


def test_processes_are_found_by_a_part_of_their_arguments(tmp_path: Path):
    log = tmp_path / "log"
    marked = process.start("marked", ["sh", "-c", "echo ready; sleep 60", f"{tmp_path}/mark"], log)
    while "ready" not in log.read_text():
        assert marked.alive()
    assert marked.pid in process.with_arguments(f"{tmp_path}/mark")
    process.stop([marked], 0)
