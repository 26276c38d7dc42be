"""Archives of users are not trusted; the layer that is published depends on names and bytes alone."""

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.reasons import Reason
from penstock_runtime.archive import LayerEntry, is_archive_name, layer_chunks, layer_size, unpack
from penstock_runtime.content import Budget, StoredFile
from penstock_runtime.failure import Failure

MIB = 1 << 20


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return raw.getvalue()


def unpacked(data: bytes, folder: Path, most: int = 10 * MIB, name: str = "model.tar") -> dict[str, bytes]:
    (folder / name).write_bytes(data)
    files = unpack(folder / name, folder / "root", Budget(most))
    return {file.path: (folder / "root" / file.path).read_bytes() for file in files}


GOOD = (
    tar_of((member("m/", tarfile.DIRTYPE), b""), (member("./m/1/model.onnx"), b"abc")),
    tar_of((member("m/1/model.onnx"), b"abc"), mode="w:gz"),
    zip_of(("m/", b""), ("m/1/model.onnx", b"abc")),
)


@pytest.mark.parametrize("data", GOOD, ids=("tar", "tar.gz", "zip"))
def test_unpacks_files_and_folders(data: bytes, tmp_path: Path) -> None:
    assert unpacked(data, tmp_path) == {"m/1/model.onnx": b"abc"}


def _zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    return info


UNSAFE = {
    "tar absolute": tar_of((member("/etc/cron.d/x"), b"x")),
    "tar climbing": tar_of((member("a/../../x"), b"x")),
    "tar folder climbing": tar_of((member("../x", tarfile.DIRTYPE), b"")),
    "tar symlink": tar_of((member("a", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "tar hard link": tar_of((member("a", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "tar device": tar_of((member("a", tarfile.CHRTYPE), b"")),
    "tar fifo": tar_of((member("a", tarfile.FIFOTYPE), b"")),
    "tar twice": tar_of((member("a"), b"1"), (member("a"), b"2")),
    "zip absolute": zip_of(("/x", b"x")),
    "zip climbing": zip_of(("../x", b"x")),
    "zip backslash": zip_of(("a\\..\\x", b"x")),
    "zip symlink": zip_of((_zip_link(), b"/etc/passwd")),
    "cut tar": tar_of((member("a"), b"x" * 5000))[:3000],
    "cut gzip": tar_of((member("a"), bytes(range(256)) * 400), mode="w:gz")[:-60],
    "cut zip": zip_of(("a", b"x" * 5000))[:-30],
    "text": b"this is no archive, whatever its name says" * 30,
    "empty": b"",
}


@pytest.mark.parametrize("data", UNSAFE.values(), ids=UNSAFE.keys())
def test_refuses_what_is_unsafe_or_broken(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        unpacked(data, tmp_path)
    assert caught.value.reason is Reason.INVALID_MODEL
    assert not (tmp_path / "x").exists()
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


BOMBS = {
    "zip": lambda: zip_of(("zeros", bytes(80 * MIB))),
    "gzip": lambda: tar_of((member("zeros"), bytes(80 * MIB)), mode="w:gz"),
}


@pytest.mark.parametrize("build", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_stopped_by_its_ratio_and_by_the_limit(build: Callable[[], bytes], tmp_path: Path) -> None:
    data = build()
    for most, words in ((1 << 40, "200 times"), (MIB, "1048576 bytes")):
        folder = tmp_path / str(most)
        folder.mkdir()
        with pytest.raises(Failure) as caught:
            unpacked(data, folder, most)
        assert caught.value.reason is Reason.TOO_LARGE
        assert words in caught.value.message


def test_a_header_cannot_make_the_reader_hold_gigabytes(tmp_path: Path) -> None:
    info = member("pax", tarfile.XHDTYPE)
    info.size = 1 << 33
    with pytest.raises(Failure) as caught:
        unpacked(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096), tmp_path)
    assert caught.value.reason is Reason.INVALID_MODEL


def test_archive_names() -> None:
    assert [is_archive_name(name) for name in ("a.tar", "a.TAR.GZ", "a.tgz", "a.zip", "a.onnx", "tar")] == [
        *[True] * 4,
        *[False] * 2,
    ]


CONTENTS = st.dictionaries(
    st.from_regex(r"[a-zé]{1,60}(/[a-z]{1,70}){0,2}", fullmatch=True), st.binary(max_size=1500), min_size=1, max_size=5
)


def layer_of(contents: dict[str, bytes], order: list[str] | None = None) -> tuple[int, bytes]:
    entries = [LayerEntry(name, StoredFile(name, len(contents[name]), "")) for name in order or contents]

    def read(file: StoredFile) -> Iterator[bytes]:
        yield contents[file.path]

    return layer_size(entries), b"".join(layer_chunks(entries, read))


@given(CONTENTS)
def test_a_layer_is_a_tar_of_exactly_its_size_in_any_order_of_entries(contents: dict[str, bytes]) -> None:
    size, data = layer_of(contents)
    assert size == len(data)
    assert layer_of(contents, sorted(contents, reverse=True))[1] == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert {m.name: archive.extractfile(m).read() for m in members} == contents  # type: ignore[union-attr]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}


def test_stub_is_executable_and_folders_are_folders() -> None:
    stub = StoredFile("m/triton_python_backend_stub", 0, "")
    data = b"".join(layer_chunks([LayerEntry("e/1"), LayerEntry(stub.path, stub)], lambda _: ()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(m.name, m.isdir(), m.mode) for m in archive] == [("e/1", True, 0o755), (stub.path, False, 0o755)]


def packed(kind: int) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", kind) as archive:
        archive.writestr("m/model.onnx", b"hello" * 200)
        archive.writestr("é.txt", b"x" * 50)
    return raw.getvalue()


def sparse() -> bytes:
    raw, body = io.BytesIO(), b"1\n0\n5\n".ljust(512, b"\0") + b"hello"
    info = tarfile.TarInfo("GNUSparseFile.0/s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "2000"}
    info.size = len(body)
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(body))
    return raw.getvalue()


KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
WHOLE = (*map(packed, KINDS), *GOOD[:2], sparse())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_whatever_is_broken_in_an_archive_is_the_archive_s_own_failure(whole, changes) -> None:
    """Anything else would count as a defect of ours, and be tried again for ever."""
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as folder, suppress(Failure):
        unpacked(bytes(data), Path(folder))


@pytest.mark.parametrize("kind", KINDS[2:], ids=["bzip2", "lzma"])
def test_a_member_that_cannot_be_unpacked_is_told(kind: int, tmp_path: Path) -> None:
    data = bytearray(packed(kind))
    at = data.index(b"model.onnx") + len("model.onnx")
    data[at + 4 : at + 24] = bytes(range(20))
    with pytest.raises(Failure) as caught:
        unpacked(bytes(data), tmp_path)
    assert caught.value.reason is Reason.INVALID_MODEL
