"""`penstock render`: what the operator would make of a manifest, without a cluster."""

import json
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from penstock.api.facts import ArtifactRef, ModelFacts, Tensor
from penstock.api.resource import Metadata, ModelDeployment
from penstock.api.status import PreparationStatus
from penstock.core.names import key_of
from penstock.core.observed import Observed
from penstock.core.preparing import Preparing
from penstock.core.rendering import render as render_objects
from penstock.core.rendering import serving_of
from penstock.core.revision import preparation_key, record_manifest
from penstock.core.settings import Settings
from penstock.core.standing import Standing
from penstock.core.target import find_target

__all__ = ["render"]

_UNKNOWN = "sha256:" + "0" * 64


@click.command()
@click.option("-f", "--filename", type=click.File(), required=True, help="The manifest; - for standard input.")
@click.option("--facts", type=click.File(), help="ModelFacts as JSON; else spec.model.inputs and outputs are used.")
@click.option("--registry", default=Settings.registry, show_default=True, help="The artifact store.")
@click.option("--triton-image", default="penstock/triton:local", show_default=True)
@click.option("--jobs-image", default="penstock/jobs:local", show_default=True)
@click.option("--repository-to", type=click.Path(file_okay=False, path_type=Path), help="Write config.pbtxt there too")
def render(
    filename: Any, facts: Any, registry: str, triton_image: str, jobs_image: str, repository_to: Path | None
) -> None:
    """Print the model repository and the objects of a ModelDeployment."""
    deployment = _read(filename)
    known = _facts(deployment, facts, registry)
    settings = Settings(jobs_image=jobs_image, triton_image=triton_image, registry=registry)
    observed = Observed(deployment, settings)
    key = preparation_key(deployment.spec.model, deployment.metadata.namespace)
    target = find_target(observed, Preparing(PreparationStatus(key=key), known))
    if target.record is None:
        raise click.ClickException(target.message)
    name = target.record.name
    standing = Standing(
        target.record, None, None, None, 0, (), None, None, promoted=False, history=(), wake=None, serving=name
    )
    objects = [record_manifest(deployment.metadata, target.record), *render_objects(observed, standing).manifests]
    serving = serving_of(target.record, deployment)
    if serving.config_text:
        path = f"{serving.entry_model}/config.pbtxt"
        click.echo(f"# models/{path}\n" + "".join(f"#   {line}\n" for line in serving.config_text.splitlines()))
        if repository_to:
            place = repository_to / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(serving.config_text)
    objects.sort(key=lambda manifest: key_of(manifest).kind != "ControllerRevision")
    click.echo(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120), nl=False)


class _Dumper(yaml.SafeDumper):
    """Files inside objects as blocks that people can read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _read(stream: Any) -> ModelDeployment:
    try:
        manifest = yaml.safe_load(stream)
        found = ModelDeployment.parse(manifest)
    except (yaml.YAMLError, ValidationError) as error:
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
            "inputs and outputs of the model are not known offline; write spec.model.inputs and outputs or give --facts"
        )
    artifact = ArtifactRef(
        repository=f"{registry}/{deployment.metadata.namespace}", manifest=_UNKNOWN, layer=_UNKNOWN, size_bytes=0
    )
    return ModelFacts(
        format="ONNX",
        digest=model.digest or _UNKNOWN,
        artifact=artifact,
        inputs=tuple(Tensor.model_validate(tensor.model_dump()) for tensor in model.inputs),
        outputs=tuple(Tensor.model_validate(tensor.model_dump()) for tensor in model.outputs),
    )
