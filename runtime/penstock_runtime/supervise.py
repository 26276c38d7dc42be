"""One child process under limits, and its parent's watch: a hang, a crash, a kill or a flood becomes a sentence."""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.api.reasons import Reason

from .failure import Failure

__all__ = [
    "OUT_OF_MEMORY",
    "Limits",
    "Supervised",
    "Watched",
    "apply_limits",
    "disk_use",
    "memory_limit",
]

_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNLIMITED = 1 << 60
_RESERVE = 64 << 20
"""Left to the parent and to files in memory, so that the child meets its own limit before the container's."""
_SMALLEST = 128 << 20
_LARGEST_ANSWER = 1 << 20
OUT_OF_MEMORY = 77
"""Exit code of a child that could not get memory and could still say so."""
_LOOK_EVERY = 0.5
"""Seconds between two looks at what the child has written."""


@dataclass(frozen=True)
class Limits:
    """What the child may use: bytes of memory (None: all there is), seconds for everything, bytes of one file."""

    memory: int | None
    seconds: float
    file_bytes: int = 0

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> "Limits":
        """From the request that `Supervised.ask` sends."""
        return cls(asked["memory"], asked["seconds"], asked["file_bytes"])


@dataclass(frozen=True)
class Watched:
    """Folders that the child writes to, and how many bytes may lie in all of them together."""

    folders: tuple[Path, ...]
    most_bytes: int


def memory_limit() -> int | None:
    """The container's memory limit in bytes, None where there is none."""
    for name in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):
            value = int(Path(name).read_text())
            return value if value < _UNLIMITED else None
    return None


def apply_limits(limits: Limits) -> None:
    """Bind this process: memory, processor time, no core files, files no larger than allowed, few descriptors.

    RLIMIT_DATA counts memory that can be written, not address space that is only reserved, as RLIMIT_AS would. There is
    no RLIMIT_NPROC: it counts a user's threads on the whole node.
    """
    if limits.memory is not None:
        most = max(_SMALLEST, limits.memory - _RESERVE)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    processor = int(limits.seconds * (os.cpu_count() or 1)) + 1
    for kind, value in (
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(kind, (value, value))


def disk_use(folders: tuple[Path, ...]) -> int:
    """Bytes on disk of all files below the folders; what vanishes meanwhile does not count."""
    total, left = 0, list(folders)
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


class Supervised:
    """A child that reads one JSON request from its standard input and answers on its standard output.

    It is started before there is anything to do, since its imports take longer than most downloads. Its answer is lines
    of JSON: `{"stage": "…"}` says what it is about to do, the last line is the result.
    """

    def __init__(
        self, module: str, limits: Limits, environment: Mapping[str, str] | None = None, watched: Watched | None = None
    ) -> None:
        self._limits = limits
        self._watched = watched
        self._child = subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self._stage = "starting"
        self._rest = b""

    def ask(self, request: dict[str, Any], file_bytes: int | None = None) -> dict[str, Any]:
        """Send the request, wait for the result; raises Failure. `file_bytes` is known only now."""
        assert self._child.stdin is not None
        deadline = time.monotonic() + self._limits.seconds
        limits = asdict(self._limits) | ({"file_bytes": file_bytes} if file_bytes is not None else {})
        try:
            with self._child.stdin as pipe:
                pipe.write(f"{json.dumps({**request, **limits})}\n".encode())
            while True:
                answer = self._next_line(deadline)
                if "stage" not in answer:
                    return answer
                self._stage = str(answer["stage"])
        except (BrokenPipeError, EOFError) as error:
            raise self._ended() from error
        except ValueError as error:
            raise Failure(Reason.PREPARATION_FAILED, f"the inspection's child answered nonsense: {error}") from error
        finally:
            self.end()

    def end(self) -> None:
        """Make sure the child is gone."""
        if self._child.poll() is None:
            self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._child.wait()

    def _next_line(self, deadline: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._timed_out()
            self._check_disk()
            if not select.select([descriptor], [], [], min(left, _LOOK_EVERY) if self._watched else left)[0]:
                continue
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise EOFError
            self._rest += piece
            if len(self._rest) > _LARGEST_ANSWER:
                raise ValueError(f"more than {_LARGEST_ANSWER} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
        return answer

    def _check_disk(self) -> None:
        if self._watched is None:
            return
        used = disk_use(self._watched.folders)
        if used > self._watched.most_bytes:
            message = (
                f"{self._stage} has written {used} bytes, {self._watched.most_bytes} may be; use a smaller model or "
                "raise the chart's operator.maxModelSize"
            )
            raise Failure(Reason.TOO_LARGE, message)

    def _timed_out(self) -> Failure:
        message = (
            f"{self._stage} took more than {self._limits.seconds:g} s; the model hangs or is too slow for its CPU; "
            "raise spec.prepare.timeout or spec.prepare.resources.limits.cpu"
        )
        return Failure(Reason.PREPARATION_TIMEOUT, message)

    def _ended(self) -> Failure:
        code = self._child.wait()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        limit = self._limits.memory
        near = limit is not None and peak > limit * 0.8
        if code in (-signal.SIGKILL, OUT_OF_MEMORY) or near:
            room = f"its limit of {limit >> 20} MiB" if limit is not None else "what the node has"
            message = f"{self._stage} needs more memory than {room}; raise spec.prepare.resources.limits.memory"
            return Failure(Reason.PREPARATION_OUT_OF_MEMORY, message)
        if code == -signal.SIGXCPU:
            return self._timed_out()
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        message = f"{self._stage} ended its process ({how}); the file is damaged or crashes the library that reads it"
        return Failure(Reason.INVALID_MODEL, message)
