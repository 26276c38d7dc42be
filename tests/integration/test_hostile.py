"""Models that attack whoever opens them: each ends as a sentence, and the containers around the opener live on."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.api.preparation import PreparationReport
from penstock.api.reasons import Reason
from tests.integration.servers import WebServer, running_registry, web_server
from tests.integration.test_preparation import GOOD, Pod, facts_of, refused

CHILD = """
import ctypes, errno, fcntl, os, signal, stat, socket, subprocess, sys, time
from pathlib import Path
import penstock_runtime.convert as conversion
from penstock_runtime import opener, stages

def denied(call):
    try:
        call()
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EACCES), error
        return True
    return False

def good(out):
    (out / "model.onnx").write_bytes((Path(os.environ["PENSTOCK_TEST_GOOD"])).read_bytes())
    return conversion.Converted(out / "model.onnx", "SKLearn", None, (), {"made-up": "1"})

def forge(answer):
    for number in range(3, 32):
        try:
            writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            if writable and stat.S_ISFIFO(os.fstat(number).st_mode):
                os.write(number, (answer + chr(10)).encode())
        except OSError:
            continue
    os._exit(0)

def convert(tree, asked, source_format, out, progress):
    {code}

conversion.convert, conversion.preload = convert, lambda: None
stages.find_route = lambda tree, asked: ("SKLearn", None)
opener.main()
"""
INSPECT = "import sys; from penstock_runtime import inspect; inspect._CHILD = 'hostile_child'; sys.exit(inspect.main())"
NARROW = """
import errno
from penstock_runtime.meeting import Meeting

def write(self, marker, data, before=Meeting.write):
    if any((self.folder / "prepared").rglob("*.onnx")):
        raise OSError(errno.ENOSPC, "No space left on device")
    before(self, marker, data)

Meeting.write = write
"""
"""A disk that has no room for a word while a model lies there."""


@dataclass
class Hostile(Pod):
    """A pod whose opener runs a conversion that the test wrote."""

    code: str = ""
    before: str = ""
    """Run by the opener's parent before it does anything."""

    def start(self, program: str, **extra: str) -> subprocess.Popen[bytes]:
        if program != "inspect":
            return super().start(program, **extra)
        folder = self.root.with_name("child")
        folder.mkdir(exist_ok=True)
        (folder / "good.onnx").write_bytes(GOOD)
        body = textwrap.indent(textwrap.dedent(self.code).strip(), "    ").strip()
        (folder / "hostile_child.py").write_text(CHILD.replace("{code}", body))
        environment = self.environment(**extra, PENSTOCK_TEST_GOOD=str(folder / "good.onnx"))
        environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
        return subprocess.Popen(
            [sys.executable, "-c", self.before + INSPECT], env=environment, cwd="/", stderr=subprocess.DEVNULL
        )

    def attack(
        self, code: str, env: dict[str, str] | None = None, source: bytes = b"", **request: Any
    ) -> PreparationReport:
        """What becomes of a preparation whose conversion is this code.

        The code is the source too unless there is another, so that nothing is reused.
        """
        self.code = code
        self.web.serve("/model.pkl", source or code.encode())
        uri = f"https://{self.web.host}/model.pkl"
        return self.prepare(uri, env, **{"opener": "Convert", "trust": "Code", **request})


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WebServer]]:
    with running_registry(tmp_path_factory.mktemp("registry")) as store, web_server() as web:
        yield store, web


@pytest.fixture
def pod(servers: tuple[str, WebServer], tmp_path: Path) -> Hostile:
    return Hostile(tmp_path / "pod", *servers)


ENDS = {
    "hangs": ("time.sleep(60)", {"PENSTOCK_INSPECT_SECONDS": "4"}, Reason.PREPARATION_TIMEOUT, "converting from"),
    "spins": ("while True: pass", {"PENSTOCK_INSPECT_SECONDS": "4"}, Reason.PREPARATION_TIMEOUT, "4 s"),
    "eats memory": (
        "held = [bytearray(64 << 20) for _ in range(64)]",
        {"PENSTOCK_INSPECT_MEMORY": str(600 << 20)},
        Reason.PREPARATION_OUT_OF_MEMORY,
        "600 MiB",
    ),
    "one endless file": (
        "with open(out / 'x', 'wb') as file:\n    while True: file.write(bytes(1 << 16))",
        {},
        Reason.TOO_LARGE,
        "1048576 bytes",
    ),
    "endless files": (
        "for at in range(10**6):\n    (out / str(at)).write_bytes(bytes(1 << 19)); time.sleep(0.01)",
        {},
        Reason.TOO_LARGE,
        "may be",
    ),
    "full disk": ("raise OSError(errno.ENOSPC, 'No space left on device')", {}, Reason.NOT_ENOUGH_DISK, "full"),
    "full disk, said by a library": (
        "try:\n    raise OSError(errno.ENOSPC, 'x')\nexcept OSError as error:\n    raise RuntimeError('y') from error",
        {},
        Reason.NOT_ENOUGH_DISK,
        "full",
    ),
    "crashes": ("ctypes.string_at(0)", {}, Reason.INVALID_MODEL, "SIGSEGV"),
    "leaves": ("os._exit(0)", {}, Reason.INVALID_MODEL, "code 0"),
    "kills itself": ("os.kill(os.getpid(), signal.SIGKILL)", {}, Reason.PREPARATION_OUT_OF_MEMORY, "memory"),
}


