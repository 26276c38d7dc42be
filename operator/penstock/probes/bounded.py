"""One short GET at a pod: bounded in time and in size, never led elsewhere, never packed."""

import aiohttp
from yarl import URL

__all__ = ["BoundedClient"]


class BoundedClient:
    """Keeps its connections to the pods; `close` it."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds, self._most_bytes = seconds, most_bytes
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: URL) -> bytes:
        """The body; raises TimeoutError, OSError, aiohttp.ClientError, and ValueError for what is not to be had."""
        async with self._opened().get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"{url.path} answered {answer.status}, 200 is expected")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > self._most_bytes:
                    raise ValueError(f"{url.path} answered more than {self._most_bytes} bytes")
            return bytes(body)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=4, keepalive_timeout=15),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=self._seconds),
                auto_decompress=False,
            )
        return self._session
