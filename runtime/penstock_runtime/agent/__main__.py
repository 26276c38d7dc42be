"""The agent's process: `python3 -m penstock_runtime.agent`."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator

from .book import Book, SliceSink, SplitSink
from .clocks import Clocks
from .conductor import Conductor
from .drain import Drain, is_allowed
from .endpoints import REVISION_LABEL
from .envoy import Envoy
from .files import replace_file
from .keeper import HEARTBEAT
from .observe import answer, read_since
from .render.bootstrap import bootstrap
from .ring import Rings
from .sampler import Admin, Counters, Sampler
from .server import Answer, Handler, serve
from .settings import Settings
from .units import Units
from .watch import Api, follow

_SPLITS = "/apis/penstock.dev/v1alpha1/namespaces/{}/trafficsplits"
_SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
log = logging.getLogger("penstock.agent")


async def run(settings: Settings, clocks: Clocks) -> None:
    """Until SIGTERM. Envoy's bootstrap comes last of its first files, since Envoy starts when it is there.

    The end does not wait for connections that others keep: since Python 3.12 the server's own `async with` would.
    """
    envoy = Envoy(settings.ports)
    book = Book(settings.router, settings.state / "splits", clocks)
    conductor = Conductor(settings, book, envoy, clocks)
    conductor.restore()
    replace_file(settings.run / "bootstrap.json", json.dumps(bootstrap(settings), indent=1))
    book.restore()
    rings = Rings()
    drain = Drain(envoy, settings.drain, clocks)
    api = Api(settings.api, settings.credentials)
    server = await serve(settings.anywhere, settings.ports.agent, _handlers(settings, conductor, rings, drain, clocks))
    splits, slices = (path.format(settings.namespace) for path in (_SPLITS, _SLICES))
    sampler = Sampler(conductor, rings, Counters(Admin(settings.ports.admin)), Units(settings.units_log))
    with contextlib.closing(server), _ended_by_signal() as ended:
        tasks = [
            asyncio.create_task(follow(api, splits, {}, SplitSink(book))),
            asyncio.create_task(follow(api, slices, {"labelSelector": REVISION_LABEL}, SliceSink(book))),
            asyncio.create_task(conductor.run()),
            asyncio.create_task(sampler.run()),
            asyncio.create_task(_beat()),
        ]
        await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        task.result()


def _handlers(
    settings: Settings, conductor: Conductor, rings: Rings, drain: Drain, clocks: Clocks
) -> dict[str, Handler]:
    async def ready(_peer: str, _query: dict[str, str]) -> Answer:
        return Answer.text(200, "ready") if conductor.ready else Answer.text(503, "not ready")

    async def observe(_peer: str, query: dict[str, str]) -> Answer:
        uids = [uid for uid in query.get("uid", "").split(",") if uid]
        since = read_since(query["since"]) if "since" in query else None
        warm = await conductor.warm(uids)
        body = answer(conductor, rings, uids, since, clocks.wall(), lambda uid: warm.get(uid, {}))
        return Answer(200, body, "application/json")

    async def start_drain(peer: str, _query: dict[str, str]) -> Answer:
        if not is_allowed(peer, settings.node):
            return Answer.text(403, f"only the pod itself and its node may ask for this, not {peer}")
        await drain.wait()
        return Answer.text(200, "drained")

    return {"/ready": ready, "/v1/observe": observe, "/drain": start_drain}


@contextlib.contextmanager
def _ended_by_signal() -> Iterator["asyncio.Future[None]"]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _settle, ended)
    yield ended


def _settle(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


async def _beat() -> None:
    """Tell the keeper that the loop turns; a process that hangs is replaced by it."""
    descriptor = os.environ.get(HEARTBEAT)
    while True:
        if descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(int(descriptor), b".")
        await asyncio.sleep(1.0)


def main() -> int:
    """Exit code 1 with a sentence when the environment lacks something."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.read()
    except (KeyError, ValueError) as error:
        log.error("environment: %s", error)  # noqa: TRY400 - a sentence for a person
        return 1
    asyncio.run(run(settings, Clocks()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
