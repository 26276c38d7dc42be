"""Who may have which port: splits that wait for each other's are taken together."""

from collections.abc import Iterable

from .split import Split

__all__ = ["obstacle", "takeable"]


def takeable(known: Iterable[Split], waiting: Iterable[Split]) -> list[Split]:
    """Those of `waiting` that can take the place of their namesakes, all at once, so that nothing has two owners.

    Two that swap their ports, or more that rotate, are in each other's way one by one and not together. Of several that
    want the same it stays with who has it, or else the first has it.
    """
    held = {split.name: split for split in known}
    ports = {(split.name, split.port) for split in held.values()}
    chosen = {split.name: split for split in sorted(waiting, key=lambda one: (one.name, one.port) not in ports)}
    while True:
        staying = [split for name, split in held.items() if name not in chosen]
        lost = [split for split in chosen.values() if obstacle(split, staying)]
        if not lost:
            several = list(chosen.values())
            lost = [split for place, split in enumerate(several) if obstacle(split, several[:place])][-1:]
        if not lost:
            return list(chosen.values())
        for split in lost:
            del chosen[split.name]


def obstacle(split: Split, others: Iterable[Split]) -> str:
    """What keeps a split from being taken beside the others; empty if nothing does.

    Clusters, and with them counters, are named by what a uid begins with.
    """
    mine = {f"port {split.port}": split.port, "uid": split.uid, f"uid's beginning {split.uid[:8]}": split.uid[:8]}
    for other in others:
        if other.name == split.name:
            continue
        for what, own in mine.items():
            if own in (other.port, other.uid, other.uid[:8]):
                return f"its {what} belongs to TrafficSplit {other.name}; expected one of its own"
    return ""
