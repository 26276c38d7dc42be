"""After the filters: no sockets, no other processes, writes where they are allowed, and threads as before."""

import os
import subprocess
import sys
import textwrap

import pytest

from penstock_runtime import seccomp

PROGRAM = textwrap.dedent("""
    import errno, os, socket, subprocess, sys, threading
    from penstock_runtime.seccomp import deny_processes, deny_sockets

    def denied(call):
        try:
            call()
        except PermissionError:
            return True
        return False

    opened = socket.socket()
    go, results = threading.Event(), []
    thread = threading.Thread(target=lambda: (go.wait(), results.append(denied(socket.socket))))
    thread.start()
    deny_sockets()
    go.set()
    thread.join()
    assert results == [True], "a thread that was there before"
    assert denied(socket.socket)
    assert denied(socket.socketpair)
    assert denied(lambda: opened.connect(("127.0.0.1", 9)))
    assert denied(lambda: opened.bind(("127.0.0.1", 0)))
    child = "import socket; socket.socket()"
    assert subprocess.run([sys.executable, "-c", child], stderr=subprocess.DEVNULL).returncode == 1
    with open(sys.argv[1], "w") as file:
        file.write("still here")
    assert open(sys.argv[1]).read() == "still here"
    read, write = os.pipe()
    os.write(write, b"x")
    deny_processes()
    assert denied(lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
    assert denied(os.fork)
    assert denied(lambda: subprocess.run([sys.executable, "-c", ""]))
    assert denied(lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}))
    thread = threading.Thread(target=lambda: results.append("a new thread"))
    thread.start()
    thread.join()
    assert results == [True, "a new thread"]
    print("done")
""")


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="no filter for this architecture")
def test_sockets_fail_and_files_work(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


WRITER = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from penstock_runtime.landlock import allow_writes_below

    def denied(call):
        try:
            call()
        except PermissionError:
            return True
        return False

    inside, outside = Path(sys.argv[1]), Path(sys.argv[2])
    held = (outside / "held").open("w")
    if not allow_writes_below([inside]):
        print("no landlock")
        sys.exit()
    (inside / "new").mkdir()
    (inside / "new" / "file").write_text("x")
    (inside / "new" / "file").rename(inside / "file")
    held.write("what was open stays open")
    assert (outside / "there").read_text() == "read"
    for call in (
        lambda: (outside / "file").write_text("x"),
        lambda: (outside / "there").unlink(),
        lambda: (outside / "folder").mkdir(),
        lambda: (outside / "link").symlink_to("there"),
        lambda: (inside / "file").rename(outside / "file"),
        lambda: os.truncate(outside / "there", 0),
    ):
        assert denied(call)
    print("done")
""")


def test_writes_elsewhere_are_denied(tmp_path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "there").write_text("read")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WRITER, str(inside), str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    if done.stdout == "no landlock\n":
        pytest.skip("the kernel has no Landlock")
    assert done.stdout == "done\n"
    assert (outside / "held").read_text() == "what was open stays open"


def test_an_unknown_architecture_is_an_error_and_not_an_open_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.deny_sockets()
