"""`penstock upgrade-runtime`: adopt the Triton image of the installed release, as an ordinary rollout."""

import asyncio

import click
import yaml

from penstock.api.resource import API_VERSION, KIND
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import NotFound
from penstock.kube.objects import Manifest

from .held import MANAGER, held_fields

__all__ = ["upgrade_runtime"]

_IMAGE_VARIABLE = "PENSTOCK_IMAGE_TRITON"


@click.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--release-namespace", default="penstock-system", show_default=True, help="Where the chart is installed.")
@click.option("--image", help="Another image than the release's.")
@click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Else $KUBECONFIG.")
def upgrade_runtime(
    name: str, namespace: str, release_namespace: str, image: str | None, kubeconfig: str | None
) -> None:
    """Set spec.server.image of ModelDeployment NAME and print the change for Git."""
    change = asyncio.run(_upgrade(name, namespace, release_namespace, image, kubeconfig))
    click.echo(f"# applied as {MANAGER}; write this to Git too, or the next sync takes it back")
    click.echo(yaml.safe_dump(change, sort_keys=False), nl=False)


async def _upgrade(
    name: str, namespace: str, release_namespace: str, image: str | None, kubeconfig: str | None
) -> Manifest:
    connection = await Connection.open(kubeconfig)
    try:
        client = KubeClient(connection, manager=MANAGER)
        live = await client.get(KIND, namespace, name)
        wanted = image or await _release_image(client, release_namespace)
        change: Manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"server": {"image": wanted}},
        }
        held = held_fields(live)
        spec = {**held, "server": {**held.get("server", {}), "image": wanted}}
        await client.apply({**change, "spec": spec}, uid=live["metadata"]["uid"])
    except NotFound as error:
        raise click.ClickException(str(error)) from error
    else:
        return change
    finally:
        await connection.close()


async def _release_image(client: KubeClient, namespace: str) -> str:
    operator = await client.get("Deployment", namespace, "penstock")
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    found = next((item["value"] for item in variables if item["name"] == _IMAGE_VARIABLE), None)
    if not found:
        raise click.ClickException(f"Deployment {namespace}/penstock has no {_IMAGE_VARIABLE}; give --image")
    return str(found)
