"""Real services that models come from, installed into the cache once and run as processes of their own.

MLflow lives in an environment of its own (a hundred packages), Azurite comes from npm, fake-gcs-server is built by Go.
Where one cannot be had its tests are skipped, and say why.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .servers import free_port
from .tritonserver import cache_directory

MLFLOW = ("mlflow==3.17.2",)
AZURITE = "3.35.0"
FAKE_GCS = "v1.56.1"
CONTAINER_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has for its account devstoreaccount1."""


def installed(name: str, install: Callable[[Path], None]) -> Path:
    """A folder of the cache that `install` fills once; skips the test where that fails."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            try:
                install(root)
            except (OSError, subprocess.CalledProcessError) as error:
                output = (getattr(error, "stderr", None) or b"").decode(errors="replace")
                pytest.skip(f"{name} cannot be installed here: {error} {output.strip()[-300:]}")
            (root / "complete").touch()
    return root


def python_environment(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages."""

    def install(root: Path) -> None:
        python = root / "venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True, capture_output=True)
        uv = Path(sys.executable).with_name("uv")
        command = (
            [uv, "pip", "install", "-q", "--python", python] if uv.exists() else [python, "-m", "pip", "install", "-q"]
        )
        subprocess.run([*command, *packages], check=True, capture_output=True)

    return installed(name, install) / "venv/bin/python"


@contextmanager
def running(command: Sequence[str | Path], port: int, folder: Path, patience: float = 240) -> Iterator[None]:
    """A process that listens on a loopback port, ended with everything it started."""
    with (folder / "server.log").open("ab") as log:
        environment = {**os.environ, "HOME": str(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, env=environment)
    try:
        _wait(port, process, folder, patience)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def _wait(port: int, process: subprocess.Popen[bytes], folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"nothing listens on {port}:\n{(folder / 'server.log').read_text()[-2000:]}")


@contextmanager
def mlflow_server(folder: Path, *options: str) -> Iterator[str]:
    """`mlflow server` that proxies artifacts; yields its URL."""
    python = python_environment("mlflow-3.17.2", MLFLOW)
    port = free_port()
    command = [
        python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "kept"),
        *options,
    ]  # fmt: skip
    with running(command, port, folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def azurite(folder: Path, *options: str, scheme: str = "http") -> Iterator[str]:
    """Azure's own emulator of its Blob service; yields the endpoint of devstoreaccount1."""

    def install(root: Path) -> None:
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(root), f"azurite@{AZURITE}"]
        subprocess.run(npm, check=True, capture_output=True)

    program = installed(f"azurite-{AZURITE}", install) / "node_modules/.bin/azurite-blob"
    port = free_port()
    command = [
        program, "--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1",
        "--blobPort", str(port), "--location", folder / "kept", *options,
    ]  # fmt: skip
    with running(command, port, folder):
        yield f"{scheme}://127.0.0.1:{port}/devstoreaccount1"


@contextmanager
def fake_gcs(folder: Path) -> Iterator[str]:
    """fake-gcs-server, which serves the JSON API of Google's storage from memory; yields its URL."""

    def install(root: Path) -> None:
        environment = {**os.environ, "GOBIN": str(root)}
        go = ["go", "install", "-p", "1", f"github.com/fsouza/fake-gcs-server@{FAKE_GCS}"]
        subprocess.run(go, check=True, capture_output=True, env=environment)

    program = installed(f"fake-gcs-server-{FAKE_GCS}", install) / "fake-gcs-server"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory",
        "-external-url", url,
    ]  # fmt: skip
    with running(command, port, folder):
        yield url
