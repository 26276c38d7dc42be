"""An image's inputs are what its Dockerfile says; its tag is their hash."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hack.cluster import oci
from hack.cluster.errors import ClusterError
from hack.cluster.settings import CHECKOUT
from hack.images import debian, inputs, table

DOCKERFILE = """
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
# COPY commented /out
COPY --chown=1:1 pyproject.toml \\
     operator/penstock /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements.txt,target=/r pip install -r /r
FROM ${BASE}
COPY --from=build /opt /opt
COPY ["with space.txt", "/x"]
ADD runtime/*.py /opt/
"""


def test_sources_are_read_from_copy_add_and_bind_mounts():
    assert inputs.sources(DOCKERFILE) == [
        "operator/penstock",
        "pyproject.toml",
        "requirements.txt",
        "runtime/*.py",
        "with space.txt",
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("a")
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    (tmp_path / "other.py").write_text("o")
    return tmp_path


def test_files_leave_caches_out(tree: Path):
    assert inputs.files(tree, ["code"]) == [Path("code/a.py")]


@pytest.mark.parametrize("pattern", [".", "missing"])
def test_a_copy_of_everything_or_of_nothing_is_refused(tree: Path, pattern: str):
    with pytest.raises(ClusterError, match="COPY"):
        inputs.files(tree, [pattern])


def test_the_digest_follows_content_names_modes_and_the_rest(tree: Path):
    def digest(base: str = "b") -> str:
        return inputs.digest(tree, inputs.files(tree, ["code", "other.py"]), base=base)

    seen = [digest(), digest("c")]
    (tree / "code" / "a.py").write_text("b")
    seen.append(digest())
    (tree / "code" / "a.py").chmod(0o755)
    seen.append(digest())
    (tree / "code" / "a.py").rename(tree / "code" / "b.py")
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest() == digest()


def test_the_build_sees_only_its_inputs(tree: Path, tmp_path: Path):
    context = tmp_path / "context"
    inputs.stage(tree, inputs.files(tree, ["code"]), context)
    assert [path.relative_to(context) for path in context.rglob("*") if path.is_file()] == [Path("code/a.py")]


def test_an_image_of_one_program_is_a_layer_and_a_configuration(tmp_path: Path):
    program = tmp_path / "program"
    program.write_bytes(b"#!")
    image = oci.of_program("localhost/x:1", program, "1:1", ["serve"], {"etc/x.yml": "a: 1"})
    config = json.loads(image.config.read())
    assert config["config"] == {"User": "1:1", "Entrypoint": ["/program"], "Cmd": ["serve"]}
    assert config["rootfs"]["diff_ids"] == [image.layers[0].digest]
    with tarfile.open(fileobj=io.BytesIO(image.layers[0].read())) as layer:
        assert layer.getnames() == ["program", "etc/x.yml"]
        assert layer.getmember("program").mode == 0o755


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sources.list", "deb [signed-by=/x] http://mirror/debian bookworm main contrib\n"),
        ("sources.list.d/a.list", "deb http://mirror/debian bookworm main\n"),
        ("sources.list.d/a.sources", "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n"),
    ],
)
def test_the_machines_own_mirror_is_used(tmp_path: Path, monkeypatch, file: str, content: str):
    monkeypatch.delenv("PENSTOCK_DEBIAN_MIRROR", raising=False)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert debian.mirror("bookworm", tmp_path) == ["http://mirror/debian"]


def test_without_a_mirror_of_this_suite_debians_own_is_used(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("PENSTOCK_DEBIAN_MIRROR", raising=False)
    (tmp_path / "sources.list").write_text("deb http://mirror/ubuntu noble main\n")
    assert debian.mirror("bookworm", tmp_path) == []


def test_only_images_that_this_checkout_can_build_are_chosen_by_default(tmp_path: Path):
    assert [image.name for image in table.chosen([], tmp_path)] == ["base", "pause", "registry"]
    with pytest.raises(ClusterError, match="lacks"):
        table.chosen(["operator"], tmp_path)
    with pytest.raises(ClusterError, match="no image"):
        table.chosen(["nonsense"], tmp_path)


def torch_layer(name: str) -> str:
    """The instructions of a Dockerfile that make its torch layer."""
    image = table.IMAGES[name]
    assert isinstance(image, table.Dockerfile)
    text = (CHECKOUT / image.path).read_text()
    start = text.index("COPY requirements/torch.lock")
    return text[start : text.index("torch.ones(2, 2)'", start)]


def test_two_images_share_their_torch_layer():
    assert torch_layer("triton-torch") == torch_layer("convert")


def test_what_an_image_takes_parts_of_is_built_before_it():
    names = list(table.IMAGES)
    for image in table.IMAGES.values():
        for name in image.above if isinstance(image, table.Dockerfile) else ():
            assert names.index(name) < names.index(image.name)
            argument = name.upper().replace("-", "_")
            assert f"FROM ${{{argument}}}" in (CHECKOUT / image.path).read_text()
