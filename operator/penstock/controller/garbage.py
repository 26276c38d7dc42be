"""Takes from the artifact store what no revision record names any more: content, and the reports about it.

An artifact is removed only after it was seen unnamed at every look for an hour: one that a preparation has just
published is not named yet, and a restart of the operator begins the hour anew. A preparation may find an artifact that
is older than that and use it again, so nothing goes from a namespace while one is under way, nor what the Job of one
that has ended still tells of. Repositories below `models/` belong to people and are never touched, and a registry that
is not the chart's own is not looked at. The registry frees the disk when it starts the next time.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp

from penstock.api.reasons import Reason
from penstock.api.resource import KIND
from penstock.core.names import COMPONENT_LABEL
from penstock.core.pipeline import RESOLVE, is_held_back, preparation_outcome
from penstock.core.pods import is_owned
from penstock.kube.cache import Cache

from .credentials import Access, RegistryCredentials

__all__ = ["PERIOD_SECONDS", "ArtifactCollector", "named_artifacts", "reported_artifacts"]

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


def reported_artifacts(jobs: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> frozenset[str] | None:
    """Digests of the manifests that ended preparations tell of; None while one is under way that may name any.

    One whose pod no node can take, or that a queue keeps from having a pod, has found nothing yet, and may stay so for
    long.
    """
    found: set[str | None] = set()
    known = list(pods)
    for job in jobs:
        if job["metadata"].get("labels", {}).get(COMPONENT_LABEL) == RESOLVE:
            continue
        own = tuple(pod for pod in known if is_owned(pod, job["metadata"]["uid"]))
        outcome = preparation_outcome(job, own)
        if outcome.reason is Reason.UNSCHEDULABLE or is_held_back(job, own):
            continue
        if not (outcome.facts or outcome.failed or outcome.needs):
            return None
        found |= {outcome.facts.artifact.manifest if outcome.facts else None, outcome.report}
    return frozenset(digest for digest in found if digest)


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
        """`namespaces` are those watched, empty for all: of any other nothing is known, so nothing is unnamed.

        `clock` in seconds, monotonic: the hour must not pass at once because somebody has set the time.
        """
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
        found = set(await self._digests(session, repository, headers))
        removed, now = 0, self._clock()
        for place in [place for place in self._unnamed if place[0] == repository and place[1] not in found]:
            del self._unnamed[place]
        kept, _ = self._kept(repository)
        for digest in sorted(found):
            place = (repository, digest)
            if digest in kept:
                self._unnamed.pop(place, None)
            elif now - self._unnamed.setdefault(place, now) >= _GRACE_SECONDS and self._is_free(repository, digest):
                async with session.delete(f"{self._url}/v2/{repository}/manifests/{digest}", headers=headers):
                    log.info("removed artifact %s of namespace %s: no revision names it", digest, repository)
                self._unnamed.pop(place)
                removed += 1
        return removed

    def _is_free(self, namespace: str, digest: str) -> bool:
        """Asked right before it goes: a preparation or a record may have come while others were removed."""
        kept, under_way = self._kept(namespace)
        return not under_way and digest not in kept

    def _kept(self, namespace: str) -> tuple[frozenset[str], bool]:
        """What is named, and whether a preparation is under way that may name anything."""
        records = self._cache.of_kind("ControllerRevision", namespace)
        named = named_artifacts(records, self._cache.of_kind(KIND, namespace))
        told = reported_artifacts(self._cache.of_kind("Job", namespace), self._cache.of_kind("Pod", namespace))
        return named | (told or frozenset()), told is None

    async def _repositories(self, session: aiohttp.ClientSession) -> list[str]:
        headers, found = await self._headers(Access("catalog", ("*",), "registry")), list[str]()
        while True:
            query = {"n": str(_PAGE), **({"last": found[-1]} if found else {})}
            async with session.get(f"{self._url}/v2/_catalog", params=query, headers=headers) as answer:
                page = (await answer.json())["repositories"] or ()
            found += page
            if len(page) < _PAGE:
                return found

    async def _digests(self, session: aiohttp.ClientSession, repository: str, headers: Mapping[str, str]) -> list[str]:
        """What the tags lead to; one that a damaged disk has left leading nowhere stands in nobody's way."""
        async with session.get(f"{self._url}/v2/{repository}/tags/list", headers=headers) as answer:
            tags = (await answer.json())["tags"] or ()
        found = []
        for tag in tags:
            place = f"{self._url}/v2/{repository}/manifests/{tag}"
            async with session.head(
                place, headers={**headers, "Accept": _MANIFEST}, raise_for_status=_refuse_unless_missing
            ) as answer:
                if answer.ok:
                    found.append(answer.headers["Docker-Content-Digest"])
        return found

    async def _headers(self, access: Access) -> dict[str, str]:
        key = await self._credentials.load_key()
        return {"Authorization": f"Bearer {key.token('penstock', [access], int(time.time()), _TOKEN_SECONDS)}"}


async def _refuse_unless_missing(answer: aiohttp.ClientResponse) -> None:
    if answer.status != HTTPStatus.NOT_FOUND:
        answer.raise_for_status()
