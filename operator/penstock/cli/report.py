"""`penstock report`: what a preparation measured against what was asked, as text, JSON or one HTML page."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from penstock.api.report import Report
from penstock.core.names import DEPLOYMENT_LABEL
from penstock.kube.connection import Connection
from penstock.kube.errors import ApiError, NotFound
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import Target

from .report_page import page
from .report_store import Store, fetch_report
from .report_text import picture
from .report_words import plain
from .rollout_session import Session, opened, plain_console

__all__ = ["report"]

_DEFAULT_HOST = "registry.penstock-system:5000"


@dataclass(frozen=True)
class _Found:
    """Where a report is, and what it is of."""

    digest: str
    repository: str
    about: str


@click.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--revision", help="Of this revision; else of the preparation under way or last ended.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "html"]), default="text", show_default=True)
@click.option("-f", "--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
@click.option("--store", help="host[:port]/repository of the artifact store; else as the revision records say.")
@click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Else $KUBECONFIG.")
def report(
    name: str,
    namespace: str,
    revision: str | None,
    output: str,
    path: Path | None,
    store: str | None,
    kubeconfig: str | None,
) -> None:
    """Show how the model of NAME was prepared: every number that was measured against what was asked.

    Reads the ModelDeployment, the namespace's pull token and the report in the artifact store; for the chart's own
    store that takes port-forward to its pod. Exit code 0 whether the gates passed or not.
    """
    (found, written), about = asyncio.run(_read(name, namespace, revision, store, kubeconfig))
    if output == "text":
        _print(found, name, about, path)
        return
    text = page(found, name, about) if output == "html" else json.dumps(json.loads(written), indent=2)
    if path is None:
        click.echo(text)
    else:
        path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")


def _print(found: Report, name: str, about: str, path: Path | None) -> None:
    console = plain_console()
    if path is None:
        console.print(picture(found, name, about))
        return
    with console.capture() as capture:
        console.print(picture(found, name, about))
    path.write_text(click.unstyle(capture.get()), encoding="utf-8")


async def _read(
    name: str, namespace: str, revision: str | None, store: str | None, kubeconfig: str | None
) -> tuple[tuple[Report, bytes], str]:
    async with opened(namespace, name, kubeconfig) as session:
        live = await session.look()
        records = await _records(session)
        found = _of_revision(records, revision, name) if revision else _of_preparation(live, records)
        host, _, repository = (store or found.repository or f"{_DEFAULT_HOST}/{namespace}").partition("/")
        connection = await Connection.open(kubeconfig)
        try:
            opened_store = Store(connection, session.transport, host, repository or namespace, namespace)
            return await fetch_report(opened_store, found.digest), found.about
        finally:
            await connection.close()


async def _records(session: Session) -> Mapping[str, Manifest]:
    """The data of the revision records by name; empty for whoever may not list ControllerRevisions."""
    target = Target("list", "ControllerRevision", session.namespace, "")
    query = [("labelSelector", f"{DEPLOYMENT_LABEL}={session.name}")]
    path = kind_of("ControllerRevision").path(session.namespace)
    try:
        answer = await session.quick.request(target, "GET", path, query=query)
    except (ApiError, NotFound):
        return {}
    return {item["metadata"]["name"]: item.get("data") or {} for item in answer.get("items") or ()}


def _of_revision(records: Mapping[str, Manifest], revision: str, name: str) -> _Found:
    if revision not in records:
        known = ", ".join(sorted(records)) or "none that you may list"
        raise click.ClickException(f"{name} has no revision {revision}; there are {known}")
    facts: dict[str, Any] = records[revision].get("facts") or {}
    digest = facts.get("report")
    if not digest:
        raise click.ClickException(f"revision {revision} was prepared without a report")
    model = (records[revision].get("model") or {}).get("uri", "")
    return _Found(digest, _repository(facts), f"revision {revision}, {plain(model)}")


def _of_preparation(live: Manifest, records: Mapping[str, Manifest]) -> _Found:
    told = (live.get("status") or {}).get("preparation") or {}
    digest = told.get("report")
    if not digest:
        why = (
            told.get("message") or (live.get("status") or {}).get("message") or "the operator has not looked at it yet"
        )
        raise click.ClickException(f"the preparation under way or last ended has no report: {plain(why)}")
    repositories = {_repository(data.get("facts") or {}) for data in records.values()}
    about = f"preparation {told['key']}"
    if told.get("revision"):
        about = f"revision {told['revision']}"
    return _Found(
        digest, next(iter(sorted(filter(None, repositories))), ""), f"{about}, {live['spec']['model']['uri']}"
    )


def _repository(facts: Mapping[str, Any]) -> str:
    return str((facts.get("artifact") or {}).get("repository", ""))
