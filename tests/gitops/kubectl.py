"""kubectl against one API server."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Kubectl", "eventually"]

Object = dict[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """Each call is one run of the program; what it prints on failure is the test's failure."""

    program: str
    kubeconfig: Path

    def run(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [self.program, *arguments], input=stdin, capture_output=True, text=True, check=False, env=self.environment
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def apply_file(self, path: Path) -> None:
        self.run("apply", "--server-side", "--force-conflicts", "-f", str(path))

    def apply(self, *manifests: Mapping[str, Any], manager: str = "test", more: tuple[str, ...] = ()) -> str:
        """Server-side, as GitOps tools do; what it printed."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        options = ("--server-side", f"--field-manager={manager}", "--force-conflicts", *more)
        return self.run("apply", *options, "-f", "-", stdin=text)

    def get(self, kind: str, namespace: str, name: str, *more: str) -> Object:
        found: Object = json.loads(self.run("get", kind, name, "-n", namespace, "-o", "json", *more))
        return found

    def set_status(self, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """As the operator would: the whole of it, by its own field manager."""
        metadata = {"name": manifest["metadata"]["name"], "namespace": manifest["metadata"]["namespace"]}
        whole = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata, "status": status}
        options = ("--server-side", "--field-manager=penstock-status", "--force-conflicts", "--subresource=status")
        self.run("apply", *options, "-f", "-", stdin=json.dumps(whole))


def eventually(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer; asked again and again, for a program that notifies nobody here."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
