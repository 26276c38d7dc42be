"""Asks the agents in the router pods: one short GET, bounded in time and size, and never a second guess.

What does not answer, answers late, too much, elsewhere or nonsense has not answered.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import aiohttp
from yarl import URL

from .answers import PodAnswer, parse_answer
from .bounded import BoundedClient

__all__ = ["AGENT_PORT", "RouterReader"]

log = logging.getLogger(__name__)
AGENT_PORT = 10091
_SECONDS = 1.0
_MOST_BYTES = 8 << 20


class RouterReader:
    """Keeps its connections to the pods; `close` it. `observer` is told of each request: ok or its failure, seconds."""

    def __init__(
        self,
        port: int = AGENT_PORT,
        *,
        seconds: float = _SECONDS,
        most_bytes: int = _MOST_BYTES,
        observer: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self._port, self._observer = port, observer
        self._client = BoundedClient(seconds, most_bytes)

    async def observe(self, address: str, uids: Sequence[str], since: int | None) -> PodAnswer | None:
        """What the pod at this address says of these models; with `since` the counters of all later seconds as well.

        None when it did not answer.
        """
        query = {"uid": ",".join(uids)} | ({} if since is None else {"since": str(since)})
        url = URL.build(scheme="http", host=address, port=self._port, path="/v1/observe", query=query)
        started, outcome = asyncio.get_running_loop().time(), "ok"
        try:
            return parse_answer(await self._client.get(url))
        except TimeoutError:
            outcome = "timeout"
        except (aiohttp.ClientError, OSError) as error:
            outcome = "unreachable"
            log.debug("router pod %s: %s", address, error)
        except ValueError as error:
            outcome = "refused"
            log.warning("router pod %s: %s", address, error)
        finally:
            self._observer(outcome, asyncio.get_running_loop().time() - started)
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
