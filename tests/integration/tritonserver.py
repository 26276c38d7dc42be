"""A real tritonserver for tests: installed from PyPI into a cache once, started on free loopback ports."""

import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

VERSION = "2.51.0"
_WHEELS = ("nvidia-pytriton==0.7.0", "onnxruntime==1.23.2", "numpy==1.26.4")
_PYTHONS = ("3.11", "3.12")
_PRODUCT_BACKENDS = Path("runtime/images/triton/backends")
_SHARED = "penstock_backend.py"
_GENERIC = Path(__file__).parent / "backends" / "generic" / "model.py"
_STAND_INS = (
    "dali", "fil", "identity", "onnxruntime", "openvino", "pytorch", "repeat", "square", "tensorflow", "tensorrt",
    "tensorrtllm", "vllm",
)  # fmt: skip


class TritonUnavailable(Exception):
    """The server cannot be had here; the message says why in one sentence."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of an installed server are."""

    root: Path

    @property
    def command(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def environment(self) -> dict[str, str]:
        python_libraries = sysconfig.get_config_var("LIBDIR") or ""
        return {
            "PATH": f"{self.root / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{self.root / 'lib'}:{python_libraries}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": os.environ.get("HOME", "/tmp"),
        }


def cache_directory() -> Path:
    """Where downloaded things are kept between runs."""
    if "PENSTOCK_CACHE" in os.environ:
        return Path(os.environ["PENSTOCK_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock"


def install() -> Installation:
    """The server, installed on the first call; several processes may call at once. Raises TritonUnavailable."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise TritonUnavailable(f"the PyPI server runs on Linux x86_64, this is {sys.platform} {os.uname().machine}")
    python = ".".join(map(str, sys.version_info[:2]))
    if python not in _PYTHONS:
        raise TritonUnavailable(f"the PyPI server needs Python {' or '.join(_PYTHONS)}, this is {python}")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"tritonserver-{VERSION}-py{python}"
    with (cache / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            shutil.rmtree(root, ignore_errors=True)
            _install_into(root, python)
            (root / "complete").touch()
    return Installation(root)


def _install_into(root: Path, python: str) -> None:
    home = root / "venv"
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for command in ([sys.executable, "-m", "venv", str(home)], [*pip, *_WHEELS]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TritonUnavailable(f"{' '.join(command[:6])} … failed: {done.stderr.strip()[-500:]}")
    packages = home / "lib" / f"python{python}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    (root / "bin").symlink_to(server / "bin")
    (root / "lib").symlink_to(packages / "nvidia_pytriton.libs")
    (root / "caches").symlink_to(server / "caches")
    backend = root / "python-backend"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(server / "python_backend_stubs" / python / "triton_python_backend_stub", backend)
    for executable in (server / "bin" / "tritonserver", backend / "triton_python_backend_stub"):
        executable.chmod(0o755)


def lay_out_backends(
    installation: Installation, target: Path, project: Path, products: Collection[str] = ("onnxruntime",)
) -> None:
    """The real python backend, the product's own of `products`, and a stand-in for every other of Triton's backends."""
    target.mkdir()
    (target / "python").symlink_to(installation.root / "python-backend")
    own = project / _PRODUCT_BACKENDS
    if (own / _SHARED).exists():
        shutil.copy(own / _SHARED, target)
    for name in _STAND_INS:
        product = own / name / "model.py"
        (target / name).mkdir()
        shutil.copy(product if name in products and product.exists() else _GENERIC, target / name / "model.py")


def lend_packages(installation: Installation, folder: Path, *names: str) -> dict[str, str]:
    """Variables with which the server's Python finds packages of this environment too, and none but these.

    It ignores PYTHONPATH, so this is a virtual environment that names two folders: the server's own packages first, as
    with another numpy its Python backend answers empty tensors, then the lent ones.
    """
    lent = folder / "lent"
    lent.mkdir(parents=True)
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None:
            raise TritonUnavailable(f"the package {name} is not installed here; make venv-models")
        source = Path((found.submodule_search_locations or [found.origin or ""])[0])
        (lent / source.name).symlink_to(source)
    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    own = installation.root / "venv" / "lib" / packages.parent.name / "site-packages"
    (packages / "lent.pth").write_text(f"{own}\n{lent}\n")
    return {"PATH": f"{folder / 'venv' / 'bin'}:{installation.environment['PATH']}"}


@dataclass(frozen=True)
class Answer:
    """What the server said to a load: HTTP status (0: it died, -1: it hung), reason, log line, ready afterwards."""

    code: int
    reason: str = ""
    log: str = ""
    ready: bool = False


class TritonServer:
    """One running server in explicit mode over a repository folder; stop it with `with` or `stop`."""

    def __init__(
        self,
        installation: Installation,
        repository: Path,
        work: Path,
        project: Path,
        *flags: str,
        products: Collection[str] = ("onnxruntime",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.repository = repository
        self._log = work / "tritonserver.log"
        backends = work / "backends"
        lay_out_backends(installation, backends, project, products)
        self.http_port, self.grpc_port = _free_ports(2)
        arguments = [
            str(installation.command), f"--model-repository={repository}", f"--backend-directory={backends}",
            f"--cache-directory={installation.root / 'caches'}", "--model-control-mode=explicit",
            "--strict-readiness=false", "--disable-auto-complete-config", "--exit-timeout-secs=5",
            "--http-address=127.0.0.1", f"--http-port={self.http_port}", "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}", "--allow-metrics=false", "--http-thread-count=8", *flags,
        ]  # fmt: skip
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**installation.environment, **(environment or {})},
                start_new_session=True,
            )
        self._wait_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and the stubs of its own process group."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=8)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """Everything it has written."""
        return self._log.read_text(errors="replace")

    def load(self, model: str, timeout: float = 120) -> Answer:
        """Load a model and say what came of it."""
        code, body = self._post(f"/v2/repository/models/{model}/load", b"{}", timeout)
        reason = "" if code == 200 else _error_text(body)
        ready = code == 200 and self._get(f"/v2/models/{model}/ready") == 200
        return Answer(code, reason, self._log_line(model), ready)

    def unload(self, model: str) -> None:
        """Unload a model; unknown ones are none of our business."""
        self._post(f"/v2/repository/models/{model}/unload", b"{}", 120)

    def infer(self, model: str, request: dict[str, object], timeout: float = 60) -> tuple[int, dict[str, object]]:
        """One inference with JSON tensors: status and body."""
        code, body = self._post(f"/v2/models/{model}/infer", json.dumps(request).encode(), timeout)
        return code, json.loads(body or "{}")

    def _log_line(self, model: str) -> str:
        pattern = re.compile(rf"Poll failed for model directory '{re.escape(model)}': (.*)")
        lines = [match[1] for match in map(pattern.search, self.log().splitlines()) if match]
        return lines[-1] if lines else ""

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not self.alive:
                raise TritonUnavailable(f"tritonserver ended at once: {self.log()[-800:]}")
            if self._get("/v2/health/ready") == 200:
                return
            time.sleep(0.05)
        self.stop()
        raise TritonUnavailable(f"tritonserver was not ready within 60 s: {self.log()[-800:]}")

    def _get(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def _post(self, path: str, body: bytes, timeout: float) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return int(response.status), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except TimeoutError:
            return -1, b""
        except (urllib.error.URLError, ConnectionError, OSError) as error:
            timed_out = isinstance(getattr(error, "reason", None), TimeoutError)
            return (-1 if timed_out and self.alive else 0), b""


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


def _free_ports(count: int) -> list[int]:
    with _bound_sockets(count) as sockets:
        return [opened.getsockname()[1] for opened in sockets]


@contextmanager
def _bound_sockets(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for opened in sockets:
            opened.close()
