"""The command lines of the control plane and of metrics-server beside it."""

from __future__ import annotations

import json
from pathlib import Path

from hack.cluster import pki
from hack.cluster.component import LOOPBACK, Component
from hack.cluster.identities import Identities
from hack.cluster.settings import Settings

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


def serving_flags(authority: pki.Authority, serving: pki.KeyPair, service_account: pki.KeyPair) -> tuple[str, ...]:
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
            f"--flex-volume-plugin-dir={settings.directory / 'volume-plugins'}",
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
