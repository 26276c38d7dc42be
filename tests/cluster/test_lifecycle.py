"""What `up` and `down` refuse; the rest of them is proven by the end-to-end suite on the real thing."""

from dataclasses import replace
from pathlib import Path

import pytest
from hack.cluster import host, lifecycle, process
from hack.cluster.errors import ClusterError
from hack.cluster.record import Record
from hack.cluster.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch) -> Settings:
    monkeypatch.setattr(host, "require_root", lambda: None)
    monkeypatch.setattr(lifecycle.cleanup, "remove", lambda *_: pytest.fail("removed"))
    directory = tmp_path / "cluster"
    directory.mkdir()
    return replace(Settings(), directory=directory, cache=tmp_path / "cache")


def test_a_folder_with_other_things_is_never_removed(settings: Settings):
    (settings.directory / "thesis.tex").touch()
    with pytest.raises(ClusterError, match="not the folder of a cluster"):
        lifecycle.up(settings)
    with pytest.raises(ClusterError, match="not the folder of a cluster"):
        lifecycle.down(settings, force=True)


def test_another_checkouts_cluster_is_not_taken_down(settings: Settings):
    Record("/another/checkout").write(settings.record)
    with pytest.raises(ClusterError, match=r"belongs to /another/checkout.*--force"):
        lifecycle.down(settings, force=False)


def test_another_checkouts_healthy_cluster_is_used(settings: Settings):
    record = Record("/another/checkout", ready=True)
    record.write(settings.record)
    assert lifecycle.up(settings) == record


def test_a_living_but_slow_cluster_is_waited_for_and_not_replaced(settings: Settings, monkeypatch, tmp_path: Path):
    living = process.start("apiserver", ["sleep", "60"], tmp_path / "log")
    record = Record("/x", health={"apiserver": "https://x"}, processes=(living,), ready=True)
    record.write(settings.record)
    answers = iter([False, False, True, True])
    monkeypatch.setattr(lifecycle.health, "answers", lambda *_: next(answers))
    assert lifecycle.up(settings) == record
    process.stop([living], 0)
