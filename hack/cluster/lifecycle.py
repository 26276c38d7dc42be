"""`up` and `down`: the order in which things start, and in which they end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hack.cluster import (
    addons,
    binaries,
    cgroups,
    cleanup,
    containers,
    health,
    host,
    identities,
    masters,
    network,
    node,
    packetfilter,
    process,
    record,
)
from hack.cluster.component import Component
from hack.cluster.errors import ClusterError
from hack.cluster.identities import Identities
from hack.cluster.progress import say, step
from hack.cluster.record import Record
from hack.cluster.settings import CHECKOUT, Settings

_SLOW = 30.0
"""How long, in seconds, a living component may take to answer on a busy machine."""

_PROGRAMS = ("kube-apiserver", "coredns", "metrics-server", "pause")


def up(settings: Settings) -> Record:
    """Return a healthy cluster's record, starting or repairing what is not.

    A cluster of which any part is dead is removed and started anew: its objects may be gone with
    its mounts, and a fresh one takes seconds.
    """
    host.require_root()
    with record.locked(settings.lock):
        found = record.read(settings.record)
        if found and _is_up(settings, found):
            _say_found(settings, found)
            return found
        _require_ours(settings)
        host.require_packages()
        wanted = (*_PROGRAMS, *(("kube-router",) if settings.network_policy else ()))
        programs = {name: binaries.binary(name, settings.cache) for name in wanted}
        if found or settings.directory.exists():
            say("The cluster that was found is not healthy and is replaced.")
            cleanup.remove(settings, found)
        host.require_free_ports(settings)
        cgroups.prepare()
        return _Start(settings, programs).run()


def down(settings: Settings, *, force: bool) -> list[str]:
    """Remove the cluster; return what could not be removed, which is nothing when all is well."""
    host.require_root()
    with record.locked(settings.lock):
        found = record.read(settings.record)
        if not found and not settings.directory.exists():
            say("No cluster is running.")
            return []
        _require_ours(settings)
        if found and found.checkout != str(CHECKOUT) and not force:
            raise ClusterError(f"The cluster belongs to {found.checkout}: run `down` there, or here with --force.")
        with step("remove the cluster"):
            return cleanup.remove(settings, found)


def _is_up(settings: Settings, found: Record) -> bool:
    """Say whether a cluster can be used as it is.

    A dead process decides at once; one that lives but is slow to answer gets time, because
    replacing a cluster takes away other people's work.
    """

    def settled() -> bool:
        return any(not one.alive() for one in found.processes) or not unhealthy(settings, found)

    if found.ready:
        with suppress(ClusterError):
            health.wait(settled, _SLOW, "")
    return found.ready and not unhealthy(settings, found)


def unhealthy(settings: Settings, found: Record) -> list[str]:
    """Return the names of components that do not run or do not answer."""
    settings = settings.as_started(found.addresses)
    return [p.name for p in found.processes if not healthy(settings, found, p)]


def healthy(settings: Settings, found: Record, one: process.Process) -> bool:
    """Say whether a component runs and answers its health check."""
    if not one.alive():
        return False
    if one.name == "coredns":
        return _dns_answers(settings)
    url = found.health.get(one.name, "")
    return not url or health.answers(url, _admin(settings))


class _Start:
    """One start of the cluster, step by step; everything begun is recorded at once."""

    def __init__(self, settings: Settings, programs: dict[str, Path]) -> None:
        self._settings = settings
        self._programs = programs
        self._kubernetes = programs["kube-apiserver"].parent
        self._record = Record(
            checkout=str(CHECKOUT),
            versions={"kubernetes": binaries.KUBERNETES_VERSION},
            addresses=settings.addresses,
        )

    def run(self) -> Record:
        """Start everything in order and wait until pods can be served."""
        began = time.monotonic()
        settings = self._settings
        settings.directory.mkdir(parents=True, exist_ok=True)
        settings.logs.mkdir(exist_ok=True)
        self._record.write(settings.record)
        with step("certificates"):
            who = identities.create(settings)
        with step("pod network"):
            network.create(settings)
            packetfilter.create(settings)
        self._control_plane(who)
        self._node(who)
        self._record = replace(self._record, ready=True)
        self._record.write(settings.record)
        say(f"The cluster is ready after {time.monotonic() - began:.0f} s.")
        return self._record

    def _control_plane(self, who: Identities) -> None:
        settings, programs = self._settings, self._kubernetes
        ports = settings.ports
        with step("etcd and API server"):
            self._start(node.containerd(settings))
            self._start(
                masters.etcd(
                    programs / "etcd",
                    settings.directory / "etcd",
                    ports["etcd"],
                    ports["etcd-peer"],
                )
            )
            self._start(masters.apiserver(settings, who, programs / "kube-apiserver"))
            self._await("kube-apiserver", 60)
        with step("controllers and scheduler"):
            self._start(masters.controller_manager(settings, who, programs / "kube-controller-manager"))
            self._start(masters.scheduler(settings, who, programs / "kube-scheduler"))
            addons.apply(settings, who, programs / "kubectl")

    def _node(self, who: Identities) -> None:
        settings, programs = self._settings, self._kubernetes
        with step("node"):
            health.wait(settings.containerd_socket.exists, 30, self._blame("containerd", "did not start"))
            containers.import_sandbox(settings, self._programs["pause"])
            self._start(node.kubelet(settings, who, programs / "kubelet"))
            self._start(node.kube_proxy(settings, who, programs / "kube-proxy"))
            self._start(node.coredns(settings, who, self._programs["coredns"]))
            self._start(masters.metrics_server(settings, who, self._programs["metrics-server"]))
            self._until(lambda: _node_ready(settings), 60, "kubelet", "the node is not Ready")
            if settings.network_policy:
                self._start(node.network_policy(settings, who, self._programs["kube-router"]))
        with step("cluster DNS, metrics and the rest"):
            self._until(lambda: _dns_answers(settings), 60, "coredns", "DNS does not answer")
            for name in self._record.health:
                self._await(name, 60)

    def _start(self, component: Component) -> None:
        log = self._settings.logs / f"{component.name}.log"
        started = process.start(component.name, component.command, log, component.environment)
        checks = {component.name: component.health} if component.health else {}
        self._record = replace(self._record.with_process(started), health=self._record.health | checks)
        self._record.write(self._settings.record)

    def _await(self, name: str, patience: float) -> None:
        url = self._record.health[name]
        credentials = _admin(self._settings)
        self._until(lambda: health.answers(url, credentials), patience, name, "did not become healthy")

    def _until(self, ready: Callable[[], bool], patience: float, name: str, otherwise: str) -> None:
        """Wait; give up early when the process that is waited for has ended."""

        def ready_or_dead() -> bool:
            one = self._record.process(name)
            if one and not one.alive():
                raise ClusterError(self._blame(name, "ended by itself"))
            return ready()

        health.wait(ready_or_dead, patience, self._blame(name, otherwise))

    def _blame(self, name: str, what: str) -> str:
        return f"{name}: {what}; its log is {self._settings.logs / f'{name}.log'}."


def _require_ours(settings: Settings) -> None:
    """Raise rather than ever remove a folder that holds something else."""
    directory = settings.directory
    if directory.exists() and not settings.record.exists() and any(directory.iterdir()):
        raise ClusterError(f"{directory} is not the folder of a cluster: choose another with PENSTOCK_CLUSTER_DIR.")


def _say_found(settings: Settings, found: Record) -> None:
    whose = "" if found.checkout == str(CHECKOUT) else f" (started by {found.checkout})"
    say(f"The cluster is already up and healthy{whose}.")
    if settings.network_policy and not found.process("kube-router"):
        say("It was started without the enforcement of NetworkPolicies.")


def _admin(settings: Settings) -> tuple[Path, Path]:
    folder = settings.directory / "pki"
    return folder / "admin.crt", folder / "admin.key"


def _dns_answers(settings: Settings) -> bool:
    return health.resolves("kubernetes.default.svc.cluster.local", settings.bridge_address, settings.ports["dns"])


def _node_ready(settings: Settings) -> bool:
    url = f"{settings.server}/api/v1/nodes/{settings.node}"
    conditions = health.get_json(url, _admin(settings)).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
