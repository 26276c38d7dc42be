"""Models in the chart's registry: pushed, signed as cosign does, and taken away again."""

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from examples.demo.cluster import Cluster

from .cluster import SYSTEM, run_program
from .models import Model

HOST = f"registry.{SYSTEM}:5000"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TITLE = "org.opencontainers.image.title"


class SigningKey:
    """A key pair as `cosign generate-key-pair` makes one."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_pem(self) -> str:
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(encoding, form).decode()

    def sign(self, data: bytes) -> str:
        """base64, as `cosign sign-blob` prints it."""
        return base64.b64encode(self._private.sign(data, ec.ECDSA(hashes.SHA256()))).decode()


class Store:
    """One repository of the registry."""

    def __init__(self, cluster: Cluster, repository: str, *actions: str) -> None:
        self._cluster, self._repository = cluster, repository
        self._actions = actions or ("pull", "push")

    def uri(self, tag: str) -> str:
        """What spec.model.uri says."""
        return f"oci://{HOST}/{self._repository}:{tag}"

    def push(self, model: Model, tag: str) -> str:
        """An artifact of one file; returns its uri."""
        self.push_files({"model.onnx": model.data}, tag)
        return self.uri(tag)

    def push_files(self, files: Mapping[str, bytes], tag: str) -> str:
        """An artifact of titled files; returns its digest."""
        layers = [self._layer(data, {_TITLE: name}) for name, data in files.items()]
        return self._push_manifest(layers, tag)

    def sign(self, digest: str, key: SigningKey, named: str | None = None) -> None:
        """A signature where cosign looks for it; `named` is the digest that it vouches for."""
        image = {"docker-manifest-digest": named or digest}
        kind = {"type": "cosign container image signature"}
        critical = {"identity": {"docker-reference": ""}, "image": image, **kind}
        payload = json.dumps({"critical": critical, "optional": None}).encode()
        layer = self._layer(payload, {"dev.cosignproject.cosign/signature": key.sign(payload)})
        self._push_manifest([layer], f"{digest.replace(':', '-')}.sig")

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        try:
            self._call("HEAD", f"blobs/{digest}").close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return False
            raise
        return True

    def delete(self, digest: str) -> None:
        """Lose a blob."""
        self._call("DELETE", f"blobs/{digest}").close()

    def _layer(self, data: bytes, annotations: Mapping[str, str]) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self._call("POST", "blobs/uploads/", b"") as answer:
                place = answer.headers["Location"]
            joint = "&" if "?" in place else "?"
            self._call("PUT", f"{place}{joint}digest={digest}", data, "application/octet-stream").close()
        form = {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}
        return {**form, "annotations": dict(annotations)}

    def _push_manifest(self, layers: list[dict[str, Any]], tag: str) -> str:
        config = {**self._layer(b"{}", {}), "mediaType": "application/vnd.oci.empty.v1+json"}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        with self._call("PUT", f"manifests/{tag}", json.dumps(manifest).encode(), MANIFEST) as answer:
            digest: str = answer.headers["Docker-Content-Digest"]
        return digest

    @cached_property
    def _token(self) -> str:
        actions = [part for action in self._actions for part in ("--action", action)]
        command = ("registry", "token", "--repository", self._repository, *actions, "--hours", "2")
        return run_program(self._cluster, *command).strip()

    def _call(self, method: str, path: str, data: bytes | None = None, kind: str = "") -> Any:
        with self._cluster.reach(SYSTEM, "service/registry", 5000) as address:
            place = path.split("/v2/", 1)[1] if "/v2/" in path else f"{self._repository}/{path}"
            headers = {"Authorization": f"Bearer {self._token}", **({"Content-Type": kind} if kind else {})}
            url = f"http://{address}/v2/{place}"
            request = urllib.request.Request(url, data=data, method=method, headers=headers)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return opener.open(request, timeout=30)
