"""A private etcd and API server for integration tests: no node, no containers, no root.

Real validation, defaulting, admission, RBAC, watches and server-side apply, ready in about three
seconds, on free ports, any number side by side.

    with ControlPlane(tmp_path / "control-plane") as control_plane:
        os.environ["KUBECONFIG"] = str(control_plane.kubeconfig)
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.cluster import binaries, health, masters, pki, process
from hack.cluster.component import LOOPBACK
from hack.cluster.errors import ClusterError
from hack.cluster.host import free_ports
from hack.cluster.process import Process
from hack.cluster.settings import cache_dir

_SERVICES = "10.97.0.0/16"
_PATIENCE = 60.0


class ControlPlane:
    """An API server with its store; stopped when the context ends or the caller's process dies.

    Nothing schedules or starts pods here. Without ``controllers`` no controller runs at all: no
    garbage collection, no service-account tokens, and namespaces stay Terminating; with it the
    controller manager does. ``api_port`` 0 takes a free port.
    """

    def __init__(self, directory: Path, api_port: int = 0, *, controllers: bool = False) -> None:
        self._directory = directory
        self._api_port = api_port
        self._controllers = controllers
        self._processes: list[Process] = []
        self._authority = pki.Authority(directory / "pki")
        self.kubeconfig = directory / "kubeconfig"
        """The administrator's kubeconfig; valid while the context is open."""

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{LOOPBACK}:{self._api_port}"

    def user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig of a user with no rights but those of ``groups`` and of RBAC.

        A service account is ``system:serviceaccount:NAMESPACE:NAME`` with the groups
        ``system:serviceaccounts`` and ``system:serviceaccounts:NAMESPACE``.
        """
        file = name.replace(":", "-").replace("/", "-")
        pair = self._authority.issue(file, name, groups)
        path = self._directory / f"{file}.kubeconfig"
        return pki.kubeconfig(path, self.server, self._authority, pair)

    def start(self) -> Self:
        """Start the programs and wait until the API server is ready."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._authority.create()
        ports = free_ports(4)
        self._api_port = self._api_port or ports.pop()
        programs = binaries.binary("kube-apiserver", cache_dir()).parent
        admin = self._authority.issue("admin", "penstock-admin", ["system:masters"])
        pki.kubeconfig(self.kubeconfig, self.server, self._authority, admin)
        keys = pki.service_account_keys(self._authority.folder)
        try:
            store = masters.etcd(programs / "etcd", self._directory / "etcd", ports.pop(), ports.pop())
            self._run(store.name, store.command)
            self._run("kube-apiserver", self._apiserver(programs, store.endpoint, keys))
            self._await(f"{self.server}/readyz", (admin.certificate, admin.key))
            if self._controllers:
                port = ports.pop()
                self._run("kube-controller-manager", self._manager(programs, port, keys))
                self._await(f"https://{LOOPBACK}:{port}/healthz", None)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the programs and remove the store; logs stay."""
        process.stop(reversed(self._processes), 2)
        self._processes.clear()
        shutil.rmtree(self._directory / "etcd", ignore_errors=True)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _apiserver(self, programs: Path, store: str, keys: pki.KeyPair) -> tuple[str, ...]:
        names = ["DNS:localhost", f"IP:{LOOPBACK}"]
        serving = self._authority.issue("kube-apiserver", "kube-apiserver", names=names)
        return (
            str(programs / "kube-apiserver"),
            f"--etcd-servers={store}",
            f"--bind-address={LOOPBACK}",
            f"--advertise-address={LOOPBACK}",
            f"--secure-port={self._api_port}",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={_SERVICES}",
            "--disable-admission-plugins=ServiceAccount",
            *masters.serving_flags(self._authority, serving, keys),
        )

    def _manager(self, programs: Path, port: int, keys: pki.KeyPair) -> tuple[str, ...]:
        return (
            str(programs / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={keys.key}",
            f"--root-ca-file={self._authority.certificate}",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
        )

    def _run(self, name: str, command: tuple[str, ...]) -> None:
        """Start a program that the kernel kills should the caller die without cleaning up."""
        bound = ("setpriv", "--pdeathsig", "KILL", *command)
        self._processes.append(process.start(name, bound, self._log(name)))

    def _log(self, name: str) -> Path:
        return self._directory / "log" / f"{name}.log"

    def _await(self, url: str, credentials: tuple[Path, Path] | None) -> None:
        def ready() -> bool:
            for one in self._processes:
                if not one.alive():
                    raise ClusterError(f"{one.name} ended by itself; see {self._log(one.name)}.")
            return health.answers(url, credentials)

        health.wait(ready, _PATIENCE, f"{url} did not become ready; see {self._directory}/log.")
