"""Models as OCI artifacts in the chart's registry: pushed under a tag, pulled again by digest."""

import hashlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import oras.provider

from .chart import SYSTEM_NAMESPACE
from .cluster import Cluster
from .screen import DemoError

__all__ = ["Artifacts", "open_registry"]

_HOST = f"registry.{SYSTEM_NAMESPACE}:5000"
"""The registry as pods know it."""


class Artifacts:
    """One repository of the registry."""

    def __init__(self, address: str, repository: str, token: str) -> None:
        self._address, self._repository = address, repository
        self._client = oras.provider.Registry(hostname=address, insecure=True)
        self._client.session.trust_env = False
        self._client.auth.set_token_auth(token)

    def uri(self, tag: str) -> str:
        """What a ModelDeployment's spec.model.uri says."""
        return f"oci://{_HOST}/{self._repository}:{tag}"

    def push(self, model: Path, tag: str) -> str:
        """Push an ONNX file under a tag; return the digest of its manifest."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(model.read_bytes())
            digest: str = self._push(file, tag).headers["Docker-Content-Digest"]
        return digest

    def push_repository(self, files: Mapping[str, bytes], tag: str) -> str:
        """Push a Triton model repository, files by path, as one archive; return the digest of its manifest."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "repository.tar"
            with tarfile.open(archive, "w") as packed:
                for path, content in files.items():
                    entry = tarfile.TarInfo(path)
                    entry.size = len(content)
                    packed.addfile(entry, io.BytesIO(content))
            digest: str = self._push(archive, tag, "application/x-tar").headers["Docker-Content-Digest"]
        return digest

    def _push(self, file: Path, tag: str, kind: str = "application/vnd.onnx.model") -> Any:
        target, files = f"{self._address}/{self._repository}:{tag}", [f"{file}:{kind}"]
        try:
            return self._client.push(target, files=files, disable_path_validation=True, quiet=True)
        except (OSError, ValueError) as error:
            raise DemoError(f"the registry has not taken {self._repository}:{tag}: {error}") from error

    def pull(self, digest: str) -> bytes:
        """The bytes of the one file of an artifact; every hash on the way is checked."""
        manifest = json.loads(self._bytes(f"manifests/{digest}", digest))
        (layer,) = manifest["layers"]
        return self._bytes(f"blobs/{layer['digest']}", layer["digest"])

    def _bytes(self, path: str, digest: str) -> bytes:
        headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        answer: Any = self._client.do_request(f"http://{self._address}/v2/{self._repository}/{path}", headers=headers)
        if answer.status_code != 200:
            raise DemoError(
                f"the registry answers {answer.status_code} for {self._repository}/{path}; it had just been pushed."
            )
        content: bytes = answer.content
        seen = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if seen != digest:
            raise DemoError(f"the registry sent {seen} for {digest}: the artifact was damaged on the way.")
        return content


@contextmanager
def open_registry(cluster: Cluster, repository: str) -> Iterator[Artifacts]:
    """The repository, with a token for it alone, through a port-forward as from any machine outside the cluster."""
    command = (sys.executable, "-m", "penstock.cli", "registry", "token", "--repository", repository, "--hours", "1")
    token = cluster.call(*command, "--namespace", SYSTEM_NAMESPACE).strip()
    with cluster.forward(SYSTEM_NAMESPACE, "service/registry", 5000) as address:
        yield Artifacts(address, repository, token)
