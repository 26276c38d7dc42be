"""What the agent keeps on disk: documents for Envoy, and what a new process of it takes up."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock_runtime.agent.book import Book
from penstock_runtime.agent.clocks import Clocks
from penstock_runtime.agent.files import Document, replace_file
from penstock_runtime.agent.render.document import resources_document
from penstock_runtime.agent.settings import Settings, default_gateway

from .test_agent_render import UID, spec


def document(folder: Path) -> Document:
    return Document(folder / "cds" / "cds.json", folder / "state" / "cds.json", resources_document)


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cds" / "cds.json").read_text())
    return found


def test_the_first_process_writes_an_empty_document(tmp_path: Path) -> None:
    assert not document(tmp_path).restore()
    assert read(tmp_path) == {"version_info": "1", "resources": []}


def test_the_next_process_goes_on_from_the_same_parts_and_version(tmp_path: Path) -> None:
    first = document(tmp_path)
    first.restore()
    first.write({"one": '{"name":"one"}'})
    written = (tmp_path / "cds" / "cds.json").stat().st_mtime_ns
    second = document(tmp_path)
    assert second.restore()
    assert (second.version, second.parts) == (2, {"one": '{"name":"one"}'})
    assert (tmp_path / "cds" / "cds.json").stat().st_mtime_ns == written
    assert second.write({}) == 3


@pytest.mark.parametrize("damage", ["", "{", '{"version": 2}', '{"version": "x", "parts": {}}'])
def test_a_damaged_memory_is_as_none(tmp_path: Path, damage: str) -> None:
    document(tmp_path).restore()
    (tmp_path / "state" / "cds.json").write_text(damage)
    assert not document(tmp_path).restore()
    assert read(tmp_path)["resources"] == []


def test_a_document_that_is_gone_is_written_again(tmp_path: Path) -> None:
    first = document(tmp_path)
    first.restore()
    first.write({"one": '{"name":"one"}'})
    (tmp_path / "cds" / "cds.json").unlink()
    document(tmp_path).restore()
    assert read(tmp_path)["resources"] == [{"name": "one"}]


def test_a_write_that_fails_is_told_apart_from_one_that_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = document(tmp_path)
    first.restore()
    with monkeypatch.context() as full:
        full.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            first.write({"one": '{"name":"one"}'})
    assert not first.whole
    first.write({"one": '{"name":"one"}'})
    assert (first.whole, read(tmp_path)["resources"]) == (True, [{"name": "one"}])


def test_a_version_that_envoy_may_have_read_is_never_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the document and before the memory of it, and then the agent ends."""
    first = document(tmp_path)
    first.restore()
    rename, left = os.replace, iter([True])

    def once(source: Path, target: Path) -> None:
        if not next(left, False):
            fail()
        rename(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "replace", once)
        with pytest.raises(OSError, match="no space"):
            first.write({"one": '{"name":"one"}'})
    second = document(tmp_path)
    second.restore()
    assert (second.version, second.whole) == (2, False)
    assert second.write({}) == 3


def test_a_memory_that_cannot_be_written_costs_no_more_than_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = document(tmp_path)
    first.restore()
    rename = os.replace

    def to_envoy_alone(source: Path, target: Path) -> None:
        if target.parent.name == "state":
            fail()
        rename(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "replace", to_envoy_alone)
        for _ in range(5):
            with pytest.raises(OSError, match="no space"):
                first.write({"one": '{"name":"one"}'})
    assert first.write({"one": '{"name":"one"}'}) == 2
    assert first.whole
    assert first.write({"one": '{"name":"one"}'}) == 3, "asked for once more, it is another version"


