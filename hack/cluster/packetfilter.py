"""Rules and chains of the kernel's packet filter: making our two kinds, removing all of ours.

Besides our own rules, marked by a comment that begins with the bridge's name, kube-proxy and
kube-router make ``KUBE-`` chains and sets, and the CNI port map makes chains that carry the
network's name.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from hack.cluster import shell
from hack.cluster.settings import Settings

_PROGRAMS = ("iptables", "ip6tables")
_TABLES = ("nat", "filter", "mangle")
_KUBERNETES = "KUBE-"
_POLICY_SETS = ("KUBE-SRC-", "KUBE-DST-", "kube-router-")
_PORT_MAP = "CNI-HOSTPORT-"
_PORT_MAP_POD = "CNI-DN-"


@dataclass(frozen=True)
class _Table:
    """One table as ``iptables-save`` shows it; rules are in the form that appends them."""

    program: str
    name: str
    chains: tuple[str, ...]
    rules: tuple[str, ...]

    def delete_rule(self, rule: str) -> None:
        self._run("-D", *shlex.split(rule)[1:])

    def delete_chain(self, chain: str) -> None:
        self._run("-F", chain)
        self._run("-X", chain)

    def _run(self, *arguments: str) -> None:
        shell.succeeds(self.program, "-w", "-t", self.name, *arguments)


def create(settings: Settings) -> None:
    """Hide pods behind the host towards all but pods, and let their packets be forwarded.

    One masquerading rule for all, instead of the bridge plugin's chain for every pod, leaves
    nothing behind when pods are killed without asking the plugin.
    """
    pods, bridge = str(settings.pod_cidr), settings.bridge
    outwards = ("-s", pods, "!", "-d", pods)
    _add("nat", "POSTROUTING", f"{bridge}: outwards", "MASQUERADE", *outwards)
    for direction in ("-i", "-o"):
        _add("filter", "FORWARD", f"{bridge}: pods", "ACCEPT", direction, bridge)


def remove(settings: Settings) -> None:
    """Remove all that `remains` would find."""
    for table in _tables():
        ours = _chains(table, settings)
        for rule in table.rules:
            words = rule.split()
            if words[1] not in ours and (_marked(rule, settings) or ours.intersection(words)):
                table.delete_rule(rule)
        for chain in ours:
            table.delete_chain(chain)
        for chain in ours:
            table.delete_chain(chain)

    for name in _address_sets():
        shell.succeeds("ipset", "destroy", name)


def remains(settings: Settings) -> list[str]:
    """Return the cluster's chains and single rules that exist now."""
    found = []
    for table in _tables():
        found += sorted(_chains(table, settings))
        found += [rule for rule in table.rules if _marked(rule, settings)]
    return found + _address_sets()


def _add(table: str, chain: str, comment: str, target: str, *match: str) -> None:
    """Append a rule, once however often this is called."""
    rule = (chain, *match, "-m", "comment", "--comment", comment, "-j", target)
    if not shell.succeeds("iptables", "-w", "-t", table, "-C", *rule):
        shell.run("iptables", "-w", "-t", table, "-A", *rule)


def _chains(table: _Table, settings: Settings) -> set[str]:
    """Return the chains of ``table`` that are the cluster's.

    The port map's shared chains count as ours only when no other network has a pod in them.
    """
    pods = {rule.split()[-1] for rule in table.rules if _is_port_map(rule)}
    ours = {rule.split()[-1] for rule in table.rules if _is_port_map(rule) and _marked(rule, settings)}
    shared = set() if pods - ours else {c for c in table.chains if c.startswith(_PORT_MAP)}
    return ours | shared | {c for c in table.chains if c.startswith(_KUBERNETES)}


def _is_port_map(rule: str) -> bool:
    return rule.rsplit(maxsplit=1)[-1].startswith(_PORT_MAP_POD)


def _marked(rule: str, settings: Settings) -> bool:
    return f'"{settings.bridge}: ' in rule or f'\\"{settings.bridge}\\"' in rule


def _address_sets() -> list[str]:
    """Return the sets of addresses that a policy controller's rules refer to."""
    if not shutil.which("ipset"):
        return []
    names = shell.run("ipset", "list", "-name").split()
    return [name for name in names if name.removeprefix("inet6:").startswith(_POLICY_SETS)]


def _tables() -> Iterator[_Table]:
    for program in _PROGRAMS:
        if not shutil.which(program):
            continue
        for name in _TABLES:
            lines = shell.run(f"{program}-save", "-t", name).splitlines()
            yield _Table(
                program,
                name,
                tuple(line[1:].split()[0] for line in lines if line.startswith(":")),
                tuple(line for line in lines if line.startswith("-A")),
            )
