"""Only chains and rules of the cluster are removed; a neighbour's stay."""

import pytest
from hack.cluster import packetfilter
from hack.cluster.settings import Settings

NAT = r"""*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:DOCKER - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-ours - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 10.88.0.0/16 ! -d 10.88.0.0/16 -m comment --comment "penstock0: outwards" -j MASQUERADE
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"penstock0\" id: \"a\"" -j CNI-DN-ours
COMMIT
"""
NEIGHBOUR = r"""-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"podman\" id: \"b\"" -j CNI-DN-theirs
"""


@pytest.fixture
def iptables(monkeypatch):
    tables = {"nat": NAT}
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(packetfilter, "_PROGRAMS", ("iptables",))
    monkeypatch.setattr(packetfilter.shutil, "which", lambda name: name)
    monkeypatch.setattr(packetfilter.shell, "run", lambda *words: tables.get(words[-1], ""))
    monkeypatch.setattr(packetfilter.shell, "succeeds", lambda *words: calls.append(words[4:]) or True)
    return tables, calls


def test_all_of_ours_goes_and_dockers_stays(iptables):
    _, calls = iptables
    packetfilter.remove(Settings())
    removed = [" ".join(call) for call in calls]
    assert "-D PREROUTING -j KUBE-SERVICES" in removed
    assert (
        "-D POSTROUTING -s 10.88.0.0/16 ! -d 10.88.0.0/16 -m comment --comment penstock0: outwards -j MASQUERADE"
        in removed
    )
    assert {"-X KUBE-SERVICES", "-X CNI-DN-ours", "-X CNI-HOSTPORT-DNAT"} <= set(removed)
    assert not any("DOCKER" in call for call in removed)


def test_the_shared_port_map_stays_while_another_network_uses_it(iptables):
    tables, calls = iptables
    tables["nat"] = NAT.replace("COMMIT\n", NEIGHBOUR)
    packetfilter.remove(Settings())
    removed = [" ".join(call) for call in calls]
    assert "-X CNI-DN-ours" in removed
    assert not any(call.endswith("CNI-HOSTPORT-DNAT") and call.startswith("-X") for call in removed)
    assert not any("theirs" in call for call in removed)


def test_what_remains_is_named(iptables):
    found = packetfilter.remains(Settings())
    assert "KUBE-SERVICES" in found
    assert "DOCKER" not in found
