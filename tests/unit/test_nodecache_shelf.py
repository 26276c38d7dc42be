"""The disk of the node cache: whole and right or not there at all, whatever ends it in between."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_runtime.nodecache import shelf as module
from penstock_runtime.nodecache.shelf import PROOF_SECONDS, Shelf


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """A shelf on the test's folder; the one before is closed, as a process that ended."""
    made = []

    def start(limit: int = 1000, room: int = 1 << 40) -> Shelf:
        for old in made:
            old.close()
        made[:] = [Shelf(tmp_path, limit, clock, lambda _: room)]
        return made[0]

    yield start
    for old in made:
        old.close()


def put(shelf: Shelf, data: bytes, name: str | None = None) -> bool:
    filling = shelf.begin(name or digest_of(data), len(data))
    if filling is None:
        return False
    filling.write(data)
    sound = filling.sound
    if sound:
        filling.keep()
    filling.close()
    return sound


def read(shelf: Shelf, digest: str) -> bytes | None:
    held = shelf.open(digest)
    if held is None:
        return None
    data = os.pread(held.descriptor, held.size, 0)
    held.close()
    return data


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"lock"}


def test_what_was_put_is_there_and_there_after_a_restart(make, tmp_path):
    data = b"model" * 20
    shelf = make()
    assert read(shelf, digest_of(data)) is None
    assert put(shelf, data)
    assert read(shelf, digest_of(data)) == data
    assert read(make(), digest_of(data)) == data
    assert files(tmp_path) == {f"sha256/{digest_of(data)[7:]}"}


def test_other_bytes_than_named_are_not_kept(make, tmp_path):
    shelf = make()
    assert not put(shelf, b"other", digest_of(b"named"))
    filling = shelf.begin(digest_of(b"short"), 10)
    filling.write(b"short")
    assert not filling.sound, "fewer bytes than were announced"
    filling.close()
    assert (files(tmp_path), shelf.used) == (set(), 0)


def test_a_restart_goes_on_with_what_was_used_last(make):
    data = [bytes([number]) * 300 for number in range(3)]
    shelf = make()
    for number, item in enumerate(data):
        put(shelf, item)
        os.utime(shelf._path(digest_of(item)), ns=(number, number))
    read(shelf, digest_of(data[0]))
    shelf = make()
    assert shelf.digests == tuple(digest_of(data[number]) for number in (1, 2, 0))
    shelf = make(limit=700)
    assert shelf.digests == tuple(digest_of(data[number]) for number in (2, 0)), "a smaller limit counts at once"


def test_leftovers_and_strange_files_go_at_the_start(make, tmp_path):
    shelf = make()
    put(shelf, b"good")
    (tmp_path / "tmp/9-left").write_bytes(b"x")
    (tmp_path / "sha256/note.txt").write_bytes(b"x")
    (tmp_path / "sha256" / ("a" * 64)).symlink_to("/etc/hostname")
    (tmp_path / "sha256" / ("b" * 64)).mkdir()
    make()
    assert files(tmp_path) == {f"sha256/{digest_of(b'good')[7:]}"}


KILLED = """
import sys, os, signal
from pathlib import Path
from penstock_runtime.nodecache.shelf import Shelf
shelf = Shelf(Path(sys.argv[1]), 1 << 20, lambda: 0.0)
filling = shelf.begin(sys.argv[2], 1000)
filling.write(b"x" * 500)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_in_the_middle_of_a_download_leaves_nothing(make, tmp_path):
    data = b"x" * 1000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path), digest_of(data)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 1
    shelf = make()
    assert (files(tmp_path), shelf.used, read(shelf, digest_of(data))) == (set(), 0, None)
    assert put(shelf, data)


def test_what_is_read_stays_until_it_is_read(make):
    shelf = make(limit=100)
    first, second = b"1" * 60, b"2" * 60
    put(shelf, first)
    held = shelf.open(digest_of(first))
    assert shelf.begin(digest_of(second), 60) is None
    assert os.pread(held.descriptor, 60, 0) == first
    held.close()
    assert put(shelf, second)
    assert (shelf.digests, shelf.evicted) == ((digest_of(second),), 1)
    assert read(shelf, digest_of(first)) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_is_full_shows_before_the_first_byte(make, monkeypatch, tmp_path, code):
    shelf = make()

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    assert shelf.begin(digest_of(b"a"), 1) is None
    assert (files(tmp_path), shelf.used) == (set(), 0)


def test_a_disk_that_cannot_reserve_is_written_to_nonetheless(make, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(module.os, "posix_fallocate", unknown)
    shelf = make()
    assert put(shelf, b"data")
    assert read(shelf, digest_of(b"data")) == b"data"


def test_the_share_of_the_disk_that_stays_free(tmp_path):
    told = os.statvfs(tmp_path)
    assert module.disk_room(tmp_path, 1.0) == 0
    assert module.disk_room(tmp_path, 0) == pytest.approx(told.f_bavail * told.f_frsize, rel=0.05)


def test_content_is_compared_once_an_hour(make, clock):
    shelf = make()
    put(shelf, b"data")

    def unproven() -> bool:
        held = shelf.open(digest_of(b"data"))
        try:
            return held.unproven
        finally:
            if held.unproven:
                held.prove(digest_of(b"data"))
            held.close()

    assert [unproven(), unproven()] == [False, False], "it was compared when it was written"
    clock.now += PROOF_SECONDS
    assert [unproven(), unproven()] == [True, False]
    shelf = make()
    assert [unproven(), unproven()] == [True, False], "and after a start"


def test_damaged_content_is_given_to_nobody_again(make, tmp_path):
    shelf = make()
    put(shelf, b"data")
    shelf = make()
    held = shelf.open(digest_of(b"data"))
    assert not held.prove(digest_of(b"dat_"))
    assert shelf.open(digest_of(b"data")) is None
    assert not put(shelf, b"data"), "while its reader is there its bytes count"
    held.close()
    assert (files(tmp_path), shelf.used, shelf.damaged) == (set(), 0, 1)
    assert put(shelf, b"data")
    assert read(shelf, digest_of(b"data")) == b"data"


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"longer than it was")])
def test_a_file_that_is_not_as_it_was_written_counts_as_none(make, spoil):
    shelf = make()
    put(shelf, b"data")
    spoil(shelf._path(digest_of(b"data")))
    assert shelf.open(digest_of(b"data")) is None
    assert shelf.used == 0
    assert put(shelf, b"data")


def test_nothing_at_all_can_be_content(make):
    shelf = make()
    assert put(shelf, b"")
    assert read(shelf, digest_of(b"")) == b""


@pytest.mark.parametrize("operation", ["utime", "fstat"])
def test_a_disk_that_fails_while_content_is_opened_keeps_no_descriptor_and_no_room(make, monkeypatch, operation):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    shelf = make()
    put(shelf, b"data")
    before = set(Path("/proc/self/fd").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(module.os, operation, broken)
        assert shelf.open(digest_of(b"data")) is None
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert shelf.used == 0
