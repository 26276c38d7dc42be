"""`penstock repository`: what is wrong with a Triton model repository, before any server sees it."""

import json
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from penstock.core.modelrepo import (
    SERVER_VERSION,
    Context,
    FileProblem,
    RepositoryFile,
    check_repository,
    check_text,
    parse_version,
)

__all__ = ["repository"]

_CONFIG = "config.pbtxt"
_CONFIG_LIMIT = 4 << 20


@click.group()
def repository() -> None:
    """Work with Triton model repositories."""


def _parse_version(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        parse_version(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


@repository.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--server-version", default=SERVER_VERSION, show_default=True, callback=_parse_version,
    help="Triton version the repository is for.",
)  # fmt: skip
@click.option("--gpus", type=click.IntRange(min=0), help="GPUs the server sees; unknown when not said.")
@click.option("--cache/--no-cache", default=None, help="Whether the server has a response cache.")
@click.option("--rate-limit/--no-rate-limit", default=None, help="Whether the server runs its rate limiter.")
@click.option("--backend", "backends", multiple=True, help="A backend installed besides Triton's own; repeatable.")
@click.option("--auto-complete", is_flag=True, help="The server completes configs (those of Penstock do not).")
def check(
    path: Path,
    *,
    output: str,
    server_version: str,
    gpus: int | None,
    cache: bool | None,
    rate_limit: bool | None,
    backends: tuple[str, ...],
    auto_complete: bool,
) -> None:
    """Check a model repository, one model's directory or a single config.pbtxt.

    Ends with 0 when there is nothing worse than warnings, with 1 when Triton would refuse something, with 2 when the
    command itself is wrong.
    """
    context = Context(
        server_version=server_version,
        gpus=gpus,
        cache=cache,
        rate_limit=rate_limit,
        backends=frozenset(backends),
        auto_complete=auto_complete,
    )
    found = _check_path(path, context)
    click.echo(_to_json(found) if output == "json" else _to_text(found))
    if any(item.problem.severity == "error" for item in found):
        raise click.exceptions.Exit(1)


def _check_path(path: Path, context: Context) -> tuple[FileProblem, ...]:
    if path.is_file():
        return _check_file(path, context)
    if (path / _CONFIG).is_file():
        model = path.resolve()
        found = check_repository(_read_files(model.parent, only=model.name), context)
        return tuple(item for item in found if item.model == model.name)
    return check_repository(_read_files(path), context)


def _check_file(path: Path, context: Context) -> tuple[FileProblem, ...]:
    try:
        text = _read_config(path).decode()
    except UnicodeDecodeError:
        message = f"{path} is not a text file; give a repository, a model's directory or a config.pbtxt"
        raise click.UsageError(message) from None
    return tuple(FileProblem(problem, "", str(path)) for problem in check_text(text, context))


def _read_files(root: Path, only: str | None = None) -> dict[str, RepositoryFile]:
    """All files below a repository; of the models besides `only`, the configs alone."""
    files = {}
    for file in _walk(root, set()):
        name = file.relative_to(root).as_posix()
        if file.is_dir():
            files[f"{name}/"] = RepositoryFile(0)
        elif only is None or name.startswith(f"{only}/") or file.name == _CONFIG:
            files[name] = _read_file(file)
    return files


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Everything below a folder, links followed, no folder entered twice, dot folders left out."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_file():
            yield path
        elif entry.is_dir() and not entry.name.startswith("."):
            yield path
            yield from _walk(path, seen)


def _read_file(path: Path) -> RepositoryFile:
    size = path.stat().st_size
    if path.name == _CONFIG:
        return RepositoryFile(size, _read_config(path))
    if path.suffix == ".onnx" and size:
        with path.open("rb") as file:
            return RepositoryFile(size, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return RepositoryFile(size, b"" if path.suffix == ".onnx" else None)


def _read_config(path: Path) -> bytes:
    if path.stat().st_size > _CONFIG_LIMIT:
        raise click.UsageError(f"{path} is larger than {_CONFIG_LIMIT >> 20} MiB; that is no config.pbtxt")
    return path.read_bytes()


def _to_json(found: tuple[FileProblem, ...]) -> str:
    rows = [
        {
            "path": item.problem.path,
            "rule": item.problem.rule,
            "severity": item.problem.severity,
            "message": item.problem.message,
            "model": item.model,
            "file": item.file,
        }
        for item in found
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _to_text(found: tuple[FileProblem, ...]) -> str:
    lines = []
    for item in found:
        place = f"{item.file}: " if item.file else ""
        lines.append(f"{place}{item.problem.severity}: {item.problem} [{item.problem.rule}]")
    if not found:
        return "no problems found"
    counts = Counter(item.problem.severity for item in found)
    return "\n".join((*lines, f"{_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}"))


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" if number == 1 else f"{number} {kind}s"
