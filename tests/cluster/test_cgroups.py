"""Groups of the cluster's own are made and removed, in both versions of control groups."""

from pathlib import Path

import pytest
from hack.cluster import cgroups


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    for name in ("memory", "cpuset"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tasks").touch()
    (tmp_path / "unified").mkdir()
    return tmp_path


def test_version_1_gets_a_group_in_every_hierarchy(version_1: Path):
    cgroups.prepare(version_1)
    assert cgroups.remains(version_1) == [version_1 / "cpuset" / "penstock", version_1 / "memory" / "penstock"]


def test_a_new_cpuset_gets_cpus_or_no_process_could_enter_it(version_1: Path):
    (version_1 / "cpuset" / "cpuset.cpus").write_text("0-1")
    (version_1 / "cpuset" / "penstock").mkdir()
    (version_1 / "cpuset" / "penstock" / "cpuset.cpus").write_text("")
    cgroups.prepare(version_1)
    assert (version_1 / "cpuset" / "penstock" / "cpuset.cpus").read_text() == "0-1"


def test_version_2_hands_controllers_down(tmp_path: Path):
    for group in (tmp_path, tmp_path / "penstock"):
        group.mkdir(exist_ok=True)
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids misc\n")
        (group / "cgroup.subtree_control").write_text("cpu\n")
    cgroups.prepare(tmp_path)
    for group in (tmp_path, tmp_path / "penstock"):
        assert (group / "cgroup.subtree_control").read_text() == "+cpuset +io +memory +pids"


def test_removal_takes_the_tree_of_ours_and_leaves_another_kubelets(version_1: Path):
    cgroups.prepare(version_1)
    (version_1 / "memory" / "penstock" / "kubepods" / "burstable").mkdir(parents=True)
    (version_1 / "memory" / "kubepods").mkdir()
    cgroups.remove(version_1)
    assert cgroups.remains(version_1) == []
    assert (version_1 / "memory" / "kubepods").exists()
