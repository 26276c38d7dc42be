"""Content that stays in its claim: every byte is compared with the checksums on record before a link to it is made."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure
from penstock_runtime.mounted import link_mounted

FILES = {"model.onnx": b"graph" * 100, "weights/model.onnx.data": bytes(range(256)) * 40_000}


def entry(source: str, data: bytes) -> dict[str, Any]:
    return {"source": source, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def record(files: dict[str, dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"files": files, **more}).encode()


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


RECORD = record({name: entry(name, data) for name, data in FILES.items()})


def test_a_folder_becomes_links(content: Path, tmp_path: Path) -> None:
    root = tmp_path / "models/digits/1"
    root.mkdir(parents=True)
    assert link_mounted(RECORD, content, root, "pvc://large/digits") == sum(map(len, FILES.values()))
    for name, data in FILES.items():
        assert (root / name).is_symlink()
        assert (root / name).readlink() == content / name
        assert (root / name).read_bytes() == data


def test_a_single_file_and_other_names(content: Path, tmp_path: Path) -> None:
    file = content / "model.onnx"
    link_mounted(record({"model.onnx": entry("", FILES["model.onnx"])}), file, tmp_path, "pvc://large/a.onnx")
    assert (tmp_path / "model.onnx").readlink() == file


def test_empty_folders_of_a_repository_are_made(content: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    link_mounted(record({}, folders=["ensemble/1"]), content, root, "pvc://large")
    assert (root / "ensemble/1").is_dir()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (change, Reason.DIGEST_MISMATCH, "was prepared with sha256:"),
        (shorten, Reason.DIGEST_MISMATCH, "has 10239999 bytes, this revision was prepared with 10240000 bytes"),
        (Path.unlink, Reason.SOURCE_NOT_FOUND, "is no longer there"),
        (replace_by_link, Reason.SOURCE_UNAVAILABLE, "cannot be read"),
        (replace_by_folder, Reason.SOURCE_UNAVAILABLE, "cannot be read"),
    ],
)
def test_content_that_has_changed_is_not_served(
    content: Path, tmp_path: Path, spoil: Any, reason: Reason, words: str
) -> None:
    spoil(content / "weights/model.onnx.data")
    with pytest.raises(Failure, match=words) as caught:
        link_mounted(RECORD, content, tmp_path, "pvc://large/digits")
    assert caught.value.reason is reason
    assert "pvc://large/digits: weights/model.onnx.data" in caught.value.message


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b"])
def test_a_record_cannot_lead_out(content: Path, tmp_path: Path, name: str) -> None:
    for files in ({name: entry("model.onnx", FILES["model.onnx"])}, {"x": entry(name, b"")}):
        with pytest.raises(Failure):
            link_mounted(record(files), content, tmp_path, "pvc://large")
