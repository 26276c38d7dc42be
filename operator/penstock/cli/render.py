"""`penstock render`: what the operator would make of a manifest, without a cluster."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from penstock.api.facts import ArtifactRef, ModelFacts, Tensor
from penstock.api.resource import KIND, Metadata, ModelDeployment
from penstock.api.router import FIRST_PORT, RouterSpec
from penstock.api.status import PreparationStatus
from penstock.core.jobimages import served_format
from penstock.core.observed import Observed
from penstock.core.preparing import Preparing, prepare
from penstock.core.rendering import render as render_objects
from penstock.core.rendering import serving_of
from penstock.core.revision import RevisionRecord, preparation_key, record_manifest
from penstock.core.router import default_router
from penstock.core.routing import DEFAULT_ROUTER, look_at_traffic, whole_route
from penstock.core.settings import Settings
from penstock.core.standing import Standing
from penstock.core.target import find_target

from .validate import read_documents

__all__ = ["render"]

_UNKNOWN = "sha256:" + "0" * 64
_LOCAL = "penstock/{}:local"


@click.command()
@click.option("-f", "--filename", type=click.File(), required=True, help="The manifest; - for standard input.")
@click.option("--facts", type=click.File(), help="ModelFacts as JSON; else spec.model.inputs and outputs are used.")
@click.option("--registry", default=Settings.registry, show_default=True, help="The artifact store.")
@click.option("--triton-image", default="penstock/triton:local", show_default=True)
@click.option("--jobs-image", default="penstock/jobs:local", show_default=True)
@click.option("--router-image", default="penstock/router:local", show_default=True)
@click.option("--preparation", is_flag=True, help="Print the preparation Job instead, as it looks first.")
@click.option("--repository-to", type=click.Path(file_okay=False, path_type=Path), help="Write config.pbtxt there too")
def render(
    filename: Any,
    facts: Any,
    registry: str,
    triton_image: str,
    jobs_image: str,
    router_image: str,
    preparation: bool,  # noqa: FBT001 - a flag of the command line
    repository_to: Path | None,
) -> None:
    """Print the model repository and the objects of a ModelDeployment, as they stand when it serves."""
    deployment = _read(filename)
    settings = Settings(
        jobs_image=jobs_image,
        triton_image=triton_image,
        registry=registry,
        router_image=router_image,
        convert_image=_LOCAL.format("convert"),
        tensorflow_image=_LOCAL.format("tensorflow"),
        server_images={"pytorch": _LOCAL.format("triton-torch"), "openvino": _LOCAL.format("triton-openvino")},
    )
    if preparation:
        _show_preparation(deployment, settings)
        return
    known = _facts(deployment, facts, registry)
    observed = Observed(deployment, settings, router=_router(deployment))
    key = preparation_key(deployment.spec, deployment.metadata.namespace)
    target = find_target(observed, Preparing(PreparationStatus(key=key), known))
    if target.record is None:
        raise click.ClickException(target.message)
    serving = serving_of(target.record, deployment)
    if serving.config_text:
        _show_repository(f"{serving.entry_model}/config.pbtxt", serving.config_text, repository_to)
    click.echo(_about_router(observed), nl=False)
    click.echo(yaml.dump_all(_objects(observed, target.record), Dumper=_Dumper, sort_keys=False, width=120), nl=False)


def _show_preparation(deployment: ModelDeployment, settings: Settings) -> None:
    """What is written first for a new deployment."""
    prepared = prepare(Observed(deployment, settings), datetime.now(UTC))
    if prepared.failed:
        raise click.ClickException(prepared.message)
    click.echo(yaml.dump_all(prepared.create, Dumper=_Dumper, sort_keys=False, width=120), nl=False)


def _objects(observed: Observed, record: RevisionRecord) -> list[dict[str, Any]]:
    """The record, what the revision consists of, and the way to it with all of the requests."""
    standing = Standing(
        stable=record,
        stable_since=None,
        candidate=None,
        candidate_since=None,
        candidate_replicas=0,
        stable_replicas=observed.deployment.spec.replicas,
        released=(),
        draining=(),
        failure=None,
        failed=None,
        history=(),
        wake=None,
        serving=record.name,
        traffic=look_at_traffic(observed),
        route=whole_route(record.name),
    )
    rendering = render_objects(observed, standing, datetime.now(UTC))
    split = [rendering.split.manifest] if rendering.split else []
    return [record_manifest(observed.deployment.metadata, record), *rendering.manifests, *split]


def _router(deployment: ModelDeployment) -> dict[str, Any]:
    """A stand-in for the Router that the spec names: without one there would be no route to it."""
    asked = deployment.spec.traffic.router if deployment.spec.traffic else None
    return default_router(deployment.metadata.namespace, asked.name if asked else DEFAULT_ROUTER)


def _about_router(observed: Observed) -> str:
    """Which fleet the requests come through; its own objects belong to its Router and not to this deployment."""
    name = look_at_traffic(observed).wanted
    if name is None:
        return ""
    if name != DEFAULT_ROUTER:
        return f"# Requests come through Router {name}, which has to exist in this namespace.\n"
    pods = f"{RouterSpec().replicas} pods of {observed.settings.router_image}"
    return (
        f"# Requests come through Router {name}: {pods}, one fleet for\n"
        "# all ModelDeployments of the namespace, made with the first of them. A Router of that name shapes it.\n"
        f"# The model's port there is the first that is free from {FIRST_PORT} on.\n"
    )


def _show_repository(path: str, text: str, place: Path | None) -> None:
    click.echo(f"# models/{path}\n" + "".join(f"#   {line}\n" for line in text.splitlines()))
    if place:
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


class _Dumper(yaml.SafeDumper):
    """Files inside objects as blocks that people can read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _read(stream: Any) -> ModelDeployment:
    """The one ModelDeployment of a file; what else it holds, such as its namespace, is passed over."""
    documents = [
        dict(item) for item in read_documents(stream) if isinstance(item, Mapping) and item.get("kind") == KIND
    ]
    if len(documents) != 1:
        raise click.ClickException(f"{stream.name} holds {len(documents)} ModelDeployments, one is expected")
    try:
        found = ModelDeployment.parse(documents[0])
    except ValidationError as error:
        raise click.ClickException(f"{stream.name} is not a ModelDeployment: {error}") from error
    metadata = found.metadata.model_copy(update={"uid": found.metadata.uid or "00000000-0000-0000-0000-000000000000"})
    return found.model_copy(update={"metadata": Metadata.model_validate(metadata.model_dump())})


def _facts(deployment: ModelDeployment, stream: Any, registry: str) -> ModelFacts:
    if stream:
        try:
            return ModelFacts.model_validate(json.load(stream))
        except ValueError as error:
            raise click.ClickException(f"{stream.name} holds no ModelFacts: {error}") from error
    model = deployment.spec.model
    if not (model.inputs and model.outputs):
        raise click.ClickException(
            "inputs and outputs of the model are not known offline; write spec.model.inputs and outputs, give --facts,"
            " or look at --preparation, which needs neither"
        )
    artifact = ArtifactRef(
        repository=f"{registry}/{deployment.metadata.namespace}", manifest=_UNKNOWN, layer=_UNKNOWN, size_bytes=0
    )
    return ModelFacts(
        format=served_format(model.format or "Auto", model.convert),
        digest=model.digest or _UNKNOWN,
        artifact=artifact,
        inputs=tuple(Tensor.model_validate(tensor.model_dump()) for tensor in model.inputs),
        outputs=tuple(Tensor.model_validate(tensor.model_dump()) for tensor in model.outputs),
    )
