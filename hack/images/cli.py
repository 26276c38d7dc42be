"""Build the project's images, load them into the local cluster, or push them to a registry."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.progress import console, say
from hack.cluster.settings import CHECKOUT, Settings
from hack.images import table
from hack.images.builder import Builder


def main(arguments: Sequence[str]) -> int:
    """Run the command; a `ClusterError` becomes its text and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except ClusterError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python hack/images", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(table.IMAGES)}; default: all")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "images.json")
    parser.add_argument("--registry", help="host[:port][/path] that --push pushes to")
    parser.add_argument("--push", action="store_true", help="push under the project's version")
    parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.push != bool(options.registry):
        raise ClusterError("--push and --registry belong together.")
    builder = Builder(Settings.from_environment())
    references = {}
    for image in table.chosen(options.names):
        built = builder.build(image)
        builder.import_(built)
        references[image.name] = built.reference
        if options.push:
            target = f"{options.registry}/penstock-{image.name}:{_version()}"
            builder.push(built, target, plain_http=options.plain_http)
            references[image.name] = target
    _write(options.output, references)
    for reference in references.values():
        say(reference)


def _version() -> str:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _write(path: Path, references: dict[str, str]) -> None:
    """Update the file: images that were not asked for this time keep their lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(known | references, indent=1, sort_keys=True) + "\n")
    scratch.replace(path)