@pytest.mark.parametrize(("code", "env", "reason", "words"), ENDS.values(), ids=ENDS.keys())
def test_ends_as_a_sentence(pod: Hostile, code: str, env: dict[str, str], reason: Reason, words: str) -> None:
    refused(pod.attack(code, env), reason, words)


def test_a_disk_that_is_full_to_the_last_byte_is_said_so(pod: Hostile) -> None:
    pod.before = NARROW
    report = pod.attack("(out / 'half.onnx').write_bytes(b'x'); raise OSError(errno.ENOSPC, 'No space left on device')")
    refused(report, Reason.NOT_ENOUGH_DISK, "full")


DENIALS = {
    "a socket": "socket.socket()",
    "an abstract socket's pair": "socket.socketpair()",
    "a fork": "os.fork()",
    "another program": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "a subprocess": "subprocess.run(['true'])",
    "a spawned process": "os.posix_spawn('/bin/true', ['true'], {})",
    "a marker": "open(out.parents[1] / 'inspected.json', 'w')",
    "a forged measurement": "open(out.parents[1] / 'measured.json', 'w')",
    "the source": "next(iter(tree.root.iterdir())).unlink()",
    "a file elsewhere": "open(out.parents[2] / 'x', 'w')",
    "a signal to its parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "the parent's memory": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
}


def test_what_is_denied_while_the_conversion_goes_on(pod: Hostile) -> None:
    tried = "".join(f"assert denied(lambda: {call}), {what!r}\n" for what, call in DENIALS.items())
    facts = facts_of(pod.attack(f"{tried}return good(out)"))
    assert (facts.derived, facts.source_format) == (True, "SKLearn")


def test_threads_and_what_libraries_ask_the_system_still_work(pod: Hostile) -> None:
    code = """
        import ctypes.util, platform, tempfile, threading
        thread = threading.Thread(target=lambda: None)
        thread.start(); thread.join()
        ctypes.util.find_library("no-such-library"), platform.processor(), platform.uname().processor
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "x").write_text("x")
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        assert not any("token" in name.lower() for name in os.environ)
        return good(out)
    """
    assert facts_of(pod.attack(code)).format == "ONNX"


LIES = {
    "a link": ("os.symlink('/etc/hostname', out / 'x')", "x", Reason.PREPARATION_FAILED),
    "a linked folder": ("os.symlink('/etc', out / 'etc')", "etc/hostname", Reason.PREPARATION_FAILED),
    "a pipe": ("os.mkfifo(out / 'x')", "x", Reason.PREPARATION_FAILED),
    "nothing": ("pass", "x", Reason.PREPARATION_FAILED),
    "a way out": ("pass", "../../../etc/hostname", Reason.INVALID_MODEL),
}


@pytest.mark.parametrize(("code", "path", "reason"), LIES.values(), ids=LIES.keys())
def test_an_answer_names_only_plain_files_below_its_own_folder(
    pod: Hostile, code: str, path: str, reason: Reason
) -> None:
    facts = {"format": "ONNX", "inputs": [], "outputs": []}
    answer = {"facts": facts, "prepared": {"model.onnx": f"converted/{path}"}}
    refused(pod.attack(f"{code}; forge({json.dumps(answer)!r})"), reason)


def test_a_gate_that_cannot_be_read_is_an_error_and_not_a_gate_less(pod: Hostile) -> None:
    facts = {"format": "ONNX", "inputs": [], "outputs": []}
    for gates in ([{"name": "parity"}], [{"passed": True}], "all good", [7]):
        answer = {"facts": facts, "prepared": {"model.onnx": "converted/model.onnx"}, "gates": gates}
        code = f"good(out); forge({json.dumps(answer)!r})"
        refused(pod.attack(code), Reason.PREPARATION_FAILED, "malformed")
