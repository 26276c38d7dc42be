"""`penstock`, also as `kubectl penstock`: one file per group of verbs, loaded when it is asked for."""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

from penstock import __version__

__all__ = ["LazyGroup", "main"]

_COMMANDS = {
    "run": ("penstock.cli.run", "run", "The operator itself."),
    "render": ("penstock.cli.render", "render", "Print repository and objects of a manifest, offline."),
    "validate": ("penstock.cli.validate", "validate", "Say what the API server would say to a manifest, offline."),
    "rollout": ("penstock.cli.rollout", "rollout", "Watch a rollout, decide about it, replay one."),
    "report": ("penstock.cli.report", "report", "How a model was prepared: what was measured against what was asked."),
    "upgrade-runtime": ("penstock.cli.upgrade", "upgrade_runtime", "Roll out the runtime of the installed release."),
    "repository": ("penstock.cli.repository", "repository", "Check a Triton model repository."),
    "registry": ("penstock.cli.registry", "registry", "Tokens of the artifact store."),
    "crd": ("penstock.cli.generate", "crd", "Print the CRD."),
    "generate": ("penstock.cli.generate", "generate", "Write every generated file of this repository."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run; `table` has (module, attribute, help) by name."""

    table: ClassVar[Mapping[str, tuple[str, str, str]]] = _COMMANDS

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(self.table)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self.table:
            return None
        module, name, _ = self.table[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self.table.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Penstock: from a trained model to proven, safely rolled-out serving on Triton Inference Server."""
