"""Whether a component answers that it is well."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hack.cluster.errors import ClusterError

_TIMEOUT = 2.0


def answers(url: str, credentials: tuple[Path, Path] | None = None) -> bool:
    """Say whether a GET of ``url`` succeeds.

    The server's certificate is not checked: the address is this machine's, and the question is
    only whether the program lives.
    """
    return _get(url, credentials) is not None


def get_json(url: str, credentials: tuple[Path, Path] | None = None) -> dict[str, Any]:
    """Return the object at ``url``; an empty one where nothing answers."""
    body = _get(url, credentials)
    return json.loads(body) if body else {}


def _get(url: str, credentials: tuple[Path, Path] | None) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if credentials and credentials[0].exists():
        context.load_cert_chain(*credentials)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=_TIMEOUT) as response:
            return bytes(response.read())
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return None


def resolves(name: str, server: str, port: int) -> bool:
    """Ask the DNS server for the IPv4 address of ``name``; say whether it has one."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.sendto(query, (server, port))
            reply = client.recv(512)
        except OSError:
            return False
    flags, _, answer_count = struct.unpack(">3H", reply[2:8])
    return bool(flags & 0xF == 0 and answer_count > 0)


def wait(ready: Callable[[], bool], patience: float, otherwise: str) -> None:
    """Return when ``ready``; raise `ClusterError` with ``otherwise`` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(otherwise)
        time.sleep(0.1)