@pytest.mark.parametrize("damage", ["", "{", '{"version": Infinity, "parts": {}}'])
def test_without_a_memory_versions_go_on_from_what_envoy_has(tmp_path: Path, damage: str) -> None:
    first = document(tmp_path)
    first.restore()
    for _ in range(6):
        first.write({"one": '{"name":"one"}'})
    (tmp_path / "state" / "cds.json").write_text(damage)
    second = document(tmp_path)
    assert not second.restore()
    assert second.version == 8


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    replace_file(target, "old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(target, "new")
    assert target.read_text() == "old"


def fail(*_: object) -> None:
    raise OSError("no space")


class FakeClock:
    now = 100.0
    ahead = 1000.0
    """Of the wall clock before the monotonic one."""

    @property
    def clocks(self) -> Clocks:
        return Clocks(monotonic=lambda: self.now, wall=lambda: self.ahead + self.now, boot="one")


def book(folder: Path, clock: FakeClock) -> Book:
    made = Book("default", folder / "splits", clock.clocks)
    made.restore()
    return made


PROMISE = {"timeoutSeconds": 60, "renewTime": "1970-01-01T00:00:00Z", "onLoss": "Stable"}


def test_a_new_process_knows_splits_and_what_was_spent(tmp_path: Path) -> None:
    clock = FakeClock()
    first = book(tmp_path, clock)
    first.put("digits", spec(supervision=PROMISE))
    assert first.due() == [UID], "renewed long ago, as the wall clock tells"
    first.fall_back(UID)
    assert first.route(UID).weights == {"digits-a": 1000}
    second = book(tmp_path, clock)
    assert second.route(UID) == first.route(UID)
    assert second.route(UID).expired
    second.put("digits", spec(generation=18, supervision=PROMISE))
    assert dict(second.route(UID).weights) == {"digits-b": 1, "digits-a": 999}


@pytest.mark.parametrize("step", [3600.0, -3600.0, 10 * 365 * 86400.0])
def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_supervision(tmp_path: Path, step: float) -> None:
    """Not for an agent that looks on, nor for the next one of the same boot; renewals are dated by another clock."""
    clock = FakeClock()
    promise = {**PROMISE, "renewTime": "1970-01-01T00:18:20Z"}
    first = book(tmp_path, clock)
    first.put("digits", spec(supervision=promise))
    clock.ahead += step
    clock.now += 50
    first.put("digits", spec(supervision={**promise, "renewTime": "1970-01-01T00:19:10Z"}))
    clock.now += 59
    assert first.due() == []
    second = book(tmp_path, clock)
    second.put("digits", spec(supervision={**promise, "renewTime": "1970-01-01T00:19:10Z"}))
    assert second.due() == []
    clock.now += 1
    assert (first.due(), second.due()) == ([UID], [UID])


@pytest.mark.parametrize(("step", "lost"), [(3600.0, True), (-3600.0, False)])
def test_a_new_router_pod_on_a_node_with_a_wrong_clock_errs_to_the_stable_side(
    tmp_path: Path,
    step: float,
    lost: bool,
) -> None:
    """Who remembers nothing has the wall clock alone; the next generation, seen by its own clock, is as of any pod."""
    clock = FakeClock()
    clock.ahead += step
    made = book(tmp_path, clock)
    made.put("digits", spec(supervision={**PROMISE, "renewTime": "1970-01-01T00:18:20Z"}))
    assert (made.due() == [UID]) is lost
    made.put("digits", spec(generation=18, supervision={**PROMISE, "renewTime": "1970-01-01T00:18:20Z"}))
    clock.now += 59
    assert made.due() == []
    clock.now += 1
    assert made.due() == [UID]


def test_what_a_list_lacks_is_gone_and_forgotten(tmp_path: Path) -> None:
    clock = FakeClock()
    first = book(tmp_path, clock)
    first.replace({"digits": spec(), "faces": spec(deployment="faces", deploymentUid="f" * 36, port=20001)})
    first.replace({"digits": spec()})
    assert set(first.splits) == {UID}
    assert set(book(tmp_path, clock).splits) == {UID}


def test_what_a_full_disk_kept_from_being_remembered_counts_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split, a loss of supervision, a swap of ports: all of it, and no half."""
    clock, other = FakeClock(), "f" * 36
    first = book(tmp_path, clock)
    first.put("digits", spec())
    first.put("faces", spec(deployment="faces", deploymentUid=other, port=20001))
    with monkeypatch.context() as full:
        full.setattr(os, "replace", fail)
        first.changed.clear()
        first.put("faces", spec(deployment="faces", deploymentUid=other, generation=18, port=20000))
        first.put("digits", spec(generation=18, port=20001, supervision=PROMISE))
        assert (first.changed.is_set(), first.splits[UID].port, first.splits[other].port) == (True, 20001, 20000)
        clock.now += 60
        assert first.due() == [UID]
        first.fall_back(UID)
        with pytest.raises(OSError, match="no space"):
            first.save()
        assert book(tmp_path, clock).splits[UID].generation == 17, "an agent that ends now knows no better"
    first.save()
    second = book(tmp_path, clock)
    assert (second.splits, second.route(UID).expired) == (first.splits, True)


def test_a_split_of_another_router_is_gone_here(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    first.put("digits", spec(router="other"))
    assert not first.splits


def test_a_deployment_made_again_under_its_name_is_another_one(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    first.put("digits", spec(deploymentUid="f" * 36))
    assert set(first.splits) == {"f" * 36}


def test_a_bad_split_leaves_the_last_good_one_and_a_message(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    first.put("digits", spec(generation=18, port=0))
    assert (first.splits[UID].generation, "spec.port" in first.refused[UID]) == (17, True)
    first.put("digits", spec(generation=19))
    assert (first.splits[UID].generation, first.refused) == (19, {})


def test_a_port_is_free_again_when_its_model_is_gone(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    first.put("faces", spec(deployment="faces", deploymentUid="f" * 36))
    assert first.refused == {"f" * 36: "its port 20000 belongs to TrafficSplit digits; expected one of its own"}
    first.remove("digits")
    assert (set(first.splits), first.refused) == ({"f" * 36}, {})


def test_a_port_is_free_again_when_its_model_moves(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("faces", spec(deployment="faces", deploymentUid="f" * 36))
    first.put("digits", spec())
    assert set(first.refused) == {UID}
    first.put("faces", spec(deployment="faces", deploymentUid="f" * 36, generation=18, port=20001))
    assert (set(first.splits), first.refused) == ({UID, "f" * 36}, {})


def test_a_split_that_was_refused_is_not_what_a_new_process_takes_up(tmp_path: Path) -> None:
    clock = FakeClock()
    first = book(tmp_path, clock)
    first.put("digits", spec(supervision=PROMISE))
    first.put("digits", spec(generation=18, port=0))
    assert first.due() == [UID]
    first.fall_back(UID)
    second = book(tmp_path, clock)
    assert (second.splits[UID].generation, second.route(UID).expired) == (17, True)


def test_a_damaged_memory_of_a_split_is_left_out(tmp_path: Path) -> None:
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    (tmp_path / "splits" / "broken.json").write_text("{")
    assert set(book(tmp_path, FakeClock()).splits) == {UID}


def test_of_a_split_that_was_refused_nothing_stays_when_it_is_made_again(tmp_path: Path) -> None:
    """Refused at the start, refused later, refused for what another one has: gone with its uid or its name."""
    other, clock = "f" * 36, FakeClock()
    book(tmp_path, clock).put("digits", spec(generation=17))
    first = Book("default", tmp_path / "splits", clock.clocks)
    (tmp_path / "splits" / f"{UID}.json").write_text(json.dumps({"name": "digits", "spec": spec(port=0), "timer": {}}))
    (tmp_path / "splits" / "broken.json").write_text("{")
    (tmp_path / "splits" / f".{UID}.json.draft").write_text("half")
    first.restore()
    assert set(first.refused) == {UID}
    first.replace({"digits": spec(deploymentUid=other)})
    assert (set(first.splits), first.refused, names(tmp_path)) == ({other}, {}, {f"{other}.json"})
    first.put("digits", spec(deploymentUid=UID, port=0))
    assert (set(first.splits), set(first.refused), names(tmp_path)) == (set(), {UID}, set())
    first.put("faces", spec(deployment="faces", deploymentUid=other))
    first.put("digits", spec(deploymentUid="e" * 36))
    assert set(first.refused) == {"e" * 36}, "the port is that of faces"
    first.remove("digits")
    assert (set(first.splits), first.refused, names(tmp_path)) == ({other}, {}, {f"{other}.json"})
    kept = [first._specs, first._good, first._uids, first._timers, first._waiting]
    assert [len(one) for one in kept] == [1, 1, 1, 1, 0]


def test_two_models_whose_uids_begin_alike_are_told_apart_by_a_refusal(tmp_path: Path) -> None:
    """Clusters and counters are named by the first eight characters."""
    first = book(tmp_path, FakeClock())
    first.put("digits", spec())
    twin = f"{UID[:8]}-2222-4000-8000-000000000000"
    first.put("faces", spec(deployment="faces", deploymentUid=twin, port=20001))
    assert first.refused == {
        twin: f"its uid's beginning {UID[:8]} belongs to TrafficSplit digits; expected one of its own"
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "splits").iterdir()}


def test_the_environment_is_read_once_and_a_missing_name_is_named() -> None:
    environment = {
        "PENSTOCK_NAMESPACE": "vision",
        "PENSTOCK_ROUTER": "default",
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "443",
        "NODE_IP": "10.0.0.1",
        "PENSTOCK_ADMIN_PORT": "19901",
        "PENSTOCK_ENVOY_MEMORY": "536870912",
    }
    found = Settings.read(environment)
    assert (found.api, found.drain, found.ports.admin, found.ports.agent) == ("https://[fd00::1]:443", 60, 19901, 10091)
    assert ("10.0.0.1" in found.node, found.memory) == (True, 512 << 20)
    del environment["PENSTOCK_ROUTER"]
    with pytest.raises(KeyError, match="PENSTOCK_ROUTER"):
        Settings.read(environment)


def test_the_gateway_is_read_from_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text("Iface Destination Gateway Flags\neth0 00000000 0100F40A 0003\neth0 0000F40A 00000000 0001\n")
    assert default_gateway(table) == "10.244.0.1"
    assert default_gateway(tmp_path / "none") is None
