"""The loop around the operator: what dies is replaced, what is asked to go goes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

PROGRAM = """
import os, signal, sys, time
from penstock.cli import supervise as module
module._FIRST_PAUSE = {pause}
def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("born", os.getpid(), flush=True)
    {body}
sys.exit(module.supervise(work))
"""
UNTIL_ASKED = "return 7 if signal.sigwait([signal.SIGTERM]) else 0"


@contextmanager
def supervised(body: str, pause: float = 0.01) -> Iterator[subprocess.Popen[str]]:
    program = PROGRAM.format(body=body, pause=pause)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        try:
            yield parent
        finally:
            parent.terminate()  # a killed one would leave its child behind
            parent.wait(timeout=10)


def born(parent: subprocess.Popen[str]) -> int:
    assert parent.stdout is not None
    word, pid = parent.stdout.readline().split()
    assert word == "born"
    return int(pid)


def test_a_killed_child_is_replaced_at_once() -> None:
    with supervised(UNTIL_ASKED) as parent:
        first = born(parent)
        started = time.monotonic()
        os.kill(first, signal.SIGKILL)
        assert born(parent) != first
        assert time.monotonic() - started < 1.0


def test_sigterm_is_passed_on_and_nobody_is_born_after_it() -> None:
    with supervised(UNTIL_ASKED) as parent:
        born(parent)
        parent.terminate()
        rest, _ = parent.communicate(timeout=10)
        assert (rest, parent.returncode) == ("", 7)


def test_a_child_that_is_done_ends_it() -> None:
    with supervised("return 0") as parent:
        born(parent)
        assert parent.communicate(timeout=10)[0] == ""
        assert parent.returncode == 0


def test_pauses_grow_and_a_signal_ends_them() -> None:
    with supervised("raise SystemExit(3)", pause=0.05) as parent:
        times = []
        for _ in range(4):
            born(parent)
            times.append(time.monotonic())
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses[0] >= 0.05
        assert pauses[2] >= 0.2
        started = time.monotonic()
        parent.terminate()
        parent.communicate(timeout=10)
        assert time.monotonic() - started < 0.35
        assert parent.returncode == 1
