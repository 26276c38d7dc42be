"""`penstock`, also as `kubectl penstock`: one file per group of verbs, loaded when it is asked for."""

import importlib

import click

from penstock import __version__

__all__ = ["main"]

_COMMANDS = {
    "run": ("penstock.cli.run", "run", "The operator itself."),
    "render": ("penstock.cli.render", "render", "Print repository and objects of a manifest, offline."),
    "validate": ("penstock.cli.validate", "validate", "Say what the API server would say to a manifest, offline."),
    "upgrade-runtime": ("penstock.cli.upgrade", "upgrade_runtime", "Roll out the runtime of the installed release."),
    "repository": ("penstock.cli.repository", "repository", "Check a Triton model repository."),
    "registry": ("penstock.cli.registry", "registry", "Tokens of the artifact store."),
    "crd": ("penstock.cli.generate", "crd", "Print the CRD."),
    "generate": ("penstock.cli.generate", "generate", "Write every generated file of this repository."),
}


class _Lazy(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Penstock: from a trained model to proven, safely rolled-out serving on Triton Inference Server."""
