"""Who is who in the cluster: the certificate and kubeconfig of every component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import pki
from hack.cluster.component import LOOPBACK
from hack.cluster.settings import Settings


@dataclass(frozen=True)
class Identities:
    """All certificates and kubeconfigs, made once by `identities`."""

    authority: pki.Authority
    front_proxy_authority: pki.Authority
    front_proxy: pki.KeyPair
    server: pki.KeyPair
    kubelet: pki.KeyPair
    metrics_server: pki.KeyPair
    service_account: pki.KeyPair
    kubeconfigs: Mapping[str, Path]


def create(settings: Settings) -> Identities:
    """Make the keys of every component and the kubeconfigs that use them."""
    folder = settings.directory / "pki"
    authority = pki.Authority(folder).create()
    front_proxy_authority = pki.Authority(folder, "front-proxy-ca").create()
    local = [f"DNS:{settings.node}", "DNS:localhost", f"IP:{LOOPBACK}"]
    local.append(f"IP:{settings.bridge_address}")
    service = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
    service.append("DNS:kubernetes.default.svc.cluster.local")
    service.append(f"IP:{settings.kubernetes_service_address}")
    kubelet = authority.issue("kubelet", f"system:node:{settings.node}", ["system:nodes"], local)
    clients = {
        "admin": authority.issue("admin", "penstock-admin", ["system:masters"]),
        "kubelet": kubelet,
    }
    for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        clients[name] = authority.issue(name, f"system:{name}")
    for name in ("coredns", "metrics-server", "network-policy"):
        names = ["DNS:metrics-server.kube-system.svc"] if name == "metrics-server" else []
        clients[name] = authority.issue(name, f"penstock:{name}", names=names)
    return Identities(
        authority,
        front_proxy_authority,
        front_proxy_authority.issue("front-proxy-client", "front-proxy-client"),
        authority.issue("kube-apiserver", "kube-apiserver", ["system:masters"], local + service),
        kubelet,
        clients["metrics-server"],
        pki.service_account_keys(folder),
        {
            name: pki.kubeconfig(
                settings.kubeconfig if name == "admin" else folder / f"{name}.kubeconfig",
                settings.server,
                authority,
                pair,
            )
            for name, pair in clients.items()
        },
    )
