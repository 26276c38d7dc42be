"""The command line of every program of the control plane and the node.

Listening addresses are loopback, or the bridge where pods or the API server must reach a program;
nothing is offered to the machine's network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import pki
from hack.cluster.settings import Settings

LOOPBACK = "127.0.0.1"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
"""What tests read to prove RBAC and to count writes: workloads' own requests, nothing else's."""


@dataclass(frozen=True)
class Component:
    """A long-running program: how to start it, and where it says that it is healthy."""

    name: str
    command: tuple[str, ...]
    health: str = ""
    endpoint: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


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


def identities(settings: Settings) -> Identities:
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


def etcd(program: Path, data: Path, port: int, peer_port: int) -> Component:
    """Return the store; without fsync, because nothing here must survive a power cut."""
    client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peer_port}"
    return Component(
        "etcd",
        (
            str(program),
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=1h",
            "--quota-backend-bytes=8589934592",
            "--log-level=warn",
        ),
        health=f"{client}/health",
        endpoint=client,
    )


def apiserver(settings: Settings, who: Identities, program: Path) -> Component:
    """Return the API server with aggregation (for metrics-server) and the audit log of workloads."""
    policy = settings.directory / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY, indent=1))
    return Component(
        "kube-apiserver",
        (
            str(program),
            f"--etcd-servers=http://{LOOPBACK}:{settings.ports['etcd']}",
            f"--bind-address={settings.bridge_address}",
            f"--advertise-address={settings.bridge_address}",
            f"--secure-port={settings.ports['apiserver']}",
            *serving_flags(who.authority, who.server, who.service_account),
            f"--kubelet-certificate-authority={who.authority.certificate}",
            f"--kubelet-client-certificate={who.server.certificate}",
            f"--kubelet-client-key={who.server.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={settings.service_cidr}",
            "--enable-aggregator-routing=true",
            f"--requestheader-client-ca-file={who.front_proxy_authority.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={who.front_proxy.certificate}",
            f"--proxy-client-key-file={who.front_proxy.key}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={settings.logs / 'audit.jsonl'}",
            "--audit-log-maxsize=4096",
            "--audit-log-maxbackup=1",
        ),
        health=f"{settings.server}/readyz",
    )


def serving_flags(
    authority: pki.Authority, serving: pki.KeyPair, service_account: pki.KeyPair
) -> tuple[str, ...]:
    """Return the flags that every API server here has: certificates, tokens and RBAC."""
    return (
        f"--client-ca-file={authority.certificate}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--service-account-key-file={service_account.certificate}",
        f"--service-account-signing-key-file={service_account.key}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
    )


def controller_manager(settings: Settings, who: Identities, program: Path) -> Component:
    """Return the controllers; the autoscaler looks every 5 s, because tests wait for it."""
    port = settings.ports["controller-manager"]
    return Component(
        "kube-controller-manager",
        (
            str(program),
            f"--kubeconfig={who.kubeconfigs['kube-controller-manager']}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            f"--service-account-private-key-file={who.service_account.key}",
            f"--root-ca-file={who.authority.certificate}",
            f"--cluster-signing-cert-file={who.authority.certificate}",
            f"--cluster-signing-key-file={who.authority.folder / 'ca.key'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--cluster-cidr={settings.pod_cidr}",
            f"--service-cluster-ip-range={settings.service_cidr}",
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
        ),
        health=f"https://{LOOPBACK}:{port}/healthz",
    )


def scheduler(settings: Settings, who: Identities, program: Path) -> Component:
    """Return the scheduler."""
    port = settings.ports["scheduler"]
    return Component(
        "kube-scheduler",
        (
            str(program),
            f"--kubeconfig={who.kubeconfigs['kube-scheduler']}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            "--leader-elect=false",
        ),
        health=f"https://{LOOPBACK}:{port}/healthz",
    )


def kubelet(settings: Settings, who: Identities, program: Path) -> Component:
    """Return the kubelet, with all that it writes below the cluster's folder."""
    directory = settings.directory
    config = directory / "kubelet.json"
    port = settings.ports["kubelet-healthz"]
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": settings.bridge_address,
        "port": settings.ports["kubelet"],
        "healthzBindAddress": LOOPBACK,
        "healthzPort": port,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "clusterDNS": [settings.bridge_address],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(who.authority.certificate)},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(who.kubelet.certificate),
        "tlsPrivateKeyFile": str(who.kubelet.key),
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "maxPods": 200,
        "podLogsDir": str(settings.logs / "pods"),
        "volumePluginDir": str(directory / "volume-plugins"),
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }
    config.write_text(json.dumps(content, indent=1))
    return Component(
        "kubelet",
        (
            str(program),
            f"--config={config}",
            f"--kubeconfig={who.kubeconfigs['kubelet']}",
            f"--hostname-override={settings.node}",
            f"--node-ip={settings.bridge_address}",
            f"--root-dir={directory / 'kubelet'}",
            f"--cert-dir={directory / 'pki'}",
        ),
        health=f"http://{LOOPBACK}:{port}/healthz",
    )


