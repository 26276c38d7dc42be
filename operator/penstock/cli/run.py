"""`penstock run`: the operator, as the chart starts it."""

import asyncio
import logging
import sys

import click

from penstock.controller.operator import run_operator
from penstock.controller.settings import OperatorSettings, read_settings
from penstock.telemetry import configure_logging

from .supervise import supervise

__all__ = ["run"]


@click.command()
@click.option("--supervise", "supervised", is_flag=True, help="Run in a child process that is replaced when it dies.")
def run(*, supervised: bool) -> None:
    """Run the operator; settings come from PENSTOCK_* variables, the chart sets them."""
    try:
        settings = read_settings()
    except KeyError as error:
        raise click.ClickException(f"the environment lacks {error.args[0]}; the chart sets it") from error
    configure_logging(settings.log_level)
    code = supervise(lambda: _operate(settings)) if supervised else _operate(settings)
    if code:
        sys.exit(code)


def _operate(settings: OperatorSettings) -> int:
    """The exit code."""
    try:
        asyncio.run(run_operator(settings))
    except Exception:
        logging.getLogger("penstock").exception("ended")
        return 1
    return 0
