"""`penstock registry token`: a token for people and pipelines that push models to the chart's registry."""

import asyncio
import time

import click

from penstock.controller.credentials import Access, RegistryCredentials
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection

__all__ = ["registry"]


@click.group()
def registry() -> None:
    """Tokens of the artifact store."""


@registry.command()
@click.option("--repository", "repositories", multiple=True, required=True, help="models/digits; may be repeated.")
@click.option("--action", "actions", multiple=True, default=("pull", "push"), show_default=True)
@click.option("--hours", default=24.0, show_default=True, help="How long it is good for.")
@click.option("--namespace", default="penstock-system", show_default=True, help="Where the chart is installed.")
@click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Else $KUBECONFIG.")
def token(
    repositories: tuple[str, ...], actions: tuple[str, ...], hours: float, namespace: str, kubeconfig: str | None
) -> None:
    """Print a bearer token for exactly these repositories. Needs the right to read the signing key's Secret."""
    access = [Access(repository, actions) for repository in repositories]
    click.echo(asyncio.run(_issue(access, round(hours * 3600), namespace, kubeconfig)))


async def _issue(access: list[Access], lifetime: int, namespace: str, kubeconfig: str | None) -> str:
    connection = await Connection.open(kubeconfig)
    try:
        credentials = RegistryCredentials(KubeClient(connection), namespace, time.time)
        key = await credentials.load_key()
        return key.token("penstock-cli", access, int(time.time()), lifetime)
    finally:
        await connection.close()
