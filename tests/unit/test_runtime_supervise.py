"""A child that hangs, dies or eats memory becomes a sentence; and the meeting of the two containers."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.meeting import (
    ACCEPTED,
    FAILED,
    FETCHED,
    INSPECTED,
    MEASURED,
    Meeting,
    PartnerDiedError,
)
from penstock_runtime.supervise import Limits, Supervised, Watched, disk_use

START = """
    import json, os, signal, sys, time
    from penstock_runtime.supervise import Limits, apply_limits
    asked = json.loads(sys.stdin.readline())
    apply_limits(Limits.read(asked))
    def say(data):
        print(json.dumps(data), flush=True)
"""
MIB = 1 << 20
PLENTY = Limits(None, 20)


def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, limits: Limits = PLENTY) -> dict[str, object]:
    return start(folder, monkeypatch, code, limits).ask({"root": "/work/source"})


def start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, limits: Limits = PLENTY, watched: Watched | None = None
) -> Supervised:
    (folder / "child_under_test.py").write_text(textwrap.dedent(START) + textwrap.dedent(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    return Supervised("child_under_test", limits, {}, watched)


def test_the_last_line_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask(tmp_path, monkeypatch, 'say({"stage": "reading"}); say({"got": asked["root"]})')
    assert answer == {"got": "/work/source"}


DEATHS = {
    "hang": ("time.sleep(60)", Limits(None, 1.2), Reason.PREPARATION_TIMEOUT, "1.2 s"),
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        Limits(300 * MIB, 20),
        Reason.PREPARATION_OUT_OF_MEMORY,
        "300 MiB",
    ),
    "crash": ("os.kill(os.getpid(), signal.SIGSEGV)", Limits(None, 20), Reason.INVALID_MODEL, "SIGSEGV"),
    "exit": ("sys.exit(3)", Limits(None, 20), Reason.INVALID_MODEL, "code 3"),
    "nonsense": ("print('hello', flush=True)", Limits(None, 20), Reason.PREPARATION_FAILED, "nonsense"),
    "flood": ("print('x' * 3000000, flush=True)", Limits(None, 20), Reason.PREPARATION_FAILED, "bytes"),
}


@pytest.mark.parametrize(("code", "limits", "reason", "words"), DEATHS.values(), ids=DEATHS.keys())
def test_deaths(tmp_path, monkeypatch, code: str, limits: Limits, reason: Reason, words: str) -> None:
    with pytest.raises(Failure) as caught:
        ask(tmp_path, monkeypatch, f'say({{"stage": "loading the model"}})\n    {code}'.replace("\n    ", "\n"), limits)
    assert caught.value.reason is reason
    assert words in caught.value.message


def test_memory_is_bound_before_the_container_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        try:
            held = bytearray(500 << 20)
        except MemoryError:
            os._exit(77)
        say({"held": len(held)})
    """
    with pytest.raises(Failure) as caught:
        ask(tmp_path, monkeypatch, code, Limits(400 * MIB, 20))
    assert caught.value.reason is Reason.PREPARATION_OUT_OF_MEMORY
    assert "spec.prepare.resources.limits.memory" in caught.value.message


def test_files_cannot_be_written_under_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
        try:
            with open({str(tmp_path / "new")!r}, "w") as file:
                file.write("x")
            say({{"wrote": True}})
        except OSError as error:
            say({{"wrote": False}})
    """
    assert ask(tmp_path, monkeypatch, code) == {"wrote": False}


def test_a_file_may_grow_as_far_as_the_request_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
        grown = 0
        try:
            with open({str(tmp_path / "new")!r}, "wb", buffering=0) as file:
                while True:
                    grown += file.write(bytes(1000))
        except OSError as error:
            say({{"grown": grown, "errno": error.errno}})
    """
    child = start(tmp_path, monkeypatch, code)
    assert child.ask({"root": "/work/source"}, file_bytes=10_500) == {"grown": 10_500, "errno": errno.EFBIG}


