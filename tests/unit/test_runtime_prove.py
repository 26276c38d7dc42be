"""penstock-prove: serves run after run, tells what is used, and never starts a dead server again."""

import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "runtime/images/triton/penstock-prove"
SERVER = """
import os, sys, time
from pathlib import Path
said = Path(os.environ["PENSTOCK_TERMINATION_LOG"])
if "--fail" in sys.argv:
    said.write_text("failed to load 'm': no such thing")
    sys.exit(1)
if "--killed" in sys.argv:
    os.kill(os.getpid(), 9)
said.with_name("serving").write_text(" ".join(sys.argv[1:]))
said.with_name("serving").rename(said.with_name("served"))
while True:
    sum(range(100000))
    time.sleep(0.01)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "server.py").write_text(SERVER)
    process = start(tmp_path)
    yield tmp_path / "proof"
    process.terminate()
    assert process.wait(20) == 0


def start(folder: Path, cgroup: str = "/nowhere") -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "PENSTOCK_PROOF": str(folder / "proof"), "PENSTOCK_CGROUP": cgroup,
        "PENSTOCK_SERVER": f"{sys.executable} {folder / 'server.py'}",
    }  # fmt: skip
    return subprocess.Popen([sys.executable, str(PROGRAM)], env=environment)


def ask(root: Path, number: int, *arguments: str) -> Path:
    folder = root / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part").write_text(json.dumps({"arguments": arguments}))
    (folder / "part").rename(folder / "ready")
    return folder


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline, "not within 20 s"
        time.sleep(0.01)
    return found


def usage(folder: Path) -> dict[str, Any]:
    return dict(json.loads(wait(lambda: (folder / "usage").exists() and (folder / "usage").read_text())))


def test_run_after_run(root: Path) -> None:
    for number in (1, 2):
        folder = ask(root, number, "--model-repository=r", f"--n={number}")
        wait((folder / "served").exists)
        assert (folder / "served").read_text().endswith(f"--model-repository=r --n={number}")
        wait(lambda: usage(folder)["cpu"] > 0)  # noqa: B023 - called at once
        assert usage(folder)["peak"] >= usage(folder)["memory"] > 1 << 20
        assert usage(folder)["source"] == "processes"
        (folder / "done").touch()
        wait((folder / "ended").exists)
        assert not (folder / "failed").exists()


def test_what_the_server_said_is_told_once(root: Path) -> None:
    folder = ask(root, 1, "--fail")
    wait((folder / "ended").exists)
    assert json.loads((folder / "failed").read_text()) == {"message": "failed to load 'm': no such thing"}
    folder = ask(root, 2, "--killed")
    wait((folder / "ended").exists)
    assert "the kernel killed it, most often for memory" in json.loads((folder / "failed").read_text())["message"]


def test_a_container_that_was_killed_goes_on_with_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    process = start(tmp_path)
    folder = ask(tmp_path / "proof", 1)
    wait((folder / "served").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    (folder / "ended").unlink()
    process = start(tmp_path)
    try:
        wait((folder / "failed").exists)
        assert "its container was ended" in json.loads((folder / "failed").read_text())["message"]
        wait((ask(tmp_path / "proof", 2) / "served").exists)
    finally:
        process.terminate()
        process.wait(20)


def load(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PENSTOCK_CGROUP", str(cgroup))
    loader = importlib.machinery.SourceFileLoader("penstock_prove", str(PROGRAM))
    spec = importlib.util.spec_from_loader("penstock_prove", loader)
    assert spec is not None
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


SECOND = {"memory.current": "1000\n", "memory.stat": "anon 5\ninactive_file 300\n", "cpu.stat": "usage_usec 2500000\n"}
FIRST = {
    "memory/memory.usage_in_bytes": "1000\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
    "cpuacct/cpuacct.usage": "2500000000\n",
}


@pytest.mark.parametrize("files", [SECOND, FIRST], ids=["version 2", "version 1"])
def test_both_versions_of_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load(tmp_path, monkeypatch).Cgroup().read() == (2.5, 700)


def test_without_cgroups_processes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"cpuacct"):
        load(tmp_path, monkeypatch).Cgroup()
