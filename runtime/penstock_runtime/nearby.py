"""The cache of the pod's own node, asked before the artifact store; nothing depends on it.

Bounded so that a node without a cache costs two seconds at most: name and connection together, then each silence.
"""

import http.client
import queue
import socket
import threading
from urllib.parse import urlencode

from .registry import Reference, Refused
from .web import Answer

__all__ = ["nearby_blob"]

_CONNECT_SECONDS = 2.0
"""For everything until there is a connection."""
_TRY_SECONDS, _PAUSE_SECONDS = 0.3, 0.1
_SILENT_SECONDS = 20


def nearby_blob(cache: str, reference: Reference, digest: str, token: str) -> Answer:
    """A blob of `reference` from the cache at host:port; raises OSError, http.client.HTTPException and Refused.

    The cache shows the token to the artifact store, which decides; proxies of the environment are not for the node.
    """
    host, _, port = cache.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.sock = _connect(host, int(port))
    connection.sock.settimeout(_SILENT_SECONDS)
    path = f"/v2/{reference.repository}/blobs/{digest}?{urlencode({'ns': reference.host})}"
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "User-Agent": "penstock"})
        response = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    answer = Answer(response.status, dict(response.headers), f"http://{cache}{path}", response)
    if response.status != http.client.OK:
        with answer:
            raise Refused(response.status, cache, answer.text(1 << 16).decode(errors="replace").strip())
    return answer


def _connect(host: str, port: int) -> socket.socket:
    """Tried again for as long as there is time: what enforces NetworkPolicies may not know this pod yet.

    A name that does not exist ends it at once. Resolving one has no limit of its own, so another thread does all this
    and is left alone when it takes too long.
    """
    found: queue.SimpleQueue[socket.socket | OSError] = queue.SimpleQueue()
    given_up = threading.Event()

    def attempt() -> None:
        while not given_up.is_set():
            try:
                made = socket.create_connection((host, port), _TRY_SECONDS)
            except socket.gaierror as error:
                found.put(error)
                return
            except OSError:
                given_up.wait(_PAUSE_SECONDS)
                continue
            if given_up.is_set():
                made.close()
            else:
                found.put(made)
            return

    threading.Thread(target=attempt, daemon=True).start()
    try:
        result = found.get(timeout=_CONNECT_SECONDS)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no connection within {_CONNECT_SECONDS} s") from None
    if isinstance(result, OSError):
        raise result
    return result