def test_a_flood_of_files_is_stopped_by_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    code = f"""
        say({{"stage": "converting"}})
        for at in range(10**6):
            with open(f"{folder}/{{at}}", "wb") as file:
                file.write(bytes(1 << 20))
            time.sleep(0.02)
    """
    child = start(tmp_path, monkeypatch, code, Limits(None, 60), Watched((folder,), 3 << 20))
    with pytest.raises(Failure) as caught:
        child.ask({"root": "/work/source"}, file_bytes=1 << 21)
    assert caught.value.reason is Reason.TOO_LARGE
    assert "converting has written" in caught.value.message


def test_disk_use_counts_blocks_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(bytes(100_000))
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "again").write_bytes(b"x")
    before = disk_use((tmp_path / "in",))
    assert 100_000 <= before < 140_000
    (tmp_path / "in" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert disk_use((tmp_path / "in",)) <= before + 4096
    assert disk_use((tmp_path / "gone",)) == 0


class TestMeeting:
    def test_a_marker_that_is_there(self, tmp_path: Path) -> None:
        one, two = Meeting(tmp_path, "transfer", "inspect"), Meeting(tmp_path, "inspect", "transfer")
        one.write(FETCHED, {"files": 1})
        assert two.wait(FETCHED, FAILED) == FETCHED
        assert two.read(FETCHED) == {"files": 1}
        two.write(INSPECTED, {"facts": {}})
        assert one.wait(INSPECTED) == INSPECTED

    def test_waits_for_a_partner_that_has_not_started(self, tmp_path: Path) -> None:
        turns = []

        def sleep(_: float) -> None:
            turns.append(1)
            if len(turns) == 3:
                (tmp_path / INSPECTED).write_text("{}")

        assert Meeting(tmp_path, "transfer", "inspect", sleep).wait(INSPECTED) == INSPECTED
        assert len(turns) == 3

    def test_a_death_without_an_answer_is_noticed(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from penstock_runtime.meeting import Meeting; "
            "Meeting(Path(sys.argv[1]), 'inspect', 'transfer')"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
        with pytest.raises(PartnerDiedError, match="inspect"):
            Meeting(tmp_path, "transfer", "inspect").wait(INSPECTED)

    def test_one_container_waits_for_several(self, tmp_path: Path) -> None:
        transfer = Meeting(tmp_path, "transfer", "inspect")
        inspect, measure = Meeting(tmp_path, "inspect", "transfer"), Meeting(tmp_path, "measure", "transfer")
        inspect.write(INSPECTED, {})
        measure.write(MEASURED, {"gates": []})
        assert transfer.wait(INSPECTED) == INSPECTED
        transfer.clear(MEASURED, ACCEPTED)
        assert not (tmp_path / MEASURED).exists()
        measure.write(MEASURED, {"gates": [1]})
        assert transfer.wait(MEASURED, partner="measure") == MEASURED
        (tmp_path / "metric.lock").touch()
        with pytest.raises(PartnerDiedError, match="metric"):
            transfer.wait("value.json", partner="metric")

    def test_a_partner_that_answered_and_ended_has_answered(self, tmp_path: Path) -> None:
        (tmp_path / "inspect.lock").touch()
        (tmp_path / INSPECTED).write_text("{}")
        assert Meeting(tmp_path, "transfer", "inspect").wait(INSPECTED) == INSPECTED

    def test_answers_are_read_with_suspicion(self, tmp_path: Path) -> None:
        meeting = Meeting(tmp_path, "transfer", "inspect")
        (tmp_path / "token").write_text(json.dumps("secret"))
        (tmp_path / INSPECTED).symlink_to(tmp_path / "token")
        with pytest.raises(OSError, match=INSPECTED):
            meeting.read(INSPECTED)
        (tmp_path / INSPECTED).unlink()
        (tmp_path / INSPECTED).write_text(" " * (2 << 20))
        with pytest.raises(ValueError, match="larger"):
            meeting.read(INSPECTED)
