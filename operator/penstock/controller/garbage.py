"""Takes from the artifact store what no revision record names any more: content, and the reports about it.

An artifact is removed only after it was seen unnamed at every look for an hour: one that a preparation has just
published is not named yet, and a restart of the operator begins the hour anew. Repositories below `models/` belong to
people and are never touched, and a registry that is not the chart's own is not looked at. The registry frees the disk
when it starts the next time.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp

from penstock.api.resource import KIND
from penstock.kube.cache import Cache

from .credentials import Access, RegistryCredentials

__all__ = ["PERIOD_SECONDS", "ArtifactCollector", "named_artifacts"]

log = logging.getLogger(__name__)
PERIOD_SECONDS = 1800.0
_GRACE_SECONDS = 3600.0
_NAMESPACE = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TOKEN_SECONDS = 600
_PAGE = 1000


def named_artifacts(
    records: Iterable[Mapping[str, Any]], deployments: Iterable[Mapping[str, Any]] = ()
) -> frozenset[str]:
    """Digests of the manifests that revision records (ControllerRevisions) and the status of ModelDeployments name."""
    found: set[str] = set()
    for record in records:
        facts = (record.get("data") or {}).get("facts", {})
        if "artifact" in facts:
            found |= {str(facts["artifact"]["manifest"]), str(facts.get("report", ""))}
    for deployment in deployments:
        found.add(str(((deployment.get("status") or {}).get("preparation") or {}).get("report", "")))
    return frozenset(found - {""})


class ArtifactCollector:
    """`collect()` once in a while; what it remembers between looks is when an artifact was first seen unnamed."""

    def __init__(
        self,
        cache: Cache,
        credentials: RegistryCredentials,
        url: str,
        clock: Callable[[], float],
        namespaces: tuple[str, ...] = (),
    ) -> None:
        """`namespaces` are those watched, empty for all: of any other nothing is known, so nothing is unnamed."""
        self._cache, self._credentials, self._url, self._clock = cache, credentials, url, clock
        self._namespaces = namespaces
        self._unnamed: dict[tuple[str, str], float] = {}

    async def collect(self) -> int:
        """One look over all namespaces' repositories; the number of artifacts removed. Raises aiohttp.ClientError."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
            repositories = [name for name in await self._repositories(session) if self._is_ours(name)]
            removed = 0
            for repository in repositories:
                removed += await self._collect(session, repository)
        return removed

    def _is_ours(self, repository: str) -> bool:
        watched = not self._namespaces or repository in self._namespaces
        return watched and _NAMESPACE.match(repository) is not None

    async def _collect(self, session: aiohttp.ClientSession, repository: str) -> int:
        headers = await self._headers(Access(repository, ("pull", "delete")))
        kept = named_artifacts(
            self._cache.of_kind("ControllerRevision", repository), self._cache.of_kind(KIND, repository)
        )
        removed, now = 0, self._clock()
        for digest in await self._digests(session, repository, headers):
            place = (repository, digest)
            if digest in kept:
                self._unnamed.pop(place, None)
            elif now - self._unnamed.setdefault(place, now) >= _GRACE_SECONDS:
                async with session.delete(f"{self._url}/v2/{repository}/manifests/{digest}", headers=headers):
                    log.info("removed artifact %s of namespace %s: no revision names it", digest, repository)
                self._unnamed.pop(place)
                removed += 1
        return removed

    async def _repositories(self, session: aiohttp.ClientSession) -> list[str]:
        headers = await self._headers(Access("catalog", ("*",), "registry"))
        async with session.get(f"{self._url}/v2/_catalog", params={"n": str(_PAGE)}, headers=headers) as answer:
            return list((await answer.json())["repositories"] or ())

    async def _digests(self, session: aiohttp.ClientSession, repository: str, headers: Mapping[str, str]) -> list[str]:
        async with session.get(f"{self._url}/v2/{repository}/tags/list", headers=headers) as answer:
            tags = (await answer.json())["tags"] or ()
        found = []
        for tag in tags:
            place = f"{self._url}/v2/{repository}/manifests/{tag}"
            async with session.head(place, headers={**headers, "Accept": _MANIFEST}) as answer:
                found.append(answer.headers["Docker-Content-Digest"])
        return found

    async def _headers(self, access: Access) -> dict[str, str]:
        key = await self._credentials.load_key()
        return {"Authorization": f"Bearer {key.token('penstock', [access], int(self._clock()), _TOKEN_SECONDS)}"}
