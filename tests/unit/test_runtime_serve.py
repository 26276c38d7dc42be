"""penstock-serve: Triton's own reason out of its log, and administrative protocols closed."""

import importlib.machinery
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "runtime/images/triton/penstock-serve"
_loader = importlib.machinery.SourceFileLoader("penstock_serve", str(PROGRAM))
_spec = importlib.util.spec_from_loader("penstock_serve", _loader)
assert _spec is not None
serve = importlib.util.module_from_spec(_spec)
sys.dont_write_bytecode, _before = True, sys.dont_write_bytecode
_loader.exec_module(serve)
sys.dont_write_bytecode = _before


def error(place: str, text: str) -> str:
    return f'E1121 11:21:24.330445 20300 {place}] "{text}"'


def load_failure(model: str, reason: str) -> str:
    return error("model_lifecycle.cc:642", f"failed to load '{model}' version 1: {reason}")


NOISE = [
    error("server.cc:241", "CudaDriverHelper has not been initialized."),
    'W1121 11:21:22.732434 20285 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"',
    "+-------+---------+--------+",
    'I1121 11:21:22.736 20285 server.cc:604] "failed to load is only a word here"',
]
AFTER = "error: creating server: Internal - failed to load all models"
POLL = "Poll failed for model directory 'm': failed to read text proto from /models/m/config.pbtxt"
PARSE = "Error parsing text-format inference.ModelConfig: 1:7: Expected string, got:"
TYPE = "Internal: TritonModelException: unexpected datatype TYPE_INT64"
USAGE = ["Usage: tritonserver [options]", "  --help", "\tPrint usage", "Server:", "\tDefault is 0."]
LOGS = {
    "flag value": (
        [*USAGE, "--backend-config option format is '<backend name>,<setting>=<value>'. Got wrong", "", ""],
        "--backend-config option format is '<backend name>,<setting>=<value>'. Got wrong",
    ),
    "flag unknown": (
        ["/opt/venv/lib/tritonserver: unrecognized option '--nope=1'", *USAGE],
        "unrecognized option '--nope=1'",
    ),
    "syntax": (
        [
            f"[libprotobuf ERROR /tmp/x/text_format.cc:337] {PARSE} ",
            error("model_repository_manager.cc:1460", POLL),
            AFTER,
        ],
        f"{POLL}: {PARSE}",
    ),
    "load": (
        [
            error("backend_model.cc:692", r"ERROR: Failed to create instance: x\n\nAt:\n  /opt/model.py(129): check\n"),
            load_failure("m", TYPE + r"\n\nAt:\n  /opt/model.py(129): check\n"),
            load_failure("m", TYPE + r"\n\nAt:\n  /opt/model.py(130): check\n"),
            "error: creating server: Invalid argument - load failed for model 'm'",
        ],
        f"failed to load 'm' version 1: {TYPE}",
    ),
    "two models": (
        [load_failure("a", "Not found: x"), load_failure("b", "Not found: y")],
        "failed to load 'a' version 1: Not found: x; failed to load 'b' version 1: Not found: y",
    ),
    "port": (
        [error("main.cc:100", "Failed to start HTTP service: Unavailable - port in use"), AFTER],
        "Failed to start HTTP service: Unavailable - port in use",
    ),
    "flag": (
        ["tritonserver: unrecognized option '--nope'", "Usage: tritonserver [options]"],
        "unrecognized option '--nope'",
    ),
    "nothing else": ([AFTER], "creating server: Internal - failed to load all models"),
    "silence": ([], ""),
}


@pytest.mark.parametrize(("lines", "sentence"), LOGS.values(), ids=LOGS.keys())
def test_the_reason_is_found_in_the_log(lines: list[str], sentence: str) -> None:
    reasons = serve.Reasons()
    for line in (*NOISE, *lines, *NOISE):
        reasons.take(line)
    assert reasons.sentence() == sentence


def test_administration_is_closed_unless_the_arguments_say_otherwise() -> None:
    first, second = serve.restrictions([]), serve.restrictions([])
    assert first != second, "a key of its own for every start"
    assert first[0].startswith("--http-restricted-api=model-repository,shared-memory,trace,logging:penstock-admin=")
    assert first[1].startswith("--grpc-restricted-protocol=model-repository,")
    assert len(serve.restrictions(["--http-restricted-api=trace:a=b"])) == 1


def run(folder: Path, script: str, stop: bool = False) -> tuple[int, str, str]:
    fake = folder / "tritonserver"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    log = folder / "termination-log"
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PENSTOCK_TERMINATION_LOG": str(log)}
    command = [sys.executable, str(PROGRAM), "--model-repository=/models"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline() if stop else ""
        if stop:
            process.send_signal(signal.SIGTERM)
        output = first + process.stdout.read()
    return process.returncode, output, log.read_text() if log.exists() else ""


LOAD = load_failure("m", "Not found: x")
STARTED = 'I1121 11:21:24.33 20300 http_server.cc:4692] "Started HTTPService at 0.0.0.0:8000"'


def test_a_failed_start_is_told_and_logged(tmp_path: Path) -> None:
    code, output, told = run(tmp_path, f"echo \"$1\"; cat <<'X'\n{LOAD}\nX\nexit 1")
    assert (code, told) == (1, "failed to load 'm' version 1: Not found: x")
    assert output == f"--model-repository=/models\n{LOAD}\n"


@pytest.mark.parametrize(
    ("script", "code"),
    [(f"cat <<'X'\n{STARTED}\n{LOAD}\nX\nexit 1", 1), ("exit 0", 0), ("kill -SEGV $$", 139)],
    ids=["after it served", "in order", "crash"],
)
def test_other_ends_are_not_called_a_failed_load(tmp_path: Path, script: str, code: int) -> None:
    assert run(tmp_path, script)[::2] == (code, "")


def test_signals_reach_the_server(tmp_path: Path) -> None:
    script = "trap 'echo stopping; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    assert run(tmp_path, script, stop=True) == (0, "up\nstopping\n", "")
