"""Programs that GitOps tools are made of, built on first use, and an API server of our own to show them."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hack.cluster import binaries
from hack.cluster.controlplane import ControlPlane
from hack.cluster.settings import cache_dir

from .kubectl import Kubectl
from .tools import tool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def argo() -> Callable[..., Any]:
    """`argocd-lua`: the decoded answer of Argo CD's own code."""
    program = tool("argocd-lua")

    def ask(verb: str, thing: Path, script: Path) -> Any:
        done = subprocess.run([program, verb, thing, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if verb != "diff" else done.stdout.strip()

    return ask


@pytest.fixture(scope="session")
def kstatus() -> Callable[[Any], str]:
    """What Flux and Helm make of an object: Current, InProgress, Failed."""
    program = tool("kstatus")

    def judge(manifest: Any) -> str:
        done = subprocess.run([program], input=json.dumps(manifest), capture_output=True, text=True, check=True)
        return str(json.loads(done.stdout)["status"])

    return judge


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Against a private API server with Penstock's kinds; no operator runs there."""
    with ControlPlane(tmp_path_factory.mktemp("gitops"), controllers=True) as control_plane:
        program = binaries.binary("kubectl", cache_dir())
        client = Kubectl(str(program), control_plane.kubeconfig)
        for crd in sorted((ROOT / "crds").glob("*.yaml")):
            client.apply_file(crd)
        client.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
        yield client
