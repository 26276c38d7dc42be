"""All tests, as `make test` and CI run them: lint, then unit, integration and end-to-end in one pytest.

Two workers, for most of the time is spent waiting: one has the cluster, the other all that does without
(tests/conftest.py); WORKERS=1 runs one test after the other. The local cluster is started when none runs, and removed
at the end only then. CLUSTER=existing takes a kubeconfig's cluster instead, with images from REGISTRY=. Arguments are
passed on to pytest, whose closing line is the last one on standard output; the exit code is not 0 when anything failed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from tests.e2e.chart import NEEDED  # noqa: E402 - needs the path set above

from hack.cluster import record  # noqa: E402
from hack.cluster.progress import say, step  # noqa: E402
from hack.cluster.settings import CHECKOUT, Settings  # noqa: E402

TESTS = ("tests/unit", "tests/models", "tests/cluster", "tests/gitops", "tests/integration", "tests/e2e")
"""The quick ones first; with workers the long ones first, so that nobody is left over with them."""
SLOWEST = 15


def main(arguments: Sequence[str]) -> int:
    """Run everything; return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    try:
        with step("lint"):
            _run("make", "--no-print-directory", "lint")
        with _cluster():
            code = subprocess.run(_pytest(arguments), cwd=CHECKOUT, check=False).returncode
    except subprocess.CalledProcessError as failed:
        say(f"`{' '.join(failed.cmd)}` failed; what it printed above says why. No test was run.")
        return failed.returncode
    except KeyboardInterrupt:
        return 130
    say(f"All of it took {time.monotonic() - began:.0f} s.")
    return code


def _pytest(arguments: Sequence[str]) -> list[str]:
    workers = int(os.environ.get("WORKERS", "2"))
    tests = ("-n", str(workers), *reversed(TESTS)) if workers > 1 else TESTS
    return [sys.executable, "-m", "pytest", f"--durations={SLOWEST}", "--durations-min=5", *tests, *arguments]


@contextmanager
def _cluster() -> Iterator[None]:
    """A cluster with this checkout's images; what was started for it is removed, whatever happens."""
    if os.environ.get("CLUSTER") == "existing":
        yield
        return
    settings = Settings.from_environment()
    found = record.read(settings.record) is not None
    try:
        _run(sys.executable, "hack/cluster", "up")
        _run(sys.executable, "hack/images", *NEEDED)
        yield
    finally:
        if not found and settings.directory.exists():
            _run(sys.executable, "hack/cluster", "down")


def _run(*command: str) -> None:
    """Its standard output becomes progress too; raises CalledProcessError."""
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=sys.stderr)


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
