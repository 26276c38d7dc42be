"""The commands: ``up``, ``down``, ``status``, ``env``, ``binary`` and ``load``."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from hack.cluster import binaries, containers, lifecycle, record
from hack.cluster.errors import ClusterError
from hack.cluster.progress import console, say
from hack.cluster.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Run one command; a `ClusterError` becomes one line and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(Settings.from_environment(), options))
    except ClusterError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; `up` repairs what is half started, `down` removes it.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python hack/cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    up = commands.add_parser("up", help="start the cluster, or find it running")
    up.add_argument(
        "--network-policy",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="enforce NetworkPolicies with kube-router; the default, unless PENSTOCK_NETWORK_POLICY=0",
    )
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="remove the cluster and all its traces")
    down.add_argument("--force", action="store_true", help="also another checkout's")
    down.set_defaults(run=_down)
    commands.add_parser("status", help="show every component").set_defaults(run=_status)
    commands.add_parser("env", help="print shell lines to eval").set_defaults(run=_env)
    binary = commands.add_parser("binary", help="print a program's path, building it if missing")
    binary.add_argument("name", choices=binaries.PROGRAMS)
    binary.set_defaults(run=_binary)
    load = commands.add_parser("load", help="import image archives into the cluster")
    load.add_argument("archives", nargs="+", type=Path)
    load.set_defaults(run=_load)
    return parser


def _up(settings: Settings, options: argparse.Namespace) -> int:
    if options.network_policy is not None:
        settings = replace(settings, network_policy=options.network_policy)
    lifecycle.up(settings)
    say(f"export KUBECONFIG={shlex.quote(str(settings.kubeconfig))}")
    return 0


def _down(settings: Settings, options: argparse.Namespace) -> int:
    left = lifecycle.down(settings, force=options.force)
    for line in left:
        say(f"left: {line}")
    if not left:
        say("Nothing is left: no process, mount, network namespace, chain, control group or file.")
    return 1 if left else 0


def _status(settings: Settings, _: argparse.Namespace) -> int:
    found = record.read(settings.record)
    if not found:
        say("No cluster is running.")
        return 1
    table = Table("component", "pid", "healthy", box=None)
    ill = lifecycle.unhealthy(settings, found)
    for one in found.processes:
        table.add_row(one.name, str(one.pid), "[red]no[/]" if one.name in ill else "yes")
    console.print(table)
    say(f"started by {found.checkout}")
    say(f"export KUBECONFIG={shlex.quote(str(settings.kubeconfig))}")
    return 1 if ill or not found.ready else 0


def _env(settings: Settings, _: argparse.Namespace) -> int:
    folders = [binaries.binary("kubectl", settings.cache).parent]
    if helm := binaries.built("helm", settings.cache):
        folders.append(helm.parent)
    current = os.environ.get("PATH", "").split(os.pathsep)
    missing = [str(folder) for folder in folders if str(folder) not in current]
    print(f"export KUBECONFIG={shlex.quote(str(settings.kubeconfig))}")
    if missing:
        print(f'export PATH={shlex.quote(os.pathsep.join(missing))}:"$PATH"')
    return 0


def _binary(settings: Settings, options: argparse.Namespace) -> int:
    print(binaries.binary(options.name, settings.cache))
    return 0


def _load(settings: Settings, options: argparse.Namespace) -> int:
    for archive in options.archives:
        containers.import_archive(settings, archive)
    return 0
