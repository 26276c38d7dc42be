"""One command's time with the cluster: the connection, one look, or looks until something is decided."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import click
from kubernetes.aio.config import ConfigException
from rich.console import Console
from rich.live import Live

from penstock.api.resource import KIND
from penstock.kube.connection import Connection
from penstock.kube.errors import ApiError, NotFound, Unavailable
from penstock.kube.limiter import TokenBucket
from penstock.kube.objects import Manifest, kind_of
from penstock.kube.transport import RetryPolicy, Target, Transport

from .rollout_rings import Rings
from .rollout_view import View, picture, summary

__all__ = ["Session", "opened", "outcome", "plain_console", "show", "watch"]

_ENDED_BADLY, _TIMED_OUT = 1, 3
PAUSE_SECONDS = 1.0
_PLAIN_WIDTH = 160


@dataclass(frozen=True)
class Session:
    """Requests about one ModelDeployment; `quick` gives up at once, for what a picture can do without."""

    transport: Transport
    quick: Transport
    namespace: str
    name: str

    async def look(self) -> Manifest:
        """The ModelDeployment as it is; raises ClickException where there is none."""
        path = kind_of(KIND).path(self.namespace, self.name)
        try:
            return await self.transport.request(Target("get", KIND, self.namespace, self.name), "GET", path)
        except NotFound as error:
            raise click.ClickException(f"{error}; `kubectl get md -A` lists those there are") from error


@asynccontextmanager
async def opened(namespace: str, name: str, kubeconfig: str | None) -> AsyncIterator[Session]:
    """A session; what the API server refuses ends the command with its sentence."""
    try:
        connection = await Connection.open(kubeconfig)
    except ConfigException as error:
        raise click.ClickException(f"no way to a cluster: {error}; give --kubeconfig or set KUBECONFIG") from error
    try:
        limiter = TokenBucket()
        patient = Transport(connection, limiter=limiter, retries=RetryPolicy())
        quick = Transport(connection, limiter=limiter, retries=RetryPolicy(attempts=1))
        yield Session(patient, quick, namespace, name)
    except ApiError as error:
        raise click.ClickException(str(error)) from error
    finally:
        await connection.close()


async def show(session: Session, *, rings: bool, output: str) -> None:
    """One look, printed."""
    live = await session.look()
    known = Rings(session.quick, live) if rings else None
    if known:
        await known.read()
    view = View(live, known)
    if output == "json":
        click.echo(json.dumps(summary(view), indent=2, ensure_ascii=False))
        return
    plain_console().print(picture(view))


async def watch(session: Session, *, rings: bool, until_decided: bool, seconds: float) -> int:
    """Looks each second: a live picture on a terminal, else a line for each change. Returns the exit code.

    With `until_decided` it ends with the rollout, or with 3 at the time limit; without, when somebody interrupts it.
    An API server that is away is waited for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    view: View | None = None
    with _Screen() as screen:
        while True:
            try:
                view = await _look_again(session, view, rings=rings and screen.live)
                screen.show(view)
            except Unavailable as error:
                screen.say(f"the API server does not answer, trying again: {error.message}")
            code = outcome(view) if view and until_decided else None
            if code is not None:
                return code
            if until_decided and loop.time() >= deadline:
                click.echo(f"no decision within {seconds:.0f} s; the rollout goes on", err=True)
                return _TIMED_OUT
            await asyncio.sleep(PAUSE_SECONDS)


async def _look_again(session: Session, before: View | None, *, rings: bool) -> View:
    live = await session.look()
    known = (before.rings if before else None) or (Rings(session.quick, live) if rings else None)
    if known:
        await known.read()
    return View(live, known)


class _Screen:
    """A picture that is drawn anew on a terminal; elsewhere lines, each said once."""

    def __init__(self) -> None:
        console = plain_console()
        self.live = console.is_terminal
        self._screen = Live(console=console, auto_refresh=False)
        self._told = ""

    def __enter__(self) -> Self:
        self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.stop()

    def show(self, view: View) -> None:
        """The newest view."""
        if self.live:
            self._screen.update(picture(view), refresh=True)
        else:
            self.say(_line(view))

    def say(self, line: str) -> None:
        """One line, with the time of day, unless it is the one said last."""
        if line != self._told:
            self._told = line
            self._screen.console.print(f"{datetime.now(UTC):%H:%M:%S} {line}", markup=False, soft_wrap=True)


def outcome(view: View) -> int | None:
    """0 when spec is what serves, 1 when it was taken back or cannot be, None while that is open."""
    if view.status.get("observedGeneration", -1) < view.live["metadata"].get("generation", 0):
        return None
    true = {item["type"] for item in view.status.get("conditions") or () if item["status"] == "True"}
    if "Stalled" in true:
        return _ENDED_BADLY
    return 0 if "Ready" in true else None


def _line(view: View) -> str:
    status = view.status
    return f"{status.get('phase', 'Pending')}: {status.get('message', 'the operator has not looked at it yet')}"


def plain_console() -> Console:
    """Colours and the terminal's width where there is one; wide plain text elsewhere."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)
