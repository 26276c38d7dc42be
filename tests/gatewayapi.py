"""The Gateway API for tests: its released CRDs, from the Go module that Contour is built with."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hack.cluster import binaries

__all__ = ["ROUTES", "contour_crds", "gateway_crds"]

ROUTES = ("httproutes", "grpcroutes")
_API, _CONTOUR = "sigs.k8s.io/gateway-api", "github.com/projectcontour/contour"


def gateway_crds(*plurals: str) -> list[Path]:
    """Files of the standard channel, one for each kind; fetched on first use."""
    folder = _sources(_API) / "config/crd/standard"
    return [folder / f"gateway.networking.k8s.io_{plural}.yaml" for plural in plurals]


def contour_crds() -> Iterator[dict[str, Any]]:
    """All kinds that Contour watches: those of the Gateway API's experimental channel, and its own."""
    folder = _sources(_CONTOUR) / "examples"
    return _definitions((folder / "gateway/00-crds.yaml", folder / "contour/01-crds.yaml"))


def _definitions(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from (item for item in yaml.load_all(path.read_text(), yaml.CSafeLoader) if item)


def _sources(module: str) -> Path:
    """Where Go keeps the module's files, fetched if they are gone."""
    command = ("go", "mod", "download", "-json", module)
    folder = binaries.MODULES / "contour"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return Path(json.loads(done.stdout)["Dir"])
