"""After the filter: no sockets, no other programs, and files as before."""

import os
import subprocess
import sys
import textwrap

import pytest

from penstock_runtime import seccomp

PROGRAM = textwrap.dedent("""
    import errno, os, socket, subprocess, sys, threading
    from penstock_runtime.seccomp import deny_execution, deny_sockets

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
    deny_execution()
    assert denied(lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
    print("done")
""")


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="no filter for this architecture")
def test_sockets_fail_and_files_work(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_unknown_architecture_is_an_error_and_not_an_open_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.deny_sockets()
