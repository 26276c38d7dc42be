"""`python -m penstock_runtime.nodecache`: the one program of the chart's DaemonSet."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.api.units import quantity_value
from penstock_runtime.web import Web

from .cache import NodeCache
from .figures import Figures
from .server import blob_server, told_server
from .shelf import Shelf, disk_room

__all__ = ["Settings", "main"]

log = logging.getLogger("penstock.nodecache")

_SHARE = 0.95
"""Of the volume's size that content may fill; past the whole of it a kubelet evicts the pod."""
_LAST_SECONDS = 20
_STORE_SECONDS = 9
"""How long the store may be silent; asked twice that is less than clients wait, so that they hear of it."""


@dataclass(frozen=True)
class Settings:
    """From the environment, where the chart writes them."""

    stores: tuple[str, ...]
    """host[:port]s of the artifact stores that may be asked."""
    plain_http: tuple[str, ...]
    folder: Path
    limit: int
    keep_free: float
    """Share of the disk that nothing is kept on."""
    port: int
    told_port: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises KeyError naming a variable that is missing, ValueError."""
        stores = _words(environment["PENSTOCK_STORES"])
        return cls(
            stores=stores,
            plain_http=tuple(host for host in _words(environment.get("PENSTOCK_PLAIN_HTTP", "")) if host in stores),
            folder=Path(environment.get("PENSTOCK_CACHE_FOLDER", "/cache")),
            limit=int(quantity_value(environment["PENSTOCK_CACHE_SIZE"]) * _SHARE),
            keep_free=float(environment.get("PENSTOCK_KEEP_FREE_PERCENT", "0")) / 100,
            port=int(environment.get("PENSTOCK_PORT", "5001")),
            told_port=int(environment.get("PENSTOCK_METRICS_PORT", "8080")),
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def main() -> int:
    """Run until a signal; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    run(Settings.read(os.environ), ending)
    return 0


def run(settings: Settings, ending: threading.Event, listening: Callable[[int, int], None] = lambda *_: None) -> None:
    """Serve until `ending` is set, then let what is being sent come to its end, for a while.

    `listening` is told both ports, as a test has them chosen.
    """

    def room(folder: Path) -> int:
        return disk_room(folder, settings.keep_free)

    shelf = Shelf(settings.folder, settings.limit, time.monotonic, room)
    figures = Figures(shelf)
    web = Web(settings.plain_http, timeout=_STORE_SECONDS, pauses=())
    cache = NodeCache(shelf, figures, settings.stores, web, time.monotonic)
    blobs = blob_server(("", settings.port), cache, figures)
    told = told_server(("", settings.told_port), figures)
    threads = [threading.Thread(target=server.serve_forever, args=(0.1,)) for server in (blobs, told)]
    for thread in threads:
        thread.start()
    log.info("%d contents, %d of %d bytes, for %s", len(shelf.digests), shelf.used, shelf.limit, settings.stores)
    listening(blobs.server_port, told.server_port)
    ending.wait()
    blobs.shutdown()
    blobs.server_close()
    if blobs.finish_requests(_LAST_SECONDS):
        cache.finish_downloads(1)
    told.shutdown()
    told.server_close()
    for thread in threads:
        thread.join()
    shelf.close()


if __name__ == "__main__":
    sys.exit(main())
