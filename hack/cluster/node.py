"""The command lines of what makes this machine a node."""

from __future__ import annotations

import json
from pathlib import Path

from hack.cluster import cgroups
from hack.cluster.component import LOOPBACK, Component
from hack.cluster.identities import Identities
from hack.cluster.settings import Settings

SANDBOX_IMAGE = "localhost/penstock/pause:sandbox"


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
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{directory / "runc"}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory / "opt"}"
"""
    )
    return Component("containerd", ("containerd", "--config", str(config)))


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
        "cgroupRoot": f"/{cgroups.GROUP}",
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
        "makeIPTablesUtilChains": False,
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


def network_policy(settings: Settings, who: Identities, program: Path) -> Component:
    """Return what enforces NetworkPolicies: kube-router's firewall alone, without its routing.

    It has no health address, because that would listen on every interface.
    """
    return Component(
        "kube-router",
        (
            str(program),
            f"--kubeconfig={who.kubeconfigs['network-policy']}",
            f"--hostname-override={settings.node}",
            f"--service-cluster-ip-range={settings.service_cidr}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-loadbalancer=false",
            "--enable-ipv6=false",
            "--health-port=0",
            "--metrics-port=0",
        ),
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


def _has_nameserver() -> bool:
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.split()[:1] == ["nameserver"] for line in lines)
