"""Which clusters stand in the agent's document, and how long."""

import json
import os
from pathlib import Path

import pytest

from penstock_runtime.agent.book import Book
from penstock_runtime.agent.clusterset import ClusterSet
from penstock_runtime.agent.conductor import Conductor
from penstock_runtime.agent.envoy import Envoy
from penstock_runtime.agent.ports import PortSet
from penstock_runtime.agent.routetable import RouteTable
from penstock_runtime.agent.settings import Ports, Settings

from .test_agent_files import PROMISE, FakeClock, fail
from .test_agent_render import spec

DRAIN = 60.0
STABLE = {"name": "digits-a", "model": "digits", "weight": 1000}
OTHER = {"name": "digits-b", "model": "digits", "weight": 0}


class Stage:
    """A book and the clusters made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.settings = Settings("vision", "default", folder, DRAIN, "http://none", folder, frozenset())
        self.book = Book("default", folder / "splits", self.clock.clocks)
        self.clusters = ClusterSet(self.settings, self.book, Envoy(Ports()), self.clock.clocks)
        self.book.restore()
        self.clusters.restore()
        self.book.replace({})
        self.book.replace_slices([])

    def want(self, *revisions: dict[str, object]) -> None:
        generation = max((one.generation for one in self.book.splits.values()), default=0) + 1
        self.book.put("digits", spec(generation=generation, revisions=list(revisions)))
        self.look()

    def look(self) -> None:
        self.clusters.settled = True
        self.clusters.write(frozenset())

    def has(self, revision: str) -> bool:
        return f"/{revision}/" in (self.folder / "envoy" / "cds" / "cds.json").read_text()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_revision_that_leaves_keeps_its_clusters_for_a_drain(stage: Stage) -> None:
    stage.want(STABLE, OTHER)
    stage.want(STABLE)
    assert (stage.has("digits-b"), stage.clusters.next_retirement()) == (True, stage.clock.now + DRAIN)
    stage.clock.now += DRAIN
    stage.look()
    assert (stage.has("digits-b"), stage.clusters.next_retirement()) == (False, None)


def test_a_revision_that_comes_back_is_not_about_to_go(stage: Stage) -> None:
    stage.want(STABLE, OTHER)
    stage.want(STABLE)
    stage.clock.now += DRAIN / 2
    stage.want(STABLE, OTHER)
    assert stage.clusters.next_retirement() is None, "a moment that has passed would make the loop spin"
    stage.clock.now += DRAIN
    stage.want(STABLE)
    assert stage.has("digits-b"), "its drain begins anew"


def test_what_could_not_be_written_is_written_once_it_can_be(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.book.put("digits", spec(revisions=[STABLE]))
    with monkeypatch.context() as full:
        full.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            stage.look()
    stage.look()
    assert stage.has("digits-a")


class Agrees(Envoy):
    """Has taken the route table that stands there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Ports())
        self.file = folder / "envoy" / "rds" / "rds.json"

    async def was_refused(self, document: str) -> bool:
        return False

    async def attested(self) -> int:
        return int(json.loads(self.file.read_text())["version_info"])


async def test_nothing_is_kept_of_models_that_are_gone(tmp_path: Path) -> None:
    """Or an agent's memory would grow with every model that ever was."""
    stage, envoy = Stage(tmp_path), Agrees(tmp_path)
    routes = RouteTable(stage.settings, stage.book, envoy, stage.clock.clocks)
    listeners = PortSet(stage.settings, stage.book, envoy)
    routes.restore()
    listeners.restore()
    loaded = frozenset(f"one-----/digits-{revision}/{kind}" for revision in "ab" for kind in ("http", "grpc"))
    stage.book.put("one", spec(deploymentUid=f"{'one':-<36}"))
    for gone in (False, True):
        if gone:
            stage.book.remove("one")
        routes.write(loaded)
        await routes.attest()
        listeners.write(frozenset(routes.good))
        routes.tell(frozenset(), {})
        kept = [
            name for part in (routes, listeners) for name, item in vars(part).items() if isinstance(item, dict) and item
        ]
        assert bool(kept) is not gone, kept


async def test_a_lost_supervision_does_not_wait_for_a_disk_that_is_full(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    async def all_are_well(uids: list[str]) -> dict[str, dict[str, int]]:
        return {uid: {"digits-a": 1} for uid in uids}

    conductor = Conductor(stage.settings, stage.book, Envoy(Ports()), stage.clock.clocks)
    conductor.restore()
    monkeypatch.setattr(RouteTable, "attest", nothing)
    monkeypatch.setattr(ClusterSet, "look", nothing)
    monkeypatch.setattr(PortSet, "look", nothing)
    monkeypatch.setattr(conductor, "warm", all_are_well)
    monkeypatch.setattr(ClusterSet, "write", fail)
    stage.book.put("digits", spec(revisions=[STABLE, OTHER], supervision=PROMISE))
    with pytest.raises(OSError, match="no space"):
        await conductor.turn()
    assert not stage.book.due()
    assert stage.book.route(next(iter(stage.book.splits))).expired
