"""One run of the server beside us: `penstock-prove` in its container serves what is laid out here, until it is told.

The two meet in `/work/proof/<n>/`: `ready` (JSON, the server's arguments) says that the repository is whole, `usage`
comes back several times a second, `failed` when the server ended by itself, `ended` after `done`.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.reasons import Reason
from penstock.core.modelrepo import RepositoryPlan, ServerSettings, server_flags

from .failure import Failure
from .v2 import InferenceError, ask, encode_get

__all__ = ["Files", "ServerEnded", "ServerRun", "Usage", "running_server"]

_PAUSE = 0.05
_STARTS_WITHIN = 60.0
_ENDS_WITHIN = 60.0
_EXIT_SECONDS = 5
_TOLD_WITHIN = 0.3


@dataclass(frozen=True)
class Usage:
    """What the server's container has used: seconds of processor, bytes of memory now and at most."""

    cpu: float
    memory: int
    peak: int
    source: str = ""
    """`cgroup`, or `processes` where no cgroup can be read."""


class ServerEnded(Failure):
    """The server could not load the model, or ended while it was measured."""


class ServerRun:
    """A running server: where it answers, and what it uses."""

    def __init__(self, folder: Path, port: int, model: str) -> None:
        self.folder, self.port, self.model = folder, port, model

    def usage(self) -> Usage | None:
        """What it has used so far; None before anything was written."""
        data = _read(self.folder / "usage")
        try:
            return (
                None
                if data is None
                else Usage(float(data["cpu"]), int(data["memory"]), int(data["peak"]), str(data["source"]))
            )
        except (KeyError, TypeError, ValueError):
            return None

    def processor_seconds(self) -> float | None:
        """Of the server, for telling foreign load apart."""
        usage = self.usage()
        return None if usage is None else usage.cpu

    def settle(self) -> None:
        """Wait until what the load has used was told."""
        time.sleep(_TOLD_WITHIN)

    def failure(self) -> str | None:
        """Why the server has ended, in its own words; None while it runs."""
        data = _read(self.folder / "failed")
        return None if data is None else str(data.get("message") or "it ended without saying why")

    def check(self) -> None:
        """Raise ServerEnded if the server is gone."""
        why = self.failure()
        if why is not None:
            raise ServerEnded(Reason.LOAD_FAILED, f"Triton ended while it was measured: {why}")

    def wait_ready(self, seconds: float) -> None:
        """Until the model answers; raises ServerEnded with Triton's own reason, or when it takes too long."""
        start = time.monotonic()
        while True:
            why = self.failure()
            if why is not None:
                raise ServerEnded(Reason.LOAD_FAILED, f"Triton could not load the model: {why}")
            waited = time.monotonic() - start
            if not (self.folder / "started").exists() and waited > _STARTS_WITHIN:
                message = (
                    f"the server's container did not start serving within {_STARTS_WITHIN:g} s; an image of your own "
                    "in spec.server.image must have the program penstock-prove, as the chart's have"
                )
                raise ServerEnded(Reason.LOAD_FAILED, message)
            if self._is_ready():
                return
            if waited > seconds:
                message = f"the model was not ready {seconds:g} s after Triton was started, and Triton does not say why"
                raise ServerEnded(Reason.LOAD_FAILED, f"{message}; look at what warm-up and loading take")
            time.sleep(_PAUSE)

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return ask(connection, encode_get(f"/v2/models/{self.model}/ready")).status == 200
        except (OSError, InferenceError):
            return False

    def end(self) -> None:
        """Have the server ended, and wait until it is; what it served is removed."""
        (self.folder / "done").touch()
        deadline = time.monotonic() + _ENDS_WITHIN
        while not (self.folder / "ended").exists() and time.monotonic() < deadline:
            if not (self.folder / "started").exists():
                break
            time.sleep(_PAUSE)
        shutil.rmtree(self.folder / "repository", ignore_errors=True)


@dataclass(frozen=True)
class Files:
    """Sources by path in the layer, and folders without files."""

    sources: Mapping[str, Path]
    folders: tuple[str, ...] = ()


@contextmanager
def running_server(
    root: Path,
    plan: RepositoryPlan,
    files: Files,
    facts: ModelFacts,
    settings: ServerSettings,
    load_seconds: float = 300.0,
) -> Iterator[ServerRun]:
    """Serve the plan's repository for the length of the context."""
    folder = _next_folder(root)
    _lay_out(folder / "repository", plan, files, mounted=facts.mount is not None)
    http, grpc = _free_ports(2)
    run = ServerRun(folder, http, plan.entry_model)
    verbatim = facts.format == "TritonRepository"
    arguments = _arguments(folder / "repository", plan, settings, http, grpc, verbatim=verbatim)
    _write(folder / "ready", {"arguments": arguments})
    try:
        run.wait_ready(load_seconds)
        yield run
    finally:
        run.end()


def _next_folder(root: Path) -> Path:
    """Of the next run; a program that is started again goes on after the runs of the one before it."""
    number = 1
    while (root / str(number)).exists():
        number += 1
    folder = root / str(number)
    folder.mkdir(parents=True)
    return folder


def _lay_out(repository: Path, plan: RepositoryPlan, files: Files, *, mounted: bool) -> None:
    """As `fetch` does in a serving pod; links, since trials need the same files many times.

    What stays on its claim is mounted at the same path in both containers.
    """
    root = repository
    if plan.config_text is not None:
        root = repository / plan.entry_model / "1"
        root.mkdir(parents=True)
        (repository / plan.entry_model / "config.pbtxt").write_text(plan.config_text)
    for name in files.folders:
        root.joinpath(*name.split("/")).mkdir(parents=True, exist_ok=True)
    for name, source in files.sources.items():
        target = root.joinpath(*name.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if mounted:
            target.symlink_to(source)
            continue
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _arguments(
    repository: Path, plan: RepositoryPlan, settings: ServerSettings, http: int, grpc: int, *, verbatim: bool
) -> list[str]:
    """The flags of a serving pod, but for ports and addresses, which are free ones of the pod's loopback."""
    arguments = [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in plan.load_models),
        "--strict-readiness=false",
        f"--exit-timeout-secs={_EXIT_SECONDS}",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
    ]
    if not verbatim:
        arguments.append("--disable-auto-complete-config")
    return [*arguments, *server_flags(settings)]


def _free_ports(count: int) -> list[int]:
    opened = [socket.socket() for _ in range(count)]
    try:
        for item in opened:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in opened]
    finally:
        for item in opened:
            item.close()


def _write(path: Path, data: Any) -> None:
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(json.dumps(data))
    scratch.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = json.loads(file.read(1 << 16))
        return data if isinstance(data, dict) else None
    return None
