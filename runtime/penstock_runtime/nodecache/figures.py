"""What the cache has done, as Prometheus reads it; no label names a namespace or a digest."""

import threading
from collections import Counter

from .shelf import Shelf

__all__ = ["Figures"]

OUTCOMES = ("hit", "joined", "miss", "passed", "refused", "failed")
"""hit: was here; joined: was on its way already; miss: was fetched for it; passed: there is no room, so the client asks
the store; refused: there is no right to it; failed: the store gave no answer, bytes were wrong or broke off, or the
client went away."""


class Figures:
    """Counters of one process, and what the shelf knows of itself."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._requests = Counter(dict.fromkeys(OUTCOMES, 0))
        self._downloads = 0
        self._downloaded = 0

    def count(self, outcome: str) -> None:
        """A request has ended."""
        with self._lock:
            self._requests[outcome] += 1

    def count_download(self, size: int) -> None:
        """Content of so many bytes was fetched from the store and kept."""
        with self._lock:
            self._downloads += 1
            self._downloaded += size

    def text(self) -> str:
        """The exposition format."""
        with self._lock:
            requests = dict(self._requests)
            downloads, downloaded = self._downloads, self._downloaded
        lines = ["# HELP penstock_node_cache_requests_total Requests for content, by how they ended."]
        lines.append("# TYPE penstock_node_cache_requests_total counter")
        lines += [f'penstock_node_cache_requests_total{{outcome="{name}"}} {requests[name]}' for name in OUTCOMES]
        shelf = self._shelf
        for name, kind, words, value in (
            ("downloads_total", "counter", "Contents fetched from the artifact store and kept.", downloads),
            ("downloaded_bytes_total", "counter", "Bytes of them.", downloaded),
            ("evictions_total", "counter", "Contents that made room for others.", shelf.evicted),
            ("damaged_total", "counter", "Contents found damaged on the disk.", shelf.damaged),
            ("contents", "gauge", "Contents held.", len(shelf.digests)),
            ("bytes", "gauge", "Bytes held or reserved for downloads.", shelf.used),
            ("limit_bytes", "gauge", "Bytes that may be held.", shelf.limit),
        ):
            full = f"penstock_node_cache_{name}"
            lines += [f"# HELP {full} {words}", f"# TYPE {full} {kind}", f"{full} {value}"]
        return "\n".join(lines) + "\n"
