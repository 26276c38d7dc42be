"""What a user may set, and what the machine is asked before anything starts."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hack.cluster import host
from hack.cluster.errors import ClusterError
from hack.cluster.settings import Settings, cache_dir


def test_defaults_follow_the_environment():
    settings = Settings.from_environment(
        {
            "PENSTOCK_POD_CIDR": "10.77.0.0/16",
            "PENSTOCK_SERVICE_CIDR": "10.78.0.0/16",
            "PENSTOCK_PORT_KUBE_PROXY_HEALTHZ": "12345",
            "PENSTOCK_CACHE": "/somewhere",
        }
    )
    assert settings.bridge_address == "10.77.0.1"
    assert settings.kubernetes_service_address == "10.78.0.1"
    assert settings.server == "https://10.77.0.1:6443"
    assert settings.ports["kube-proxy-healthz"] == 12345
    assert settings.cache == Path("/somewhere")


@pytest.mark.parametrize("variable", [{"PENSTOCK_POD_CIDR": "10.0.0.1/8"}, {"PENSTOCK_PORT_ETCD": "many"}])
def test_a_wrong_value_is_one_sentence(variable):
    with pytest.raises(ClusterError, match="PENSTOCK_"):
        Settings.from_environment(variable)


def test_a_running_clusters_addresses_win_over_the_environment():
    started = Settings.from_environment({"PENSTOCK_POD_CIDR": "10.77.0.0/16", "PENSTOCK_PORT_APISERVER": "7443"})
    seen = Settings().as_started(started.addresses)
    assert seen.addresses == started.addresses
    assert seen.server == "https://10.77.0.1:7443"


def test_the_cache_is_the_users_own_unless_said_otherwise():
    assert cache_dir({"XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/penstock")
    assert cache_dir({"XDG_CACHE_HOME": "/xdg", "PENSTOCK_CACHE": "/p"}) == Path("/p")


def test_a_taken_port_is_named_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = replace(Settings(), ports={"etcd": port})
        with pytest.raises(ClusterError, match=rf"Port {port}, wanted for etcd.*PENSTOCK_PORT_ETCD"):
            host.require_free_ports(settings)
    host.require_free_ports(settings)


def test_a_port_on_another_address_is_not_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        host.require_free_ports(replace(Settings(), ports={"apiserver": other.getsockname()[1]}))
