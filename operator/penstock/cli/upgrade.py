"""`penstock upgrade-runtime`: adopt the Triton image of the installed release, as an ordinary rollout.

Which one that is follows from what the model was found to be, so it is chosen by the function that chooses it for every
new revision, from the operator's own settings. An image that somebody else has written into the spec is his business.
"""

import asyncio

import click
import yaml

from penstock.api.facts import ModelFacts
from penstock.api.resource import API_VERSION, KIND
from penstock.controller.settings import read_settings
from penstock.core.revision import RevisionRecord
from penstock.core.serverimages import missing_image, server_image
from penstock.core.settings import Settings
from penstock.kube.client import KubeClient
from penstock.kube.connection import Connection
from penstock.kube.errors import NotFound
from penstock.kube.objects import Manifest

from .held import MANAGER, held_fields, holders

__all__ = ["upgrade_runtime"]


@click.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--release-namespace", default="penstock-system", show_default=True, help="Where the chart is installed.")
@click.option("--image", help="Another image than the release's, over any.")
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
        wanted = image or await _release_image(client, live, release_namespace)
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


async def _release_image(client: KubeClient, live: Manifest, release_namespace: str) -> str:
    """What the operator would take for a new revision of this model; raises ClickException where that is unknown.

    An image that this command wrote before is replaced, also where it has gone to Git since; no other is.
    """
    settings = await _settings(client, release_namespace)
    facts = await _facts(client, live)
    wanted = server_image(None, facts, settings)
    written = (live["spec"].get("server") or {}).get("image")
    ours = "image" in held_fields(live).get("server", {})
    if written and written != wanted and not ours:
        writers = ", ".join(manager for manager, _ in holders(live, "server", "image"))
        raise click.ClickException(
            f"spec.server.image is {written}, set by {writers or 'somebody else'}: an image of your"
            " own, which no release replaces; name the one you want with --image, or remove it there and run this again"
        )
    missing = missing_image(None, facts, settings)
    if missing:
        raise click.ClickException(f"{missing.path}: {missing.message} with --image")
    return wanted


async def _settings(client: KubeClient, namespace: str) -> Settings:
    """The operator's own, from the environment that the chart gives it."""
    operator = await client.get("Deployment", namespace, "penstock")
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    given = {item["name"]: item["value"] for item in variables if "value" in item}
    try:
        return read_settings({"PENSTOCK_POD_UID": "", **given}).decisions
    except KeyError as error:
        raise click.ClickException(f"Deployment {namespace}/penstock has no {error.args[0]}; give --image") from error


async def _facts(client: KubeClient, live: Manifest) -> ModelFacts:
    """What the model of the present spec was found to be."""
    status = live.get("status") or {}
    prepared: Manifest = next((item for item in status.get("conditions") or () if item["type"] == "Prepared"), {})
    if prepared.get("status") == "False":
        raise click.ClickException(
            f"the model of this spec is not prepared ({prepared['message']}), and its revision will take this release's"
            " image by itself unless spec.server.image names one; give --image to write one now"
        )
    refused = (status.get("preparation") or {}).get("message")
    if refused:
        sentence = f"the model of this spec cannot be served ({refused})"
        raise click.ClickException(f"{sentence}; give --image to write one now")
    known = (status.get("preparation") or {}).get("revision") or (status.get("stable") or {}).get("revision")
    if not known:
        raise click.ClickException("status names no revision, so what the model needs is not known; give --image")
    record = await client.get("ControllerRevision", live["metadata"]["namespace"], known)
    try:
        return RevisionRecord.from_manifest(record).facts
    except (KeyError, ValueError) as error:
        raise click.ClickException(f"record {known} cannot be read, give --image: {error}") from error
