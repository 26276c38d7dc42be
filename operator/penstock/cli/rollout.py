"""`penstock rollout`: watch a rollout and decide about it. Decisions are fields of spec.rollout, as in Git."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import click

from penstock.api.units import duration_seconds
from penstock.kube.objects import Manifest

from . import LazyGroup, rollout_change
from .rollout_change import Change
from .rollout_history import history_table, read_records
from .rollout_session import opened, plain_console, show, watch
from .rollout_write import write

__all__ = ["abort", "history", "pause", "promote", "resume", "retry", "rollout", "status"]

_HERE = "penstock.cli.rollout"
Command = TypeVar("Command", bound=Callable[..., Any])


class _Rollout(LazyGroup):
    table: ClassVar = {
        "status": (_HERE, "status", "Both revisions, their numbers and the verdict; --watch, --wait for CI."),
        "promote": (_HERE, "promote", "End the present step, or with --full promote now."),
        "abort": (_HERE, "abort", "Take the candidate back."),
        "pause": (_HERE, "pause", "Hold the weights where they are."),
        "resume": (_HERE, "resume", "Go on after pause."),
        "retry": (_HERE, "retry", "Try the revision again that was taken back."),
        "history": (_HERE, "history", "What became of each revision, and why."),
        "replay": ("penstock.cli.replay", "replay", "Judge recorded or imagined traffic with the shipped code."),
    }


@click.group(cls=_Rollout)
def rollout() -> None:
    """Watch a rollout, decide about it, or replay one.

    Commands write spec.rollout as the field manager penstock-cli and print the same change for Git.
    """


def _about_one(command: Command) -> Command:
    """NAME, namespace and kubeconfig."""
    for decorate in (
        click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Else $KUBECONFIG."),
        click.option("-n", "--namespace", default="default", show_default=True),
        click.argument("name"),
    ):
        command = decorate(command)
    return command


def _writing(command: Command) -> Command:
    """As `_about_one`, and whose field it may take."""
    option = click.option("--force", is_flag=True, help="Take a field that a tool holds from Git, until its next sync.")
    return _about_one(option(command))


def _parse_duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        return duration_seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@_about_one
@click.option("--watch", "watching", is_flag=True, help="Go on looking, each second.")
@click.option("--wait", "waiting", is_flag=True, help="End with the rollout: 0 promoted, 1 taken back or failed.")
@click.option("--timeout", default="30m", show_default=True, callback=_parse_duration, help="Of --wait; exit code 3.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--rings/--no-rings", default=True, show_default=True, help="Read the routers' counters, or status alone."
)
def status(
    name: str,
    namespace: str,
    kubeconfig: str | None,
    *,
    watching: bool,
    waiting: bool,
    timeout: float,
    output: str,
    rings: bool,
) -> None:
    """Show the rollout of ModelDeployment NAME: weights, requests, errors, latency, verdict, what is left of the plan.

    Ends with 0; with --wait also 1 when the revision was taken back or cannot serve, and 3 at the timeout.
    """
    if output == "json" and (watching or waiting):
        raise click.UsageError("--output json is one look; give it without --watch and --wait")

    async def run() -> int:
        async with opened(namespace, name, kubeconfig) as session:
            if watching or waiting:
                return await watch(session, rings=rings, until_decided=waiting, seconds=timeout)
            await show(session, rings=rings, output=output)
            return 0

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        code = 130 if waiting else 0
    if code:
        raise click.exceptions.Exit(code)


@click.command()
@_writing
@click.option("--step", type=click.IntRange(1, 20), help="End this step as soon as the rollout is at it.")
@click.option("--full", is_flag=True, help="Promote now, whatever is left of the plan.")
def promote(name: str, namespace: str, kubeconfig: str | None, step: int | None, *, force: bool, full: bool) -> None:
    """End the present step of NAME's candidate without waiting for its hold or its evidence."""
    _change(name, namespace, kubeconfig, lambda live: rollout_change.promote(live, step, full=full), force=force)


@click.command()
@_writing
def abort(name: str, namespace: str, kubeconfig: str | None, *, force: bool) -> None:
    """Take NAME's candidate back: stable gets all traffic."""
    _change(name, namespace, kubeconfig, rollout_change.abort, force=force)


@click.command()
@_writing
def pause(name: str, namespace: str, kubeconfig: str | None, *, force: bool) -> None:
    """Hold the weights of NAME's rollout where they are; a bad candidate is still taken back."""
    _change(name, namespace, kubeconfig, rollout_change.pause, force=force)


@click.command()
@_writing
def resume(name: str, namespace: str, kubeconfig: str | None, *, force: bool) -> None:
    """Go on with NAME's rollout after pause."""
    _change(name, namespace, kubeconfig, rollout_change.resume, force=force)


@click.command()
@_writing
def retry(name: str, namespace: str, kubeconfig: str | None, *, force: bool) -> None:
    """Try NAME's failed revision again from its first step, or its failed preparation."""
    _change(name, namespace, kubeconfig, rollout_change.retry, force=force)


def _change(
    name: str, namespace: str, kubeconfig: str | None, decide: Callable[[Manifest], Change], *, force: bool
) -> None:
    async def run() -> str:
        async with opened(namespace, name, kubeconfig) as session:
            live = await session.look()
            return await write(session.transport, live, decide(live), force=force)

    click.echo(asyncio.run(run()), nl=False)


@click.command()
@_about_one
def history(name: str, namespace: str, kubeconfig: str | None) -> None:
    """Show what became of each revision of NAME, newest first."""

    async def run() -> None:
        async with opened(namespace, name, kubeconfig) as session:
            live = await session.look()
            plain_console().print(history_table(live, await read_records(session)))

    asyncio.run(run())
