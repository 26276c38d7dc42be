"""Operators as processes of their own: started, killed without warning, asked to end.

`Nursery` forks operators from one process that has imported everything already: what runs is the real command in a
process of its own, but a hundred of them cost no hundred imports. `start_operator` starts the command as a user does.
"""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Nursery", "Operator", "operator_environment", "start_operator"]

_PR_SET_PDEATHSIG = 1
_BOUND = ("setpriv", "--pdeathsig", "KILL", sys.executable, "-m")


class Operator:
    """One running operator process, whoever started it; `log` is where its output goes."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._ended = asyncio.Event()
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._handle, self._note_end)

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as the event loop has been told."""
        return not self._ended.is_set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    async def ended(self, seconds: float = 60.0) -> None:
        """Wait for its end."""
        await asyncio.wait_for(self._ended.wait(), seconds)

    async def kill(self) -> None:
        """End it without warning, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def terminate(self, seconds: float = 60.0) -> None:
        """End it as a kubelet does, and wait for it."""
        self.signal(signal.SIGTERM)
        await self.ended(seconds)

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._ended.set()


def operator_environment(kubeconfig: Path, namespace: str, *, identity: str, **more: str) -> dict[str, str]:
    """What the chart would set, for an operator that looks after its own namespace only."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "KUBECONFIG": str(kubeconfig),
        "PENSTOCK_IMAGE_JOBS": "penstock/jobs:test",
        "PENSTOCK_IMAGE_TRITON": "penstock/triton:test",
        "PENSTOCK_IMAGE_CONVERT": "penstock/convert:test",
        "PENSTOCK_IMAGE_ROUTER": "penstock/router:test",
        "PENSTOCK_NAMESPACE": namespace,
        "PENSTOCK_WATCH_NAMESPACES": namespace,
        "PENSTOCK_POD_UID": identity,
        "PENSTOCK_PORT": "0",
        **more,
    }


def start_operator(environment: Mapping[str, str], log: Path, module: str = "penstock.cli") -> Operator:
    """`penstock run` in a fresh interpreter; it dies with this process."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            (*_BOUND, module, "run"), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    child.returncode = 0  # it is waited for by its handle
    return Operator(child.pid, log)


class Nursery:
    """An async context that starts operators in milliseconds; all of them end with it."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *_BOUND, __name__, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        self._turn = asyncio.Lock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def start(self, environment: Mapping[str, str], log: Path) -> Operator:
        """`penstock run` with this environment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = json.dumps({"environment": dict(environment), "log": str(log)})
        async with self._turn:
            self._process.stdin.write(order.encode() + b"\n")
            return Operator(int(await self._process.stdout.readline()), log)


def serve_births() -> None:
    """The nursery's own process: one line of orders in, one pid out, until its input ends."""
    import penstock.controller.operator  # noqa: F401, PLC0415 - what takes the time

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_operator(order["environment"], order["log"])
        print(pid, flush=True)


def _become_operator(environment: dict[str, str], log: str) -> None:
    from penstock.cli.run import run  # noqa: PLC0415

    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(environment)
        run.main(args=[], standalone_mode=False)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve_births()
