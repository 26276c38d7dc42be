"""Whether a GitOps tool would find anything to write: the manifest of Git against the live object."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .kubectl import Kubectl

__all__ = ["assert_in_sync", "write_sides"]

FLUX = "kustomize-controller"
_FLUX_MARKS = "kustomize.toolkit.fluxcd.io/"
"""Labels that Flux adds to whatever it applies."""
_IGNORED = ("managedFields", "resourceVersion")


def assert_in_sync(kubectl: Kubectl, git: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """A server-side dry-run apply, as Flux and Argo CD compare, would change nothing of the live object."""
    marks = {key: value for key, value in live["metadata"].get("labels", {}).items() if key.startswith(_FLUX_MARKS)}
    git = {**git, "metadata": {**git["metadata"], **({"labels": marks} if marks else {})}}
    options = ("--server-side", f"--field-manager={FLUX}", "--force-conflicts", "--dry-run=server", "-o", "json")
    would_be = json.loads(kubectl.run("apply", *options, "-f", "-", stdin=json.dumps(git)))
    told = (_wanted(would_be), _wanted(live), live.get("status", {}).get("message"))
    assert told[0] == told[1], "a sync would make {} of {} at {}".format(*told)


def write_sides(folder: Path, git: Mapping[str, Any], live: Mapping[str, Any]) -> tuple[Path, Path]:
    """Both objects as files, for `argocd-lua diff`."""
    sides = folder / "live.json", folder / "git.json"
    for path, content in zip(sides, (live, git), strict=True):
        path.write_text(json.dumps(content))
    return sides


def _wanted(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _IGNORED}
    return {"metadata": metadata, "spec": manifest["spec"]}
