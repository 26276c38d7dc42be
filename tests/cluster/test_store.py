"""Built images share layers, are found again, and old ones make room."""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hack.cluster import oci
from hack.cluster.errors import ClusterError
from hack.images import storage
from hack.images.store import Source, Store
from tests.archives import packed


def source(content: bytes) -> Source:
    layer = oci.blob(content)
    return Source(layer.digest, layer.copy_to)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_an_image_is_found_with_its_layers_in_order(store: Store):
    added = store.add("localhost/p/x:1", b"{}", [source(b"base"), source(b"code")])
    found = store.find("localhost/p/x:1")
    assert found == added
    assert [layer.read() for layer in found.layers] == [b"base", b"code"]
    assert store.find("localhost/p/x:2") is None


def test_a_layer_that_is_there_is_not_written_again(store: Store):
    store.add("localhost/p/x:1", b"{}", [source(b"base")])

    def never(_file):
        raise AssertionError("written twice")

    again = Source(oci.blob(b"base").digest, never)
    store.add("localhost/p/x:2", b"{}", [again])


def test_a_layer_with_other_bytes_than_its_digest_is_refused(store: Store):
    wrong = Source(oci.blob(b"right").digest, oci.blob(b"wrong").copy_to)
    with pytest.raises(ClusterError, match="should be"):
        store.add("localhost/p/x:1", b"{}", [wrong])
    assert store.find("localhost/p/x:1") is None


def test_the_three_images_used_last_are_kept_and_their_layers_with_them(store: Store, tmp_path: Path):
    store.add("localhost/p/other:1", b"{}", [source(b"base")])
    for number in range(5):
        store.add(f"localhost/p/x:{number}", b"{}", [source(b"base"), source(b"code %d" % number)])
        os.utime(tmp_path / f"x-{number}.json", (number, number))
    store.add("localhost/p/x:5", b"{}", [source(b"base"), source(b"code 5")])
    assert [n for n in range(6) if store.find(f"localhost/p/x:{n}")] == [3, 4, 5]
    kept = {path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    assert kept == {b"{}", b"base", b"code 3", b"code 4", b"code 5"}


def test_an_archive_leaves_out_what_the_receiver_has(store: Store, tmp_path: Path):
    image = store.add("localhost/p/x:1", b"{}", [source(b"base"), source(b"code")])
    oci.write_archive(image, tmp_path / "a.tar", present=[image.layers[0].digest])
    with tarfile.open(tmp_path / "a.tar") as tar:
        index = json.loads(tar.extractfile("index.json").read())
        names = tar.getnames()
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "localhost/p/x:1"
    assert f"blobs/{image.layers[1].digest.replace(':', '/')}" in names
    assert f"blobs/{image.layers[0].digest.replace(':', '/')}" not in names


def test_a_layer_of_buildahs_storage_is_put_together_to_the_byte(tmp_path: Path):
    files = {"a": b"x" * 700, "d/\udcff".encode(errors="surrogateescape").decode(errors="surrogateescape"): b"y"}
    layer = packed(files)
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    diff = tmp_path / "overlay" / "top" / "diff"
    (diff / "d").mkdir(parents=True)
    lines, position = [], 0
    with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as tar:
        for member in tar:
            (diff / member.name).write_bytes(files[member.name])
            header = layer[position : member.offset_data]
            raw = base64.b64encode(member.name.encode(errors="surrogateescape")).decode()
            lines.append({"type": 2, "payload": base64.b64encode(header).decode()})
            lines.append({"type": 1, "name_raw": raw, "size": member.size})
            position = member.offset_data + member.size
    lines.append({"type": 2, "payload": base64.b64encode(layer[position:]).decode()})
    (tmp_path / "overlay-layers").mkdir()
    (tmp_path / "overlay-images").mkdir()
    headers = tmp_path / "overlay-layers" / "top.tar-split.gz"
    headers.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))
    (tmp_path / "overlay-layers" / "layers.json").write_text(json.dumps([{"id": "top", "diff-digest": digest}]))
    (tmp_path / "overlay-images" / "images.json").write_text(json.dumps([{"id": "i", "layer": "top"}]))
    (found,) = storage.layers(tmp_path, "i", [digest])
    target = io.BytesIO()
    found.write(target)
    assert target.getvalue() == layer
    with pytest.raises(ClusterError, match="does not hold"):
        storage.layers(tmp_path, "i", ["sha256:other"])
