"""Certificates of the cluster: one authority, one key pair per identity.

Made with the ``openssl`` command, because the tool itself must run before the project's
dependencies are anywhere but in a virtual environment.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import shell

_DAYS = "365"
_EXTENSIONS = "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth,serverAuth\n"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, by path."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority in ``folder``; every method makes its files once and keeps them."""

    folder: Path
    name: str = "ca"

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / f"{self.name}.crt"

    def create(self) -> Authority:
        """Make the authority's key and self-signed certificate."""
        if not self.certificate.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = self.folder / f"{self.name}.key"
            _new_key(key)
            _openssl(
                *("req", "-x509", "-new", "-key", key, "-out", self.certificate),
                *("-days", _DAYS, "-subj", f"/CN=penstock-{self.name}"),
            )
        return self

    def issue(self, file: str, user: str, groups: Sequence[str] = (), names: Sequence[str] = ()) -> KeyPair:
        """Issue ``file.crt``: Kubernetes reads CN as the user and every O as a group.

        ``names`` are subject alternative names such as ``DNS:localhost`` or ``IP:127.0.0.1``.
        """
        pair = KeyPair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if pair.certificate.exists():
            return pair
        _new_key(pair.key)
        request = self.folder / f"{file}.csr"
        extensions = self.folder / f"{file}.ext"
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        alternative = f"subjectAltName={','.join(names)}\n" if names else ""
        extensions.write_text(_EXTENSIONS + alternative)
        _openssl("req", "-new", "-key", pair.key, "-out", request, "-subj", subject)
        _openssl(
            *("x509", "-req", "-in", request, "-out", pair.certificate, "-days", _DAYS),
            *("-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key", "-CAcreateserial"),
            *("-extfile", extensions),
        )
        request.unlink()
        extensions.unlink()
        return pair


def service_account_keys(folder: Path) -> KeyPair:
    """Make the pair that signs and checks service-account tokens; the public key is first."""
    pair = KeyPair(folder / "service-account.pub", folder / "service-account.key")
    if not pair.certificate.exists():
        _new_key(pair.key)
        _openssl("pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
    return pair


def kubeconfig(path: Path, server: str, authority: Authority, user: KeyPair) -> Path:
    """Write a kubeconfig that carries its certificates, so that it can be copied anywhere.

    JSON is YAML too, and needs no library to write.
    """
    name = "penstock"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": _encoded(authority.certificate),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _encoded(user.certificate),
                    "client-key-data": _encoded(user.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _new_key(path: Path) -> None:
    """Make an elliptic-curve key: as good as RSA here and made in milliseconds."""
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    path.chmod(0o600)


def _openssl(*arguments: str | Path) -> None:
    shell.run("openssl", *arguments)