def kube_proxy(settings: Settings, who: Identities, program: Path) -> Component:
    """Return what serves service addresses; node ports only on the bridge."""
    port = settings.ports["kube-proxy-healthz"]
    return Component(
        "kube-proxy",
        (
            str(program),
            f"--kubeconfig={who.kubeconfigs['kube-proxy']}",
            f"--hostname-override={settings.node}",
            f"--cluster-cidr={settings.pod_cidr}",
            "--proxy-mode=iptables",
            "--iptables-min-sync-period=100ms",
            "--iptables-localhost-nodeports=false",
            f"--nodeport-addresses={settings.bridge_address}/32",
            f"--healthz-bind-address={LOOPBACK}:{port}",
            f"--metrics-bind-address={LOOPBACK}:{settings.ports['kube-proxy-metrics']}",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ),
        health=f"http://{LOOPBACK}:{port}/healthz",
    )


def metrics_server(settings: Settings, who: Identities, program: Path) -> Component:
    """Return what measures CPU and memory of pods, for ``kubectl top`` and the autoscaler."""
    kubeconfig = who.kubeconfigs["metrics-server"]
    port = settings.ports["metrics-server"]
    return Component(
        "metrics-server",
        (
            str(program),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={settings.bridge_address}",
            f"--secure-port={port}",
            f"--tls-cert-file={who.metrics_server.certificate}",
            f"--tls-private-key-file={who.metrics_server.key}",
            f"--kubelet-certificate-authority={who.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-use-node-status-port",
            "--metric-resolution=10s",
            "--kubelet-request-timeout=8s",
        ),
        health=f"https://{settings.bridge_address}:{port}/livez",
    )


def coredns(settings: Settings, who: Identities, program: Path) -> Component:
    """Return the cluster's DNS on the bridge; other names go where this machine asks."""
    corefile = settings.directory / "Corefile"
    forward = "forward . /etc/resolv.conf\n" if _has_nameserver() else ""
    corefile.write_text(
        f""".:{settings.ports["dns"]} {{
bind {settings.bridge_address}
errors
kubernetes cluster.local in-addr.arpa {{
kubeconfig {who.kubeconfigs["coredns"]} penstock
pods insecure
ttl 1
fallthrough in-addr.arpa
}}
cache 1
{forward}}}
"""
    )
    return Component("coredns", (str(program), "-conf", str(corefile)))


def containerd(settings: Settings) -> Component:
    """Return a containerd of our own: own root, state, socket, network namespaces."""
    directory = settings.directory
    config = directory / "containerd.toml"
    config.write_text(
        f"""version = 2
root = "{directory / "containerd"}"
state = "{directory / "containerd-state"}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{settings.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{directory / "cni"}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory / "opt"}"
"""
    )
    return Component("containerd", ("containerd", "--config", str(config)))


SANDBOX_IMAGE = "localhost/penstock/pause:sandbox"


def _has_nameserver() -> bool:
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.split()[:1] == ["nameserver"] for line in lines)
