"""Files of a model: hashed while written, bounded, and never outside their folder."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.reasons import Reason
from penstock_runtime.content import (
    Budget,
    StoredFile,
    collect,
    folder_digest,
    open_regular,
    safe_path,
    store,
    sums_text,
)
from penstock_runtime.failure import Failure, full_disk, shorten


def test_store_hashes_what_it_writes(tmp_path: Path) -> None:
    stored = store([b"ab", b"", b"c"], tmp_path, "1/model.onnx", Budget(100))
    assert stored == StoredFile("1/model.onnx", 3, hashlib.sha256(b"abc").hexdigest())
    assert (tmp_path / "1/model.onnx").read_bytes() == b"abc"


def test_too_large_says_how_much_was_seen_and_the_limit(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        store([b"x" * 60, b"x" * 60], tmp_path, "weights", Budget(100))
    assert caught.value.reason is Reason.TOO_LARGE
    assert "120 bytes" in caught.value.message
    assert "100 bytes" in caught.value.message


def test_announced_size_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(Failure) as caught:
        Budget(100).expect(101, "s3://b/k")
    assert caught.value.reason is Reason.TOO_LARGE
    assert "s3://b/k" in caught.value.message


def test_a_full_disk_is_too_large_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(real(self, *a, **k)))
    with pytest.raises(Failure) as caught:
        store([b"x"], tmp_path, "weights", Budget(100))
    assert caught.value.reason is Reason.TOO_LARGE
    assert "full" in caught.value.message


def test_more_files_than_a_model_has(tmp_path: Path) -> None:
    budget = Budget(100, most_files=2)
    with pytest.raises(Failure) as caught:
        [store([b"x"], tmp_path, str(index), budget) for index in range(3)]
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_same_path_twice(tmp_path: Path) -> None:
    store([b"x"], tmp_path, "a", Budget(100))
    for path in ("a", "a/b"):
        with pytest.raises(Failure) as caught:
            store([b"x"], tmp_path, path, Budget(100))
        assert caught.value.reason is Reason.INVALID_MODEL


BAD_PATHS = ("", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/.", "a\nb", "a\\b", "x" * 2000, "a/")


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(Failure) as caught:
        safe_path(path)
    assert caught.value.reason is Reason.INVALID_MODEL


@given(st.text(max_size=40))
def test_an_accepted_path_stays_below_its_root(path: str) -> None:
    try:
        safe_path(path)
    except Failure:
        return
    assert os.path.normpath(f"/root/{path}").startswith("/root/")


def test_folder_digest_is_that_of_sha256sum() -> None:
    files = [StoredFile("b", 1, "22" * 32), StoredFile("a", 1, "11" * 32)]
    text = f"{'11' * 32}  a\n{'22' * 32}  b\n".encode()
    assert sums_text(files) == text
    assert folder_digest(files) == f"sha256:{hashlib.sha256(text).hexdigest()}"


@given(st.permutations([StoredFile(name, 1, name * 32) for name in ("aa", "Bb", "é", "a/b")]))
def test_folder_digest_does_not_depend_on_the_order_of_listing(files: list[StoredFile]) -> None:
    assert folder_digest(files) == folder_digest(sorted(files))


def test_open_regular_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("token")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name)


def test_collect_reads_plain_files_and_nothing_behind_a_link(tmp_path: Path) -> None:
    root = tmp_path / "prepared"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "model.onnx").write_bytes(b"abc")
    (tmp_path / "token").write_text("secret")
    (root / "link").symlink_to(tmp_path / "token")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    content = collect(root, ["inner/model.onnx"], "sha256:x", Budget(100))
    assert content.files == (StoredFile("inner/model.onnx", 3, hashlib.sha256(b"abc").hexdigest()),)
    for path in ("link", "folder/token", "pipe", "inner", "gone", "../token", "/etc/hostname"):
        with pytest.raises(Failure):
            collect(root, [path], "sha256:x", Budget(100))
    with pytest.raises(Failure) as caught:
        collect(root, ["inner/model.onnx"], "sha256:x", Budget(2))
    assert caught.value.reason is Reason.TOO_LARGE
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure):
        collect(root, ["inner/model.onnx"], "sha256:x", Budget(100))


def test_a_full_disk_is_known_by_whatever_says_it() -> None:
    chained = RuntimeError("the tool failed")
    chained.__cause__ = OSError(errno.ENOSPC, "x")
    assert full_disk(chained) == errno.ENOSPC
    assert full_disk(RuntimeError("[E] write: No space left on device")) == errno.ENOSPC
    assert full_disk(OSError(errno.EFBIG, "x")) == errno.EFBIG
    assert full_disk(OSError(errno.ENOENT, "x")) is None


def test_shorten_keeps_both_ends_on_one_line() -> None:
    text = shorten("start\n" + "x" * 5000 + "\x00end")
    assert len(text) <= 1400
    assert text.startswith("start x")
    assert text.endswith("end")
