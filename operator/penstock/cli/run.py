"""`penstock run`: the operator, as the chart starts it."""

import asyncio
import logging
import sys

import click

from penstock.controller.operator import run_operator
from penstock.controller.settings import read_settings
from penstock.telemetry import configure_logging

__all__ = ["run"]


@click.command()
def run() -> None:
    """Run the operator; settings come from PENSTOCK_* variables, the chart sets them."""
    try:
        settings = read_settings()
    except KeyError as error:
        raise click.ClickException(f"the environment lacks {error.args[0]}; the chart sets it") from error
    configure_logging(settings.log_level)
    try:
        asyncio.run(run_operator(settings))
    except Exception:
        logging.getLogger("penstock").exception("ended")
        sys.exit(1)
