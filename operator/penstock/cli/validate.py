"""`penstock validate`: what the API server, and then the operator, would refuse; without either."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import click
import yaml

from penstock.api.resource import GROUP
from penstock.api.validation import Fault
from penstock.api.validation import validate as faults_of
from penstock.core.modelrepo.flags import check_flags

__all__ = ["read_documents", "validate"]


@click.command()
@click.option(
    "-f",
    "--filename",
    "files",
    type=click.File(),
    multiple=True,
    required=True,
    help="A manifest; - for standard input.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def validate(files: tuple[TextIO, ...], output: str) -> None:
    """Say what would be refused in the ModelDeployments and Routers of files; exit code 1 when anything would be.

    Objects of other groups are passed over. What only the cluster or the model can tell (a missing Secret, a wrong
    digest, a model that is no ONNX) is not known here.
    """
    checked = [item for file in files for item in _check(file)]
    if not checked:
        raise click.ClickException("there is nothing of Penstock in what was given")
    if output == "json":
        found = [
            {"file": file, "name": name, "path": fault.path, "message": fault.message}
            for file, name, faults in checked
            for fault in faults
        ]
        click.echo(json.dumps(found, indent=2))
    else:
        for file, name, faults in checked:
            click.echo(
                "".join(f"{file}: {name}: {fault}\n" for fault in faults) or f"{file}: {name} is valid\n", nl=False
            )
    sys.exit(1 if any(faults for _, _, faults in checked) else 0)


def _check(file: TextIO) -> Iterator[tuple[str, str, tuple[Fault, ...]]]:
    for document in read_documents(file):
        if isinstance(document, Mapping) and not str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
            continue
        yield file.name, _name(document), faults_of(document) or _operator_faults(document)


def _operator_faults(manifest: Mapping[str, Any]) -> tuple[Fault, ...]:
    """What the operator refuses before it knows the model; it would say so in status."""
    flags = (manifest["spec"].get("server") or {}).get("flags") or {}
    return tuple(Fault(problem.path, problem.message) for problem in check_flags(flags))


def _name(document: Any) -> str:
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    return str((metadata or {}).get("name", "(no name)")) if isinstance(metadata or {}, Mapping) else "(no name)"


def read_documents(stream: TextIO) -> list[Any]:
    """The documents of a YAML stream as kubectl reads them; raises ClickException with the place of what is no YAML."""
    try:
        return [document for document in yaml.load_all(stream, Loader=_Loader) if document is not None]
    except yaml.YAMLError as error:
        raise click.ClickException(f"{stream.name} is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """A key given twice is an error, and a date is a string: JSON has none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
